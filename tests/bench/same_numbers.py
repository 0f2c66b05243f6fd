"""Records, or checks, the numbers that the ``debug`` chain produces: for changes that must not change behaviour.

    python -m tests.bench.same_numbers --write     before the change
    python -m tests.bench.same_numbers --check     after it: exit status 1 where a number differs

Runs puppets, ingest and teach once, then distillation, GAN and reference baseline on one and on two workers, through
the command line. Compared are, to the last bit: the SHA-256 of the teachers', judges' and sync networks' weights, of
the teachers' outputs, of the student, generator and reference bundles, and every loss and validation figure of every
run. The file belongs to one kind of processor and one version of torch: other vector units round differently.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import platform
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import torch
from safetensors import safe_open

ROOT = Path(__file__).parents[2]
RESULT = ROOT / "tests" / "bench" / "same_numbers.json"
TIMES = {"clips_per_second", "data_wait", "seconds_left", "alarms"}
"""Entries of metrics.jsonl that depend on the clock."""


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    action = parser.add_mutually_exclusive_group(required=True)
    action.add_argument("--write", action="store_true", help=f"write {RESULT.relative_to(ROOT)}")
    action.add_argument("--check", action="store_true", help="compare with that file")
    parser.add_argument(
        "--keep", metavar="DIR", type=Path, help="work in this folder, which stays (default: a temporary one)"
    )
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="s2v-same-") as temporary:
        folder = args.keep or Path(temporary)
        run_chain(folder)
        found = numbers(folder)
    if args.write:
        RESULT.parent.mkdir(parents=True, exist_ok=True)
        RESULT.write_text(json.dumps(found, indent=1, sort_keys=True) + "\n")
        print(f"wrote {RESULT.relative_to(ROOT)}")
        return 0
    expected = json.loads(RESULT.read_text())
    if (there := expected.pop("machine")) != (here := found.pop("machine")):
        print(f"recorded on {there}, this is {here}: differences may come from the machine")
    differences = list(compare(expected, found))
    for line in differences[:20]:
        print(line)
    print(f"{len(differences)} numbers differ" if differences else "identical")
    return 1 if differences else 0


def run_chain(folder: Path) -> None:
    """Every command of the chain, each in its own process."""
    corpus = str(folder / "corpus")
    s2v("puppets", str(folder / "videos"))
    s2v("ingest", str(folder / "videos"), corpus)
    s2v("teach", corpus)
    for workers in (1, 2):
        runs = folder / f"workers-{workers}"
        each = ("--set", f"parallel.workers={workers}", "--set", "log.validate_every=5", "--set", "log.log_every=1")
        s2v("distill", corpus, str(runs / "student"), *each)
        s2v("train", corpus, str(runs / "generator"), "--student", str(runs / "student"), *each)
        s2v("train", corpus, str(runs / "reference"), "--student", str(runs / "student"), "--reference", *each)


def s2v(*argv: str) -> None:
    print("s2v", *argv, flush=True)
    command = [sys.executable, "-m", "s2v_ray", *argv, "--recipe", "debug"]
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)} ended with status {done.returncode}:\n{done.stdout[-4000:]}")


def numbers(folder: Path) -> dict[str, Any]:
    """All that is compared, by name."""
    found: dict[str, Any] = {"machine": f"{processor()}, torch {torch.__version__}", "networks": {}, "runs": {}}
    for place in (
        "teachers/identity",
        "teachers/emotion",
        "teachers/sync",
        "judges/identity",
        "judges/emotion",
        "judges/mouth",
        "judges/sync",
    ):
        weights = sorted((folder / "corpus" / place).glob("*.safetensors"))
        found["networks"][place] = [tensors_digest(file) for file in weights]
    found["outputs"] = {role: outputs_digest(folder / "corpus" / "teachers" / role) for role in ("identity", "emotion")}
    for run in sorted(folder.glob("workers-*/*")):
        records = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
        found["runs"][run.relative_to(folder).as_posix()] = {
            "weights": [tensors_digest(file) for file in sorted((run / "bundle").glob("*.safetensors"))],
            "records": [{k: v for k, v in record.items() if k not in TIMES} for record in records],
        }
    return found


def tensors_digest(file: Path) -> str:
    """SHA-256 of names, types, shapes and bytes of all tensors of a safetensors file."""
    digest = hashlib.sha256()
    with safe_open(file, "pt") as tensors:
        for name in sorted(tensors.keys()):
            value = tensors.get_tensor(name)
            digest.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
            digest.update(
                value.contiguous().view(torch.uint8).numpy().tobytes() if value.dim() else value.numpy().tobytes()
            )
    return digest.hexdigest()


def outputs_digest(folder: Path) -> str:
    """SHA-256 of ids and values of a teacher's outputs."""
    digest = hashlib.sha256()
    for file in sorted(folder.rglob("*.parquet")):
        for row in pq.read_table(file).to_pylist():
            digest.update(repr((row["id"], row["shape"], row["values"])).encode())
    return digest.hexdigest()


def compare(expected: Any, found: Any, path: str = "") -> Any:
    """One line for each leaf that differs."""
    if isinstance(expected, dict) and isinstance(found, dict):
        for key in sorted(expected.keys() | found.keys()):
            yield from compare(expected.get(key), found.get(key), f"{path}/{key}")
    elif isinstance(expected, list) and isinstance(found, list) and len(expected) == len(found):
        for i, pair in enumerate(zip(expected, found, strict=True)):
            yield from compare(*pair, f"{path}/{i}")
    elif expected != found:
        yield f"{path}: {str(expected)[:80]} recorded, {str(found)[:80]} now"


def processor() -> str:
    lines = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
    return lines[0].partition(": ")[2] if lines else platform.processor()


if __name__ == "__main__":
    sys.exit(main())

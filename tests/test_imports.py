"""Imports between packages follow a table, in one direction; only listed files import ray and deepspeed."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import s2v_ray

PACKAGE = Path(s2v_ray.__file__).parent
FILES = sorted(p for p in PACKAGE.rglob("*.py") if "__pycache__" not in p.parts)

EDGES: dict[str, set[str]] = {
    # from the bottom up: a package may import what its line names, and itself
    "": set(),
    "errors": set(),
    "logs": {"errors"},
    "storage": {"errors"},
    "conditional": {"storage"},
    "recipes": set(),
    "losses": set(),
    "metrics": set(),
    "config": {"metrics", "storage"},
    "media": {"config", "storage"},
    "clip": {"media"},
    "shards": {"clip", "media", "storage"},
    "split_index": {"shards", "storage"},
    "cluster.runtime": {"config", "storage"},
    "models": {"config", "media", "storage"},
    "tracking": {"config", "storage"},
    "provenance": {"models", "shards", "storage"},
    "puppets": {"config", "logs", "media", "storage"},
    "ingest": {
        "clip",
        "cluster.runtime",
        "config",
        "logs",
        "media",
        "metrics",
        "models",
        "shards",
        "split_index",
        "storage",
    },
    "inference": {"clip", "config", "logs", "media", "models", "storage"},
    "training": {
        "clip",
        "cluster.runtime",
        "conditional",
        "config",
        "logs",
        "losses",
        "media",
        "metrics",
        "models",
        "provenance",
        "shards",
        "split_index",
        "storage",
        "tracking",
    },
    "evaluation": {"clip", "config", "inference", "logs", "media", "metrics", "models", "shards", "storage"},
    "publishing": {"config", "evaluation", "models", "provenance", "shards", "storage", "tracking"},
    "tuning": {
        "cluster.runtime",
        "config",
        "evaluation",
        "inference",
        "logs",
        "metrics",
        "models",
        "shards",
        "storage",
        "tracking",
        "training",
    },
    "serving": {"cluster.runtime", "config", "evaluation", "inference", "logs", "media", "models", "storage"},
    "cluster": {"config", "logs", "media", "models", "shards", "storage", "training"},
    "teach": {"config", "ingest", "training"},
    "demo": {
        "config",
        "evaluation",
        "inference",
        "ingest",
        "logs",
        "publishing",
        "puppets",
        "storage",
        "teach",
        "tracking",
        "training",
    },
    "cli": {
        "cluster",
        "config",
        "demo",
        "evaluation",
        "inference",
        "ingest",
        "logs",
        "media",
        "models",
        "publishing",
        "puppets",
        "serving",
        "shards",
        "storage",
        "teach",
        "tracking",
        "training",
        "tuning",
    },
    "__main__": {"cli"},
}
"""Every allowed edge between packages (or top-level modules).

``cluster.runtime`` starts Ray for all; the rest of ``cluster`` may import ``training``.
"""

RAY_FILES = {
    "cluster/runtime.py",
    "cluster/submit.py",
    "ingest/ray_pipeline.py",
    "training/data/ray_stream.py",
    "training/launch.py",
    "training/ray_metrics.py",
    "tuning/schedulers.py",
    "tuning/sweep.py",
    "serving/app.py",
    "serving/ray_metrics.py",
}
DEEPSPEED_FILES = {"training/engine/deepspeed_api.py"}


def imports(file: Path) -> list[tuple[str, bool]]:
    """Full names of all modules that ``file`` imports, inside functions too, and whether it does so at import time."""
    tree = ast.parse(file.read_text())
    inner = {
        id(node)
        for f in ast.walk(tree)
        if isinstance(f, (ast.FunctionDef, ast.AsyncFunctionDef))
        for node in ast.walk(f)
    }
    guards = [i for i in ast.walk(tree) if isinstance(i, ast.If) and ast.unparse(i.test).endswith("TYPE_CHECKING")]
    typing_only = {id(node) for guard in guards for part in guard.body for node in ast.walk(part)}
    package = ("s2v_ray", *file.relative_to(PACKAGE).parent.parts)
    found: list[tuple[str, bool]] = []
    for node in ast.walk(tree):
        at_import = id(node) not in inner and id(node) not in typing_only
        if isinstance(node, ast.Import):
            found += [(alias.name, at_import) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = ".".join(package[: len(package) - node.level + 1]) + "." if node.level else ""
            module = (base + (node.module or "")).rstrip(".")
            found.append((module, at_import))
            found += [
                (f"{module}.{alias.name}", at_import) for alias in node.names if is_module(f"{module}.{alias.name}")
            ]
    return found


def is_module(name: str) -> bool:
    path = PACKAGE.parent.joinpath(*name.split("."))
    return path.with_suffix(".py").is_file() or (path / "__init__.py").is_file()


def part_of(module: str) -> str:
    """``s2v_ray.media.audio`` -> ``media``; ``s2v_ray.cluster.runtime`` -> ``cluster.runtime``."""
    parts = module.split(".")[1:]
    return ".".join(parts[:2]) if parts[:2] == ["cluster", "runtime"] else (parts[0] if parts else "")


def part_of_file(file: Path) -> str:
    return part_of(".".join(("s2v_ray", *file.relative_to(PACKAGE).with_suffix("").parts)).removesuffix(".__init__"))


def owned(file: Path) -> list[str]:
    return [m for m, _ in imports(file) if m.split(".")[0] == "s2v_ray"]


def test_every_part_is_in_the_table() -> None:
    assert {part_of_file(f) for f in FILES} == set(EDGES), "a new package or module: give it a line in this file"


@pytest.mark.parametrize("file", FILES, ids=lambda f: f.relative_to(PACKAGE).as_posix())
def test_imports_follow_the_table(file: Path) -> None:
    here = part_of_file(file)
    outside = {m for m in owned(file) if part_of(m) not in EDGES[here] | {here, ""}}
    assert not outside, f"{file.name} ({here}) imports what the table does not allow: {sorted(outside)}"


def test_the_table_has_no_cycle() -> None:
    """Each part may only import parts on earlier lines, so imports point one way."""
    order = list(EDGES)
    for part, allowed in EDGES.items():
        assert all(order.index(other) < order.index(part) for other in allowed), part


def test_the_table_has_no_unused_edge() -> None:
    used = {(part_of_file(f), part_of(m)) for f in FILES for m in owned(f)}
    listed = {(part, other) for part, allowed in EDGES.items() for other in allowed}
    assert not listed - used


@pytest.mark.parametrize(("library", "allowed"), [("ray", RAY_FILES), ("deepspeed", DEEPSPEED_FILES)])
def test_frameworks_stand_at_the_edge(library: str, allowed: set[str]) -> None:
    users = {f.relative_to(PACKAGE).as_posix() for f in FILES if any(m.split(".")[0] == library for m, _ in imports(f))}
    assert users == allowed


def test_deepspeed_is_never_imported_with_its_module() -> None:
    """A driver or controller on a node without a compiler must be able to import everything."""
    early = [f.name for f in FILES if any(m.split(".")[0] == "deepspeed" and at_import for m, at_import in imports(f))]
    assert not early


def test_the_reader_sees_imports_inside_functions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "s2v_ray" / "media").mkdir(parents=True)
    file = tmp_path / "s2v_ray" / "media" / "bad.py"
    file.write_text("import ray.data\n\ndef f():\n    from s2v_ray.training import gan\n    import deepspeed\n")
    monkeypatch.setitem(globals(), "PACKAGE", tmp_path / "s2v_ray")
    found = dict(imports(file))
    assert found["ray.data"] is True
    assert found["s2v_ray.training"] is False
    assert found["deepspeed"] is False

"""Configs of Ray's cluster launcher, as files in ``cluster/``: AWS, GCP, and machines of one's own (on-premise).

``python -m s2v_ray.cluster.launcher FOLDER`` writes them; with ``--check`` it compares them instead. They come from one
template, so that image, mounts, labels and commands are the same for every provider.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from importlib import resources
from pathlib import Path

import jinja2

TAG = "ray2.60.0-py3.11"
"""Versions in the tags of the images; a test compares it with the pinned ones."""
PROVIDERS = {"aws": "on AWS", "gcp": "on Google Cloud", "onprem": "of your own machines"}
"""Name of the file -> where its machines are."""


def render(provider: str) -> str:
    """Return the config for a provider (a key of ``PROVIDERS``), in which the user replaces what is marked REPLACE."""
    source = (resources.files("s2v_ray.cluster") / "templates" / "ray-up.yaml").read_text()
    environment = jinja2.Environment(trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined)
    return environment.from_string(source).render(name=provider, where=PROVIDERS[provider], tag=TAG).rstrip() + "\n"


def differing(folder: Path) -> list[str]:
    """Return the providers whose file in ``folder`` is missing or differs from its source."""
    files = {name: folder / f"{name}.yaml" for name in PROVIDERS}
    return [name for name, file in files.items() if not file.exists() or file.read_text() != render(name)]


def main(argv: Sequence[str] | None = None) -> int:
    """Write or compare the files; return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m s2v_ray.cluster.launcher", description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--check", action="store_true", help="write nothing; exit status 1 if a file differs")
    args = parser.parse_args(argv)
    if args.check:
        changed = differing(args.folder)
        sys.stdout.writelines(f"{args.folder / name}.yaml differs from its source\n" for name in changed)
        return int(bool(changed))
    for name in PROVIDERS:
        (args.folder / f"{name}.yaml").write_text(render(name))
    return 0


if __name__ == "__main__":
    sys.exit(main())

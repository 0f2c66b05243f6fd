"""A stand-in for the ray executable."""

from __future__ import annotations

import json
import sys
from pathlib import Path

NODE = "ab" * 28


def make_ray(folder: Path) -> Path:
    """An executable that has one node, 10.0.0.7, and drains it; with a file ``refuse`` beside it, it refuses once."""
    path = folder / "ray"
    path.write_text(
        f"#!{sys.executable}\n"
        "import json, pathlib, sys\n"
        "here = pathlib.Path(__file__).parent\n"
        "with open(here / 'calls', 'a') as f: f.write(json.dumps(sys.argv[1:]) + '\\n')\n"
        "if sys.argv[1] == 'list':\n"
        f"    print(json.dumps([{{'node_id': {NODE!r}}}] if 'node_ip=10.0.0.7' in sys.argv else []))\n"
        "elif (here / 'refuse').exists():\n"
        "    (here / 'refuse').unlink(); sys.exit(1)\n"
    )
    path.chmod(0o755)
    return path


def calls(ray: Path) -> list[list[str]]:
    """The arguments of each call of the executable."""
    return [json.loads(line) for line in ray.with_name("calls").read_text().splitlines()]

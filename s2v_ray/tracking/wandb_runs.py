"""Entries of artifacts as runs of Weights & Biases."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Any

from s2v_ray import storage
from s2v_ray.config import digest
from s2v_ray.tracking.entries import PROJECT, Entry


class WandbRun:
    """A run of Weights & Biases for an artifact; its process sends what is logged, and keeps it meanwhile.

    With ``WANDB_MODE=offline`` everything is in ARTIFACT/wandb, for `wandb sync`.

    Attributes:
        run: the run of the package wandb.
        wandb: the package.

    Raises:
        ValueError: the package wandb is not installed.
    """

    def __init__(self, entry: Entry) -> None:
        try:
            import wandb
        except ImportError:
            raise ValueError("Weights & Biases needs the package wandb: pip install 's2v_ray[wandb]'") from None
        self.wandb, self.uri = wandb, entry.uri
        self._scratch = tempfile.TemporaryDirectory(prefix="s2v-wandb-")
        self._folder = Path(storage.local_path(entry.uri) or self._scratch.name)
        self.run: Any = wandb.init(
            project=os.environ.get("WANDB_PROJECT", PROJECT),
            id=digest(entry.uri),
            name=entry.name,
            job_type=entry.kind,
            group=entry.parent or None,
            config={**entry.config, **entry.tags},
            dir=str(self._folder),
            resume=None if os.environ.get("WANDB_MODE") == "offline" else "allow",
            settings=wandb.Settings(console="off", silent=True),
        )

    def close(self) -> None:
        """End the run; its files are complete then, and are copied to an artifact that is not local."""
        self.run.finish()
        self.wandb.teardown()
        if storage.local_path(self.uri) is None:
            for file in sorted(path for path in self._folder.rglob("*") if path.is_file()):
                storage.write_bytes(storage.join(self.uri, str(file.relative_to(self._folder))), file.read_bytes())
        self._scratch.cleanup()


def publish_entry(entry: Entry) -> None:
    """Write an entry: its figures as the summary of a run, its files as an artifact of Weights & Biases."""
    opened = WandbRun(entry)
    try:
        opened.run.summary.update(dict(entry.figures))
        with entry.local_files() as folder:
            if entry.files:
                files = opened.wandb.Artifact(f"{entry.kind}-{digest(entry.uri)}", type=entry.kind)
                files.add_dir(str(folder))
                opened.run.log_artifact(files)
                opened.run.finish()  # before the folder is removed
    finally:
        opened.close()

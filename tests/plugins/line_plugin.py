"""A logger from outside the package."""

import json
from pathlib import Path

from s2v_ray.training.loggers import register_logger


@register_logger("lines")
class LineLogger:
    def __init__(self, run, start_step):
        self.file = Path(run) / "lines.jsonl"

    def record(self, record):
        with self.file.open("a") as f:
            f.write(json.dumps(record) + "\n")

    def samples(self, step, samples):
        pass

    def close(self):
        with self.file.open("a") as f:
            f.write('"closed"\n')

"""The command line ``s2v``: one module for each group of commands.

Everything heavy is imported inside the commands, so that ``--help`` is quick and ``generate`` does not import Ray.
"""

from s2v_ray.cli.app import app, main

__all__ = ["app", "main"]

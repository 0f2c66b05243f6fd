"""``python -m s2v_ray`` is ``s2v``: what ``ray job submit`` runs."""

import sys

from s2v_ray.cli import main

if __name__ == "__main__":
    sys.exit(main())

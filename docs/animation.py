"""Writes docs/images/demo.gif from the examples of an evaluation.

    make demo && python docs/animation.py demo/evaluation/examples.npz

Top row: real clips; bottom row: frames that were generated from their speech alone.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

CLIPS, SCALE, LABEL, EVERY = 4, 2, 14, 2
"""Clips in a row, enlargement, height of a label in pixels, and which frames are kept (of 25 per second)."""
ROWS = {"real clips": "real", "speech only": "generated from speech alone"}


def main() -> None:
    """Write the picture."""
    examples = np.load(sys.argv[1], allow_pickle=False)
    length = min(len(examples[f"clip{n}/real clips"]) for n in range(CLIPS))
    frames = [_frame(examples, t) for t in range(0, length, EVERY)]
    palette = frames[0].quantize(64)
    shown = [frame.quantize(palette=palette, dither=Image.Dither.NONE) for frame in frames]
    out = Path(__file__).parent / "images" / "demo.gif"
    shown[0].save(out, save_all=True, append_images=shown[1:], duration=40 * EVERY, loop=0, optimize=True)
    print(f"{out}: {out.stat().st_size / 1e3:.0f} kB")


def _frame(examples: np.lib.npyio.NpzFile, t: int) -> Image.Image:
    rows = [np.hstack([examples[f"clip{n}/{name}"][t] for n in range(CLIPS)]) for name in ROWS]
    side, height = rows[0].shape[1] * SCALE, rows[0].shape[0] * SCALE
    picture = Image.new("RGB", (side, len(rows) * (height + LABEL)), "white")
    draw = ImageDraw.Draw(picture)
    for i, (row, label) in enumerate(zip(rows, ROWS.values(), strict=True)):
        top = i * (height + LABEL)
        draw.text((4, top + 1), label, fill="black")
        picture.paste(Image.fromarray(row).resize((side, height), Image.Resampling.LANCZOS), (0, top + LABEL))
    return picture


if __name__ == "__main__":
    main()

"""What classes.json may say, read off the masks of a folder that has none.

The names are the user's to give; ids or colours are counted here.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from segjax.batch import IGNORE
from segjax.data.files import stored_mask

SAMPLE = 64
"""Masks looked at, spread evenly over all."""

MOST = 64
"""More ids or colours than that are no classes: smoothed masks, or photographs."""

Value = tuple[int, ...]
"""(id,) or (red, green, blue)."""


@dataclass(frozen=True)
class Proposal:
    """``text`` is what to write into classes.json, ``about`` what was found, a line.

    ``text`` is "" where the masks hold no classes.
    """

    text: str
    about: str


def propose(masks: Sequence[Path], values: str = "auto") -> Proposal:
    """Classes for the ids (in their order) or colours (the most frequent first).

    Args:
      masks: the files.
      values: what palettes hold, see :func:`segjax.data.files.read_mask`.
    """
    places = np.linspace(0, len(masks) - 1, min(SAMPLE, len(masks))).astype(int)
    pixels: Counter[Value] = Counter()
    read = 0
    for place in places.tolist():
        try:
            pixels += _counted(stored_mask(masks[place], values))
        except ValueError:  # damaged: told by who reads all of them
            continue
        read += 1
    if not pixels:
        return Proposal("", "no mask could be read")
    if all(len(set(value)) == 1 for value in pixels):  # ids, though saved as RGB
        grey: Counter[Value] = Counter()
        for value, count in pixels.items():
            grey[value[:1]] += count
        pixels = grey
    colored = {len(value) > 1 for value in pixels}
    what = "ids" if colored == {False} else "colours"
    about = f"{len(pixels)} {what} in {read} of {len(masks)} masks"
    if len(colored) > 1:
        return Proposal("", f"{about}: some hold ids, others colours")
    if len(pixels) > MOST:
        return Proposal("", f"{about}: more than classes have; are masks smoothed?")
    return _written(pixels, about)


def _counted(array: np.ndarray) -> Counter[Value]:
    """Pixels per value of one mask [h, w] or [h, w, C]."""
    if array.ndim == 3 and array.shape[2] > 2:
        red, green, blue = np.moveaxis(array[:, :, :3].astype(np.int64), 2, 0)
        packed, counts = np.unique(red << 32 | green << 16 | blue, return_counts=True)
        rows = [(int(v) >> 32, int(v) >> 16 & 65535, int(v) & 65535) for v in packed]
    else:
        ids, counts = np.unique(
            array if array.ndim == 2 else array[:, :, 0], return_counts=True
        )
        rows = [(int(i),) for i in ids]
    return Counter(dict(zip(rows, counts.tolist(), strict=True)))


def _written(pixels: Counter[Value], about: str) -> Proposal:
    """A line per class; id 255 is left out, being ignored, except beside 0 alone."""
    ids = len(next(iter(pixels))) == 1
    values = sorted(pixels) if ids else [value for value, _ in pixels.most_common()]
    if ids and values[-1] == (IGNORE,) and len(values) > 2:
        values.pop()
        about += f" ({IGNORE} is ignored)"
    names = [f"class{place}" for place in range(len(values))]
    lines = [
        json.dumps({"name": name} | ({"id": v[0]} if ids else {"color": list(v)}))
        for name, v in zip(names, values, strict=True)
    ]
    total = pixels.total()
    shares = ", ".join(
        f"{name} {100 * pixels[v] / total:.1f} %"
        for name, v in zip(names, values, strict=True)
    )
    return Proposal("[\n  " + ",\n  ".join(lines) + "\n]", f"{about}: {shares}")

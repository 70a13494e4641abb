"""Drawings on photographs: contours of labels, boxes with names, heat maps.

Pictures are uint8[h, w, 3].
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from scipy import ndimage

from segjax.batch import IGNORE, LabelSpec

SMALL = 240
"""px: pictures whose longer side is shorter are enlarged for boxes and names."""

# Black, blue, cyan, yellow, red: dark is cold, whatever the photograph.
_HEAT = np.array(
    [[0, 0, 90], [0, 60, 255], [0, 220, 220], [255, 230, 0], [220, 0, 0]], np.float64
)


def line_width(size: tuple[int, ...]) -> int:
    """Pixels of a line that can be seen on a picture of this height and width."""
    return max(1, round(max(size[:2]) / 400))


def contours(image: np.ndarray, label: np.ndarray, spec: LabelSpec) -> np.ndarray:
    """The picture with a line in its class's colour along the inside of every region.

    ``label`` uint8[h, w]; what is IGNORE gets no line of its own.
    """
    reach = 2 * line_width(image.shape) + 1
    high = ndimage.maximum_filter(label, reach, mode="nearest")
    low = ndimage.minimum_filter(label, reach, mode="nearest")
    edge = (high != low) & (label != IGNORE)
    drawn = image.copy()
    palette = np.zeros((256, 3), np.uint8)
    palette[: spec.num_classes] = spec.palette
    drawn[edge] = palette[label[edge]]
    return drawn


def boxes(
    image: np.ndarray,
    found: Sequence[dict[str, Any]],
    palette: Sequence[tuple[int, ...]] | Mapping[int, tuple[int, ...]],
) -> np.ndarray:
    """The picture with boxes, as :func:`segjax.regions.describe` gives them.

    Each has its class's colour in the palette and, where there is room, its name and
    score. A small picture is first enlarged by a whole factor.
    """
    times = -(-SMALL // max(image.shape[:2]))
    image = image.repeat(times, 0).repeat(times, 1)
    found = [one | {"box": [times * x for x in one["box"]]} for one in found]
    drawn = Image.fromarray(image)
    draw = ImageDraw.Draw(drawn)
    width = 1 + line_width(image.shape)
    # Large boxes first, so that small ones are seen.
    by_size = sorted(found, key=lambda one: -_size(one["box"]))
    for box in by_size:
        x0, y0, x1, y1 = box["box"]
        # A dark line around the coloured one, for photographs of that colour.
        draw.rectangle((x0, y0, x1 - 1, y1 - 1), outline=(0, 0, 0), width=width + 1)
        colour = tuple(palette[box["class_id"]])
        draw.rectangle((x0, y0, x1 - 1, y1 - 1), outline=colour, width=width)
    taken: list[tuple[int, int, int, int]] = []
    for box in by_size:
        _tag(draw, box, tuple(palette[box["class_id"]]), taken)
    return np.asarray(drawn)


def _tag(
    draw: ImageDraw.ImageDraw, box: Mapping[str, Any], colour, taken: list
) -> None:
    """A box's name and score, on its colour, at a corner where no other tag is."""
    wide, high = draw.im.size
    font = ImageFont.load_default(max(8, round(max(wide, high) / 42)))
    text = box["class"]
    if box["score"] is not None:
        text += f" {box['score']:.2f}"
    _, _, right, bottom = (round(v) for v in font.getbbox(text))
    width, height = right + 4, bottom + 4
    x0, y0, x1, y1 = box["box"]
    if width > min(wide, max(x1 - x0, wide / 10)):
        return
    x0, x1 = min(x0, wide - width), max(x1 - width, 0)
    places = [(x0, y0 - height), (x0, y0), (x1, y0), (x0, y1 - height)]
    for x, y in [*places, (x1, y1 - height), (x1, y0 - height), (x0, y1)]:
        own = (x, y, x + width, y + height)
        free = all(
            own[0] >= t[2] or t[0] >= own[2] or own[1] >= t[3] or t[1] >= own[3]
            for t in taken
        )
        if free and y >= 0 and y + height <= high:
            taken.append(own)
            draw.rectangle((x, y, x + width - 1, y + height - 1), fill=colour)
            light = np.dot(colour, (0.299, 0.587, 0.114)) > 130
            draw.text((x + 2, y + 1), text, (0, 0, 0) if light else (255,) * 3, font)
            return


def _size(box: Sequence[int]) -> int:
    return (box[2] - box[0]) * (box[3] - box[1])


def write_fast(picture: np.ndarray, path: Path) -> None:
    """Write a PNG: compressing photographs harder takes longer than labelling them."""
    Image.fromarray(picture).save(path, format="PNG", compress_level=1)


def heat_map(image: np.ndarray, heat: np.ndarray, alpha: float = 0.5) -> np.ndarray:
    """The picture, in gray, under a heat map f[h, w] of values in [0, 1]."""
    place = np.clip(heat, 0, 1) * (len(_HEAT) - 1)
    low = np.minimum(place.astype(np.int64), len(_HEAT) - 2)
    part = (place - low)[..., None]
    colour = (1 - part) * _HEAT[low] + part * _HEAT[low + 1]
    gray = image.astype(np.float64).mean(-1, keepdims=True)
    return np.rint((1 - alpha) * gray + alpha * colour).astype(np.uint8)

"""Pictures of labels: palettes, overlays, legends. Plain NumPy and Pillow."""

from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from segjax.batch import IGNORE, LabelSpec
from segjax.data.inputs import output_names

_MARGIN = 6  # px around the legend's entries
_PANEL = 240  # px, the least width of a picture in a triptych
_INK, _PAPER = (30, 30, 30), (255, 255, 255)


def _colours(spec: LabelSpec) -> np.ndarray:
    """uint8[256, 3]: the palette; black for every id without a class."""
    table = np.zeros((256, 3), np.uint8)
    table[: spec.num_classes] = spec.palette
    return table


def colorize(label: np.ndarray, spec: LabelSpec) -> np.ndarray:
    """uint8[h, w] ids to uint8[h, w, 3] colours; IGNORE is black."""
    return _colours(spec)[label]


def display_image(image: np.ndarray) -> np.ndarray:
    """Any image [h, w, C] as uint8[h, w, 3], to be looked at.

    3 or more channels show the first three, fewer the first in gray. uint8 stays as it
    is and floats in [0, 1] are scaled; other values are stretched so that the 1st
    and 99th percentile of what is shown become black and white (16-bit images seldom
    use their range).
    """
    image = image[..., :3] if image.shape[-1] >= 3 else image[..., :1].repeat(3, -1)
    if image.dtype == np.uint8:
        return np.ascontiguousarray(image)
    values = np.nan_to_num(image.astype(np.float64))
    integer = np.issubdtype(image.dtype, np.integer)
    low, high = 0.0, 1.0
    if integer or values.min() < 0 or values.max() > 1:
        low, high = np.percentile(values, (1, 99))
    scaled = (values - low) / max(high - low, np.finfo(np.float64).tiny)
    return np.rint(np.clip(scaled, 0, 1) * 255).astype(np.uint8)


def overlay(
    image: np.ndarray, label: np.ndarray, spec: LabelSpec, alpha: float = 0.5
) -> np.ndarray:
    """Colours of weight ``alpha`` over uint8[h, w, 3]; IGNORE leaves the image."""
    # float32 twice as fast, and as good as 8 bits can tell.
    mixed = np.float32(1 - alpha) * image
    mixed += (alpha * _colours(spec)).astype(np.float32)[label]
    mixed = np.rint(mixed, out=mixed).astype(np.uint8)
    return np.where((label == IGNORE)[..., None], image, mixed)


def write_png(path: str | Path, picture: np.ndarray) -> Path:
    """Write uint8[h, w, 3] (or [h, w] gray); returns the path."""
    Image.fromarray(picture).save(path, format="PNG")
    return Path(path)


def palette_image(label: np.ndarray, spec: LabelSpec) -> Image.Image:
    """uint8[h, w] as a palette image: its pixel values are the class ids.

    IGNORE (255) is black and fully transparent.
    """
    image = Image.fromarray(np.asarray(label, np.uint8))
    image.putpalette(_colours(spec).reshape(-1).tolist())
    image.info["transparency"] = IGNORE
    return image


def palette_png(path: str | Path, label: np.ndarray, spec: LabelSpec) -> Path:
    """Write :func:`palette_image` as a PNG; returns the path."""
    palette_image(label, spec).save(path, format="PNG")
    return Path(path)


def _legend(width: int, spec: LabelSpec) -> np.ndarray:
    """uint8[?, width, 3]: a square of its colour and its name for every class."""
    font = ImageFont.load_default()
    square = 12
    row_height = square + _MARGIN
    places, x, row = [], _MARGIN, 0
    for name in spec.names:
        length = square + 4 + int(np.ceil(font.getlength(name)))
        if x > _MARGIN and x + length + _MARGIN > width:
            x, row = _MARGIN, row + 1
        places.append((x, _MARGIN + row * row_height))
        x += length + 2 * _MARGIN
    strip = Image.new("RGB", (width, (row + 1) * row_height + _MARGIN), _PAPER)
    draw = ImageDraw.Draw(strip)
    for (x, y), name, colour in zip(places, spec.names, spec.palette, strict=True):
        draw.rectangle((x, y, x + square - 1, y + square - 1), colour, _INK)
        draw.text((x + square + 4, y), name, _INK, font)
    return np.asarray(strip)


def triptych(
    rows: Sequence[tuple[np.ndarray, np.ndarray, np.ndarray]], spec: LabelSpec
) -> np.ndarray:
    """One row of image | truth | prediction per example, above a legend.

    ``rows`` hold (uint8[h, w, 3], uint8[h, w], uint8[h, w]); otherwise :func:`panels`.
    """
    coloured = [
        (image, colorize(truth, spec), colorize(prediction, spec))
        for image, truth, prediction in rows
    ]
    return panels(coloured, spec)


def draw_examples(
    folder: Path,
    examples: Any,
    predictions: Mapping[int, np.ndarray],
    spec: LabelSpec,
) -> np.ndarray:
    """Write a :func:`triptych` of each example, and overview.png; returns the latter.

    ``examples[i]`` has ``id``, ``image`` and ``label``, ``predictions[i]`` uint8[h, w].
    """
    rows = []
    chosen = {index: examples[index] for index in sorted(predictions)}
    paths = [PurePosixPath(f"{example['id']}.png") for example in chosen.values()]
    names = output_names(paths, ("",), taken=("overview.png",))
    for name, (index, example) in zip(names, chosen.items(), strict=True):
        prediction = predictions[index]
        image = display_image(example["image"])
        rows.append((image, example["label"], prediction))
        picture = triptych([rows[-1]], spec)
        path = folder / f"{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        write_png(path, picture)
    overview = triptych(rows, spec)
    write_png(folder / "overview.png", overview)
    return overview


def panels(rows: Sequence[Sequence[np.ndarray]], spec: LabelSpec) -> np.ndarray:
    """Rows of pictures uint8[h, w, 3] side by side, above a legend of the classes.

    Sizes may differ from row to row. Small pictures are enlarged by a whole factor.
    Returns uint8[H, W, 3].
    """
    strips = []
    for row in rows:
        times = -(-_PANEL // row[0].shape[1])
        line = np.full((row[0].shape[0] * times, 2, 3), 255, np.uint8)
        strip = []
        for picture in row:
            strip += [line, picture.repeat(times, 0).repeat(times, 1)]
        strips.append(np.hstack(strip[1:]))
    width = max(strip.shape[1] for strip in strips)
    parts = []
    for strip in strips:
        wider = ((0, 2), (0, width - strip.shape[1]), (0, 0))
        parts.append(np.pad(strip, wider, constant_values=255))
    return np.vstack([*parts, _legend(width, spec)])

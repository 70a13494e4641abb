"""Labels for images of any size, and pictures of labels.

A :class:`Predictor` takes one image [h, w, C] of any size and returns its label map at
that size. The pictures are plain NumPy and Pillow.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from PIL import Image, ImageDraw, ImageFont

from segjax import regions
from segjax.augment import prepare_eval
from segjax.batch import IGNORE, LabelSpec
from segjax.data import pipeline
from segjax.ops.sampling import resize_argmax, resize_logits

_MARGIN = 6  # px around the legend's entries
_PANEL = 240  # px, the least width of a picture in a triptych
_INK, _PAPER = (30, 30, 30), (255, 255, 255)


class Predictor:
    """Logits, probabilities and labels of single images, at their own size.

    ``fit="resize"`` brings the image to ``image_size`` (H, W) as the data pipeline does
    and the logits back by bilinear interpolation; ``fit="pad"`` runs it at its own size
    (an image larger than ``image_size`` too), padded with zeros to a multiple of
    ``bucket``. Either way padded shapes are multiples of ``bucket``, so that many image
    sizes share few compilations.

    Args:
      model: takes ``apply(variables, image f[1, H, W, C], train=False)``.
      variables: parameters and batch statistics.
      spec: the classes.
      mean: of values in [0, 1], one per channel (or one for all).
      std: likewise.
      image_size: (H, W) that the network was trained on.
      fit: "resize" or "pad".
      bucket: pixels.
      mesh: where ``variables`` lie, if they are on a mesh.
      dtype: of the image that enters the network.
    """

    def __init__(
        self,
        model: nn.Module,
        variables: Any,
        spec: LabelSpec,
        *,
        mean: tuple[float, ...],
        std: tuple[float, ...],
        image_size: tuple[int, int],
        fit: str,
        bucket: int = 32,
        mesh: Mesh | None = None,
        dtype: Any = jnp.float32,
    ):
        if fit not in pipeline.FITS:
            raise ValueError(f"fit={fit!r} is unknown; write 'pad' or 'resize'")
        if bucket < 1:
            raise ValueError(f"bucket={bucket}; write 1 or more pixels")
        self.spec, self.fit, self.bucket = spec, fit, bucket
        self.image_size = (int(image_size[0]), int(image_size[1]))
        self._variables = variables
        self._placed = NamedSharding(mesh, PartitionSpec()) if mesh else None

        def scores(variables, image, size):
            image = prepare_eval(image, size, tuple(mean), tuple(std))
            array = model.apply(variables, image.astype(dtype), train=False)
            return cast(jax.Array, array)

        def finish(kind, shape, variables, image, size, out_size):
            array = scores(variables, image, size)
            if kind == "label":
                if fit == "resize":
                    array = resize_argmax(array, size, out_size, shape)
                else:
                    array = jnp.argmax(array, -1)
                return array.astype(jnp.uint8)[0]
            if fit == "resize":
                array = resize_logits(array, size, out_size, shape)
            return (jax.nn.softmax(array) if kind == "probabilities" else array)[0]

        # jit keeps one program per padded shape.
        self._run = jax.jit(finish, static_argnums=(0, 1))

    def _up(self, size: tuple[int, ...]) -> tuple[int, int]:
        return tuple(-(-n // self.bucket) * self.bucket for n in size)  # type: ignore

    def _apply(self, kind: str, image: np.ndarray) -> np.ndarray:
        if image.ndim != 3:
            raise ValueError(
                f"the image has shape {image.shape}; give [height, width, channels]"
            )
        own = (image.shape[0], image.shape[1])
        size = self.image_size if self.fit == "resize" else own
        shape = size if self.fit == "resize" else self._up(own)
        padded, valid = pipeline.stack([pipeline.resize_image(image, size)], shape, 0)
        arrays = (padded, valid, np.array([own], np.int32))
        if self._placed is not None:
            arrays = jax.device_put(arrays, self._placed)
        found = self._run(kind, self._up(own), self._variables, *arrays)
        return np.asarray(jax.device_get(found))[: own[0], : own[1]]

    def predict(self, image: np.ndarray) -> np.ndarray:
        """Class ids uint8[h, w] of an image u8 | u16 | f32[h, w, C]."""
        return self._apply("label", image)

    def logits(self, image: np.ndarray) -> np.ndarray:
        """float32[h, w, K] of an image [h, w, C]."""
        return self._apply("logits", image)

    def probabilities(self, image: np.ndarray) -> np.ndarray:
        """float32[h, w, K], the softmax of :meth:`logits`."""
        return self._apply("probabilities", image)


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
    mixed = (1 - alpha) * image + alpha * colorize(label, spec)
    mixed = np.rint(mixed).astype(np.uint8)
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


def boxes(
    label: np.ndarray,
    spec: LabelSpec,
    probabilities: np.ndarray | None = None,
    min_area: int = regions.MIN_AREA,
) -> list[dict[str, Any]]:
    """The regions of a label map uint8[h, w] as plain JSON values, the largest first.

    ``probabilities`` f32[h, w, K] give the scores. The keys:
    :func:`segjax.regions.describe`.
    """
    confidence = None
    if probabilities is not None:
        place = np.minimum(label, spec.num_classes - 1)[..., None].astype(np.int64)
        confidence = np.take_along_axis(probabilities, place, -1)[..., 0]
    found = regions.find(label, spec.num_classes, confidence, min_area=min_area)
    return regions.describe(found, spec, (label.shape[0], label.shape[1]))

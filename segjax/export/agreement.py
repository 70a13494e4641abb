"""Whether an exported network computes what the run computes, on real images."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from segjax import setup
from segjax.data import pipeline
from segjax.data.shapes import Shapes
from segjax.preprocessing import Preprocessing

COUNT = 4
BATCHES = (1, 3)  # programs take any number of images
TOLERANCE = 1e-4  # of the largest logit


def images(parts: setup.Parts, size: tuple[int, int]) -> tuple[list[np.ndarray], str]:
    """Images [H, W, C] of a size, and where they are from.

    The first of the evaluation split where the data is here, else rendered scenes, or,
    for other than three channels, noise.
    """
    config, channels = parts.config, parts.pre.channels
    split = config.data.eval_split
    try:
        source = setup.open_split(config, split, channels)
        if not len(source):
            raise ValueError(f"{split} of {config.data.name} is empty")
        # From the start again where there are fewer.
        found = [source[i % len(source)]["image"] for i in range(COUNT)]
        origin = f"the first of {split} of {config.data.name}"
    except (ValueError, OSError, ImportError):
        if channels == 3:
            scenes = Shapes("val", image_size=tuple(max(n, 8) for n in size))
            found = [scenes[i]["image"] for i in range(COUNT)]
            origin = "rendered scenes; the run's data is not here"
        else:
            rng = np.random.default_rng(0)
            found = [
                rng.integers(0, 256, (*size, channels), np.uint8) for _ in range(COUNT)
            ]
            origin = "noise; the run's data is not here"
    return [pipeline.resize_image(image, size) for image in found], origin


def normalized(image: np.ndarray, pre: Preprocessing) -> np.ndarray:
    """float32[H, W, C] as networks take it: (fraction of the range - mean) / std."""
    if np.issubdtype(image.dtype, np.integer):
        image = image / np.float32(np.iinfo(image.dtype).max)
    mean, std = (np.asarray(values, np.float32) for values in (pre.mean, pre.std))
    return ((image.astype(np.float32) - mean) / std).astype(np.float32)


def compare(found: np.ndarray, wanted: np.ndarray) -> dict[str, Any]:
    """How far logits [..., K] are from those wanted, as plain JSON values.

    ``relative_difference`` is the largest difference over the largest wanted logit,
    ``argmax_agreement`` the share of pixels with the same class, and ``argmax_equal``
    whether all have it whose best two wanted logits are further apart than the largest
    difference.
    """
    wanted = wanted.astype(np.float64)
    largest = float(np.abs(found - wanted).max())
    scale = float(np.abs(wanted).max())
    agree = found.argmax(-1) == wanted.argmax(-1)
    clear = np.ones(agree.shape, bool)
    if wanted.shape[-1] > 1:
        ordered = np.sort(wanted, -1)
        clear = ordered[..., -1] - ordered[..., -2] > largest
    return {
        "max_difference": largest,
        "relative_difference": largest / max(scale, float(np.finfo(np.float32).tiny)),
        "argmax_agreement": float(agree.mean()),
        "argmax_equal": bool(agree[clear].all()),
    }


def measure(
    run: Callable[[np.ndarray], np.ndarray],
    reference: Callable[[np.ndarray], np.ndarray],
    parts: setup.Parts,
    size: tuple[int, int],
    batches: Sequence[int] = BATCHES,
) -> dict[str, Any]:
    """Run an export and the run's own network on the same images; what was found.

    ``batches`` are those that the export gets the images in.

    Raises:
      ValueError: they differ by more than :data:`TOLERANCE`, or in their shapes.
    """
    pictures, origin = images(parts, size)
    batch = np.stack([normalized(picture, parts.pre) for picture in pictures])
    wanted = reference(batch)
    ends = np.cumsum(batches)[:-1]
    found = np.concatenate([run(part) for part in np.split(batch, ends)])
    if found.shape != wanted.shape:
        raise ValueError(
            f"the exported network gives {found.shape}, the run {wanted.shape}"
        )
    result = {"images": origin, "count": COUNT, **compare(found, wanted)}
    close = result["relative_difference"] <= TOLERANCE  # not so for NaN
    if not (close and result["argmax_equal"]):
        raise ValueError(
            f"the exported network differs from the run by "
            f"{result['relative_difference']:.1e} of the largest logit (allowed: "
            f"{TOLERANCE:.0e}), classes equal where clear: {result['argmax_equal']}; "
            "nothing was written"
        )
    return result

"""IoU by the size of what is found: connected regions of the truth, in bins of area."""

from typing import Any

import numpy as np
from scipy import ndimage

from segjax.batch import IGNORE

SIZES = (("small", 0), ("medium", 32**2), ("large", 96**2))
"""Name and least area in pixels, at the label's resolution (COCO's bounds)."""

_TOUCHING = np.ones((3, 3), bool)


def object_counts(
    truth: np.ndarray, prediction: np.ndarray, num_classes: int
) -> np.ndarray:
    """int64[4, 3, K]: intersection, union, objects' pixels, objects; per bin and class.

    An object is a connected region of a class in the truth (pixels touching at a corner
    are connected); its area gives the bin. With O the pixels of a class's objects in a
    bin, the intersection is the part of O predicted as the class, the union O and the
    false positives of the bin. A false positive (predicted as the class, of
    another in the truth) lies in a connected region of the prediction, and belongs to
    the bin of the object that this region shares the most pixels with (the first in
    reading order of equals); where it meets none, to the bin of the region's own area.
    So over the bins each count sums to the class's own. Ignored pixels count nowhere.
    ``truth`` and ``prediction`` uint8[h, w].
    """
    counts = np.zeros((4, len(SIZES), num_classes), np.int64)
    prediction = np.where(truth == IGNORE, IGNORE, prediction)
    everywhere = [slice(None)] * 2
    boxes = ndimage.find_objects(truth.astype(np.int32) + 1)
    guessed = ndimage.find_objects(prediction.astype(np.int32) + 1)
    for class_id in range(num_classes):
        found = [b[class_id] for b in (boxes, guessed) if class_id < len(b)]
        found = [box for box in found if box is not None]
        if found:
            place = tuple(
                slice(min(b[i].start for b in found), max(b[i].stop for b in found))
                for i in range(len(everywhere))
            )
            counts[:, :, class_id] = _of_class(
                truth[place] == class_id, prediction[place] == class_id
            )
    return counts


def _bin(areas: np.ndarray) -> np.ndarray:
    return np.searchsorted([least for _, least in SIZES], areas, side="right") - 1


def _regions(mask: np.ndarray) -> tuple[np.ndarray, int]:
    """int32[h, w], 0 or the number of the connected region; how many there are."""
    found: Any = ndimage.label(mask, _TOUCHING)
    return found


def _of_class(truth: np.ndarray, guess: np.ndarray) -> np.ndarray:
    """int64[4, 3] of one class's masks."""
    objects, number = _regions(truth)
    areas = np.bincount(objects.reshape(-1), minlength=number + 1)[1:]
    hits = np.bincount(objects[guess], minlength=number + 1)[1:]
    bins = _bin(areas)
    false = _false_positives(objects, guess, bins)

    def per_bin(weights: np.ndarray) -> np.ndarray:
        return np.bincount(bins, weights, len(SIZES)).astype(np.int64)

    pixels = per_bin(areas)
    return np.stack([per_bin(hits), pixels + false, pixels, per_bin(areas > 0)])


def _false_positives(
    objects: np.ndarray, guess: np.ndarray, bins: np.ndarray
) -> np.ndarray:
    """int64[3]: pixels of the guess outside all objects, by bin."""
    regions, number = _regions(guess)
    size = number + 1
    areas = np.bincount(regions.reshape(-1), minlength=size)
    outside = np.bincount(regions[guess & (objects == 0)], minlength=size)
    home = _bin(areas)
    shared = guess & (objects > 0)
    # By share, of equals the first object last: the last assignment wins.
    pairs = objects[shared].astype(np.int64) * size + regions[shared]
    keys, share = np.unique(pairs, return_counts=True)
    order = np.lexsort((-keys, share))
    home[keys[order] % size] = bins[keys[order] // size - 1]
    return np.bincount(home, outside, len(SIZES)).astype(np.int64)

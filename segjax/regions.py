"""Connected regions of a label map: class, box, area, score and mask, also as COCO RLE.

A box is [x0, y0, x1, y1] in pixels of the label map, x1 and y1 exclusive.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import ndimage

from segjax.batch import LabelSpec

CONNECTIVITY = 8
"""Pixels that touch at a corner belong together; with 4 they have to share a side."""
MIN_AREA = 25
"""Pixels; smaller regions are left out."""

_NEIGHBOURS = {4: ndimage.generate_binary_structure(2, 1), 8: np.ones((3, 3), bool)}


@dataclass(frozen=True)
class Region:
    """Connected pixels of one class.

    ``box``: (x0, y0, x1, y1); ``mask``: bool[y1 - y0, x1 - x0], the pixels within the
    box; ``score``: mean probability of the class over the region, where that is known.
    """

    class_id: int
    box: tuple[int, int, int, int]
    area: int
    mask: np.ndarray
    score: float | None = None


def find(
    label: np.ndarray,
    num_classes: int,
    confidence: np.ndarray | None = None,
    *,
    min_area: int = MIN_AREA,
    connectivity: int = CONNECTIVITY,
) -> list[Region]:
    """The regions of a label map uint8[h, w], the largest first.

    Args:
      label: class ids; ids from ``num_classes`` on (IGNORE) belong to no region.
      num_classes: K.
      confidence: f[h, w], the probability of each pixel's own class.
      min_area: pixels of the smallest region.
      connectivity: 8 or 4 neighbours of a pixel.

    Raises:
      ValueError: another connectivity, or an area below 1.
    """
    if connectivity not in _NEIGHBOURS:
        raise ValueError(f"connectivity is {connectivity}; write 4 or 8")
    if min_area < 1:
        raise ValueError(f"min_area is {min_area} pixels; write 1 or more")
    found = []
    # The part of the map where each class is: most are in few places.
    for class_id, part in enumerate(ndimage.find_objects(label + 1, num_classes)):
        if part is None:
            continue
        numbers, _ = ndimage.label(label[part] == class_id, _NEIGHBOURS[connectivity])  # type: ignore
        areas = np.bincount(numbers.reshape(-1))
        places = ndimage.find_objects(numbers)
        for number in np.flatnonzero(areas[1:] >= min_area) + 1:
            place = places[number - 1]
            mask, score = numbers[place] == number, None
            if confidence is not None:
                values = confidence[part][place][mask]
                # Regions of equal certainty stay equal, however large.
                score = round(float(values.mean(dtype=np.float64)), 6)
            (top, bottom), (left, right) = (
                (outer.start + inner.start, outer.start + inner.stop)
                for outer, inner in zip(part, place, strict=True)
            )
            box = (left, top, right, bottom)
            found.append(Region(class_id, box, int(areas[number]), mask, score))
    return sorted(found, key=lambda region: -region.area)


def describe(
    found: Sequence[Region], spec: LabelSpec, size: tuple[int, int]
) -> list[dict[str, Any]]:
    """Regions of a map of ``size`` (h, w) as plain JSON values.

    Keys: ``class``, ``class_id``, ``box``, ``area``, ``score`` and ``mask``, the COCO
    RLE of :func:`encode`.
    """
    return [
        {
            "class": spec.names[region.class_id],
            "class_id": region.class_id,
            "box": list(region.box),
            "area": region.area,
            "score": region.score,
            "mask": encode(region.mask, size, region.box[:2]),
        }
        for region in found
    ]


def boxes_of(found: Sequence[Region]) -> np.ndarray:
    """int64[n, 4]: the regions' boxes."""
    return np.array([region.box for region in found], np.int64).reshape(-1, 4)


def mask_iou(first: Sequence[Region], second: Sequence[Region]) -> np.ndarray:
    """float64[n, m]: intersection over union of the regions' pixels."""
    iou = np.zeros((len(first), len(second)))
    a, b = boxes_of(first)[:, None], boxes_of(second)[None]
    low, high = np.maximum(a[..., :2], b[..., :2]), np.minimum(a[..., 2:], b[..., 2:])
    for i, j in np.argwhere((low < high).all(-1)):
        both = _part(first[i], low[i, j], high[i, j])
        common = int((both & _part(second[j], low[i, j], high[i, j])).sum())
        iou[i, j] = common / (first[i].area + second[j].area - common)
    return iou


def _part(region: Region, low: np.ndarray, high: np.ndarray) -> np.ndarray:
    """The mask's pixels from ``low`` (x, y) to ``high`` (x, y) of the label map."""
    (x0, y0), (x1, y1) = low - region.box[:2], high - region.box[:2]
    return region.mask[y0:y1, x0:x1]


def encode(
    mask: np.ndarray, size: tuple[int, int], corner: tuple[int, int] = (0, 0)
) -> dict[str, Any]:
    """COCO's run-length encoding of a mask, as pycocotools writes it.

    The runs of zeros and ones in turn, zeros first, down the columns; then each count
    (from the fourth on its difference to the last but one) in groups of five bits, the
    lowest first, one character from "0" on each; its sixth bit says that more follow.

    Args:
      mask: bool[h, w], the part of the map that is not all zero.
      size: (H, W) of the whole map.
      corner: (x, y) of the part in it.
    """
    columns, rows = np.nonzero(mask.T)
    flat = (columns + corner[0]) * size[0] + rows + corner[1]
    # Where runs of neighbours begin, and where they end.
    apart = np.diff(flat, prepend=-2, append=-2) != 1
    begins, ends = np.flatnonzero(apart[:-1]), np.flatnonzero(apart[1:])
    edges = np.stack([flat[begins], flat[ends] + 1], 1).reshape(-1)
    total = size[0] * size[1]
    counts = np.diff(edges, prepend=0, append=total)
    if len(counts) > 1 and counts[-1] == 0:
        counts = counts[:-1]
    counts[3:] -= counts[1:-2].copy()
    groups = counts[:, None] >> np.arange(0, 60, 5)[None]
    # A group is the last where what is left only repeats its highest bit.
    last = np.argmax(groups >> 4 == np.where(counts < 0, -1, 0)[:, None], 1)
    more = np.arange(groups.shape[1])[None] < last[:, None]
    used = np.arange(groups.shape[1])[None] <= last[:, None]
    characters = (groups & 31) + 32 * more + 48
    text = characters[used].astype(np.uint8).tobytes().decode("ascii")
    return {"size": [int(size[0]), int(size[1])], "counts": text}


def decode(rle: dict[str, Any]) -> np.ndarray:
    """bool[H, W]: the mask of an :func:`encode`."""
    counts, value, shift = [], 0, 0
    for character in rle["counts"].encode("ascii"):
        bits = character - 48
        value |= (bits & 31) << shift
        shift += 5
        if not bits & 32:
            if bits & 16:
                value -= 1 << shift
            counts.append(value + (counts[-2] if len(counts) > 2 else 0))
            value = shift = 0
    height, width = rle["size"]
    flat = np.repeat(np.arange(len(counts)) % 2 == 1, counts)
    return np.ascontiguousarray(flat.reshape(width, height).T)

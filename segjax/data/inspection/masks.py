"""What may be wrong with a mask: unknown ids and colours, smoothed borders, palettes.

An interpolated mask gives itself away by pixels whose value lies *between* those of
their left and right, or upper and lower, neighbours. Where real classes meet, the step
goes from one to the other at once, but for objects one pixel thin.
"""

from __future__ import annotations

import numpy as np

from segjax.batch import IGNORE
from segjax.data import files
from segjax.data.inspection.codes import Fault
from segjax.data.pairs import Meaning

# Share of the unknown pixels that lie between their neighbours: above 0.77 in smoothed
# masks of CamVid and shapes, below 0.59 in masks that JPEG has spoilt.
_BETWEEN = 0.65
# The same of valid ids, over the steps from one id to another: below 0.12 in these
# masks as they are and at a quarter of the size, mostly 0.25 to 0.45 when interpolated.
_RAMPS, _FEWEST_STEPS, _FEWEST_RAMP_IDS = 0.2, 64, 3


def between(array: np.ndarray) -> np.ndarray:
    """bool[h, w]: pixels that lie between two opposite neighbours and equal neither.

    ``array`` is [h, w] ids or [h, w, C] colours; a colour lies between two others when
    each of its channels does.
    """
    array = array[:, :, None] if array.ndim == 2 else array
    found = np.zeros(array.shape[:2], bool)
    for turned, into in ((array, found), (array.swapaxes(0, 1), found.T)):
        a, middle, b = turned[:-2], turned[1:-1], turned[2:]
        inside = (np.minimum(a, b) <= middle) & (middle <= np.maximum(a, b))
        other = (middle != a).any(axis=2) & (middle != b).any(axis=2)
        into[1:-1] |= inside.all(axis=2) & other
    return found


def unknown_ids(
    ids: np.ndarray, stored: np.ndarray, table: np.ndarray, name: str
) -> list[Fault]:
    """Faults of the ids of one mask.

    Args:
      ids: uint8[h, w], as stored.
      stored: int[256], their histogram.
      table: the lookup of the LabelSpec.
      name: the mask's.
    """
    unknown = np.flatnonzero((stored > 0) & (table < 0))
    if not len(unknown):
        return _ramps(ids, table, name)
    text = f"{name}: {_listed([(str(i), int(stored[i])) for i in unknown], 'id')}"
    if len(unknown) > 1:
        wrong = table[ids] < 0
        if between(ids)[wrong].mean() >= _BETWEEN:
            return [Fault("mask-interpolated", name, text)]
    return [Fault("id-unknown", name, text)]


def _ramps(ids: np.ndarray, table: np.ndarray, name: str) -> list[Fault]:
    """The same where every id is known: interpolation may run through valid ids."""
    steps = (ids[1:] != ids[:-1]).sum() + (ids[:, 1:] != ids[:, :-1]).sum()
    if steps < _FEWEST_STEPS:
        return []
    middle = between(ids) & (table[ids] != IGNORE)
    kinds = len(np.unique(ids[middle]))
    if kinds < _FEWEST_RAMP_IDS or middle.sum() < _RAMPS * steps:
        return []
    text = f"{name}: {middle.sum()} pixels lie between their neighbours"
    return [Fault("mask-ramps", name, f"{text}, at {steps} steps of the id")]


def _listed(found: list[tuple[str, int]], what: str) -> str:
    """'id 7 (3 pixels), 9 (1 pixel) and 4 more', the most frequent first."""
    found = sorted(found, key=lambda pair: -pair[1])
    words = [f"{key} ({n} pixel{'s' * (n != 1)})" for key, n in found[:4]]
    more = f" and {len(found) - 4} more" if len(found) > 4 else ""
    return f"{what}{'s' * (len(found) > 1)} {', '.join(words)}{more}"


def alpha(array: np.ndarray, name: str) -> list[Fault]:
    """A mask whose transparency says something that is not read."""
    if array.ndim != 3 or array.shape[2] not in (2, 4):
        return []
    last = array[:, :, -1]
    if (last == last[0, 0]).all():
        return []
    share = 100 * (last != last.max()).mean()
    return [Fault("mask-transparent", name, f"{name}: {share:.1f} % of the pixels")]


def palette(
    indices: np.ndarray, palette: np.ndarray, meaning: Meaning, name: str
) -> list[Fault]:
    """Indices, read as ids, whose colour belongs to another id."""
    wrong = []
    for index in np.unique(indices):
        color = tuple(palette[index].tolist()) if index < len(palette) else None
        other = meaning.colors.get(color, index) if color else index
        if other != index:
            wrong.append(f"index {index} has the colour of id {other}")
    if not wrong:
        return []
    return [Fault("palette-mismatch", name, f"{name}: {', '.join(wrong[:4])}")]


def to_ids(
    array: np.ndarray, meaning: Meaning, name: str
) -> tuple[np.ndarray | None, list[Fault]]:
    """The ids of what a mask file holds, or the faults for which it has none."""
    if array.ndim == 3 and array.shape[2] in (1, 2):
        array = array[:, :, 0]
    if array.ndim == 2:
        return _whole(array, name)
    if array.shape[2] not in (3, 4) or array.dtype != np.uint8:
        text = f"{name}: {array.shape[2]} channels of {array.dtype}"
        return None, [Fault("mask-channels", name, text)]
    array = array[:, :, :3]
    if not meaning.colors:
        if (array == array[:, :, :1]).all():
            return np.ascontiguousarray(array[:, :, 0]), []
        count = len(np.unique(_packed(array)))
        text = f"{name} holds {count} colour{'s' * (count > 1)}"
        return None, [Fault("color-table-missing", name, text)]
    return _colored(array, meaning, name)


def _whole(array: np.ndarray, name: str) -> tuple[np.ndarray | None, list[Fault]]:
    if array.dtype.kind == "f" and (array != np.round(array)).any():
        some = array[array != np.round(array)].ravel()[0]
        return None, [Fault("mask-fraction", name, f"{name} holds {some:g}")]
    wrong = (array < 0) | (array > 255)
    if wrong.any():
        values, counts = np.unique(array[wrong], return_counts=True)
        pairs = list(zip(map(str, values), counts.tolist(), strict=True))
        text = f"{name}: {_listed(pairs, 'id')}"
        return None, [Fault("id-too-large", name, text)]
    return array.astype(np.uint8), []


def _packed(array: np.ndarray) -> np.ndarray:
    return array.astype(np.int32) @ np.array([1 << 16, 1 << 8, 1], np.int32)


def _colored(array: np.ndarray, meaning: Meaning, name: str):
    known = _packed(np.array(list(meaning.colors), np.uint8).reshape(-1, 3))
    packed = _packed(array)
    wrong = ~np.isin(packed, known)
    if not wrong.any():
        return files.mask_ids(array, meaning.colors, name), []
    colors, counts = np.unique(packed[wrong], return_counts=True)
    pairs = [
        (str((int(c) >> 16, int(c) >> 8 & 255, int(c) & 255)), int(n))
        for c, n in zip(colors, counts, strict=True)
    ]
    smoothed = len(colors) > 1 and between(array)[wrong].mean() >= _BETWEEN
    code = "mask-antialiased" if smoothed else "color-unknown"
    return None, [Fault(code, name, f"{name}: {_listed(pairs, 'colour')}")]


def foreground(label: np.ndarray) -> tuple[float | None, float | None]:
    """Share of class 1 on the outermost pixels and of all, of those with a class.

    ``label`` is int[h, w] of class ids, IGNORE, or -1; None where there is no class.
    """
    inner = np.zeros(label.shape, bool)
    inner[1:-1, 1:-1] = True
    shares = []
    for part in (label[~inner], label):
        valid = part[(part == 0) | (part == 1)]
        shares.append(float(valid.mean()) if valid.size else None)
    return shares[0], shares[1]

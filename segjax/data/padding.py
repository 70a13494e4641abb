"""To which sizes images are padded, so that few programs are compiled."""

import functools
from collections import Counter
from collections.abc import Iterable, Sequence

import numpy as np

Size = tuple[int, int]

SEARCHED = 256
"""Sizes among which pairs are looked for; more are rounded more coarsely first."""


def rounded_up(size: Size, step: int) -> Size:
    """A size in multiples of ``step``."""
    return -(-size[0] // step) * step, -(-size[1] // step) * step


def padded_sizes(sizes: Iterable[Size], bucket: int, programs: int) -> tuple[Size, ...]:
    """At most ``programs`` (h, w), so that every one of ``sizes`` fits into one.

    Multiples of ``bucket``, as they come if there are so few; else the two sizes become
    one that together add the fewest pixels to all images, again and again. Ascending.
    """
    return _joined(tuple(sizes), bucket, programs)


@functools.lru_cache(maxsize=16)  # of a split: asked for by the card, the schedule, ...
def _joined(given: tuple[Size, ...], bucket: int, programs: int) -> tuple[Size, ...]:
    counts = Counter(rounded_up(size, bucket) for size in given)
    while len(counts) > max(SEARCHED, programs):
        bucket *= 2
        counts = Counter(rounded_up(size, bucket) for size in given)
    found = np.array(sorted(counts), np.int64).reshape(-1, 2)
    images = np.array([counts[h, w] for h, w in found.tolist()], np.int64)
    while len(found) > programs:
        both = np.maximum(found[:, None], found[None])
        added = images * (both.prod(-1) - found.prod(-1))  # [i, j]: to the images of j
        added = added + added.T
        np.fill_diagonal(added, np.iinfo(np.int64).max)
        one, other = divmod(int(added.argmin()), len(found))
        found[one] = both[one, other]
        images[one] += images[other]
        found, images = np.delete(found, other, 0), np.delete(images, other)
    return tuple(sorted({(h, w) for h, w in found.tolist()}))


def padded(size: Size, known: Sequence[Size], bucket: int) -> Size:
    """The least of ``known`` that holds an image; else multiples of ``bucket``."""
    holding = [(h * w, h, w) for h, w in known if h >= size[0] and w >= size[1]]
    return min(holding)[1:] if holding else rounded_up(size, bucket)

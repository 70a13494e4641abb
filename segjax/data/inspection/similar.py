"""The same image twice, exactly or almost: a digest and a perceptual hash."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence

import numpy as np

ROWS, COLUMNS = 16, 18
# Of 2 million pairs of different scenes of `shapes` none is as near, while JPEG at
# quality 40, half the size, noise, or 20 % more brightness stay nearer (CamVid).
MAX_BITS = 10  # of 64 that may differ
MIN_CORRELATION = 0.98  # of the two thumbnails
_FLAT = 0.01
_BLOCK = 2**22


def digest(array: np.ndarray) -> bytes:
    """16 bytes that are the same for the same pixels, whatever the file."""
    found = hashlib.blake2b(digest_size=16)
    found.update(f"{array.dtype.str}{array.shape}".encode())
    found.update(np.ascontiguousarray(array).data)
    return found.digest()


def thumbnail(image: np.ndarray) -> np.ndarray | None:
    """float32[16, 18] grey means, of mean 0 and length 1; None for a flat image."""
    grey = np.nan_to_num(image.mean(axis=2, dtype=np.float32), posinf=0, neginf=0)
    small = _means(_means(grey, ROWS).T, COLUMNS).T
    spread = small.std()
    if spread <= _FLAT * np.abs(small).max():
        return None
    return ((small - small.mean()) / (spread * small.size**0.5)).astype(np.float32)


def _means(array: np.ndarray, parts: int) -> np.ndarray:
    """[n, m] to [parts, m]: means of equal ranges of rows, or nearest rows."""
    n = len(array)
    starts = np.arange(parts) * n // parts
    if n < parts:
        return array[starts]
    counts = np.diff(starts, append=n)
    return np.add.reduceat(array, starts, axis=0) / counts[:, None]


def difference_hash(thumbs: np.ndarray) -> np.ndarray:
    """uint64[n]: dHash of float[n, 16, 18], whether each of 8 x 8 steps is a rise.

    Krawetz 2013, *Kind of Like That* (The Hacker Factor Blog).
    """
    n = len(thumbs)
    coarse = thumbs.reshape(n, 8, 2, 9, 2).mean(axis=(2, 4))
    rises = (coarse[:, :, 1:] > coarse[:, :, :-1]).reshape(n, 64)
    return np.packbits(rises, axis=1).view(np.uint64)[:, 0]


def near_pairs(thumbs: Sequence[np.ndarray]) -> Iterator[tuple[int, int]]:
    """Pairs (i, j), i < j, of thumbnails that show almost the same."""
    if len(thumbs) < 2:
        return
    stacked = np.stack(thumbs)
    hashes = difference_hash(stacked)
    flat = stacked.reshape(len(stacked), -1)
    rows = max(1, _BLOCK // len(hashes))
    for start in range(0, len(hashes), rows):
        block = hashes[start : start + rows, None] ^ hashes[None]
        first, second = np.nonzero(np.bitwise_count(block) <= MAX_BITS)
        first += start
        ordered = first < second
        first, second = first[ordered], second[ordered]
        alike = np.einsum("ij,ij->i", flat[first], flat[second]) >= MIN_CORRELATION
        yield from zip(first[alike].tolist(), second[alike].tolist(), strict=True)

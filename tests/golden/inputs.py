"""Weights and a batch made from names and seeds alone, the same for both packages."""

import zlib

import numpy as np

CLASSES = 5
LR, WEIGHT_DECAY = 1e-3, 1e-2


def tensor(name: str, shape: tuple[int, ...]) -> np.ndarray:
    """float64 values for a PyTorch tensor of that name; gains and variances near 1."""
    rng = np.random.default_rng(zlib.crc32(name.encode()))
    if len(shape) > 1:
        fan_in = int(np.prod(shape[1:]))
        return rng.normal(0, np.sqrt(2 / fan_in), shape)
    if name.endswith(("running_var", "weight")):
        return rng.uniform(0.5, 1.5, shape)
    return rng.normal(0, 0.1, shape)


def batch() -> tuple[np.ndarray, np.ndarray]:
    """(float32[4, 64, 64, 3] images, uint8[4, 64, 64] labels, a tenth of them 255)."""
    rng = np.random.default_rng(7)
    images = rng.normal(0, 1, (4, 64, 64, 3)).astype(np.float32)
    labels = rng.integers(0, CLASSES, (4, 64, 64)).astype(np.uint8)
    labels[rng.random(labels.shape) < 0.1] = 255
    return images, labels

"""Weights from and to PyTorch's naming, without PyTorch."""

from segjax.weights.convert import load_torch, to_torch
from segjax.weights.packages import PACKAGES, PREFIX, package, read_package

__all__ = [
    "PACKAGES",
    "PREFIX",
    "load_torch",
    "package",
    "read_package",
    "to_torch",
]

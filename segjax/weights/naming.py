"""Which tensor of a PyTorch state dict is which variable of a model."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

from segjax.models.segmenter import Segmenter

NAMINGS = ("smp", "torchvision")

LEAVES = {
    ("params", "kernel"): "weight",
    ("params", "scale"): "weight",
    ("params", "bias"): "bias",
    ("batch_stats", "mean"): "running_mean",
    ("batch_stats", "var"): "running_var",
}


@dataclass(frozen=True)
class Entry:
    """One variable: ``path`` below its collection, its name and axes in torch.

    ``axes`` transposes the torch tensor into ours. ``name`` is None where the naming
    has no such tensor (a decoder in a classifier's file).
    """

    collection: str
    path: tuple[str, ...]
    name: str | None
    shape: tuple[int, ...]
    dtype: Any

    @property
    def is_kernel(self) -> bool:
        """Whether this is a convolution kernel, [kh, kw, Ci, Co] here."""
        return self.path[-1] == "kernel" and len(self.shape) == 4

    def from_torch(self, array: np.ndarray) -> np.ndarray:
        """OIHW to HWIO for kernels; anything else is the same in both."""
        return array.transpose(2, 3, 1, 0) if self.is_kernel else array

    def to_torch(self, array: np.ndarray) -> np.ndarray:
        """The inverse of :meth:`from_torch`."""
        return array.transpose(3, 2, 0, 1) if self.is_kernel else array

    @property
    def torch_shape(self) -> tuple[int, ...]:
        """The tensor's shape in the torch model."""
        if not self.is_kernel:
            return self.shape
        kh, kw, c_in, c_out = self.shape
        return c_out, c_in, kh, kw


def entries(
    model: Segmenter, variables: Mapping[str, Any], naming: str
) -> Iterator[Entry]:
    """Every variable of ``model``, whose arrays or abstract shapes are ``variables``.

    Raises:
      ValueError: ``naming`` is none of :data:`NAMINGS`.
    """
    if naming not in NAMINGS:
        raise ValueError(f"unknown naming {naming!r}; known: {', '.join(NAMINGS)}")
    for keys, leaf in jax.tree_util.tree_leaves_with_path(dict(variables)):
        collection, *path = (key.key for key in keys)
        module = _torch_module(model, tuple(path[:-1]), naming)
        suffix = LEAVES[collection, path[-1]]
        name = None if module is None else f"{module}.{suffix}"
        yield Entry(collection, tuple(path), name, tuple(leaf.shape), leaf.dtype)


def _torch_module(model: Segmenter, path: tuple[str, ...], naming: str) -> str | None:
    part, *rest = path
    if part == "encoder":
        name = model.encoder.torch_name(tuple(rest))
        return f"encoder.{name}" if naming == "smp" else name
    if naming == "torchvision":
        return None
    if part == "decoder":
        return "decoder." + model.decoder.torch_name(tuple(rest))
    return "segmentation_head.0"


def detect(names: Iterator[str] | list[str]) -> str:
    """The naming that a state dict's tensor names follow."""
    prefixes = {name.split(".")[0] for name in names}
    whole = {"encoder", "decoder", "segmentation_head"}
    return "smp" if prefixes & whole else "torchvision"

"""Stems for other numbers of image channels than the weights were made for."""

import functools
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from segjax.weights.naming import Model

RULES = ("repeat", "mean", "zero")
HINT = (
    "where the image's channels differ, inflate = repeat, mean or zero (in a config "
    "model.inflate) makes the kernel fit"
)


def inflate_kernel(kernel: np.ndarray, channels: int, rule: str) -> np.ndarray:
    """A stem's kernel [O, n, kh, kw] for ``channels`` C input channels instead of n.

    "repeat": channel i is the old channel i mod n, times n / C; "mean": every channel
    is the mean of the old ones, times n / C (both keep the response's size); "zero":
    the old channels stay as the first n, the others are 0.

    Raises:
      ValueError: an unknown rule, or "zero" with fewer channels than before.
    """
    if rule not in RULES:
        raise ValueError(f"inflate is {rule!r}; write one of {', '.join(RULES)}")
    old = kernel.shape[1]
    wide = kernel.astype(np.promote_types(kernel.dtype, np.float32))
    if rule == "repeat":
        return wide[:, np.arange(channels) % old] * (old / channels)
    if rule == "mean":
        return wide.mean(1, keepdims=True).repeat(channels, 1) * (old / channels)
    if channels < old:
        raise ValueError(
            f"inflate='zero' keeps the {old} channels of the weights, but the images "
            f"have {channels}; write repeat or mean"
        )
    rest = ((0, 0), (0, channels - old), (0, 0), (0, 0))
    return np.pad(wide, rest)


def find_stems(model: Model, image_shape: tuple[int, int, int]) -> set[tuple[str, ...]]:
    """Paths of the encoder's convolution kernels that act on the image itself.

    Those whose input channels follow the image's when the model is traced with one
    channel more.
    """
    here = kernels(model, image_shape)
    channels = model.in_channels + 1
    wider = kernels(model.clone(in_channels=channels), (*image_shape[:2], channels))
    return {
        path
        for path, (kh, kw, inputs, outputs) in here.items()
        if inputs == model.in_channels and wider[path] == (kh, kw, channels, outputs)
    }


def kernels(
    model: Model, image_shape: tuple[int, int, int]
) -> dict[tuple[str, ...], tuple[int, ...]]:
    """Shapes of the encoder's convolution kernels, by path."""
    encoder: Mapping[str, Any] = shapes(model, image_shape)["params"]["encoder"]
    found = jax.tree_util.tree_leaves_with_path(encoder)
    return {
        ("encoder", *(key.key for key in path)): leaf.shape
        for path, leaf in found
        if path[-1].key == "kernel" and len(leaf.shape) == 4
    }


def shapes(model: Model, image_shape: tuple[int, int, int]) -> dict[str, Any]:
    """Abstract parameters and statistics; nothing is computed."""
    asked: Any = model, tuple(image_shape), jax.config.read("jax_enable_x64")
    try:
        hash(model)
    except TypeError:  # a field is a list or a dict
        found = _traced.__wrapped__(*asked)
    else:
        found = _traced(*asked)
    return jax.tree.map(lambda leaf: leaf, found)  # the caller's own dicts


# Naming, loading and going back each ask, and a deep network takes seconds to trace.
@functools.lru_cache(maxsize=4)
def _traced(model: Model, image_shape: tuple[int, ...], x64: bool) -> dict[str, Any]:
    image = jax.ShapeDtypeStruct((1, *image_shape), model.layers.dtype)
    found = jax.eval_shape(model.init, jax.random.key(0), image)
    return {k: found[k] for k in ("params", "batch_stats") if k in found}

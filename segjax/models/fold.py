"""Batch norm folded into the convolution before it, for inference."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from segjax.models.layers import Conv
from segjax.models.norm import Norm
from segjax.models.transposed import ConvTranspose
from segjax.ops.packed import Packed

Path = tuple[str, ...]
KERNELS = ("kernel", "transposed_kernel")


@dataclass(frozen=True)
class Folded:
    """A model in which some batch norms only add a bias (and take the ReLU).

    It has no parameters of its own; ``apply`` takes the variables that
    :func:`fold_batch_norm` made, and only ``train=False``.
    """

    model: nn.Module
    norms: frozenset[Path]

    def apply(self, variables: Mapping[str, Any], image: jax.Array, **options) -> Any:
        """As ``model.apply``.

        Raises:
          ValueError: in training, where batch norm follows the batch.
        """
        if options.get("train"):
            raise ValueError(
                "batch norms were folded with their running statistics; train the "
                "model that they were folded from"
            )
        with nn.intercept_methods(self._intercept):
            return self.model.apply(variables, image, **options)

    def _intercept(self, following, args, kwargs, context):
        module = context.module
        if not _is_norm(module, context) or module.path not in self.norms:
            return following(*args, **kwargs)
        x, bias = args[0], module.get_variable("params", "bias")
        if isinstance(x, Packed):
            bias = jnp.tile(bias, x.phases)
            return Packed(_add(x.array, bias, module.relu), x.window)
        return _add(x, bias, module.relu)


def _add(x, bias, relu: bool):
    y = x + bias.astype(x.dtype)[None, None, None, :]
    # Not a maximum, which XLA:CPU would take into one computation of a chain of
    # convolutions: VGG-16's, 4 x 256x256, then take 874 ms instead of 754.
    return jnp.where(y < 0, 0.0, y) if relu else y


def _is_norm(module: nn.Module, context: Any) -> bool:
    return (
        isinstance(module, Norm)
        and module.kind == "batch"
        and context.method_name == "__call__"
    )


def fold_batch_norm(
    model: nn.Module, variables: Mapping[str, Any], image_shape=(1, 64, 64)
) -> tuple[Folded, dict[str, Any]]:
    """Fold the batch norms that directly follow a convolution into its kernel.

    A batch norm with running statistics is y -> a * y + c for each channel: the kernel
    is multiplied by a, and c stays as a bias. Norms that follow anything else (as
    DenseNet's, which come before their convolutions) stay as they are.

    Args:
      model: a segmenter or classifier.
      variables: its ``params`` and ``batch_stats``.
      image_shape: (B, H, W) of the image with which the layers' order is found out.

    Returns:
      The model without those norms, and its variables; logits agree to rounding.
    """
    params = jax.tree.map(lambda leaf: leaf, dict(variables["params"]))
    stats = jax.tree.map(lambda leaf: leaf, dict(variables.get("batch_stats", {})))
    pairs = _pairs(model, variables, image_shape)
    for conv_path, (norm_path, eps) in pairs.items():
        conv, norm = _at(params, conv_path), _at(params, norm_path)
        kept = _at(stats, norm_path)
        factor = norm["scale"] * jax.lax.rsqrt(kept["var"] + eps)
        (name,) = (key for key in KERNELS if key in conv)
        conv[name] = conv[name] * factor[None, None, None, :]
        if "bias" in conv:
            conv["bias"] = conv["bias"] * factor
        offset = norm["bias"] - kept["mean"] * factor
        norm.clear()
        norm["bias"] = offset
        kept.clear()
    folded = Folded(model, frozenset(path for path, _ in pairs.values()))
    return folded, {"params": params, "batch_stats": _pruned(stats)}


def _pairs(model, variables, image_shape) -> dict[Path, tuple[Path, float]]:
    """Convolution's path -> path and eps of the norm that takes in its output alone."""
    made: dict[int, tuple[Path, Any]] = {}
    found: dict[Path, tuple[Path, float]] = {}

    def watch(following, args, kwargs, context):
        module = context.module
        if _is_norm(module, context) and id(args[0]) in made:
            found[made[id(args[0])][0]] = (module.path, module.eps)
        y = following(*args, **kwargs)
        convolves = isinstance(module, (Conv, ConvTranspose))
        if convolves and context.method_name == "__call__":
            made[id(y)] = (module.path, y)  # y is kept, so that its id stays its own
        return y

    image = jax.ShapeDtypeStruct((*image_shape, model.in_channels), jnp.float32)
    with nn.intercept_methods(watch):
        jax.eval_shape(lambda v, x: model.apply(v, x, train=False), variables, image)
    return found


def _at(tree: dict[str, Any], path: Path) -> dict[str, Any]:
    for key in path:
        tree = tree[key]
    return tree


def _pruned(tree: dict[str, Any]) -> dict[str, Any]:
    """Without the branches that hold nothing any more."""
    pruned = {k: _pruned(v) if isinstance(v, dict) else v for k, v in tree.items()}
    return {k: v for k, v in pruned.items() if not (isinstance(v, dict) and not v)}

"""Normalisation as a layer: parameters, running statistics and the ReLU after it."""

import math
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from segjax.ops import norm as norm_ops
from segjax.ops.packed import Packed


class Norm(nn.Module):
    """Normalisation with ``scale`` and ``bias`` [C], and optionally the ReLU after it.

    ``kind``: "batch" (collection ``batch_stats`` with ``mean`` and ``var`` as torch
    keeps them: momentum 0.9, unbiased variance), "group" (as many groups as the
    greatest common divisor of C and 32: 16 of 48 channels), "layer" (over the channels
    of each pixel), "none" (only the ReLU; its convolutions have a bias then).
    ``groups`` are those of the batch over which "batch" takes its statistics in
    training.

    Raises:
      ValueError: "batch" in training has one value for each channel.
    """

    kind: str = "batch"
    relu: bool = False
    eps: float = 1e-5
    momentum: float = 0.9
    groups: int = 1
    param_dtype: Any = jnp.float32
    platform: str | None = None

    @nn.compact
    def __call__(self, x: Any, train: bool) -> Any:
        """x[B, H, W, C], perhaps packed -> the same shape and dtype."""
        if isinstance(x, Packed):
            y = self._normalize(x.array, x.channels, train)
            return Packed(y, x.window)
        return self._normalize(x, x.shape[3], train)

    def _normalize(self, x: jax.Array, width: int, train: bool) -> jax.Array:
        if self.kind == "none":
            return nn.relu(x) if self.relu else x
        channels = (width,)
        ones, zeros = nn.initializers.ones_init(), nn.initializers.zeros_init()
        scale = self.param("scale", ones, channels, self.param_dtype)
        bias = self.param("bias", zeros, channels, self.param_dtype)
        if self.kind == "group":
            groups = math.gcd(32, x.shape[3])
            return norm_ops.group_norm(
                x, scale, bias, groups=groups, eps=self.eps, relu=self.relu
            )
        if self.kind == "layer":
            return norm_ops.layer_norm(x, scale, bias, eps=self.eps, relu=self.relu)
        return self._batch(x, scale, bias, train)

    def _batch(self, x, scale, bias, train):
        shape, dtype = scale.shape, self.param_dtype
        mean = self.variable("batch_stats", "mean", lambda: jnp.zeros(shape, dtype))
        var = self.variable("batch_stats", "var", lambda: jnp.ones(shape, dtype))
        if not train:
            return norm_ops.batch_norm(
                x, scale, bias, mean.value, var.value, eps=self.eps, relu=self.relu
            )
        y, now_mean, now_var = norm_ops.batch_norm_train(
            x,
            scale,
            bias,
            eps=self.eps,
            relu=self.relu,
            groups=self.groups,
            shift=mean.value,
            platform=self.platform,
        )
        if not self.is_initializing():
            count = x.size // scale.size // self.groups
            if count == 1:
                raise ValueError(
                    f"{'/'.join(self.path)}: batch norm over one value, which it makes "
                    "0 whatever it is: take a larger data.batch_size, a smaller "
                    "optim.accumulate, model.norm_group=all, larger images or "
                    "model.norm=group"
                )
            unbiased = now_var * (count / (count - 1))
            keep = self.momentum
            mean.value = (keep * mean.value + (1 - keep) * now_mean).astype(dtype)
            var.value = (keep * var.value + (1 - keep) * unbiased).astype(dtype)
        return y

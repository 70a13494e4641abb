"""Layers over the last axis, for arrays of any rank: Dense and LayerNorm."""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax

Initializer = Callable[..., jax.Array]

normal_002 = nn.initializers.normal(0.02)
"""The transformers'. torch's ``trunc_normal_(std=0.02)`` cuts at +-2: 100 sigma."""


class Dense(nn.Module):
    """x[..., Ci] -> [..., Co] by ``kernel`` [Ci, Co] and ``bias``."""

    features: int
    use_bias: bool = True
    kernel_init: Initializer = normal_002
    bias_init: Initializer = nn.initializers.zeros_init()
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32

    def weights(self, channels: int) -> tuple[jax.Array, jax.Array | None]:
        """Kernel and bias in the compute dtype, for ``channels`` input channels."""
        shape = (channels, self.features)
        kernel = self.param("kernel", self.kernel_init, shape, self.param_dtype)
        if not self.use_bias:
            return kernel.astype(self.dtype), None
        bias = self.param("bias", self.bias_init, shape[1:], self.param_dtype)
        return kernel.astype(self.dtype), bias.astype(self.dtype)

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """x[..., Ci] -> [..., Co] in the compute dtype."""
        kernel, bias = self.weights(x.shape[-1])
        # Two dimensions: XLA:CPU transposes the operand for more.
        y = lax.dot(x.astype(self.dtype).reshape(-1, x.shape[-1]), kernel)
        y = y if bias is None else y + bias[None]
        return y.reshape(*x.shape[:-1], self.features)


class DenseWeights(Dense):
    """A :class:`Dense` layer's parameters, to be applied together with others."""

    @nn.compact
    def __call__(self, channels: int) -> Any:  # type: ignore[override]
        """What :meth:`weights` returns."""
        return self.weights(channels)


class LayerNorm(nn.Module):
    """Normalise the last axis (Ba et al. 2016); ``scale`` and ``bias`` [C]."""

    eps: float = 1e-6
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """x[..., C] -> the same shape and dtype; computed in float32 or wider."""
        channels = (x.shape[-1],)
        ones, zeros = nn.initializers.ones_init(), nn.initializers.zeros_init()
        scale = self.param("scale", ones, channels, self.param_dtype)
        bias = self.param("bias", zeros, channels, self.param_dtype)
        row = (1,) * (x.ndim - 1) + channels
        wide = x.astype(jnp.promote_types(x.dtype, jnp.float32))
        mean = jnp.mean(wide, -1, keepdims=True)
        var = jnp.mean(jnp.square(wide - mean), -1, keepdims=True)
        y = (wide - mean) * lax.rsqrt(var + self.eps)
        return (y * scale.reshape(row) + bias.reshape(row)).astype(x.dtype)

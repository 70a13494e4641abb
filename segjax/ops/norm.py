"""Normalisation over batch, groups or channels, with the ReLU that follows it."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from segjax.ops import table


def batch_norm(
    x: jax.Array,
    scale: jax.Array,
    bias: jax.Array,
    mean: jax.Array,
    var: jax.Array,
    *,
    eps: float = 1e-5,
    relu: bool = False,
) -> jax.Array:
    """Normalise x[B, H, W, C] with given statistics [C] (Ioffe & Szegedy 2015).

    Computed as one multiply-add in at least float32; returns the dtype of ``x``, which
    may be packed (:mod:`segjax.ops.packed`): a multiple of C channels.
    """
    factor = scale * lax.rsqrt(var + eps)
    return _affine(x, factor, bias - mean * factor, relu)


def batch_norm_train(
    x: jax.Array,
    scale: jax.Array,
    bias: jax.Array,
    *,
    eps: float = 1e-5,
    relu: bool = False,
    groups: int = 1,
    shift: jax.Array | None = None,
    platform: str | None = None,
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Normalise x[B, H, W, C] with its own statistics: (y, mean[C], variance[C]).

    The variance is the biased one. Mean and variance are for the running statistics
    and carry no gradient. Under jit a batch that is sharded over a mesh has global
    statistics. ``x`` may be packed (:mod:`segjax.ops.packed`).

    ``shift`` [C] is a guess of the mean, such as the running one. Statistics of one
    pass take squares of x - shift, which cancel the less the better the guess is; they
    lose about log10((mean - shift)^2 / variance) digits.

    With ``groups`` > 1 each of so many runs of B / groups examples is normalised with
    its own statistics; mean and variance are the means of theirs. Where a group lies
    on one device, no device waits for another's.

    Raises:
      ValueError: the groups do not divide B.
    """
    chosen = table.batch_norm(platform)
    if chosen == "fused" and x.shape[3] == scale.size:
        function: Any = partial(_fused, eps, relu)
    else:
        if shift is not None:
            shift = lax.stop_gradient(shift)
        function = partial(_normalize, eps, relu, shift=shift, how=chosen)
    if groups == 1:
        y, mean, var = function(x, scale, bias)
        return y, lax.stop_gradient(mean), lax.stop_gradient(var)
    if x.shape[0] % groups:
        raise ValueError(
            f"batch norm in {groups} groups cannot divide a batch of {x.shape[0]}"
        )
    parts = x.reshape(groups, x.shape[0] // groups, *x.shape[1:])
    y, mean, var = jax.vmap(function, in_axes=(0, None, None))(parts, scale, bias)
    mean, var = lax.stop_gradient((jnp.mean(mean, 0), jnp.mean(var, 0)))
    return y.reshape(x.shape), mean, var


def _wide(x):
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))


def _row(vector, channels=None):
    """[1, 1, 1, channels]: the vector, repeated for every phase of a packed map."""
    return jnp.tile(vector, (channels or vector.size) // vector.size)[None, None, None]


def _affine(x, factor, offset, relu):
    channels = x.shape[3]
    y = _wide(x) * _row(factor, channels) + _row(offset, channels)
    return (jax.nn.relu(y) if relu else y).astype(x.dtype)


def _mean(x, channels):
    """[C]: the mean over batch, pixels and the phases of a packed map."""
    return jnp.mean(jnp.mean(x, (0, 1, 2)).reshape(-1, channels), 0)


def _statistics(x, channels):
    """Mean and biased variance [C]; two passes, as the squares' mean cancels."""
    mean = _mean(_wide(x), channels)
    return mean, _mean(jnp.square(_wide(x) - _row(mean, x.shape[3])), channels)


def _statistics_of_one_pass(x, channels, shift):
    """Mean and biased variance [C] from sums of x - shift and of its square."""
    if shift is None:
        shift = jnp.zeros(channels)
    centred = _wide(x) - _row(shift, x.shape[3]).astype(_wide(x).dtype)
    mean, square = _mean(centred, channels), _mean(jnp.square(centred), channels)
    return mean + shift, jnp.maximum(square - jnp.square(mean), 0)


def _normalize(eps, relu, x, scale, bias, shift=None, how="plain"):
    if how == "one_pass":
        mean, var = _statistics_of_one_pass(x, scale.size, shift)
    else:
        mean, var = _statistics(x, scale.size)
    return batch_norm(x, scale, bias, mean, var, eps=eps, relu=relu), mean, var


@partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _fused(eps, relu, x, scale, bias):
    return _normalize(eps, relu, x, scale, bias)


def _fused_forward(eps, relu, x, scale, bias):
    y, mean, var = _normalize(eps, relu, x, scale, bias)
    return (y, mean, var), (x, scale, bias, mean, var)


def _fused_backward(eps, relu, residuals, cotangents):
    """The input's gradient is one multiply-add of x and g after two sums.

    The ReLU's mask is computed again from x: cheaper than keeping y.
    """
    x, scale, bias, mean, var = residuals
    inverse = lax.rsqrt(var + eps)
    factor = scale * inverse
    g = _wide(cotangents[0])
    centred = _wide(x) - _row(mean)
    if relu:
        offset = bias - mean * factor  # exactly the forward pass's arithmetic
        g = jnp.where(_wide(x) * _row(factor) + _row(offset) > 0, g, 0)
    pixels = x.size // x.shape[3]
    sum_g = jnp.sum(g, (0, 1, 2))
    sum_gx = jnp.sum(g * centred, (0, 1, 2))
    slope = factor * jnp.square(inverse) * sum_gx / pixels
    dx = _row(factor) * (g - _row(sum_g / pixels)) - _row(slope) * centred
    return dx.astype(x.dtype), sum_gx * inverse, sum_g


_fused.defvjp(_fused_forward, _fused_backward)


def group_norm(
    x: jax.Array,
    scale: jax.Array,
    bias: jax.Array,
    *,
    groups: int,
    eps: float = 1e-5,
    relu: bool = False,
) -> jax.Array:
    """Normalise x[B, H, W, C] per example and group of channels (Wu & He 2018).

    ``groups`` divides C.
    """
    b, h, w, c = x.shape
    parts = _wide(x).reshape(b, h, w, groups, c // groups)
    mean = jnp.mean(parts, (1, 2, 4), keepdims=True)
    var = jnp.mean(jnp.square(parts - mean), (1, 2, 4), keepdims=True)
    y = ((parts - mean) * lax.rsqrt(var + eps)).reshape(x.shape)
    return _affine(y, scale, bias, relu).astype(x.dtype)


def layer_norm(
    x: jax.Array,
    scale: jax.Array,
    bias: jax.Array,
    *,
    eps: float = 1e-6,
    relu: bool = False,
) -> jax.Array:
    """Normalise the channels of each pixel of x[B, H, W, C] (Ba et al. 2016)."""
    wide = _wide(x)
    mean = jnp.mean(wide, 3, keepdims=True)
    var = jnp.mean(jnp.square(wide - mean), 3, keepdims=True)
    return _affine((wide - mean) * lax.rsqrt(var + eps), scale, bias, relu).astype(
        x.dtype
    )

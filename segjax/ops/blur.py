"""Gaussian blur of images with a valid area."""

import jax
import jax.numpy as jnp

from segjax.ops import sampling


def gaussian_blur(
    x: jax.Array, valid: jax.Array, sigma: jax.Array, chosen: jax.Array
) -> jax.Array:
    """Blur the ``chosen`` bool[B] of ``x`` f[B, H, W, C], by two banded products.

    ``sigma`` f[B] in pixels. What is outside ``valid`` bool[B, H, W] (any shape) has no
    weight; the weights of the rest are renormalised.
    """

    def matrix(n):
        distance = jnp.arange(n, dtype=x.dtype)
        squared = (distance[:, None] - distance[None, :]) ** 2
        weights = jnp.exp(-squared[None] / (2 * sigma[:, None, None] ** 2))
        one_hot = jnp.eye(n, dtype=x.dtype)[None]
        return jnp.where(chosen[:, None, None], weights, one_hot)

    rows, columns = matrix(x.shape[1]), matrix(x.shape[2])
    mask = valid[..., None].astype(x.dtype)
    total = sampling.sample_separable(mask, rows, columns)
    blurred = sampling.sample_separable(x * mask, rows, columns)
    return blurred / jnp.maximum(total, jnp.finfo(x.dtype).tiny)

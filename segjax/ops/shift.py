"""Moving a map by whole pixels, and picking some of them."""

import jax
import jax.numpy as jnp
from jax import lax


def shift(x: jax.Array, count: int, axis: int, fill: float = 0) -> jax.Array:
    """y[i] = x[i - count] along ``axis``, ``fill`` where that lies outside; x's shape.

    One pad that is negative at the other end: where the axis is split over devices,
    each sends what its neighbour lacks (collective-permute). From slices and
    concatenation XLA makes all-reduces of the whole map.
    """
    config = [(0, 0, 0)] * x.ndim
    config[axis] = (count, -count, 0)
    return lax.pad(x, jnp.asarray(fill, x.dtype), config)


def picked(x: jax.Array, strides: tuple[int, int]) -> jax.Array:
    """The first pixel of every block of ``strides`` pixels of x[B, H, W, C].

    A block at a time, which a device has whole: of a strided slice XLA first shares the
    rows up to the last one that is read, and copies the map.
    """
    (b, h, w, c), (s, t) = x.shape, strides
    return x.reshape(b, h // s, s, w // t, t, c)[:, :, 0, :, 0]

"""Exact Euclidean distances up to a radius, with static shapes and no search."""

import jax
import jax.numpy as jnp


def squared_distance(seeds: jax.Array, radius: int) -> jax.Array:
    """int16[B, H, W, K]: squared pixel distance to the nearest seed, at most radius**2.

    The distance transform is separable (Felzenszwalb & Huttenlocher, "Distance
    Transforms of Sampled Functions", 2012): a minimum of parabolas along columns, then
    along rows. Distances beyond ``radius`` are not wanted, so each minimum has only
    2 radius + 1 candidates and is a chain of shifted minima that XLA fuses.

    Args:
      seeds: bool[B, H, W, K], each class's own seeds.
      radius: pixels, 1 to 127 (so that sums of squares fit int16).
    """
    far = jnp.int16(radius * radius)
    squared = jnp.where(seeds, jnp.int16(0), far)
    for axis in (1, 2):
        size = seeds.shape[axis]
        padding = [(0, 0)] * seeds.ndim
        padding[axis] = (radius, radius)
        padded = jnp.pad(squared, padding, constant_values=far)
        for shift in range(-radius, radius + 1):
            moved = jax.lax.slice_in_dim(
                padded, radius + shift, radius + shift + size, axis=axis
            )
            squared = jnp.minimum(squared, moved + jnp.int16(shift * shift))
    return squared

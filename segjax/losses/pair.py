"""What every loss returns, and the counts that losses divide by.

Counts are made from integer sums, so that they do not depend on how the batch is laid
out over devices; they depend on the labels only, so that gradient accumulation can
add them up before the first logits exist.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from segjax.batch import IGNORE
from segjax.ops.cross_entropy import is_class


class Pair(NamedTuple):
    """A loss as ``total / count``, both float[]; 0 when nothing counts."""

    total: jax.Array
    count: jax.Array

    @property
    def value(self) -> jax.Array:
        """float[]: total / count, or 0 (with zero gradient) when the count is 0."""
        return ratio(self.total, self.count)


def ratio(total: jax.Array, count: jax.Array) -> jax.Array:
    """float[...]: total / count in the total's type; 0 where the count is 0."""
    count = count.astype(total.dtype)
    return jnp.where(count > 0, total / jnp.where(count > 0, count, 1), 0)


def valid_pixels(labels: jax.Array) -> jax.Array:
    """float[]: the number of pixels that are not IGNORE."""
    # Summed as integers: a float32 that counts by ones stops at 2**24.
    return jnp.sum(labels != IGNORE, dtype=jnp.int32).astype(float)


def weighted_pixels(
    labels: jax.Array, class_weights: tuple[float, ...] | None
) -> jax.Array:
    """float[]: the sum over valid pixels of their class's weight."""
    if class_weights is None:
        return valid_pixels(labels)
    hit = is_class(labels, len(class_weights))
    pixels = jnp.sum(hit, axis=tuple(range(labels.ndim)), dtype=jnp.int32)
    weights = jnp.asarray(class_weights, float)
    return jnp.sum(pixels.astype(weights.dtype) * weights)


def labelled_images(labels: jax.Array) -> jax.Array:
    """float[]: the number of images, int[B, H, W], with at least one valid pixel."""
    return jnp.sum(jnp.any(labels != IGNORE, axis=(1, 2)), dtype=jnp.int32).astype(
        float
    )

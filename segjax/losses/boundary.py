"""The boundary loss: probability is charged by its distance from where it belongs."""

import jax
import jax.numpy as jnp

from segjax.batch import IGNORE
from segjax.losses.pair import Pair, valid_pixels
from segjax.ops.cross_entropy import is_class, reduce_dtype
from segjax.ops.distance import squared_distance


def boundary(logits: jax.Array, labels: jax.Array, *, boundary_width: int = 8) -> Pair:
    """Boundary loss: the mean over valid pixels of ``sum_k p_k (f_k - f_y) / width``.

    Kervadec et al., "Boundary loss for highly unbalanced segmentation", 2019.

    ``f_k`` is the signed Euclidean distance in pixels from class k's boundary in its
    image, negative inside, clipped to +-width: clipping keeps the transform exact and
    cheap inside jit (``ops.distance``), and errors far from a boundary, all priced
    alike, are another loss's task. Subtracting the true class's ``f_y`` changes no
    gradient and makes a perfect prediction cost 0; the largest value is 2. A boundary
    lies half way between two pixels. Ignored pixels belong to no region. A class
    absent from an image counts as further away than the width (the paper leaves it
    uncharged). Mix this loss with another, as the paper does.

    Args:
      logits: float[B, H, W, K].
      labels: int[B, H, W].
      boundary_width: where distances are clipped, in pixels, 1 to 127.
    """
    hit = is_class(labels, logits.shape[-1])
    valid = (labels != IGNORE)[..., None]
    dtype = reduce_dtype(logits.dtype)
    outside = jnp.sqrt(squared_distance(hit, boundary_width).astype(dtype))
    inside = jnp.sqrt(squared_distance(valid & ~hit, boundary_width).astype(dtype))
    distance = jnp.where(hit, 0.5 - inside, outside - 0.5)
    own = jnp.sum(jnp.where(hit, distance, 0), axis=-1, keepdims=True)
    probability = jax.nn.softmax(logits.astype(dtype))
    price = jnp.where(valid, distance - own, 0) / boundary_width
    cost = jnp.where(valid, probability, 0) * price
    return Pair(jnp.sum(cost), valid_pixels(labels))

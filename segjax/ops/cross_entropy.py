"""Softmax cross-entropy per pixel, without gathers and without a stored one-hot."""

from functools import partial

import jax
import jax.numpy as jnp
from jax import lax

from segjax.batch import IGNORE


def reduce_dtype(dtype: jax.typing.DTypeLike) -> jnp.dtype:
    """The type in which a loss on ``dtype`` logits is computed: float32, or float64."""
    return jnp.promote_types(dtype, jnp.float32)


def is_class(labels: jax.Array, num_classes: int) -> jax.Array:
    """bool[..., K]: whether the pixel belongs to class k.

    Meant as the condition of a select that XLA fuses into the reduction after it; a
    pixel whose label is IGNORE belongs to none.
    """
    ids = lax.broadcasted_iota(
        labels.dtype, (1,) * labels.ndim + (num_classes,), labels.ndim
    )
    return labels[..., None] == ids


def softmax_cross_entropy(
    logits: jax.Array,
    labels: jax.Array,
    *,
    class_weights: tuple[float, ...] | None = None,
    label_smoothing: float = 0.0,
) -> jax.Array:
    """Cross-entropy of every pixel, in nats; 0 (with zero gradient) at IGNORE.

    With weights w and smoothing e a pixel of class y costs, as in PyTorch's
    ``cross_entropy(reduction="none")``,
    ``-(1 - e) w_y log p_y - e / K * sum_c w_c log p_c``.

    The backward pass recomputes the softmax from the logits and two numbers per pixel,
    so that no second array of the logits' size lives between the passes.

    Args:
      logits: float[..., K].
      labels: int[...], class ids or IGNORE.
      class_weights: K finite factors, or None for ones.
      label_smoothing: e, from 0 to 1.

    Returns:
      float32[...] (float64 for float64 logits).
    """
    return _cross_entropy(logits, labels, class_weights, label_smoothing)


def _weights(class_weights, logits):
    """float[1, ..., 1, K]: the class weights, ready to be broadcast."""
    dtype = reduce_dtype(logits.dtype)
    shape = (1,) * (logits.ndim - 1) + (logits.shape[-1],)
    if class_weights is None:
        return jnp.ones(shape, dtype)
    return jnp.asarray(class_weights, dtype).reshape(shape)


@partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def _cross_entropy(logits, labels, class_weights, label_smoothing):
    return _forward(logits, labels, class_weights, label_smoothing)[0]


def _forward(logits, labels, class_weights, label_smoothing):
    x = logits.astype(reduce_dtype(logits.dtype))
    # log(sum) and the maximum are kept apart: their sum would swallow the bits of the
    # former when logits are large.
    maximum = jnp.max(x, axis=-1, keepdims=True)
    z = x - maximum
    log_sum = jnp.log(jnp.sum(jnp.exp(z), axis=-1, keepdims=True))
    cost = log_sum - z
    if class_weights is not None:
        cost = cost * _weights(class_weights, logits)
    hit = is_class(labels, logits.shape[-1])
    loss = jnp.sum(jnp.where(hit, cost, 0), axis=-1)
    if label_smoothing:
        loss = (1 - label_smoothing) * loss + label_smoothing * jnp.mean(cost, axis=-1)
        loss = jnp.where(labels == IGNORE, 0, loss)
    return loss, (logits, labels, maximum, log_sum)


def _backward(class_weights, label_smoothing, residuals, g):
    logits, labels, maximum, log_sum = residuals
    x = logits.astype(reduce_dtype(logits.dtype))
    probability = jnp.exp((x - maximum) - log_sum)
    weights = _weights(class_weights, logits)
    target = jnp.where(is_class(labels, logits.shape[-1]), weights, 0)
    if label_smoothing:
        even = label_smoothing / logits.shape[-1]
        target = (1 - label_smoothing) * target + even * weights
    slope = probability * jnp.sum(target, axis=-1, keepdims=True) - target
    # A select, not a product: an ignored pixel's gradient is 0 whatever its logits.
    slope = jnp.where((labels == IGNORE)[..., None], 0, slope * g[..., None])
    return slope.astype(logits.dtype), None


_cross_entropy.defvjp(_forward, _backward)

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


def _class_weights(class_weights, logits):
    """float[1, ..., 1, K]: the class weights, ready to be broadcast."""
    weights = jnp.asarray(class_weights, reduce_dtype(logits.dtype))
    return weights.reshape((1,) * (logits.ndim - 1) + (logits.shape[-1],))


def _shares(logits, labels, class_weights, label_smoothing):
    """float[...] each: the weight of the true class's cost, and that of the mean."""
    valid = labels != IGNORE
    dtype = reduce_dtype(logits.dtype)
    even = jnp.where(valid, jnp.asarray(label_smoothing, dtype), 0)
    if class_weights is None:
        return jnp.where(valid, jnp.asarray(1 - label_smoothing, dtype), 0), even
    weights = _class_weights(class_weights, logits) * (1 - label_smoothing)
    hit = is_class(labels, logits.shape[-1])
    return jnp.sum(jnp.where(hit, weights, 0), axis=-1), even


@partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def _cross_entropy(logits, labels, class_weights, label_smoothing):
    return _forward(logits, labels, class_weights, label_smoothing)[0]


def _forward(logits, labels, class_weights, label_smoothing):
    # Only [...]-shaped numbers leave a reduction: XLA:CPU then fuses each of the three
    # passes over the logits and stores no array of their size.
    x = logits.astype(reduce_dtype(logits.dtype))
    maximum = jnp.max(x, axis=-1)
    z = x - maximum[..., None]
    # log(sum) and the maximum are kept apart: their sum would swallow the bits of the
    # former when logits are large.
    log_sum = jnp.log(jnp.sum(jnp.exp(z), axis=-1))
    true = jnp.sum(jnp.where(is_class(labels, x.shape[-1]), z, 0), axis=-1)
    share, even = _shares(logits, labels, class_weights, label_smoothing)
    loss = share * (log_sum - true)
    if label_smoothing:
        if class_weights is None:
            mean = log_sum - jnp.mean(z, axis=-1)
        else:
            weights = _class_weights(class_weights, logits)
            mean = log_sum * jnp.mean(weights) - jnp.mean(weights * z, axis=-1)
        loss = loss + even * mean
    return loss, (logits, labels, maximum, log_sum)


def _backward(class_weights, label_smoothing, residuals, g):
    logits, labels, maximum, log_sum = residuals
    x = logits.astype(reduce_dtype(logits.dtype))
    probability = jnp.exp((x - maximum[..., None]) - log_sum[..., None])
    share, even = _shares(logits, labels, class_weights, label_smoothing)
    hit = is_class(labels, x.shape[-1])
    slope = jnp.where(hit, probability - 1, probability) * (share * g)[..., None]
    if label_smoothing:
        even = (even * g)[..., None]
        if class_weights is None:
            slope = slope + even * (probability - 1 / x.shape[-1])
        else:
            weights = _class_weights(class_weights, logits)
            mean = weights / x.shape[-1]
            slope = slope + even * (probability * jnp.mean(weights) - mean)
    return slope.astype(logits.dtype), None


_cross_entropy.defvjp(_forward, _backward)

"""Losses that are a weighted mean over pixels: cross-entropy, OHEM and focal.

All three share PyTorch's convention for class weights: the mean is
``sum_i w[y_i] * l_i / sum_i w[y_i]`` over the valid pixels of the global batch.
"""

import jax
import jax.numpy as jnp
from jax import lax

from segjax.batch import IGNORE
from segjax.losses.pair import Pair, weighted_pixels
from segjax.ops.cross_entropy import is_class, softmax_cross_entropy


def cross_entropy(
    logits: jax.Array,
    labels: jax.Array,
    *,
    class_weights: tuple[float, ...] | None = None,
    label_smoothing: float = 0.0,
) -> Pair:
    """Softmax cross-entropy, as ``torch.nn.functional.cross_entropy`` averages it.

    Label smoothing: Szegedy et al., "Rethinking the Inception Architecture", 2016.

    Args:
      logits: float[B, H, W, K].
      labels: int[B, H, W].
      class_weights: K factors >= 0.
      label_smoothing: the share of the target spread evenly over the classes, 0 to 1.
    """
    loss = softmax_cross_entropy(
        logits, labels, class_weights=class_weights, label_smoothing=label_smoothing
    )
    return Pair(jnp.sum(loss), weighted_pixels(labels, class_weights))


def ohem_cross_entropy(
    logits: jax.Array,
    labels: jax.Array,
    *,
    class_weights: tuple[float, ...] | None = None,
    label_smoothing: float = 0.0,
    ohem_threshold: float = 0.7,
    ohem_min_kept: float = 0.0625,
) -> Pair:
    """Cross-entropy over the hard pixels: online hard example mining.

    Shrivastava et al., "Training Region-based Object Detectors with Online Hard
    Example Mining", 2016, in the form usual for segmentation: a pixel is kept when the
    probability of its class is below ``ohem_threshold``, or when it is among the
    hardest ``ohem_min_kept`` of the valid pixels of the batch (pixels that tie with
    the last of these are kept too). The value is the weighted mean over kept pixels;
    ``total`` is that mean times ``count``, the weighted count of all valid pixels, so
    that micro-batches weigh by their labels.

    Args:
      logits: float[B, H, W, K].
      labels: int[B, H, W].
      class_weights: K factors >= 0.
      label_smoothing: 0 to 1; the choice of pixels looks at the true class alone.
      ohem_threshold: a probability, 0 to 1; 1 keeps every pixel.
      ohem_min_kept: a fraction of the valid pixels, 0 to 1.
    """
    valid = labels != IGNORE
    hardness = lax.stop_gradient(softmax_cross_entropy(logits, labels))
    wanted = jnp.ceil(
        ohem_min_kept * jnp.sum(valid, dtype=jnp.int32).astype(hardness.dtype)
    ).astype(jnp.int32)
    kept = hardness >= _kth_largest(jnp.where(valid, hardness, -1), wanted)
    if ohem_threshold > 0:
        kept |= hardness > -jnp.log(jnp.asarray(ohem_threshold, hardness.dtype))
    if ohem_threshold >= 1:
        kept = valid
    kept_labels = jnp.where(kept, labels, jnp.asarray(IGNORE, labels.dtype))
    hard = cross_entropy(
        logits,
        kept_labels,
        class_weights=class_weights,
        label_smoothing=label_smoothing,
    )
    count = weighted_pixels(labels, class_weights)
    return Pair(hard.value * count.astype(hard.total.dtype), count)


def _kth_largest(values: jax.Array, k: jax.Array) -> jax.Array:
    """The k-th largest (from 1) of the values >= 0, exactly; infinity for k = 0.

    By bisection over the bit patterns, which order non-negative floats as integers
    do: 31 (63) counts of the array in place of a sort, and on a sharded array one
    scalar to be summed for each, where a sort would gather all of it.
    """
    bits = values.dtype.itemsize * 8
    integer = jnp.int32 if bits == 32 else jnp.int64
    keys = lax.bitcast_convert_type(values, integer)  # negative values stay negative

    def set_bit(i, found):
        candidate = found | (jnp.ones((), integer) << (bits - 2 - i))
        enough = jnp.sum(keys >= candidate, dtype=jnp.int32) >= k
        return jnp.where(enough, candidate, found)

    found = lax.fori_loop(0, bits - 1, set_bit, jnp.zeros((), integer))
    found = lax.bitcast_convert_type(found, values.dtype)
    return jnp.where(k > 0, found, jnp.inf)


def focal(
    logits: jax.Array,
    labels: jax.Array,
    *,
    class_weights: tuple[float, ...] | None = None,
    focal_gamma: float = 2.0,
) -> Pair:
    """Focal loss, ``-(1 - p_y)**gamma log p_y``, with the softmax's probability.

    Lin et al., "Focal Loss for Dense Object Detection", 2017; the paper's alpha is
    ``class_weights``, with the weighted mean of this module. ``gamma`` 0 is
    cross-entropy.

    Args:
      logits: float[B, H, W, K].
      labels: int[B, H, W].
      class_weights: K factors >= 0.
      focal_gamma: the exponent, >= 0.
    """
    loss = softmax_cross_entropy(logits, labels)
    # Kept off 0, where the power's slope is infinite for an exponent below 1.
    miss = jnp.maximum(-jnp.expm1(-loss), jnp.finfo(loss.dtype).tiny ** 0.25)
    loss = miss**focal_gamma * loss
    if class_weights is not None:
        weights = jnp.asarray(class_weights, loss.dtype)[None, None, None, :]
        hit = is_class(labels, logits.shape[-1])
        loss = loss * jnp.sum(jnp.where(hit, weights, 0), axis=-1)
    return Pair(jnp.sum(loss), weighted_pixels(labels, class_weights))

"""Losses on the overlap of whole regions: Dice, Tversky and Lovasz-softmax.

They are computed over all valid pixels of the global batch, class by class, and
averaged over the classes that occur in its labels: the value lies in [0, 1] whatever
the number of classes. A class that does not occur has no region to overlap with;
predicting it lowers the overlap of the classes that do.

They are no sums over pixels. ``count`` is the number of valid pixels and ``total`` the
value times that: with gradient accumulation the value becomes the mean over
micro-batches, weighted by their valid pixels.
"""

import jax
import jax.numpy as jnp
from jax import lax

from segjax.batch import IGNORE
from segjax.losses.pair import Pair, labelled_images, ratio, valid_pixels
from segjax.ops import table
from segjax.ops.cross_entropy import is_class, reduce_dtype

_PIXELS = (0, 1, 2)


def dice(logits: jax.Array, labels: jax.Array, *, dice_smooth: float = 1.0) -> Pair:
    """Soft Dice loss: mean over classes of ``1 - (2 I + s) / (P + N + s)``.

    Milletari et al., "V-Net", 2016 (without squares): I is the sum of the class's
    probability over its own pixels, P over all valid pixels, N its number of pixels.

    Args:
      logits: float[B, H, W, K].
      labels: int[B, H, W].
      dice_smooth: s in pixels, >= 0; it softens the slope of very small regions.
    """
    inside, predicted, true = _overlap(logits, labels)
    score = ratio(2 * inside + dice_smooth, predicted + true + dice_smooth)
    return _mean_over_classes(1 - score, true, labels)


def tversky(
    logits: jax.Array,
    labels: jax.Array,
    *,
    tversky_alpha: float = 0.3,
    tversky_beta: float = 0.7,
    tversky_smooth: float = 1.0,
) -> Pair:
    """Tversky loss: mean over classes of ``1 - (I + s) / (I + a FP + b FN + s)``.

    Salehi et al., "Tversky loss function for image segmentation using 3D fully
    convolutional deep networks", 2017. ``a = b = 0.5`` is Dice, ``a = b = 1`` Jaccard.

    Args:
      logits: float[B, H, W, K].
      labels: int[B, H, W].
      tversky_alpha: a, the price of a false positive, >= 0.
      tversky_beta: b, the price of a false negative, >= 0.
      tversky_smooth: s in pixels, >= 0.
    """
    inside, predicted, true = _overlap(logits, labels)
    wrong = tversky_alpha * (predicted - inside) + tversky_beta * (true - inside)
    score = ratio(inside + tversky_smooth, inside + wrong + tversky_smooth)
    return _mean_over_classes(1 - score, true, labels)


def _overlap(logits, labels):
    """float[K] each: probability on the class's pixels, on all, and its pixels."""
    hit = is_class(labels, logits.shape[-1])
    probability = jax.nn.softmax(logits.astype(reduce_dtype(logits.dtype)))
    inside = jnp.sum(jnp.where(hit, probability, 0), axis=_PIXELS)
    valid = (labels != IGNORE)[..., None]
    predicted = jnp.sum(jnp.where(valid, probability, 0), axis=_PIXELS)
    true = jnp.sum(hit, axis=_PIXELS, dtype=jnp.int32)
    return inside, predicted, true.astype(probability.dtype)


def _mean_over_classes(loss, true, labels):
    present = true > 0
    total = jnp.sum(jnp.where(present, loss, 0))
    value = ratio(total, jnp.sum(present, dtype=jnp.int32))
    count = valid_pixels(labels)
    return Pair(value * count.astype(value.dtype), count)


def lovasz_softmax(
    logits: jax.Array,
    labels: jax.Array,
    platform: str | None = None,
    *,
    lovasz_per_image: bool = False,
) -> Pair:
    """Lovasz-softmax: the convex extension of the mean Jaccard loss.

    Berman et al., "The Lovasz-Softmax loss", 2018, over the classes present. Sorts
    every class's errors over the whole batch (which a mesh has to gather), or image by
    image, which stays on its device; then ``count`` is the number of images with
    labels.

    Args:
      logits: float[B, H, W, K].
      labels: int[B, H, W].
      platform: for which the formulation is chosen (:mod:`segjax.ops.table`).
      lovasz_per_image: average over images in place of one Jaccard for the batch.
    """
    batch, num_classes = labels.shape[0], logits.shape[-1]
    probability = jax.nn.softmax(logits.astype(reduce_dtype(logits.dtype)))
    groups = batch if lovasz_per_image else 1
    # float[G, K, pixels]: classes before pixels, which are sorted.
    probability = probability.reshape(groups, -1, num_classes).swapaxes(1, 2)
    hit = is_class(labels, num_classes).reshape(groups, -1, num_classes).swapaxes(1, 2)
    valid = (labels != IGNORE).reshape(groups, 1, -1)
    error = jnp.where(valid, jnp.where(hit, 1 - probability, probability), 0)
    ordered = lax.stop_gradient(jnp.where(valid, error, -1))
    slope = _jaccard_slope(ordered, hit, platform)
    true = jnp.sum(hit, axis=-1, dtype=jnp.int32)
    present = true > 0
    loss = jnp.where(present, jnp.sum(error * slope, axis=-1), 0)
    value = ratio(jnp.sum(loss, axis=-1), jnp.sum(present, axis=-1, dtype=jnp.int32))
    if lovasz_per_image:
        return Pair(jnp.sum(value), labelled_images(labels))
    count = valid_pixels(labels)
    return Pair(value[0] * count.astype(value.dtype), count)


def _jaccard_slope(error: jax.Array, hit: jax.Array, platform: str | None) -> jax.Array:
    """float[..., N]: what the Jaccard loss gains as each pixel, worst first, is lost.

    The loss is linear in the errors with these slopes while their order holds, so they
    are its exact gradient, and the sort itself needs none. With I true pixels still
    right and U the union after pixel i, losing a true pixel adds 1 / U and a false one
    I / (U (U - 1)): no differences of nearly equal numbers. The slopes go back to the
    pixels' places by a second sort (a scatter is slow on TPUs) or a scatter: the same
    values.
    """
    integer = jnp.int32 if error.dtype.itemsize == 4 else jnp.int64
    # Floats >= 0 sort as their bit patterns do, several times faster on CPUs. The
    # place breaks ties, so that every device count sorts alike, and carries `hit`.
    key = -lax.bitcast_convert_type(error, integer)
    key = jnp.where(error < 0, jnp.iinfo(integer).max, key)
    place = lax.broadcasted_iota(jnp.int32, error.shape, error.ndim - 1)
    packed = 2 * place + hit
    packed = lax.sort((key, packed), dimension=-1, num_keys=2, is_stable=False)[1]
    true = packed % 2
    lost = jnp.cumsum(true, axis=-1)
    pixels = lost[..., -1:]
    right = (pixels - lost).astype(error.dtype)
    union = jnp.maximum(pixels + place + 1 - lost, 1).astype(error.dtype)
    false_slope = right / (union * jnp.maximum(union - 1, 1))
    slope = jnp.where(true > 0, 1 / union, false_slope)
    if table.unsort(platform) == "sort":
        return lax.sort((packed, slope), dimension=-1, num_keys=1, is_stable=False)[1]
    return jnp.put_along_axis(
        *(jnp.zeros_like(slope), packed // 2, slope),
        axis=-1,
        inplace=False,
        mode="promise_in_bounds",
    )

"""A model's scores before they are full-resolution logits, and how to finish them."""

from typing import NamedTuple

import flax.struct
import jax
import jax.numpy as jnp

from segjax.ops import lanes, table, upsampled
from segjax.ops.cross_entropy import softmax_cross_entropy
from segjax.ops.packed import PHASES, Packed, unpack
from segjax.ops.resize import resize_bilinear


class Rule(NamedTuple):
    """How scores become logits: resize to ``size``, then keep the top left ``crop``.

    ``align_corners`` is that of bilinear resizing; scores of that size stay as they
    are. ``packed``: None, or the number of classes K of scores in packed form
    (:mod:`segjax.ops.packed`), which have more, NEVER chosen, to fill the lanes.
    ``platform`` chooses the formulations of loss and counts.
    """

    size: tuple[int, int]
    crop: tuple[int, int]
    align_corners: bool = False
    packed: int | None = None
    platform: str | None = None


@flax.struct.dataclass
class Scores:
    """Class scores ``array`` [B, h, w, K], unfinished, and the ``rule`` to finish them.

    Losses and metrics that can work at the low resolution, or on the packed form, take
    these.
    """

    array: jax.Array
    rule: Rule = flax.struct.field(pytree_node=False)


def finish(scores: Scores) -> jax.Array:
    """Logits float32[B, H, W, K] (float64 from float64 scores) at the input's size."""
    rule = scores.rule
    array = scores.array
    if rule.packed is not None:
        array = unpack(Packed(array))[..., : rule.packed]
    array = array.astype(jnp.promote_types(array.dtype, jnp.float32))
    array = resize_bilinear(array, rule.size, align_corners=rule.align_corners)
    return array[:, : rule.crop[0], : rule.crop[1]]


def cross_entropy_sum(scores: Scores, labels: jax.Array) -> jax.Array:
    """float32[]: the sum of every pixel's cross-entropy in nats; IGNORE counts 0.

    ``labels`` int[B, H, W] at the input's size. The same as the sum of
    :func:`segjax.ops.cross_entropy.softmax_cross_entropy` of the finished logits.
    """
    array, (how, factor) = scores.array, _formulation(scores)
    if how == "packed":
        classes = scores.rule.packed or 0
        return lanes.cross_entropy_sum(array, _spread(array, labels), PHASES, classes)
    if how == "strips":
        labels = upsampled.with_ignored_edges(labels, scores.rule.size)
        return upsampled.cross_entropy_sum(array, labels, factor)
    return jnp.sum(softmax_cross_entropy(finish(scores), labels))


def predictions(scores: Scores) -> jax.Array:
    """int32[B, H, W]: every pixel's class with the best score, the first of equals."""
    array, (how, factor) = scores.array, _formulation(scores)
    if how == "packed":
        return unpack(Packed(lanes.predictions(array, PHASES)))[..., 0]
    if how == "strips":
        rows, columns = scores.rule.crop
        return upsampled.predictions(array, factor)[:, :rows, :columns]
    return jnp.argmax(finish(scores), -1).astype(jnp.int32)


def confusion_matrix(scores: Scores, labels: jax.Array) -> jax.Array | None:
    """int32[K, K]: rows the truth, columns :func:`predictions`.

    None where there is no better way than to count the predictions.
    """
    array, (how, factor) = scores.array, _formulation(scores)
    if how == "packed":
        classes = scores.rule.packed or 0
        return lanes.confusion_matrix(array, _spread(array, labels), PHASES, classes)
    if how == "strips":
        labels = upsampled.with_ignored_edges(labels, scores.rule.size)
        return upsampled.confusion_matrix(array, labels, factor)
    return None


def _formulation(scores: Scores) -> tuple[str, int]:
    """Which of packed, strips (and the factor of upsampling) and plain it is."""
    rule = scores.rule
    if rule.packed is not None:
        return "packed", 1
    size = (scores.array.shape[1], scores.array.shape[2])
    factor = upsampled.factor_of(size, rule.size)
    if factor is None or rule.align_corners:
        return "plain", 1
    return table.upsampled_loss(rule.platform), factor


def _spread(array: jax.Array, labels: jax.Array) -> jax.Array:
    return lanes.spread_labels(labels, (2, 2), array.shape[3])

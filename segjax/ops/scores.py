"""A model's scores before they are full-resolution logits, and how to finish them."""

from typing import NamedTuple

import flax.struct
import jax
import jax.numpy as jnp

from segjax.ops import lanes, strips, table
from segjax.ops.cross_entropy import softmax_cross_entropy
from segjax.ops.packed import Packed, Window, unpack
from segjax.ops.resize import resize_bilinear


class Rule(NamedTuple):
    """How scores become logits: resize to ``size``, then keep the top left ``crop``.

    ``align_corners`` is that of bilinear resizing; scores of that size stay as they
    are. ``packed``: None, or the window of scores in packed form
    (:mod:`segjax.ops.packed`). These have more than ``num_classes`` classes, NEVER
    chosen, to fill the lanes. ``spatial``: over how many devices rows are split.
    ``platform``: for which the formulation is chosen (:mod:`segjax.ops.table`).
    """

    size: tuple[int, int]
    crop: tuple[int, int]
    align_corners: bool = False
    packed: Window | None = None
    num_classes: int = 0
    spatial: int = 1
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
        array = unpack(Packed(array, rule.packed))[..., : rule.num_classes]
    array = array.astype(jnp.promote_types(array.dtype, jnp.float32))
    array = resize_bilinear(
        array,
        rule.size,
        align_corners=rule.align_corners,
        # What a TPU has instead of products is for maps between convolutions.
        platform=rule.platform if rule.platform == "cpu" else None,
        spatial=rule.spatial,
    )
    return array[:, : rule.crop[0], : rule.crop[1]]


def cross_entropy_sum(
    scores: Scores, labels: jax.Array
) -> tuple[jax.Array, jax.Array | None]:
    """float32[]: the sum of every pixel's cross-entropy in nats; IGNORE counts 0.

    ``labels`` int[B, H, W] at the input's size. The same as the sum of
    :func:`segjax.ops.cross_entropy.softmax_cross_entropy` of the finished logits.
    Second, what :func:`predictions` returns where it is known by then, else None.
    """
    rule, window = scores.rule, scores.rule.packed
    if window is not None:
        return lanes.cross_entropy_sum(*_with_labels(scores, window, labels)), None
    if _in_strips(scores):
        return strips.cross_entropy_sum(
            scores.array,
            labels,
            rule.size,
            align_corners=rule.align_corners,
            platform=rule.platform,
        )
    return jnp.sum(softmax_cross_entropy(finish(scores), labels)), None


def predictions(scores: Scores) -> jax.Array:
    """int32[B, H, W]: every pixel's class with the best score, the first of equals."""
    rule, window = scores.rule, scores.rule.packed
    if window is not None:
        array = _examples_inside(scores.array)
        found = lanes.predictions(array, window[0] * window[1])
        return unpack(Packed(found.transpose(2, 0, 1, 3), window))[..., 0]
    if _in_strips(scores):
        return strips.predictions(
            scores.array,
            rule.size,
            rule.crop,
            align_corners=rule.align_corners,
            platform=rule.platform,
        )
    return jnp.argmax(finish(scores), -1).astype(jnp.int32)


def _in_strips(scores: Scores) -> bool:
    shape = scores.array.shape[1], scores.array.shape[2], scores.array.shape[3]
    return table.in_strips(scores.rule.spatial, shape, scores.rule.size)


def packed_confusion_matrix(scores: Scores, labels: jax.Array) -> jax.Array:
    """int32[K, K]: rows the truth, columns the prediction, of packed scores.

    Raises:
      ValueError: they are not packed.
    """
    window = scores.rule.packed
    if window is None:
        raise ValueError("the scores are not packed; count their predictions")
    return lanes.confusion_matrix(*_with_labels(scores, window, labels))


def _with_labels(scores: Scores, window: Window, labels: jax.Array):
    """Scores, labels, pixels side by side and classes, for :mod:`segjax.ops.lanes`."""
    array = _examples_inside(scores.array)
    spread = lanes.spread_labels(labels, window, array.shape[3])
    return array, spread, window[0] * window[1], scores.rule.num_classes


def _examples_inside(array: jax.Array) -> jax.Array:
    """[B, h, w, lanes] -> [h, w, B, lanes], as :mod:`segjax.ops.lanes` wants them."""
    return array.transpose(1, 2, 0, 3)

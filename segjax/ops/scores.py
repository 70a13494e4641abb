"""A model's scores before they are full-resolution logits, and how to finish them."""

from typing import NamedTuple

import flax.struct
import jax
import jax.numpy as jnp

from segjax.ops.resize import resize_bilinear


class Rule(NamedTuple):
    """How scores become logits: resize to ``size``, then keep the top left ``crop``.

    ``align_corners`` is that of bilinear resizing; scores of that size stay as they
    are.
    """

    size: tuple[int, int]
    crop: tuple[int, int]
    align_corners: bool = False


@flax.struct.dataclass
class Scores:
    """Class scores ``array`` [B, h, w, K], unfinished, and the ``rule`` to finish them.

    Losses and metrics that can work at the low resolution take these.
    """

    array: jax.Array
    rule: Rule = flax.struct.field(pytree_node=False)


def finish(scores: Scores) -> jax.Array:
    """Logits float32[B, H, W, K] (float64 from float64 scores) at the input's size."""
    rule = scores.rule
    array = scores.array.astype(jnp.promote_types(scores.array.dtype, jnp.float32))
    array = resize_bilinear(array, rule.size, align_corners=rule.align_corners)
    return array[:, : rule.crop[0], : rule.crop[1]]

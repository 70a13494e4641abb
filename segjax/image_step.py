"""The eval step of classifiers: what became of each image.

Their train step is :mod:`segjax.step`'s, whose labels may be one class per image.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.sharding import Mesh

from segjax import sharding
from segjax.augment import prepare_eval
from segjax.losses.image import ImageLoss
from segjax.top import ranks


def make_image_eval_step(
    model: nn.Module,
    loss: ImageLoss,
    mesh: Mesh,
    *,
    mean: tuple[float, ...],
    std: tuple[float, ...],
    dtype=jnp.float32,
) -> Callable:
    """The jitted function (variables, batch) -> label, prediction, rank, loss.

    ``batch`` is an evaluation batch of classification (:mod:`segjax.batch`). The first
    three are int32[B] of the whole batch, on every process: a few bytes per image,
    from which the host counts the confusion matrix; ``rank`` is
    :func:`segjax.top.ranks`'. ``loss`` float32[] is the mean over the batch's images.
    """

    def eval_step(variables, batch):
        images = prepare_eval(batch["image"], batch["size"], mean, std)
        images = jax.lax.with_sharding_constraint(
            images.astype(dtype), sharding.batch_sharding(mesh)
        )
        logits = jnp.asarray(model.apply(variables, images, train=False))
        label = batch["label"]
        return {
            "label": label,
            "prediction": jnp.argmax(logits, -1).astype(jnp.int32),
            "rank": ranks(logits, label),
            "loss": loss.value(logits, label),
        }

    return jax.jit(
        eval_step,
        in_shardings=(None, sharding.batch_sharding(mesh)),
        out_shardings=sharding.replicated(mesh),
    )

"""The loss of whole images' classes: cross-entropy with weights and smoothing."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp

from segjax.batch import NO_CLASS
from segjax.losses.pair import Pair, ratio
from segjax.ops.cross_entropy import is_class, reduce_dtype


def image_cross_entropy(
    logits: jax.Array,
    labels: jax.Array,
    *,
    class_weights: tuple[float, ...] | None = None,
    label_smoothing: float = 0.0,
) -> Pair:
    """Softmax cross-entropy, as ``torch.nn.functional.cross_entropy`` averages it.

    Args:
      logits: float[B, K].
      labels: int[B], class ids or NO_CLASS; any other id counts.
      class_weights: K factors >= 0.
      label_smoothing: the share of the target spread evenly over the classes, 0 to 1.
    """
    classes, dtype = logits.shape[-1], reduce_dtype(logits.dtype)
    weights = jnp.asarray(class_weights or (1.0,) * classes, dtype)[None, :]
    hit = is_class(labels, classes)
    even = jnp.where(labels != NO_CLASS, label_smoothing / classes, 0)
    share = jnp.where(hit, 1 - label_smoothing, 0) + even[:, None]
    cost = -jnp.sum(share * weights * jax.nn.log_softmax(logits.astype(dtype)))
    return Pair(cost, jnp.sum(jnp.where(hit, weights, 0)))


@dataclass(frozen=True)
class ImageLoss:
    """What :class:`segjax.losses.Loss` is for pixels, for logits [B, K]."""

    class_weights: tuple[float, ...] | None = None
    label_smoothing: float = 0.0

    def _pair(self, logits: jax.Array, labels: jax.Array) -> Pair:
        return image_cross_entropy(
            logits,
            labels,
            class_weights=self.class_weights,
            label_smoothing=self.label_smoothing,
        )

    def counts(self, labels: jax.Array) -> jax.Array:
        """float[1]: what the loss divides by; sums over batches."""
        if self.class_weights is None:
            return jnp.sum(labels != NO_CLASS, dtype=jnp.int32).astype(float)[None]
        hit = is_class(labels, len(self.class_weights))
        weights = jnp.asarray(self.class_weights, float)[None, :]
        return jnp.sum(jnp.where(hit, weights, 0))[None]

    def value(
        self, logits: jax.Array, labels: jax.Array, counts: jax.Array | None = None
    ) -> jax.Array:
        """float32[]: the loss to minimise, over ``counts`` or the labels' own."""
        pair = self._pair(logits, labels)
        return pair.value if counts is None else ratio(pair.total, counts[0])

    def of_scores(
        self, scores: jax.Array, labels: jax.Array, counts: jax.Array | None = None
    ) -> tuple[jax.Array, None]:
        """:meth:`value`: a classifier's scores are its logits."""
        return self.value(scores, labels, counts), None

"""Losses on logits: ``f(logits, labels, **options) -> Pair(total, count)``.

``logits`` are float[B, H, W, K] and ``labels`` int[B, H, W] with IGNORE = 255. The
value is ``total / count`` over the global batch, computed in float32 (float64 for
float64 logits); a batch without valid pixels has value 0 and gradients exactly 0.

:data:`LOSSES` maps names to functions, :data:`OPTIONS` a name to the options it
reads. :func:`build_loss` mixes several by weight. The options, once:

==================  ===========================  ========================  =========
option              read by                      meaning                   default
==================  ===========================  ========================  =========
class_weights       cross_entropy, ohem_..,      factor per class          None
                    focal
label_smoothing     cross_entropy, ohem_..       share spread evenly       0
ohem_threshold      ohem_cross_entropy           keep p_true below this    0.7
ohem_min_kept       ohem_cross_entropy           fraction kept at least    0.0625
focal_gamma         focal                        exponent of 1 - p         2
dice_smooth         dice                         pixels                    1
tversky_alpha       tversky                      price of false positives  0.3
tversky_beta        tversky                      price of false negatives  0.7
tversky_smooth      tversky                      pixels                    1
lovasz_per_image    lovasz_softmax               mean over images          False
boundary_width      boundary                     pixels (int)              8
==================  ===========================  ========================  =========
"""

import inspect
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from segjax.losses.boundary import boundary
from segjax.losses.pair import (
    Pair,
    labelled_images,
    ratio,
    valid_pixels,
    weighted_pixels,
)
from segjax.losses.pixel import cross_entropy, focal, ohem_cross_entropy
from segjax.losses.region import dice, lovasz_softmax, tversky
from segjax.names import check_known
from segjax.ops.scores import Scores, cross_entropy_sum, finish

LOSSES: dict[str, Callable[..., Pair]] = {
    f.__name__: f
    for f in (
        cross_entropy,
        ohem_cross_entropy,
        focal,
        dice,
        tversky,
        lovasz_softmax,
        boundary,
    )
}
"""Loss name -> function."""

OPTIONS: dict[str, tuple[str, ...]] = {
    name: tuple(
        p.name
        for p in inspect.signature(f).parameters.values()
        if p.kind is p.KEYWORD_ONLY
    )
    for name, f in LOSSES.items()
}
"""Loss name -> the options that it reads."""


def count_of(name: str, labels: jax.Array, options: dict[str, Any]) -> jax.Array:
    """float[]: the ``count`` that the loss returns for these labels."""
    if "class_weights" in OPTIONS[name]:
        return weighted_pixels(labels, options.get("class_weights"))
    if options.get("lovasz_per_image"):
        return labelled_images(labels)
    return valid_pixels(labels)


@dataclass(frozen=True)
class Loss:
    """A weighted sum of losses, each divided by its own count."""

    names: tuple[str, ...]
    weights: tuple[float, ...]
    functions: tuple[Callable[..., Pair], ...]
    options: tuple[dict[str, Any], ...]

    def counts(self, labels: jax.Array) -> jax.Array:
        """float[T]: each term's count for int[B, H, W] labels; sums over batches."""
        return jnp.stack(
            [
                count_of(name, labels, options)
                for name, options in zip(self.names, self.options, strict=True)
            ]
        )

    def terms(
        self, logits: jax.Array, labels: jax.Array, counts: jax.Array | None = None
    ) -> dict[str, jax.Array]:
        """Name -> float[]: each term, unweighted; for logs and for :meth:`value`."""
        pairs = [f(logits, labels) for f in self.functions]
        divisors = [p.count for p in pairs] if counts is None else list(counts)
        return {
            name: ratio(pair.total, divisor)
            for name, pair, divisor in zip(self.names, pairs, divisors, strict=True)
        }

    def value(
        self, logits: jax.Array, labels: jax.Array, counts: jax.Array | None = None
    ) -> jax.Array:
        """float32[] (float64 for float64 logits): the loss to minimise.

        Args:
          logits: float[B, H, W, K].
          labels: int[B, H, W].
          counts: float[T], the sum of :meth:`counts` over the micro-batches whose
            values will be added up; None for these labels' own.
        """
        terms = self.terms(logits, labels, counts)
        return sum(
            (w * terms[n] for n, w in zip(self.names, self.weights, strict=True)),
            start=jnp.zeros((), next(iter(terms.values())).dtype),
        )

    @property
    def _sums_cross_entropy(self) -> bool:
        """Whether the value is the plain sum of every pixel's cross-entropy."""
        plain = not any(self.options[0].values())
        return self.names == ("cross_entropy",) and plain

    def of_scores(
        self, scores: Scores, labels: jax.Array, counts: jax.Array | None = None
    ) -> tuple[jax.Array, jax.Array | None]:
        """:meth:`value` of a model's unfinished scores, in their own form if it can.

        Second, the predictions int32[B, H, W], where they were found on the way.
        """
        if not self._sums_cross_entropy:
            return self.value(finish(scores), labels, counts), None
        total, predicted = cross_entropy_sum(scores, labels)
        count = (self.counts(labels) if counts is None else counts)[0]
        return self.weights[0] * ratio(total, count), predicted


def build_loss(
    names: str,
    weights: Sequence[float] | None = None,
    *,
    platform: str | None = None,
    **options: Any,
) -> Loss:
    """The loss called ``names``, such as "cross_entropy" or "cross_entropy+dice".

    Args:
      names: names from :data:`LOSSES`, joined by "+".
      weights: one factor per name; None or empty for ones.
      platform: for which formulations are chosen (:mod:`segjax.ops.table`).
      **options: see the module; options of losses that are not named have no effect.

    Raises:
      ValueError: an unknown name or option, or weights that do not fit.
    """
    chosen = tuple(name.strip() for name in names.split("+"))
    for name in chosen:
        check_known("loss", name, LOSSES)
    if len(set(chosen)) != len(chosen):
        raise ValueError(f"loss '{names}' names a loss twice; add up its weights")
    weights = tuple(float(w) for w in weights or (1.0,) * len(chosen))
    if len(weights) != len(chosen):
        raise ValueError(
            f"loss '{names}' has {len(chosen)} terms but {len(weights)} weights "
            f"{weights}; give one weight per term"
        )
    known = {option for of_one in OPTIONS.values() for option in of_one}
    for option in options:
        check_known("loss option", option, known)
    _check_values(options)
    if options.get("class_weights") is not None:
        options["class_weights"] = tuple(float(w) for w in options["class_weights"])
    used = tuple(
        {k: v for k, v in options.items() if k in OPTIONS[name]} for name in chosen
    )
    functions = tuple(
        _function(LOSSES[name], platform, of_one)
        for name, of_one in zip(chosen, used, strict=True)
    )
    return Loss(chosen, weights, functions, used)


def _function(
    loss: Callable[..., Pair], platform: str | None, options: dict[str, Any]
) -> Callable[..., Pair]:
    """A loss with its options, and with the platform if it asks for one."""
    if "platform" in inspect.signature(loss).parameters:
        options = options | {"platform": platform}
    return partial(loss, **options)


_RANGES = {
    "label_smoothing": (0.0, 1.0),
    "ohem_threshold": (0.0, 1.0),
    "ohem_min_kept": (0.0, 1.0),
    "focal_gamma": (0.0, math.inf),
    "dice_smooth": (0.0, math.inf),
    "tversky_alpha": (0.0, math.inf),
    "tversky_beta": (0.0, math.inf),
    "tversky_smooth": (0.0, math.inf),
    "boundary_width": (1, 127),
}


def _check_values(options: dict[str, Any]) -> None:
    for name, (low, high) in _RANGES.items():
        if name in options and not low <= options[name] <= high:
            raise ValueError(
                f"loss option {name}={options[name]} must lie in [{low}, {high}]"
            )
    weights = options.get("class_weights")
    if weights is not None and not all(0 <= w < math.inf for w in weights):
        raise ValueError(
            f"loss option class_weights={tuple(weights)} must be finite and >= 0"
        )

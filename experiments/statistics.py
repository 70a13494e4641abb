"""How sure a comparison of two variants is: over seeds and over images.

The data of a variant is int[S, N, K, K]: the confusion matrix of each of N evaluation
images after the training with each of S seeds. Two variants share seeds and images, so
what is judged is their difference per seed. It varies from seed to seed, and it would
be another on other images: :func:`compare` takes both into account, as radiology does
with few readers who all read the same cases (Dorfman, Berbaum & Metz 1992, Invest.
Radiol. 27; Hillis, Obuchowski & Berbaum 2005, Stat. Med. 24): pseudo-values by the
jackknife over images, a crossed analysis of variance of them, a t test with
Satterthwaite's degrees of freedom.

A bootstrap over 3 seeds undercovers (it has 10 distinct resamples, and their variance
is 2/3 of the true one): :func:`bootstrap` is there to be compared with. The
error rates of all of them are in docs/statistics.md.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import optimize, stats

from experiments.scores import Metric

LEVEL = 0.05  # of a test; intervals cover 1 - LEVEL
POWER = 0.8  # with which the detectable difference would be found


@dataclass(frozen=True)
class Spread:
    """The mean over seeds, the seeds' standard deviation, the mean's interval."""

    mean: float
    sd: float
    low: float
    high: float


def spread(values: Sequence[float] | np.ndarray, level: float = LEVEL) -> Spread:
    """Student's interval for the mean over seeds, the images being as they are.

    Raises:
      ValueError: fewer than two values have no spread.
    """
    values = np.asarray(values, np.float64)
    if values.size < 2:
        raise ValueError(f"{values.size} seed has no spread; run 2 seeds or more")
    mean, sd = float(values.mean()), float(values.std(ddof=1))
    half = float(stats.t.ppf(1 - level / 2, values.size - 1)) * sd / values.size**0.5
    return Spread(mean, sd, mean - half, mean + half)


@dataclass(frozen=True)
class Comparison:
    """First minus second variant: the effect and how sure it is.

    ``p`` is two-sided. ``detectable`` is the difference that the same study would find
    with a probability of 80 %. ``seed_sd`` is the standard deviation of the difference
    over seeds, ``image_sd`` that of the effect over samples of so many images.
    """

    effect: float
    se: float
    df: float
    low: float
    high: float
    p: float
    detectable: float
    seed_sd: float
    image_sd: float


def jackknife(parts: np.ndarray, metric: Metric) -> tuple[np.ndarray, np.ndarray]:
    """Scores and each image's pseudo-values of them.

    Args:
      parts: float64[..., N, 3, K] per image (:func:`experiments.scores.reduce`).
      metric: of their sums.

    Returns:
      float64[...] scores; float64[..., N] pseudo-values whose mean is the score: N
      times the score less N - 1 times that without the image, moved to that mean
      (Hillis et al. 2005).
    """
    images = parts.shape[-3]
    total = parts.sum(-3)
    score = metric(total)
    without = metric(total[..., None, :, :] - parts)
    pseudo = (images - 1) * (without.mean(-1, keepdims=True) - without)
    return score, pseudo + score[..., None]


def crossed(pseudo: np.ndarray) -> tuple[np.ndarray, ...]:
    """Effect, standard error, degrees of freedom of differences float64[..., S, N].

    Seeds and images are both random and crossed. With the mean squares of seeds,
    images and the rest, the variance of the mean is (MS_seeds + max(MS_images -
    MS_rest, 0)) / SN. Its degrees of freedom are Satterthwaite's for the mean squares
    that enter it, and at least S - 1. (Those of Hillis 2007, Stat. Med. 26, leave out
    the last two: with 3 seeds they reject too often at the small levels that Holm's
    correction asks for.)

    Returns:
      effect, se, df, and the variance that images alone contribute: float64[...].
    """
    seeds, images = pseudo.shape[-2:]
    per_seed, per_image = pseudo.mean(-1), pseudo.mean(-2)
    effect = per_seed.mean(-1)
    ms_seeds = images * per_seed.var(-1, ddof=1)
    ms_images = seeds * per_image.var(-1, ddof=1)
    rest = pseudo - per_seed[..., :, None] - per_image[..., None, :]
    rest = rest + effect[..., None, None]
    ms_rest = (rest**2).sum((-1, -2)) / ((seeds - 1) * (images - 1))
    of_images = np.maximum(ms_images - ms_rest, 0)
    both = ms_seeds + of_images
    spread = ms_images**2 / (images - 1) + ms_rest**2 / ((seeds - 1) * (images - 1))
    spread = ms_seeds**2 / (seeds - 1) + np.where(of_images > 0, spread, 0)
    least = np.full(np.shape(both), float(seeds - 1))
    df = np.divide(both**2, spread, out=least, where=spread > 0)
    df = np.maximum(df, seeds - 1)
    size = seeds * images
    return effect, np.sqrt(both / size), df, of_images / size


def two_sided(effect, se, df) -> Any:
    """P of Student's test; 1 where there is no difference at all, 0 if always one."""
    effect, se, df = np.broadcast_arrays(*map(np.asarray, (effect, se, df)))
    t = np.divide(
        np.abs(effect), se, out=np.where(effect == 0, 0.0, np.inf), where=se > 0
    )
    return 2 * stats.t.sf(t, df)


def compare(
    first: np.ndarray, second: np.ndarray, metric: Metric, level: float = LEVEL
) -> Comparison:
    """First minus second: float64[S, N, 3, K] each, of the same seeds and images.

    Raises:
      ValueError: the shapes differ, or there are fewer than two seeds or images.
    """
    if first.shape != second.shape:
        raise ValueError(
            f"the variants have (seeds, images) {first.shape[:2]} and "
            f"{second.shape[:2]}; compare what both have"
        )
    if min(first.shape[:2]) < 2:
        raise ValueError(
            f"{first.shape[0]} seeds and {first.shape[1]} images are too few to tell "
            "chance from effect; run 2 or more, better 3 to 5"
        )
    (a, pseudo_a), (b, pseudo_b) = jackknife(first, metric), jackknife(second, metric)
    effect, se, df, of_images = map(float, crossed(pseudo_a - pseudo_b))
    half = float(stats.t.ppf(1 - level / 2, df)) * se
    return Comparison(
        effect=effect,
        se=se,
        df=df,
        low=effect - half,
        high=effect + half,
        p=float(two_sided(effect, se, df)),
        detectable=detectable(se, df, level),
        seed_sd=float((a - b).std(ddof=1)),
        image_sd=of_images**0.5,
    )


def power(effect: float, se: float, df: float, level: float = LEVEL) -> float:
    """Probability that the two-sided t test finds a true effect (noncentral t)."""
    limit, shift = stats.t.ppf(1 - level / 2, df), abs(effect) / se
    found = float(stats.nct.sf(limit, df, shift))
    if shift < 5:
        # Beyond, it is below 3e-7 (the normal's own tail), and scipy may give NaN.
        found += float(stats.nct.cdf(-limit, df, shift))
    return found


def detectable(
    se: float, df: float, level: float = LEVEL, wanted: float = POWER
) -> float:
    """The smallest true effect that the test would find with that probability."""
    if se == 0:
        return 0.0

    def missing(shift: float) -> float:
        return power(shift, 1.0, df, level) - wanted

    most = 10 * float(stats.t.ppf(1 - level / 2, df)) + 10
    return se * float(optimize.brentq(missing, 0.1, most))  # pyright: ignore


def holm(p: Sequence[float]) -> list[float]:
    """P of each of several comparisons, adjusted (Holm 1979, Scand. J. Stat. 6).

    To reject where the adjusted p is below 5 % errs in any of them in 5 % of studies.
    """
    order = np.argsort(p)
    factors = np.arange(len(p), 0, -1)
    stepped = np.maximum.accumulate(np.asarray(p)[order] * factors)
    adjusted = np.empty(len(p))
    adjusted[order] = np.minimum(stepped, 1.0)
    return [float(value) for value in adjusted]


def bootstrap(
    first: np.ndarray,
    second: np.ndarray,
    metric: Metric,
    *,
    draws: int = 2000,
    seed: int = 0,
    over: Sequence[str] = ("seeds", "images"),
) -> np.ndarray:
    """float64[..., draws]: the effect in resamples of images, of seeds, or of both.

    A draw takes images with replacement, the same for both variants and all seeds, and
    sums their confusion matrices anew; and seeds likewise. ``first`` and ``second``:
    float64[..., S, N, 3, K].

    Raises:
      ValueError: ``over`` names neither seeds nor images.
    """
    if not over or set(over) - {"seeds", "images"}:
        raise ValueError(f"over={over!r} must name seeds, images or both")
    rng = np.random.default_rng(seed)
    both = np.stack([first, second], -5)
    seeds, images = both.shape[-4:-2]
    if "images" in over:
        weights = rng.multinomial(images, np.full(images, 1 / images), size=draws)
    else:
        weights = np.ones((1, images))
    # [draws, N] x [..., 2, S, N, 3, K]: the sums of every draw.
    sums = np.einsum(
        "dn,...nck->...dck", weights.astype(np.float64), both, optimize=True
    )
    scores = metric(sums)
    differences = scores[..., 0, :, :] - scores[..., 1, :, :]
    if "seeds" in over:
        chosen = rng.multinomial(seeds, np.full(seeds, 1 / seeds), size=draws) / seeds
    else:
        chosen = np.full((draws, seeds), 1 / seeds)
    return (differences * chosen.T).sum(-2)


def percentiles(draws: np.ndarray, level: float = LEVEL) -> tuple[Any, Any]:
    """The bootstrap's percentile interval: float64[..., draws] -> two float64[...]."""
    low, high = np.quantile(draws, (level / 2, 1 - level / 2), axis=-1)
    return low, high

"""The statistics of a study's runs: one number per variant, one verdict per pair."""

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from experiments import scores, statistics
from experiments.statistics import LEVEL, Comparison, Spread
from experiments.store import Store
from experiments.study import Study

COSTS = ("parameters", "macs", "seconds")


@dataclass(frozen=True)
class Variant:
    """A variant's finished runs: scores by seed, their spread, the cost."""

    seeds: tuple[int, ...]
    values: tuple[float, ...]  # of the primary metric
    spread: Spread | None  # None: fewer than two seeds
    per_class: Mapping[str, float | None]  # mean IoU over seeds
    cost: Mapping[str, float]  # parameters, multiply-adds, seconds of the fastest run


@dataclass(frozen=True)
class Pair:
    """One comparison of the study; ``adjusted`` is p after Holm.

    ``found.detectable`` is for the verdict: at 5 % over the number of comparisons.
    """

    first: str
    second: str
    seeds: tuple[int, ...]
    found: Comparison
    adjusted: float
    bootstrap: tuple[float, float]

    @property
    def sure(self) -> bool:
        """Whether there is a difference, at 5 % over all comparisons."""
        return self.adjusted < LEVEL


@dataclass(frozen=True)
class Analysis:
    """All that is told about a study."""

    study: Study
    variants: Mapping[str, Variant]
    pairs: tuple[Pair, ...]
    runs: Mapping[tuple[str, int], Mapping[str, Any]]
    checks: Sequence[Mapping[str, Any]] = ()  # of these runs, made again


def analyse(study: Study, store: Store, draws: int = 2000) -> Analysis:
    """Statistics of the runs that there are; comparisons want two seeds of both."""
    runs = {key: line for key, line in store.runs().items() if key in set(study.runs)}
    counts = {key: store.counts(*key) for key in runs}
    _same_images(store, counts)
    classes = next(iter(counts.values()))["names"] if counts else None
    metric = scores.metric(study.primary, None if classes is None else list(classes))
    parts = {key: scores.reduce(found["counts"]) for key, found in counts.items()}
    variants = {}
    for name in study.variants:
        seeds = tuple(s for s in study.seeds if (name, s) in runs)
        if seeds:
            values = tuple(float(metric(parts[name, s].sum(0))) for s in seeds)
            lines = [runs[name, s] for s in seeds]
            variants[name] = Variant(
                seeds=seeds,
                values=values,
                spread=statistics.spread(values) if len(seeds) > 1 else None,
                per_class=_mean_over(line["iou_per_class"] for line in lines),
                # All but seconds are the same; what else the machine did only adds.
                cost={key: float(min(x[key] for x in lines)) for key in COSTS},
            )
    pairs = _pairs(study, parts, metric, draws)
    return Analysis(study, variants, pairs, runs, store.checks(runs))


def _pairs(
    study: Study,
    parts: Mapping[tuple[str, int], np.ndarray],
    metric: scores.Metric,
    draws: int,
) -> tuple[Pair, ...]:
    """The study's comparisons, as far as there are runs for them."""
    found = []
    for first, second in study.comparisons:
        shared = [s for s in study.seeds if {(first, s), (second, s)} <= {*parts}]
        if len(shared) > 1:
            a, b = (np.stack([parts[v, s] for s in shared]) for v in (first, second))
            drawn = statistics.bootstrap(a, b, metric, draws=draws)
            low, high = map(float, statistics.percentiles(drawn))
            compared = statistics.compare(a, b, metric)
            found.append((first, second, tuple(shared), compared, (low, high)))
    adjusted = statistics.holm([compared.p for *_, compared, _ in found])

    def judged(compared: Comparison) -> Comparison:
        # Holm takes the smallest p so many times: 5 % by itself is not its level.
        level = LEVEL / len(found)
        least = statistics.detectable(compared.se, compared.df, level)
        return dataclasses.replace(compared, detectable=least)

    return tuple(
        Pair(first, second, seeds, judged(compared), p, interval)
        for (first, second, seeds, compared, interval), p in zip(
            found, adjusted, strict=True
        )
    )


def _mean_over(
    rows: Iterable[Mapping[str, float | None]],
) -> dict[str, float | None]:
    """Of each class over the runs where it has a value."""
    listed, means = list(rows), {}
    for name in listed[0]:
        there = [value for row in listed if (value := row[name]) is not None]
        means[name] = float(np.mean(there)) if there else None
    return means


def _same_images(store: Store, counts: Mapping[Any, Mapping[str, np.ndarray]]) -> None:
    """Refuse runs that were scored on different images."""
    # And on the same labels: the pixels of each class in each image.
    listed = [
        (key, (found["ids"].tolist(), found["counts"].sum(-1).tolist()))
        for key, found in counts.items()
    ]
    for key, scored in listed:
        if scored != listed[0][1]:
            first, other = ("-".join(map(str, k)) for k in (listed[0][0], key))
            raise ValueError(
                f"{store.folder}: {first} and {other} were scored on different images "
                "or labels; "
                "remove the lines of one kind and run them again"
            )

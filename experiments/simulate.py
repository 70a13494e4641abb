"""Error rates of the statistics, over simulated studies of two variants.

    python -m experiments.simulate [--studies 2000]

Record: docs/results/statistics.json; docs/statistics.md is written from it. A simulated
study is what a real one is: confusion matrices of S seeds x N images for each of two
variants. A class's recall in a run on an image is, on the logit scale, the class's own,
plus what the seed did (to all classes, and to each), plus how hard the image is, plus
noise; a scenario may add what *this variant* makes of *this image* whatever the seed,
and an effect. Rates are of a test at 5 %.
"""

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import stats

from benchmarks import record
from experiments import scores, statistics

RECORD = record.ROOT / "docs" / "results" / "statistics.json"
PAGE = record.ROOT / "docs" / "statistics.md"
# Mean recall (logit) and share of pixels of five classes, and who is taken for whom.
RECALL = np.array([3.0, 2.0, 1.0, 0.0, -0.7])
SHARE = np.array([0.45, 0.30, 0.15, 0.07, 0.03])
CONFUSED = np.array(
    [
        [0.0, 0.5, 0.3, 0.1, 0.1],
        [0.6, 0.0, 0.2, 0.1, 0.1],
        [0.4, 0.4, 0.0, 0.1, 0.1],
        [0.3, 0.3, 0.3, 0.0, 0.1],
        [0.2, 0.4, 0.3, 0.1, 0.0],
    ]
)
PIXELS = 10_000  # of an image
METRIC = scores.METRICS["miou"]
DRAWS = 400  # of a bootstrap
FOUR = 4  # comparisons, the smallest p of which Holm multiplies
SMALL = "at 1.25 %: "


@dataclass(frozen=True)
class Scenario:
    """Standard deviations on the logit scale, and the size of the study."""

    seeds: int
    images: int = 100
    seed_sd: float = 0.08  # of a run, for all classes and again for each
    image_sd: float = 0.6  # of an image, the same for every run
    noise_sd: float = 0.4  # of a run on an image
    variant_image_sd: float = 0.0  # of a variant on an image, whatever the seed
    effect: float = 0.0  # added to every recall of the first variant


SCENARIOS = {
    "A against A, 3 seeds": Scenario(3),
    "A against A, 5 seeds": Scenario(5),
    "A against A, 3 seeds, seeds vary most": Scenario(3, seed_sd=0.2),
    "A against A, 5 seeds, seeds vary most": Scenario(5, seed_sd=0.2),
    "equal on average, each better on its images, 3 seeds": Scenario(
        3, variant_image_sd=0.8
    ),
    "equal on average, each better on its images, 5 seeds": Scenario(
        5, variant_image_sd=0.8
    ),
    "both: its images, and seeds vary most, 3 seeds": Scenario(
        3, seed_sd=0.2, variant_image_sd=0.8
    ),
    "both: its images, and seeds vary most, 5 seeds": Scenario(
        5, seed_sd=0.2, variant_image_sd=0.8
    ),
    "an effect, 3 seeds": Scenario(3, effect=0.15),
    "a larger effect, 3 seeds": Scenario(3, effect=0.3),
    "an effect, 5 seeds": Scenario(5, effect=0.15),
    "a smaller effect, 5 seeds": Scenario(5, effect=0.1),
}


def simulate(
    scenario: Scenario, studies: int, rng: np.random.Generator, variants: int = 2
) -> np.ndarray:
    """float64[studies, variants, S, N, 3, K]: hits, truth, guesses of every image."""
    v, s, n, k = variants, scenario.seeds, scenario.images, len(RECALL)

    def normal(sd: float, *shape: int) -> np.ndarray:
        return sd * rng.standard_normal((studies, *shape))

    truth = rng.dirichlet(8 * SHARE, size=(studies, n)) * PIXELS
    truth = np.rint(truth)[:, None, None]
    logit = RECALL + normal(scenario.image_sd, 1, 1, n, 1)
    logit = logit + normal(scenario.seed_sd, v, s, 1, 1)
    logit = logit + normal(scenario.seed_sd, v, s, 1, k)
    logit = logit + normal(scenario.noise_sd, v, s, n, 1)
    if scenario.variant_image_sd:
        logit = logit + normal(scenario.variant_image_sd, v, 1, n, 1)
    logit[:, 0] += scenario.effect
    hits = np.rint(truth / (1 + np.exp(-logit)))
    wrong = truth - hits
    guesses = hits + np.rint(wrong @ CONFUSED)
    return np.stack([hits, np.broadcast_to(truth, hits.shape), guesses], -2)


def tests(data: np.ndarray, draws: int = 0) -> dict[str, np.ndarray]:
    """Per study: whether each method rejects; with effects and their spread.

    ``draws`` 0 leaves the bootstraps out.
    """
    first, second = data[:, 0], data[:, 1]
    (a, pseudo_a), (b, pseudo_b) = (
        statistics.jackknife(x, METRIC) for x in (first, second)
    )
    effect, se, df, of_images = statistics.crossed(pseudo_a - pseudo_b)
    level, seeds = statistics.LEVEL, a.shape[1]
    sd = (a - b).std(-1, ddof=1)
    hillis = (seeds - 1) * (se**2 / (se**2 - of_images)) ** 2
    p = {
        "crossed": statistics.two_sided(effect, se, df),
        "Hillis's df": statistics.two_sided(effect, se, hillis),
        "t over seeds": statistics.two_sided(effect, sd / seeds**0.5, seeds - 1),
        "t, not paired": np.asarray(stats.ttest_ind(a, b, axis=1, equal_var=False)[1]),
    }
    found = {name: values < level for name, values in p.items()}
    found |= {f"{SMALL}{name}": v < level / FOUR for name, v in p.items()}
    for name, over in (
        ("bootstrap of images", ["images"]),
        ("bootstrap of seeds", ["seeds"]),
        ("bootstrap of both", ["seeds", "images"]),
    ):
        if draws:
            drawn = statistics.bootstrap(first, second, METRIC, draws=draws, over=over)
            low, high = statistics.percentiles(drawn)
            found[name] = (low > 0) | (high < 0)
    images = pseudo_a.shape[-1]
    spread = {
        "effect": effect,
        "seed_variance": a.var(-1, ddof=1),
        "image_variance": pseudo_a.var(-1, ddof=1).mean(-1) / images,
    }
    return found | {f"_{name}": values for name, values in spread.items()}


def measure(name: str, studies: int, draws: int = DRAWS) -> dict[str, Any]:
    """A scenario's row: rates, and the power that the noncentral t promises."""
    scenario = SCENARIOS[name]
    rng = np.random.default_rng([len(name), *name.encode()])
    chunks, size = [], 20 if draws else 200
    for start in range(0, studies, size):
        data = simulate(scenario, min(size, studies - start), rng)
        chunks.append(tests(data, draws))
    joined = {key: np.concatenate([c[key] for c in chunks]) for key in chunks[0]}
    effect = joined["_effect"]
    row: dict[str, Any] = {
        "studies": studies,
        "true_effect": float(effect.mean()),
        "effect_sd": float(effect.std(ddof=1)),
        # Of one run's score: over seeds, and over samples of so many images.
        "seed_sd": float(joined["_seed_variance"].mean() ** 0.5),
        "image_sd": float(joined["_image_variance"].mean() ** 0.5),
        "rates": {k: float(v.mean()) for k, v in joined.items() if k[0] != "_"},
    }
    if scenario.effect:
        row["power"] = statistics.power(
            row["true_effect"], row["effect_sd"], scenario.seeds - 1
        )
    return row


def family(scenario: Scenario, studies: int, variants: int = 5) -> dict[str, Any]:
    """Equal variants against the first: how often any of them 'differs'."""
    rng = np.random.default_rng(scenario.seeds)
    plain = adjusted = 0
    for _ in range(studies):
        data = simulate(scenario, 1, rng, variants)[0]
        _, pseudo = statistics.jackknife(data, METRIC)
        effect, se, df, _ = statistics.crossed(pseudo[:1] - pseudo[1:])
        p = statistics.two_sided(effect, se, df)
        plain += bool((p < statistics.LEVEL).any())
        adjusted += min(statistics.holm(list(p))) < statistics.LEVEL
    return {
        "studies": studies,
        "rates": {"each by itself": plain / studies, "Holm": adjusted / studies},
    }


def _percent(value: float) -> str:
    return f"{100 * value:.1f} %"


def page(content: Mapping[str, Any]) -> str:
    """docs/statistics.md from the record."""
    rows = content["rows"]
    null = [name for name in SCENARIOS if not SCENARIOS[name].effect]
    powered = [name for name in SCENARIOS if SCENARIOS[name].effect]
    methods = [m for m in rows[null[0]]["rates"] if not m.startswith(SMALL)]
    small = [m for m in rows[null[0]]["rates"] if m.startswith(SMALL)]

    def null_line(name: str) -> list[str]:
        row = rows[name]
        sds = f"{100 * row['seed_sd']:.1f} : {100 * row['image_sd']:.1f}"
        return [name, sds, *(_percent(row["rates"][m]) for m in methods)]

    def power_line(name: str) -> list[str]:
        row = rows[name]
        points = (f"{100 * row[key]:.2f}" for key in ("true_effect", "effect_sd"))
        rates = (row["power"], *(row["rates"][m] for m in POWERED))
        return [name, *points, *map(_percent, rates)]

    tables = {
        "null": record.table(
            ("no difference", "SD of a score by seeds : by images", *methods),
            [null_line(name) for name in null],
        ),
        "small": record.table(
            ("rejected at 1.25 %", *(m.removeprefix(SMALL) for m in small)),
            [(n, *(_percent(rows[n]["rates"][m]) for m in small)) for n in null],
        ),
        "power": record.table(
            ("there is", "points", "SD of the estimate", "computed", *POWERED),
            [power_line(name) for name in powered],
        ),
        "family": record.table(
            ("any of four comparisons rejected", *rows[next(iter(FAMILIES))]["rates"]),
            [(n, *map(_percent, rows[n]["rates"].values())) for n in FAMILIES],
        ),
    }
    studies = min(row["studies"] for row in rows.values())
    return TEXT.format(where=record.where(content), studies=f"{studies:,}", **tables)


POWERED = ("crossed", "t over seeds", "t, not paired")
BOTH = "both: its images, and seeds vary most"
FAMILIES = {
    "five equal variants, 3 seeds": Scenario(3),
    "five variants equal on average, both, 3 seeds": SCENARIOS[f"{BOTH}, 3 seeds"],
    "five variants equal on average, both, 5 seeds": SCENARIOS[f"{BOTH}, 5 seeds"],
}
TEXT = """\
# How sure a study is, and how often it errs

```bash
python -m experiments.simulate     # docs/results/statistics.json, and this page
```

A study trains each variant with the same few seeds and scores every run on the same
images. Its comparison of two variants (`experiments/statistics.py`) is a t test on the
differences per seed whose variance also holds what other images would have changed:
pseudo-values of the mIoU by the jackknife over images, the crossed analysis of variance
of seeds x images, Satterthwaite's degrees of freedom. Radiology has used it for readers
x cases since Dorfman, Berbaum & Metz (1992); seeds are the readers. p is adjusted for
the number of comparisons after Holm.

The tables are of {studies} simulated studies each, of 100 images and five classes,
down to 3 % of the pixels (`experiments/simulate.py`). A test at 5 % should reject in
5 % of those where there is nothing to find:

{null}

- **crossed** is what studies use. With 3 seeds it holds where seeds, or images that a
  variant likes, vary most; where both do, it rejects somewhat too often, and Holm's p
  with it (last table). With 5 seeds it holds in all of these.
- **Hillis's df** are what radiology uses now. With 3 seeds they do well at 5 %, but not
  at smaller levels (below).
- **t over seeds** is exact for these images. But where each variant has images of its
  own that it is better on, whatever the seed, it takes the luck of the sample for an
  effect.
- **t, not paired** (Welch) takes no notice that two runs share a seed. Where sharing
  brings nothing, as here, it finds more of what there is; it errs like the one before
  on other images.
- **bootstrap of images** is what a comparison of two single runs can do. It does not
  know that another seed would have given another run.
- **bootstrap of seeds** and **of both**: 3 seeds have ten resamples, whose variance is
  2/3 of the true one, and a percentile interval knows no t. Where seeds vary most not
  even 5 are enough.

The smallest p of four comparisons is multiplied by four, so the tests have to hold at
1.25 %, too. With 3 seeds and images of their own crossed errs in more; how far below
0.001 a p is, nothing here tells, and the tables of studies do not say:

{small}

Known effects are found as often as the noncentral t with (seeds - 1) degrees of
freedom promises, within 5 points. `detectable` is computed from it too, with the
comparison's own degrees of freedom, and at 5 % over the number of the study's
comparisons, as Holm takes the smallest p: what such a study finds in 80 % of cases.
Three seeds find large ones only:

{power}

Several comparisons in one study, without and with Holm's adjustment:

{family}

{where}
"""


def main() -> int:
    """Simulate what the record lacks; write the page."""
    parser = record.parser(__doc__)
    record.add_flags(parser)
    parser.add_argument("--studies", type=int, default=2000)
    args = parser.parse_args()
    cases: dict[str, Any] = {
        name: lambda name=name: measure(name, args.studies) for name in SCENARIOS
    }
    for name, scenario in FAMILIES.items():
        cases[name] = lambda scenario=scenario: family(scenario, args.studies)
    failed = record.carry_out(
        RECORD, cases, "python -m experiments.simulate", args, page
    )
    PAGE.write_text(page(record.read(RECORD)))
    return failed


if __name__ == "__main__":
    sys.exit(main())

"""Search any config keys: a grid, at random, or by successive halving.

    python -m experiments.sweep configs/resnet_unet.py --workdir runs/sweeps/a
        --method halving --trials 9 --set optim.lr=log:1e-4:1e-1 model.decoder=unet,fpn

A key's values are listed with commas, or drawn: ``log:LOW:HIGH``, ``uniform:LOW:HIGH``,
``int:LOW:HIGH``. Each trial is a ``segjax train`` in a process and a workdir of its
own; called again, the command goes on from what is finished. Successive halving
(Jamieson & Talwalkar 2016) trains all trials for a fraction of the steps and the best
1/eta of them for eta times as many, until the last have all of them; each rung starts
anew, because a schedule belongs to its length. ``sweep.md`` in the workdir has the
scores. The best of many trials is too good by chance: confirm it with a study, on
other seeds.
"""

import argparse
import itertools
import json
import math
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.record import table
from experiments import scores, store
from experiments.run import process, refuse_another
from segjax import config as configs

METHODS = ("grid", "random", "halving")
OF_CLASSIFIERS = ("top1", "top5")
Trial = dict[str, str]
"""Config key -> value, as the command line takes it."""


@dataclass(frozen=True)
class Range:
    """Values between two bounds: uniform, uniform of the logarithm, or whole."""

    kind: str
    low: float
    high: float

    def draw(self, rng: np.random.Generator) -> str:
        """One of them."""
        if self.kind == "int":
            return str(int(rng.integers(int(self.low), int(self.high) + 1)))
        if self.kind == "log":
            low, high = math.log(self.low), math.log(self.high)
            return repr(float(f"{math.exp(rng.uniform(low, high)):.4g}"))
        return repr(float(f"{rng.uniform(self.low, self.high):.4g}"))


Space = Mapping[str, Range | tuple[str, ...]]


def parse(texts: Sequence[str]) -> dict[str, Range | tuple[str, ...]]:
    """``KEY=VALUES`` each; see the module.

    Raises:
      ValueError: what is no key, no range, or no list.
    """
    space: dict[str, Range | tuple[str, ...]] = {}
    known = configs.flatten(configs.default())
    for text in texts:
        key, equals, values = text.partition("=")
        if not equals or not values:
            raise ValueError(f"--set {text}: write KEY=A,B or KEY=log:LOW:HIGH")
        if key not in known and not key.startswith("optim.lr_multipliers."):
            raise ValueError(f"--set {key}: no config key{configs.nearest(key, known)}")
        kind, *bounds = values.split(":")
        if kind not in ("log", "uniform", "int") or not bounds:
            space[key] = tuple(_split(values))
            continue
        try:
            low, high = map(float, bounds)
        except ValueError:
            low = high = math.nan
        if not low < high or (kind == "log" and low <= 0):
            raise ValueError(
                f"--set {text}: write {kind}:LOW:HIGH, two numbers"
                f"{' above 0' if kind == 'log' else ''} in this order"
            )
        space[key] = Range(kind, low, high)
    return space


def _split(text: str) -> list[str]:
    """At commas, but not within brackets: '(64, 64),(96, 128)' are two values."""
    parts, depth = [""], 0
    for letter in text:
        depth += (letter in "([") - (letter in ")]")
        if letter == "," and not depth:
            parts.append("")
        else:
            parts[-1] += letter
    return [part.strip() for part in parts]


def grid(space: Space) -> list[Trial]:
    """Every combination.

    Raises:
      ValueError: a range has no end of values.
    """
    for key, values in space.items():
        if isinstance(values, Range):
            raise ValueError(
                f"--set {key}: a grid takes values with commas, not a range; write "
                "them down or use --method random"
            )
    combined = itertools.product(*(v for v in space.values() if isinstance(v, tuple)))
    return [dict(zip(space, values, strict=True)) for values in combined]


def draw(space: Space, trials: int, seed: int) -> list[Trial]:
    """So many at random; more of them begin with the same ones."""
    found = []
    for number in range(trials):
        rng = np.random.default_rng([seed, number])
        found.append(
            {
                key: values.draw(rng)
                if isinstance(values, Range)
                else values[int(rng.integers(len(values)))]
                for key, values in space.items()
            }
        )
    return found


def rungs(trials: int, steps: int, eta: int, least: int) -> list[tuple[int, int]]:
    """(trials, steps) of each rung of successive halving, the last with all steps.

    Raises:
      ValueError: numbers with which nothing is halved.
    """
    if eta < 2 or not 0 < least <= steps:
        raise ValueError(
            f"--eta {eta} --min-steps {least}: write 2 or more, and 1 to {steps} steps"
        )
    count = min(int(math.log(trials, eta) + 1e-9), int(math.log(steps / least, eta)))
    return [
        (max(trials // eta**i, 1), round(steps / eta ** (count - i)))
        for i in range(count + 1)
    ]


@dataclass(frozen=True)
class Sweep:
    """Trials of a config file in a folder; ``fixed`` are overrides for all of them."""

    config: Path
    fixed: tuple[str, ...]
    workdir: Path
    metric: str = "miou"
    jobs: int = 1

    def score(self, trial: Trial, name: str, steps: int | None = None) -> float:
        """Train a trial, unless its workdir is finished; its metric."""
        workdir = self.workdir / name
        given = [f"--config.{key}={value}" for key, value in trial.items()]
        if steps is not None:
            given += [f"--config.steps={steps}", "--config.epochs=None"]
        flags = [*self.fixed, *given]
        wanted = configs.load(str(self.config), flags)
        path = workdir / "result.json"
        refuse_another(wanted, workdir)
        if not path.is_file():
            command = ["train", "--config", str(self.config), *flags]
            with store.locked(self.workdir / f"{name}.lock") as held:
                log = self.workdir / f"{name}.log"
                command += ["--workdir", str(workdir)]
                process("segjax.main", command, log, held)
        return float(json.loads(path.read_text())[self.metric])

    def scores(self, trials: Mapping[str, Trial], steps: int | None = None):
        """Name -> metric of each trial; a failed one is told and has -inf."""

        def attempt(item: tuple[str, Trial]) -> float:
            name = item[0] if steps is None else f"{item[0]}-{steps}"
            try:
                found = self.score(item[1], name, steps)
            except ValueError as error:
                print(f"{name}: FAILED {error}", flush=True)
                return -math.inf
            print(f"{name}: {self.metric} {found:.4f} {item[1]}", flush=True)
            return found

        with ThreadPoolExecutor(self.jobs) as pool:
            return dict(zip(trials, pool.map(attempt, trials.items()), strict=True))


def halve(
    sweep: Sweep, trials: Mapping[str, Trial], steps: int, eta: int, least: int
) -> list[tuple[str, int, float]]:
    """Successive halving: (name, steps, score) of every training, in order."""
    alive, rows, found = dict(trials), [], {}
    for count, length in rungs(len(trials), steps, eta, least):
        if rows:
            ranked = sorted(alive, key=lambda name: -found[name])
            ranked = [name for name in ranked if found[name] > -math.inf]
            if not ranked:
                raise ValueError("every trial of a rung failed: nothing to choose from")
            alive = {name: alive[name] for name in ranked[:count]}
        found = sweep.scores(alive, length)
        rows += [(name, length, found[name]) for name in alive]
    return rows


def text(metric: str, trials: Mapping[str, Trial], rows: Sequence[tuple]) -> str:
    """sweep.md: the longest trainings first, the best of them on top."""
    ranked = sorted(rows, key=lambda row: (-row[1], -row[2]))
    keys = list(next(iter(trials.values())))
    lines = [
        (name, steps, *(trials[name][k] for k in keys), f"{score:.4f}")
        for name, steps, score in ranked
    ]
    return table(("trial", "steps", *keys, metric), lines) + "\n"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m experiments.sweep",
        description=(__doc__ or "").split("\n")[0],
        allow_abbrev=False,
    )
    parser.add_argument("config", type=Path, help="a config file")
    parser.add_argument("--set", nargs="+", action="extend", required=True)
    parser.add_argument("--method", choices=METHODS, default="random")
    parser.add_argument("--trials", type=int, default=9, help="random and halving")
    parser.add_argument("--seed", type=int, default=0, help="of the draws")
    parser.add_argument("--eta", type=int, default=3, help="halving: kept is 1/eta")
    parser.add_argument("--min-steps", type=int, default=1, help="of the first rung")
    known = [*scores.METRICS, *OF_CLASSIFIERS]
    parser.add_argument("--metric", choices=known, help="default: miou, or top1")
    parser.add_argument("--workdir", type=Path, required=True)
    parser.add_argument("--jobs", type=int, default=1, metavar="N", help="at a time")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """The command; 0 only if every trial came to its end."""
    argv = list(sys.argv[1:] if argv is None else argv)
    fixed = [flag for flag in argv if flag.startswith("--config.")]
    args: Any = _parser().parse_args([flag for flag in argv if flag not in fixed])
    try:
        space = parse(args.set)
        base = configs.load(str(args.config), fixed)
        if args.trials < 1:
            raise ValueError(f"--trials {args.trials}: write 1 or more")
        classes = base.task == "classification"
        metric = args.metric or ("top1" if classes else "miou")
        if (metric in OF_CLASSIFIERS) != classes:
            known = OF_CLASSIFIERS if classes else (*scores.METRICS,)
            raise ValueError(
                f"--metric {metric}: a run of {base.task} has {', '.join(known)}"
            )
        drawn = grid(space) if args.method == "grid" else None
        if drawn is None:
            drawn = draw(space, args.trials, args.seed)
        trials = {f"trial-{i:03}": trial for i, trial in enumerate(drawn)}
        places = args.config.absolute(), args.workdir.absolute()
        sweep = Sweep(places[0], tuple(fixed), places[1], metric, args.jobs)
        if args.method == "halving":
            if base.steps is None:
                raise ValueError(
                    f"{args.config} has epochs, but halving counts in steps; write "
                    "--config.epochs=None --config.steps=N"
                )
            rows = halve(sweep, trials, base.steps, args.eta, args.min_steps)
        else:
            found = sweep.scores(trials)
            rows = [(name, base.steps or 0, score) for name, score in found.items()]
        told = text(metric, trials, rows)
        (sweep.workdir / "sweep.md").write_text(told)
    except (ValueError, OSError) as error:
        print(f"experiments.sweep: {error}", file=sys.stderr)
        return 2
    print(told)
    return int(any(score == -math.inf for *_, score in rows))


if __name__ == "__main__":
    sys.exit(main())

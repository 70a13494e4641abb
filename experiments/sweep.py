"""Search any config keys: a grid, at random, by halving, or by what scored well.

    pip install 'segjax[experiments]'
    python -m experiments.sweep configs/resnet_unet.py --workdir runs/sweeps/a
        --method halving --trials 9 --set optim.lr=log:1e-4:1e-1 model.decoder=unet,fpn

A key's values are listed with commas, or drawn: ``log:LOW:HIGH``, ``uniform:LOW:HIGH``,
``int:LOW:HIGH``. Optuna draws them: independently, or with ``--method tpe`` (Bergstra
et al. 2011) where the scores so far promise most; ``sweep.json`` then keeps what it
drew. Each trial is a ``segjax train`` in a process and a workdir of its own; called
again, the command goes on from what is finished. Successive halving
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

try:
    import optuna
    from optuna.distributions import (
        BaseDistribution,
        CategoricalDistribution,
        FloatDistribution,
        IntDistribution,
        distribution_to_json,
    )
except ImportError as error:
    raise SystemExit(
        f"experiments.sweep: {error}; pip install 'segjax[experiments]'"
    ) from error

from benchmarks.record import table
from experiments import scores, store
from experiments.run import process, refuse_another
from segjax import config as configs
from segjax.writing import write_text

METHODS = ("grid", "random", "halving", "tpe")
STARTUP = 5  # trials of tpe that are drawn at random first
OF_CLASSIFIERS = ("top1", "top5")
Trial = dict[str, str]
"""Config key -> value, as the command line takes it."""


Space = Mapping[str, BaseDistribution]


def parse(texts: Sequence[str]) -> dict[str, BaseDistribution]:
    """``KEY=VALUES`` each; see the module.

    Raises:
      ValueError: what is no key, no range, or no list.
    """
    space: dict[str, BaseDistribution] = {}
    known = configs.flatten(configs.default())
    for text in texts:
        key, equals, values = text.partition("=")
        if not equals or not values:
            raise ValueError(f"--set {text}: write KEY=A,B or KEY=log:LOW:HIGH")
        if key not in known and not configs.is_open(key):
            raise ValueError(f"--set {key}: no config key{configs.nearest(key, known)}")
        kind, *bounds = values.split(":")
        if kind not in ("log", "uniform", "int") or not bounds:
            space[key] = CategoricalDistribution(tuple(_split(values)))
            continue
        try:
            low, high = map(float, bounds)
        except ValueError:
            low = high = math.nan
        fractions = kind == "int" and not (low.is_integer() and high.is_integer())
        if not low < high or fractions or (kind == "log" and low <= 0):
            raise ValueError(
                f"--set {text}: write {kind}:LOW:HIGH, two"
                f"{' whole' if kind == 'int' else ''} numbers"
                f"{' above 0' if kind == 'log' else ''} in this order"
            )
        if kind == "int":
            space[key] = IntDistribution(int(low), int(high))
        else:
            space[key] = FloatDistribution(low, high, log=kind == "log")
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
    listed = {}
    for key, values in space.items():
        if not isinstance(values, CategoricalDistribution):
            raise ValueError(
                f"--set {key}: a grid takes values with commas, not a range; write "
                "them down or use --method random"
            )
        listed[key] = [str(value) for value in values.choices]
    combined = itertools.product(*listed.values())
    return [dict(zip(listed, values, strict=True)) for values in combined]


class Drawn:
    """Trials that Optuna draws, numbered from 0; ``tpe`` learns from their scores.

    Each number has a sampler with a seed of its own: what is drawn does not depend on
    how often the command was interrupted, and more trials begin with the same ones.
    """

    def __init__(self, space: Space, seed: int, tpe: bool = False):
        self.space, self.seed, self.tpe = dict(space), seed, tpe
        level = optuna.logging.get_verbosity()
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self.study = optuna.create_study(direction="maximize")
        optuna.logging.set_verbosity(level)

    def ask(self, known: Mapping[str, Any] | None = None) -> optuna.Trial:
        """The next trial; ``known`` are the parameters that it had before."""
        if known is not None:
            self.study.enqueue_trial(dict(known))
        sequence = np.random.SeedSequence([self.seed, len(self.study.trials)])
        seed = int(sequence.generate_state(1)[0])
        self.study.sampler = (
            optuna.samplers.TPESampler(seed=seed, n_startup_trials=STARTUP)
            if self.tpe
            else optuna.samplers.RandomSampler(seed=seed)
        )
        return self.study.ask(self.space)

    def tell(self, trial: optuna.Trial, score: float) -> None:
        """Its score; -inf is a failure, of which nothing is learned."""
        if score == -math.inf:
            self.study.tell(trial, state=optuna.trial.TrialState.FAIL)
        else:
            self.study.tell(trial, score)


def settings(trial: optuna.Trial) -> Trial:
    """What it sets, as the command line takes it: numbers to four digits."""
    return {
        key: repr(float(f"{value:.4g}")) if isinstance(value, float) else str(value)
        for key, value in trial.params.items()
    }


def draw(space: Space, trials: int, seed: int) -> list[Trial]:
    """So many at random; more of them begin with the same ones."""
    drawn = Drawn(space, seed)
    return [settings(drawn.ask()) for _ in range(trials)]


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


def learn(
    sweep: Sweep, space: Space, count: int, seed: int
) -> tuple[dict[str, Trial], dict[str, float]]:
    """The trials that tpe draws, ``sweep.jobs`` at a time, and their scores.

    What was drawn before an interruption, or before a trial failed, stays drawn.

    Raises:
      ValueError: the workdir is of another search.
    """
    sweep.workdir.mkdir(parents=True, exist_ok=True)
    path = sweep.workdir / "sweep.json"
    shape = {key: distribution_to_json(value) for key, value in space.items()}
    kept: dict[str, Any] = {"seed": seed, "space": shape, "drawn": []}
    if path.is_file():
        try:
            kept = json.loads(path.read_text())
            same = (kept["seed"], kept["space"]) == (seed, shape)
            kept["drawn"] = list(kept["drawn"])
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f"{path} is damaged; remove it, or its folder") from error
        if not same:
            raise ValueError(
                f"{path} is of another --set or --seed; name a new --workdir"
            )
    drawn = Drawn(space, seed, tpe=True)
    trials: dict[str, Trial] = {}
    found: dict[str, float] = {}
    while len(found) < count:
        batch = {}
        for number in range(len(found), min(len(found) + sweep.jobs, count)):
            trial = drawn.ask(*kept["drawn"][number : number + 1])
            kept["drawn"][number:] = [trial.params, *kept["drawn"][number + 1 :]]
            batch[f"trial-{number:03}"] = trial
        write_text(path, json.dumps(kept, indent=1))
        new = {name: settings(trial) for name, trial in batch.items()}
        for name, score in sweep.scores(new).items():
            drawn.tell(batch[name], score)
            found[name] = score
        trials.update(new)
    return trials, found


def search(
    sweep: Sweep, space: Space, args: Any, steps: int | None
) -> tuple[dict[str, Trial], list[tuple[str, int, float]]]:
    """The trials of the command's flags, and (name, steps, score) of each training.

    Raises:
      ValueError: flags or a config with which nothing can be searched.
    """
    if args.method == "tpe":
        trials, found = learn(sweep, space, args.trials, args.seed)
    else:
        drawn = (
            grid(space)
            if args.method == "grid"
            else draw(space, args.trials, args.seed)
        )
        trials = {f"trial-{i:03}": trial for i, trial in enumerate(drawn)}
        if args.method == "halving":
            for key in {"steps", "epochs"} & {*space}:
                raise ValueError(f"--set {key}: halving chooses the steps itself")
            if steps is None:
                raise ValueError(
                    f"{args.config} has epochs, but halving counts in steps; write "
                    "--config.epochs=None --config.steps=N"
                )
            return trials, halve(sweep, trials, steps, args.eta, args.min_steps)
        found = sweep.scores(trials)
    return trials, [(name, steps or 0, score) for name, score in found.items()]


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
    parser.add_argument("--trials", type=int, default=9, help="of all but grid")
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
        places = args.config.absolute(), args.workdir.absolute()
        sweep = Sweep(places[0], tuple(fixed), places[1], metric, args.jobs)
        trials, rows = search(sweep, space, args, base.steps)
        told = text(metric, trials, rows)
        (sweep.workdir / "sweep.md").write_text(told)
    except (ValueError, OSError) as error:
        print(f"experiments.sweep: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("experiments.sweep: stopped; the same command goes on", file=sys.stderr)
        return 130
    print(told)
    return int(any(score == -math.inf for *_, score in rows))


if __name__ == "__main__":
    sys.exit(main())

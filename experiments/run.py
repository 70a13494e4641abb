"""Run what a study lacks, one process per run, and write down what came of it.

    python -m experiments.run experiments/NAME.py [--only V ...] [--seeds S ...]

Each run is a `segjax train` in runs/studies/NAME/VARIANT-SEED (killed ones resume), and
is kept in experiments/results/NAME/ as soon as it is finished, and with it table.md,
verdict.md, the figures and the index in experiments/README.md: called again, only what
is missing is run. ``--commit`` puts each into git at once. ``--check`` runs again what
is recorded, compares, and notes in checks.jsonl what came of it; of all runs the table
is compared, too. On another platform than the records' it compares with the first check
there. ``--smoke`` makes two steps of each variant; ``--report`` runs nothing.
"""

import argparse
import contextlib
import hashlib
import importlib.util
import json
import shlex
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import numpy as np

from experiments import checks, lock, report, scores, store, study
from experiments.analysis import analyse
from segjax import config as configs

ROOT = study.FOLDER.parent
RUNS = Path("runs", "studies")
SMOKE = (
    *("--config.epochs=None", "--config.steps=2", "--config.optim.warmup_steps=0"),
    *("--config.eval.every=None", "--config.checkpoint.every=None"),
    "--config.logs.every=1",
)
KEPT = (
    *("miou", "pixel_accuracy", "class_accuracy", "fwiou", "dice", "loss"),
    *("iou_per_class", "absent_classes", "pixels", "split", "steps", "seconds"),
    *("parameters", "environment"),
)


@dataclass(frozen=True)
class Runner:
    """Carries out runs of a study into a store; ``runs`` holds their workdirs."""

    study: study.Study
    store: store.Store
    runs: Path
    keep: bool = False  # checkpoints, after a run is recorded
    extra: tuple[str, ...] = ()  # flags for every run

    def workdir(self, variant: str, seed: int) -> Path:
        """Where a run trains."""
        return self.runs / f"{variant}-{seed}"

    def flags(self, variant: str, seed: int) -> list[str]:
        """The overrides of a run."""
        return [*self.study.overrides(variant, seed), *self.extra]

    def command(self, variant: str, seed: int) -> list[str]:
        """The command of a run, from ``train`` on, in the checkout's root."""
        path, workdir = self.study.path, self.workdir(variant, seed)
        config, workdir = (
            str(p.relative_to(ROOT) if p.is_relative_to(ROOT) else p)
            for p in (path, workdir)
        )
        flags = self.flags(variant, seed)
        return ["train", "--config", config, *flags, "--workdir", workdir]

    def run(self, variant: str, seed: int) -> str:
        """Train, count, record; one line about how it went. Errors are raised."""
        start, name = time.monotonic(), f"{variant}-{seed}"
        workdir, log = self.workdir(variant, seed), self.runs / f"{name}.log"
        with contextlib.ExitStack() as stack:
            try:
                guard = store.locked(self.runs / f"{name}.lock", wait=False)
                held = stack.enter_context(guard)
            except BlockingIOError:
                raise ValueError(f"another process is at {workdir}") from None
            if (variant, seed) in self.store.runs():
                return f"{name}: done already"
            refuse_another(self.config(variant, seed), workdir)
            finished = (workdir / "result.json").is_file()
            if finished and not (workdir / "checkpoints").exists():
                # It was recorded once, and its line has been taken out since.
                shutil.rmtree(workdir)
            if not (workdir / "result.json").is_file():
                process("segjax.main", self.command(variant, seed), log, held)
            process("experiments.count", [str(workdir)], log, held)
            line = self.line(variant, seed)
            self.store.add(line, workdir / "counts.npz")
            if not self.keep:
                shutil.rmtree(workdir / "checkpoints", ignore_errors=True)
        seconds, rate = time.monotonic() - start, _images_per_s(workdir)
        score = 100 * line["miou"]
        return f"{name}: mIoU {score:.2f} in {seconds:.0f} s, {rate:.1f} images/s"

    def config(self, variant: str, seed: int) -> configs.Config:
        """Of a run, with the flags for every run."""
        return configs.load(str(self.study.path), self.flags(variant, seed))

    def line(self, variant: str, seed: int) -> dict[str, Any]:
        """What is kept of a finished run."""
        workdir = self.workdir(variant, seed)
        result = json.loads((workdir / "result.json").read_text())
        config = configs.from_json((workdir / "config.json").read_text())
        with np.load(workdir / "counts.npz") as counted:
            truth = counted["counts"].sum(-1, dtype=np.int64)
            ids, macs = list(map(str, counted["ids"])), int(counted["macs"])
        digest = hashlib.sha256(json.dumps([ids, truth.tolist()]).encode())
        return {
            "study": self.study.name,
            "variant": variant,
            "seed": seed,
            "command": shlex.join(["segjax", *self.command(variant, seed)]),
            "config": study.settings(config),
            **{key: result[key] for key in KEPT},
            "macs": macs,
            # Of the evaluation images: their names, and each one's pixels per class.
            "data": {"examples": len(ids), "sha256": digest.hexdigest()},
            "lock": lock.differences(),
            "finished": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        }


def _images_per_s(workdir: Path) -> float:
    """Of the last training line."""
    lines = map(json.loads, (workdir / "metrics.jsonl").read_text().splitlines())
    return [x["images_per_s"] for x in lines if x["split"] == "train"][-1] or 0.0


def process(module: str, arguments: Sequence[str], log: Path, held: int) -> None:
    """Run a module in a process of its own; its words go to a file.

    It keeps the descriptor of the run's lock: if this process is killed and the child
    lives on, nobody else begins the same run.

    Raises:
      ValueError: it failed; with its last words.
    """
    with log.open("a") as file:
        done = subprocess.run(
            [sys.executable, "-m", module, *arguments],
            cwd=ROOT,
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=subprocess.STDOUT,
            pass_fds=(held,),
        )
    if done.returncode:
        words = log.read_text().strip().splitlines()[-1:] or ["nothing"]
        raise ValueError(
            f"{log}: {module} ended with {done.returncode}; it said: {words[0]}"
        )


def refuse_another(wanted: configs.Config, workdir: Path) -> None:
    """Refuse a workdir that another config has begun.

    `segjax train` goes on with more steps: half of such a run had another schedule.

    Raises:
      ValueError: with the first key that differs.
    """
    path = workdir / "config.json"
    if not path.is_file():
        return
    changed = configs.differences(wanted, configs.from_json(path.read_text()))
    for key, (now, then) in changed.items():
        raise ValueError(
            f"{workdir} was begun with {key} = {then!r}, now it is {now!r}; remove it"
        )


def missing(
    wanted: Sequence[tuple[str, int]], made: study.Study, kept: store.Store
) -> list[tuple[str, int]]:
    """The runs that the store lacks.

    Raises:
      ValueError: the store has a run of another config than the study's now.
    """
    runs = kept.runs()
    for variant, seed in wanted:
        if (variant, seed) not in runs:
            continue
        now = study.settings(made.config(variant, seed))
        # As the line was: through JSON.
        now, then = json.loads(json.dumps(now)), runs[variant, seed]["config"]
        for key in sorted({*now, *then}):
            if now.get(key) != then.get(key):
                raise ValueError(
                    f"{kept.path}: {variant}-{seed} was run with {key} = "
                    f"{then.get(key)!r}, the study says {now.get(key)!r}; a changed "
                    "study is another one: name it anew, or remove its results"
                )
    return [run for run in wanted if run not in runs]


def refuse_unknown_classes(made: study.Study, runs: Sequence[tuple[str, int]]) -> None:
    """Refuse a primary metric of classes that the runs' data have not, beforehand.

    Raises:
      ValueError: with the classes that there are.
    """
    if made.primary in scores.METRICS:
        return
    from segjax import setup  # and JAX: the other studies' runs have it themselves

    found = [made.config(*run) for run in dict(runs).items()]  # one of each variant
    for config in {repr(config.data.to_dict()): config for config in found}.values():
        spec = setup.open_split(config, config.data.eval_split).spec
        scores.metric(made.primary, spec.names)


def carry_out(
    runner: Runner,
    runs: Sequence[tuple[str, int]],
    jobs: int,
    after: Callable[[str], object] = lambda said: None,
) -> list[str]:
    """Do the runs, so many at a time; returns what failed, and goes on after it.

    ``after`` is called with what each finished run says of itself, one at a time.
    """
    failed, turn = [], threading.Lock()

    def attempt(run: tuple[str, int]) -> None:
        try:
            said = runner.run(*run)
            with turn:
                after(said)
        except (ValueError, OSError) as error:
            said = f"{run[0]}-{run[1]}: FAILED {error}"
            failed.append(said)
        print(said, flush=True)

    with ThreadPoolExecutor(jobs) as pool:
        list(pool.map(attempt, runs))
    return failed


def commit(folder: Path, message: str) -> None:
    """Commit a study's results and the index, and nothing else.

    Raises:
      ValueError: git would not.
    """
    paths = [str(folder), str(folder.parents[1] / "README.md")]
    for words in (["add", *paths], ["commit", "-q", "-m", message, "--", *paths]):
        done = subprocess.run(
            ["git", "-C", str(folder), *words], capture_output=True, text=True
        )
        if done.returncode:
            told = " ".join((done.stderr or done.stdout).split())
            raise ValueError(f"git {words[0]} in {folder}: {told}")


def check(made: study.Study, kept: store.Store, wanted, jobs: int) -> list[str]:
    """Run again what is recorded; returns a line for each that is not the same.

    One for table.md, too, where all runs were made again on the records' platform.
    """
    recorded = kept.runs()
    runs = [run for run in wanted if run in recorded]
    if not runs:
        raise ValueError(f"{kept.path}: none of the runs asked for is recorded")
    with tempfile.TemporaryDirectory(prefix="segjax-check-") as folder:
        again = store.Store(Path(folder, "results"))
        runner = Runner(made, again, Path(folder, "runs"))
        failed, compared = carry_out(runner, runs, jobs), []
        for variant, seed in [run for run in runs if run in again.runs()]:
            counts, before = (s.counts(variant, seed)["counts"] for s in (again, kept))
            was, now = recorded[variant, seed], again.runs()[variant, seed]
            found = checks.line(now, was, counts, before, kept.checks(recorded))
            kept.add_check(found)
            told = checks.outcome(found, was)
            compared.append(found["compared_with"])
            if found["same"] is False:
                failed.append(told)
            else:
                print(told)
        if compared == [checks.RECORD] * len(recorded):
            table = (kept.folder / "table.md").read_text()
            made_again = report.results(analyse(made, again))
            if report.without_times(table) == report.without_times(made_again):
                print("table.md: the same, times aside")
            else:
                failed.append("table.md: not the same, even times aside")
    return failed


def smoke(made: study.Study, wanted, jobs: int) -> list[str]:
    """Two steps of each variant, kept nowhere; returns what failed."""
    with tempfile.TemporaryDirectory(prefix="segjax-smoke-") as folder:
        kept = store.Store(Path(folder, "results"))
        runner = Runner(made, kept, Path(folder, "runs"), extra=SMOKE)
        first = {variant: (variant, seed) for variant, seed in reversed(wanted)}
        return carry_out(runner, list(first.values()), jobs)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m experiments.run", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("study", help="experiments/NAME.py")
    parser.add_argument("--only", nargs="+", default=["*"], metavar="VARIANT")
    parser.add_argument("--seeds", nargs="+", type=int, metavar="SEED")
    parser.add_argument("--jobs", type=int, default=1, metavar="N", help="at a time")
    parser.add_argument("--keep", action="store_true", help="checkpoints, too")
    parser.add_argument("--commit", action="store_true", help="each finished run")
    parser.add_argument("--results", type=Path, default=store.FOLDER, metavar="DIR")
    parser.add_argument("--runs", type=Path, default=RUNS, metavar="DIR")
    modes = parser.add_mutually_exclusive_group()
    modes.add_argument("--check", action="store_true", help="run recorded ones again")
    modes.add_argument("--smoke", action="store_true", help="two steps of each variant")
    modes.add_argument("--report", action="store_true", help="run nothing")
    return parser


def _wanted(made: study.Study, args: argparse.Namespace) -> list[tuple[str, int]]:
    """The runs that the flags name.

    Raises:
      ValueError: they name a variant or a seed that the study has not.
    """
    for pattern in args.only:
        if not any(fnmatchcase(name, pattern) for name in made.variants):
            raise ValueError(
                f"--only {pattern}: {made.path} has no such variant; it has "
                f"{', '.join(made.variants)}"
            )
    unknown = set(args.seeds or ()) - set(made.seeds)
    if unknown:
        raise ValueError(f"--seeds {min(unknown)}: {made.path} has SEEDS {made.seeds}")
    return [
        (variant, seed)
        for variant, seed in made.runs
        if seed in (args.seeds or made.seeds)
        and any(fnmatchcase(variant, pattern) for pattern in args.only)
    ]


def main(argv: Sequence[str] | None = None) -> int:
    """The command; 0 only when all that was asked for is there."""
    args = _parser().parse_args(argv)
    try:
        if importlib.util.find_spec("matplotlib") is None:
            raise ValueError("figures need pip install 'segjax[experiments]'")
        made = study.load(args.study)
        kept = store.Store(args.results.absolute() / made.name)
        wanted, failed = _wanted(made, args), []
        if not args.smoke:
            # All of them: the report is about all that is recorded.
            lacking = [r for r in missing(made.runs, made, kept) if r in wanted]
        if args.smoke:
            refuse_unknown_classes(made, wanted)
            failed = smoke(made, wanted, args.jobs)
        elif args.check:
            failed = check(made, kept, wanted, args.jobs)
            report.write(made, kept)
        else:
            if not args.report:
                runs = (args.runs / made.name).absolute()
                runner = Runner(made, kept, runs, args.keep)

                def after(said: str) -> None:
                    report.write(made, kept)
                    if args.commit:
                        commit(kept.folder, f"Study {made.name}: {said}")

                refuse_unknown_classes(made, lacking)
                failed = carry_out(runner, lacking, args.jobs, after)
            print(report.verdict(report.write(made, kept)))
    except (ValueError, OSError) as error:
        print(f"experiments.run: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("experiments.run: stopped; the same command goes on", file=sys.stderr)
        return 130
    print("\n".join(failed), end="\n" * bool(failed), file=sys.stderr)
    return int(bool(failed))


if __name__ == "__main__":
    sys.exit(main())

"""Runs that are killed at random moments, and end as if they had not been.

    python -m benchmarks.faults.kill_resume [--kills 40] [--only SIGKILL] [--again]

A small run is left alone first; the wall time it takes is T. Then the same command is
started in a new workdir and killed after a time drawn uniformly from 0 to T, started
again, killed again after another such time, and so on, until it ends before its kill;
then comes the next workdir, until there were enough kills and the last is left to end.
Each run's end is compared with that of the run left alone, bit for bit: all arrays of
the checkpoint, every line of metrics.jsonl and result.json but for times, the pictures,
and the CRC-32 of every batch that went to the devices, those fed twice because of a
kill included.

Inside a save is a kill that leaves a checkpoint half written on the disk, or that comes
between the call and that; inside an evaluation, one between its begin and its end
(benchmarks/faults/observed.py). SIGTERM instead lets the run save and end by itself.
Record: docs/results/kill_resume.json.
"""

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import record

RECORD = record.ROOT / "docs" / "results" / "kill_resume.json"
COMMAND = "python -m benchmarks.faults.kill_resume"
CONFIG = record.ROOT / "configs" / "resnet_unet.py"
OPTIONS = """
steps=40
data.image_size=32
data.batch_size=8
data.shapes.train_examples=40
data.shapes.val_examples=100
eval.every=4
eval.batch_size=4
checkpoint.every=2
logs.every=3
logs.pictures=1
optim.ema_decay=0.9
augment.scale=(0.8,1.25)
model.encoder=segnet_basic
model.decoder=segnet_basic
"""
TIMES = ("seconds", "images_per_s", "stall_share")  # of a line or a result
PATIENCE = 600  # seconds


class Watched:
    """A workdir, its trace, and the command that is started in it again and again."""

    def __init__(
        self,
        folder: Path,
        options: Sequence[str],
        cache: Path,
        module: str = "benchmarks.faults.observed",
    ):
        self.workdir, self.trace = folder / "run", folder / "trace"
        self.output = folder / "output"
        folder.mkdir(parents=True)
        self.command = [sys.executable, "-m", module, "train"]
        self.command += ["--config", str(CONFIG), "--workdir", str(self.workdir)]
        self.command += [f"--config.{option}" for option in options]
        # A folder of compiled programs that was given already stays (cache.py).
        self.environment = {
            **os.environ,
            "SEGJAX_CACHE": str(cache),
            "SEGJAX_TRACE": str(self.trace),
        }

    def start(self, moment: float | str | None, number: int) -> tuple[int, float]:
        """Run the command, send it a signal at the moment; exit code, seconds.

        The moment is in seconds, or "save 2": when this start begins its second save.
        """
        begin = time.monotonic()
        known = len(self.lines()) if self.trace.exists() else 0
        with self.output.open("a") as output:
            run = subprocess.Popen(
                self.command,
                env=self.environment,
                cwd=record.ROOT,
                stdout=output,
                stderr=output,
            )
            try:
                if isinstance(moment, str):
                    while run.poll() is None and not self._begun(moment, known):
                        time.sleep(0.002)
                    run.send_signal(number)  # nothing to a process that has ended
                elif moment is not None:
                    try:
                        run.wait(moment)
                    except subprocess.TimeoutExpired:
                        run.send_signal(number)
                code = run.wait(PATIENCE)
            finally:
                run.kill()
                run.wait()
        return code, time.monotonic() - begin

    def lines(self) -> list[dict[str, Any]]:
        """The trace so far."""
        return [json.loads(line) for line in self.trace.read_text().splitlines()]

    def _begun(self, moment: str, known: int) -> bool:
        """Whether what "save 2" names has begun, after the first ``known`` lines."""
        name, count = moment.split()
        lines = self.lines()[known:] if self.trace.exists() else []
        begun = [x for x in lines if x["what"] == name and x.get("at") == "begin"]
        return len(begun) >= int(count)


def interrupted(lines: Sequence[Mapping[str, Any]], workdir: Path) -> dict[str, Any]:
    """What the killed process was doing: {"events": [...], "step": n}.

    ``lines`` are the trace's, of which those since the last start count.
    """
    starts = [i for i, line in enumerate(lines) if line["what"] == "start"]
    mine = lines[starts[-1] :] if starts else []
    begun = [x for x in mine if x.get("at") == "begin"]
    begins = Counter(x["what"] for x in begun)
    ends = Counter(x["what"] for x in mine if x.get("at") == "end")
    events = [name for name in begins - ends if name not in ("advance", "log")]
    # What an earlier kill left half written goes when the workdir is opened.
    half = list((workdir / "checkpoints").glob("*.orbax-checkpoint-tmp*"))
    if half and ends["open"] and "save" not in events:
        events.append("save")
    if not events:
        events = ["steps" if begun else "start"]
    return {"events": sorted(events), "step": begun[-1]["step"] if begun else 0}


def outcome(workdir: Path) -> dict[str, Any]:
    """Everything that must be the same: {what: value or {name: array or value}}."""
    from segjax.checkpoint import find_step, read_arrays

    def timeless(line: Mapping[str, Any]) -> dict[str, Any]:
        return {k: v for k, v in line.items() if k not in TIMES}

    text = (workdir / "metrics.jsonl").read_text()
    result = json.loads((workdir / "result.json").read_text())
    of_result = {k: result[k] for k in result.keys() - {"command", "environment"}}
    folders = {which: find_step(workdir, which) for which in ("latest", "best")}
    pictures = sorted((workdir / "predictions").iterdir())
    return {
        "log": [timeless(json.loads(line)) for line in text.splitlines()],
        "result": timeless(of_result),
        "pictures": {path.name: path.read_bytes() for path in pictures},
        "latest": read_arrays(folders["latest"]),
        "best": read_arrays(folders["best"]),
    }


def fed(lines: Sequence[Mapping[str, Any]]) -> dict[int, set[int]]:
    """Step -> the checksums of what was fed at it, however often."""
    found: dict[int, set[int]] = {}
    for line in lines:
        if line["what"] == "batch":
            found.setdefault(line["step"], set()).add(line["crc32"])
    return found


def differences(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> list[str]:
    """Names of what is not the same, bit for bit."""
    wrong = []
    for name in ("log", "result", "pictures"):
        if ours[name] != theirs[name]:
            wrong.append(name)
    for which in ("latest", "best"):
        a, b = ours[which], theirs[which]
        if a.keys() != b.keys():
            wrong.append(f"{which}: other arrays")
        for name in a.keys() & b.keys():
            same = a[name].dtype == b[name].dtype and a[name].shape == b[name].shape
            if not (same and a[name].tobytes() == b[name].tobytes()):
                wrong.append(f"{which}: {name}")
    return wrong


def order_differences(ours: Mapping[int, set], theirs: Mapping[int, set]) -> list[str]:
    """Steps at which something else was fed (what was only prefetched may lack)."""
    common = ours.keys() & theirs.keys()
    wrong = sorted(step for step in common if ours[step] != theirs[step])
    wrong += sorted(step for step in theirs if len(theirs[step]) != 1)
    return [f"batch {step}" for step in wrong]


def uniform(whole: float, kills: int, log: Sequence[Any], seed: int) -> Iterator[Any]:
    """Moments from 0 to ``whole`` seconds; None once the log has so many kills."""
    rng = np.random.default_rng(seed)
    while True:
        yield float(rng.uniform(0, whole)) if len(log) < kills else None


def measure(
    name: str,
    kills: int,
    *,
    seed: int = 0,
    options: Sequence[str] = (),
    cache: Path | None = None,
    warm: bool = True,
    moments: Iterator[float | str | None] | None = None,
    module: str = "benchmarks.faults.observed",
) -> dict[str, Any]:
    """Kill runs by the signal ``name``; the row of the record.

    ``moments`` are :meth:`Watched.start`'s; by default uniform in the wall time.
    ``module`` is what runs segjax under observation.

    Raises:
      RuntimeError: a run failed, or ended in another way than the one left alone.
    """
    number = int(signal.Signals[name])
    # SIGTERM is exit code 143, or, before the run listens, the end by the signal.
    codes = {-number} | ({143} if name == "SIGTERM" else set())
    options = (*OPTIONS.split(), *options)
    log = []
    with tempfile.TemporaryDirectory() as temporary:
        root = Path(temporary)
        cache = cache or root / "cache"
        cache.mkdir(mode=0o700, exist_ok=True)
        if warm:  # compiles, for all
            first = Watched(root / "warm", options, cache, module)
            check(first.start(None, number)[0] == 0, first, "failed")
        alone = Watched(root / "alone", options, cache, module)
        code, whole = alone.start(None, number)
        check(code == 0, alone, f"exit code {code}")
        expected, order = outcome(alone.workdir), fed(alone.lines())
        moments = moments or uniform(whole, kills, log, seed)
        runs = 0
        while len(log) < kills:
            runs += 1
            run = Watched(root / f"run{runs}", options, cache, module)
            while True:
                moment = next(moments)
                code, seconds = run.start(moment, number)
                if code == 0:
                    break
                check(moment is not None and code in codes, run, f"exit code {code}")
                at = moment if isinstance(moment, float) else seconds
                found = {"run": runs, "seconds": round(at, 3), "code": code}
                log.append(found | interrupted(run.lines(), run.workdir))
            wrong = differences(outcome(run.workdir), expected)
            wrong += order_differences(fed(run.lines()), order)
            check(not wrong, run, f"differs in {', '.join(wrong)}")
    events = Counter(event for kill in log for event in kill["events"])
    return {
        "kills": len(log),
        "runs": runs,
        "inside": dict(sorted(events.items())),
        "whole_run_seconds": round(whole, 2),
        "steps": int(expected["result"]["steps"]),
        "arrays": len(expected["latest"]),
        "lines": len(expected["log"]),
        "batches": len(order),
        "options": list(options),
        "moments": log,
    }


def check(fine: bool, run: Watched, text: str) -> None:
    """Raise a RuntimeError with the end of the run's output unless it is fine."""
    if not fine:
        raise RuntimeError(f"{run.workdir}: {text}: {run.output.read_text()[-600:]}")


def figure(row: Mapping[str, Any]) -> str:
    """What docs/reliability.md says of a row."""
    inside = ", ".join(f"{count} {name}" for name, count in row["inside"].items())
    return f"{row['kills']} signals ({inside}), {row['runs']} runs, all the same"


def render(content: Mapping[str, Any]) -> str:
    """The figures, and where they were measured."""
    lines = [f"{key}: {figure(row)}" for key, row in content["rows"].items()]
    return "\n".join([*lines, record.where(content)])


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure what is missing; returns the exit code."""
    parser = record.parser(__doc__)
    parser.add_argument("--kills", type=int, default=40, help="at least that many")
    record.add_flags(parser)
    args = parser.parse_args(arguments)
    cases = {key: partial(measure, key, args.kills) for key in ("SIGKILL", "SIGTERM")}
    return record.carry_out(RECORD, cases, COMMAND, args, render)


if __name__ == "__main__":
    sys.exit(main())

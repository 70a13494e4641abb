"""Contestants take turns, A B C A B C ..., and what comes of it: rows and tables."""

import json
import os
import select
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks import record
from benchmarks.speed import agreement
from benchmarks.speed.networks import Network

HUGE = "glibc.malloc.hugetlb=1"
WORKER = (sys.executable, "-m", "benchmarks.speed.worker")
PATIENCE = 300
"""Seconds that torch.compile has until its first step is done."""


@dataclass(frozen=True)
class Contestant:
    """``side`` of worker.SIDES, in large memory pages or not."""

    side: str
    huge: bool = False

    @property
    def name(self) -> str:
        """Its key in a row."""
        return self.side + " hugetlb" * self.huge


SEGJAX = Contestant("segjax", huge=True)  # as segjax's launcher starts it
EAGER = (Contestant("torch"), Contestant("torch", huge=True))
COMPILED = (Contestant("compile", huge=True),)


class Worker:
    """A contestant's process (benchmarks/speed/worker.py)."""

    def __init__(self, contestant: Contestant, task: str, network: Network, weights):
        spec = {
            "side": contestant.side,
            "task": task,
            "network": network.fields(),
            "weights": str(weights),
        }
        environment = {**os.environ, "GLIBC_TUNABLES": HUGE * contestant.huge}
        environment["JAX_PLATFORMS"] = "cpu"  # PyTorch's contestants stay there, too
        self.errors = tempfile.TemporaryFile("w+")
        self.process = subprocess.Popen(
            [*WORKER, json.dumps(spec)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.errors,
            text=True,
            env=environment,
            cwd=record.ROOT,
        )

    def answer(self, patience: float | None = None) -> dict[str, Any]:
        """The next line; RuntimeError when it ends, or has none in so many seconds."""
        assert self.process.stdout is not None
        if not select.select([self.process.stdout], [], [], patience)[0]:
            raise RuntimeError(f"not ready after {patience} s")
        line = self.process.stdout.readline()
        if not line:
            self.errors.seek(0)
            last = (self.errors.read().strip() or "no message").splitlines()[-1]
            raise RuntimeError(f"a contestant ended: {last}")
        return json.loads(line)

    def ask(self, question: str) -> dict[str, Any]:
        """Send a line; the answer."""
        assert self.process.stdin is not None
        self.process.stdin.write(question + "\n")
        self.process.stdin.flush()
        return self.answer()

    def end(self) -> None:
        """Stop the process."""
        self.process.kill()
        self.process.communicate()
        self.errors.close()


class Busy:
    """Whether the machine was left to the contest: processor time by /proc."""

    def __init__(self, workers: Iterable[Worker]):
        self._ids = [worker.process.pid for worker in workers]
        self._all, self._own, self._idle = self._now()

    def _now(self) -> tuple[float, float, float]:
        """Ticks of all processors, those of the workers, and those without work."""
        own = 0
        for number in self._ids:
            fields = Path(f"/proc/{number}/stat").read_text().rpartition(")")[2].split()
            own += int(fields[11]) + int(fields[12])
        line = Path("/proc/stat").read_text().split("\n", 1)[0]
        ticks = [int(word) for word in line.split()[1:9]]
        return sum(ticks), own, ticks[3] + ticks[4]

    def others(self) -> float:
        """The share of all processors' time that other processes took."""
        now = self._now()
        total, own, idle = (
            a - b for a, b in zip(now, (self._all, self._own, self._idle), strict=True)
        )
        return max(total - own - idle, 0) / max(total, 1)


def agree(network: Network, weights: Path, gradients: bool) -> dict[str, float]:
    """Write the common weights; the errors between the contestants, within limits.

    Raises:
      ValueError: they do not agree.
    """
    call = [sys.executable, "-m", "benchmarks.speed.agreement"]
    call += [json.dumps(network.fields()), str(weights)]
    call += ["--gradients"] * gradients
    done = subprocess.run(call, cwd=record.ROOT, capture_output=True, text=True)
    if done.returncode:
        last = done.stderr.strip().splitlines()[-1]
        raise RuntimeError(f"the comparison with PyTorch failed: {last}")
    errors = json.loads(done.stdout.splitlines()[-1])
    agreement.check(errors)
    return errors


def contest(
    network: Network,
    task: str,
    contestants: Sequence[Contestant],
    rounds: int,
    steps: int,
    gradients: bool,
) -> dict[str, Any]:
    """A row: errors, and per contestant seconds per step by round and peak memory.

    ``start_seconds`` of segjax are those of a start from its compilation cache.
    """
    with tempfile.TemporaryDirectory() as folder:
        weights = Path(folder, "weights.pth")
        row: dict[str, Any] = {"agreement": agree(network, weights, gradients)}
        workers: dict[str, Worker] = {}
        firsts, row["failed"] = {}, {}
        try:
            # segjax's second start, from its cache: a process that has compiled keeps
            # some 140 MB of that (a resnet50 unet's).
            before = Worker(SEGJAX, task, network, weights)
            try:
                before.answer()
            finally:
                before.end()
            for contestant in contestants:
                worker = Worker(contestant, task, network, weights)
                workers[contestant.name] = worker
                try:
                    # One after the other: compiling takes all processors.
                    optional = contestant.side == "compile"
                    patience = PATIENCE if optional else None
                    firsts[contestant.name] = worker.answer(patience)
                except RuntimeError as error:
                    if contestant.side != "compile":
                        raise
                    row["failed"][contestant.name] = str(error)[:200]
                    workers.pop(contestant.name).end()
            compare_first(task, {name: f["first"] for name, f in firsts.items()})
            turns: dict[str, list[float]] = {name: [] for name in workers}
            busy = Busy(workers.values())
            for _ in range(rounds):
                for name, worker in workers.items():
                    seconds = worker.ask(f"turn {steps}")["seconds"]
                    turns[name].append(statistics.median(seconds))
            row["others_busy"] = round(busy.others(), 3)
            row["seconds_per_step"] = turns
            row["peak_bytes"] = {n: w.ask("peak")["peak"] for n, w in workers.items()}
        finally:
            for worker in workers.values():
                worker.end()
    row["start_seconds"] = {n: f["start_seconds"] for n, f in firsts.items()}
    return row


def compare_first(task: str, firsts: Mapping[str, float]) -> None:
    """What the timed programs themselves computed at first: loss, or mean class.

    Dropout makes losses differ (4 % in a MiT-B0 SegFormer; 17 % were seen in an FPN,
    whose dropout is of whole channels); classes differ where two logits are as good as
    equal. The limits are to see another network, not another rounding.
    """
    ours = firsts[SEGJAX.name]
    limit = {"training": 0.3, "inference": 0.02}[task]
    for name, value in firsts.items():
        if not abs(value - ours) <= limit * abs(ours):
            raise ValueError(
                f"the first {task} step gives {ours} here but {value} by {name}: "
                "nothing is timed"
            )


def ratios(row: Mapping[str, Any], side: str) -> list[float] | None:
    """PyTorch's seconds over segjax's by round, at PyTorch's better memory setting."""
    turns = row["seconds_per_step"]
    rivals = [name for name in turns if name.split()[0] == side]
    if not rivals:
        return None
    best = min(rivals, key=lambda name: statistics.median(turns[name]))
    return [a / b for a, b in zip(turns[best], turns[SEGJAX.name], strict=True)]


def ratio_of_fastest(row: Mapping[str, Any]) -> float:
    """The same between the fastest turns of each: what a machine left alone would say.

    Other programs only ever make a turn longer, and PyTorch's more than segjax's.
    """
    turns = row["seconds_per_step"]
    theirs = min(min(turns[c.name]) for c in EAGER if c.name in turns)
    return theirs / min(turns[SEGJAX.name])


def spread(values: Sequence[float]) -> str:
    """Median and range: "1.21 (1.10-1.30)"."""
    middle = statistics.median(values)
    return f"{middle:.2f} ({min(values):.2f}-{max(values):.2f})"


def compared(slower: Sequence[float], faster: Sequence[float]) -> str:
    """:func:`spread` of the ratios of two contestants' seconds by round."""
    return spread([a / b for a, b in zip(slower, faster, strict=True)])


def peaks(row: Mapping[str, Any]) -> tuple[int, int]:
    """Peak bytes of segjax, and the least of PyTorch's contestants."""
    found = row["peak_bytes"]
    theirs = min(p for name, p in found.items() if name.split()[0] == "torch")
    return found[SEGJAX.name], theirs


def render(content: Mapping[str, Any]) -> str:
    """The record's markdown table and where it comes from."""
    if not content["rows"]:
        return "No row was measured."
    rows = []
    for key, row in content["rows"].items():
        turns = row["seconds_per_step"]
        cells = [key]
        for side in ("segjax", "torch", "compile"):
            own = [turns[name] for name in turns if name.split()[0] == side]
            best = min(map(statistics.median, own), default=None)
            cells.append("-" if best is None else f"{1000 * best:.0f}")
        for side in ("torch", "compile"):
            values = ratios(row, side)
            failed = "fails" if any(side in name for name in row["failed"]) else "-"
            cells.append(spread(values) if values else failed)
        cells.insert(-1, f"{ratio_of_fastest(row):.2f}")
        ours, theirs = peaks(row)
        cells += [f"{ours / 2**20:.0f}", f"{theirs / 2**20:.0f}"]
        cells += [f"{min(map(len, turns.values()))}", f"{row['others_busy']:.0%}"]
        rows.append(cells)
    header = (
        "network, images",
        "segjax ms",
        "PyTorch ms",
        "compiled ms",
        "PyTorch : segjax",
        "fastest turns",
        "compiled : segjax",
        "segjax MiB",
        "PyTorch MiB",
        "rounds",
        "others' CPU",
    )
    return record.table(header, rows) + "\n\n" + record.where(content)


def arguments(text: str | None):
    """The flags of both commands."""
    parser = record.parser(text)
    record.add_flags(parser)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--steps", type=int, default=2, help="timed steps per turn")
    parser.add_argument("--output", type=Path, metavar="FILE", help="another record")
    parser.add_argument(
        "--no-compile",
        dest="compile",
        action="store_false",
        help="leave torch.compile out, which takes minutes (inference)",
    )
    return parser.parse_args()


def main(
    text: str | None,
    task: str,
    networks: Iterable[Network],
    rivals: Sequence[Contestant],
    path: Path,
    command: str,
) -> int:
    """Measure the networks against the rivals, as the flags say; the exit code.

    Gradients are compared where the task is training; ``compiled`` rivals take part
    unless ``--no-compile``.
    """
    args = arguments(text)
    contestants = (SEGJAX, *(c for c in rivals if args.compile or c not in COMPILED))
    cases = {
        network.key: partial(
            contest,
            network,
            task,
            contestants,
            args.rounds,
            args.steps,
            gradients=task == "training",
        )
        for network in networks
    }
    return record.carry_out(args.output or path, cases, command, args, render)

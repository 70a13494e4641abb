"""Where the time of a training step goes, by kind of operation.

    python -m benchmarks.speed.operations [--only "resnet18 unet*"]

Writes docs/results/speed_operations.json.
The step of ``benchmarks.speed.training``, both sides on ONE core: on two, XLA runs a
filter's and an input's gradient at the same time, and neither's time is its cost. So
maps are not put side by side (segjax/ops/beside.py), which is for several cores. Here
JAX's profiler: of each HLO operation the median time of a run, times its runs in
a step, summed by kind; there PyTorch's, of its operators without what they call.
"""

import json
import math
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks import record
from benchmarks.speed.contest import HUGE
from benchmarks.speed.networks import Network
from benchmarks.speed.training import networks

RECORD = record.ROOT / "docs" / "results" / "speed_operations.json"
COMMAND = "python -m benchmarks.speed.operations"
STEPS = 6
COSTLIEST = 12
CONTROL = re.compile(r"(cond|conditional|while|call)[.\d]*(\.clone[.\d]*)*$")
"""Operations whose time is that of others, which the trace has, too."""
INSTRUCTION = re.compile(r"\s*(?:ROOT )?%?([\w.\-]+) = (\(?\w+\[([\d,]*)\].*)")
KINDS = (
    # What an operation's name holds -> its kind, where it multiplies nothing.
    ("optimizer", "optimizer"),
    ("metrics", "metrics"),
    ("loss", "loss"),
    (r"/bn|norm|downsample/1", "norms and activations"),
    ("filter_gradient", "copies for filter gradients"),
    (r"/conv\d?/|/head/|conv_general|input_gradient", "copies for convolutions"),
)
KINDS_SHOWN = (
    *("convolutions forward", "input gradients", "filter gradients"),
    *("copies for filter gradients", "copies for convolutions"),
    *("norms and activations", "loss", "optimizer"),
)
TORCH_KINDS = (
    ("convolution_backward", "convolutions backward"),
    ("conv", "convolutions forward"),
    ("norm|relu|threshold", "norms and activations"),
    ("pool", "pools"),
    ("softmax|nll_loss|cross_entropy", "loss"),
    ("upsample|cat|copy_|clone", "upsampling, concatenation, copies"),
    ("foreach|[Oo]ptimizer", "optimizer"),
)


@dataclass(frozen=True)
class Operation:
    """One HLO operation of a step: milliseconds and GFLOP of all its runs in it."""

    kind: str
    milliseconds: float
    gflop: float
    runs: int
    shape: str
    name: str


def dimensions(text: str) -> list[int]:
    return [int(n) for n in text.split(",") if n]


def multiplied(text: str) -> Iterator[tuple[str, str, str, str, float, bool]]:
    """(name, shape, op_name, called, FLOPs, over pixels) of each line of HLO text.

    FLOPs are of a convolution or a product that the line itself is. A product's sum
    is over pixels where it is not over the left's last axis, a convolution's where its
    window is larger than its result.
    """
    shapes: dict[str, list[int]] = {}
    for line in text.splitlines():
        found = INSTRUCTION.match(line)
        if not found:
            continue
        name, rest, out = found[1], found[2], dimensions(found[3])
        shapes[name] = out
        op_name = re.search(r'op_name="([^"]*)"', line)
        called = re.search(r"calls=%?([\w.\-]+)", line)
        operands = re.search(r" (?:dot|convolution)\(([^)]*)\)", rest)
        terms, over_pixels = 0, False
        if operands:
            left, right = (
                shapes[part.split("%")[-1]] for part in operands[1].split(", ")[:2]
            )
            contracted = re.search(r"lhs_contracting_dims=\{([\d,]*)\}", line)
            labels = re.search(r"dim_labels=\w+_(\w+)->(\w+)", line)
            if contracted:
                axes = dimensions(contracted[1])
                terms = math.prod([left[i] for i in axes])
                over_pixels = axes[0] < len(left) - 1
            elif labels:
                terms = math.prod(right) // right[labels[1].index("o")]
                window, pixels = (
                    math.prod(
                        n for n, axis in zip(sizes, axes, strict=True) if axis in "01"
                    )
                    for sizes, axes in ((right, labels[1]), (out, labels[2]))
                )
                over_pixels = window > pixels
        yield (
            name,
            rest.split("{")[0].lstrip("("),
            op_name[1] if op_name else "",
            called[1] if called else "",
            2.0 * math.prod(out) * terms,
            over_pixels,
        )


def described(text: str) -> dict[str, tuple[str, str, float, bool]]:
    """Name -> (shape, op_name, FLOPs, over pixels), fused ones in what holds them."""
    within = defaultdict(list)
    lines: dict[str, tuple[str, str, str, float, bool]] = {}
    for block in re.split(r"\n(?=(?:ENTRY )?%?[\w.\-]+ \([^\n]*\{\n)", text):
        head = re.match(r"(?:ENTRY )?%?([\w.\-]+) \(", block)
        owner = head[1] if head else ""
        for name, *rest in multiplied(block):
            lines[name] = tuple(rest)  # type: ignore[assignment]
            within[owner].append(name)
    found = {}
    for name, (shape, op_name, called, flops, over_pixels) in lines.items():
        inner = [lines[n] for n in within.get(called, ())]
        flops += sum(line[3] for line in inner)
        over_pixels |= any(line[4] for line in inner)
        op_name = op_name or next((line[1] for line in inner if line[1]), "")
        found[name] = (shape, op_name, flops, over_pixels)
    return found


def kind(op_name: str, flops: float, over_pixels: bool) -> str:
    """Of an operation, by what it multiplies and the module it belongs to."""
    if flops:
        back = "transpose(" in op_name or not op_name
        if "filter_gradient" in op_name:
            return "filter gradients"
        if not back:
            return "convolutions forward"
        own = over_pixels and not re.search("input_gradient|attention", op_name)
        return "filter gradients" if own else "input gradients"
    for pattern, found in KINDS:
        if re.search(pattern, op_name):
            return found
    return "others"


def measure_segjax(network: Network) -> dict[str, Any]:
    """Milliseconds of a step, and its operations, the costliest first."""
    import jax
    import jax.numpy as jnp

    from benchmarks.speed.worker import segjax_step

    # Not from the cache, whose programs may carry the names of other code.
    model = network.segjax()
    size = (1, network.size, network.size, 3)
    init = jax.jit(lambda key: model.init(key, jnp.zeros(size), train=False))
    step, state, batch = segjax_step(network, init(jax.random.key(0)), model)
    known = described(step.lower(state, batch()).compile().as_text())

    def run():
        nonlocal state
        state, _ = step(state, batch())
        jax.block_until_ready(state)

    run()
    seconds = timed(run, STEPS)
    with tempfile.TemporaryDirectory() as folder:
        with jax.profiler.trace(folder):
            timed(run, STEPS)
        (trace,) = Path(folder).rglob("*.xplane.pb")
        profile = jax.profiler.ProfileData.from_file(str(trace))
        times = defaultdict(list)
        for plane in profile.planes:
            for line in plane.lines:
                for event in line.events:
                    if event.name in known and not CONTROL.match(event.name):
                        times[event.name].append(event.duration_ns / 1e6)
    found = []
    for name, durations in times.items():
        shape, op_name, flops, over_pixels = known[name]
        runs = max(len(durations) // STEPS, 1)
        found.append(
            Operation(
                kind(op_name, flops, over_pixels),
                round(statistics.median(durations) * runs, 3),
                round(flops * runs / 1e9, 4),
                runs,
                shape,
                op_name.replace("jit(train_step)/", ""),
            )
        )
    found.sort(key=lambda one: one.milliseconds, reverse=True)
    return {
        "milliseconds": round(1e3 * min(seconds), 1),
        "kinds": by_kind(found),
        "costliest": [asdict(one) for one in found[:COSTLIEST]],
    }


def by_kind(operations: list[Operation]) -> dict[str, dict[str, float]]:
    """Kind -> its milliseconds, GFLOP and number of operations."""
    sums: dict[str, dict[str, float]] = {}
    for one in operations:
        row = sums.setdefault(
            one.kind, {"milliseconds": 0, "gflop": 0, "operations": 0}
        )
        row["milliseconds"] = round(row["milliseconds"] + one.milliseconds, 2)
        row["gflop"] = round(row["gflop"] + one.gflop, 3)
        row["operations"] += one.runs
    return sums


def timed(run: Callable[[], Any], count: int) -> list[float]:
    """Seconds of each of so many runs."""
    seconds = []
    for _ in range(count):
        begin = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - begin)
    return seconds


def measure_torch(network: Network) -> dict[str, Any]:
    """Milliseconds of a step, and of its operators by kind."""
    import torch

    from benchmarks.speed.worker import torch_training

    with tempfile.TemporaryDirectory() as folder:
        weights = Path(folder, "weights.pth")
        torch.save(network.torch().state_dict(), weights)
        run = torch_training(network, str(weights))
    run()
    seconds = timed(run, STEPS)
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as p:
        timed(run, STEPS)
    sums: dict[str, dict[str, float]] = {}
    for event in p.key_averages():
        found = next((k for r, k in TORCH_KINDS if re.search(r, event.key)), "others")
        row = sums.setdefault(found, {"milliseconds": 0})
        row["milliseconds"] += event.self_cpu_time_total / 1e3 / STEPS
    for row in sums.values():
        row["milliseconds"] = round(row["milliseconds"], 2)
    return {"milliseconds": round(1e3 * min(seconds), 1), "kinds": sums}


def measure(network: Network) -> dict[str, Any]:
    """A row: both sides, each in a process of its own."""
    row = {}
    for side in ("segjax", "torch"):
        command = [sys.executable, "-m", "benchmarks.speed.operations"]
        command += ["--side", side, json.dumps(network.fields())]
        environment = {**os.environ, "JAX_PLATFORMS": "cpu", "GLIBC_TUNABLES": HUGE}
        done = subprocess.run(
            command, cwd=record.ROOT, env=environment, capture_output=True, text=True
        )
        if done.returncode:
            raise RuntimeError((done.stderr.strip() or "no message").splitlines()[-1])
        row[side] = json.loads(done.stdout.splitlines()[-1])
    return row


def cell(sums: Mapping[str, float] | None) -> str:
    """Milliseconds, and GF/s where it multiplies."""
    if not sums:
        return "-"
    speed = sums.get("gflop", 0) / sums["milliseconds"] * 1e3
    return f"{sums['milliseconds']:.0f}" + f" ({speed:.0f} GF/s)" * bool(speed)


def of_side(found: Mapping[str, Any], side: str, kinds: Sequence[str]) -> str:
    """A table with a row for each network, its kinds in columns and the rest."""
    rows = []
    for key, row in found["rows"].items():
        sums = row[side]["kinds"]
        rest = sum(s["milliseconds"] for k, s in sums.items() if k not in kinds)
        cells = [cell(sums.get(name)) for name in kinds]
        rows.append((key, f"{row[side]['milliseconds']:.0f}", *cells, f"{rest:.0f}"))
    return record.table((f"{side}, ms on one core", "step", *kinds, "others"), rows)


def render(found: Mapping[str, Any]) -> str:
    """Both sides' kinds, and the three costliest operations of each network here."""
    top = [
        (
            key,
            f"{one['milliseconds']:.0f}",
            one["kind"],
            one["shape"],
            "/".join(one["name"].split("/")[1:4]) or "-",
            f"{one['gflop'] / one['milliseconds'] * 1e3:.0f}",
        )
        for key, row in found["rows"].items()
        for one in row["segjax"]["costliest"][:3]
    ]
    header = ("the costliest here", "ms", "kind", "result", "module", "GF/s")
    torch_kinds = dict.fromkeys(name for _, name in TORCH_KINDS)
    parts = [
        of_side(found, "segjax", KINDS_SHOWN),
        of_side(found, "torch", list(torch_kinds)),
        record.table(header, top),
        record.where(found),
    ]
    return "\n\n".join(parts)


def main() -> int:
    if sys.argv[1:2] == ["--side"]:
        sides = {"segjax": measure_segjax, "torch": measure_torch}
        answer, sys.stdout = sys.stdout, sys.stderr
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
        row = sides[sys.argv[2]](Network(**json.loads(sys.argv[3])))
        print(json.dumps(row), file=answer)
        return 0
    parser = record.parser(__doc__)
    record.add_flags(parser)
    args = parser.parse_args()
    cases = {one.key: partial(measure, one) for one in networks()}
    return record.carry_out(RECORD, cases, COMMAND, args, render)


if __name__ == "__main__":
    sys.exit(main())

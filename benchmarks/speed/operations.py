"""Where the time of a training step goes, by operation: docs/results/speed_operations.

    python -m benchmarks.speed.operations [--only "resnet18 unet*"]

The step of ``benchmarks.speed.training``, both sides on ONE core: on two, XLA runs a
filter's and an input's gradient at the same time, and neither's time is its cost. So
maps are not put side by side (segjax/ops/beside.py), which is for several cores. Here
JAX's profiler: of each HLO operation the median time over the steps, times its runs in
a step, summed by kind; there PyTorch's, of its operators without what they call.
"""

import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
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
CONTROL = re.compile(r"(cond|conditional|while|call)[.\d]*(\.clone)?$")
"""Operations whose time is that of others, which the trace has, too."""
MANY = 4096
"""A backward product that sums more terms is a filter's gradient: over pixels."""
INSTRUCTION = re.compile(r"\s*(?:ROOT )?%?([\w.\-]+) = (\(?\w+\[([\d,]*)\].*)")
KINDS = (
    # What an operation's name holds -> its kind, where it multiplies nothing.
    ("optimizer", "optimizer"),
    ("metrics", "metrics"),
    ("loss", "loss"),
    (r"/bn|norm|downsample/1", "norms and activations"),
    ("filter_gradient", "copies for filter gradients"),
    (r"conv|head|input_gradient", "copies for convolutions"),
)
TORCH_KINDS = (
    ("convolution_backward", "convolutions backward"),
    ("conv", "convolutions forward"),
    ("norm|relu|threshold", "norms and activations"),
    ("pool", "pools"),
    ("softmax|nll_loss|cross_entropy", "loss"),
    ("upsample|cat|copy_|clone", "upsampling, concatenation, copies"),
    ("foreach|optimizer", "optimizer"),
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


def product(numbers: list[int]) -> int:
    total = 1
    for n in numbers:
        total *= n
    return total


def multiplied(text: str) -> Iterator[tuple[str, str, str, str, float, int]]:
    """(name, shape, op_name, called, FLOPs, terms of a sum) of each line of HLO text.

    FLOPs and terms are of a convolution or a product that the line itself is.
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
        terms = 0
        if operands:
            left, right = (
                shapes[part.split("%")[-1]] for part in operands[1].split(", ")[:2]
            )
            contracted = re.search(r"lhs_contracting_dims=\{([\d,]*)\}", line)
            labels = re.search(r"dim_labels=\w+_(\w+)->", line)
            if contracted:
                terms = product([left[i] for i in dimensions(contracted[1])])
            elif labels:
                terms = product(right) // right[labels[1].index("o")]
        yield (
            name,
            rest.split("{")[0].lstrip("("),
            op_name[1] if op_name else "",
            called[1] if called else "",
            2.0 * product(out) * terms,
            terms,
        )


def described(text: str) -> dict[str, tuple[str, str, float, int]]:
    """Name -> (shape, op_name, FLOPs, terms), fused operations in what holds them."""
    owner, within = "", defaultdict(list)
    lines: dict[str, tuple[str, str, str, float, int]] = {}
    for block in re.split(r"\n(?=(?:ENTRY )?%?[\w.\-]+ \([^\n]*\{\n)", text):
        head = re.match(r"(?:ENTRY )?%?([\w.\-]+) \(", block)
        owner = head[1] if head else ""
        for name, *rest in multiplied(block):
            lines[name] = tuple(rest)  # type: ignore[assignment]
            within[owner].append(name)
    found = {}
    for name, (shape, op_name, called, flops, terms) in lines.items():
        inner = [lines[n] for n in within.get(called, ())]
        flops += sum(line[3] for line in inner)
        terms = max([terms, *(line[4] for line in inner)])
        op_name = op_name or next((line[1] for line in inner if line[1]), "")
        found[name] = (shape, op_name, flops, terms)
    return found


def kind(op_name: str, flops: float, terms: int) -> str:
    """Of an operation, by what it multiplies and the module it belongs to."""
    if flops:
        back = "transpose(" in op_name or not op_name
        if "input_gradient" in op_name:
            return "input gradients"
        if "filter_gradient" in op_name or (back and terms > MANY):
            return "filter gradients"
        return "input gradients" if back else "convolutions forward"
    for pattern, found in KINDS:
        if re.search(pattern, op_name):
            return found
    return "others"


def measure_segjax(network: Network) -> dict[str, Any]:
    """Milliseconds of a step, and its operations, the costliest first."""
    import jax
    import jax.numpy as jnp

    from benchmarks.speed.worker import segjax_step
    from segjax.cache import keep_compiled

    keep_compiled()
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
    seconds = timed(run, 2)
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
        shape, op_name, flops, terms = known[name]
        runs = max(len(durations) // STEPS, 1)
        found.append(
            Operation(
                kind(op_name, flops, terms),
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
            raise RuntimeError(done.stderr.strip().splitlines()[-1])
        row[side] = json.loads(done.stdout.splitlines()[-1])
    return row


def render(found: Mapping[str, Any]) -> str:
    """Tables of the kinds, one a network, and the costliest operations."""
    parts = []
    for key, row in found["rows"].items():
        own, peer = row["segjax"], row["torch"]
        lines = []
        for name, sums in sorted(
            own["kinds"].items(), key=lambda item: -item[1]["milliseconds"]
        ):
            speed = sums["gflop"] / sums["milliseconds"] * 1e3
            cells = [name, f"{sums['milliseconds']:.0f}", int(sums["operations"])]
            cells += [f"{sums['gflop']:.0f}", f"{speed:.0f}"] if sums["gflop"] else "--"
            lines.append(cells)
        header = ("segjax: kind", "ms", "operations", "GFLOP", "GF/s")
        parts.append(f"**{key}**: a step takes {own['milliseconds']:.0f} ms.")
        parts.append(record.table(header, lines))
        top = [
            (
                f"{one['milliseconds']:.1f}",
                one["runs"],
                one["kind"],
                one["shape"],
                "/".join(one["name"].split("/")[1:4]) or "-",
                f"{one['gflop'] / one['milliseconds'] * 1e3:.0f}",
            )
            for one in own["costliest"][:6]
        ]
        header = ("ms", "runs", "kind", "result", "module", "GF/s")
        parts.append(record.table(header, top))
        lines = [
            (name, f"{sums['milliseconds']:.0f}")
            for name, sums in sorted(
                peer["kinds"].items(), key=lambda item: -item[1]["milliseconds"]
            )
        ]
        parts.append(f"PyTorch's step takes {peer['milliseconds']:.0f} ms.")
        parts.append(record.table(("PyTorch: kind", "ms"), lines))
    return "\n\n".join([*parts, record.where(found)])


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

"""Convolutions as XLA:CPU shares them among the cores, and images side by side.

    python -m benchmarks.speed.convolutions [--only "64x64*"]

Forward alone, float32, between the ReLUs of a network (with which the copies of
segjax/ops/beside.py are fused), as the table chooses on this machine's cores. "busy" is
processor time over wall time. The two take turns, and agree to 1e-5.
"""

import statistics
import sys
import time
from collections.abc import Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import record
from benchmarks.speed.contest import compared
from segjax.ops.beside import cores, pieces
from segjax.ops.conv import conv2d

RECORD = record.ROOT / "docs" / "results" / "speed_convolutions.json"
COMMAND = "python -m benchmarks.speed.convolutions"
ROUNDS = 7
CASES = (
    # images, size, kernel, channels in and out, stride
    (4, 64, 3, 64, 64, 1),
    (4, 64, 3, 256, 64, 1),
    (4, 128, 3, 64, 32, 1),
    (4, 128, 3, 32, 32, 1),
    (4, 256, 3, 32, 16, 1),
    (4, 256, 3, 16, 21, 1),
    (1, 256, 3, 32, 32, 1),
    (1, 512, 3, 16, 21, 1),
    (4, 64, 3, 64, 128, 2),
    (4, 256, 7, 3, 64, 2),
    (1, 512, 7, 3, 64, 2),
)


def key(case: tuple[int, ...]) -> str:
    """Its name in the record."""
    images, size, kernel, c_in, c_out, stride = case
    step = f" / {stride}" if stride > 1 else ""
    return f"{size}x{size}, {kernel}x{kernel}{step}, {c_in} to {c_out}, batch {images}"


def measure(case: tuple[int, ...]) -> dict[str, Any]:
    """A row: seconds of either by round, their busy cores, and the pieces."""
    images, size, k, c_in, c_out, stride = case
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.normal(size=(images, size, size, c_in)), jnp.float32)
    kernel = jnp.asarray(rng.normal(size=(k, k, c_in, c_out)) / k, jnp.float32)

    def layer(platform, x, kernel):
        x = jax.nn.relu(1.1 * x + 0.1)
        y = conv2d(x, kernel, strides=stride, padding=k // 2, platform=platform)
        return jax.nn.relu(1.1 * y + 0.1)

    run = {
        name: jax.jit(partial(layer, platform)).lower(x, kernel).compile()
        for name, platform in (("plain", None), ("beside", "cpu"))
    }
    first = [np.asarray(compiled(x, kernel)) for compiled in run.values()]
    error = float(np.abs(first[0] - first[1]).max() / np.abs(first[0]).max())
    if error > 1e-5:
        raise ValueError(f"they differ by {error}")
    turns, busy = {n: [] for n in run}, {n: [] for n in run}
    for _ in range(ROUNDS):
        for name, compiled in run.items():
            times, start, used = [], time.perf_counter(), time.process_time()
            while time.perf_counter() - start < 0.3:
                begin = time.perf_counter()
                compiled(x, kernel).block_until_ready()
                times.append(time.perf_counter() - begin)
            whole = time.perf_counter() - start
            turns[name].append(statistics.median(times))
            busy[name].append((time.process_time() - used) / whole)
    shape = kernel.shape
    target = (size // stride, size // stride)
    return {
        "error": error,
        "flops": 2 * images * target[0] * target[1] * kernel.size,
        "pieces": pieces(cores(), images, target, shape),
        "turns": turns,
        "busy_cores": busy,
    }


def render(content: Mapping[str, Any]) -> str:
    """The record's markdown table."""
    rows = []
    for name, row in content["rows"].items():
        turns = row["turns"]
        cells = [name, "{} x {}".format(*row["pieces"])]
        for side in turns:
            rate = row["flops"] / statistics.median(turns[side]) / 1e9
            cells += [
                f"{rate:.0f}",
                f"{statistics.median(row['busy_cores'][side]):.1f}",
            ]
        rows.append([*cells, compared(turns["plain"], turns["beside"])])
    header = (
        "convolution",
        "images x parts",
        "plain GF/s",
        "busy",
        "side by side GF/s",
        "busy",
        "plain : side by side",
    )
    return f"{record.table(header, rows)}\n\n{record.where(content)}"


def main() -> int:
    """Measure what is missing; the exit code."""
    parser = record.parser(__doc__)
    record.add_flags(parser)
    cases = {key(case): partial(measure, case) for case in CASES}
    return record.carry_out(RECORD, cases, COMMAND, parser.parse_args(), render)


if __name__ == "__main__":
    sys.exit(main())

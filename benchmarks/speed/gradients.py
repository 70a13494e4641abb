"""Filter gradients on a CPU, and convolutions without padding: XLA's own and ours.

    python -m benchmarks.speed.gradients [--only "256x256*"]

Writes docs/results/speed_gradients.json. float32, 4 images, all cores of the machine;
"shared" is the formulation of segjax/ops/table.py where several devices share a batch,
"alone" that of one device. The contestants take turns, and agree to 1e-4 of the largest
value, in sums of up to 262,144 terms.
"""

import statistics
import sys
import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from benchmarks import record
from benchmarks.speed.contest import compared
from segjax.ops import conv, filter_gradient, table

RECORD = record.ROOT / "docs" / "results" / "speed_gradients.json"
COMMAND = "python -m benchmarks.speed.gradients"
IMAGES, ROUNDS, SECONDS, TOLERANCE = 4, 7, 0.2, 1e-4
CASES = (
    # size, kernel, channels in and out, stride, padding
    (256, 7, 3, 64, 2, 3),
    (256, 3, 3, 64, 1, 1),
    (256, 3, 16, 16, 1, 1),
    (256, 3, 16, 21, 1, 1),
    (256, 3, 64, 64, 1, 1),
    (128, 3, 32, 32, 1, 1),
    (128, 3, 64, 32, 1, 1),
    (128, 3, 128, 32, 1, 1),
    (128, 2, 32, 64, 1, 1),
    (64, 2, 64, 128, 1, 1),
    (128, 3, 128, 128, 1, 1),
    (64, 3, 64, 64, 1, 1),
    (32, 3, 128, 128, 1, 1),
    (16, 3, 256, 256, 1, 1),
    (8, 3, 512, 512, 1, 1),
    (64, 3, 128, 256, 1, 1),
    (64, 3, 256, 256, 1, 1),
    (32, 3, 512, 512, 1, 1),
)
UNPADDED = ((129, 2, 64, 32, 1, 0), (66, 3, 64, 64, 1, 0))


def key(case: tuple[int, ...]) -> str:
    """Its name in the record."""
    size, kernel, c_in, c_out, stride, _ = case
    step = f" / {stride}" if stride > 1 else ""
    return f"{size}x{size}, {kernel}x{kernel}{step}, {c_in} to {c_out}"


def formulation(case: tuple[int, ...], devices: int) -> str:
    """What the table says where there are so many devices."""
    size, k, c_in, c_out, stride, p = case
    count = jax.device_count
    try:
        table.jax.device_count = lambda: devices
        how = (stride, stride), ((p, p), (p, p)), 1
        return table.conv("cpu", jnp.float32, (size, size), (k, k, c_in, c_out), *how)
    finally:
        table.jax.device_count = count


def in_turns(run: Mapping[str, Callable[[], Any]]) -> dict[str, list[float]]:
    """Name -> seconds, the median of each round."""
    turns: dict[str, list[float]] = {name: [] for name in run}
    for _ in range(ROUNDS):
        for name, one in run.items():
            times, start = [], time.perf_counter()
            while time.perf_counter() - start < SECONDS or len(times) < 3:
                begin = time.perf_counter()
                one().block_until_ready()
                times.append(time.perf_counter() - begin)
            turns[name].append(statistics.median(times))
    return turns


def measure(case: tuple[int, ...]) -> dict[str, Any]:
    """A row: formulations, GFLOP, and each one's seconds by round."""
    size, k, c_in, c_out, stride, p = case
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.normal(size=(IMAGES, size, size, c_in)), jnp.float32)
    kernel = jnp.asarray(rng.normal(size=(k, k, c_in, c_out)) / k, jnp.float32)
    how = (stride, stride), ((p, p), (p, p)), (1, 1)

    def forward(x, kernel):
        return lax.conv_general_dilated(
            *(x, kernel, how[0], how[1]), dimension_numbers=conv.DIMENSIONS
        )

    y = jax.eval_shape(forward, x, kernel)
    g = jnp.asarray(rng.normal(size=y.shape), jnp.float32)
    functions: dict[str, Callable] = {}
    if case in UNPADDED:
        names = {"xla": "plain", "alone": "padded on the right"}
        functions["xla"] = lambda x, g: forward(x, kernel)
        functions["alone"] = lambda x, g: conv.conv2d(x, kernel, platform="cpu")
    else:
        names = {"xla": "plain"}
        functions["xla"] = lambda x, g: jax.vjp(partial(forward, x), kernel)[1](g)[0]
        for name, devices in (("shared", 2), ("alone", 1)):
            names[name] = formulation(case, devices)
            found = filter_gradient.FORMULATIONS.get(names[name])
            if found:
                functions[name] = lambda x, g, f=found: f(x, g, kernel.shape, *how)
    compiled = {n: jax.jit(f).lower(x, g).compile() for n, f in functions.items()}
    results = {n: np.asarray(one(x, g)) for n, one in compiled.items()}
    largest = np.abs(results["xla"]).max()
    error = max(np.abs(r - results["xla"]).max() / largest for r in results.values())
    if error > TOLERANCE:
        raise ValueError(f"they differ by {error}")
    runs = {n: partial(one, x, g) for n, one in compiled.items()}
    flops = 2 * IMAGES * y.shape[1] * y.shape[2] * k * k * c_in * c_out
    return {
        "formulations": names,
        "gflop": flops / 1e9,
        "error": float(error),
        "turns": in_turns(runs),
    }


def render(found: Mapping[str, Any]) -> str:
    """Formulation and GF/s of each, by the plain formulation's multiply-adds."""
    rows = []
    for name, row in found["rows"].items():
        cells = []
        for one in ("xla", "shared", "alone"):
            seconds = row["turns"].get(one)
            if seconds is None:
                cells.append("-")
                continue
            speed = row["gflop"] / statistics.median(seconds)
            label = "" if one == "xla" else f" ({row['formulations'][one]})"
            cells.append(f"{speed:.0f}{label}")
        ratio = compared(row["turns"]["xla"], row["turns"]["alone"])
        rows.append((name, *cells, ratio))
    header = (
        *("convolution, batch 4", "XLA's, GF/s", "batch shared, GF/s"),
        *("one device, GF/s", "one device : XLA's"),
    )
    return f"{record.table(header, rows)}\n\n{record.where(found)}"


def main() -> int:
    parser = record.parser(__doc__)
    record.add_flags(parser)
    cases = {key(case): partial(measure, case) for case in (*CASES, *UNPADDED)}
    return record.carry_out(RECORD, cases, COMMAND, parser.parse_args(), render)


if __name__ == "__main__":
    sys.exit(main())

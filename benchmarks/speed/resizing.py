"""Bilinear resizing on a CPU, by products with matrices and by neighbouring pixels.

    python -m benchmarks.speed.resizing [--only "* 64x64*"]

Writes docs/results/speed_resizing.json. float32, all cores of the machine, half pixel
centres; both take turns, forward and for the gradient, and agree to 1e-5 of the largest
value. segjax/ops/resize.py has them, segjax/ops/table.py chooses.
"""

import statistics
import sys
from collections.abc import Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import record
from benchmarks.speed.contest import compared
from benchmarks.speed.gradients import in_turns
from segjax.ops import resize, table

RECORD = record.ROOT / "docs" / "results" / "speed_resizing.json"
COMMAND = "python -m benchmarks.speed.resizing"
TOLERANCE = 1e-5
CASES = (
    # images, size, channels, factor: logits, DeepLabV3+'s context, SegFormer's maps,
    # FPN's branches
    (1, 128, 21, 4),
    (4, 64, 21, 4),
    (4, 16, 256, 4),
    (1, 64, 256, 2),
    (1, 16, 256, 8),
    (4, 32, 128, 2),
)


def key(case: tuple[int, ...]) -> str:
    """Its name in the record."""
    images, size, channels, factor = case
    large = size * factor
    return f"{images} x {size}x{size} x {channels} to {large}x{large}"


def products(size: tuple[int, int], x: jax.Array) -> jax.Array:
    """As the table does where there is no other formulation."""
    return resize.resize_bilinear(x, size, align_corners=False)


def neighbours(size: tuple[int, int], x: jax.Array) -> jax.Array:
    """As the table does on a CPU."""
    return resize.resize_bilinear(x, size, align_corners=False, platform="cpu")


def measure(case: tuple[int, ...]) -> dict[str, Any]:
    """A row: how far they differ, and each one's seconds by round."""
    images, side, channels, factor = case
    size = side * factor, side * factor
    chosen = table.resize("cpu", 1, (side, side, channels), size, False)
    if chosen != "neighbours":
        raise ValueError(f"{key(case)} goes by {chosen}")
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.normal(size=(images, side, side, channels)), jnp.float32)
    g = jnp.asarray(rng.normal(size=(images, *size, channels)), jnp.float32)

    def gradient(function, x, g):
        return jax.vjp(function, x)[1](g)[0]

    errors, turns = {}, {}
    functions = {f.__name__: partial(f, size) for f in (products, neighbours)}
    for task in ("forward", "gradient"):
        run = {}
        for name, function in functions.items():
            if task == "forward":
                run[name] = partial(jax.jit(function), x)
            else:
                run[name] = partial(jax.jit(partial(gradient, function)), x, g)
        first = [np.asarray(one()) for one in run.values()]
        errors[task] = float(np.abs(first[1] - first[0]).max() / np.abs(first[0]).max())
        if not errors[task] <= TOLERANCE:
            raise ValueError(f"{task}: they differ by {errors[task]}")
        turns[task] = in_turns(run)
    return {"errors": errors, "turns": turns}


def render(content: Mapping[str, Any]) -> str:
    """The record's markdown table."""
    rows = []
    for name, row in content["rows"].items():
        cells = [name]
        for turns in row["turns"].values():
            times = [turns[n] for n in ("products", "neighbours")]
            cells += [f"{1e3 * statistics.median(t):.1f}" for t in times]
            cells.append(compared(*times))
        rows.append([*cells, f"{max(row['errors'].values()):.0e}"])
    header = (
        *("maps", "products, ms", "neighbours", "products : it"),
        *("gradient, products, ms", "neighbours", "products : it", "differ by"),
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

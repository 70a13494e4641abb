"""3x3 convolutions on a CPU, direct and by Winograd's products.

    python -m benchmarks.speed.winograd [--only "64x64*"]

Writes docs/results/speed_winograd.json. float32, 4 images, all cores of the machine;
"direct" is XLA's convolution, with images side by side where segjax/ops/beside.py puts
them so. The contestants take turns. An error is the largest difference of an image from
the float64 convolution, as a part of the largest value.
"""

import statistics
import sys
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from benchmarks import record
from benchmarks.speed.contest import compared
from benchmarks.speed.gradients import IMAGES, in_turns
from segjax.ops import conv, table, winograd
from segjax.ops.beside import beside

RECORD = record.ROOT / "docs" / "results" / "speed_winograd.json"
COMMAND = "python -m benchmarks.speed.winograd"
TOLERANCE = 1e-5
CASES = (
    # size, channels in and out, dilation: ResNets' stages, U-Net's decoder, VGG-16's
    (64, 64, 64, 1),
    (32, 128, 128, 1),
    (16, 256, 256, 1),
    (8, 512, 512, 1),
    (16, 512, 512, 2),
    (32, 512, 128, 1),
    (64, 256, 64, 1),
    (32, 512, 512, 1),
    (64, 256, 256, 1),
    (128, 128, 128, 1),
    (128, 64, 128, 1),
)


def key(case: tuple[int, ...]) -> str:
    """Its name in the record."""
    size, c_in, c_out, dilation = case
    holes = f", dilated by {dilation}" if dilation > 1 else ""
    return f"{size}x{size}, {c_in} to {c_out}{holes}"


def direct(dilation: int, x: jax.Array, kernel: jax.Array) -> jax.Array:
    """As a CPU convolves what Winograd's products do not suit."""
    holes, same = (dilation, dilation), ((dilation, dilation),) * 2
    size = x.shape[1], x.shape[2]
    count, parts = table.beside(x.dtype, len(x), size, kernel.shape, holes)
    if (count, parts) == (1, 1):
        how = {"rhs_dilation": holes, "dimension_numbers": conv.DIMENSIONS}
        return lax.conv_general_dilated(x, kernel, (1, 1), same, **how)
    return beside(x, kernel, (1, 1), same, holes, count, parts)


def turned_about(dilation: int, g: jax.Array, kernel: jax.Array) -> jax.Array:
    """The input gradient, as :func:`direct`."""
    return direct(dilation, g, kernel[::-1, ::-1].swapaxes(2, 3))


def measure(case: tuple[int, ...]) -> dict[str, Any]:
    """A row: GFLOP of the direct one, errors, and each one's seconds by round."""
    size, c_in, c_out, d = case
    rng = np.random.default_rng(0)
    shapes = (IMAGES, size, size, c_in), (IMAGES, size, size, c_out)
    x, g = (jnp.asarray(rng.normal(size=s), jnp.float32) for s in shapes)
    kernel = jnp.asarray(rng.normal(size=(3, 3, c_in, c_out)) / 3, jnp.float32)
    ours = partial(winograd.convolve, dilation=(d, d))
    tasks = {
        "forward": (x, {"direct": partial(direct, d), "winograd": ours}),
        "input gradient": (
            g,
            {
                "direct": partial(turned_about, d),
                "winograd": partial(ours, adjoint=True),
            },
        ),
    }
    errors, turns = {}, {}
    for task, (map_, functions) in tasks.items():
        run = {n: partial(jax.jit(f), map_, kernel) for n, f in functions.items()}
        errors[task] = error_of(functions["direct"], run, map_, kernel)
        turns[task] = in_turns(run)
    flops = 2 * IMAGES * size * size * 9 * c_in * c_out
    return {"gflop": flops / 1e9, "errors": errors, "turns": turns}


def error_of(
    function: Callable, run: Mapping[str, Callable], map_: jax.Array, kernel: jax.Array
) -> dict[str, float]:
    """Of an image, from ``function`` of it in float64; TOLERANCE at most."""
    image, filters = np.float64(map_[:1]), np.float64(kernel)
    with jax.enable_x64(True):
        exact = np.asarray(jax.jit(function)(image, filters))
    found = {}
    for name, one in run.items():
        error = np.abs(np.asarray(one()[:1]) - exact).max() / np.abs(exact).max()
        if not error <= TOLERANCE:
            raise ValueError(f"{name} is {error} from the float64 convolution")
        found[name] = float(error)
    return found


def render(found: Mapping[str, Any]) -> str:
    """GF/s of each, by the direct one's multiply-adds."""
    rows = []
    for name, row in found["rows"].items():
        cells = []
        for turns in row["turns"].values():
            cells += [
                f"{row['gflop'] / statistics.median(turns[n]):.0f}"
                for n in ("direct", "winograd")
            ]
            cells.append(compared(turns["direct"], turns["winograd"]))
        cells.append(" / ".join(f"{e:.0e}" for e in row["errors"]["forward"].values()))
        rows.append((name, *cells))
    header = (
        *("3x3 convolution, batch 4", "direct, GF/s", "Winograd's", "direct : it"),
        *("input gradient, GF/s", "Winograd's", "direct : it", "errors"),
    )
    return f"{record.table(header, rows)}\n\n{record.where(found)}"


def main() -> int:
    parser = record.parser(__doc__)
    record.add_flags(parser)
    cases = {key(case): partial(measure, case) for case in CASES}
    return record.carry_out(RECORD, cases, COMMAND, parser.parse_args(), render)


if __name__ == "__main__":
    sys.exit(main())

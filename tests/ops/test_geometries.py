"""Convolutions of drawn geometries: as the table chooses for a CPU, and plain."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from segjax.ops import conv, table
from tests.ops.draws import close

FORMULATIONS = (
    *("plain", "dot", "patches", "depthwise", "taps", "gim", "pairs", "split"),
)


def geometry(rng):
    """Batch, size, kernel, strides, padding, dilation, groups; half of them usual."""
    usual = rng.random() < 0.5
    kernel = [3, 3] if usual else [int(n) for n in rng.choice([1, 2, 3, 3, 5, 7], 2)]
    strides = [1, 1] if usual else [int(n) for n in rng.choice([1, 1, 2, 3], 2)]
    dilation = [1, 1] if usual else [int(n) for n in rng.choice([1, 1, 2, 3], 2)]
    reach = [d * (k - 1) for d, k in zip(dilation, kernel, strict=True)]
    padding = [(1, 1), (1, 1)]
    if not usual:
        padding = [tuple(int(n) for n in rng.integers(0, r + 2, 2)) for r in reach]
    size = [
        int(max(rng.integers(1, 12), r + 1 - sum(p)))
        for r, p in zip(reach, padding, strict=True)
    ]
    c_in, c_out = (int(n) for n in rng.choice([1, 3, 8, 16, 21, 32, 40, 64, 130], 2))
    groups = int(rng.choice([1, 1, 1, c_in]))
    if groups > 1:
        c_out = groups * int(rng.integers(1, 3))
    shape = (*kernel, c_in // groups, c_out)
    batch = int(rng.integers(1, 4))
    return batch, size, shape, tuple(strides), tuple(padding), tuple(dilation), groups


def drawn(formulation: str, seed: int):
    """The first geometry of a seed for which the table chooses the formulation."""
    rng = np.random.default_rng(seed)
    while True:
        batch, size, shape, strides, padding, dilation, groups = geometry(rng)
        found = table.conv(
            *("cpu", jnp.float32, tuple(size), shape, strides, padding, groups),
            dilation,
        )
        if found == formulation:
            return batch, size, shape, strides, padding, dilation, groups


@pytest.mark.parametrize("seed", (0, 1))
@pytest.mark.parametrize("formulation", FORMULATIONS)
def test_every_formulation_is_the_plain_one(formulation, seed):
    """Result and both gradients: 1e-10 in float64, 1e-5 in float32."""
    batch, size, shape, strides, padding, dilation, groups = drawn(formulation, seed)
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(batch, *size, shape[2] * groups))
    kernel = rng.normal(size=shape)

    def both(x, kernel):
        found = []
        for platform in (None, "cpu"):

            def convolve(x, kernel, platform=platform):
                return conv.conv2d(
                    x,
                    kernel,
                    strides=strides,
                    padding=padding,
                    dilation=dilation,
                    groups=groups,
                    platform=platform,
                )

            y, pull = jax.vjp(convolve, x, kernel)
            g = jnp.cos(jnp.arange(y.size, dtype=y.dtype).reshape(y.shape))
            found.append((y, *pull(g)))
        return found

    with jax.enable_x64(True):
        for dtype, tolerance in ((np.float64, 1e-10), (np.float32, 1e-5)):
            plain, fast = jax.jit(both)(x.astype(dtype), kernel.astype(dtype))
            for a, b in zip(fast, plain, strict=True):
                assert a.dtype == dtype
                close(a, b, tolerance)

"""What the tests of operations draw, and how they look at linear ones."""

from collections.abc import Callable

import jax
import numpy as np
from hypothesis import settings
from hypothesis import strategies as st

# Each function under test is compiled once; a draw costs milliseconds.
few = settings(max_examples=6, deadline=None, derandomize=True, database=None)
SEEDS = st.integers(0, 10**6)
KINDS = st.sampled_from(["normal", "whole", "sparse"])
SCALES = st.sampled_from([1e-3, 1.0, 1e4])


def drawn(rng: np.random.Generator, shape, kind: str) -> np.ndarray:
    """Normal, of few distinct values, or almost all zero."""
    x = rng.normal(size=shape)
    if kind == "sparse":
        return x * (rng.random(shape) < 0.05)
    return np.round(x) if kind == "whole" else x


def close(found, wanted, tolerance):
    """Of one shape and dtype, and alike to ``tolerance`` of the largest value."""
    assert found.shape == wanted.shape and found.dtype == wanted.dtype
    largest = max(np.abs(wanted).max(initial=0), 1e-30)
    assert np.abs(found - wanted).max(initial=0) <= tolerance * largest


def with_pullback(function: Callable) -> Callable:
    """Compiled (x, g) -> function(x) and the gradient of <g, function(x)>."""

    def both(x, g):
        y, pull = jax.vjp(function, x)
        return y, *pull(g)

    return jax.jit(both)


def assert_linear(compiled: Callable, oracle: Callable, x, seed: int, tolerance=1e-10):
    """Values as the oracle's, and the gradient its adjoint; in float32 to 1e-5.

    ``compiled`` is of :func:`with_pullback`. The oracle is linear: <gradient, way> is
    <g, oracle(way)> for any way, without a difference quotient.
    """
    rng = np.random.default_rng(seed)
    expected = oracle(x)
    g, way = rng.normal(size=expected.shape), rng.normal(size=x.shape)
    scale, product = np.abs(expected).max(), np.sum(g * oracle(way))
    for dtype, limit in ((np.float64, tolerance), (np.float32, 1e-5)):
        with jax.enable_x64(True):
            y, slope = map(np.asarray, compiled(x.astype(dtype), g.astype(dtype)))
        assert y.dtype == slope.dtype == dtype
        np.testing.assert_allclose(y, expected, rtol=0, atol=limit * scale)
        terms = slope * way
        assert abs(terms.sum() - product) <= limit * np.abs(terms).sum()

"""Pooling against NumPy loops over the windows."""

from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given

from segjax.ops import pool
from tests.ops.draws import KINDS, SEEDS, assert_linear, drawn, few, with_pullback
from tests.requirements import require_parity


def windows(size, window, stride, low, high, ceil_mode):
    """First index and past-the-end index of each window, as torch counts them."""
    count = (size + low + high - window) / stride
    count = int(np.ceil(count) if ceil_mode else np.floor(count)) + 1
    if ceil_mode and (count - 1) * stride >= size + low:
        count -= 1
    return [(i * stride - low, i * stride - low + window) for i in range(count)]


CASES = [
    # size, window, stride, padding, ceil_mode
    ((9, 8), 3, 2, 1, False),
    ((8, 11), 2, 2, 0, False),
    ((7, 9), 3, 2, 0, True),
    ((10, 7), 3, 2, 0, True),
    ((6, 5), 3, 1, 1, False),
    ((7, 5), 2, 3, 1, True),
    ((5, 6), (3, 2), (1, 2), (1, 0), False),
]


def edges(case):
    """:func:`windows` of a case's rows and of its columns."""
    size, window, stride, padding, ceil_mode = case
    axes = zip(
        size,
        pool.pair(window),
        pool.pair(stride),
        pool.both_sides(padding),
        strict=True,
    )
    return [windows(n, w, s, low, high, ceil_mode) for n, w, s, (low, high) in axes]


@cache
def maxima(case):
    """(x, g) -> value and gradient, plain and as chosen for a CPU."""
    _, window, stride, padding, ceil_mode = case

    def both(x, g):
        results = []
        for platform in (None, "cpu"):
            out, pull = jax.vjp(
                lambda x, p=platform: pool.max_pool(
                    x, window, stride, padding, ceil_mode=ceil_mode, platform=p
                ),
                x,
            )
            results.append((out, *pull(g)))
        return results

    return jax.jit(both)


@pytest.mark.parametrize("case", CASES, ids=str)
@few
@given(seed=SEEDS, kind=KINDS)
def test_max_pool_and_its_gradient(case, seed, kind):
    size = case[0]
    rng = np.random.default_rng(seed)
    # Few distinct values: most windows have ties. Some are all negative.
    x = drawn(rng, (2, *size, 3), kind) - (seed % 2)
    rows, columns = edges(case)
    y = np.zeros((2, len(rows), len(columns), 3))
    g = rng.normal(size=y.shape)
    dx = np.zeros_like(x)
    for b, r, s, c in np.ndindex(y.shape):
        best, where = -np.inf, (0, 0)
        for h in range(max(rows[r][0], 0), min(rows[r][1], size[0])):
            for w in range(max(columns[s][0], 0), min(columns[s][1], size[1])):
                if x[b, h, w, c] > best:
                    best, where = x[b, h, w, c], (h, w)
        y[b, r, s, c] = best
        dx[b, where[0], where[1], c] += g[b, r, s, c]
    with jax.enable_x64(True):
        for out, gradient in maxima(case)(x, g):
            np.testing.assert_array_equal(out, y)
            np.testing.assert_allclose(gradient, dx, atol=1e-12)


@cache
def averages(case, count_padding):
    _, *geometry, ceil_mode = case
    options = {"ceil_mode": ceil_mode, "count_padding": count_padding}
    return with_pullback(lambda x: pool.avg_pool(x, *geometry, **options))


@pytest.mark.parametrize("count_padding", [True, False])
@pytest.mark.parametrize("case", CASES, ids=str)
@few
@given(seed=SEEDS, kind=KINDS)
def test_avg_pool(case, count_padding, seed, kind):
    size, _, _, padding, _ = case
    (_, bottom), (_, right) = pool.both_sides(padding)
    rows, columns = edges(case)

    def oracle(x):
        y = np.zeros((1, len(rows), len(columns), 2))
        for r, s in np.ndindex(len(rows), len(columns)):
            h0, h1 = max(rows[r][0], 0), min(rows[r][1], size[0])
            w0, w1 = max(columns[s][0], 0), min(columns[s][1], size[1])
            divisor = (h1 - h0) * (w1 - w0)
            if count_padding:
                height = min(rows[r][1], size[0] + bottom) - rows[r][0]
                width = min(columns[s][1], size[1] + right) - columns[s][0]
                divisor = height * width
            y[:, r, s] = x[:, h0:h1, w0:w1].sum((1, 2)) / divisor
        return y

    x = drawn(np.random.default_rng(seed), (1, *size, 2), kind)
    assert_linear(averages(case, count_padding), oracle, x, seed)


def test_avg_pools_gradient_under_jit_spreads_evenly():
    """By hand: a quarter to each pixel of a 2x2 window, nothing to the odd row."""
    w = jnp.asarray(np.random.default_rng(0).normal(size=(2, 2, 3, 4)), jnp.float32)
    x = jnp.zeros((2, 5, 6, 4))
    dx = jax.jit(jax.grad(lambda x: jnp.sum(pool.avg_pool(x, 2) * w)))(x)
    spread = np.repeat(np.repeat(np.asarray(w) / 4, 2, 1), 2, 2)
    np.testing.assert_allclose(dx, np.pad(spread, ((0, 0), (0, 1), (0, 0), (0, 0))))


def test_googlenets_pool_keeps_the_last_column():
    x = jnp.arange(16.0).reshape(1, 4, 4, 1)
    assert pool.max_pool(x, 3, 2).shape == (1, 1, 1, 1)
    y = pool.max_pool(x, 3, 2, ceil_mode=True)
    np.testing.assert_array_equal(y[0, :, :, 0], [[10, 11], [14, 15]])


@cache
def adaptive(size):
    return with_pullback(lambda x: pool.adaptive_avg_pool(x, size))


@pytest.mark.parametrize("size", [(7, 7), (6, 6), (4, 4), (1, 1), (9, 5)], ids=str)
@few
@given(seed=SEEDS, kind=KINDS)
def test_adaptive_avg_pool_averages_torchs_windows(size, seed, kind):
    """Larger and smaller than the image; torch's windows, in NumPy."""

    def oracle(x):
        y = np.zeros((2, *size, 3))
        for i, j in np.ndindex(size):
            rows = slice(i * 7 // size[0], -(-(i + 1) * 7 // size[0]))
            columns = slice(j * 10 // size[1], -(-(j + 1) * 10 // size[1]))
            y[:, i, j] = x[:, rows, columns].mean((1, 2))
        return y

    x = drawn(np.random.default_rng(seed), (2, 7, 10, 3), kind)
    assert_linear(adaptive(size), oracle, x, seed)


@pytest.mark.parity
@pytest.mark.parametrize("size", [(7, 7), (6, 6), (4, 4), (1, 1), (9, 5)], ids=str)
def test_adaptive_avg_pool_is_torchs(size):
    torch = require_parity("torch")
    x = np.random.default_rng(0).normal(size=(2, 7, 10, 3)).astype(np.float32)
    tensor = torch.from_numpy(x.transpose(0, 3, 1, 2).copy())
    y = torch.nn.functional.adaptive_avg_pool2d(tensor, size).permute(0, 2, 3, 1)
    np.testing.assert_allclose(pool.adaptive_avg_pool(x, size), y.numpy(), atol=1e-6)


def test_max_unpool_by_hand():
    """First maximum of ties; the odd last row and column stay zero."""
    x = jnp.array([[1.0, 5, 2, 2, 9], [3, 5, 2, 2, 9], [9, 9, 9, 9, 9]])[
        None, ..., None
    ]
    y = jnp.array([[10.0, 20.0]])[None, ..., None]
    expected = [[0, 10, 20, 0, 0], [0, 0, 0, 0, 0], [0, 0, 0, 0, 0]]
    np.testing.assert_array_equal(pool.max_unpool(y, x)[0, ..., 0], expected)


@pytest.mark.parity
@pytest.mark.parametrize("size", [(8, 6), (9, 7), (2, 3)], ids=str)
def test_max_unpool_and_its_gradient_are_torchs(size):
    torch = require_parity("torch")
    rng = np.random.default_rng(0)
    # Few distinct values, so that most windows have ties.
    x = rng.integers(-2, 2, size=(2, *size, 3)).astype(np.float64)
    y = rng.normal(size=(2, size[0] // 2, size[1] // 2, 3))
    g = rng.normal(size=x.shape)

    def nchw(array):
        return torch.from_numpy(array.transpose(0, 3, 1, 2).copy())

    _, indices = torch.nn.functional.max_pool2d(nchw(x), 2, return_indices=True)
    tensor = nchw(y).requires_grad_()
    wanted = torch.nn.functional.max_unpool2d(tensor, indices, 2, output_size=size)
    (wanted * nchw(g)).sum().backward()
    with jax.enable_x64(True):
        found, pull = jax.vjp(pool.max_unpool, y, x)
        dy, dx = pull(jnp.asarray(g))
    np.testing.assert_array_equal(found, wanted.detach().permute(0, 2, 3, 1).numpy())
    np.testing.assert_array_equal(dy, tensor.grad.permute(0, 2, 3, 1).numpy())
    assert not np.any(dx)

"""Pooling against NumPy loops over the windows."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from segjax.ops import pool


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


@pytest.mark.parametrize("case", CASES, ids=str)
def test_max_pool_and_its_gradient(case):
    size, window, stride, padding, ceil_mode = case
    rng = np.random.default_rng(0)
    # Few distinct values, so that most windows have ties; some are all negative.
    x = rng.integers(-3, 3, size=(2, *size, 3)).astype(np.float64)
    wh, ww = pool.pair(window)
    sh, sw = pool.pair(stride)
    (top, bottom), (left, right) = pool.both_sides(padding)
    rows = windows(size[0], wh, sh, top, bottom, ceil_mode)
    columns = windows(size[1], ww, sw, left, right, ceil_mode)
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

    with jax.enable_x64(True):
        for out, gradient in jax.jit(both)(x, g):
            np.testing.assert_array_equal(out, y)
            np.testing.assert_allclose(gradient, dx, atol=1e-12)


@pytest.mark.parametrize("count_padding", [True, False])
@pytest.mark.parametrize("case", CASES, ids=str)
def test_avg_pool(case, count_padding):
    size, window, stride, padding, ceil_mode = case
    x = np.random.default_rng(0).normal(size=(1, *size, 2)).astype(np.float32)
    wh, ww = pool.pair(window)
    sh, sw = pool.pair(stride)
    (top, bottom), (left, right) = pool.both_sides(padding)
    rows = windows(size[0], wh, sh, top, bottom, ceil_mode)
    columns = windows(size[1], ww, sw, left, right, ceil_mode)
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
    out = pool.avg_pool(
        jnp.asarray(x),
        window,
        stride,
        padding,
        ceil_mode=ceil_mode,
        count_padding=count_padding,
    )
    np.testing.assert_allclose(out, y, atol=1e-6)


def test_googlenets_pool_keeps_the_last_column():
    x = jnp.arange(16.0).reshape(1, 4, 4, 1)
    assert pool.max_pool(x, 3, 2).shape == (1, 1, 1, 1)
    y = pool.max_pool(x, 3, 2, ceil_mode=True)
    np.testing.assert_array_equal(y[0, :, :, 0], [[10, 11], [14, 15]])


@pytest.mark.parametrize(
    "size, bins", [((9, 8), (6, 6)), ((3, 7), (1, 2)), ((2, 5), 3)]
)
def test_adaptive_avg_pool(size, bins):
    """Bins as torch's: from floor(i n / bins) to ceil((i + 1) n / bins)."""
    x = np.random.default_rng(0).normal(size=(2, *size, 3)).astype(np.float32)
    rows, columns = pool.pair(bins)
    wanted = np.zeros((2, rows, columns, 3))
    for i, j in np.ndindex(rows, columns):
        h0, h1 = i * size[0] // rows, int(np.ceil((i + 1) * size[0] / rows))
        w0, w1 = j * size[1] // columns, int(np.ceil((j + 1) * size[1] / columns))
        wanted[:, i, j] = x[:, h0:h1, w0:w1].mean((1, 2))
    found = pool.adaptive_avg_pool(jnp.asarray(x), (rows, columns))
    np.testing.assert_allclose(found, wanted, atol=1e-6)

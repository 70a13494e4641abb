"""Convolutions against direct NumPy sums, and every formulation against the plain."""

from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given

from segjax.ops import conv, reach, table
from tests.ops.draws import KINDS, SCALES, SEEDS, drawn, few


def direct(x, kernel, strides, padding, dilation, groups):
    """The definition, tap by tap, in float64."""
    kh, kw, _, c_out = kernel.shape
    x = np.pad(x.astype(np.float64), ((0, 0), *padding, (0, 0)))
    height = (x.shape[1] - dilation[0] * (kh - 1) - 1) // strides[0] + 1
    width = (x.shape[2] - dilation[1] * (kw - 1) - 1) // strides[1] + 1
    y = np.zeros((x.shape[0], height, width, c_out))
    c_in = x.shape[3] // groups
    each = c_out // groups
    for i in range(kh):
        for j in range(kw):
            top, left = i * dilation[0], j * dilation[1]
            part = x[:, top:, left:][:, :: strides[0], :: strides[1]]
            part = part[:, :height, :width]
            for g in range(groups):
                y[..., g * each : (g + 1) * each] += (
                    part[..., g * c_in : (g + 1) * c_in]
                    @ kernel[i, j, :, g * each : (g + 1) * each]
                )
    return y


CASES = [
    # size, kernel [kh, kw, Ci, Co], strides, padding, dilation, groups, formulation
    ((7, 9), (3, 3, 4, 6), 1, 1, 1, 1, "plain"),
    ((9, 8), (3, 3, 8, 4), 2, 1, 1, 2, "plain"),
    ((11, 10), (7, 7, 3, 5), 2, 3, 1, 1, "plain"),
    ((6, 7), (1, 1, 5, 3), 1, 0, 1, 1, "dot"),
    ((7, 6), (1, 1, 5, 3), 2, 0, 1, 1, "dot"),
    ((7, 9), (3, 3, 32, 40), 1, 1, 1, 1, "split"),
    ((8, 7), (3, 3, 33, 32), 1, 2, 2, 1, "split"),
    ((6, 8), (3, 3, 32, 32), 1, ((0, 2), (1, 0)), 1, 1, "split"),
    ((7, 6), (3, 3, 16, 21), 1, 1, 1, 1, "split"),
    ((7, 6), (3, 3, 64, 40), 1, 1, 1, 1, "pairs"),
    ((1, 4), (3, 3, 66, 64), 1, 1, 1, 1, "pairs"),
    ((4, 8), (3, 3, 130, 64), 1, 1, 1, 1, "pairs"),
    ((7, 8), (3, 3, 32, 9), 2, 1, 1, 1, "taps"),
    ((9, 7), (3, 3, 40, 8), (2, 3), ((0, 1), (2, 1)), (1, 2), 1, "taps"),
    ((5, 7), (3, 3, 128, 64), 1, 1, 1, 1, "gim"),
    ((5, 6), (3, 3, 128, 32), 1, 1, 1, 1, "gim"),
    ((9, 8), (3, 3, 130, 20), 1, 4, (4, 3), 1, "gim"),
    ((6, 6), (3, 3, 128, 8), 1, ((0, 2), (1, 0)), 1, 1, "gim"),
    ((2, 2), (3, 3, 32, 40), 1, 1, 1, 1, "patches"),
    ((3, 1), (3, 3, 8, 5), 2, ((1, 0), (1, 2)), 1, 1, "patches"),
    ((5, 2), (3, 2, 8, 5), (2, 1), 2, (2, 1), 1, "patches"),
    ((7, 9), (3, 3, 6, 6), 1, 1, 1, 6, "depthwise"),
    ((9, 8), (7, 7, 5, 5), 1, 3, 1, 5, "depthwise"),  # ConvNeXt's
    ((8, 7), (5, 5, 4, 4), 2, ((1, 2), (2, 1)), 1, 4, "depthwise"),
    ((11, 9), (3, 3, 4, 4), 1, 4, 4, 4, "depthwise"),
    ((9, 6), (5, 3, 3, 3), (3, 1), 0, (1, 2), 3, "depthwise"),
]


def geometry(case):
    """(strides, padding, dilation, shape of the kernel) of a case."""
    _, shape, strides, padding, dilation, groups, _ = case
    filters = (*shape[:2], shape[2] // groups, shape[3])
    return conv.pair(strides), conv.both_sides(padding), conv.pair(dilation), filters


@cache
def formulations(case):
    """(x, kernel, g) -> value and gradients, plain and as chosen for a CPU."""
    strides, padding, dilation, _ = geometry(case)

    def both(x, kernel, g):
        results = []
        for platform in (None, "cpu"):
            y, pull = jax.vjp(
                lambda x, k, p=platform: conv.conv2d(
                    x,
                    k,
                    strides=strides,
                    padding=padding,
                    dilation=dilation,
                    groups=case[5],
                    platform=p,
                ),
                x,
                kernel,
            )
            results.append((y, *pull(g)))
        return results

    return jax.jit(both)


@pytest.mark.parametrize("case", CASES, ids=lambda c: f"{c[-1]}-{c[1]}-{c[2]}-{c[4]}")
@few
@given(seed=SEEDS, kind=KINDS, scale=SCALES)
def test_convolutions_agree(case, seed, kind, scale):
    strides, sides, dilation, filters = geometry(case)
    size, shape, *_, groups, formulation = case
    assert formulation == table.conv(
        "cpu", jnp.float32, size, filters, strides, sides, groups, dilation
    )
    rng = np.random.default_rng(seed)
    x = scale * drawn(rng, (2, *size, shape[2]), kind)
    kernel = drawn(rng, filters, kind)
    how = (strides, sides, dilation, groups)
    oracle = direct(x, kernel, *how)
    g = rng.normal(size=oracle.shape)
    # Linear in each: gradients against the sums that other inputs would give.
    other_x, other_kernel = rng.normal(size=x.shape), rng.normal(size=filters)
    slopes = (
        (other_x, np.sum(g * direct(other_x, kernel, *how))),
        (other_kernel, np.sum(g * direct(x, other_kernel, *how))),
    )
    with jax.enable_x64(True):
        for dtype, tolerance in ((np.float64, 1e-10), (np.float32, 1e-5)):
            inputs = (a.astype(dtype) for a in (x, kernel, g))
            plain, fast = formulations(case)(*inputs)
            close(plain[0], oracle, tolerance)
            for a, b in zip(fast, plain, strict=True):
                assert a.dtype == b.dtype == dtype
                close(a, b, tolerance)
            for gradient, (way, wanted) in zip(plain[1:], slopes, strict=True):
                terms = np.asarray(gradient) * way
                error = abs(terms.sum() - wanted)
                assert error <= 10 * tolerance * max(np.abs(terms).sum(), abs(wanted))


def close(a, b, tolerance):
    assert a.shape == b.shape
    assert np.abs(np.asarray(a) - np.asarray(b)).max() <= tolerance * np.abs(b).max()


BEYOND = [
    # size, kernel, stride, padding, dilation, the kernel's rows and columns that count
    ((8, 7), 3, 1, 9, 9, (1, 1)),
    ((13, 5), 3, 1, 12, 12, (3, 1)),
    ((1, 4), 3, 1, 1, 1, (1, 3)),
    ((5, 6), 5, 2, ((6, 6), (3, 6)), 3, (3, 2)),
    ((4, 4), 3, 1, ((0, 12), (12, 0)), 6, (1, 1)),
    ((2, 2), 2, 1, 4, 7, (2, 2)),  # no tap sees the map
]


@pytest.mark.parametrize("groups", [1, 4])
@pytest.mark.parametrize("case", BEYOND, ids=str)
def test_taps_that_see_only_padding_are_left_out(case, groups):
    size, k, stride, padding, dilation, counting = case
    strides, sides, steps = (stride,) * 2, conv.both_sides(padding), (dilation,) * 2
    rng = np.random.default_rng(3)
    x, kernel = rng.normal(size=(2, *size, 4)), rng.normal(size=(k, k, 4 // groups, 4))
    oracle = direct(x, kernel, strides, sides, steps, groups)
    g = rng.normal(size=oracle.shape)
    case = (size, (k, k, 4, 4), strides, sides, dilation, groups, None)
    with jax.enable_x64(True):
        left, _ = reach.reaching(jnp.asarray(x), kernel, strides, sides, steps)
        assert left.shape == (*counting, *kernel.shape[2:])
        plain, fast = formulations(case)(x, kernel, g)
    assert plain[0].dtype == np.float64
    np.testing.assert_allclose(plain[0], oracle, atol=1e-10)
    for a, b in zip(fast, plain, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-10)
    # Linear in the kernel: the gradient along a direction is what it would give.
    other = rng.normal(size=kernel.shape)
    wanted = np.sum(g * direct(x, other, strides, sides, steps, groups))
    np.testing.assert_allclose(np.sum(np.asarray(plain[2]) * other), wanted, atol=1e-9)


@pytest.mark.parametrize("kernel, dilation, groups", [(3, 2, 1), (5, 3, 4), (3, 9, 4)])
def test_rows_that_devices_share_agree(kernel, dilation, groups):
    """A kernel's rows one by one; with dilation 9 only the middle one sees the map."""
    reach = dilation * (kernel - 1) // 2
    rng = np.random.default_rng(4)
    x = rng.normal(size=(2, 8, 5, 4))
    filters = rng.normal(size=(kernel, kernel, 4 // groups, 8))
    sides, steps = ((reach, reach), (reach, reach)), (dilation, dilation)
    geometry = (x.shape[1:3], filters.shape, (1, 1), sides, groups, steps)
    assert table.conv(None, jnp.float64, *geometry, spatial=8) == "rows"
    assert table.conv(None, jnp.float64, *geometry, spatial=1) == "plain"
    oracle = direct(x, filters, (1, 1), sides, steps, groups)
    g = rng.normal(size=oracle.shape)

    def of(x, filters, g, spatial):
        y, pull = jax.vjp(
            lambda x, k: conv.conv2d(
                x, k, padding=reach, dilation=dilation, groups=groups, spatial=spatial
            ),
            x,
            filters,
        )
        return (y, *pull(g))

    with jax.enable_x64(True):
        for dtype, tolerance in ((np.float64, 1e-10), (np.float32, 1e-5)):
            arrays = (a.astype(dtype) for a in (x, filters, g))
            both = jax.jit(lambda *a: (of(*a, spatial=8), of(*a, spatial=1)))
            rows, plain = both(*arrays)
            close(rows[0], oracle, tolerance)
            for a, b in zip(rows, plain, strict=True):
                assert a.dtype == dtype
                close(a, b, tolerance)


UPSAMPLED = [
    # size, target, channels of the skip, platform, formulation
    ((4, 5), (8, 10), 6, "cpu", "differences"),
    ((4, 5), (8, 10), 0, "cpu", "differences"),
    ((1, 1), (2, 2), 0, "cpu", "differences"),
    ((4, 5), (7, 9), 6, "cpu", "plain"),
    ((4, 5), (4, 5), 6, "cpu", "plain"),
    ((4, 5), (8, 10), 6, "tpu", "transposed"),
    ((1, 1), (2, 2), 0, "tpu", "transposed"),
]


@cache
def upsampled_formulations(case):
    """(x, skip, kernel, g) -> value and gradients, plain and as chosen."""
    _, target, skip, platform, _ = case

    def both(x, side, kernel, g):
        results = []
        for chosen in (None, platform):
            y, pull = jax.vjp(
                lambda x, s, k, p=chosen: conv.conv_upsampled(
                    x, s if skip else None, k, target, platform=p
                ),
                x,
                side,
                kernel,
            )
            results.append((y, *pull(g)))
        return results

    return jax.jit(both)


@pytest.mark.parametrize("case", UPSAMPLED, ids=str)
@few
@given(seed=SEEDS, kind=KINDS, scale=SCALES)
def test_upsampled_convolution_agrees(case, seed, kind, scale):
    size, target, skip, platform, formulation = case
    assert table.conv_upsampled(platform, jnp.float32, size, target) == formulation
    assert table.conv_upsampled("cpu", jnp.bfloat16, size, target) == "plain"
    rng = np.random.default_rng(seed)
    x = scale * drawn(rng, (2, *size, 3), kind)
    side = scale * drawn(rng, (2, *target, skip), kind)
    kernel = drawn(rng, (3, 3, 3 + skip, 4), kind)
    rows = np.arange(target[0]) * size[0] // target[0]
    columns = np.arange(target[1]) * size[1] // target[1]
    joined = np.concatenate([x[:, rows][:, :, columns], side], 3)
    oracle = direct(joined, kernel, (1, 1), ((1, 1), (1, 1)), (1, 1), 1)
    arrays = (x, side, kernel, rng.normal(size=oracle.shape))
    with jax.enable_x64(True):
        for dtype, tolerance in ((np.float64, 1e-10), (np.float32, 1e-5)):
            plain, fast = upsampled_formulations(case)(
                *(a.astype(dtype) for a in arrays)
            )
            close(plain[0], oracle, tolerance)
            for a, b in zip(fast, plain, strict=True):
                if b.size:
                    close(a, b, tolerance)


@pytest.mark.parametrize(
    "kernel, strides, padding", [(4, 2, 1), (2, 2, 0), (3, 3, 0), (16, 8, 4), (3, 1, 1)]
)
def test_transposed_convolution_is_the_adjoint(kernel, strides, padding):
    """<conv(x), y> = <x, conv_transpose(y)> for the same kernel, by NumPy's conv."""
    rng = np.random.default_rng(3)
    y = rng.normal(size=(2, 4, 5, 3))
    weights = rng.normal(size=(kernel, kernel, 3, 2))  # Ci 3 -> Co 2, transposed
    with jax.enable_x64(True):
        found = conv.conv_transpose(
            jnp.asarray(y), jnp.asarray(weights), strides=strides, padding=padding
        )
    x = rng.normal(size=found.shape)
    sides = ((padding, padding),) * 2
    there = direct(x, weights.swapaxes(2, 3), (strides, strides), sides, (1, 1), 1)
    assert there.shape == y.shape
    assert np.sum(there * y) == pytest.approx(np.sum(x * np.asarray(found)), rel=1e-10)


@pytest.mark.parametrize(
    "kernel, strides, padding",
    [(4, 2, 1), (8, 2, 3), (6, 4, 1), (5, (1, 3), (2, 1))],
)
def test_transposed_convolution_by_phases(kernel, strides, padding):
    """Forward and both gradients as the plain formulation's."""
    rng = np.random.default_rng(4)
    arrays = rng.normal(size=(2, 3, 5, 3)), rng.normal(size=(kernel, kernel, 3, 2))

    def run(platform, x, taps):
        def f(x, taps):
            return conv.conv_transpose(
                x,
                taps,
                strides=strides,
                padding=padding,
                platform=platform,
            )

        @jax.jit
        def both(x, taps):
            y, back = jax.vjp(f, x, taps)
            return y, *back(jnp.cos(y))

        return *both(x, taps), str(jax.make_jaxpr(f)(x, taps))

    with jax.enable_x64(True):
        for dtype, tolerance in ((jnp.float64, 1e-10), (jnp.float32, 1e-5)):
            inputs = [jnp.asarray(a, dtype) for a in arrays]
            (*plain, text), (*found, other) = (run(p, *inputs) for p in (None, "cpu"))
            for a, b in zip(found, plain, strict=True):
                assert a.dtype == dtype
                close(a, b, tolerance)
            assert text != other


def test_phases_are_for_one_device_and_whole_factors():
    args = ((4, 4), (2, 2), (1, 1))
    assert table.conv_transpose("cpu", 1, *args) == "phases"
    assert table.conv_transpose("cpu", 1, (3, 3), (2, 2), (1, 1)) == "plain"
    for platform, spatial in (("cpu", 2), ("tpu", 1), (None, 1)):
        assert table.conv_transpose(platform, spatial, *args) == "plain"


def test_other_platforms_are_plain():
    sides = ((1, 1), (1, 1))
    for platform in (None, "tpu", "gpu"):
        chosen = table.conv(
            platform, jnp.float32, (8, 8), (3, 3, 64, 64), (1, 1), sides, 1
        )
        assert chosen == "plain"

"""Resizing against np.interp, index formulas and hand-worked numbers."""

from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given

from segjax.ops import resize, table
from segjax.ops.scores import Rule, Scores, finish
from tests.ops.draws import KINDS, SEEDS, assert_linear, drawn, few, with_pullback
from tests.requirements import require_parity


def image(height, width, channels=2):
    shape = (2, height, width, channels)
    return np.random.default_rng(0).normal(size=shape).astype(np.float32)


@cache
def nearest(size):
    return with_pullback(lambda x: resize.resize_nearest(x, size))


@pytest.mark.parametrize(
    "size", [(10, 14), (9, 13), (10, 13), (5, 7), (3, 20), (12, 4), (15, 28)]
)
@few
@given(seed=SEEDS, kind=KINDS)
def test_nearest(size, seed, kind):
    def oracle(x):
        y = np.zeros((2, *size, 2))
        for o, p in np.ndindex(size):
            y[:, o, p] = x[:, int(o * 5 / size[0]), int(p * 7 / size[1])]
        return y

    x = drawn(np.random.default_rng(seed), (2, 5, 7, 2), kind)
    assert_linear(nearest(size), oracle, x, seed, tolerance=1e-14)


def test_upsample_nearest():
    x = jnp.array([[1.0, 2.0], [3.0, 4.0]])[None, :, :, None]
    y = resize.upsample_nearest(x, 3)[0, :, :, 0]
    np.testing.assert_array_equal(y, np.kron([[1, 2], [3, 4]], np.ones((3, 3))))


def interpolated(x, size, align_corners):
    """Rows, then columns: between the two pixels around, at the edge the last one."""

    def along(axis, out):
        n, lines = x.shape[axis], np.moveaxis(x, axis, -1)
        if align_corners:
            at = np.linspace(0, n - 1, out) if out > 1 else np.zeros(1)
        else:
            at = np.clip((np.arange(out) + 0.5) * n / out - 0.5, 0, n - 1)
        low = np.floor(at).astype(int)
        high, share = np.minimum(low + 1, n - 1), at - low
        mixed = lines[..., low] * (1 - share) + lines[..., high] * share
        return np.moveaxis(mixed, -1, axis)

    x = along(1, size[0])
    return along(2, size[1])


@cache
def bilinear(size, align_corners):
    return with_pullback(
        lambda x: resize.resize_bilinear(x, size, align_corners=align_corners)
    )


@pytest.mark.parametrize("size", [(10, 14), (9, 13), (1, 1), (3, 20), (64, 7)])
@pytest.mark.parametrize("align_corners", [True, False])
@few
@given(seed=SEEDS, kind=KINDS)
def test_bilinear(size, align_corners, seed, kind):
    x = drawn(np.random.default_rng(seed), (2, 5, 7, 2), kind)
    assert_linear(
        bilinear(size, align_corners),
        lambda x: interpolated(x, size, align_corners),
        x,
        seed,
    )


@cache
def bicubic(size, antialias):
    return with_pullback(lambda x: resize.resize_bicubic(x, size, antialias=antialias))


@pytest.mark.parametrize("size", [(10, 14), (3, 20), (64, 5)])
@pytest.mark.parametrize("antialias", [True, False])
@few
@given(seed=SEEDS, kind=KINDS)
def test_bicubic(size, antialias, seed, kind):
    """Pixel by pixel, from Keys' kernel as it is written down."""

    def kernel(d):
        a, d = (-0.5 if antialias else -0.75), abs(d)
        if d < 1:
            return (a + 2) * d**3 - (a + 3) * d**2 + 1
        return a * d**3 - 5 * a * d**2 + 8 * a * d - 4 * a if d < 2 else 0.0

    def line(x, out):
        n, y = len(x), np.zeros((out, *x.shape[1:]))
        wide = max(n / out, 1) if antialias else 1
        for o in range(out):
            centre = (o + 0.5) * n / out - 0.5
            taps = range(int(np.floor(centre - 2 * wide)), int(centre + 2 * wide) + 2)
            weights = {t: kernel((t - centre) / wide) for t in taps}
            if antialias:
                weights = {t: w for t, w in weights.items() if 0 <= t < n}
            total = sum(weights.values())
            for t, weight in weights.items():
                y[o] += weight / total * x[min(max(t, 0), n - 1)]
        return y

    def oracle(x):
        rows = line(np.moveaxis(x, 1, 0), size[0])
        columns = line(np.moveaxis(rows, 2, 0), size[1])
        return np.moveaxis(columns, (0, 1), (2, 1))

    x = drawn(np.random.default_rng(seed), (2, 5, 7, 2), kind)
    assert_linear(bicubic(size, antialias), oracle, x, seed)


def test_bilinear_by_hand():
    x = jnp.array([0.0, 4.0])[None, :, None, None]
    half = resize.resize_bilinear(x, (4, 1), align_corners=False)
    np.testing.assert_allclose(half[0, :, 0, 0], [0, 1, 3, 4])
    corners = resize.resize_bilinear(x, (3, 1), align_corners=True)
    np.testing.assert_allclose(corners[0, :, 0, 0], [0, 2, 4])


@cache
def formulation(size, platform, spatial):
    return with_pullback(
        lambda x: resize.resize_bilinear(
            x, size, align_corners=False, platform=platform, spatial=spatial
        )
    )


@pytest.mark.parametrize("factor, width", [(2, 14), (3, 7), (4, 9), (16, 3)])
@few
@given(seed=SEEDS, kind=KINDS)
def test_taps(factor, width, seed, kind):
    size = (5 * factor, width)
    assert table.resize(None, 4, (5, 7, 2), size, False) == "taps"
    x = drawn(np.random.default_rng(seed), (2, 5, 7, 2), kind)
    taps = formulation(size, None, 4)
    assert_linear(taps, lambda x: interpolated(x, size, False), x, seed)


@pytest.mark.parametrize("factors", [(2, 2), (4, 4), (3, 5), (8, 1), (1, 2)])
@few
@given(seed=SEEDS, kind=KINDS)
def test_transposed(factors, seed, kind):
    size = (5 * factors[0], 7 * factors[1])
    assert table.resize("tpu", 1, (5, 7, 64), size, False) == "transposed"
    assert table.resize("tpu", 1, (5, 7, 63), size, False) == "matrices"
    assert table.resize("tpu", 1, (5, 7, 64), size, True) == "matrices"
    x = drawn(np.random.default_rng(seed), (1, 5, 7, 64), kind)
    transposed = formulation(size, "tpu", 1)
    assert_linear(transposed, lambda x: interpolated(x, size, False), x, seed)


@cache
def neighbours(size, align_corners):
    return with_pullback(
        lambda x: resize._by_neighbours(size, x.shape[1:3], align_corners, x)
    )


@pytest.mark.parametrize("align_corners", [False, True])
@pytest.mark.parametrize("factors", [(2, 2), (4, 4), (3, 5), (8, 1), (1, 2)])
@few
@given(seed=SEEDS, kind=KINDS)
def test_neighbours(factors, align_corners, seed, kind):
    size = (5 * factors[0], 7 * factors[1])
    x = drawn(np.random.default_rng(seed), (2, 5, 7, 2), kind)
    found = neighbours(size, align_corners)
    assert_linear(found, lambda x: interpolated(x, size, align_corners), x, seed)


@pytest.mark.parametrize("align_corners", [False, True])
@pytest.mark.parametrize("source", [(1, 1), (1, 4), (3, 1)])
def test_neighbours_of_one_pixel(source, align_corners):
    x, size = image(*source), (4 * source[0], 4 * source[1])
    found = neighbours(size, align_corners)
    assert_linear(found, lambda x: interpolated(x, size, align_corners), x, 0)


def test_neighbours_stay_on_the_devices_of_their_images(monkeypatch):
    monkeypatch.setattr(table, "BROAD", 0)
    x, g = np.repeat(image(3, 4), 4, 0), np.repeat(image(6, 8), 4, 0)
    mesh = jax.make_mesh((8,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    images = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("data"))

    def both(platform, x, g):
        y, pull = jax.vjp(
            lambda x: resize.resize_bilinear(
                x, (6, 8), align_corners=True, platform=platform
            ),
            x,
        )
        return y, *pull(g)

    split = jax.jit(partial(both, "cpu"), in_shardings=images, out_shardings=images)
    program = split.lower(x, g).compile()
    assert "all-gather" not in program.as_text()
    for a, b in zip(program(x, g), both(None, x, g), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)


def test_large_maps_on_a_cpu_mix_neighbours(monkeypatch):
    shape, size = (16, 16, 256), (64, 64)
    assert table.resize("cpu", 1, shape, size, True) == "neighbours"
    assert table.resize("cpu", 1, shape, (60, 64), True) == "matrices"
    assert table.resize("cpu", 1, (16, 16, 63), size, True) == "matrices"
    assert table.resize("cpu", 2, shape, size, False) == "taps"
    monkeypatch.setattr(table, "BROAD", 0)
    found, products = [], []
    for platform in ("cpu", None):
        rule = Rule((12, 15), (11, 14), platform=platform)
        of_array = partial(lambda rule, x: finish(Scores(x, rule)), rule)
        found.append(of_array(image(4, 5)))
        products.append("dot_general" in str(jax.make_jaxpr(of_array)(image(4, 5))))
    np.testing.assert_allclose(*found, atol=1e-6)
    assert products == [False, True]


@pytest.mark.parametrize("rows, out", [(9, 15), (9, 4), (1, 4), (5, 10)])
def test_too_few_rows_or_no_whole_factor_are_matrices(rows, out):
    x, size = jnp.asarray(image(rows, 7)), (out, 7)
    y = resize.resize_bilinear(x, size, align_corners=False, spatial=8)
    expected = resize.resize_bilinear(x, size, align_corners=False)
    np.testing.assert_array_equal(y, expected)


def test_bilinear_keeps_half_precision_types(monkeypatch):
    monkeypatch.setattr(table, "BROAD", 0)
    x = jnp.ones((1, 2, 2, 1), jnp.bfloat16)
    for platform, spatial in ((None, 1), (None, 2), ("cpu", 1)):
        y, pull = jax.vjp(
            lambda x, p=platform, s=spatial: resize.resize_bilinear(
                x, (4, 4), align_corners=False, platform=p, spatial=s
            ),
            x,
        )
        assert y.dtype == pull(y)[0].dtype == jnp.bfloat16
        np.testing.assert_array_equal(y, 1)


def test_scores_finish_by_resizing_and_cropping_in_float32():
    array = jnp.array([0.0, 4.0], jnp.bfloat16)[None, :, None, None]
    logits = finish(Scores(array, Rule(size=(4, 2), crop=(3, 1))))
    assert logits.dtype == jnp.float32
    np.testing.assert_allclose(logits[0, :, :, 0], [[0], [1], [3]])


@pytest.mark.parametrize("size", [(10, 14), (9, 3), (1, 1), (3, 20), (64, 7)])
@pytest.mark.parametrize("antialias", [True, False])
def test_bicubic_is_torchs(size, antialias):
    torch = require_parity("torch")
    x = image(5, 7)
    y = torch.nn.functional.interpolate(
        torch.from_numpy(x.transpose(0, 3, 1, 2).copy()).double(),
        size=size,
        mode="bicubic",
        align_corners=False,
        antialias=antialias,
    )
    out = resize.resize_bicubic(jnp.asarray(x), size, antialias=antialias)
    np.testing.assert_allclose(out, y.permute(0, 2, 3, 1), atol=1e-5)

"""Resizing against np.interp, index formulas and hand-worked numbers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from segjax.ops import resize, table
from segjax.ops.scores import Rule, Scores, finish
from tests.requirements import require_parity


def image(height, width, channels=2):
    shape = (2, height, width, channels)
    return np.random.default_rng(0).normal(size=shape).astype(np.float32)


@pytest.mark.parametrize(
    "size", [(10, 14), (9, 13), (10, 13), (5, 7), (3, 20), (12, 4), (15, 28)]
)
def test_nearest(size):
    x = image(5, 7)
    y = resize.resize_nearest(jnp.asarray(x), size)
    for o, p in np.ndindex(size):
        np.testing.assert_array_equal(
            y[:, o, p], x[:, int(o * 5 / size[0]), int(p * 7 / size[1])]
        )


def test_upsample_nearest():
    x = jnp.array([[1.0, 2.0], [3.0, 4.0]])[None, :, :, None]
    y = resize.upsample_nearest(x, 3)[0, :, :, 0]
    np.testing.assert_array_equal(y, np.kron([[1, 2], [3, 4]], np.ones((3, 3))))


@pytest.mark.parametrize("size", [(10, 14), (9, 13), (1, 1), (3, 20), (64, 7)])
@pytest.mark.parametrize("align_corners", [True, False])
def test_bilinear(size, align_corners):
    x = image(5, 7)

    def at(out, n):
        if align_corners:
            return np.linspace(0, n - 1, out) if out > 1 else np.zeros(1)
        return (np.arange(out) + 0.5) * n / out - 0.5

    def along(axis, x, out):
        n = x.shape[axis]
        return np.apply_along_axis(
            lambda line: np.interp(at(out, n), np.arange(n), line), axis, x
        )

    y = along(2, along(1, x, size[0]), size[1])
    out = resize.resize_bilinear(jnp.asarray(x), size, align_corners=align_corners)
    np.testing.assert_allclose(out, y, atol=1e-5)


def test_bilinear_by_hand():
    x = jnp.array([0.0, 4.0])[None, :, None, None]
    half = resize.resize_bilinear(x, (4, 1), align_corners=False)
    np.testing.assert_allclose(half[0, :, 0, 0], [0, 1, 3, 4])
    corners = resize.resize_bilinear(x, (3, 1), align_corners=True)
    np.testing.assert_allclose(corners[0, :, 0, 0], [0, 2, 4])


def resized(x, size, **options):
    """Value and gradient of a bilinear resizing."""
    y, pull = jax.vjp(
        lambda x: resize.resize_bilinear(x, size, align_corners=False, **options), x
    )
    return y, pull(jnp.sin(jnp.arange(y.size)).reshape(y.shape))[0]


@pytest.mark.parametrize("factor, width", [(2, 14), (3, 7), (4, 9), (16, 3)])
def test_taps_are_the_matrices(factor, width):
    with jax.enable_x64(True):
        x = jnp.asarray(image(5, 7), float)
        size = (5 * factor, width)
        assert table.resize(None, 4, (5, 7, 2), size, False) == "taps"

        pairs = zip(resized(x, size, spatial=4), resized(x, size), strict=True)
        for taps, matrices in pairs:
            np.testing.assert_allclose(taps, matrices, rtol=0, atol=1e-10)


@pytest.mark.parametrize("factors", [(2, 2), (4, 4), (3, 5), (8, 1), (1, 2)])
def test_transposed_is_the_matrices(factors):
    with jax.enable_x64(True):
        x = jnp.asarray(image(5, 7, channels=64), float)
        size = (5 * factors[0], 7 * factors[1])
        assert table.resize("tpu", 1, (5, 7, 64), size, False) == "transposed"
        assert table.resize("tpu", 1, (5, 7, 63), size, False) == "matrices"
        assert table.resize("tpu", 1, (5, 7, 64), size, True) == "matrices"

        pairs = zip(resized(x, size, platform="tpu"), resized(x, size), strict=True)
        for ours, matrices in pairs:
            np.testing.assert_allclose(ours, matrices, rtol=0, atol=1e-10)


@pytest.mark.parametrize("rows, out", [(9, 15), (9, 4), (1, 4), (5, 10)])
def test_too_few_rows_or_no_whole_factor_are_matrices(rows, out):
    x, size = jnp.asarray(image(rows, 7)), (out, 7)
    y = resize.resize_bilinear(x, size, align_corners=False, spatial=8)
    expected = resize.resize_bilinear(x, size, align_corners=False)
    np.testing.assert_array_equal(y, expected)


def test_bilinear_keeps_half_precision_types():
    x = jnp.ones((1, 2, 2, 1), jnp.bfloat16)
    for spatial in (1, 2):
        y = resize.resize_bilinear(x, (4, 4), align_corners=False, spatial=spatial)
        assert y.dtype == jnp.bfloat16


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

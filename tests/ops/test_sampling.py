"""Sampling against NumPy loops, SciPy, jax.image and PyTorch."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import ndimage

from segjax.ops import sampling
from tests.requirements import require_parity


def slow_matrix(out_size, in_size, start, step, valid, order):
    """The definition, one row at a time, in float64."""
    matrix = np.zeros((out_size, in_size))
    for row in range(out_size):
        at = start + step * row
        if not -0.5 <= at < valid - 0.5:
            continue
        if order == 0:
            matrix[row, int(np.floor(at + 0.5))] = 1
            continue
        at = min(max(at, 0.0), valid - 1.0)
        low = int(np.floor(at))
        matrix[row, low] += 1 - (at - low)
        if at > low:
            matrix[row, low + 1] += at - low
    return matrix


@functools.partial(jax.jit, static_argnames="order")
def matrices(start, step, valid, order):
    def one(start, step, valid):
        return sampling.interpolation_matrix(
            13, 9, start=start, step=step, valid=valid, order=order
        )

    return jax.vmap(one)(start, step, valid)


@pytest.mark.parametrize("order", [0, 1])
def test_interpolation_matrix_is_its_definition(order):
    start = [0.0, -0.25, -3.125, 8.375, 0.5, 2.0, 0.0]
    step = [1.0, 0.75, 1.25, -0.75, 2.0, 0.0, -1.0]
    valid = [9, 9, 7, 9, 5, 3, 1]
    got = matrices(
        jnp.asarray(start, jnp.float32),
        jnp.asarray(step, jnp.float32),
        jnp.asarray(valid),
        order,
    )
    for case, args in enumerate(zip(start, step, valid, strict=True)):
        want = slow_matrix(13, 9, *args, order)
        np.testing.assert_allclose(got[case], want, atol=1e-6, err_msg=str(args))
    if order == 0:
        assert set(np.unique(got)) <= {0.0, 1.0}


def test_line_samples_are_the_definition():
    """On the pixels' borders, too, where a rounded sum would take the next one."""
    rng = np.random.default_rng(0)
    # Multiples of 1/8: exact in float32, and often on a border.
    start, step = rng.integers(-40, 80, (2, 200)) / 8, rng.integers(-20, 21, 400) / 8
    step = step.reshape(2, 200)
    border = np.nextafter(rng.integers(0, 9, (2, 30)) + 0.5, -1, dtype=np.float32)
    start[:, :30], step[:, :30] = border, 0
    valid = np.stack([rng.integers(1, 10, 200), rng.integers(1, 8, 200)])
    both = jax.jit(functools.partial(sampling.line_samples, (13, 11), (9, 7)))(
        jnp.asarray(start, jnp.float32), jnp.asarray(step, jnp.float32), valid
    )
    for axis, (out, n) in enumerate(((13, 9), (11, 7))):
        lines = [np.asarray(array) for array in both[axis]]
        assert all(array.shape == (200, out) for array in lines)
        everything = zip(start[axis], step[axis], valid[axis], strict=True)
        for case, definition in enumerate(everything):
            low, high, weight, inside, nearest, found = (a[case] for a in lines)
            matrix = np.zeros((out, n))
            np.add.at(matrix, (np.arange(out), low), (1 - weight) * inside)
            np.add.at(matrix, (np.arange(out), high), weight * inside)
            want = slow_matrix(out, n, *definition, 1)
            np.testing.assert_allclose(matrix, want, atol=1e-6, err_msg=str(definition))
            matrix = np.zeros((out, n))
            matrix[np.arange(out), nearest] = found
            np.testing.assert_array_equal(matrix, slow_matrix(out, n, *definition, 0))


def test_a_row_sums_to_one_inside_and_to_zero_outside():
    got = matrices(
        jnp.asarray([-2.25]), jnp.asarray([0.875]), jnp.asarray([8]), order=1
    )[0]
    at = -2.25 + 0.875 * np.arange(13)
    np.testing.assert_allclose(got.sum(1), (at >= -0.5) & (at < 7.5), atol=1e-6)


def test_separable_sampling_is_scipys_map_coordinates():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(2, 7, 9, 3)).astype(np.float32)
    rows = jnp.stack([matrices_for(11, 7, s, t) for s, t in ((0.2, 0.5), (5.5, -0.5))])
    columns = jnp.stack(
        [matrices_for(6, 9, s, t) for s, t in ((0.0, 1.5), (8.0, -1.5))]
    )
    got = sampling.sample_separable(jnp.asarray(x), rows, columns)
    for b, ((s, t), (u, v)) in enumerate(
        (((0.2, 0.5), (0.0, 1.5)), ((5.5, -0.5), (8.0, -1.5)))
    ):
        at = np.meshgrid(s + t * np.arange(11), u + v * np.arange(6), indexing="ij")
        for c in range(3):
            want = ndimage.map_coordinates(x[b, :, :, c], at, order=1, mode="nearest")
            np.testing.assert_allclose(got[b, :, :, c], want, atol=1e-5)


def matrices_for(out_size, in_size, start, step):
    return sampling.interpolation_matrix(
        out_size, in_size, start=start, step=step, valid=in_size, order=1
    )


@pytest.mark.parametrize("order", [0, 1])
def test_gathering_is_scipys_map_coordinates(order):
    rng = np.random.default_rng(1)
    x = rng.normal(size=(8, 9, 2)).astype(np.float32)
    at = rng.uniform(-2, 9, size=(2, 5, 6)).astype(np.float32)
    size = jnp.asarray([7, 9])
    got = jax.jit(functools.partial(sampling.sample_at, order=order))(
        x, at[0], at[1], size
    )
    keep = (at >= -0.5).all(0) & (at[0] < 6.5) & (at[1] < 8.5)
    for c in range(2):
        want = ndimage.map_coordinates(x[:7, :, c], at, order=order, mode="nearest")
        np.testing.assert_allclose(got[..., c], np.where(keep, want, 0), atol=1e-5)


SIZES = np.array([[12, 10], [5, 10], [1, 1], [7, 3]], np.int32)
LABEL_SIZES = np.array([[17, 23], [10, 21], [4, 3], [3, 2]], np.int32)
LABEL_SHAPE = (17, 23)


@pytest.fixture(scope="module")
def logits():
    return np.random.default_rng(2).normal(size=(4, 12, 10, 5)).astype(np.float32)


@pytest.fixture(scope="module")
def resized(logits):
    function = jax.jit(sampling.resize_logits, static_argnames="label_shape")
    return np.asarray(function(logits, SIZES, LABEL_SIZES, label_shape=LABEL_SHAPE))


def test_resize_logits_is_jax_image_resize_of_each_valid_area(logits, resized):
    for b, ((h, w), (hl, wl)) in enumerate(zip(SIZES, LABEL_SIZES, strict=True)):
        want = np.zeros((*LABEL_SHAPE, 5), np.float32)
        want[:hl, :wl] = jax.image.resize(
            logits[b, :h, :w], (hl, wl, 5), "bilinear", antialias=False
        )
        np.testing.assert_allclose(resized[b], want, atol=1e-5)


@pytest.mark.parity
def test_resize_logits_is_torchs_interpolate(logits, resized):
    torch = require_parity("torch")
    for b, ((h, w), (hl, wl)) in enumerate(zip(SIZES, LABEL_SIZES, strict=True)):
        x = torch.from_numpy(logits[b, :h, :w].copy()).permute(2, 0, 1)[None]
        want = torch.nn.functional.interpolate(
            x, (int(hl), int(wl)), mode="bilinear", align_corners=False
        )
        want = want[0].permute(1, 2, 0).numpy()
        np.testing.assert_allclose(resized[b, :hl, :wl], want, atol=1e-5)

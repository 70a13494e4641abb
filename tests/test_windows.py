"""Where windows lie and what they weigh, by counting."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from segjax import sharding, windows

lengths = st.tuples(
    st.integers(1, 40), st.integers(1, 12), st.sampled_from([1, 4, 32])
).map(lambda x: (max(x[0], x[1]) * x[2], x[1] * x[2], x[2]))


@given(lengths, st.floats(0, 0.95))
def test_windows_cover_every_pixel_and_overlap_as_asked(sizes, overlap):
    length, window, step = sizes
    starts = windows.window_starts(length, window, overlap, step)
    assert starts[0] == 0 and starts[-1] == length - window
    assert (starts % step == 0).all()
    gaps = np.diff(starts)
    assert (gaps > 0).all()
    # A window cannot move by less than a step.
    assert (gaps <= max(step, window * (1 - overlap) + 1e-6)).all()
    assert gaps.size == 0 or gaps.max() - gaps.min() <= step


@given(lengths, st.floats(0, 0.95), st.integers(0, 6))
def test_the_weights_of_every_pixel_sum_to_one(sizes, overlap, margin):
    length, window, step = sizes
    starts = windows.window_starts(length, window, overlap, step)
    if len(starts) > 1:
        margin = min(margin, (window - int(np.diff(starts).max())) // 2)
    weights = windows.window_weights(length, starts, window, margin)
    total = np.zeros(length)
    for start, weight in zip(starts, weights, strict=True):
        for i, w in enumerate(weight):
            total[start + i] += w
        if start > 0:
            assert not weight[:margin].any()
        if start + window < length:
            assert not weight[window - margin :].any()
    np.testing.assert_allclose(total, 1, atol=1e-12)


def test_weights_are_the_normalised_gaussian_of_the_centre():
    weights = windows.window_weights(12, np.array([0, 4]), 8)

    def bell(place, start):
        return np.exp(-0.5 * ((place + 0.5 - start - 4) / (0.125 * 8)) ** 2)

    for place in range(4, 8):
        a, b = bell(place, 0), bell(place, 4)
        assert weights[0][place] == pytest.approx(a / (a + b), rel=1e-9)
        assert weights[1][place - 4] == pytest.approx(b / (a + b), rel=1e-9)
    np.testing.assert_allclose(weights[0][:4], 1)


def test_a_layout_is_a_grid_on_a_canvas_of_whole_steps():
    plan = windows.layout((50, 20), (32, 32), overlap=0.5, step=8)
    assert plan.canvas == (56, 32)
    assert plan.corners.tolist() == [[0, 0], [8, 0], [24, 0]]
    total = np.zeros(plan.canvas)
    for (top, left), rows, columns in zip(
        plan.corners, plan.rows, plan.columns, strict=True
    ):
        total[top : top + 32, left : left + 32] += np.outer(rows, columns)
    np.testing.assert_allclose(total, 1, atol=1e-6)


def test_margins_that_leave_a_gap_are_refused():
    with pytest.raises(ValueError, match="overlap by 8 px leave a gap .* of 5 px"):
        windows.layout((56, 56), (32, 32), overlap=0.25, step=8, margin=5)


def test_the_blend_is_the_weighted_sum_over_all_devices():
    mesh = sharding.make_mesh()
    devices = sharding.batch_parts(mesh)
    plan = windows.layout((40, 24), (16, 8), overlap=0.5, step=4)
    count = -(-len(plan.corners) // devices) * devices
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(count, 16, 8, 3)).astype(np.float32)
    filled = [
        np.concatenate([x, np.zeros((count - len(x), x.shape[1]), x.dtype)])
        for x in (plan.corners, plan.rows, plan.columns)
    ]
    canvas = jnp.zeros((devices, *plan.canvas, 3), device=sharding.batch_sharding(mesh))
    split = [jax.device_put(x, sharding.batch_sharding(mesh)) for x in filled]
    blended = windows.make_blend(mesh)(canvas, logits, *split)
    want = np.zeros((*plan.canvas, 3))
    for i, (top, left) in enumerate(plan.corners):
        weight = np.outer(plan.rows[i].astype(float), plan.columns[i])
        want[top : top + 16, left : left + 8] += weight[..., None] * logits[i]
    np.testing.assert_allclose(np.asarray(blended).sum(0), want, atol=1e-5)

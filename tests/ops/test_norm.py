"""Normalisation against NumPy in float64; the fused backward against automatic."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from jax.sharding import NamedSharding, PartitionSpec

from segjax.ops import norm
from tests.ops.draws import SEEDS, few


def data(shape=(3, 4, 5, 8)):
    rng = np.random.default_rng(0)
    x = rng.normal(1.0, 2.0, size=shape)
    scale = rng.uniform(0.5, 1.5, size=shape[-1])
    return x, scale, rng.normal(size=shape[-1]), rng.normal(size=shape)


@pytest.mark.parametrize("relu", [False, True])
def test_batch_norm_in_training(relu):
    x, scale, bias, g = data()
    mean, var = x.mean((0, 1, 2)), x.var((0, 1, 2))
    y = (x - mean) / np.sqrt(var + 1e-5) * scale + bias
    y = np.maximum(y, 0) if relu else y

    def both(x, scale, bias, g):
        results = []
        for platform in (None, "cpu"):
            out, pull, aux = jax.vjp(
                lambda x, s, b, p=platform: (lambda r: (r[0], r[1:]))(
                    norm.batch_norm_train(x, s, b, relu=relu, platform=p)
                ),
                x,
                scale,
                bias,
                has_aux=True,
            )
            results.append((out, *aux, *pull(g)))
        return results

    with jax.enable_x64(True):
        for dtype, tolerance in ((np.float64, 1e-10), (np.float32, 1e-5)):
            plain, fused = jax.jit(both)(
                *(a.astype(dtype) for a in (x, scale, bias, g))
            )
            for found, wanted in zip(plain, (y, mean, var), strict=False):
                np.testing.assert_allclose(found, wanted, atol=10 * tolerance)
            for a, b in zip(fused, plain, strict=True):
                assert a.dtype == b.dtype == dtype
                error = np.abs(np.asarray(a) - np.asarray(b)).max()
                assert error <= tolerance * max(1, np.abs(b).max())


def centred(x, axes):
    deviation = np.sqrt(x.var(axes, keepdims=True) + 1e-5)
    return (x - x.mean(axes, keepdims=True)) / deviation


def by_groups(x):
    return centred(x.reshape(*x.shape[:3], 4, 2), (1, 2, 4)).reshape(x.shape)


def trained(x, scale, bias, platform):
    return norm.batch_norm_train(
        x, scale, bias, relu=True, shift=bias, platform=platform
    )[0]


# (ours, what NumPy makes of x before scale, bias and ReLU).
NORMS = {
    "plain": (partial(trained, platform=None), partial(centred, axes=(0, 1, 2))),
    "fused": (partial(trained, platform="cpu"), partial(centred, axes=(0, 1, 2))),
    "one_pass": (partial(trained, platform="tpu"), partial(centred, axes=(0, 1, 2))),
    "group": (partial(norm.group_norm, groups=4, relu=True), by_groups),
    "layer": (partial(norm.layer_norm, eps=1e-5, relu=True), partial(centred, axes=3)),
}


@jax.jit
def all_norms(x, scale, bias, g):
    """Of each: its value, and the gradients of <g, value>."""
    found = {}
    for name, (function, _) in NORMS.items():
        y, pull = jax.vjp(function, x, scale, bias)
        found[name] = (y, *pull(g))
    return found


@few
@given(
    seed=SEEDS,
    mean=st.sampled_from([0.0, -3.0, 1e3]),
    spread=st.sampled_from([1e-2, 1.0, 1e3]),
    flat=st.booleans(),
)
def test_norms_and_their_gradients_by_differences(seed, mean, spread, flat):
    """Values of NumPy, gradients of its central differences; constant channels, too."""
    rng = np.random.default_rng(seed)
    x = mean + spread * rng.normal(size=(2, 3, 4, 8))
    if flat:
        x[..., :3] = mean
    at = (x, rng.uniform(0.5, 1.5, 8), rng.normal(size=8))
    g, way = rng.normal(size=x.shape), [rng.normal(size=a.shape) for a in at]
    step = 1e-6
    with jax.enable_x64(True):
        found = jax.device_get(all_norms(*at, g))
    for name, (y, *slopes) in found.items():

        def oracle(sign, normalize=NORMS[name][1]):
            x, scale, bias = (a + sign * step * w for a, w in zip(at, way, strict=True))
            return np.maximum(normalize(x) * scale + bias, 0)

        np.testing.assert_allclose(y, oracle(0), rtol=1e-6, atol=1e-6, err_msg=name)
        terms = np.concatenate(
            [(s * w).ravel() for s, w in zip(slopes, way, strict=True)]
        )
        difference = np.sum(g * (oracle(1) - oracle(-1))) / (2 * step)
        assert abs(terms.sum() - difference) <= 1e-5 * np.abs(terms).sum(), name


def test_batch_norm_with_given_statistics():
    x, scale, bias, _ = data()
    mean, var = np.full(8, 0.5), np.full(8, 3.0)
    y = np.maximum((x - mean) / np.sqrt(var + 1e-3) * scale + bias, 0)
    arrays = (jnp.asarray(a, jnp.float32) for a in (x, scale, bias, mean, var))
    out = norm.batch_norm(*arrays, eps=1e-3, relu=True)
    np.testing.assert_allclose(out, y, atol=1e-5)


def test_group_and_layer_norm():
    x, scale, bias, _ = data()
    parts = x.reshape(3, 20, 4, 2).transpose(0, 2, 1, 3).reshape(3, 4, 40)
    parts = (parts - parts.mean(2)[..., None]) / np.sqrt(parts.var(2)[..., None] + 1e-5)
    groups = parts.reshape(3, 4, 20, 2).transpose(0, 2, 1, 3).reshape(x.shape)
    layer = (x - x.mean(3)[..., None]) / np.sqrt(x.var(3)[..., None] + 1e-6)
    arrays = [jnp.asarray(a, jnp.float32) for a in (x, scale, bias)]
    out = norm.group_norm(*arrays, groups=4)
    np.testing.assert_allclose(out, groups * scale + bias, atol=1e-5)
    out = norm.layer_norm(*arrays, relu=True)
    np.testing.assert_allclose(out, np.maximum(layer * scale + bias, 0), atol=1e-5)


def test_half_precision_sums_in_float32():
    x = np.full((4, 64, 64, 1), 1.0) + np.tile([0.0, 0.03125], 8192).reshape(
        4, 64, 64, 1
    )
    ones, zeros = jnp.ones(1), jnp.zeros(1)
    for platform in (None, "cpu"):
        y, mean, var = norm.batch_norm_train(
            jnp.asarray(x, jnp.bfloat16), ones, zeros, platform=platform
        )
        assert (y.dtype, mean.dtype, var.dtype) == (jnp.bfloat16, *2 * [jnp.float32])
        np.testing.assert_allclose(mean, 1.015625, rtol=1e-5)
        np.testing.assert_allclose(var, 0.015625**2, rtol=1e-3)


@pytest.mark.parametrize("platform", [None, "cpu"])
def test_statistics_are_those_of_the_global_batch(platform):
    x, scale, bias, _ = data((8, 3, 3, 4))
    mesh = jax.make_mesh((8,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    sharding = NamedSharding(mesh, PartitionSpec("data"))
    y, mean, var = jax.jit(
        lambda *a: norm.batch_norm_train(*a, platform=platform),
        in_shardings=(sharding, None, None),
    )(*(jnp.asarray(a, jnp.float32) for a in (x, scale, bias)))
    np.testing.assert_allclose(mean, x.mean((0, 1, 2)), rtol=1e-5)
    np.testing.assert_allclose(var, x.var((0, 1, 2)), rtol=1e-5)


@pytest.mark.parametrize("platform", [None, "cpu"])
def test_statistics_of_groups_stay_on_their_devices(platform):
    x, scale, bias, g = (a.astype(np.float32) for a in data((8, 3, 3, 4)))
    mesh = jax.make_mesh((8,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    sharding = NamedSharding(mesh, PartitionSpec("data"))

    def apply(x, g, groups):
        function = partial(norm.batch_norm_train, groups=groups, platform=platform)
        y, pull = jax.vjp(lambda x: function(x, scale, bias)[0], x)
        return y, *pull(g), *function(x, scale, bias)[1:]

    def compiled(groups):
        where = (sharding, sharding)
        return jax.jit(partial(apply, groups=groups), in_shardings=where).lower(x, g)

    program = compiled(4).compile()
    y, dx, mean, var = program(*(jax.device_put(a, sharding) for a in (x, g)))
    oracle = np.concatenate(
        [
            np.asarray(norm.batch_norm_train(part, scale, bias)[0])
            for part in np.split(x, 4)
        ]
    )
    np.testing.assert_allclose(y, oracle, atol=1e-5)
    pairs = x.reshape(4, 2 * 9, 4)
    np.testing.assert_allclose(mean, pairs.mean((0, 1)), rtol=1e-5)
    np.testing.assert_allclose(var, pairs.var(1).mean(0), rtol=1e-5)
    # A constant added to one group's examples changes nothing, so no gradient there.
    sums = np.asarray(dx).reshape(4, -1, 4).sum(1)
    np.testing.assert_allclose(sums, 0, atol=1e-4)
    # One group a device: only the running statistics, and nothing else, are summed.
    counts = {
        groups: compiled(groups).compile().as_text().count(" all-reduce(")
        for groups in (1, 8)
    }
    assert counts[8] < counts[1] and counts[8] <= 2
    with pytest.raises(ValueError, match="3 groups cannot divide a batch of 8"):
        apply(x, g, 3)

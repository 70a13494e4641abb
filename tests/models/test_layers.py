"""Layers, worked by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from segjax.models.layers import Conv
from segjax.models.norm import Norm


def test_running_statistics_are_torchs():
    """Momentum 0.1 in torch's terms, unbiased variance; initial values 0 and 1."""
    x = jnp.array([1.0, 2.0, 3.0, 6.0])[:, None, None, None]
    norm = Norm()
    variables = norm.init(jax.random.key(0), x, True)
    np.testing.assert_array_equal(variables["batch_stats"]["mean"], [0])
    np.testing.assert_array_equal(variables["batch_stats"]["var"], [1])
    y, new = norm.apply(variables, x, True, mutable=["batch_stats"])
    # mean 3, sum of squares 14: biased 3.5, unbiased 14 / 3
    np.testing.assert_allclose(new["batch_stats"]["mean"], [0.3], rtol=1e-6)
    np.testing.assert_allclose(new["batch_stats"]["var"], [0.9 + 1.4 / 3], rtol=1e-6)
    np.testing.assert_allclose(y[:, 0, 0, 0], np.array([-2, -1, 0, 3]) / 3.5**0.5, 1e-5)
    y = norm.apply(variables, x, False)
    np.testing.assert_allclose(y[:, 0, 0, 0], [1, 2, 3, 6], 1e-4)


@pytest.mark.parametrize("groups, images", [(1, 1), (4, 4)])
def test_batch_norm_over_one_value_is_refused(groups, images):
    """It is 0 whatever the value is, and the running variance would become 0."""
    x = jnp.ones((images, 1, 1, 3))
    norm = Norm(groups=groups)
    variables = norm.init(jax.random.key(0), x, True)
    with pytest.raises(ValueError, match="over one value, .* model.norm=group"):
        norm.apply(variables, x, True, mutable=["batch_stats"])
    norm.apply(variables, x, False)


def test_group_norm_takes_the_common_divisor_with_32():
    x = jax.random.normal(jax.random.key(0), (1, 2, 2, 48))
    norm = Norm(kind="group")
    y = norm.apply(norm.init(jax.random.key(0), x, True), x, True)
    parts = np.asarray(y).reshape(4, 16, 3).transpose(1, 0, 2).reshape(16, 12)
    np.testing.assert_allclose(parts.mean(1), 0, atol=1e-5)
    np.testing.assert_allclose(parts.std(1), 1, atol=1e-3)


def test_convolution_keeps_the_size_and_adds_its_bias():
    x = jnp.ones((1, 5, 6, 2))
    conv = Conv(3, 3, dilation=2, bias_init=jax.nn.initializers.constant(2.0))
    variables = conv.init(jax.random.key(0), x)
    y = conv.apply(variables, x)
    assert y.shape == (1, 5, 6, 3)
    kernel = np.asarray(variables["params"]["kernel"])
    np.testing.assert_allclose(y[0, 2, 2], kernel.sum((0, 1, 2)) + 2, rtol=1e-5)
    np.testing.assert_allclose(y[0, 0, 0], kernel[1:, 1:].sum((0, 1, 2)) + 2, rtol=1e-5)

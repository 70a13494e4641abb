"""The loss of images' classes against NumPy float64 and PyTorch."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from segjax.batch import NO_CLASS
from segjax.losses.image import ImageLoss
from tests.requirements import require_parity

K = 300


def examples(n=24, seed=0):
    rng = np.random.default_rng(seed)
    label = rng.integers(0, K, n).astype(np.int32)
    label[:3], label[5] = 255, NO_CLASS  # 255 is a class here
    weights = tuple(float(w) for w in rng.uniform(0.5, 2, K))
    return rng.normal(0, 3, (n, K)).astype(np.float32), label, weights


def by_definition(logits, label, weights, smoothing):
    x = logits.astype(np.float64)
    log = x - np.log(np.exp(x).sum(-1, keepdims=True))
    w = np.ones(K) if weights is None else np.array(weights)
    kept = label != NO_CLASS
    true = log[kept, label[kept]] * w[label[kept]]
    even = (log[kept] * w[None]).mean(-1)
    cost = -((1 - smoothing) * true + smoothing * even)
    return cost.sum() / w[label[kept]].sum()


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("weighted", [False, True])
def test_value_and_its_parts_are_the_definition(smoothing, weighted):
    logits, label, weights = examples()
    weights = weights if weighted else None
    loss = ImageLoss(weights, smoothing)
    want = by_definition(logits, label, weights, smoothing)
    found, _ = loss.of_scores(jnp.asarray(logits), jnp.asarray(label))
    np.testing.assert_allclose(found, want, rtol=1e-5)
    # Accumulated parts add up to the whole, whatever each has of NO_CLASS.
    counts = sum(loss.counts(jnp.asarray(label[i::3])) for i in range(3))
    parts = [
        loss.value(jnp.asarray(logits[i::3]), jnp.asarray(label[i::3]), counts)
        for i in range(3)
    ]
    np.testing.assert_allclose(sum(parts), want, rtol=1e-5)


def test_no_image_gives_loss_and_gradients_zero():
    logits, label = jnp.ones((4, K)), jnp.full(4, NO_CLASS)
    value, slope = jax.value_and_grad(ImageLoss(None, 0.1).value)(logits, label)
    assert value == 0 and not np.asarray(slope).any()


@pytest.mark.parametrize("weighted", [False, True])
def test_value_and_gradient_are_pytorchs(weighted):
    torch = require_parity("torch")
    logits, label, weights = examples(seed=1)
    weights = weights if weighted else None
    x = torch.tensor(logits, requires_grad=True)
    value = torch.nn.functional.cross_entropy(
        x,
        torch.tensor(label.astype(np.int64)),
        weight=None if weights is None else torch.tensor(weights),
        ignore_index=NO_CLASS,
        label_smoothing=0.1,
    )
    value.backward()
    loss = ImageLoss(weights, 0.1)
    found, slope = jax.value_and_grad(loss.value)(
        jnp.asarray(logits), jnp.asarray(label)
    )
    np.testing.assert_allclose(found, value.item(), rtol=1e-5)
    np.testing.assert_allclose(slope, x.grad.numpy(), atol=1e-6)

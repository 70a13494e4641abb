"""Batch norms folded into the convolutions before them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks.pairs import draw
from segjax.models import build_classifier, fold_batch_norm
from tests.models.test_contract import small, traced
from tests.models.test_packed import make

# (pair, how many batch norms stay): DenseNet's come before their convolutions, and so
# do those that follow a sum, a concatenation or a pooling.
CASES = [
    ("resnet18", "unet", 0),
    ("mobilenet_v2", "fpn", 0),
    ("vgg11_bn", "segnet", 0),
    ("resnet18", "linknet", 0),
    ("resnet18", "deeplabv3plus", 0),
]


def norms(variables) -> int:
    """Batch norms with running statistics."""
    return len(jax.tree.leaves(variables["batch_stats"])) // 2


@pytest.mark.parametrize("encoder, decoder, left", CASES)
def test_the_logits_stay(encoder, decoder, left):
    model = small(encoder, decoder)
    shape = (2, 64, 96, 3)
    shapes = traced(model, shape)[1]
    variables = jax.tree.map(
        lambda leaf: jnp.asarray(leaf, jnp.float32), draw(shapes, 0)
    )
    folded, fewer = fold_batch_norm(model, variables)
    assert norms(fewer) == left < norms(variables)
    assert len(folded.norms) == norms(variables) - left
    x = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    wanted = jax.jit(model.apply)(variables, x)
    found = jax.jit(folded.apply)(fewer, x)
    error = jnp.abs(found - wanted).max() / jnp.abs(wanted).max()
    assert 0 < error <= 1e-5  # another order of the same products, so not quite 0
    with pytest.raises(ValueError, match="running statistics"):
        folded.apply(fewer, x, train=True)


def test_norms_of_packed_maps_fold_too():
    """The last stages of a U-Net for a TPU, in float64."""
    rng = np.random.default_rng(0)
    with jax.enable_x64(True):
        model, image = make("tpu", "unet"), jnp.asarray(rng.normal(size=(1, 16, 24, 3)))
        shapes = jax.eval_shape(model.init, jax.random.key(0), image)
        variables = jax.tree.map(jnp.asarray, draw(shapes, 0))
        scores = model.apply(variables, image, method="scores")
        assert scores.rule.packed == (2, 4)
        folded, fewer = fold_batch_norm(model, variables)
        assert norms(fewer) == 0 < norms(variables)
        wanted = np.asarray(jax.jit(model.apply)(variables, image))
        found = np.asarray(jax.jit(folded.apply)(fewer, image))
    assert np.abs(found - wanted).max() <= 1e-10 * np.abs(wanted).max()


def test_norms_that_come_first_stay():
    model = build_classifier("densenet121", 5)
    model = model.clone(encoder=model.encoder.clone(counts=(1, 1, 1, 1)))
    shapes = traced(model, (1, 64, 64, 3))[1]
    variables = jax.tree.map(
        lambda leaf: jnp.asarray(leaf, jnp.float32), draw(shapes, 0)
    )
    folded, fewer = fold_batch_norm(model, variables)
    # norm0 after the stem, and norm2 of each layer after its 1x1 convolution.
    assert len(folded.norms) == 1 + 4
    assert norms(fewer) == norms(variables) - 5
    x = np.random.default_rng(0).normal(size=(1, 64, 64, 3)).astype(np.float32)
    wanted, found = jax.jit(model.apply)(variables, x), jax.jit(folded.apply)(fewer, x)
    assert jnp.abs(found - wanted).max() <= 1e-5 * jnp.abs(wanted).max()


def test_the_variables_handed_in_stay_what_they_were():
    model = small("resnet18", "fcn32s")
    variables = draw(traced(model, (1, 64, 64, 3))[1], 0)
    before = jax.tree.map(np.array, variables)  # copies
    _, fewer = fold_batch_norm(model, variables)
    jax.tree.map(np.testing.assert_array_equal, before, variables)
    assert set(fewer["params"]["encoder"]["bn1"]) == {"bias"}

"""The auxiliary FCN head: its logits in training, its parameters, its gradient."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from segjax import models
from segjax.models import build
from segjax.ops.scores import Scores, finish
from tests.models.families import SMALL
from tests.models.tracing import undrawn

KEY = jax.random.key(0, impl="rbg")  # compiles faster
# Those that any encoder serves.
DECODERS = [
    name
    for name in models.names()["decoders"]
    if getattr(getattr(models.decoders, name).func, "needs", None) is None
]


def small(decoder, **options):
    model = build("resnet18", decoder, 5, auxiliary=True, **options)
    return model.clone(encoder=model.encoder.clone(**SMALL["resnet18"]))


def run(model, train):
    def apply(variables, x):
        return model.apply(
            variables,
            x,
            train=train,
            mutable=["auxiliary", "batch_stats"],
            rngs={"dropout": KEY},
        )

    return apply


@pytest.mark.parametrize("decoder", DECODERS)
def test_every_decoder_takes_one(decoder):
    model = small(decoder)
    x = jax.ShapeDtypeStruct((2, 97, 131, 3), jnp.float32)
    with undrawn():
        made = jax.eval_shape(lambda x: model.init(KEY, x, train=False), x)
    variables = {k: made[k] for k in ("params", "batch_stats")}
    head = variables["params"]["auxiliary"]
    # A quarter of layer3's 32 channels; then the classes.
    assert head["conv"]["kernel"].shape == (3, 3, 32, 8)
    assert head["score"]["kernel"].shape == (1, 1, 8, 5)
    logits, new = jax.eval_shape(run(model, True), variables, x)
    found = new["auxiliary"]["logits"]
    assert found.shape == logits.shape == (2, 97, 131, 5)
    assert found.dtype == jnp.float32
    _, new = jax.eval_shape(run(model, False), variables, x)
    assert not new.get("auxiliary")


def test_the_training_step_gets_unfinished_scores():
    """Which become logits strip by strip, as the network's own."""
    model = small("upernet")
    x = np.random.default_rng(0).normal(size=(2, 64, 96, 3)).astype(np.float32)

    @jax.jit
    def both():
        variables = model.init(KEY, x)
        made = {k: variables[k] for k in ("params", "batch_stats")}
        _, whole = run(model, True)(made, x)
        _, new = model.apply(
            made,
            x,
            train=True,
            method="scores",
            mutable=["auxiliary", "batch_stats"],
            rngs={"dropout": KEY},
        )
        return whole["auxiliary"]["logits"], new["auxiliary"]["logits"]

    logits, scores = both()
    assert isinstance(scores, Scores) and scores.array.shape == (2, 4, 6, 5)
    np.testing.assert_allclose(finish(scores), logits, rtol=1e-6, atol=1e-6)


def test_mobilenet_v3_has_it_at_stride_8():
    """As torchvision's, whatever the output stride: 40 channels in the large one."""
    model = build("mobilenet_v3_large", "lraspp", 5, auxiliary=True)
    x = jax.ShapeDtypeStruct((1, 64, 64, 3), jnp.float32)
    made = jax.eval_shape(lambda x: model.init(KEY, x, train=False), x)
    assert made["params"]["auxiliary"]["conv"]["kernel"].shape == (3, 3, 40, 10)


def test_its_gradient_reaches_it_and_the_encoder_below():
    model = small("fcn32s")
    x = np.random.default_rng(0).normal(size=(2, 32, 40, 3)).astype(np.float32)

    @jax.jit
    def gradients():
        variables = model.init(KEY, x)
        stats = variables["batch_stats"]

        def loss(params):
            _, new = run(model, True)({"params": params, "batch_stats": stats}, x)
            return jnp.sum(new["auxiliary"]["logits"] ** 2)

        return jax.grad(loss)(variables["params"])

    found = gradients()
    for path, gradient in jax.tree_util.tree_leaves_with_path(found):
        name = jax.tree_util.keystr(path)
        below = "auxiliary" in name or ("encoder" in name and "layer4" not in name)
        assert (np.abs(gradient).max() > 0) == below, name

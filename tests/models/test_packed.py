"""Models for a TPU, run here: loss, counts and gradients are the plain ones'."""

from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from segjax import models
from segjax.batch import IGNORE
from segjax.losses import build_loss
from segjax.metrics import confusion_of_scores
from segjax.models import decoders
from segjax.models.decoders.unet import Block
from segjax.models.layers import Features, Layers
from segjax.models.segmenter import Segmenter
from segjax.ops import packed as packed_ops
from segjax.ops import table
from segjax.ops.scores import finish, predictions

CLASSES = 5


class TwoMaps(nn.Module):
    """An encoder that costs nothing to compile: maps at strides 2 and 4."""

    strides = (2, 4)

    @nn.compact
    def __call__(self, image, *, train):
        fine = image[:, ::2, ::2]
        deep = fine[:, ::2, ::2]
        return Features((fine, jnp.concatenate([deep, -deep], 3)))


def make(platform, decoder):
    layers = Layers(platform=platform, dtype=jnp.float64, param_dtype=jnp.float64)
    kind = getattr(decoders, decoder)
    made = kind(layers=layers, strides=(2, 4))
    return Segmenter(TwoMaps(), made, CLASSES, 3, layers)


def evaluate(platform, decoder, image, labels):
    """Loss, gradients, new statistics, counts, predictions and logits."""
    model = make(platform, decoder)

    @jax.jit
    def run(image):
        variables = make(None, decoder).init(jax.random.key(0), image)

        def loss(params):
            scores, new = model.apply(
                {"params": params, "batch_stats": variables["batch_stats"]},
                image,
                train=True,
                mutable=["batch_stats"],
                method="scores",
            )
            value = build_loss("cross_entropy").of_scores(scores, labels)[0]
            both = build_loss("cross_entropy+dice").of_scores(scores, labels)[0]
            matrix = confusion_of_scores(scores, labels, CLASSES, platform)
            found = (new, matrix, predictions(scores), finish(scores))
            packed = jnp.asarray(scores.rule.packed is not None)
            return value + both, (packed, *found)

        return jax.value_and_grad(loss, has_aux=True)(variables["params"])

    (value, (packed, *rest)), grads = run(image)
    return bool(packed), (value, grads, *rest)


SLOW = [pytest.param(d, marks=pytest.mark.slow) for d in ("unetplusplus", "manet")]


@pytest.mark.parametrize("decoder", ["unet", *SLOW])
def test_the_packed_stage_changes_nothing(decoder):
    with jax.enable_x64(True):
        rng = np.random.default_rng(0)
        image = jnp.asarray(rng.normal(size=(2, 16, 24, 3)))
        labels = rng.integers(0, CLASSES, (2, 16, 24))
        labels[:, :5] = IGNORE
        packed, ours = evaluate("tpu", decoder, image, jnp.asarray(labels))
        plain, theirs = evaluate(None, decoder, image, jnp.asarray(labels))
    assert packed and not plain

    def close(a, b):
        scale = max(float(np.abs(b).max()), 1e-3)
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-9 * scale)

    jax.tree.map(close, ours, theirs)


@pytest.mark.parametrize(
    "size, norm, packed",
    [
        ((32, 32), "batch", (2, 4)),
        ((31, 32), "batch", None),
        ((32, 34), "batch", None),
        ((32, 32), "group", None),
    ],
)
def test_when_a_stage_is_packed(size, norm, packed):
    model = models.build("resnet18", "unet", CLASSES, platform="tpu", norm=norm)
    image = jax.ShapeDtypeStruct((1, *size, 3), jnp.float32)
    shapes = jax.eval_shape(model.init, jax.random.key(0), image)
    scores = jax.eval_shape(
        lambda v, x: model.apply(v, x, method="scores"), shapes, image
    )
    assert scores.rule.packed == packed
    plain = models.build("resnet18", "unet", CLASSES, norm=norm)
    wanted = jax.eval_shape(plain.init, jax.random.key(0), image)
    assert jax.tree.map(lambda a: a.shape, shapes) == jax.tree.map(
        lambda a: a.shape, wanted
    )


def stem(encoder, platform):
    """The network up to its first stage, nothing else."""
    model = models.build(encoder, "unet", CLASSES, platform=platform, norm="batch")
    narrow = {
        "resnet18": {"counts": (1, 0, 0, 0), "width": 8},
        "mit_b0": {"widths": (8,), "depths": (0,), "heads": (1,)},
    }
    layers = Layers(platform=platform, dtype=jnp.float64, param_dtype=jnp.float64)
    return model.encoder.clone(**narrow[encoder], layers=layers)


@pytest.mark.parametrize("encoder", ["resnet18", "mit_b0"])
def test_a_large_image_is_packed_for_the_stem(monkeypatch, encoder):
    """Maps, running statistics and the gradients of all parameters."""
    packings = []
    pack_image = packed_ops.pack_image

    def watched(x, window):
        packings.append(window)
        return pack_image(x, window)

    monkeypatch.setattr(packed_ops, "pack_image", watched)
    with jax.enable_x64(True):
        image = jnp.asarray(np.random.default_rng(0).normal(size=(1, 256, 512, 3)))
        variables = jax.jit(stem(encoder, None).init, static_argnames="train")(
            jax.random.key(0), image, train=False
        )
        assert not packings

        def run(platform, variables):
            def total(params):
                features, new = stem(encoder, platform).apply(
                    {**variables, "params": params},
                    image,
                    train=True,
                    mutable=["batch_stats"],
                )
                return sum(jnp.sum(jnp.sin(m)) for m in features.maps), (
                    features.maps,
                    new,
                )

            return jax.value_and_grad(total, has_aux=True)(variables["params"])

        found = jax.jit(run, static_argnums=0)("tpu", variables)
        assert packings == [(4, 4)]
        wanted = jax.jit(run, static_argnums=0)(None, variables)
    for one, other in zip(jax.tree.leaves(found), jax.tree.leaves(wanted), strict=True):
        scale = max(float(np.abs(other).max()), 1e-3)
        np.testing.assert_allclose(one, other, rtol=0, atol=1e-9 * scale)


@pytest.mark.parametrize("norm, dtype", [("none", "float32"), ("batch", "bfloat16")])
def test_a_packed_stem_without_norm_and_in_bfloat16(norm, dtype):
    """It is no further from the exact maps than twice the plain form's rounding."""
    image = jnp.asarray(np.random.default_rng(0).normal(size=(1, 256, 512, 3)), "f4")

    def network(platform, dtype):
        layers = Layers(platform=platform, dtype=dtype, norm_kind=norm)
        return stem("resnet18", None).clone(layers=layers)

    variables = jax.jit(network(None, dtype).init, static_argnames="train")(
        jax.random.key(0), image, train=False
    )
    found, wanted, exact = (
        jax.jit(partial(network(platform, dtype).apply, train=False))(variables, image)
        for platform, dtype in (("tpu", dtype), (None, dtype), (None, "float32"))
    )
    assert (found.packed is not None) and wanted.packed is None
    assert ("bias" in variables["params"]["conv1"]) == (norm == "none")
    for ours, theirs, truth in zip(found.maps, wanted.maps, exact.maps, strict=True):
        assert ours.dtype == jnp.dtype(dtype)
        ours, theirs, truth = (np.asarray(a, np.float64) for a in (ours, theirs, truth))
        error = np.abs(theirs - truth).max()
        allowed = max(2 * error, 1e-5 * np.abs(truth).max())
        assert np.abs(ours - truth).max() <= allowed


def test_a_small_image_is_not_packed_for_the_stem():
    kernel, strides, sides = (7, 7, 3, 64), (2, 2), ((3, 3), (3, 3))
    assert table.stem("tpu", (512, 512), kernel, strides, sides, 1)
    assert not table.stem("tpu", (256, 256), kernel, strides, sides, 1)
    assert not table.stem("tpu", (512, 514), kernel, strides, sides, 1)
    assert not table.stem("tpu", (512, 512), (7, 7, 64, 64), strides, sides, 1)
    assert not table.stem("tpu", (512, 512), kernel, strides, sides, 4)
    assert not table.stem("cpu", (512, 512), kernel, strides, sides, 1)


def test_a_packed_skip():
    """As the map that it stands for, in a stage that packs and in one that does not."""
    rng = np.random.default_rng(0)
    with jax.enable_x64(True):
        x, skip = (jnp.asarray(rng.normal(size=(2, n, n, 6))) for n in (8, 16))
        layers = Layers(platform="tpu", dtype=jnp.float64, param_dtype=jnp.float64)
        for features, window in ((4, (2, 4)), (32, (2, 2)), (40, None)):
            block = Block(features, (16, 16), layers, pack=True)
            variables = block.init(jax.random.key(0), x, False, skip)

            def run(packs, skip, block=block, variables=variables):
                skip = packed_ops.pack(skip, (2, 2)) if packs else skip
                return block.apply(variables, x, False, skip)

            found, back = jax.vjp(partial(run, True), skip)
            wanted, plain_back = jax.vjp(partial(run, False), skip)
            assert getattr(found, "window", None) == window
            pairs = [(found, wanted), (back(found), plain_back(wanted))]
            for pair in pairs:
                for one, other in zip(*map(jax.tree.leaves, pair), strict=True):
                    np.testing.assert_allclose(one, other, rtol=0, atol=1e-12)


def test_a_packed_map_has_no_strided_convolution():
    layers = Layers(platform="tpu")
    x = packed_ops.pack(jnp.zeros((1, 8, 8, 4)), (2, 2))
    with pytest.raises(ValueError, match="no packed form"):
        layers.conv(4, 3, strides=2).init(jax.random.key(0), x)


def test_norms_after_a_packed_stem_fold():
    model = models.build("resnet18", "unet", CLASSES, platform="tpu")
    encoder = model.encoder.clone(counts=(1, 1, 1, 1), width=8)
    model = model.clone(encoder=encoder)
    image = jnp.asarray(np.random.default_rng(0).normal(size=(1, 256, 512, 3)), "f4")
    variables = jax.jit(model.init)(jax.random.key(0), image)
    folded, fewer = models.fold_batch_norm(model, variables, image.shape[:3])
    assert ("encoder", "bn1") in folded.norms
    found, wanted = (
        jax.jit(folded.apply)(fewer, image),
        jax.jit(model.apply)(variables, image),
    )
    assert jnp.abs(found - wanted).max() <= 1e-5 * jnp.abs(wanted).max()

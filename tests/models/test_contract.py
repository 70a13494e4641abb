"""What every encoder and decoder in the registries must do."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from segjax import models
from segjax.models import build
from segjax.models.segmenter import Segmenter
from tests.models.families import PARAMETERS, SMALL
from tests.models.tracing import Stub, traced
from tests.requirements import OPTIMIZED

NAMES = models.names()
KEY = jax.random.key(0)

# Every kind of encoder under one decoder, every decoder on one encoder that has what it
# needs; tests/models/test_pairs.py has the whole matrix.
PARTNERS = {"segnet": "vgg11_bn", "segnet_basic": "segnet_basic", "dpt": "vit_small"}
SMALL_PAIRS = [(encoder, "unet") for encoder in SMALL]
SMALL_PAIRS += [
    (PARTNERS.get(decoder, "resnet18"), decoder)
    for decoder in NAMES["decoders"]
    if decoder != "unet"
]
DILATED = [
    (e, d)
    for e, d in SMALL_PAIRS
    if hasattr(getattr(models.encoders, e).func, "output_stride")
]


def small(encoder, decoder, **options):
    model = build(encoder, decoder, 5, **options)
    return model.clone(encoder=model.encoder.clone(**SMALL[encoder]))


@functools.cache
def features_of(dtype, output_stride):
    """The small ResNet-18's, of an image of 64x64."""
    model = small("resnet18", "unet", dtype=dtype, output_stride=output_stride)
    return traced(model.encoder, (1, 64, 64, 3))[0]


def alone(encoder, decoder, **options):
    """What only this pair has of the network; the small ResNet-18's U-Net is whole.

    Of its other decoders the encoder's features, of other U-Nets the encoder.
    """
    model = small(encoder, decoder, **options)
    if encoder != "resnet18":
        return model.encoder if decoder == "unet" else model
    if decoder == "unet":
        return model
    dtype = options.get("dtype", jnp.float32)
    features = features_of(dtype, model.encoder.output_stride)
    return model.clone(encoder=Stub(features, tuple(model.encoder.strides)))


def tree_of(variables):
    return {
        jax.tree_util.keystr(path): (leaf.shape, leaf.dtype)
        for path, leaf in jax.tree_util.tree_leaves_with_path(variables)
    }


@pytest.mark.parametrize("encoder, decoder", SMALL_PAIRS)
def test_any_size_and_number_of_channels(encoder, decoder):
    model = small(encoder, decoder, in_channels=5)
    image = jax.ShapeDtypeStruct((2, 97, 131, 5), jnp.float32)
    # With what draws the parameters, which the other traces leave out.
    logits, _ = jax.eval_shape(
        lambda x: model.init_with_output(KEY, x, train=True), image
    )
    assert logits.shape == (2, 97, 131, 5) and logits.dtype == jnp.float32


@pytest.mark.parametrize("stride", [8, 16])
@pytest.mark.parametrize("encoder", sorted({encoder for encoder, _ in DILATED}))
def test_output_stride(encoder, stride):
    model = small(encoder, "unet", output_stride=stride)
    features, variables = traced(model.encoder, (1, 97, 131, 3))
    sizes = [found.shape[1:3] for found in features.maps]
    wanted = [min(s, stride) for s in model.encoder.strides]
    assert sizes == [(-(-97 // s), -(-131 // s)) for s in wanted]
    _, whole = traced(small(encoder, "unet").encoder, (1, 97, 131, 3))
    assert tree_of(variables) == tree_of(whole)


@pytest.mark.parametrize("stride", [8, 16])
@pytest.mark.parametrize("encoder, decoder", DILATED)
def test_every_decoder_takes_dilated_maps(encoder, decoder, stride):
    model = small(encoder, decoder, output_stride=stride)
    logits, _ = traced(model, (1, 97, 131, 3))
    assert logits.shape == (1, 97, 131, 5)


@pytest.mark.parametrize("encoder, decoder", SMALL_PAIRS)
def test_half_precision_computes_in_bfloat16_and_keeps_float32(encoder, decoder):
    model = alone(encoder, decoder, dtype=jnp.bfloat16)
    found, variables = traced(model, (1, 64, 64, 3))
    assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {np.dtype("float32")}
    whole = isinstance(model, Segmenter)
    assert {m.dtype for m in jax.tree.leaves(found)} == {
        np.dtype("float32" if whole else "bfloat16")
    }
    options = {"method": "scores"} if whole else {"train": False}
    text = str(
        jax.make_jaxpr(lambda v, x: model.apply(v, x, **options))(
            variables, jnp.zeros((1, 64, 64, 3))
        )
    )
    products = [line for line in text.splitlines() if "_general" in line]
    half = [line for line in products if ":bf16" in line.split("=")[0]]
    stub = whole and isinstance(model.encoder, Stub)
    assert len(half) >= (1 if stub else 4)
    # Attention's scores and the taps of resizing are products too, in float32.
    assert all("= dot_general" in line for line in products if line not in half)


def bare(encoder, decoder):
    """Whether convolutions before a norm have no bias where there is a norm."""
    return decoder != "pan" and encoder.startswith(("resnet", "resnext", "wide"))


@pytest.mark.parametrize("encoder, decoder", SMALL_PAIRS)
def test_remat_and_platform_never_change_the_tree(encoder, decoder):
    batch = None
    for norm in ("batch", "group", "none"):
        plain = tree_of(traced(alone(encoder, decoder, norm=norm), (1, 64, 64, 3))[1])
        batch = batch or plain
        if norm != "group":
            model = alone(encoder, decoder, norm=norm, remat=True, platform="cpu")
            assert tree_of(traced(model, (1, 64, 64, 3))[1]) == plain
        normed = named(batch, "mean")
        assert named(plain, "mean") == (normed if norm == "batch" else set())
        # Norms that are what they are whatever is asked for (FPN's, layer norms) stay.
        gone = named(batch, "scale") - named(plain, "scale")
        assert normed <= gone if norm == "none" else not gone
        assert named(plain, "scale") <= named(batch, "scale")
        # Convolutions before a norm get a bias where there is none, but some have one.
        added = len(named(plain, "bias") & named(plain, "kernel"))
        added -= len(named(batch, "bias") & named(batch, "kernel"))
        assert added <= len(gone)
        assert added > 0 or norm != "none" or not (normed and bare(encoder, decoder))


@pytest.mark.parametrize("remat", [False, True])
def test_remat_recomputes_blocks(remat):
    model = build("resnet18", "unet", 5, remat=remat)
    made = traced(model, (2, 64, 64, 3))[1]

    def apply(variables, x):
        return model.apply(variables, x, train=True, mutable=["batch_stats"])[0]

    program = str(jax.make_jaxpr(apply)(made, jnp.zeros((2, 64, 64, 3))))
    # JAX's name of the primitive: of then and now.
    assert ("checkpoint[" in program or "remat2[" in program) == remat


def named(tree, leaf):
    """The modules of a tree that have a parameter or statistic of this name."""
    end = f"['{leaf}']"
    found = {path.removesuffix(end) for path in tree if path.endswith(end)}
    return {path[path.index("]") + 1 :] for path in found}  # without the collection


def random_variables(model, shape):
    """Kaiming's spread by NumPy; initial biases and statistics as the model's."""
    _, shapes = traced(model, shape)
    rng = np.random.default_rng(0)

    def draw(path, leaf):
        if leaf.ndim > 1:
            return rng.normal(0, (2 / np.prod(leaf.shape[:3])) ** 0.5, leaf.shape)
        return np.full(leaf.shape, float(path[-1].key.endswith(("scale", "var"))))

    return jax.tree_util.tree_map_with_path(draw, shapes)


# docs/results/pairs.json has the plain gradients of every family with every decoder.
LONG = [
    ("resnet18", "unet", "group"),
    ("resnet50", "unet", "batch"),
    ("segnet_basic", "segnet_basic", "batch"),
    ("resnet18", "fcn8s", "batch"),
    ("convnext_tiny", "fcn32s", "group"),
    ("swin_t", "upernet", "group"),
    ("mit_b0", "segformer", "group"),
    ("vit_small", "dpt", "batch"),
    ("mobilenet_v3_large", "fcn", "layer"),
]


@pytest.mark.parametrize(
    "encoder, decoder, norm",
    [
        ("resnet18", "fcn32s", "group"),
        ("resnet18", "fcn32s", "none"),
        ("densenet121", "lraspp", "batch"),
        *(pytest.param(*case, marks=pytest.mark.slow) for case in LONG),
    ],
)
def test_every_parameter_has_a_gradient_on_every_path(encoder, decoder, norm):
    """Non-zero gradients in float64; the same with the CPU's formulations and remat."""
    rng = np.random.default_rng(0)
    x, weight = rng.normal(size=(2, 40, 56, 3)), rng.normal(size=(2, 40, 56, 5))

    def gradients(variables, **options):
        model = small(encoder, decoder, norm=norm, param_dtype=jnp.float64, **options)
        stats = {k: v for k, v in variables.items() if k != "params"}

        def loss(params):
            logits, new = model.apply(
                {"params": params, **stats},
                x,
                train=True,
                mutable=["batch_stats"],
                rngs={"dropout": KEY},
            )
            assert logits.dtype == jnp.float64
            return jnp.sum(logits * weight), new

        return jax.value_and_grad(loss, has_aux=True)(variables["params"])

    with jax.enable_x64(True):
        model = small(encoder, decoder, norm=norm, param_dtype=jnp.float64)
        variables = random_variables(model, x.shape)
        plain, fast = jax.jit(
            lambda v: (gradients(v), gradients(v, platform="cpu", remat=True))
        )(variables)
        for path, gradient in jax.tree_util.tree_leaves_with_path(plain[1]):
            size = np.abs(gradient).max()
            assert np.isfinite(size) and size > 1e-9, jax.tree_util.keystr(path)
        for a, b in zip(jax.tree.leaves(fast), jax.tree.leaves(plain), strict=True):
            error = np.abs(np.asarray(a) - np.asarray(b)).max()
            assert error <= 1e-9 * max(1e-3, np.abs(b).max())


def test_initial_weights_have_the_references_spread():
    """Torchvision's and SMP's rules, in their own words: per-layer sigma within 3 %."""
    model = build("resnet18", "unet", 21)
    key = jax.random.key(0, impl="rbg")  # compiles faster
    init = jax.jit(model.init, compiler_options=OPTIMIZED)
    variables = init(key, jnp.zeros((1, 64, 64, 3)))
    checked = 0
    for keys, kernel in jax.tree_util.tree_leaves_with_path(variables["params"]):
        path = "/".join(key.key for key in keys)
        if path.endswith("bias"):
            assert not np.any(kernel), path
        elif path.endswith("scale"):
            assert np.all(kernel == 1), path
        elif kernel.size >= 9000:  # sigma of a sample of n: +-1 / sqrt(2n)
            kh, kw, c_in, c_out = kernel.shape
            fan_in, fan_out = c_in * kh * kw, c_out * kh * kw
            variance = {
                "encoder": 2 / fan_out,  # kaiming_normal_(mode="fan_out", "relu")
                "decoder": 2 / fan_in,  # kaiming_uniform_(mode="fan_in", "relu")
            }[path.split("/")[0]]
            assert abs(np.std(kernel) / np.sqrt(variance) - 1) < 0.03, path
            uniform = np.abs(kernel).max() <= np.sqrt(3 * variance) * 1.0001
            assert uniform == path.startswith("decoder"), path
            checked += 1
    assert checked > 25
    head = np.asarray(variables["params"]["head"]["kernel"])  # xavier_uniform_
    limit = np.sqrt(6 / (9 * (16 + 21)))
    assert 0.97 * limit < np.abs(head).max() <= limit
    assert abs(np.std(head) / (limit / np.sqrt(3)) - 1) < 0.03


def test_no_encoder_goes_uncounted():
    assert set(NAMES["encoders"]) == set(PARAMETERS)

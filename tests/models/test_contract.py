"""What every encoder and decoder in the registries must do."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from segjax import models
from segjax.models import build
from segjax.models.encoders.resnet import ResNet

NAMES = models.names()
PAIRS = [(e, d) for e in NAMES["encoders"] for d in NAMES["decoders"]]
KEY = jax.random.key(0)

# Of torchvision's classifier, without its last layer (1000 classes).
ENCODER_PARAMETERS = {
    "resnet18": 11_689_512 - 513_000,
    "resnet34": 21_797_672 - 513_000,
    "resnet50": 25_557_032 - 2_049_000,
    "resnet101": 44_549_160 - 2_049_000,
    "resnet152": 60_192_808 - 2_049_000,
}
# smp.Unet(name, classes=11), counted in segmentation_models_pytorch 0.6.0.
UNET_PARAMETERS = {
    "resnet18": 14_329_659,
    "resnet34": 24_437_819,
    "resnet50": 32_522_555,
    "resnet101": 51_514_683,
    "resnet152": 67_158_331,
}
# Every layer and branch of a family's kinds of block, few and narrow.
SMALL = {
    "resnet18": {"width": 8, "counts": (1, 2, 1, 1)},
    "resnet50": {"width": 8, "counts": (1, 2, 1, 1)},
}


def small(encoder, decoder, **options):
    model = build(encoder, decoder, 5, **options)
    return model.clone(encoder=model.encoder.clone(**SMALL[encoder]))


def abstract(model, shape):
    """Shapes of the variables and of the logits, without computing anything."""
    image = jax.ShapeDtypeStruct(shape, jnp.float32)
    variables = jax.eval_shape(model.init, KEY, image)
    logits, _ = jax.eval_shape(
        lambda v, x: model.apply(v, x, train=True, mutable=["batch_stats"]),
        variables,
        image,
    )
    return variables, logits


def count(tree):
    return sum(int(np.prod(leaf.shape)) for leaf in jax.tree.leaves(tree))


def tree_of(variables):
    return jax.tree_util.tree_map_with_path(
        lambda path, leaf: (jax.tree_util.keystr(path), leaf.shape, leaf.dtype),
        variables,
    )


@pytest.mark.parametrize("encoder", NAMES["encoders"])
def test_encoder_strides_sizes_and_parameters(encoder):
    model = build(encoder, "fcn32s", 2)
    image = jax.ShapeDtypeStruct((2, 97, 131, 3), jnp.float32)
    features, variables = jax.eval_shape(
        lambda x: model.encoder.init_with_output(KEY, x, train=False), image
    )
    for stride, found in zip(model.encoder.strides, features.maps, strict=True):
        assert found.shape[:3] == (2, -(-97 // stride), -(-131 // stride))
    assert count(variables["params"]) == ENCODER_PARAMETERS[encoder]


@pytest.mark.parametrize("encoder, decoder", PAIRS)
def test_any_size_and_number_of_channels(encoder, decoder):
    model = build(encoder, decoder, 11, in_channels=5)
    variables, logits = abstract(model, (2, 97, 131, 5))
    assert logits.shape == (2, 97, 131, 11) and logits.dtype == jnp.float32
    assert set(variables["params"]) <= {"encoder", "decoder", "head"}
    assert set(variables) <= {"params", "batch_stats"}


@pytest.mark.parametrize("encoder", NAMES["encoders"])
def test_unet_has_smps_number_of_parameters(encoder):
    variables, _ = abstract(build(encoder, "unet", 11), (1, 64, 64, 3))
    assert count(variables["params"]) == UNET_PARAMETERS[encoder]


@pytest.mark.parametrize("stride", [8, 16, 32])
@pytest.mark.parametrize("encoder, decoder", PAIRS)
def test_output_stride(encoder, decoder, stride):
    model = build(encoder, decoder, 2, output_stride=stride)
    image = jax.ShapeDtypeStruct((1, 97, 131, 3), jnp.float32)
    features, variables = jax.eval_shape(
        lambda x: model.encoder.init_with_output(KEY, x, train=False), image
    )
    assert features.maps[-1].shape[1:3] == (-(-97 // stride), -(-131 // stride))
    assert count(variables["params"]) == ENCODER_PARAMETERS[encoder]
    _, logits = abstract(model, image.shape)
    assert logits.shape == (1, 97, 131, 2)


@pytest.mark.parametrize("encoder, decoder", PAIRS)
def test_half_precision_computes_in_bfloat16_and_keeps_float32(encoder, decoder):
    model = build(encoder, decoder, 3, dtype=jnp.bfloat16)
    image = jax.ShapeDtypeStruct((1, 64, 64, 3), jnp.float32)
    variables, logits = abstract(model, image.shape)
    assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {np.dtype("float32")}
    assert logits.dtype == jnp.float32
    scores = jax.eval_shape(
        lambda v, x: model.apply(v, x, method="scores"), variables, image
    )
    assert scores.array.dtype == jnp.bfloat16
    text = str(
        jax.make_jaxpr(lambda v, x: model.apply(v, x, method="scores"))(
            variables, image
        )
    )
    convolutions = [line for line in text.splitlines() if "conv_general" in line]
    assert convolutions and all(":bf16" in line for line in convolutions)


@pytest.mark.parametrize("norm", ["batch", "group", "layer", "none"])
@pytest.mark.parametrize("encoder, decoder", PAIRS)
def test_remat_and_platform_never_change_the_tree(encoder, decoder, norm):
    plain = tree_of(abstract(build(encoder, decoder, 3, norm=norm), (1, 64, 64, 3))[0])
    model = build(encoder, decoder, 3, norm=norm, remat=True, platform="cpu")
    assert tree_of(abstract(model, (1, 64, 64, 3))[0]) == plain
    paths = [path for path, _, _ in jax.tree.leaves(plain, is_leaf=_is_row)]
    kinds = {"none": set(), "batch": {"scale", "mean"}}.get(norm, {"scale"})
    for kind in ("scale", "mean"):
        assert any(f"'{kind}'" in path for path in paths) == (kind in kinds)


def _is_row(value):
    return isinstance(value, tuple) and len(value) == 3 and isinstance(value[0], str)


@pytest.mark.parametrize(
    "encoder, decoder, norm",
    [
        ("resnet18", "unet", "batch"),
        ("resnet50", "fcn32s", "batch"),
        ("resnet18", "unet", "group"),
        ("resnet18", "fcn32s", "none"),
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
                {"params": params, **stats}, x, train=True, mutable=["batch_stats"]
            )
            assert logits.dtype == jnp.float64
            return jnp.sum(logits * weight), new

        return jax.value_and_grad(loss, has_aux=True)(variables["params"])

    with jax.enable_x64(True):
        model = small(encoder, decoder, norm=norm, param_dtype=jnp.float64)
        variables = jax.jit(model.init)(KEY, jnp.asarray(x))
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
    variables = jax.jit(model.init)(KEY, jnp.zeros((1, 64, 64, 3)))
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


def test_the_wide_field_keeps_the_registry_honest():
    """Every encoder has its counts above, so that a new one cannot go unchecked."""
    assert set(NAMES["encoders"]) == set(ENCODER_PARAMETERS) == set(UNET_PARAMETERS)
    assert ResNet.strides == (2, 4, 8, 16, 32)

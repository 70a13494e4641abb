"""What the papers say of AlexNet, VGG, GoogLeNet, FCN and SegNet."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from segjax.models import build, build_classifier, names
from segjax.models.decoders import segnet_basic
from segjax.models.decoders.fcn import bilinear
from segjax.models.encoders.googlenet import STAGES
from segjax.models.layers import Features
from tests.models.tracing import traced
from tests.requirements import OPTIMIZED

KEY = jax.random.key(0, impl="rbg")  # compiles faster
POOLING = ["segnet_basic", *(n for n in names()["encoders"] if n.startswith("vgg"))]


def shapes(model, size=(64, 64)):
    return traced(model, (1, *size, 3))[1]


def count(tree):
    return sum(int(np.prod(leaf.shape)) for leaf in jax.tree.leaves(tree))


def initial(model, size=(64, 64)):
    """{path: value} of the parameters, with a batch norm's left out."""
    init = jax.jit(model.init, compiler_options=OPTIMIZED)
    variables = init(KEY, jnp.zeros((1, *size, 3)))
    return {
        "/".join(key.key for key in path): np.asarray(leaf)
        for path, leaf in jax.tree_util.tree_leaves_with_path(variables["params"])
        if "bn" not in path[-2].key
    }


def test_published_numbers_of_parameters():
    """FCN-VGG16 134 million (Table 1), SegNet 29.5 million, the basic one 1.4."""
    convolutions = 14_714_688
    dense = (49 * 512 + 1) * 4096 + (4096 + 1) * 4096
    scores = (4096 + 1) * 21
    model = build("vgg16", "fcn32s", 21)
    assert count(shapes(model)) == convolutions + dense + scores
    skips = 2 * (512 + 1) * 21 - 256 * 21 + 2 * 16 * 21 * 21
    model = build("vgg16", "fcn8s", 21)
    assert count(shapes(model)) == convolutions + dense + scores + skips
    model = build("vgg16", "fcn8s", 21, fc_channels=0)
    assert count(shapes(model)) == convolutions + (512 + 1) * 21 + skips
    segnet = shapes(build("vgg16_bn", "segnet", 11))
    assert round(count(segnet["params"]) / 1e6, 1) == 29.4
    assert set(segnet["params"]["decoder"]["stage1"]) == {"conv2", "bn2"}
    basic = shapes(build("segnet_basic", "segnet_basic", 11))
    assert count(basic["params"]) == 49 * (3 + 7 * 64) * 64 + 8 * 2 * 64 + 65 * 11


@pytest.mark.parametrize("encoder", POOLING)
def test_segnet_goes_with_every_encoder_that_pools(encoder):
    model = build(encoder, "segnet", 4)
    assert traced(model, (2, 97, 131, 3))[0].shape == (2, 97, 131, 4)


@pytest.mark.parametrize("decoder", ["segnet", "segnet_basic"])
def test_segnet_on_a_resnet_is_an_error(decoder):
    with pytest.raises(ValueError) as error:
        build("resnet18", decoder, 4)
    text = str(error.value)
    assert f"{decoder} needs pooling switches, which resnet18 does not have" in text
    assert text.endswith(", ".join(POOLING))


def test_fcn_rejects_a_negative_width():
    with pytest.raises(ValueError, match=r"fc_channels is -1; .* 0 \(none\) or more"):
        shapes(build("vgg11", "fcn32s", 4, fc_channels=-1))


@pytest.mark.parametrize("encoder", ["vgg11", "resnet18"])
def test_fcn_32s_keeps_its_head(encoder):
    """Where older checkpoints have it."""
    parameters = shapes(build(encoder, "fcn32s", 4, fc_channels=0))["params"]
    assert set(parameters) == {"encoder", "head"}
    assert parameters["head"]["kernel"].shape == (1, 1, 512, 4)


def test_upsampling_starts_bilinear_and_skips_at_zero():
    np.testing.assert_allclose(
        bilinear(KEY, (4, 4, 2, 2))[..., 1, 1],
        np.outer([0.25, 0.75, 0.75, 0.25], [0.25, 0.75, 0.75, 0.25]),
    )
    found = initial(build("alexnet", "fcn8s", 3, fc_channels=0))
    for stride in (16, 8):
        assert not np.any(found[f"decoder/score{stride}/kernel"])
        kernel = found[f"decoder/upscore{stride}/transposed_kernel"]
        np.testing.assert_array_equal(kernel, bilinear(KEY, (4, 4, 3, 3)))
    assert np.any(found["decoder/score32/kernel"])


def test_initial_weights_have_the_references_spread():
    """Per layer within 3 %: torch's default, torchvision's rules, Caffe's msra."""

    def check(found, sigma, uniform=False):
        checked = 0
        for path, value in found.items():
            if value.size >= 4600 and value.ndim > 1:
                *window, c_in, c_out = value.shape
                fan_in, fan_out = (int(np.prod([*window, c])) for c in (c_in, c_out))
                wanted = sigma(path, fan_in, fan_out)
                assert abs(np.std(value) / wanted - 1) < 0.03, path
                assert (np.abs(value).max() <= 1.7321 * wanted) == uniform, path
                checked += 1
            elif path.endswith("bias"):
                assert np.any(value) == uniform, path
        return checked

    def narrow(name):
        model = build_classifier(name, 10)
        return model.clone(head=model.head.clone(width=64))

    found = initial(narrow("alexnet"))
    assert check(found, lambda _, fan_in, __: (3 * fan_in) ** -0.5, True) == 6
    found = initial(narrow("vgg11"))
    assert 7 < check(
        found,
        lambda path, _, fan_out: 0.01 if "head" in path else (2 / fan_out) ** 0.5,
    )
    model = build_classifier("googlenet", 10)
    short = STAGES[0][:1], STAGES[1][:1]
    found = initial(model.clone(encoder=model.encoder.clone(stages=short)))
    assert 10 < check(found, lambda *_: 0.01)
    found = initial(build("segnet_basic", "segnet_basic", 2))
    assert 7 < check(found, lambda _, fan_in, __: (2 / fan_in) ** 0.5)


def test_googlenets_auxiliary_logits_exist_in_training_only():
    model = build_classifier("googlenet", 7)
    image = jax.ShapeDtypeStruct((2, 64, 64, 3), jnp.float32)
    variables = jax.eval_shape(model.init, KEY, image)
    found = variables.pop("auxiliary")["encoder"]
    assert {name: found[name]["logits"].shape for name in found} == {
        "aux1": (2, 7),
        "aux2": (2, 7),
    }

    def sown(train):
        _, new = jax.eval_shape(
            lambda v, x: model.apply(
                v, x, train=train, mutable=True, rngs={"dropout": jax.random.key(0)}
            ),
            variables,
            image,
        )
        return set(new.get("auxiliary", {}).get("encoder", {}))

    assert sown(True) == {"aux1", "aux2"} and sown(False) == set()
    segmenter = shapes(build("googlenet", "fcn32s", 3))
    assert "auxiliary" not in segmenter
    assert "aux1" not in segmenter["params"]["encoder"]


WIDTH, SIZE = 4, (16, 24)


def segnet_basic_on(maps, upsampling: str):
    """The decoder, and its variables where every norm gives 0."""
    decoder = segnet_basic(upsampling=upsampling)
    init = jax.jit(lambda x: decoder.init(KEY, Features(x), SIZE, train=False))
    variables = init(maps)
    quiet = jax.tree_util.tree_map_with_path(
        lambda path, x: x * 0 if "bn" in path[-2].key else x, variables["params"]
    )
    return decoder, {**variables, "params": quiet}


def test_encoder_addition_adds_the_encoders_maps():
    """SegNet-Basic-EncoderAddition: with norms of 0 the finest map is all there is."""
    maps = tuple(
        jax.random.normal(jax.random.fold_in(KEY, i), (1, 16 >> i, 24 >> i, WIDTH))
        for i in range(5)
    )
    for upsampling, wanted in (("unpool", 0 * maps[0]), ("unpool_add", maps[0])):
        decoder, variables = segnet_basic_on(maps, upsampling)
        apply = jax.jit(
            lambda v, x, d=decoder: d.apply(v, Features(x), SIZE, train=False)
        )
        found = apply(variables, maps)
        np.testing.assert_array_equal(found, wanted)


def test_learned_upsampling_starts_as_bilinear_interpolation():
    """A ramp stays one: 2x bilinear puts pixel j at (j + 0.5) / 2 - 0.5, four times."""
    maps = tuple(jnp.zeros((1, 96 >> i, 128 >> i, WIDTH)) for i in range(4))
    x = jnp.arange(8.0)[None, None, :, None] * jnp.ones((1, 6, 1, WIDTH))
    decoder = segnet_basic(upsampling="deconvolution")
    found, variables = jax.jit(
        lambda *maps: decoder.init_with_output(
            KEY, Features(maps), (96, 128), train=False
        )
    )(*maps, x)
    assert count(variables["params"]) == 4 * 64 * WIDTH * WIDTH
    wanted = (np.arange(128) + 0.5) / 16 - 0.5
    inside = slice(40, 88)  # beyond the reach of the border's zeros
    np.testing.assert_allclose(found[0, 48, inside, 0], wanted[inside], atol=1e-5)


def test_the_variants_of_segnet_basic_have_the_papers_parameters():
    """Table 1: 1.425, 1.425, 1.625 and 0.625 million, norms or biases apart."""
    basic = ("segnet_basic", "segnet_basic", 11)
    for model, millions in (
        (build(*basic, upsampling="unpool"), 1.425),
        (build(*basic, upsampling="unpool_add"), 1.425),
        (build(*basic, upsampling="deconvolution"), 1.625),
        (build("segnet_basic", "fcn32s", 11), 0.625),
    ):
        found = count(shapes(model)["params"]) / 1e6
        assert found == pytest.approx(millions, rel=0.025)


def test_an_unknown_upsampling_is_told():
    model = build("segnet_basic", "segnet_basic", 2, upsampling="pool")
    with pytest.raises(ValueError, match="'pool' is not one of unpool, unpool_add, "):
        shapes(model)


def test_alexnet_says_how_small_an_image_may_be():
    for model in (build("alexnet", "unet", 4), build_classifier("alexnet", 4)):
        with pytest.raises(ValueError, match="40x63 pixels: a side must have .* 63;"):
            shapes(model, (40, 63))
    model = build("alexnet", "unet", 4)
    image = jax.ShapeDtypeStruct((1, 63, 63, 3), jnp.float32)
    logits, _ = jax.eval_shape(model.init_with_output, KEY, image)
    assert logits.shape == (1, 63, 63, 4)
    features, _ = jax.eval_shape(
        model.encoder.init_with_output, KEY, image, train=False
    )
    assert features.maps[-1].shape[1:3] == (1, 1)

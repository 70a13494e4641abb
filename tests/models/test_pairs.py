"""Every encoder, and with every decoder: shapes in training, at a size nothing divides.

An encoder is traced once, and each decoder on the (abstract) features that it found;
encoders whose features are alike share the decoder's trace.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from segjax import models
from segjax.models import build, build_classifier
from segjax.models.layers import Features
from tests.models.families import PARAMETERS, map_size
from tests.models.tracing import Stub, traced

NAMES = models.names()
SIZE, CLASSES = (97, 131), 5

# smp.Unet(name, classes=11), counted in segmentation_models_pytorch 0.6.0.
UNET_PARAMETERS = {
    "resnet18": 14_329_659,
    "resnet34": 24_437_819,
    "resnet50": 32_522_555,
    "resnet101": 51_514_683,
    "resnet152": 67_158_331,
    "vgg11": 18_255_483,
    "vgg13": 18_439_995,
    "vgg16": 23_749_691,
    "vgg19": 29_059_387,
    "vgg11_bn": 18_260_987,
    "vgg13_bn": 18_445_883,
    "vgg16_bn": 23_758_139,
    "vgg19_bn": 29_070_395,
    "convnext_tiny": 31_930_203,
    "convnext_small": 53_564_763,
    "convnext_base": 92_652_923,
    "convnext_large": 203_269_563,
    "swin_t": 31_629_429,
    "swin_s": 52_947_333,
    "swin_b": 91_829_683,
    "mit_b0": 5_550_939,
    "mit_b1": 16_433_595,
    "mit_b2": 27_478_459,
    "mit_b3": 47_354_299,
    "mit_b4": 64_124_859,
    "mit_b5": 84_725_179,
    "resnext50_32x4d": 31_994_427,
    "resnext101_32x8d": 95_756_859,
    "densenet121": 13_609_083,
    "densenet169": 21_204_091,
    "densenet201": 28_582_011,
    "mobilenet_v2": 6_630_395,
}


def possible(encoder, decoder):
    """Whether the encoder has what the decoder needs."""
    needs = getattr(getattr(models.decoders, decoder).func, "needs", None)
    provides = getattr(getattr(models.encoders, encoder).func, "provides", ())
    return needs is None or needs in provides


def at(module, size):
    """The module's trace on two images."""
    return traced(module, (2, *size, 3))


@functools.cache
def whole(encoder):
    """(features, variables) of the classifier's encoder at SIZE."""
    return at(build_classifier(encoder, 1000).encoder, SIZE)


def count(tree):
    return sum(int(np.prod(leaf.shape)) for leaf in jax.tree.leaves(tree))


@functools.cache
def features_at(encoder, size, output_stride):
    """The encoder's features at a size: traced, or its maps' sizes by the rule.

    The rule (ceil division by the stride, with dilation by at most the output stride)
    is what sizes_and_parameters asserts; widths do not depend on the size.
    """
    model = build(encoder, "fcn32s" if encoder != "segnet_basic" else "unet", CLASSES)
    if size == SIZE and output_stride is None:
        return whole(encoder)[0]
    if hasattr(model.encoder, "provides"):
        return at(model.encoder, size)[0]
    maps = []
    for stride, found in zip(
        model.encoder.strides, features_at(encoder, SIZE, None).maps, strict=True
    ):
        assert found.shape[:3] == (2, *map_size(encoder, *SIZE, stride))
        reached = min(stride, output_stride or stride)
        shape = (2, *map_size(encoder, *size, reached), found.shape[3])
        maps.append(jax.ShapeDtypeStruct(shape, found.dtype))
    return Features(tuple(maps))


DECODERS = {}  # (decoder, features, strides) -> shape of the logits


def logits_of(encoder, decoder):
    """Shape and dtype of the logits of the pair."""
    model = build(encoder, decoder, CLASSES)
    stride, size = max(model.encoder.strides), SIZE
    if not model.decoder.any_size:
        size = tuple(-(-n // stride) * stride for n in SIZE)
    dilation = getattr(model.encoder, "output_stride", 32)
    features = features_at(encoder, size, None if dilation == 32 else dilation)
    key = str((decoder, features, model.encoder.strides))
    if key not in DECODERS:
        stub = Stub(features, tuple(model.encoder.strides))
        logits, variables = at(model.clone(encoder=stub), SIZE)
        assert {leaf.dtype for leaf in jax.tree.leaves(variables)} <= {jnp.dtype("f")}
        assert set(variables.get("params", {})) <= {"decoder", "head"}
        DECODERS[key] = logits
    return DECODERS[key]


def sizes_and_parameters(encoder):
    """The published numbers, by the encoder's trace and those of what stands on it."""
    model, (features, variables) = build_classifier(encoder, 1000), whole(encoder)
    for stride, found in zip(model.encoder.strides, features.maps, strict=True):
        assert found.shape[:3] == (2, *map_size(encoder, *SIZE, stride))
    stub = Stub(features, tuple(model.encoder.strides))
    logits, rest = at(model.clone(encoder=stub), SIZE)
    assert logits.shape == (2, 1000) and logits.dtype == jnp.float32
    own = count(variables["params"])
    assert own + count(rest["params"]) == PARAMETERS[encoder]
    if encoder in UNET_PARAMETERS:
        _, rest = at(build(encoder, "unet", 11).clone(encoder=stub), SIZE)
        assert own + count(rest["params"]) == UNET_PARAMETERS[encoder]


# One test, so that one process traces the encoder once.
@pytest.mark.parametrize("encoder", NAMES["encoders"])
def test_its_sizes_and_parameters_and_every_decoder(encoder):
    sizes_and_parameters(encoder)
    for decoder in NAMES["decoders"]:
        if not possible(encoder, decoder):
            with pytest.raises(ValueError, match=f"{decoder} needs .* {encoder} does"):
                build(encoder, decoder, CLASSES)
            continue
        logits = logits_of(encoder, decoder)
        assert logits.shape == (2, *SIZE, CLASSES), (encoder, decoder)
        assert logits.dtype == jnp.float32


def test_stubs_are_what_they_stand_for():
    """One pair of each kind, traced as a whole: the variables but the encoder's."""
    for encoder, decoder in (
        ("resnet18", "unet"),
        ("resnet18", "deeplabv3"),
        ("resnet18", "fpn"),
        ("vgg11", "segnet"),
        ("vit_small", "dpt"),
        ("mit_b0", "segformer"),
    ):
        model = build(encoder, decoder, CLASSES)
        logits, variables = at(model, SIZE)
        found, own = logits_of(encoder, decoder), dict(variables["params"])
        assert (found.shape, found.dtype) == (logits.shape, logits.dtype)
        stride = max(model.encoder.strides)
        size = SIZE
        if not model.decoder.any_size:
            size = tuple(-(-n // stride) * stride for n in SIZE)
        dilation = getattr(model.encoder, "output_stride", 32)
        features = features_at(encoder, size, None if dilation == 32 else dilation)
        assert str(features) == str(at(model.encoder, size)[0])
        stub = Stub(features, tuple(model.encoder.strides))
        del own["encoder"]
        assert str(at(model.clone(encoder=stub), SIZE)[1]["params"]) == str(own)


def test_there_are_as_many_pairs_as_promised():
    count = sum(possible(e, d) for e in NAMES["encoders"] for d in NAMES["decoders"])
    assert count >= 200 and len(models.names()["encoders"]) >= 5

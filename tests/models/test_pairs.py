"""Every encoder with every decoder: shapes in training, at a size nothing divides.

An encoder is traced once, and each decoder on the (abstract) features that it found;
encoders whose features are alike share the decoder's trace.
"""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import pytest

from segjax import models
from segjax.models import build
from segjax.models.layers import Features
from tests.models.families import map_size

NAMES = models.names()
SIZE, CLASSES = (97, 131), 5
KEY = jax.random.key(0)


def possible(encoder, decoder):
    """Whether the encoder has what the decoder needs."""
    needs = getattr(getattr(models.decoders, decoder).func, "needs", None)
    provides = getattr(getattr(models.encoders, encoder).func, "provides", ())
    return needs is None or needs in provides


class Stub(nn.Module):
    """In an encoder's place: features of its shapes, whatever the image."""

    features: Features
    strides: tuple[int, ...]
    auxiliary_map: int = -2

    def __call__(self, image, *, train):
        return jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), self.features)


def traced(module, size):
    """Shapes of (result, variables) of an initialisation in training."""
    image = jax.ShapeDtypeStruct((2, *size, 3), jnp.float32)
    return jax.eval_shape(lambda x: module.init_with_output(KEY, x, train=True), image)


@functools.cache
def features_at(encoder, size, output_stride):
    """The encoder's features at a size: traced, or its maps' sizes by the rule.

    The rule (ceil division by the stride, with dilation by at most the output stride)
    is what test_contract.py asserts; widths do not depend on the size.
    """
    model = build(encoder, "fcn32s" if encoder != "segnet_basic" else "unet", CLASSES)
    if size == SIZE and output_stride is None or hasattr(model.encoder, "provides"):
        return traced(model.encoder, size)[0]
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
        logits, variables = traced(model.clone(encoder=stub), SIZE)
        assert {leaf.dtype for leaf in jax.tree.leaves(variables)} <= {jnp.dtype("f")}
        assert set(variables.get("params", {})) <= {"decoder", "head"}
        DECODERS[key] = logits
    return DECODERS[key]


@pytest.mark.parametrize("encoder", NAMES["encoders"])
def test_every_decoder_takes_it(encoder):
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
        logits, variables = traced(model, SIZE)
        found, own = logits_of(encoder, decoder), dict(variables["params"])
        assert (found.shape, found.dtype) == (logits.shape, logits.dtype)
        stride = max(model.encoder.strides)
        size = SIZE
        if not model.decoder.any_size:
            size = tuple(-(-n // stride) * stride for n in SIZE)
        dilation = getattr(model.encoder, "output_stride", 32)
        features = features_at(encoder, size, None if dilation == 32 else dilation)
        assert str(features) == str(traced(model.encoder, size)[0])
        stub = Stub(features, tuple(model.encoder.strides))
        del own["encoder"]
        assert str(traced(model.clone(encoder=stub), SIZE)[1]["params"]) == str(own)


def test_there_are_as_many_pairs_as_promised():
    count = sum(possible(e, d) for e in NAMES["encoders"] for d in NAMES["decoders"])
    assert count >= 200 and len(models.names()["encoders"]) >= 5

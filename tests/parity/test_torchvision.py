"""Torchvision's segmentation networks: FCN and LRASPP, auxiliary heads, dilation."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from segjax.models import build
from segjax.ops.resize import resize_bilinear
from segjax.weights import load_torch
from tests.parity.reference import (
    LIMIT,
    Case,
    image,
    randomize,
    relative_error,
    to_nchw,
    to_nhwc,
)
from tests.parity.spread import assert_initial_spread
from tests.requirements import require_parity

pytestmark = pytest.mark.parity


def segmentation(name, **options):
    def make():
        networks = require_parity("torchvision").models.segmentation
        return getattr(networks, name)(
            weights=None, weights_backbone=None, num_classes=5, **options
        )

    return make


def fcn_mobilenet(aux=False):
    """Torchvision's FCN around its dilated MobileNetV3, on the maps it takes there."""
    models = require_parity("torchvision").models
    from torchvision.models._utils import IntermediateLayerGetter

    kind = models.segmentation.fcn
    features = models.mobilenet_v3_large(weights=None, dilated=True).features
    backbone = IntermediateLayerGetter(
        features, {"4": "aux", "16": "out"} if aux else {"16": "out"}
    )
    heads = [kind.FCNHead(n, 5) for n in ((960, 40) if aux else (960,))]
    return kind.FCN(backbone, *heads)


def small_lraspp():
    """As torchvision makes lraspp_mobilenet_v3_large."""
    models = require_parity("torchvision").models
    backbone = models.mobilenet_v3_small(weights=None, dilated=True)
    return models.segmentation.lraspp._lraspp_mobilenetv3(backbone, 5)


def small_fcn():
    """A ResNet of one block per stage as torchvision's fcn_resnet50 is made."""
    models = require_parity("torchvision").models
    backbone = models.resnet.ResNet(
        models.resnet.Bottleneck,
        (1, 1, 1, 1),
        replace_stride_with_dilation=[False, True, True],
    )
    return models.segmentation.fcn._fcn_resnet(backbone, 5, True)


def dilated(name, output_stride, stages):
    """A MobileNet dilated by SMP's function; ``stages`` is {stride: blocks}."""

    def make():
        models = require_parity("torchvision").models
        require_parity("segmentation_models_pytorch")
        from segmentation_models_pytorch.encoders._utils import (
            replace_strides_with_dilation,
        )

        model = getattr(models, name)(weights=None, num_classes=5)
        for stride, blocks in stages.items():
            if stride > output_stride:
                part = model.features[blocks]
                replace_strides_with_dilation(part, stride // output_stride)
        return model

    return make


def v3_dilated():
    """Torchvision's own dilation."""
    models = require_parity("torchvision").models
    return models.mobilenet_v3_large(weights=None, num_classes=5, dilated=True)


V2 = {16: slice(7, 14), 32: slice(14, None)}
V3 = {16: slice(7, 13), 32: slice(13, 16)}


def case(encoder, decoder, make, size, slow=False, **options):
    return Case(
        encoder,
        decoder,
        "torchvision",
        make,
        like="torchvision",
        size=size,
        options=options,
        naming="torchvision",
        slow=slow,
    )


FCN_RESNET50 = case("resnet50", "fcn", segmentation("fcn_resnet50"), (64, 64))
LRASPP = segmentation("lraspp_mobilenet_v3_large")
LRASPP_64 = case("mobilenet_v3_large", "lraspp", LRASPP, (64, 64))
CASES = [
    FCN_RESNET50,
    case("resnet50", "fcn", segmentation("fcn_resnet50"), (97, 131), True),
    case("resnet101", "fcn", segmentation("fcn_resnet101"), (64, 64), True),
    case("mobilenet_v3_large", "fcn", fcn_mobilenet, (97, 131), True, output_stride=16),
    LRASPP_64,
    case("mobilenet_v3_large", "lraspp", LRASPP, (97, 131), True),
    case("mobilenet_v3_small", "lraspp", small_lraspp, (97, 131), True),
    case("mobilenet_v3_large", None, v3_dilated, (65, 72), True, output_stride=16),
    case(
        "mobilenet_v3_large",
        None,
        dilated("mobilenet_v3_large", 8, V3),
        (65, 72),
        True,
        output_stride=8,
    ),
    *[
        case(
            "mobilenet_v2",
            None,
            dilated("mobilenet_v2", stride, V2),
            (65, 72),
            True,
            output_stride=stride,
        )
        for stride in (8, 16)
    ],
]


@pytest.mark.parametrize("case", [c for c in CASES if not c.slow], ids=str)
def test_networks(case):
    case.check()


@pytest.mark.slow
@pytest.mark.parametrize("case", [c for c in CASES if c.slow], ids=str)
def test_large_networks(case):
    case.check()


@pytest.mark.slow
@pytest.mark.parametrize("case", [FCN_RESNET50, LRASPP_64], ids=str)
def test_input_gradients(case):
    case.check_input_gradient()


@pytest.mark.slow
@pytest.mark.parametrize("case", [FCN_RESNET50, LRASPP_64], ids=str)
def test_initial_weights_have_torchvisions_spread(case):
    assert_initial_spread(case)


def test_scores_and_their_upsampling_each_are_torchvisions():
    """At low resolution, and at the image's size: 97 / 13 is no whole number."""
    torch = require_parity("torch")
    reference = randomize(small_fcn())
    model, variables = _small(reference)
    size = (97, 131)
    x = image(*size)
    with torch.no_grad():
        features = reference.backbone(to_nchw(x))
        wanted = reference.classifier(features["out"])
        upsampled = reference(to_nchw(x))["out"]
    scores = jax.jit(lambda v, x: model.apply(v, x, method="scores"))(variables, x)
    assert scores.array.shape[1:3] == tuple(-(-n // 8) for n in size)
    assert relative_error(scores.array, to_nhwc(wanted)) <= LIMIT
    found = resize_bilinear(jnp.asarray(to_nhwc(wanted)), size, align_corners=False)
    assert relative_error(found, to_nhwc(upsampled)) <= 1e-6


def _small(reference, **options):
    model = build("resnet50", "fcn", 5, like="torchvision", auxiliary=True, **options)
    encoder = model.encoder.clone(counts=(1, 1, 1, 1))
    auxiliary = model.auxiliary.clone(dropout=0.0)
    model = model.clone(encoder=encoder, auxiliary=auxiliary)
    return model, load_torch(model, reference.state_dict())


def test_auxiliary_logits_in_training_are_torchvisions():
    """In float64, by the statistics of the batch; no dropout."""
    torch = require_parity("torch")
    reference = randomize(small_fcn()).double().train()
    for module in reference.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    x = image(49, 66, np.float64)
    with jax.enable_x64(True):
        model, variables = _small(reference, param_dtype=jnp.float64)
        _, new = jax.jit(
            lambda v, x: model.apply(
                v,
                x,
                train=True,
                mutable=["auxiliary", "batch_stats"],
                rngs={"dropout": jax.random.key(0)},
            )
        )(variables, x)
    with torch.no_grad():
        wanted = to_nhwc(reference(to_nchw(x))["aux"])
    assert relative_error(new["auxiliary"]["logits"], wanted) <= 1e-9


@pytest.mark.slow
@pytest.mark.parametrize(
    "encoder, make, options",
    [
        ("resnet50", segmentation("fcn_resnet50", aux_loss=True), {}),
        ("mobilenet_v3_large", lambda: fcn_mobilenet(True), {"output_stride": 16}),
    ],
)
def test_auxiliary_heads_take_the_map_torchvision_takes(encoder, make, options):
    """With the running statistics, which training never uses."""
    torch = require_parity("torch")
    reference = randomize(make())
    model = build(encoder, "fcn", 5, like="torchvision", auxiliary=True, **options)
    variables = load_torch(model, reference.state_dict())
    x = image(97, 131)
    found = jax.jit(lambda v, x: _auxiliary(model, v, x))(variables, x)
    with torch.no_grad():
        wanted = to_nhwc(reference(to_nchw(x))["aux"])
    assert relative_error(found, wanted) <= LIMIT


def _auxiliary(model, variables, x):
    """The auxiliary head alone, on the encoder's map, in evaluation mode."""

    def part(name):
        return {collection: tree[name] for collection, tree in variables.items()}

    maps = model.encoder.apply(part("encoder"), x, train=False).maps
    one = maps[getattr(model.encoder, "auxiliary_map", -2)]
    scores = model.auxiliary.apply(part("auxiliary"), one, False)
    return resize_bilinear(scores, x.shape[1:3], align_corners=False)

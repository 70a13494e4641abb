"""ResNeXt, wide ResNet, DenseNet and MobileNet against torchvision and SMP."""

import pytest

from tests.parity.reference import Case, hooked, to_nchw, to_nhwc
from tests.parity.spread import assert_initial_spread
from tests.requirements import require_parity

RESNET = ("relu", "layer1", "layer2", "layer3", "layer4")
V3 = {
    "mobilenet_v3_small": (0, 1, 2, 4, 12),
    "mobilenet_v3_large": (0, 2, 4, 7, 16),
}
IN_CI = ("densenet121", "mobilenet_v2", "mobilenet_v3_small")


def classifier(name):
    def make():
        models = require_parity("torchvision").models
        return getattr(models, name)(weights=None, num_classes=5)

    return make


def timm(name):
    def make():
        return require_parity("timm").create_model(name, num_classes=5)

    return make


def unet(name):
    def make():
        smp = require_parity("segmentation_models_pytorch")
        return smp.Unet(name, encoder_weights=None, classes=5)

    return make


def densenet_maps(model, x):
    """SMP's skips: what the transitions' convolutions and the classifier take in."""
    import torch

    names = ("relu0", "transition1.relu", "transition2.relu", "transition3.relu")
    maps = hooked(model, [f"features.{name}" for name in names], x)
    with torch.no_grad():
        # The classifier's ReLU works in place, on the last norm's own output.
        return [*maps, to_nhwc(model.features(to_nchw(x)))]


def smp_maps(model, x):
    """The encoder's maps below the image."""
    return [to_nhwc(y) for y in model.encoder(to_nchw(x))[1:]]


PYRAMIDS = {
    **dict.fromkeys(("densenet121", "densenet169", "densenet201"), densenet_maps),
    "mobilenet_v2": tuple(f"features.{i}" for i in (1, 3, 6, 13, 18)),
    **{name: tuple(f"features.{i}" for i in at) for name, at in V3.items()},
}
CLASSIFIERS = [
    Case(
        name,
        None,
        "torchvision",
        classifier(name),
        size=size,
        pyramid=PYRAMIDS.get(name, RESNET),
        slow=name not in IN_CI,
    )
    for name, size in [
        ("resnext50_32x4d", (64, 64)),
        ("resnext101_32x8d", (64, 64)),
        ("wide_resnet50_2", (64, 64)),
        ("wide_resnet101_2", (64, 64)),
        ("densenet121", (97, 131)),
        ("densenet169", (64, 64)),
        ("densenet201", (64, 64)),
        ("mobilenet_v2", (97, 131)),
        ("mobilenet_v3_small", (97, 131)),
        ("mobilenet_v3_large", (64, 64)),
    ]
]
UNETS = [
    Case(
        name,
        "unet",
        "smp",
        unet(name),
        like="smp",
        size=size,
        pyramid=smp_maps,
        slow=slow,
    )
    for name, size, slow in [
        ("resnext50_32x4d", (64, 64), True),
        ("densenet121", (64, 64), True),
        ("mobilenet_v2", (64, 64), True),
        ("resnext101_32x8d", (64, 64), True),
        ("densenet169", (64, 64), True),
        ("densenet201", (64, 64), True),
    ]
]
# The same networks in timm's naming.
TIMM = [
    Case(name, None, "timm", timm(name), size=(64, 64), slow=True)
    for name in ("densenet121", "resnext50_32x4d", "wide_resnet50_2")
]
CASES = CLASSIFIERS + UNETS + TIMM


@pytest.mark.parity
@pytest.mark.parametrize("case", [c for c in CASES if not c.slow], ids=str)
def test_networks(case):
    case.check()


@pytest.mark.parity
@pytest.mark.slow
@pytest.mark.parametrize("case", [c for c in CASES if c.slow], ids=str)
def test_large_networks(case):
    case.check()


@pytest.mark.parity
@pytest.mark.slow
@pytest.mark.parametrize("name", ["resnext50_32x4d", "densenet121", "mobilenet_v2"])
def test_initial_weights_have_torchvisions_spread(name):
    case = next(c for c in CLASSIFIERS if c.encoder == name)
    assert_initial_spread(case)

"""AlexNet, VGG and GoogLeNet against torchvision, VGG's U-Net against SMP."""

import pytest

from tests.parity.reference import Case, to_nchw
from tests.requirements import require_parity

pytestmark = pytest.mark.parity
VGG = {"vgg11": "A", "vgg13": "B", "vgg16": "D", "vgg19": "E"}
VGGS = [f"{name}{norm}" for name in VGG for norm in ("", "_bn")]


def torchvision(name):
    def make():
        models = require_parity("torchvision").models
        if name == "googlenet":
            return models.googlenet(weights=None, num_classes=5, init_weights=False)
        if name == "alexnet":
            return models.alexnet(weights=None, num_classes=5)
        # Not by its name, which draws 140 million initial weights.
        plain, *norm = name.split("_")
        layers = models.vgg.make_layers(models.vgg.cfgs[VGG[plain]], bool(norm))
        return models.vgg.VGG(layers, num_classes=5, init_weights=False)

    return make


def smp_unet(name):
    def make():
        smp = require_parity("segmentation_models_pytorch")
        return smp.Unet(name, encoder_weights=None, classes=5)

    return make


def before_pooling(model, x):
    """Torchvision's maps before each max pooling of ``features``, and the last one."""
    from torch import nn

    y, maps = to_nchw(x), []
    for layer in model.features:
        if isinstance(layer, nn.MaxPool2d):
            maps.append(y)
        y = layer(y.clone())
    return [y.permute(0, 2, 3, 1).numpy() for y in (*maps, y)]


def smp_maps(model, x):
    return [y.permute(0, 2, 3, 1).numpy() for y in model.encoder(to_nchw(x))]


INCEPTIONS = ("conv1", "conv3", "inception3b", "inception4e", "inception5b")
CASES = [
    Case(
        "alexnet", None, "torchvision", torchvision("alexnet"), pyramid=before_pooling
    ),
    Case(
        "alexnet",
        None,
        "torchvision",
        torchvision("alexnet"),
        pyramid=before_pooling,
        size=(97, 131),
        slow=True,
    ),
    *(
        Case(
            "googlenet",
            None,
            "torchvision",
            torchvision("googlenet"),
            pyramid=INCEPTIONS,
            size=size,
            slow=size == (64, 64),
        )
        for size in ((64, 64), (97, 131))
    ),
    *(
        Case(
            name,
            None,
            "torchvision",
            torchvision(name),
            pyramid=before_pooling,
            size=(97, 131) if name == "vgg13" else (64, 64),
            slow=True,
        )
        for name in VGGS
    ),
    *(
        Case(
            name,
            "unet",
            "smp",
            smp_unet(name),
            like="smp",
            pyramid=smp_maps,
            size=(97, 131) if name == "vgg11" else (64, 64),
            slow=name not in ("vgg11", "vgg11_bn"),
        )
        for name in VGGS
    ),
]


@pytest.mark.parametrize("case", [c for c in CASES if not c.slow], ids=str)
def test_classifiers_and_unets(case):
    case.check()


@pytest.mark.slow
@pytest.mark.parametrize("case", [c for c in CASES if c.slow], ids=str)
def test_large_classifiers_and_unets(case):
    case.check()

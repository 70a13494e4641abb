"""EfficientNets against timm and SMP: three paddings, three sets of names."""

import warnings

import pytest

from tests.parity.reference import Case, to_nchw, to_nhwc
from tests.requirements import require_parity

TIMM_STAGES = ("bn1", "blocks.1", "blocks.2", "blocks.4", "blocks.6")


def timm(name):
    return lambda: require_parity("timm").create_model(name, num_classes=5)


def unet(name):
    def make():
        smp = require_parity("segmentation_models_pytorch")
        with warnings.catch_warnings():  # "timm-" encoders are deprecated
            warnings.simplefilter("ignore", DeprecationWarning)
            return smp.Unet(name, encoder_weights=None, classes=5)

    return make


def smp_maps(model, x):
    return [to_nhwc(f) for f in model.encoder(to_nchw(x))[1:]]


def classifier(name, theirs=None, **options):
    return Case(
        name, None, "timm", timm(theirs or name), pyramid=TIMM_STAGES, **options
    )


def segmenter(name, theirs, **options):
    return Case(
        name, "unet", "smp", unet(theirs), like="smp", pyramid=smp_maps, **options
    )


CASES = [
    classifier("tf_efficientnet_lite0", size=(97, 131)),
    classifier("efficientnet_b0", "tf_efficientnet_b0", size=(97, 131)),
    classifier("efficientnet_b0", like="timm", size=(65, 72), slow=True),
    segmenter("efficientnet_b0", "efficientnet-b0", slow=True),
    segmenter("efficientnet_b1", "efficientnet-b1", slow=True),
    segmenter("tf_efficientnet_lite0", "timm-tf_efficientnet_lite0", slow=True),
    *(
        classifier(f"efficientnet_b{i}", f"tf_efficientnet_b{i}", slow=True)
        for i in range(1, 8)
    ),
    *(classifier(f"tf_efficientnet_lite{i}", slow=True) for i in range(1, 5)),
]


@pytest.mark.parity
@pytest.mark.parametrize("case", [c for c in CASES if not c.slow], ids=str)
def test_efficientnet(case):
    case.check()


@pytest.mark.parity
@pytest.mark.slow
@pytest.mark.parametrize("case", [c for c in CASES if c.slow], ids=str)
def test_large_efficientnet(case):
    case.check()

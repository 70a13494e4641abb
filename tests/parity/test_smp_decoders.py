"""The convolutional decoders against SMP, and DeepLabV3 against torchvision."""

from dataclasses import replace

import pytest

from tests.parity.reference import Case
from tests.requirements import require_parity

DECODERS = {
    "unetplusplus": "UnetPlusPlus",
    "manet": "MAnet",
    "linknet": "Linknet",
    "fpn": "FPN",
    "pspnet": "PSPNet",
    "pan": "PAN",
    "deeplabv3": "DeepLabV3",
    "deeplabv3plus": "DeepLabV3Plus",
}
SIZES = {
    "pspnet": (72, 88),  # whole cells of 8 pixels, and bins that share rows
    "pan": (144, 128),  # SMP's halves a map of 1/16 three times; here an odd one
    "deeplabv3plus": (80, 64),
}


def smp(encoder, decoder, size=None, slow=True, **options):
    """SMP's defaults but for ``options``, which have the same names here."""

    def make():
        package = require_parity("segmentation_models_pytorch")
        kind = getattr(package, DECODERS[decoder])
        name = encoder.replace("efficientnet_", "efficientnet-")
        return kind(name, encoder_weights=None, classes=5, **options)

    idle = ("decoder.center.*",) if decoder == "unetplusplus" else ()
    if decoder == "pan":  # of one channel, which a ReLU may silence
        idle = ("decoder.fpa.down*",)
    if decoder == "pspnet":  # beyond stride 8
        idle = (
            "encoder.layer[34].*",
            "encoder._blocks.1?.*",
            "encoder._blocks.[5-9].*",
        )
    size = size or SIZES.get(decoder, (64, 64))
    return Case(
        encoder, decoder, "smp", make, "smp", size, options, idle=idle, slow=slow
    )


def torchvision(size, encoder="resnet50", auxiliary=False, **options):
    def make():
        models = require_parity("torchvision").models.segmentation
        return getattr(models, f"deeplabv3_{encoder}")(
            weights=None, weights_backbone=None, num_classes=5, aux_loss=auxiliary
        )

    return Case(
        encoder,
        "deeplabv3",
        "torchvision",
        make,
        "torchvision",
        size,
        {"auxiliary": auxiliary, **options},
        idle=("aux_classifier.*",),
        slow=True,
    )


SMALL = [smp("resnet18", decoder, slow=False) for decoder in DECODERS]
CASES = [
    *SMALL,
    *(replace(smp("resnet50", decoder), platform="cpu") for decoder in DECODERS),
    # Rates at which the outer taps meet pixels of so small a map.
    smp("resnet18", "deeplabv3", decoder_atrous_rates=(1, 3, 5)),
    smp("resnet18", "deeplabv3plus", decoder_atrous_rates=(1, 2, 3)),
    smp("resnet18", "deeplabv3", (328, 96)),  # at 1/8 longer than all rates
    # Another way to dilate, and to leave the deeper stages unused.
    smp("efficientnet_b0", "deeplabv3plus"),
    smp("efficientnet_b0", "pspnet"),
    # Maps at stride 1; convolutions at the bottom that SMP does not run.
    smp("vgg11", "unetplusplus"),
    smp("vgg11", "manet"),
    # No map at stride 2.
    smp("mit_b0", "manet"),
    smp("mit_b0", "fpn"),
    smp("resnet18", "unetplusplus", (96, 64)),
    smp("resnet18", "manet", (96, 64)),
    smp("resnet18", "linknet", (96, 64)),
    smp("resnet18", "fpn", (96, 160)),
    torchvision((64, 64), auxiliary=True),
    torchvision((97, 131)),
    torchvision((97, 131), "mobilenet_v3_large", True, output_stride=16),
]


@pytest.mark.parity
@pytest.mark.parametrize("case", [c for c in CASES if not c.slow], ids=str)
def test_decoders(case):
    case.check()


@pytest.mark.parity
@pytest.mark.slow
@pytest.mark.parametrize("case", [c for c in CASES if c.slow], ids=str)
def test_more_pairs_and_sizes(case):
    case.check()


def gradient_size(case):
    """PAN's pyramid wants a map of several pixels."""
    return (128, 128) if case.decoder == "pan" else (32, 32)


@pytest.mark.parity
@pytest.mark.slow
@pytest.mark.parametrize("case", SMALL, ids=lambda case: case.decoder)
def test_input_gradients_in_float64(case):
    case.check_input_gradient(gradient_size(case))

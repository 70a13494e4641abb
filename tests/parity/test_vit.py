"""Vision Transformer and DPT against timm, SMP and transformers."""

from functools import partial

import pytest

from tests.parity.reference import Case
from tests.parity.spread import assert_initial_spread
from tests.requirements import require_parity

pytestmark = pytest.mark.parity


def timm(name, **options):
    package = require_parity("timm")
    return package.create_model(name, num_classes=5, **options)


def smp_dpt(name, **options):
    package = require_parity("segmentation_models_pytorch")
    return package.DPT(
        f"tu-{name}",
        encoder_weights=None,
        classes=5,
        dynamic_img_size=True,
        **options,
    )


def transformers_dpt(**options):
    package = require_parity("transformers")
    common = {"use_batch_norm_in_fusion_residual": True, "num_labels": 5}
    return package.DPTForSemanticSegmentation(
        package.DPTConfig(**{**common, **options})
    )


CLASSIFIERS = [
    Case(
        name,
        None,
        "timm",
        partial(timm, torch_name, dynamic_img_size=True),
        size=size,
        slow=slow,
    )
    for name, torch_name, size, slow in [
        ("vit_small", "vit_small_patch16_224", (64, 96), True),
        ("vit_small", "vit_small_patch16_224", (224, 224), True),
        ("vit_base", "vit_base_patch16_224", (256, 240), True),
        ("vit_large", "vit_large_patch16_224", (64, 96), True),
        ("vit_base_384", "vit_base_patch16_384", (384, 384), True),
        ("vit_large_384", "vit_large_patch16_384", (64, 96), True),
    ]
] + [
    # timm pads as well, if told to.
    Case(
        "vit_small",
        None,
        "timm",
        partial(
            timm, "vit_small_patch16_224", dynamic_img_size=True, dynamic_img_pad=True
        ),
        size=(97, 131),
    )
]
NARROW = {
    "decoder_intermediate_channels": (16, 24, 32, 48),
    "decoder_fusion_channels": 32,
}


def smp_case(name, size, slow=False, **options):
    make = partial(smp_dpt, f"{name}_patch16_224", **options)
    return Case(
        name, "dpt", "smp", make, like="smp", size=size, options=options, slow=slow
    )


def transformers_case(name, size, slow=False, channels=NARROW, **options):
    make = partial(
        transformers_dpt,
        neck_hidden_sizes=channels["decoder_intermediate_channels"],
        fusion_hidden_size=channels["decoder_fusion_channels"],
        **options,
    )
    like = "transformers"
    return Case(name, "dpt", like, make, like, size, options=channels, slow=slow)


SMALL = {"hidden_size": 384, "num_attention_heads": 6, "intermediate_size": 1536}
LARGE = {
    "hidden_size": 1024,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "intermediate_size": 4096,
    "backbone_out_indices": (5, 11, 17, 23),
}
WIDE = {
    "decoder_intermediate_channels": (256, 512, 1024, 1024),
    "decoder_fusion_channels": 256,
}
DPTS = [
    smp_case("vit_small", (64, 96), **NARROW),
    transformers_case("vit_small", (96, 96), True, image_size=224, **SMALL),
    smp_case("vit_small", (96, 64), True, decoder_readout="add", **NARROW),
    smp_case("vit_small", (64, 64), True, decoder_readout="ignore", **NARROW),
    smp_case("vit_base", (224, 224), True),
    smp_case("vit_large", (64, 64), True),
    transformers_case("vit_base_384", (128, 128), True),
    # Intel/dpt-large-ade
    transformers_case("vit_large_384", (384, 384), True, WIDE, **LARGE),
]
CASES = [*CLASSIFIERS, *DPTS]


@pytest.mark.parametrize("case", [c for c in CASES if not c.slow], ids=str)
def test_results(case):
    case.check()


@pytest.mark.slow
@pytest.mark.parametrize("case", [c for c in CASES if c.slow], ids=str)
def test_large(case):
    case.check()


@pytest.mark.slow
def test_gradient_of_the_image():
    DPTS[0].check_input_gradient()


@pytest.mark.slow
@pytest.mark.parametrize("case", [CLASSIFIERS[0], DPTS[0]], ids=str)
def test_initial_weights(case):
    assert_initial_spread(case)

"""UPerNet against SMP and transformers."""

from functools import partial

import jax
import numpy as np
import pytest

from segjax.weights import load_torch
from segjax.weights.files import read_file
from tests.parity.reference import (
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
STAGES = ["stage1", "stage2", "stage3", "stage4"]


def smp(name):
    package = require_parity("segmentation_models_pytorch")
    return package.UPerNet(name, encoder_weights=None, classes=5)


def transformers(backbone, width, **options):
    package = require_parity("transformers")
    config = package.UperNetConfig(
        backbone_config=getattr(package, f"{backbone}Config")(
            out_features=STAGES, **options
        ),
        num_labels=5,
        hidden_size=width,
    )
    return package.UperNetForSemanticSegmentation(config)


def smp_maps(model, x):
    _, *maps = model.encoder(to_nchw(x))
    return [to_nhwc(y) for y in maps if y.shape[1]]


def transformers_maps(model, x):
    return [to_nhwc(y) for y in model.backbone(to_nchw(x)).feature_maps]


def against_smp(encoder, name=None, **fields):
    make = partial(smp, name or encoder)
    return Case(encoder, "upernet", "smp", make, like="smp", pyramid=smp_maps, **fields)


def against_transformers(encoder, backbone, width=512, config=None, **fields):
    return Case(
        encoder,
        "upernet",
        "transformers",
        partial(transformers, backbone, width, **(config or {})),
        like="transformers",
        pyramid=transformers_maps,
        options={"auxiliary": True, "decoder_channels": width},
        idle=("auxiliary_head.*",),
        **fields,
    )


CONVNEXT = {"depths": [1, 2, 1, 1]}
SWIN = {"depths": (2, 2, 3, 2)}
CASES = [
    against_smp("resnet18"),
    against_smp("resnet50", size=(64, 96), slow=True),
    against_smp("convnext_tiny", "tu-convnext_tiny", slow=True),
    against_smp(
        "swin_t", "tu-swin_tiny_patch4_window7_224", size=(224, 224), slow=True
    ),
    against_transformers(
        "convnext_tiny",
        "ConvNext",
        32,
        {**CONVNEXT, "hidden_sizes": [16, 24, 32, 40]},
        fields={**CONVNEXT, "widths": (16, 24, 32, 40)},
        size=(97, 131),
    ),
    against_transformers(
        "swin_t",
        "Swin",
        32,
        {**SWIN, "embed_dim": 24, "window_size": 4},
        fields={**SWIN, "width": 24, "window": 4},
        size=(97, 131),
    ),
    against_transformers(
        "convnext_tiny",
        "ConvNext",
        config={"hidden_sizes": [96, 192, 384, 768]},  # the default's tuple fails
        slow=True,
    ),
    against_transformers("swin_t", "Swin", slow=True),
]


@pytest.mark.parametrize("case", [c for c in CASES if not c.slow], ids=str)
def test_results(case):
    case.check()


@pytest.mark.slow
@pytest.mark.parametrize("case", [c for c in CASES if c.slow], ids=str)
def test_large(case):
    case.check()


@pytest.mark.slow
def test_gradient_of_the_image():
    CASES[4].check_input_gradient((32, 40))


@pytest.mark.slow
def test_initial_weights():
    """The decoder's, which is SMP's."""
    assert_initial_spread(CASES[0])


def test_auxiliary_head():
    """Its logits, which only training uses, from the third map."""
    torch = require_parity("torch")
    case = CASES[4]
    reference = randomize(case.make())
    model = case.build()
    variables = load_torch(model, reference.state_dict())
    found = model.auxiliary.apply(
        {name: tree["auxiliary"] for name, tree in variables.items()},
        image(5, 7, channels=32),
        False,
    )
    with torch.no_grad():
        maps = [None, None, to_nchw(image(5, 7, channels=32)), None]
        wanted = to_nhwc(reference.auxiliary_head(maps))
    assert relative_error(found, wanted) <= 1e-4


def test_files_of_older_transformers(tmp_path):
    """Version 5 renamed Swin's modules, and still writes the old names."""
    case = CASES[5]
    reference = randomize(case.make())
    reference.save_pretrained(tmp_path)
    state = read_file(tmp_path / "model.safetensors")
    attention = "backbone.encoder.layers.0.blocks.0.attention.self"
    assert f"{attention}.query.bias" in state
    state[f"{attention}.relative_position_index"] = np.zeros((16, 16), np.int64)
    jax.tree.map(
        np.testing.assert_array_equal,
        load_torch(case.build(), state),
        load_torch(case.build(), reference.state_dict()),
    )

"""Mix Transformer and SegFormer against transformers and SMP."""

from functools import partial

import jax
import numpy as np
import pytest
from safetensors import safe_open

from segjax.models import build
from segjax.weights import load_torch
from tests.parity.reference import Case, randomize, to_nchw, to_nhwc
from tests.parity.spread import assert_initial_spread
from tests.requirements import require_parity

pytestmark = pytest.mark.parity

DEPTHS = {
    "mit_b0": (2, 2, 2, 2),
    "mit_b1": (2, 2, 2, 2),
    "mit_b2": (3, 4, 6, 3),
    "mit_b3": (3, 4, 18, 3),
    "mit_b4": (3, 8, 27, 3),
    "mit_b5": (3, 6, 40, 3),
}


def transformers(kind, name, **options):
    package = require_parity("transformers")
    small = name == "mit_b0"
    config = package.SegformerConfig(
        num_labels=5,
        hidden_sizes=(32, 64, 160, 256) if small else (64, 128, 320, 512),
        depths=DEPTHS[name],
        **options,
    )
    return getattr(package, f"SegformerFor{kind}")(config)


def smp(kind, name, **options):
    package = require_parity("segmentation_models_pytorch")
    return getattr(package, kind)(name, encoder_weights=None, classes=5, **options)


def transformers_maps(model, x):
    y = model.segformer(to_nchw(x), output_hidden_states=True)
    return [to_nhwc(state) for state in y.hidden_states]


def smp_maps(model, x):
    image, *maps = model.encoder(to_nchw(x))
    return [to_nhwc(y) for y in maps if y.shape[1]]


def at_full_size(model, x):
    resize = require_parity("torch").nn.functional.interpolate
    return resize(model(x).logits, x.shape[2:], mode="bilinear", align_corners=False)


CLASSIFIERS = [
    Case(
        name,
        None,
        "transformers",
        partial(transformers, "ImageClassification", name),
        like="transformers",
        size=(97, 131) if name == "mit_b0" else (64, 64),
        pyramid=transformers_maps,
        slow=True,
    )
    for name in DEPTHS
]
SEGFORMERS = [
    Case(
        name,
        "segformer",
        "smp",
        partial(smp, "Segformer", name),
        like="smp",
        pyramid=smp_maps,
        slow=name in ("mit_b2", "mit_b5"),
    )
    for name in ("mit_b0", "mit_b2", "mit_b5", "resnet18")
] + [
    Case(
        name,
        "segformer",
        "transformers",
        partial(transformers, "SemanticSegmentation", name, decoder_hidden_size=width),
        like="transformers",
        size=size,
        options={"decoder_segmentation_channels": width},
        forward=at_full_size,
        pyramid=transformers_maps,
        slow=width == 768,
    )
    for name, width, size in [("mit_b0", 256, (97, 131)), ("mit_b2", 768, (64, 96))]
]
UNET = Case(
    "mit_b0", "unet", "smp", partial(smp, "Unet", "mit_b0"), like="smp", slow=True
)
CASES = [*CLASSIFIERS, *SEGFORMERS, UNET]


@pytest.mark.parametrize("case", [c for c in CASES if not c.slow], ids=str)
def test_results(case):
    case.check()


@pytest.mark.slow
@pytest.mark.parametrize("case", [c for c in CASES if c.slow], ids=str)
def test_large(case):
    case.check()


@pytest.mark.slow
def test_gradient_of_the_image():
    SEGFORMERS[0].check_input_gradient()


@pytest.mark.slow
def test_initial_weights():
    assert_initial_spread(SEGFORMERS[0])


def test_files_of_older_transformers(tmp_path):
    """transformers renamed modules in version 5, and still writes the old names."""
    reference = randomize(transformers("SemanticSegmentation", "mit_b0"))
    reference.save_pretrained(tmp_path)
    path = tmp_path / "model.safetensors"
    with safe_open(path, "np") as file:
        assert "segformer.encoder.block.0.1.attention.self.query.bias" in file.keys()
    model = build("mit_b0", "segformer", 5, like="transformers")
    jax.tree.map(
        np.testing.assert_array_equal,
        load_torch(model, path),
        load_torch(model, reference.state_dict()),
    )

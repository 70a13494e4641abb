"""ConvNeXt against torchvision, timm and transformers."""

from functools import partial

import pytest

from tests.parity.reference import Case, to_nchw, to_nhwc
from tests.requirements import require_parity

pytestmark = pytest.mark.parity
NAMES = ("convnext_tiny", "convnext_small", "convnext_base", "convnext_large")
STAGES = tuple(f"features.{i}" for i in (1, 3, 5, 7))


def torchvision(name):
    return getattr(require_parity("torchvision").models, name)(num_classes=5)


def timm(name):
    return require_parity("timm").create_model(name, num_classes=5)


CASES = [
    Case(
        name,
        None,
        "torchvision",
        partial(torchvision, name),
        like="torchvision",
        size=size,
        pyramid=STAGES,
        slow=name != "convnext_tiny" and size != (32, 40),
    )
    for name, size in [
        ("convnext_tiny", (97, 131)),
        *((name, (64, 64)) for name in NAMES),
    ]
] + [
    Case(
        "convnext_tiny",
        None,
        "timm",
        partial(timm, "convnext_tiny"),
        like="timm",
        size=(45, 70),
        pyramid=tuple(f"stages.{i}" for i in range(4)),
    )
]


@pytest.mark.parametrize("case", [c for c in CASES if not c.slow], ids=str)
def test_classifiers(case):
    case.check()


@pytest.mark.slow
@pytest.mark.parametrize("case", [c for c in CASES if c.slow], ids=str)
def test_large_classifiers(case):
    case.check()

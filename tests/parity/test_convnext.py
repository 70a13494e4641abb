"""ConvNeXt against torchvision and timm."""

import dataclasses
from functools import partial

import pytest

from tests.parity.reference import Case
from tests.parity.spread import assert_initial_spread
from tests.requirements import require_parity

pytestmark = pytest.mark.parity
TINY = {"dims": (16, 24, 32, 40), "depths": (1, 2, 3, 1)}


def torchvision(name):
    return getattr(require_parity("torchvision").models, name)(num_classes=5)


def shallow(depths):
    package = require_parity("torchvision").models.convnext
    widths = (96, 192, 384, 768, None)
    stages = zip(widths, widths[1:], depths, strict=False)
    return package.ConvNeXt([package.CNBlockConfig(*s) for s in stages], num_classes=5)


def timm(name, **options):
    return require_parity("timm").create_model(name, num_classes=5, **options)


CASES = [
    *(
        Case(
            name,
            None,
            "torchvision",
            partial(torchvision, name),
            like="torchvision",
            naming="torchvision",
            size=size,
            pyramid=tuple(f"features.{i}" for i in (1, 3, 5, 7)),
            slow=name != "convnext_tiny",
        )
        for name, size in [
            ("convnext_tiny", (97, 131)),  # sizes that the patches do not divide
            ("convnext_small", (64, 64)),
            ("convnext_base", (64, 64)),
            ("convnext_large", (64, 64)),
        ]
    ),
    Case(
        "convnext_tiny",
        None,
        "timm",
        partial(timm, "convnext_tiny", **TINY),
        like="timm",
        size=(45, 70),
        slow=True,
        fields={"widths": TINY["dims"], "depths": TINY["depths"]},
        pyramid=tuple(f"stages.{i}" for i in range(4)),
    ),
]


@pytest.mark.parametrize("case", [c for c in CASES if not c.slow], ids=str)
def test_classifiers(case):
    case.check()


@pytest.mark.slow
@pytest.mark.parametrize("case", [c for c in CASES if c.slow], ids=str)
def test_large_classifiers(case):
    case.check()


@pytest.mark.slow
def test_initial_weights():
    depths = (1, 1, 3, 2)
    case = dataclasses.replace(
        CASES[0], make=partial(shallow, depths), fields={"depths": depths}
    )
    assert_initial_spread(case)

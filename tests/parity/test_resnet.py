"""ResNet classifiers against torchvision."""

import pytest

from tests.parity.reference import Case
from tests.requirements import require_parity


def classifier(name):
    def make():
        models = require_parity("torchvision").models
        return getattr(models, name)(weights=None, num_classes=5)

    return make


STAGES = ("relu", "layer1", "layer2", "layer3", "layer4")
CASES = [
    Case(
        name,
        None,
        "torchvision",
        classifier(name),
        size=size,
        pyramid=STAGES,
        slow=name != "resnet18",
    )
    for name, size in [
        ("resnet18", (97, 131)),
        ("resnet34", (64, 64)),
        ("resnet50", (64, 64)),
        ("resnet101", (64, 64)),
        ("resnet152", (64, 64)),
    ]
]


@pytest.mark.parity
@pytest.mark.parametrize("case", [c for c in CASES if not c.slow], ids=str)
def test_classifiers(case):
    case.check()


@pytest.mark.parity
@pytest.mark.slow
@pytest.mark.parametrize("case", [c for c in CASES if c.slow], ids=str)
def test_large_classifiers(case):
    case.check()

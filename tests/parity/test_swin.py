"""Swin Transformer against torchvision and timm."""

import dataclasses
from functools import partial

import pytest

from tests.parity.reference import Case, to_nchw
from tests.parity.spread import assert_initial_spread
from tests.requirements import require_parity

pytestmark = pytest.mark.parity
TINY = {"depths": (2, 2, 2, 3), "heads": (1, 2, 2, 4), "window": 4}


def torchvision(name):
    return getattr(require_parity("torchvision").models, name)(num_classes=5)


def tiny(width=16, depths=TINY["depths"], heads=TINY["heads"], window=TINY["window"]):
    return require_parity("torchvision").models.SwinTransformer(
        patch_size=[4, 4],
        embed_dim=width,
        depths=list(depths),
        num_heads=list(heads),
        window_size=[window, window],
        num_classes=5,
    )


def timm(name):
    return require_parity("timm").create_model(name, num_classes=5)


def stages(model, x):
    """Outputs of torchvision's stages, which have the channels last."""
    y, maps = to_nchw(x), []
    for i, stage in enumerate(model.features):
        y = stage(y)
        if i % 2:
            maps.append(y.numpy())
    return maps


against_torchvision = partial(
    Case,
    decoder=None,
    package="torchvision",
    like="torchvision",
    pyramid=stages,
    naming="torchvision",
)
# Windows hang over the edge, lie in it, and cover maps in both directions or in one.
CASES = [
    *(
        against_torchvision(name, make=partial(torchvision, name), size=size, slow=slow)
        for name, size, slow in [
            ("swin_t", (97, 131), False),
            ("swin_t", (64, 64), True),
            ("swin_s", (240, 97), True),
            ("swin_b", (64, 96), True),
        ]
    ),
    against_torchvision(
        "swin_t", make=tiny, size=(66, 91), fields={"width": 16, **TINY}, slow=True
    ),
    Case(
        "swin_t",
        None,
        "timm",
        partial(timm, "swin_tiny_patch4_window7_224"),
        like="timm",
        size=(224, 224),  # timm's windows shrink in smaller images
        slow=True,
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
    wide = {**TINY, "width": 96, "depths": (1, 1, 2, 1)}
    case = dataclasses.replace(CASES[0], make=partial(tiny, **wide), fields=wide)
    assert_initial_spread(case)

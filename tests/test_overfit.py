"""A network that works learns two images by heart."""

from functools import partial

import pytest

from benchmarks import overfit
from segjax import config as configs
from segjax import setup
from segjax.models import encoders
from tests.models.families import SMALL
from tests.requirements import require_data
from tests.test_train import QUICK

# docs/results/overfit.json has every decoder and every family, at their full widths.
QUICK_PAIRS = (
    ("resnet18", "fcn32s"),
    ("resnet18", "fcn16s"),
    ("resnet18", "fcn8s"),
    ("resnet18", "pspnet"),
    ("vgg11", "lraspp"),
)


@pytest.mark.parametrize("encoder, decoder", QUICK_PAIRS)
def test_two_scenes_are_learnt_by_heart(encoder, decoder, monkeypatch):
    wide = getattr(encoders, encoder)
    given = zip(wide.func.__dataclass_fields__, wide.args, strict=False)
    narrow = {**dict(given), **wide.keywords, **SMALL[encoder]}
    monkeypatch.setattr(encoders, encoder, partial(wide.func, **narrow))
    row = overfit.attempt(encoder, decoder, 80, "optim.lr=1e-2")
    assert row["miou"] > overfit.WANTED, row


@pytest.mark.slow  # 2 to 3 minutes; recorded in README.md
def test_two_camvid_images_are_learnt_by_heart():
    root = require_data("CamVid")
    config = configs.load(
        str(QUICK),
        [
            "--config.data.name=camvid",
            f"--config.data.root={root}",
            "--config.data.image_size=(48, 64)",
            "--config.data.batch_size=2",
            "--config.augment.flip=0.0",
            "--config.optim.lr=3e-3",
            "--config.optim.schedule=one_cycle",
            "--config.optim.weight_decay=0.0",
            "--config.steps=400",
        ],
    )
    source = setup.open_split(config, "train")
    summary = overfit.learn(config, overfit.Two(source))
    assert summary["miou"] > 0.95, summary

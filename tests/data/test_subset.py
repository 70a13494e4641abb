"""Some examples of a source, evenly spaced."""

import numpy as np
import pytest

from segjax import config as configs
from segjax import setup
from segjax.data.shapes import Shapes
from segjax.data.subset import Subset

QUICK = "configs/resnet_unet.py"


def test_a_subset_is_evenly_spaced_and_otherwise_the_source():
    source = Shapes("train", train_examples=11, image_size=(16, 24))
    found = Subset(source, 4)
    assert found.indices == [0, 2, 5, 8] and len(found) == 4
    assert list(found.ids()) == [source.ids()[i] for i in (0, 2, 5, 8)]
    assert (found.spec, found.channels) == (source.spec, source.channels)
    assert found.size(1) == (16, 24)
    np.testing.assert_array_equal(found[2]["image"], source[5]["image"])
    assert Subset(source, 11).indices == list(range(11))


@pytest.mark.parametrize("count", [0, 12])
def test_more_than_there_is_is_an_error(count):
    source = Shapes("train", train_examples=11, image_size=(16, 24))
    with pytest.raises(ValueError, match=f"subset={count}, but the split has 11"):
        Subset(source, count)


def test_only_training_sees_the_subset():
    config = configs.load(QUICK, ["--config.data.subset=5"])
    config.data.shapes.train_examples = 20
    assert len(setup.open_split(config, "train")) == 5
    assert len(setup.open_split(config, "val")) == 200
    with pytest.raises(ValueError, match=r"data\.subset=0 must be positive"):
        configs.load(QUICK, ["--config.data.subset=0"])

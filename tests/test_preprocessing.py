"""What stands between a file and the network, for any number of channels."""

import json

import pytest

from segjax import config as configs
from segjax.preprocessing import IMAGENET_MEAN, IMAGENET_STD, preprocessing


def made(channels, **data):
    config = configs.default()
    for key, value in data.items():
        config.data[key] = value
    return preprocessing(config, channels)


def test_colours_have_imagenets_range_and_other_bands_the_middle():
    rgb = made(3)
    assert (rgb.mean, rgb.std) == (IMAGENET_MEAN, IMAGENET_STD)
    for channels in (1, 4, 7):
        other = made(channels)
        assert other.mean == (0.5,) * channels and other.std == (0.25,) * channels


def test_what_the_config_gives_is_taken_for_one_or_for_every_channel():
    assert made(5, mean=0.1, std=(0.2,)).mean == (0.1,) * 5
    assert made(5, mean=0.1, std=(0.2,)).std == (0.2,) * 5
    assert made(2, mean=(0.1, 0.3)).mean == (0.1, 0.3)
    with pytest.raises(ValueError, match="data.mean has 3 values, .* have 5 channels"):
        made(5, mean=(0.1, 0.2, 0.3))


def test_it_survives_json():
    pre = made(4, image_size=(48, 64), fit="pad")
    assert type(pre).from_dict(json.loads(json.dumps(pre.to_dict()))) == pre
    assert pre.image_size == (48, 64)

"""Classes proposed from masks: what it says is what classes.json then reads."""

import json

import numpy as np
import pytest
from PIL import Image

from segjax.data.classes import parse_classes
from segjax.data.files import read_mask
from segjax.data.proposal import MOST, propose

RED, BLUE, GREY = (200, 0, 0), (0, 0, 90), (128, 128, 128)


def saved(folder, *arrays, ending="png"):
    paths = []
    for place, array in enumerate(arrays):
        path = folder / f"{place}.{ending}"
        Image.fromarray(np.asarray(array, np.uint8)).save(path)
        paths.append(path)
    return paths


def painted(*rows):
    return np.array([[color] * 4 for color in rows], np.uint8)


def test_colours_come_by_their_share_and_read_the_masks(tmp_path):
    masks = saved(tmp_path, painted(RED, BLUE, BLUE), painted(BLUE, GREY, GREY))
    found = propose(masks)
    assert found.about == (
        "3 colours in 2 of 2 masks: class0 50.0 %, class1 33.3 %, class2 16.7 %"
    )
    entries = json.loads(found.text)
    assert [tuple(e["color"]) for e in entries] == [BLUE, GREY, RED]
    assert [e["name"] for e in entries] == ["class0", "class1", "class2"]
    _, colors = parse_classes(entries)
    assert read_mask(masks[0], colors)[:, 0].tolist() == [2, 0, 0]


@pytest.mark.parametrize("as_rgb", [False, True])
def test_ids_keep_their_order_and_255_is_ignored(tmp_path, as_rgb):
    ids = np.array([[7, 0, 255], [3, 3, 3]])
    found = propose(saved(tmp_path, np.stack([ids] * 3, -1) if as_rgb else ids))
    assert [e["id"] for e in json.loads(found.text)] == [0, 3, 7]
    assert "4 ids in 1 of 1 masks (255 is ignored): class0 16.7 %" in found.about


def test_black_and_white_are_two_classes(tmp_path):
    found = propose(saved(tmp_path, [[0, 255, 255]]))
    assert [e["id"] for e in json.loads(found.text)] == [0, 255]


def test_a_palette_holds_ids_or_as_asked_colours(tmp_path):
    picture = Image.fromarray(np.array([[0, 1, 1]], np.uint8), "P")
    picture.putpalette([*RED, *BLUE])
    picture.save(tmp_path / "a.png")
    ids, colors = (
        json.loads(propose([tmp_path / "a.png"], values).text)
        for values in ("auto", "colors")
    )
    assert [e["id"] for e in ids] == [0, 1]
    assert [tuple(e["color"]) for e in colors] == [BLUE, RED]


def test_what_holds_no_classes_is_told(tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (20, 20, 3))
    found = propose(saved(tmp_path, noise))
    assert found.text == "" and "are masks smoothed?" in found.about
    assert int(found.about.split()[0]) > MOST
    both = saved(tmp_path, [[0, 1]], painted(RED))
    assert propose(both).about.endswith("some hold ids, others colours")
    both[0].write_bytes(b"no picture")
    assert propose(both).about.startswith("1 colours in 1 of 2 masks")
    assert propose(both[:1]).about == "no mask could be read"

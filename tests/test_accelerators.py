"""The configs for accelerators: they load, build, step in shape and read their data."""

import json
import re

import jax
import numpy as np
import pytest
from PIL import Image

from benchmarks import accelerators, record
from segjax import plan, setup
from segjax.batch import IGNORE
from segjax.data import catalog

CASES = accelerators.CASES


def save(path, array, palette=None):
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(array)
    if palette is not None:
        image.putpalette(palette)
    image.save(path)


def cityscapes(root):
    """Published names; the ids of classes, of void and 255."""
    ids = np.array([[7, 8, 33, 0], [1, 26, 29, 255]], np.uint8)
    for split, city in (("train", "aachen"), ("val", "lindau")):
        name = f"{city}/{city}_000000_000019"
        image = np.zeros((*ids.shape, 3), np.uint8)
        save(root / f"leftImg8bit/{split}/{name}_leftImg8bit.png", image)
        save(root / f"gtFine/{split}/{name}_gtFine_labelIds.png", ids)
        # What lies beside them and is no mask of ours.
        save(root / f"gtFine/{split}/{name}_gtFine_instanceIds.png", ids)
        save(root / f"gtFine/{split}/{name}_gtFine_color.png", image)
    return [[0, 1, 18, IGNORE], [IGNORE, 13, IGNORE, IGNORE]]


def ade20k(root):
    """The archive's lists lie in its root; sceneCategories.txt begins with an image."""
    ids = np.array([[0, 1, 2, 3], [150, 150, 6, 0]], np.uint8)
    for split, name in (
        ("training", "ADE_train_00000001"),
        ("validation", "ADE_val_00000001"),
    ):
        save(root / f"images/{split}/{name}.jpg", np.zeros((*ids.shape, 3), np.uint8))
        save(root / f"annotations/{split}/{name}.png", ids)
    (root / "sceneCategories.txt").write_text("ADE_train_00000001 airport_terminal\n")
    (root / "objectInfo150.txt").write_text("Idx\tRatio\tTrain\tVal\tStuff\tName\n")
    return [[IGNORE, 0, 1, 2], [149, 149, 5, IGNORE]]


def voc(root):
    """Palette files whose indices are the ids; more images than have masks."""
    ids = np.array([[0, 15, 255, 20], [1, 1, 255, 0]], np.uint8)
    palette = np.zeros((256, 3), np.uint8)
    palette[:21] = catalog.CLASSES["voc"].palette
    palette[255] = (224, 224, 192)
    lists = {"trainaug": "2007_000032", "val": "2007_000033"}
    for split in (*lists, "sbdtrain", "seg11valid"):
        name = lists.get(split, f"2008_{split}")
        save(root / f"JPEGImages/{name}.jpg", np.zeros((*ids.shape, 3), np.uint8))
        save(root / f"SegmentationClassAug/{name}.png", ids, palette.tobytes())
        path = root / f"ImageSets/Segmentation/{split}.txt"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{name}\n")
    save(root / "JPEGImages/2012_004331.jpg", np.zeros((5, 5, 3), np.uint8))
    return ids.tolist()


TREES = {"cityscapes": cityscapes, "ade20k": ade20k, "voc": voc}


@pytest.mark.parametrize("name", CASES)
def test_a_config_reads_its_data_as_it_is_published(name, tmp_path):
    expected = TREES[name.split("_")[0]](tmp_path)
    config = accelerators.load(name)
    config.data.root, config.data.cache_gb = str(tmp_path), 0.0
    for split in (config.data.train_split, config.data.eval_split):
        source = setup.open_split(config, split)
        assert len(source) == 1
        assert source.spec.num_classes == CASES[name].classes
        np.testing.assert_array_equal(source[0]["label"], expected)
    config.data.batch_size = 2
    batch = next(setup.train_batches(config, source, 0))
    buffer = setup.train_buffer(config, source)
    assert batch["image"].shape == (2, *buffer, 3)
    np.testing.assert_array_equal(batch["label"][1][:2, :4], expected)
    assert (batch["label"][:, 2:] == IGNORE).all()


def test_the_cityscapes_classes_are_those_that_are_evaluated():
    # trainId of each id, from cityscapesScripts' helpers/labels.py.
    trained = [7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33]
    table = catalog.CLASSES["cityscapes"].lookup()
    assert [table[i] for i in trained] == list(range(19))
    assert all(table[i] == IGNORE for i in range(34) if i not in trained)
    assert (table[34:255] == -1).all()


def parts_of(name):
    """Network, state and optimizer of a config, in shape."""
    config, case = accelerators.load(name), CASES[name]
    config.steps, config.epochs = setup.num_steps(config, case.examples), None
    data = plan.describe_data(config, case.classes)
    mesh = setup.make_mesh(config, jax.devices()[:1])
    pre = plan.preprocessing(config, data.channels)
    parts = setup.assemble(config, data.spec, pre, mesh)
    tx, _ = setup.make_tx(config, config.steps)
    # With the optimizer's state, whose patterns of rates all match a parameter.
    return parts, data, tx, parts.abstract_state(tx)


@pytest.mark.parametrize("name", CASES)
def test_a_config_builds(name):
    parts, _, _, state = parts_of(name)
    assert ("auxiliary" in state.params) == parts.config.model.auxiliary
    assert parts.model.num_classes == CASES[name].classes


# The record shows of all of them that the step compiles; its trace takes 2 to 13 s.
QUICK = ("voc_fcn8s_vgg16",)
STEPS = [n if n in QUICK else pytest.param(n, marks=pytest.mark.slow) for n in CASES]


@pytest.mark.parametrize("name", STEPS)
def test_a_config_steps_in_shape(name):
    parts, data, tx, state = parts_of(name)
    batch = plan.abstract_batch(
        parts.config, data, parts.pre, parts.mesh, parts.config.data.batch_size
    )
    where = jax.tree.map(lambda leaf: leaf.sharding, state)
    after, metrics = jax.eval_shape(parts.train_step(tx, where), state, batch)
    assert jax.tree.map(np.shape, after) == jax.tree.map(np.shape, state)
    classes = CASES[name].classes
    assert metrics["confusion"].shape == (classes, classes)


@pytest.mark.parametrize("name", CASES)
def test_a_config_says_that_it_was_not_run_and_what_to_expect(name):
    text = (record.ROOT / "configs" / f"{name}.py").read_text()
    words = " ".join(text.split('"""')[1].split())
    assert "Not run here." in words and "Ours: not measured." in words
    assert f"--config configs/{name}.py" in words
    expected = CASES[name].expected
    if expected is None:
        assert "no published number" in words
    else:
        assert f"{expected:.2f}" in words or f" {expected:g} " in words


def test_the_page_repeats_the_record():
    content = record.read(accelerators.RECORD)
    assert accelerators.PAGE.read_text() == accelerators.render(content)
    for name, row in content["rows"].items():
        config, case = accelerators.load(name), CASES[name]
        assert row["steps"] == setup.num_steps(config, case.examples)
        assert row["batch_size"] == config.data.batch_size
        assert row["command"] == accelerators.command(name, case)
        hours = row["steps"] * row["estimated_seconds"] / 3600
        assert row["hours"] == pytest.approx(hours)
        assert hours <= row["hours_at_most"]
        assert not re.search(r"\+$", row["commit"])


def test_a_page_says_what_does_not_fit_and_what_was_not_planned():
    row = {
        **{"topology": "v5e:2x4", "chips": 8, "hbm_bytes": 2**34, "batch_size": 16},
        **{"image_size": [512, 512], "steps": 20000, "peak_bytes": 2**35},
        **{"fits": False, "lower_bound": True, "estimated_seconds": 0.18},
        **{"estimated_mfu": 0.25, "hours": 1.0, "hours_at_most": 1.5, "commit": "abc"},
    }
    content = {"rows": {"voc_deeplabv3_r101": row}, "command": accelerators.COMMAND}
    content["environment"] = json.loads(
        (record.ROOT / "docs/results/speed_plans.json").read_text()
    )["environment"]
    page = accelerators.render(content)
    (line,) = [x for x in page.splitlines() if x.startswith("| [voc_deeplabv3_r101]")]
    assert "32.0 of 16 GiB, **too much**" in line and "at least 180 ms" in line
    assert "at least 1.0, at most 1.5 | 8 |" in line
    assert page.count("not planned") == len(CASES) - 1

"""The card: every part of a protocol changes its id; a name is only for its own."""

import dataclasses
import json
from types import SimpleNamespace

import pytest

from segjax import card
from segjax import config as configs
from segjax.batch import ClassSpec, LabelSpec
from segjax.data import camvid, open_source
from segjax.preprocessing import Preprocessing
from segjax.views import Recipe
from tests.requirements import require_data


def source(*ids):
    return SimpleNamespace(ids=lambda: ids, __len__=lambda self: len(ids))


SPEC = LabelSpec(("a", "b"), ((0, 0, 0), (9, 9, 9)), ignore=(7,))
PRE = Preprocessing(3, (360, 480), "resize", (0.5,), (0.25,))
ENVIRONMENT = {
    "versions": {"jax": "0.10.2", "python": "3.11"},
    "git": {"commit": "abc", "dirty": False},
    "platform": {"devices": 1},
}
ORIGIN = {
    "train": {"name": "shapes", "split": "train", "examples": 3, "ids": "12"},
    "selection": {"name": "shapes", "split": "val", "examples": 2, "ids": "34"},
    "pretrained": {"name": "package:mobilenet-v2"},
}


def inputs(**changed):
    config = configs.default()
    config.seed = changed.pop("seed", 0)
    config.task = changed.pop("task", "segmentation")
    config.data.name = changed.pop("name", "shapes")
    return {
        "config": config,
        "split": "val",
        "source": source("x", "y"),
        "spec": SPEC,
        "preprocessing": PRE.to_dict(),
        "sizes": [(360, 480), (360, 480)],
        "origin": ORIGIN,
        "checkpoint": "best",
        "recipe": Recipe(),
        "environment": ENVIRONMENT,
    } | changed


def spec(**changed):
    return {"spec": dataclasses.replace(SPEC, **changed)}


def pre(**changed):
    return {"preprocessing": PRE.to_dict() | changed}


def origin(**changed):
    return {"origin": ORIGIN | changed}


CHANGES = {
    "task": {"task": "classification"},
    "dataset": {"name": "folder"},
    "file list": {"source": source("x", "z")},
    "fewer files": {"source": source("x")},
    "split": {"split": "test"},
    "class names": spec(names=("a", "c")),
    "ignored ids": spec(ignore=()),
    "remap": spec(remap=((3, 1),)),
    "input size": pre(image_size=[180, 240]),
    "fit": pre(fit="pad"),
    "mean": pre(mean=[0.4]),
    "std": pre(std=[0.5]),
    "channels": pre(channels=5),
    "label size": {"sizes": [(360, 480), (720, 960)]},
    "train set": origin(train=ORIGIN["train"] | {"ids": "13"}),
    "train set unknown": origin(train="unknown"),
    "pretraining": origin(pretrained=None),
    "pretraining's content": origin(pretrained={"file": "a.pth", "sha256": "1"}),
    "selection rule": {"checkpoint": "latest"},
    "selected step": {"checkpoint": "100"},
    "selection split": origin(selection=ORIGIN["selection"] | {"split": "test"}),
    "windows": {"recipe": Recipe(mode="slide")},
    "scales": {"recipe": Recipe(scales=(0.5, 1.0))},
    "flip": {"recipe": Recipe(flip=True)},
    "padding": {"recipe": Recipe(bucket=64)},
    "another network than trained": {"changed": {"model.output_stride": 8}},
    "seed": {"seed": 1},
    "commit": {"environment": ENVIRONMENT | {"git": {"commit": "d", "dirty": False}}},
    "dirty": {"environment": ENVIRONMENT | {"git": {"commit": "abc", "dirty": True}}},
    "versions": {"environment": ENVIRONMENT | {"versions": {"jax": "0.11.0"}}},
}


def test_each_part_changes_the_id():
    ids = {name: card.protocol(**inputs(**c))["id"] for name, c in CHANGES.items()}
    ids["nothing"] = card.protocol(**inputs())["id"]
    assert len(set(ids.values())) == len(CHANGES) + 1
    assert card.protocol(**inputs())["id"] == ids["nothing"]
    json.dumps(card.protocol(**inputs()), allow_nan=False)


@pytest.mark.parametrize("knob", ["window", "overlap", "margin"])
def test_windows_knobs_are_parts_where_there_are_windows(knob):
    value = {"window": (64, 64), "overlap": 0.25, "margin": 4}[knob]
    ids = {
        mode: [
            card.protocol(**inputs(recipe=recipe))["id"]
            for recipe in (Recipe(mode=mode), Recipe(mode=mode, **{knob: value}))
        ]
        for mode in ("whole", "slide")
    }
    assert ids["whole"][0] == ids["whole"][1]
    assert ids["slide"][0] != ids["slide"][1]


def test_padded_sizes_are_parts_where_images_are_seen_whole():
    def inference(mode="whole", fit="pad", programs=1):
        config = inputs()["config"].copy_and_resolve_references()
        config.eval.programs = programs
        changes = {"sizes": [(20, 30), (360, 480)], "config": config}
        seen = inputs()["preprocessing"] | {"fit": fit}
        changes |= {"preprocessing": seen, "recipe": Recipe(mode=mode)}
        return card.protocol(**inputs(**changes))["inference"]

    assert inference()["padded_to"] == ["384x480"]
    assert inference(programs=2)["padded_to"] == ["32x32", "384x480"]
    for other in (inference("slide"), inference(fit="resize")):
        assert "padded_to" not in other


def test_what_does_not_matter_does_not_change_the_id():
    same = card.protocol(**inputs())["id"]
    for change in (
        {"source": source("y", "x")},
        spec(palette=((1, 1, 1), (2, 2, 2))),
        {"recipe": Recipe(batch_size=8)},
        {"environment": ENVIRONMENT | {"platform": {"devices": 8}}},
    ):
        assert card.protocol(**inputs(**change))["id"] == same


def test_what_the_network_sees_is_told():
    assert card.protocol(**inputs())["input"]["sizes"] == "360x480"
    sizes = [(200, 300), (100, 400)]
    parts = card.protocol(**inputs(**pre(fit="pad"), sizes=sizes))
    assert parts["input"]["sizes"] == "100x300 to 200x400"
    assert parts["labels"]["sizes"] == "100x300 to 200x400"


def test_a_classifiers_card_has_its_crop_and_no_labels():
    config = configs.default()
    config.task = "classification"
    spec = ClassSpec(("a", "b"))
    given = inputs(config=config, spec=spec, sizes=[], recipe=None)
    parts = card.protocol(**given)
    assert parts["task"] == "classification" and parts["labels"] is None
    assert parts["inference"] == {"crop": config.eval.crop}
    config.eval.crop = 0.5
    assert card.protocol(**given)["id"] != parts["id"]


def test_an_origin_is_written_once_and_read(tmp_path):
    config = configs.default()
    assert card.read_origin(tmp_path)["train"] == "unknown"
    weights = tmp_path / "w.pth"
    weights.write_bytes(b"abc")
    config.model.pretrained = str(weights)
    card.save_origin(tmp_path, config, source("b", "a"), source("c"))
    written = card.read_origin(tmp_path)
    assert written["train"] == {
        "name": "shapes",
        "split": "train",
        "examples": 2,
        "ids": card.digest(["a", "b"]),
    }
    assert written["selection"]["split"] == "val"
    # sha256 of "abc", FIPS 180-2.
    assert written["pretrained"] == {"file": "w.pth", "sha256": "ba7816bf8f01cfea"}
    card.save_origin(tmp_path, config, source("other"), source("c"))
    assert card.read_origin(tmp_path) == written


def test_a_run_that_starts_another_is_known_by_its_config(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    one = card.pretrained_card(str(tmp_path))
    assert one == {"run": card.digest({}), "step": None, "origin": None}
    (tmp_path / "config.json").write_text('{"seed": 1}')
    assert card.pretrained_card(str(tmp_path)) != one
    for step in ("100", "200"):
        (tmp_path / "checkpoints" / step / "default").mkdir(parents=True)
    assert "run" in card.pretrained_card(str(tmp_path / "checkpoints"))
    # Of one run, but other weights.
    steps = [tmp_path / "checkpoints" / step for step in ("100", "200")]
    assert [card.pretrained_card(str(s))["step"] for s in steps] == [100, 200]
    assert card.pretrained_card(str(tmp_path))["step"] == 200
    assert card.pretrained_card("package:x") == {"name": "package:x"}
    assert card.pretrained_card(None) is None


def camvid_inputs(**changed):
    """As the protocol wants it, with the published list of test images."""
    ids = [f"0001TP_{i:06}" for i in range(8550, 10381, 30)]
    ids += [f"Seq05VD_f{i:05}" for i in range(0, 5101, 30)]
    fixed = card.PROTOCOLS["camvid11_360x480_train367"]
    train = {"name": "camvid", "examples": 367, "ids": fixed["train.ids"]}
    selection = {"name": "camvid", "split": "val", "ids": fixed["selection.ids"]}
    config = configs.default()
    config.data.name = "camvid"
    whole = {"train": train, "selection": selection, "pretrained": None}
    given = {
        "config": config,
        "split": "test",
        "source": source(*ids),
        "spec": camvid.SPEC,
        "sizes": [(360, 480)] * len(ids),
    }
    origin = whole | changed.pop("origin", {})
    return inputs(**given | changed, origin=origin)


def test_a_named_protocol_is_met():
    parts = card.protocol(**camvid_inputs())
    card.check_protocol("camvid11_360x480_train367", parts)
    card.check_protocol("camvid11_360x480_train367_scratch", parts)


@pytest.mark.parametrize(
    "changed, message",
    [
        ({"split": "val"}, r"data\.split is 'val' here, but 'test'"),
        ({"source": source("x")}, r"data\.examples is 1 here, but 233"),
        ({"spec": SPEC}, r"classes\.sha256"),
        ({"sizes": [(720, 960)]}, r"labels\.sizes is '720x960' here, but '360x480'"),
        (pre(image_size=[180, 240]), r"input\.sizes is '180x240' here"),
        ({"checkpoint": "latest"}, r"selection\.rule is 'latest' here, but 'best'"),
        ({"recipe": Recipe(flip=True)}, r"inference\.flip is True here, but False"),
        ({"recipe": Recipe(scales=(0.5,))}, r"scales is \[0\.5\] here, but \[1\.0\]"),
        ({"recipe": Recipe("slide")}, r"inference\.mode is 'slide' here"),
        ({"origin": {"train": "unknown"}}, r"train\.name is 'unknown' here"),
        (
            {"origin": {"train": {"name": "camvid", "examples": 468, "ids": "1"}}},
            r"train\.examples is 468 here, but 367",
        ),
        (
            {"origin": {"selection": {"split": "test", "ids": "1"}}},
            r"selection\.split is 'test' here, but 'val'",
        ),
    ],
)
def test_a_part_that_differs_is_named(changed, message):
    parts = card.protocol(**camvid_inputs(**changed))
    with pytest.raises(ValueError, match=message) as error:
        card.check_protocol("camvid11_360x480_train367", parts)
    assert "\n" not in str(error.value)


def test_scratch_means_from_nothing():
    parts = card.protocol(**camvid_inputs(origin={"pretrained": {"name": "package:x"}}))
    card.check_protocol("camvid11_360x480_train367", parts)
    with pytest.raises(ValueError, match=r"pretrained is \{'name'.*but None"):
        card.check_protocol("camvid11_360x480_train367_scratch", parts)


def test_an_unknown_name_suggests_the_nearest():
    with pytest.raises(ValueError, match="did you mean camvid11_360x480_train367"):
        card.check_protocol("camvid11_360x480", card.protocol(**inputs()))


def test_the_named_lists_are_those_of_the_files():
    root = require_data("CamVid")
    fixed = card.PROTOCOLS["camvid11_360x480_train367"]
    for split, part in (("train", "train"), ("val", "selection")):
        found = card.split_card(
            "camvid", split, open_source("camvid", split, root=root)
        )
        assert found["ids"] == fixed[f"{part}.ids"]

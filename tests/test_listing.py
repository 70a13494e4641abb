"""Listings say what the registries and the config hold."""

import inspect
import json
import re
import subprocess
import sys

import pytest

from segjax import config, listing, losses
from segjax.data import NAMES
from segjax.main import main
from segjax.models import build, decoders, defaults_of, encoders, names


def test_the_catalogue_has_every_name_with_what_decides_on_pairs():
    known = listing.catalogue()
    for kind, package in (("encoders", encoders), ("decoders", decoders)):
        assert sorted(known[kind]) == names()[kind]
        for name, facts in known[kind].items():
            made = getattr(package, name).func
            if kind == "encoders":
                assert facts["strides"] == list(made.strides), name
                assert facts["provides"] == list(getattr(made, "provides", ()))
            else:
                assert facts["needs"] == getattr(made, "needs", None)
                own = json.loads(json.dumps(defaults_of(name)))
                assert facts["options"] == own, name


def test_models_are_filtered_and_impossible_pairs_named():
    shown = listing.models("resnet5")
    listed = set(re.findall(r"(?m)^  (\w+) +\d", shown))
    assert listed == {"resnet50", "wide_resnet50_2"}
    assert "23.51 M" in shown and "Decoders" not in shown
    # Told of both sides: the encoders that cannot, the decoder that only can with some.
    assert "dpt needs tokens: only with vit_small" in " ".join(shown.split())
    assert listing.models("vit_base*").count("needs") == 2  # segnet, segnet_basic
    assert listing.models("unet").count("needs") == 0
    told = listing.models("deeplabv3")
    flag = "--config.model.decoder_options"
    assert f"deeplabv3: {flag}.decoder_channels=256\n" in told
    assert f"deeplabv3plus: {flag}.decoder_atrous_rates=(12, 24, 36)\n" in told
    for encoder, decoder in (("resnet50", "dpt"), ("vit_base", "segnet")):
        with pytest.raises(ValueError, match="needs"):
            build(encoder, decoder, 2)
    with pytest.raises(ValueError, match="did you mean resnet50"):
        listing.models("rensnet50")


def test_every_loss_is_told_with_its_options_and_defaults():
    shown = listing.losses()
    parts = dict(re.findall(r"(?m)^(\w+)\n((?:  .*\n)+)", shown + "\n"))
    assert set(parts) == set(losses.LOSSES)
    for name, function in losses.LOSSES.items():
        told = dict(re.findall(r"--config\.loss\.(\w+)=(\S+)", parts[name]))
        assert set(told) == set(losses.OPTIONS[name])
        for key, value in told.items():
            default = inspect.signature(function).parameters[key].default
            assert value == str(() if default is None else default), (name, key)
    assert "exponent" not in shown and "weight of false positives" in parts["tversky"]


def test_every_dataset_is_told_with_its_options(monkeypatch):
    monkeypatch.delenv("SEGJAX_DATA", raising=False)
    shown = listing.datasets()
    assert re.findall(r"(?m)^(\w+)$", shown) == list(NAMES)
    for name in NAMES:
        for key in config.default().data.get(name, {}):
            assert f"--config.data.{name}.{key}=" in shown
    assert "here: splits train, val" in shown and "cityscapes (19 classes)" in shown
    assert "not here: camvid" in shown
    digits = shown[shown.index("\ndigits\n") :]
    assert "for classification\n  here: splits train, val" in digits
    assert "for segmentation, classification\n" in shown


def test_comments_are_those_of_the_knobs_own_lines():
    said = listing.comments()
    assert said["steps"].startswith("length of training")
    assert said["data.shapes.seed"] == "of the scenes, apart from the run's seed"
    assert said["data.folder.seed"] == "of that split"
    assert "data.shapes.val_examples" not in said
    assert set(said) <= set(config.flatten(config.default()))


def test_the_commands_print_and_refuse(capsys):
    assert main(["models", "alexnet"]) == 0
    assert "2.47 M" in capsys.readouterr().out
    assert main(["losses", "nothing_like_it"]) == 2
    assert main(["datasets", "--config.data.name=camvid"]) == 2
    assert "takes no --config.data.name=camvid" in capsys.readouterr().err


def test_models_and_datasets_are_listed_without_jax():
    code = (
        "import sys, json; from segjax.main import main; main(['models']); "
        "main(['datasets']); print(json.dumps(['jax' in sys.modules]))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert json.loads(done.stdout.splitlines()[-1]) == [False], done.stderr

"""Configs: what is loaded, overridden and refused, and with which words."""

import json
import re
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from segjax import config as configs
from segjax import listing, losses, models, optim, setup, train, views
from segjax.batch import LabelSpec
from segjax.data.shapes import Shapes
from segjax.preprocessing import preprocessing

CONFIGS = Path(__file__).parents[1] / "configs"
QUICK = str(CONFIGS / "resnet_unet.py")


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.py")), ids=lambda p: p.stem)
def test_every_config_file_is_valid_and_survives_json(path):
    config = configs.load(str(path))
    stored = json.loads(configs.to_json(config))
    assert configs.differences(configs.from_json(json.dumps(stored)), config) == {}
    assert "python -m segjax.main --config" in path.read_text()


def test_overrides_reach_the_config_with_their_types():
    config = configs.load(
        QUICK,
        [
            "--config.optim.lr=1",
            "--config.data.image_size=(97, 131)",
            "--config.steps=None",
            "--config.epochs=2",
            "--config.model.remat=true",
            "--config.data.batch_size=4",
            "--config.optim.lr_multipliers.encoder/*=0.1",
        ],
    )
    assert config.optim.lr == 1.0 and isinstance(config.optim.lr, float)
    assert config.data.image_size == (97, 131)
    assert config.steps is None and config.epochs == 2.0
    assert config.model.remat is True
    assert config.optim.lr_multipliers.to_dict() == {"encoder/*": 0.1}


@pytest.mark.parametrize(
    "overrides, message",
    [
        (["optim.lrr=1"], r"optim\.lrr is not a key .*did you mean optim\.lr\?"),
        (["optim.lr"], r"--config\.optim\.lr has no value"),
        (["optim.lr=fast"], r"optim\.lr=fast must be of type float"),
        (["optim.lr=None"], r"optim\.lr=None: it cannot be None"),
        (["data.name=camvd"], r"not one of shapes, .*did you mean camvid\?"),
        (["epochs=2"], r"config\.steps and config\.epochs are both set"),
        (["steps=None"], r"neither config\.steps nor config\.epochs"),
        (["optim.momentum=0.5"], r"optim\.momentum=0\.5 is not used.*sgd or lars"),
        (["data.root=/x"], r"data\.root='/x' is not used.*folder or camvid or .*tfds"),
        (["data.folder.mask_dir=y"], r"data\.folder\.mask_dir.*data\.name = folder"),
        (["model.upsampling=unpool"], r"upsampling='unpool' is not .*segnet_basic"),
        (["loss.focal_gamma=1.0"], r"loss\.focal_gamma=1\.0 is not used.*focal"),
        (["data.batch_size=0"], r"data\.batch_size=0 must be positive"),
        (["optim.accumulate=3"], r"accumulate=3 does not divide .*batch_size=16"),
        (["eval.overlap=0.3"], r"eval\.overlap=0\.3 is not used.*eval\.mode = slide"),
        (
            ["eval.mode=slide", "eval.overlap=1"],
            r"overlap=1\.0 must be 0 or more, below",
        ),
        (
            ["eval.mode=slide", "eval.margin=-1"],
            r"eval\.margin=-1 must be 0 or more",
        ),
        (["logs.pictures=-1"], r"logs\.pictures=-1 must be 0 or more"),
        (["data.workers=-1"], r"data\.workers=-1 must be 0 or more"),
        (["eval.mode=slide", "eval.window=(1,)"], r"window=\(1,\) must be an int or"),
        (["eval.scales=()"], r"eval\.scales=\(\) must be positive factors"),
        (["eval.mode=sliding"], r"not one of whole, slide; did you mean slide\?"),
        (["optim.warmup_steps=900"], r"warmup_steps=900 leaves nothing"),
        (["data.image_size=(1,2,3)"], r"image_size=\(1, 2, 3\) must be an int or"),
        (["model.inflate=mean"], r"inflate='mean' is not used.*model\.pretrained"),
        (
            ["model.inflate=maen", "model.pretrained=x"],
            r"'maen' is not one of repeat, mean, zero; did you mean mean\?",
        ),
        (["data.check=none", "data.name=camvid"], r"'none' is not one of fast, off"),
        (["data.check=off"], r"check='off' is not used.*folder or camvid or cla"),
        (["augment.scale=(2.0,1.0)"], r"augment\.scale=.* 0 < low <= high"),
        (["task=clasification"], r"not one of .*did you mean classification\?"),
        (["augment.crop_area=(0.1,1.0)"], r"crop_area.* needs task = classification"),
        (["eval.crop=0.5"], r"eval\.crop=0\.5 is not used.*task = classification"),
        (
            ["data.name=digits"],
            r"'digits' has no labels for .*'segmentation'",
        ),
        (
            ["task=classification", "model.decoder=fpn"],
            r"model\.decoder='fpn' is not used here: it needs task = segmentation",
        ),
        (
            ["task=classification", "augment.cutmix=0.5"],
            r"cutmix=0\.5 is not used here: it needs task = segmentation",
        ),
        (
            ["task=classification", "mesh.spatial=2"],
            r"spatial=2 .* = segmentation",
        ),
        (
            ["task=classification", "data.name=camvid"],
            r"that have: shapes, class",
        ),
        (["task=classification", "loss.name=dice"], r"write cross_entropy"),
        (["loss.classifier_auxiliary=0.2"], r"auxiliary=0\.2.* = googlenet"),
        (
            [
                *("task=classification", "augment.crop_area=(0.5,1.0)"),
                "augment.shorter_side=(64,96)",
            ],
            r"crop_area=.*shorter_side=.* keep one",
        ),
        (
            [
                *("task=classification", "augment.crop_aspect=(1.0,1.0)"),
                "augment.shorter_side=(64,96)",
            ],
            r"crop_aspect=.* is not used here: it needs augment.crop_area",
        ),
        (["optim.gamma=0.5"], r"gamma=0\.5 is not used.*multistep"),
        (["eval.every=5epochs"], r"every='5epochs' must be positive"),
        (["checkpoint.every=abc"], r"every='abc' must be positive"),
        (["eval.scales=(1, 'a')"], r"scales=\(1, 'a'\) must be positive factors"),
        (["augment.scale=(1, 'a')"], r"scale=\(1, 'a'\) must be \(low, high\)"),
        (["augment.blur=0.5", "augment.blur_sigma=(1,)"], r"sigma=\(1,\) must be"),
        (["loss.class_weights=('a', 'b')"], r"class_weights=.* between 0 and"),
        (["data.mean=abc"], r"data\.mean='abc' must lie"),
        (["data.fit=pad", "data.buffer_size=10.5"], r"buffer_size=10\.5 must be an"),
        (["eval.mode=slide", "eval.window=-32"], r"window=-32 must be an int or"),
        (["optim.lr=-1.0"], r"optim\.lr=-1\.0 must lie between 0 and"),
        (["optim.betas=(1.5, 0.9)"], r"betas=\(1\.5, 0\.9\) must lie between 0 and 1"),
        (["optim.betas=(0.8,)"], r"betas=\(0\.8,\) must be two numbers"),
        (["optim.ema_decay=1.5"], r"ema_decay=1\.5 must lie between 0 and 1"),
        (["optim.clip_norm=-1.0"], r"clip_norm=-1\.0 must lie between 0 and"),
        (["loss.weights=(-1.0,)"], r"weights=\(-1\.0,\) must lie between 0 and"),
        (["task=classification", "augment.crop_area=0.5"], r"area=0\.5 must be \(low"),
    ],
)
def test_a_bad_override_is_one_line_that_says_what_to_write(overrides, message):
    with pytest.raises(ValueError, match=message) as caught:
        configs.load(QUICK, [f"--config.{o}" for o in overrides])
    assert "\n" not in str(caught.value)


def test_a_knob_whose_none_is_documented_takes_it():
    config = configs.load(
        QUICK, ["--config.task=classification", "--config.augment.crop_area=None"]
    )
    assert config.augment.crop_area is None


@pytest.mark.parametrize(
    "body, message",
    [
        ("config.optim.lrate = 1.0", "lrate is not a key .*did you mean lr"),
        ("config.optim.lr = 'x'", "TypeError.*lr"),
        ("return 3", "must return a ConfigDict"),
        ("1 / 0", "ZeroDivisionError"),
    ],
)
def test_a_mistake_in_a_config_file_names_the_file(tmp_path, body, message):
    path = tmp_path / "bad.py"
    path.write_text(
        "from segjax.config import default\n"
        f"def get_config():\n    config = default()\n    {body}\n    return config\n"
    )
    with pytest.raises(ValueError, match=f"bad.py: .*{message}|{message}") as caught:
        configs.load(str(path))
    assert "bad.py" in str(caught.value) and "\n" not in str(caught.value)


def test_a_missing_config_file_is_named():
    with pytest.raises(ValueError, match="nowhere.py: there is no such file"):
        configs.load("nowhere.py")


def test_the_table_of_used_keys_agrees_with_losses_and_optimizers():
    config = configs.default()
    for name, options in losses.OPTIONS.items():
        config.loss.name = name
        for option in options:
            rule = configs.USED_WHEN.get(f"loss.{option}")
            assert rule is not None and rule[0](config), (name, option)
        for key, (used, _) in configs.USED_WHEN.items():
            if key.startswith("loss."):
                assert used(config) == (key.removeprefix("loss.") in options), key
    for name, options in optim.OPTIONS.items():
        config.optim.name = name
        for key in ("momentum", "nesterov", "betas", "eps"):
            assert configs.USED_WHEN[f"optim.{key}"][0](config) == (key in options)
    for name, options in optim.SCHEDULES.items():
        config.optim.schedule = name
        for key in ("power", "end_factor", "milestones", "gamma"):
            assert configs.USED_WHEN[f"optim.{key}"][0](config) == (key in options)


def test_spaces_around_the_plus_of_a_mixture_lose_no_option():
    config = configs.load(
        QUICK,
        ["--config.loss.name=dice + focal", "--config.loss.focal_gamma=1.0"],
    )
    loss = setup.make_loss(config, Shapes.spec)
    assert loss.names == ("dice", "focal")
    assert loss.options[1]["focal_gamma"] == 1.0


def test_a_stored_config_with_an_unknown_key_is_refused():
    text = json.dumps({"optim": {"rate": 1}})
    with pytest.raises(ValueError, match=r"config\.json: optim\.rate is unknown"):
        configs.from_json(text)


def test_differences_name_both_values():
    ours, theirs = configs.load(QUICK), configs.load(QUICK, ["--config.optim.lr=.5"])
    assert configs.differences(ours, theirs) == {"optim.lr": (ours.optim.lr, 0.5)}


def test_the_upsampling_reaches_the_decoder():
    flags = ["model.encoder=segnet_basic", "model.decoder=segnet_basic"]
    flags += ["model.upsampling=deconvolution"]
    config = configs.load(QUICK, [f"--config.{flag}" for flag in flags])
    model = setup.make_model(config, 2, 3, "cpu")
    assert model.decoder.upsampling == "deconvolution"
    config.model.upsampling = None
    assert setup.make_model(config, 2, 3, "cpu").decoder.upsampling == "unpool"


def test_options_reach_the_decoder():
    flags = ["decoder=deeplabv3", "decoder_options.decoder_channels=64"]
    flags += ["decoder_options.decoder_atrous_rates=(6, 12)"]
    flags += ["decoder_options.decoder_aspp_dropout=0.1"]
    config = configs.load(QUICK, [f"--config.model.{flag}" for flag in flags])
    for made in (config, configs.from_json(configs.to_json(config))):
        decoder = setup.make_model(made, 2, 3, "cpu").decoder
        assert decoder.decoder_channels == 64
        assert decoder.decoder_atrous_rates == (6, 12)
        assert decoder.decoder_aspp_dropout == 0.1


@pytest.mark.parametrize(
    "decoder, option, told",
    [
        ("deeplabv3", "decoder_chanels=64", "did you mean decoder_channels"),
        ("linknet", "decoder_channels=64", "linknet has no options"),
        ("segnet_basic", "upsampling=unpool", "write config.model.upsampling"),
        ("unet", "decoder_channels=64", "is 64; unet takes whole numbers above 0"),
        ("unet", "decoder_channels=(64, 32)", "has 2 numbers, but the encoder"),
        ("deeplabv3", "decoder_channels=(64,)", "takes a whole number above 0"),
        ("deeplabv3", "decoder_channels=0", "takes a whole number above 0"),
        ("deeplabv3plus", "decoder_atrous_rates=(6, 'a')", "takes whole numbers"),
        ("fpn", "decoder_dropout=1", "takes a rate from 0 to below 1"),
        ("dpt", "decoder_readout=3", "dpt takes a text"),
        ("unet", "decoder_channels=abc", "unet takes whole numbers"),
    ],
)
def test_a_wrong_option_of_a_decoder_is_told(decoder, option, told):
    config = configs.default()
    flags = [f"--config.model.decoder={decoder}"]
    flags += [f"--config.model.decoder_options.{option}"]
    configs.override(config, flags)
    config.model.encoder = {"segnet_basic": "segnet_basic", "dpt": "vit_small"}.get(
        decoder, "resnet18"
    )
    with pytest.raises(ValueError, match=told):
        model = setup.make_model(config, 2, 3, "cpu")
        jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 64, 64, 3)))


def test_options_that_a_config_file_sets_are_changed_and_taken_back():
    path = str(CONFIGS / "ade20k_upernet_swin_b.py")
    option = "--config.model.decoder_options."
    config = configs.load(path, [f"{option}decoder_channels=(1, 2)"])
    with pytest.raises(ValueError, match="upernet takes a whole number above 0"):
        setup.make_model(config, 2, 3, "cpu")
    back = [f"{option}decoder_channels=None", f"{option}decoder_dropout=None"]
    config = configs.load(path, ["--config.model.decoder=fpn", *back])
    assert setup.make_model(config, 2, 3, "cpu").decoder.decoder_dropout == 0.2
    with pytest.raises(ValueError, match=r"write --config.model.decoder_options.NAME="):
        configs.load(path, ["--config.model.decoder_options=3"])


@pytest.mark.parametrize("decoder", models.names()["decoders"])
def test_what_the_listing_says_of_a_decoder_builds(decoder):
    needs = {"segnet": "vgg11_bn", "segnet_basic": "segnet_basic", "dpt": "vit_small"}
    line = rf"(?m)^  {decoder}: (--config\.model\.\S+?)=(.*)$"
    told = re.findall(line, listing.models(decoder))
    flags = [f"{name}={value}" for name, value in told if value]
    assert len(told) == len(models.defaults_of(decoder))
    flags += [f"--config.model.decoder={decoder}"]
    flags += [f"--config.model.encoder={needs.get(decoder, 'resnet18')}"]
    setup.make_model(configs.load(QUICK, flags), 2, 3, "cpu")


def test_options_of_a_decoder_are_not_for_a_classifier():
    config = configs.load("configs/digits_resnet18.py")
    config.model.decoder_options.decoder_channels = 64
    with pytest.raises(ValueError, match="it needs task = segmentation"):
        configs.validate(config)


def test_the_rate_of_stochastic_depth_reaches_the_encoder():
    config = configs.load(QUICK, ["--config.model.encoder=mit_b0"])
    assert setup.make_model(config, 2, 3, "cpu").encoder.drop_path == 0.1
    config.model.drop_path = 0.25
    assert setup.make_model(config, 2, 3, "cpu").encoder.drop_path == 0.25
    for encoder, rate in (("resnet18", 0.1), ("mit_b0", 1.0)):
        config.model.encoder, config.model.drop_path = encoder, rate
        with pytest.raises(ValueError, match=f"drop_path is {rate} for {encoder}: "):
            setup.make_model(config, 2, 3, "cpu")


def test_one_class_alone_is_refused():
    spec = LabelSpec(("tumour",), ((255, 0, 0),), ignore=(0,))
    with pytest.raises(ValueError, match="one class alone, tumour: .* background"):
        setup.make_loss(configs.load(QUICK), spec)


def test_colours_are_changed_of_rgb_images_only():
    config = configs.load(QUICK, ["--config.augment.hue=0.1"])
    setup.make_augment(config, preprocessing(config, 3))
    with pytest.raises(ValueError, match=r"augment\.hue=0\.1 is for RGB, but .* 5 ch"):
        setup.make_augment(config, preprocessing(config, 5))


def test_the_number_of_classes_is_no_knob():
    """It comes from the data's LabelSpec, which model, loss and metric all read."""
    keys = configs.flatten(configs.default())
    assert not [key for key in keys if "num_classes" in key or "ignore" in key]


def test_every_split_is_read_with_the_channels_of_the_run(tmp_path):
    """A grey image that is the first to be evaluated is widened as others are."""
    for split, mode in (("train", "RGB"), ("val", "L")):
        for kind in ("images", "masks"):
            (tmp_path / kind / split).mkdir(parents=True)
        for name, own in (("a", mode), ("b", "RGB")):
            image = Image.new(own, (5, 4))
            image.save(tmp_path / "images" / split / f"{name}.png")
            Image.new("L", (5, 4)).save(tmp_path / "masks" / split / f"{name}.png")
    (tmp_path / "classes.json").write_text('["x", "y", "z"]')
    config = configs.default()
    config.steps, config.data.name, config.data.root = 1, "folder", str(tmp_path)
    run = train.Run(config, tmp_path / "run")
    assert run.eval_source.channels == run.parts.pre.channels == 3
    assert [run.eval_source[i]["image"].shape for i in range(2)] == [(4, 5, 3)] * 2
    config.data.channels = 1  # what the config says is kept
    with pytest.raises(ValueError, match="has 3 channels where 1 are wanted"):
        setup.open_split(config, "val", 3)[1]


def test_images_beyond_the_buffer_are_told():
    config = configs.default()
    config.data.fit, config.data.buffer_size = "pad", (10, 20)
    assert views.shrunk(config, [(10, 20), (5, 5)]) == []
    (line,) = views.shrunk(config, [(10, 20), (11, 5), (9, 21)])
    assert line.startswith("2 of the 3 images")
    config.data.buffer_size = None
    assert views.shrunk(config, [(99, 99)]) == []


def test_the_class_weights_reach_the_loss_in_the_order_of_the_classes():
    config = configs.default()
    config.loss.class_weights, config.loss.name = (1.0, 0.0, 5.0), "cross_entropy+dice"
    spec = LabelSpec(("a", "b", "c"), ((0, 0, 0), (1, 1, 1), (2, 2, 2)))
    loss = setup.make_loss(config, spec)
    labels = jnp.array([[[0, 1, 2, 2, 255]]])
    np.testing.assert_array_equal(loss.counts(labels), [1 + 0 + 5 + 5, 4])

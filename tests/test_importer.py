"""Weights in and out: import, predict, evaluate, export."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy
from PIL import Image

from segjax import setup, weights
from segjax.main import main
from segjax.models import build
from segjax.preprocessing import IMAGENET_MEAN, IMAGENET_STD
from tests.requirements import require_parity

NETWORK = ["--encoder", "resnet18", "--decoder", "fcn32s"]
SIZE = (64, 96)  # multiples of eval.bucket: predict pads nothing


def photo(folder, name="a.png", seed=0):
    folder.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (*SIZE, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(folder / name)
    return pixels


def normalized(pixels, mean=0.5, std=0.25):
    return (pixels.astype(np.float32) / 255 - np.float32(mean)) / np.float32(std)


def same_labels(path, logits):
    """The PNG is the logits' argmax, where the first two differ clearly."""
    label = np.asarray(Image.open(path))
    first, second = np.sort(logits, -1)[..., -1], np.sort(logits, -1)[..., -2]
    clear = first - second > 1e-4 * np.abs(logits).max()
    assert clear.mean() > 0.95 and len(np.unique(label)) > 1
    np.testing.assert_array_equal(label[clear], np.argmax(logits, -1)[clear])


@pytest.fixture(scope="module")
def foreign(tmp_path_factory):
    """(a file of random weights for 4 classes, the model, its variables)."""
    model = build("resnet18", "fcn32s", 4)
    image = jax.ShapeDtypeStruct((1, 64, 64, 3), jnp.float32)
    shapes = jax.eval_shape(model.init, jax.random.key(0), image)
    rng = np.random.default_rng(0)

    def draw(leaf):
        if leaf.ndim == 1:
            return rng.uniform(0.5, 1.5, leaf.shape).astype(np.float32)
        sigma = (2 / np.prod(leaf.shape[:-1])) ** 0.5
        return rng.normal(0, sigma, leaf.shape).astype(np.float32)

    variables = jax.tree.map(draw, shapes)
    # As often one class as another.
    x = normalized(photo(tmp_path_factory.mktemp("photo")))[None]
    logits = jax.jit(model.apply)(variables, x)
    variables["params"]["head"]["bias"] -= np.asarray(logits).mean((0, 1, 2))
    path = tmp_path_factory.mktemp("weights") / "foreign.safetensors"
    safetensors.numpy.save_file(weights.to_torch(model, variables), path)
    return path, model, variables


@pytest.fixture(scope="module")
def imported(foreign, tmp_path_factory):
    """The workdir that import makes of it."""
    folder = tmp_path_factory.mktemp("imported")
    classes = folder / "classes.json"
    classes.write_text('["sky", "road", "car", "tree"]')
    options = ["--like", "segjax", "--labels", str(classes), "--mean", ".5", "--std"]
    arguments = [*NETWORK, *options, ".25", "--workdir", str(folder / "run")]
    assert main(["import", "--weights", str(foreign[0]), *arguments]) == 0
    return folder / "run"


def test_predict_labels_by_the_imported_weights(foreign, imported, tmp_path):
    _, model, variables = foreign
    pixels = photo(tmp_path / "in")
    arguments = ["--input", str(tmp_path / "in"), "--output", str(tmp_path / "out")]
    assert main(["predict", "--workdir", str(imported), *arguments]) == 0
    logits = jax.jit(model.apply)(variables, normalized(pixels)[None])
    same_labels(tmp_path / "out" / "a.png", np.asarray(logits)[0])
    boxes = json.loads((tmp_path / "out" / "boxes.json").read_text())
    assert boxes["classes"] == ["sky", "road", "car", "tree"] and boxes["step"] == 0


def test_evaluate_takes_the_imported_run(foreign, imported, tmp_path):
    _, model, variables = foreign
    root, agree = tmp_path / "data", []
    (root / "masks").mkdir(parents=True)
    (root / "classes.json").write_text('["sky", "road", "car", "tree"]')
    for i in range(2):
        pixels = photo(root / "images", f"{i}.png", seed=i)
        mask = np.random.default_rng(i + 9).integers(0, 4, SIZE, dtype=np.uint8)
        Image.fromarray(mask).save(root / "masks" / f"{i}.png")
        logits = jax.jit(model.apply)(variables, normalized(pixels)[None])[0]
        agree.append(np.mean(np.argmax(logits, -1) == mask))
    (root / "val.txt").write_text("0\n1\n")
    data = ["data.name=folder", f"data.root={root}", "eval.batch_size=8"]
    overrides = [f"--config.{text}" for text in data]
    assert main(["evaluate", "--workdir", str(imported), *overrides]) == 0
    summary = json.loads((imported / "eval_val.json").read_text())
    assert summary["examples"] == 2 and summary["pixels"] == 2 * 64 * 96
    assert abs(summary["pixel_accuracy"] - np.mean(agree)) < 1e-3


def test_export_gives_back_the_same_bits_and_all_that_import_asks(
    foreign, imported, tmp_path, capsys
):
    path, again = tmp_path / "out" / "exported.safetensors", tmp_path / "again"
    arguments = ["--workdir", str(imported), "--output", str(path)]
    assert main(["export", *arguments, "--format", "torch", "--naming", "smp"]) == 0
    assert "122 tensors named as smp's, step 0" in capsys.readouterr().out
    before, after = weights.read_file(foreign[0]), weights.read_file(path)
    assert set(before) == set(after)
    for name, array in before.items():
        assert array.dtype == after[name].dtype
        np.testing.assert_array_equal(after[name], array)
    assert weights.read_metadata(path)["format"] == "pt"
    arguments = ["--encoder", "resnet18", "--workdir", str(again)]
    assert main(["import", "--weights", str(path), *arguments]) == 0
    for name in ("config.json", "labels.json"):
        assert (again / name).read_text() == (imported / name).read_text()
    # In a naming without the decoder, the encoder alone.
    arguments = ["--workdir", str(imported), "--output", str(path)]
    assert main(["export", *arguments, "--naming", "timm"]) == 0
    assert "the encoder alone (timm has no such decoder)" in capsys.readouterr().out
    assert set(weights.read_file(path)) == {
        name.removeprefix("encoder.") for name in before if name.startswith("encoder.")
    }


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--classes", "7"], "is for 4 classes, but 7 are asked for"),
        (["--labels", "two.json"], "is for 4 classes, but 2 are asked for"),
        (["--labels", "none.json"], "none.json: no such file; write the classes"),
        (["--encoder", "resnet50"], "does not fit the model: 165 missing"),
        (["--decoder", "unet"], "missing: decoder.blocks"),
        (["--encoder", "resnet81"], "unknown encoder 'resnet81'. Did you mean"),
        (["--like", "keras"], "unknown like 'keras'"),
        (["--naming", "keras"], "unknown naming 'keras' for this model; known: smp"),
        (["--naming", "timm"], "hold no layer of scores under the names"),
        (["--channels", "4"], "is for images of 3 channels, but 4 are asked for"),
        (
            ["--mean", ".5", ".5"],
            "config.data.mean has 2 values, but the images have 3",
        ),
        (["--image-size", "9", "9", "9"], "--image-size takes one or two numbers"),
        (["--config.optim.lrr=1"], "optim.lrr is not a key"),
    ],
)
def test_a_mistake_is_one_line_and_leaves_no_workdir(
    foreign, tmp_path, monkeypatch, capsys, arguments, message
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "two.json").write_text('["a", "b"]')
    call = ["import", "--weights", str(foreign[0]), *NETWORK, "--workdir", "run"]
    assert main([*call, *arguments]) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1
    assert error.startswith("segjax: ") and not (tmp_path / "run").exists()


def test_other_mistakes(foreign, imported, tmp_path, capsys):
    def said(*arguments):
        assert main([str(a) for a in arguments]) == 2
        error = capsys.readouterr().err
        assert error.count("\n") == 1
        return error

    run = ["import", "--weights", foreign[0], *NETWORK, "--workdir", imported]
    assert "holds a run already; name another" in said(*run)
    alone = tmp_path / "alone.safetensors"
    tensors = {
        name.removeprefix("encoder."): array
        for name, array in weights.read_file(foreign[0]).items()
        if name.startswith("encoder.")
    }
    safetensors.numpy.save_file(tensors, alone)
    run = ["import", "--weights", alone, *NETWORK, "--workdir", tmp_path / "run"]
    assert "hold no layer of scores" in said(*run)
    for text in ("{", "[1]", '{"model": {"x": 1}, "labels": {}}', '{"version": 1}'):
        safetensors.numpy.save_file(tensors, alone, {"segjax": text})
        assert "its metadata 'segjax' is damaged" in said(*run)
    tensors = weights.read_file(foreign[0]) | {"aux.weight": np.zeros(3, np.float32)}
    safetensors.numpy.save_file(tensors, alone)
    assert "1 unexpected: aux.weight" in said(*run)
    assert main([*map(str, run), "--ignore", "aux.*"]) == 0
    capsys.readouterr()
    out = ["export", "--workdir", imported, "--output"]
    assert "name it so" in said(*out, tmp_path / "a.pth")
    named = [*out, tmp_path / "a.safetensors", "--naming"]
    assert "unknown naming 'keras' for this model; known: smp" in said(*named, "keras")
    assert "no config.json" in said(
        "export", "--workdir", tmp_path, "--output", "a.safetensors"
    )


def test_the_number_of_classes_is_found_in_the_weights(foreign):
    tensors = weights.read_file(foreign[0])
    found = weights.guess(lambda k: build("resnet18", "fcn32s", k), tensors)
    assert found == ("smp", 4, 3)


def basic(path, num_classes, channels=3, decoder="segnet_basic", **options):
    """SegNet-Basic's encoder of random weights in a file; model and variables."""
    model = build("segnet_basic", decoder, num_classes, in_channels=channels, **options)
    image = jax.ShapeDtypeStruct((1, 64, 64, channels), jnp.float32)
    shapes = jax.eval_shape(model.init, jax.random.key(0), image)
    rng = np.random.default_rng(0)
    variables = jax.tree.map(
        lambda leaf: rng.uniform(0.01, 0.1, leaf.shape).astype(np.float32), shapes
    )
    safetensors.numpy.save_file(weights.to_torch(model, variables), path)
    return model, variables


BASIC = ["--encoder", "segnet_basic", "--decoder", "segnet_basic"]


def test_one_score_per_pixel_becomes_background_and_class(tmp_path):
    """SMP's networks have one class by default, whose sigmoid they train."""
    file, workdir = tmp_path / "one.safetensors", tmp_path / "run"
    model, variables = basic(file, 1)
    call = ["import", "--weights", str(file), *BASIC, "--workdir", str(workdir)]
    assert main(call) == 0
    labels = json.loads((workdir / "labels.json").read_text())
    assert labels["names"] == ["background", "class1"]
    two = build("segnet_basic", "segnet_basic", 2)
    make = {1: model, 2: two}.__getitem__
    tensors = weights.with_background(make, weights.read_file(file))
    x = normalized(photo(tmp_path / "in"))[None]
    found = jax.jit(two.apply)(weights.load_torch(two, tensors), x)
    wanted = jax.jit(model.apply)(variables, x)
    assert not np.any(found[..., 0])
    np.testing.assert_allclose(found[..., 1:], wanted, rtol=1e-5, atol=1e-5)


def test_the_number_of_channels_is_found_in_the_weights(tmp_path):
    file, workdir = tmp_path / "four.safetensors", tmp_path / "run"
    basic(file, 3, channels=4)
    call = ["import", "--weights", str(file), *BASIC, "--workdir", str(workdir)]
    assert main(call) == 0
    labels = json.loads((workdir / "labels.json").read_text())
    assert labels["preprocessing"]["channels"] == 4


def test_what_leaves_no_trace_in_the_weights_travels_with_them(tmp_path):
    """unpool and unpool_add have the same tensors and give other scores."""
    file = tmp_path / "three.safetensors"
    basic(file, 3)
    first, again = tmp_path / "first", tmp_path / "again"
    call = ["import", "--weights", str(file), *BASIC, "--image-size", "64"]
    change = "--config.model.upsampling=unpool_add"
    assert main([*call, "--workdir", str(first), change]) == 0
    out = tmp_path / "out.safetensors"
    assert main(["export", "--workdir", str(first), "--output", str(out)]) == 0
    call = ["import", "--weights", str(out), *BASIC[:2], "--workdir", str(again)]
    assert main(call) == 0
    config = json.loads((again / "config.json").read_text())
    assert config["model"]["upsampling"] == "unpool_add"


def test_options_of_the_decoder_travel_with_the_weights(tmp_path, capsys):
    """Another width has tensors of other shapes, other rates the same ones."""
    own = {"decoder_channels": 8, "decoder_atrous_rates": (1, 2, 3)}
    file = tmp_path / "a.safetensors"
    basic(file, 3, decoder="deeplabv3", **own)
    call = ["import", "--weights", str(file), "--encoder", "segnet_basic"]
    call += ["--image-size", "64"]
    given = [f"--config.model.decoder_options.{k}={v}" for k, v in own.items()]
    first, again = tmp_path / "first", tmp_path / "again"
    named = [*call, "--decoder", "deeplabv3", "--workdir"]
    assert main([*named, str(tmp_path / "wrong")]) == 2
    assert capsys.readouterr().err.endswith("decoder: `segjax models deeplabv3`\n")
    assert main([*named, str(first), *given]) == 0
    out = tmp_path / "out.safetensors"
    assert main(["export", "--workdir", str(first), "--output", str(out)]) == 0
    call = ["import", "--weights", str(out), "--encoder", "segnet_basic"]
    assert main([*call, "--workdir", str(again)]) == 0
    options = setup.load_parts(again, ()).config.model.decoder_options
    assert options.to_dict() == own


@pytest.mark.parity
def test_an_imported_network_of_smp_predicts_what_smp_predicts(tmp_path):
    torch = require_parity("torch")
    smp = require_parity("segmentation_models_pytorch")
    from tests.parity.reference import randomize, run

    reference = randomize(smp.Unet("resnet18", encoder_weights=None, classes=4))
    file, workdir = tmp_path / "smp.pth", str(tmp_path / "run")
    torch.save({"epoch": 1, "state_dict": reference.state_dict()}, file)
    arguments = ["--encoder", "resnet18", "--decoder", "unet", "--workdir", workdir]
    assert main(["import", "--weights", str(file), *arguments]) == 0
    assert json.loads((tmp_path / "run/config.json").read_text())["model"]["like"] == (
        "smp"
    )
    labels = json.loads((tmp_path / "run" / "labels.json").read_text())
    assert labels["names"] == ["class0", "class1", "class2", "class3"]
    pixels = photo(tmp_path / "in")
    arguments = ["--input", str(tmp_path / "in"), "--output", str(tmp_path / "out")]
    assert main(["predict", "--workdir", workdir, *arguments]) == 0
    x = normalized(pixels, IMAGENET_MEAN, IMAGENET_STD)[None]
    same_labels(tmp_path / "out" / "a.png", run(reference, x)[0])

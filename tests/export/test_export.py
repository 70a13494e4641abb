"""``segjax export``: files that other programs run, and what is said about them."""

import importlib.util
import json
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import jax
import numpy as np
import pytest

from benchmarks.pairs import draw
from segjax import export, setup
from segjax.export import agreement, stablehlo
from segjax.export.network import Network
from segjax.main import main
from segjax.models import fold_batch_norm
from tests.models.test_contract import small, traced
from tests.requirements import require_export
from tests.runs import (
    CLASSES,
    MEAN,
    SIZE,
    SPEC,
    STD,
    STEP,
    logits_of,
    make_run,
    narrow,
    scenes,
)

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module", autouse=True)
def tiny():
    with pytest.MonkeyPatch.context() as patch:
        narrow(patch, "resnet18")
        yield


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """(workdir, images, their logits by the run's own network)."""
    workdir = tmp_path_factory.mktemp("export") / "run"
    model, variables = make_run(workdir)
    return workdir, scenes(), np.asarray(logits_of(model)(variables, scenes()))


def said(capsys, *arguments):
    """The one line of a mistake."""
    assert main([str(a) for a in arguments]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    return error


def near(found, wanted):
    assert found.shape == wanted.shape
    assert np.abs(found - wanted).max() <= 1e-4 * np.abs(wanted).max()


def check_record(path, form, size=SIZE):
    """What stands beside an export."""
    record = json.loads(Path(f"{path}.json").read_text())
    assert record["format"] == form and record["step"] == STEP
    assert record["classes"] == list(CLASSES)
    assert record["palette"] == [list(colour) for colour in SPEC.palette]
    pre = record["preprocessing"]
    assert (pre["mean"], pre["std"]) == (list(MEAN), list(STD))
    assert (pre["layout"], pre["range"]) == ("NHWC", [0, 1])
    assert record["input"]["shape"] == ["batch", *size, 3]
    assert record["output"]["shape"] == ["batch", *size, 3]
    assert record["environment"]["versions"]["jax"] == jax.__version__
    check = record["check"]
    assert check["count"] == 4 and check["images"] == "the first of val of shapes"
    assert check["relative_difference"] <= 1e-4 and check["argmax_equal"]
    return record


def test_onnx_by_the_command(run, tmp_path, capsys):
    require_export()
    import onnx
    import onnxruntime

    workdir, images, wanted = run
    path = tmp_path / "out" / "network.onnx"
    assert main(["export", "--workdir", str(workdir), "--output", str(path)]) == 0
    assert "onnx for 32x64, step 7" in capsys.readouterr().out
    assert sorted(p.name for p in path.parent.iterdir()) == [
        "network.onnx",
        "network.onnx.json",
    ]
    session = onnxruntime.InferenceSession(str(path))
    assert [i.shape for i in session.get_inputs()] == [["batch", *SIZE, 3]]
    for part in (slice(0, 1), slice(1, 4)):
        (logits,) = session.run(["logits"], {"image": images[part]})
        near(logits, wanted[part])
    record = check_record(path, "onnx")
    assert set(record["packages"]) == {"onnx", "onnxruntime"}
    inside = session.get_modelmeta().custom_metadata_map
    assert json.loads(inside["classes"]) == record["classes"]
    assert json.loads(inside["palette"]) == record["palette"]
    assert json.loads(inside["preprocessing"]) == record["preprocessing"]
    assert "check" not in json.loads(inside["segjax"])
    onnx.checker.check_model(onnx.load(str(path)), full_check=True)


def test_folded_onnx_of_another_size_has_no_norms(run, tmp_path):
    require_export()
    import onnx

    path = tmp_path / "network.onnx"
    arguments = ["--size", "40", "56", "--fold-batch-norm", "--output", str(path)]
    assert main(["export", "--workdir", str(run[0]), *arguments]) == 0
    record = check_record(path, "onnx", (40, 56))
    assert record["batch_norm_folded"] and record["input_size"] == [40, 56]
    kinds = [node.op_type for node in onnx.load(str(path)).graph.node]
    # Stem, four blocks of two, three shortcuts, head.
    assert "Mul" not in kinds and kinds.count("Conv") == 1 + 8 + 3 + 1


def test_stablehlo_in_a_new_process_by_the_readmes_lines(run, tmp_path):
    """By jax and safetensors alone."""
    workdir, images, wanted = run
    path = tmp_path / "network.stablehlo"
    assert main(["export", "--workdir", str(workdir), "--output", str(path)]) == 0
    record = check_record(path, "stablehlo")
    np.save(tmp_path / "image.npy", images[:3])
    text = (ROOT / "README.md").read_text()
    (snippet,) = re.findall(r"```python\n([^`]*jax\.export[^`]*)```", text)
    snippet = snippet.replace('"unet.stablehlo"', repr(str(path)))
    code = (
        f"import sys; sys.modules['segjax'] = None\nimport numpy as np\n"
        f"image = np.load({str(tmp_path / 'image.npy')!r})\n{snippet}\n"
        f"np.save({str(tmp_path / 'logits.npy')!r}, logits)\n"
        f"print(about['classes'])\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == str(record["classes"])
    near(np.load(tmp_path / "logits.npy"), wanted[:3])
    with zipfile.ZipFile(path) as archive:
        exported = jax.export.deserialize(bytearray(archive.read("network")))
    assert exported.platforms == ("cpu", "cuda", "tpu")
    call, about = export.load_stablehlo(path)
    assert {k: v for k, v in record.items() if k != "check"} == about
    near(np.asarray(call(images[:3])), wanted[:3])


def test_folded_stablehlo_of_any_multiple_of_the_stride(tmp_path, monkeypatch):
    # What is chosen by size on one device must not look at sizes that are symbols.
    monkeypatch.setattr(jax, "device_count", lambda: 1)
    model = small("resnet18", "unet")
    shapes = traced(model, (1, 64, 64, 3))[1]
    variables = jax.tree.map(lambda leaf: np.asarray(leaf, np.float32), draw(shapes, 0))
    path = tmp_path / "network"
    folded = Network(*fold_batch_norm(model, variables), (64, 64), any_size=True)
    stablehlo.write(folded, path, {})
    call, rng = stablehlo.read(path), np.random.default_rng(0)
    apply = logits_of(model)
    image = rng.normal(size=(2, 96, 32, 3)).astype(np.float32)
    near(call(image), np.asarray(apply(variables, image)))
    with pytest.raises(ValueError, match="batch|rows|columns"):
        call(np.zeros((1, 33, 64, 3), np.float32))


def test_a_classifier(tmp_path, capsys):
    """As ONNX and as torchvision's state dict, which import refuses by its task."""
    require_export()
    import onnxruntime

    model, variables = make_run(tmp_path / "run", task="classification")
    begin = ["export", "--workdir", str(tmp_path / "run"), "--output"]
    path = tmp_path / "a.onnx"
    assert main([*begin, str(path)]) == 0
    (logits,) = onnxruntime.InferenceSession(str(path)).run(None, {"image": scenes()})
    near(logits, np.asarray(logits_of(model)(variables, scenes())))
    record = json.loads(Path(f"{path}.json").read_text())
    assert record["task"] == "classification" and record["decoder"] is None
    assert record["output"]["shape"] == ["batch", len(CLASSES)]
    assert record["classes"] == list(CLASSES) and record["palette"] == []
    path = tmp_path / "a.safetensors"
    assert main([*begin, str(path)]) == 0
    assert "named as torchvision's, step 7" in capsys.readouterr().out
    wanted = ["import", "--weights", path, "--encoder", "resnet18", "--workdir"]
    error = said(capsys, *wanted, tmp_path / "again")
    assert "is of a classifier" in error and "config.model.pretrained" in error


def test_savedmodel_where_tensorflow_is(run, tmp_path):
    if importlib.util.find_spec("tensorflow") is None:
        pytest.skip("TensorFlow is not installed; no extra has it")
    workdir, images, wanted = run
    path = tmp_path / "model"
    arguments = ["--format", "savedmodel", "--output", str(path)]
    assert main(["export", "--workdir", str(workdir), *arguments]) == 0
    record = check_record(path, "savedmodel")
    tf = importlib.import_module("tensorflow")
    call = tf.saved_model.load(str(path)).signatures["serving_default"]
    near(call(image=tf.constant(images[:3]))["logits"].numpy(), wanted[:3])
    about = json.loads((path / "assets.extra" / "segjax.json").read_text())
    assert about == {key: value for key, value in record.items() if key != "check"}


def test_torch_weights_are_read_again(run, tmp_path, capsys):
    path = tmp_path / "network.safetensors"
    assert main(["export", "--workdir", str(run[0]), "--output", str(path)]) == 0
    assert "74 tensors named as smp's, step 7" in capsys.readouterr().out
    record = json.loads(Path(f"{path}.json").read_text())
    assert record["naming"] == "smp" and record["check"]["argmax_equal"]
    assert record["check"]["relative_difference"] <= 1e-4


def test_what_differs_is_not_written(run, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(agreement, "TOLERANCE", 0.0)
    path = tmp_path / "network.stablehlo"
    path.write_text("what was there before")
    error = said(capsys, "export", "--workdir", run[0], "--output", path)
    assert "differs from the run by" in error and "nothing was written" in error
    assert [p.name for p in tmp_path.iterdir()] == [path.name]
    assert path.read_text() == "what was there before"


def test_mistakes_are_told_in_a_line(run, tmp_path, capsys, monkeypatch):
    begin = ["export", "--workdir", run[0], "--output"]
    onnx = tmp_path / "a.onnx"
    for arguments, message in (
        (
            [tmp_path / "a.pb"],
            "give --format or name it so (.safetensors: torch, .onnx",
        ),
        ([tmp_path / "a.pth", "--format", "onnx"], "is written as .onnx; name it so"),
        ([onnx, "--naming", "smp"], "--naming is not for --format onnx"),
        ([onnx, "--size", "any"], "--size any is not for --format onnx"),
        ([onnx, "--size", "1", "2", "3"], "write H W in pixels, or any"),
        ([tmp_path / "a.safetensors", "--size", "9"], "--size is not for"),
        ([tmp_path / "a.safetensors", "--fold-batch-norm"], "--fold-batch-norm is not"),
        ([tmp_path, "--format", "savedmodel"], "is a folder already; name another"),
    ):
        assert message in said(capsys, *begin, *arguments)
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util,
        "find_spec",
        lambda name: None if name in ("onnx", "tensorflow") else find(name),
    )
    assert "pip install 'segjax[export]'" in said(capsys, *begin, onnx)
    saved = [tmp_path / "saved", "--format", "savedmodel"]
    assert "needs TensorFlow, which is not installed" in said(capsys, *begin, *saved)
    assert not list(tmp_path.iterdir())
    broken = tmp_path / "b.stablehlo"
    broken.write_text("no zip")
    with pytest.raises(ValueError, match="give a file of segjax export"):
        export.load_stablehlo(broken)


def test_a_network_of_one_size_says_so(run, tmp_path, capsys):
    output = tmp_path / "a.stablehlo"
    begin = ["export", "--workdir", run[0], "--output", output]
    error = said(capsys, *begin, "--size", "any")
    assert "--size any: this network is built for one size only" in error
    assert not list(tmp_path.iterdir())


def test_images_where_the_data_is_not(run):
    away = ["--config.data.name=camvid", "--config.data.root=/nonexistent"]
    parts = setup.load_parts(run[0], away)
    found, origin = agreement.images(parts, (40, 24))
    assert origin == "rendered scenes; the run's data is not here"
    assert [image.shape for image in found] == [(40, 24, 3)] * 4


def test_comparing_by_hand():
    wanted = np.array([[4.0, 1.0], [2.0, 2.00001], [-8.0, 0.0]])
    found = wanted + np.array([[0.0, 0.0], [0.00002, 0.0], [0.00001, 0.0]])
    got = agreement.compare(found, wanted)
    assert got["max_difference"] == pytest.approx(2e-5)
    assert got["relative_difference"] == pytest.approx(2e-5 / 8)
    # The second pixel's best two are nearer than the difference: it may change.
    assert got["argmax_agreement"] == pytest.approx(2 / 3) and got["argmax_equal"]
    found[0] = [0.0, 4.0]
    assert not agreement.compare(found, wanted)["relative_difference"] < 0.1
    nan = agreement.compare(np.full((1, 2), np.nan), wanted[:1])
    assert not nan["relative_difference"] <= 1


def test_pixels_as_the_network_takes_them():
    pre = setup.Preprocessing(2, (4, 4), "pad", (0.5, 0.0), (0.25, 2.0))
    image = np.array([[[255, 51]]], np.uint8)
    np.testing.assert_allclose(agreement.normalized(image, pre), [[[2.0, 0.1]]])
    sixteen = np.array([[[65535, 13107]]], np.uint16)
    np.testing.assert_allclose(agreement.normalized(sixteen, pre), [[[2.0, 0.1]]])
    floats = np.array([[[1.0, 0.2]]], np.float32)
    np.testing.assert_allclose(agreement.normalized(floats, pre), [[[2.0, 0.1]]])

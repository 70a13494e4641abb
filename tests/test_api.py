"""``segjax.load``: a trained run in Python."""

import subprocess
import sys

import jax
import numpy as np
import pytest
import treescope
from PIL import Image

import segjax
from segjax import api, cam, drawing, inference, regions
from tests.runs import CLASSES, MEAN, STD, logits_of, make_run, narrow

SIZE = (33, 50)


@pytest.fixture(scope="module", autouse=True)
def tiny():
    with pytest.MonkeyPatch.context() as patch:
        narrow(patch, "resnet18")
        yield


@pytest.fixture(scope="module")
def loaded(tmp_path_factory):
    """(run, its model, its variables); images at their own size."""
    workdir = tmp_path_factory.mktemp("api") / "run"
    model, variables = make_run(workdir, "data.fit=pad")
    return segjax.load(workdir), model, variables


def picture(dtype=np.uint8, channels=3, seed=0):
    largest = np.iinfo(dtype).max
    rng = np.random.default_rng(seed)
    return rng.integers(0, largest + 1, (*SIZE, channels), dtype)


@pytest.fixture(scope="module")
def expected(loaded):
    """Probabilities of picture(), by the model alone.

    The predictor pads to whole buckets; the padding is the mean, which is zero.
    """
    _, model, variables = loaded
    x = (picture() / 255 - np.array(MEAN)) / np.array(STD)
    x = np.pad(x, ((0, 64 - SIZE[0]), (0, 64 - SIZE[1]), (0, 0)))[None]
    logits = logits_of(model)(variables, x.astype(np.float32))[0, : SIZE[0], : SIZE[1]]
    return np.asarray(jax.nn.softmax(logits))


def test_what_there_is_to_predict(loaded, expected):
    run = loaded[0]
    assert (run.step, run.spec.names) == (7, CLASSES)
    found = run.probabilities(picture())
    assert found.shape == (*SIZE, 3) and found.dtype == np.float32
    np.testing.assert_allclose(found, expected, atol=1e-4)
    label = run.predict(picture())
    assert label.shape == SIZE and label.dtype == np.uint8
    second, first = np.sort(expected, -1)[..., 1:].transpose(2, 0, 1)
    clear = first - second > 1e-3
    assert clear.mean() > 0.9 and len(np.unique(label)) > 1
    np.testing.assert_array_equal(label[clear], expected.argmax(-1)[clear])
    boxes = run.boxes(picture(), min_area=9)
    assert len({box["class_id"] for box in boxes}) > 1
    box = boxes[0]
    mask = regions.decode(box["mask"]).astype(bool)
    assert mask.sum() == box["area"] and set(label[mask]) == {box["class_id"]}
    assert box["class"] == CLASSES[box["class_id"]]
    assert box["score"] == pytest.approx(found[mask, box["class_id"]].mean(), abs=1e-5)
    x0, y0, x1, y1 = box["box"]
    rows, columns = np.nonzero(mask)
    assert (rows.min(), columns.min()) == (y0, x0)
    assert (rows.max() + 1, columns.max() + 1) == (y1, x1)


def test_every_kind_of_picture_is_the_same_one(loaded, tmp_path):
    run, pixels = loaded[0], picture()
    wanted = run.predict(pixels)
    path = tmp_path / "a.png"
    Image.fromarray(pixels).save(path)
    alpha = np.concatenate([pixels, np.full((*SIZE, 1), 9, np.uint8)], 2)
    floats = pixels / 255
    for given in (
        path,
        str(path),
        Image.open(path),
        alpha,
        floats,
        jax.numpy.asarray(pixels),
    ):
        np.testing.assert_array_equal(run.predict(given), wanted)
    grey = picture(channels=1)
    want = run.image(grey.repeat(3, 2))
    for given in (grey, grey[..., 0], Image.fromarray(grey[..., 0])):
        np.testing.assert_array_equal(run.image(given), want)
    sixteen = picture(np.uint16)
    assert run.image(sixteen).dtype == np.uint16
    np.testing.assert_array_equal(run.image(sixteen.astype(">u2")), sixteen)
    few = Image.fromarray(pixels).quantize(16)
    np.testing.assert_array_equal(run.image(few), np.asarray(few.convert("RGB")))
    # A camera held upright.
    turned = Image.fromarray(pixels)
    turned.getexif()[0x0112] = 6
    turned.save(tmp_path / "b.jpg", exif=turned.getexif())
    assert run.image(Image.open(tmp_path / "b.jpg")).shape == (*SIZE[::-1], 3)
    assert run.image(tmp_path / "b.jpg").shape == (*SIZE[::-1], 3)


@pytest.mark.parametrize(
    "given, message",
    [
        (np.zeros((3, 4, 5, 3), np.uint8), r"shape \(3, 4, 5, 3\); give \[height"),
        (np.zeros((0, 4, 3), np.uint8), "shape"),
        (np.zeros((4, 4, 3), np.int64), "the image's type is int64; give uint8"),
        (np.zeros((4, 4, 5), np.uint8), "has 5 channels where 3 are wanted"),
        (np.full((4, 4, 3), np.nan), "the image: 16 of 16 pixels are NaN"),
        ("missing.png", "missing.png"),
    ],
)
def test_what_is_no_picture_is_told(loaded, given, message):
    with pytest.raises(ValueError, match=message):
        loaded[0].predict(given)


def test_show(loaded):
    run, pixels = loaded[0], picture()
    label = run.predict(pixels)
    truth = np.full(SIZE, 2, np.uint8)
    shown = np.asarray(run.show(pixels, truth))
    times, width = 5, 5 * SIZE[1] + 2  # enlarged, with a line between
    for place, panel in enumerate(
        (
            pixels,
            inference.colorize(truth, run.spec),
            inference.colorize(label, run.spec),
            inference.overlay(pixels, label, run.spec),
        )
    ):
        begin = place * width
        found = shown[
            : times * SIZE[0] : times, begin : begin + times * SIZE[1] : times
        ]
        np.testing.assert_array_equal(found, panel)
    assert np.asarray(run.show(pixels)).shape[1] == 3 * width - 2
    assert run.show(pixels)._repr_png_()[:4] == b"\x89PNG"
    with pytest.raises(ValueError, match="the truth has shape"):
        run.show(pixels, truth[:5])


def test_figure(loaded, monkeypatch):
    pytest.importorskip("matplotlib", reason="matplotlib is not installed")
    figure = loaded[0].figure(picture(), np.zeros(SIZE, np.uint8))
    titles = [axis.get_title() for axis in figure.axes]
    assert titles == ["image", "truth", "prediction", "overlay"]
    legend = [text.get_text() for text in figure.legends[0].get_texts()]
    assert legend == list(CLASSES)


def test_figure_without_matplotlib(loaded, monkeypatch):
    monkeypatch.setattr(api.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match="pip install matplotlib, or show"):
        loaded[0].figure(picture())


# Treescope looks at all that NumPy and SciPy have, old names included.
@pytest.mark.filterwarnings("ignore:numpy.core:DeprecationWarning")
def test_what_notebooks_show(loaded):
    run = loaded[0]
    assert "resnet18 + fcn32s" in repr(run) and "step 7" in repr(run)
    html = run._repr_html_()
    assert "rgb(10, 20, 200)" in html and "sky" in html
    count = sum(leaf.size for leaf in jax.tree.leaves(loaded[2]["params"]))
    assert f"{count:,}" in html
    text = treescope.render_to_text(run)
    assert (
        text.startswith("SegmentationRun(")
        and "spec=LabelSpec(" in text
        and "'sky'" in text
    )
    head = treescope.render_to_text(run.variables["params"]["head"])
    assert "'kernel'" in head and "float32(1, 1, " in head


def test_programs_are_kept_per_bucket(loaded):
    network = loaded[0].views.network
    loaded[0].predict(np.zeros((40, 60, 3), np.uint8))
    before = network._cache_size()
    loaded[0].predict(np.zeros((64, 33, 3), np.uint8))
    assert network._cache_size() == before


def test_knobs_act(loaded, expected):
    """The mean over an image and its mirror image."""
    run = segjax.load(loaded[0].workdir, 7, {"eval.flip": True})
    mirrored = run.views(run.variables, picture())
    both = loaded[0].probabilities(picture()[:, ::-1])[:, ::-1]
    np.testing.assert_allclose(mirrored, (expected + both) / 2, atol=1e-4)
    with pytest.raises(ValueError, match="eval.flop is not a key"):
        segjax.load(loaded[0].workdir, overrides={"eval.flop": True})


def test_a_classifier(tmp_path):
    model, variables = make_run(tmp_path / "run", task="classification")
    run = segjax.load(tmp_path / "run")
    pixels = np.random.default_rng(0).integers(0, 256, (32, 64, 3), np.uint8)
    x = ((pixels / 255 - np.array(MEAN)) / np.array(STD)).astype(np.float32)
    wanted = np.asarray(jax.nn.softmax(logits_of(model)(variables, x[None])))[0]
    np.testing.assert_allclose(run.probabilities(pixels), wanted, atol=1e-5)
    assert run.predict(Image.fromarray(pixels)) == wanted.argmax()
    found = run.boxes(pixels)
    assert [guess["class_id"] for guess in found] == list(np.argsort(-wanted))
    assert found[0]["class"] == CLASSES[wanted.argmax()]
    assert found[0]["probability"] == pytest.approx(wanted.max(), abs=1e-5)
    # The activation map of the class, as the localizer has it, is drawn.
    _, _, heat = run.localizer(pixels)
    assert found[0]["box"] == list(cam.box(heat[0]))
    shown = np.asarray(run.show(pixels)).astype(int)
    factor = len(shown) // len(pixels)  # a small picture is enlarged
    under = drawing.heat_map(pixels, heat[0]).repeat(factor, 0).repeat(factor, 1)
    assert shown.shape == under.shape and (shown == under).all(-1).mean() > 0.5
    assert "network: resnet18, " in repr(run) and "sky" in run._repr_html_()


def test_no_run_is_told(tmp_path):
    with pytest.raises(ValueError, match="no config.json"):
        segjax.load(tmp_path)
    with pytest.raises(AttributeError, match="no attribute 'lod'"):
        segjax.lod  # noqa: B018


def test_importing_segjax_imports_nothing():
    code = (
        "import sys; before = set(sys.modules); import segjax; "
        "print(sorted(m for m in set(sys.modules) - before if '.' not in m))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.strip() == "['segjax']", done.stderr

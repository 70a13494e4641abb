"""Labels at the original size, and pictures that say what the labels say."""

import json
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh
from PIL import Image

from segjax import inference
from segjax.batch import IGNORE, LabelSpec
from segjax.data.pipeline import resize_image

SPEC = LabelSpec(("sky", "road", "car"), ((10, 20, 200), (90, 90, 90), (250, 0, 0)))
MEAN, STD = (0.4, 0.5, 0.6), (0.2, 0.3, 0.25)
WEIGHTS = np.random.default_rng(0).normal(size=(3, 3)).astype(np.float32)


def pixelwise_model():
    """Logits are a product of each pixel's own values; ``traced`` lists the shapes."""
    traced = []

    def apply(variables, image, train):
        assert not train
        traced.append(image.shape)
        return jnp.einsum("bhwc,ck->bhwk", image, variables["weights"])

    return SimpleNamespace(apply=apply, traced=traced)


def predictor(fit, **options):
    model = pixelwise_model()
    made = inference.Predictor(
        model,  # type: ignore
        {"weights": WEIGHTS},
        SPEC,
        mean=MEAN,
        std=STD,
        image_size=(24, 32),
        fit=fit,
        **options,
    )
    return made, model


def logits_of(image):
    x = image.astype(np.float64) / 255
    return ((x - MEAN) / STD) @ WEIGHTS.astype(np.float64)


def picture(h, w, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (h, w, 3), dtype=np.uint8)


def test_pad_is_exact_at_every_size_with_few_compilations():
    made, model = predictor("pad")
    for h, w in ((33, 50), (40, 64), (64, 33), (17, 9), (1, 1)):
        image = picture(h, w)
        want = logits_of(image)
        got = made.predict(image)
        assert got.shape == (h, w) and got.dtype == np.uint8
        np.testing.assert_array_equal(got, want.argmax(-1))
    assert sorted(model.traced) == [(1, 32, 32, 3), (1, 64, 64, 3)]
    image = picture(40, 50)
    np.testing.assert_allclose(made.logits(image), logits_of(image), atol=1e-4)
    exp = np.exp(logits_of(image))
    want = exp / exp.sum(-1, keepdims=True)
    np.testing.assert_allclose(made.probabilities(image), want, atol=1e-5)


def test_resize_goes_through_the_training_size_and_back():
    made, model = predictor("resize")
    for h, w in ((37, 50), (20, 41), (24, 32)):
        image = picture(h, w)
        small = logits_of(resize_image(image, (24, 32))).astype(np.float32)
        want = jax.image.resize(small, (h, w, 3), "bilinear", antialias=False)
        if (h, w) == (24, 32):
            want = small
        np.testing.assert_allclose(made.logits(image), want, atol=1e-4)
        np.testing.assert_array_equal(made.predict(image), np.argmax(want, -1))
    assert set(model.traced) == {(1, 24, 32, 3)}


def test_variables_on_a_mesh():
    mesh = Mesh(np.array(jax.devices()), ("data",))
    made, _ = predictor("pad", mesh=mesh)
    image = picture(20, 30)
    np.testing.assert_array_equal(made.predict(image), logits_of(image).argmax(-1))


def test_predictors_mistakes_are_named():
    with pytest.raises(ValueError, match="write 'pad' or 'resize'"):
        predictor("stretch")
    with pytest.raises(ValueError, match=r"give \[height, width, channels\]"):
        predictor("pad")[0].predict(np.zeros((4, 4), np.uint8))


LABEL = np.array([[0, 1, 2, IGNORE], [2, 2, 1, 0]], np.uint8)


def test_colorize_and_overlay():
    colours = inference.colorize(LABEL, SPEC)
    for place, class_id in np.ndenumerate(LABEL):
        want = (0, 0, 0) if class_id == IGNORE else SPEC.palette[class_id]
        assert tuple(colours[place]) == want
    image = picture(2, 4)
    mixed = inference.overlay(image, LABEL, SPEC, alpha=0.25)
    assert mixed.dtype == np.uint8
    want = 0.75 * image + 0.25 * colours
    want[0, 3] = image[0, 3]
    assert abs(mixed - want).max() <= 0.5


def test_a_palette_png_holds_ids_and_colours(tmp_path):
    path = inference.palette_png(tmp_path / "a.png", LABEL, SPEC)
    with Image.open(path) as image:
        assert image.mode == "P"
        np.testing.assert_array_equal(np.asarray(image), LABEL)
        rgba = np.asarray(image.convert("RGBA"))
    np.testing.assert_array_equal(rgba[..., :3], inference.colorize(LABEL, SPEC))
    np.testing.assert_array_equal(rgba[..., 3], np.where(LABEL == IGNORE, 0, 255))


def test_write_png(tmp_path):
    image = picture(5, 6)
    path = inference.write_png(tmp_path / "b.png", image)
    np.testing.assert_array_equal(np.asarray(Image.open(path)), image)


def test_display_image():
    image = picture(6, 7)
    np.testing.assert_array_equal(inference.display_image(image), image)
    fractions = (image / 255).astype(np.float32)
    np.testing.assert_array_equal(inference.display_image(fractions), image)
    gray = inference.display_image(image[..., :1])
    np.testing.assert_array_equal(gray, image[..., :1].repeat(3, -1))
    bands = np.concatenate([image, image], -1)
    np.testing.assert_array_equal(inference.display_image(bands), image)
    # 12 bits in 16: stretched to what is there.
    ramp = np.linspace(100, 4000, 1000).astype(np.uint16).reshape(20, 50, 1)
    shown = inference.display_image(ramp)
    assert shown.dtype == np.uint8 and shown.min() == 0 and shown.max() == 255
    assert abs(float(shown.mean()) - 127.5) < 2
    flat = inference.display_image(np.full((3, 3, 1), 7, np.uint16))
    assert (flat == 0).all()


def test_a_triptych_shows_all_three_and_a_legend():
    rows = []
    for h, w in ((30, 300), (20, 100)):
        truth = np.arange(h * w).reshape(h, w) % 3
        rows.append((picture(h, w), truth.astype(np.uint8), truth.astype(np.uint8)))
    rows[0][2][:] = 1
    got = inference.triptych(rows, SPEC)
    assert got.dtype == np.uint8 and got.shape[1] == 3 * 300 + 4
    np.testing.assert_array_equal(got[:30, :300], rows[0][0])
    np.testing.assert_array_equal(
        got[:30, 302:602], inference.colorize(rows[0][1], SPEC)
    )
    assert (got[:30, 604:904] == SPEC.palette[1]).all()
    # The second row is enlarged three times.
    np.testing.assert_array_equal(got[32:92:3, :300:3], rows[1][0])
    legend = got[94:].reshape(-1, 3)
    for colour in SPEC.palette:
        assert (legend == colour).all(1).sum() >= 100


def test_a_legend_wraps_and_keeps_every_colour():
    names = tuple(f"quite a long class name {i}" for i in range(30))
    spec = LabelSpec(names, tuple((i, 200 - i, 77) for i in range(30)))
    label = np.zeros((10, 10), np.uint8)
    got = inference.triptych([(picture(10, 10), label, label)], spec)
    legend = {tuple(colour) for colour in got[242:].reshape(-1, 3)}
    assert set(spec.palette) <= legend


def test_boxes_of_a_hand_worked_case():
    label = np.zeros((10, 12), np.uint8)
    label[1:4, 2:7] = 2  # 15 pixels
    label[6:8, 0:2] = 1  # 4, and a diagonal neighbour
    label[8, 2] = 1
    label[9, 11] = 2  # too small
    label[0, 0] = IGNORE
    probabilities = np.full((10, 12, 3), 0.1, np.float32)
    probabilities[1:4, 2:7, 2] = np.linspace(0.5, 0.9, 15).reshape(3, 5)
    found = inference.boxes(label, SPEC, probabilities, min_area=2)
    assert json.loads(json.dumps(found)) == found
    assert [(f["class"], f["class_id"], f["box"], f["area"]) for f in found] == [
        ("sky", 0, [0, 0, 12, 10], 98),
        ("car", 2, [2, 1, 7, 4], 15),
        ("road", 1, [0, 6, 3, 9], 5),
    ]
    assert found[1]["score"] == pytest.approx(0.7)
    assert [f["score"] for f in inference.boxes(label, SPEC)] == [None]
    assert inference.boxes(np.full((3, 3), IGNORE, np.uint8), SPEC) == []

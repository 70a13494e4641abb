"""Pictures that say what the labels say."""

import numpy as np
from PIL import Image

from segjax import inference
from segjax.batch import IGNORE, LabelSpec

SPEC = LabelSpec(("sky", "road", "car"), ((10, 20, 200), (90, 90, 90), (250, 0, 0)))


def picture(h, w, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (h, w, 3), dtype=np.uint8)


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


def test_examples_of_one_name_in_two_folders_are_two_pictures(tmp_path):
    image, label = np.zeros((4, 6, 3), np.uint8), np.zeros((4, 6), np.uint8)
    ids = ("a/01", "b/01", "overview", "../c")
    examples = [{"id": name, "image": image, "label": label} for name in ids]
    inference.draw_examples(tmp_path, examples, dict.fromkeys(range(4), label), SPEC)
    found = sorted(p.relative_to(tmp_path).as_posix() for p in tmp_path.rglob("*.png"))
    names = ["a/01.png", "b/01.png", "c.png", "overview.png", "overview.png.png"]
    assert found == names

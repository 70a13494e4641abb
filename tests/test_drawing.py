"""Drawings: pixels that have to change do, and no others."""

import numpy as np

from segjax import drawing, regions
from segjax.batch import IGNORE, LabelSpec

SPEC = LabelSpec(("sky", "road", "car"), ((10, 20, 200), (90, 90, 90), (250, 0, 0)))


def gray(h, w, value=128):
    return np.full((h, w, 3), value, np.uint8)


def test_contours_follow_the_insides_of_regions():
    label = np.zeros((40, 50), np.uint8)
    label[10:30, 20:40] = 2
    label[10:12, 20:40] = IGNORE
    got = drawing.contours(gray(40, 50), label, SPEC)
    # One pixel wide at this size; the region below the ignored strip has four sides.
    want = gray(40, 50)
    want[9:31, 19:41] = SPEC.palette[0]
    want[10:30, 20:40] = SPEC.palette[2]
    want[10:12, 20:40] = 128
    want[13:29, 21:39] = 128
    np.testing.assert_array_equal(got, want)
    assert drawing.line_width((360, 480)) == 1 and drawing.line_width((900, 1600)) == 4
    halves = np.zeros((900, 1600), np.uint8)
    halves[:, 800:] = 1
    wide = drawing.contours(gray(900, 1600), halves, SPEC)
    assert (wide[:, 796:800] == SPEC.palette[0]).all() and (wide[:, :796] == 128).all()
    assert (wide[:, 800:804] == SPEC.palette[1]).all() and (wide[:, 804:] == 128).all()


def test_boxes_are_framed_and_named():
    label = np.zeros((100, 250), np.uint8)
    label[20:90, 30:120] = 2
    label[95:97, 180:183] = 1
    found = regions.describe(regions.find(label, 3, min_area=5), SPEC, (100, 250))
    image = gray(100, 250)
    got = drawing.boxes(image, found, SPEC.palette)
    assert (image == 128).all() and got.shape == image.shape
    for x0, y0, x1, y1 in ((30, 20, 120, 90), (180, 95, 183, 97)):
        colour = SPEC.palette[label[y0, x0]]
        for x, y in ((x1 - 1, y1 - 1), (x1 - 1, (y0 + y1) // 2), (x0, y1 - 1)):
            assert tuple(got[y, x]) == colour
    # The car's name stands above its box, and is wider than it is high.
    tag = (got[:20] == SPEC.palette[2]).all(-1)
    rows, columns = tag.nonzero()
    assert np.ptp(columns) > np.ptp(rows) > 5 and columns.min() == 30
    # Nothing is drawn inside the car but the dark line.
    inside = got[25:80, 35:115]
    assert (inside == 128).all()


def test_small_pictures_are_enlarged_for_their_boxes():
    box = {"class": "car", "class_id": 2, "box": [2, 1, 6, 7], "score": 0.5}
    got = drawing.boxes(gray(8, 8), [box], SPEC.palette)
    assert got.shape == (240, 240, 3)
    assert tuple(got[209, 179]) == tuple(got[120, 60]) == SPEC.palette[2]
    assert tuple(got[210, 180]) == tuple(got[120, 120]) == (128, 128, 128)


def test_names_do_not_cover_each_other(monkeypatch):
    places = [(10, 10, 150, 90), (12, 12, 148, 88), (14, 14, 146, 86), (0, 0, 199, 99)]
    names = ("sky", "road", "car", "sky")
    found = [
        {"class": n, "class_id": i % 3, "box": list(box), "score": None}
        for i, (n, box) in enumerate(zip(names, places, strict=True))
    ]
    tags, original = [], drawing._tag

    def noted(draw, box, colour, taken):
        original(draw, box, colour, taken)
        tags[:] = taken

    monkeypatch.setattr(drawing, "_tag", noted)
    drawing.boxes(gray(150, 300), found, SPEC.palette)
    assert len(tags) == 4
    for i, a in enumerate(tags):
        assert 0 <= a[0] and a[2] <= 300 and 0 <= a[1] and a[3] <= 150
        for b in tags[i + 1 :]:
            assert a[0] >= b[2] or b[0] >= a[2] or a[1] >= b[3] or b[1] >= a[3]


def test_a_heat_map_goes_from_blue_to_red():
    heat = np.array([[0.0, 0.25, 0.5, 1.0]])
    got = drawing.heat_map(gray(1, 4, 100), heat, alpha=0.5)
    blue, red = got[0, 0].astype(int), got[0, 3].astype(int)
    assert blue[2] > blue[0] and red[0] > red[2]
    np.testing.assert_array_equal(got[0, 1], [50, 80, 178])
    plain = drawing.heat_map(gray(1, 4, 100), heat, alpha=0.0)
    assert (plain == 100).all()

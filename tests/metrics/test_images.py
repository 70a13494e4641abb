"""Single images and the worst of them."""

import json

import numpy as np
import pytest

from segjax.metrics.images import summarize_images


@pytest.mark.parametrize("count, worst", [(1, 1), (20, 1), (21, 2), (40, 2), (60, 3)])
def test_the_worst_five_percent_are_named(count, worst):
    miou = np.random.default_rng(count).permutation(count) / count
    ids = [f"image_{i}" for i in range(count)]
    got = summarize_images(miou, miou, ids)
    order = sorted(range(count), key=lambda i: miou[i])[:worst]
    assert [x["id"] for x in got["worst_images"]] == [ids[i] for i in order]
    assert got["worst_miou"] == pytest.approx(sum(miou[i] for i in order) / worst)
    assert got["image_miou"] == pytest.approx(sum(miou) / count)
    assert [x["id"] for x in got["images"]] == ids


def test_images_without_a_score_are_left_out():
    miou = np.array([0.5, np.nan, 0.25])
    got = summarize_images(miou, miou, ["a", "b", "c"])
    assert got["worst_images"] == [{"id": "c", "miou": 0.25}]
    assert got["images"][1] == {"id": "b", "miou": None, "pixel_accuracy": None}
    assert got["image_miou"] == 0.375
    json.dumps(got, allow_nan=False)
    nothing = summarize_images(miou[1:2], miou[1:2], ["b"])
    assert nothing["worst_miou"] is None and nothing["worst_images"] == []

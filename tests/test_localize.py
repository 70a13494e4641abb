"""Predictions of a classifier that knows colours: where they are is known, too."""

import json
from types import SimpleNamespace

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh
from PIL import Image

from segjax import cam, setup
from segjax import config as configs
from segjax.batch import ClassSpec
from segjax.localize import Localizer
from segjax.main import main
from segjax.models import build_classifier
from segjax.models.classifier import Classifier
from segjax.models.heads import PoolDense
from segjax.models.layers import Features, Layers
from segjax.preprocessing import Preprocessing

SPEC = ClassSpec(("red", "green", "blue"))


class Colours(nn.Module):
    """Means over blocks of 4 x 4 pixels."""

    @nn.compact
    def __call__(self, image, *, train):
        return Features((nn.avg_pool(image, (4, 4), (4, 4)),))


@pytest.fixture
def parts(monkeypatch):
    """A run whose network sees 32 x 40 pixels; the last layer is the identity."""
    config = configs.default()
    config.task, config.data.fit = "classification", "resize"
    layers = Layers()
    head = PoolDense(3, layers)
    made = SimpleNamespace(
        config=config,
        spec=SPEC,
        pre=Preprocessing(3, (32, 40), "resize", (0.0,) * 3, (0.05,) * 3),
        mesh=Mesh(
            np.array(jax.devices()[:1]).reshape(1, 1, 1), ("data", "fsdp", "spatial")
        ),
        model=Classifier(Colours(), head, 3, 3, layers),
        dtype=jnp.float32,
    )
    dense = {"kernel": jnp.eye(3), "bias": jnp.array([0.0, 0.0, 0.5])}
    variables = {"params": {"head": {"dense": dense}}, "batch_stats": {}}
    monkeypatch.setattr(setup, "load_parts", lambda *_, **__: made)
    monkeypatch.setattr(setup, "restore_variables", lambda *_: (variables, 3))
    made.variables = variables
    return made


def photo(box, colour, size=(64, 80)):
    """Black, but for a box of a colour."""
    image = np.zeros((*size, 3), np.uint8)
    x0, y0, x1, y1 = box
    image[y0:y1, x0:x1] = colour
    return image


def test_predict_says_what_it_is_and_where(parts, tmp_path, capsys):
    Image.fromarray(photo((16, 8, 40, 32), (250, 0, 0))).save(tmp_path / "a.png")
    Image.fromarray(photo((40, 24, 80, 48), (0, 250, 0))).save(tmp_path / "b.png")
    (tmp_path / "c.png").write_bytes(b"nothing")
    out = tmp_path / "out"
    arguments = ["--input", str(tmp_path), "--output", str(out)]
    assert main(["predict", "--workdir", "w", *arguments]) == 2
    said = capsys.readouterr()
    assert "1 of 3 files failed" in said.err and "c.png" in said.err
    assert "a.png: red 0." in said.out and said.out.rstrip().endswith("MPix/s")
    told = json.loads((out / "predictions.json").read_text())
    assert told["classes"] == ["red", "green", "blue"] and told["step"] == 3
    assert [image["class"] for image in told["images"]] == ["red", "green"]
    for image, box in zip(
        told["images"], [(16, 8, 40, 32), (40, 24, 80, 48)], strict=True
    ):
        assert image["size"] == [64, 80] and image["box"] == image["best"][0]["box"]
        # Positions are 8 pixels wide here, and the map is interpolated between them.
        assert np.abs(np.array(image["box"]) - box).max() <= 8
        assert len(image["best"]) == 3
        assert sum(b["probability"] for b in image["best"]) == pytest.approx(
            1, abs=1e-5
        )
    assert sorted(p.name for p in out.iterdir()) == [
        *("a_cam.png", "b_cam.png", "predictions.json")
    ]
    with Image.open(out / "a_cam.png") as picture:
        heated = np.asarray(picture).astype(int)
    assert heated.shape == (3 * 64, 3 * 80, 3)  # small pictures are enlarged
    # Hot in the middle of the box, cold elsewhere.
    assert heated[3 * 20, 3 * 28, 0] > heated[3 * 20, 3 * 28, 2]
    assert heated[3 * 60, 3 * 70, 2] > heated[3 * 60, 3 * 70, 0]
    assert main(["predict", "--workdir", "w", *arguments, "--write", "label"]) == 2
    assert "this run's pictures are cam" in capsys.readouterr().err


def test_the_heat_is_that_of_the_positions(parts):
    image = photo((16, 8, 40, 32), (250, 0, 0))
    probabilities, classes, heat = Localizer(parts, parts.variables)(image)
    mean = np.array([250 / 255 / 0.05 * (24 * 24) / (64 * 80), 0, 0.5])
    want = np.exp(mean) / np.exp(mean).sum()
    np.testing.assert_allclose(probabilities, want, atol=1e-4)
    np.testing.assert_array_equal(classes, [0, 2, 1])
    assert heat.shape == (3, 64, 80) and heat[0].max() == 1 and (heat[2] == 0).all()
    # Halving the image blurs the edges a little.
    np.testing.assert_allclose(heat[0, 16:24, 24:32], 1, atol=0.05)
    assert (heat[0, 44:] < 0.01).all() and (heat[0, :, 52:] < 0.01).all()


def test_there_is_no_heat_beyond_a_central_crop(parts):
    parts.config.data.fit, parts.config.eval.crop = "pad", 0.5
    parts.pre = Preprocessing(3, (32, 40), "pad", (0.0,) * 3, (0.05,) * 3)
    _, classes, heat = Localizer(parts, parts.variables)(
        np.full((64, 80, 3), (0, 0, 250), np.uint8)
    )
    want = np.zeros((64, 80))
    want[16:48, 20:60] = 1  # half of each side
    assert classes[0] == 2
    np.testing.assert_allclose(heat[0], want, atol=1e-6)


def test_a_network_without_maps_is_still_a_classifier(parts, monkeypatch):
    assert not cam.has_maps(build_classifier("vit_small", 3))
    monkeypatch.setattr(cam, "has_maps", lambda model: False)
    image = photo((16, 8, 40, 32), (250, 0, 0))
    probabilities, classes, heat = Localizer(parts, parts.variables, best=2)(image)
    assert probabilities.shape == (3,) and classes.tolist() == [0, 2]
    assert heat.shape == (0, 64, 80)

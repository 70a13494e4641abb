"""The README's commands for a folder of one's own, from masks without classes.json."""

import json
import re

import numpy as np
import pytest
import tifffile
from PIL import Image

from segjax.main import main
from tests.runs import narrow

INK = {"sky": (70, 130, 180), "road": (128, 64, 128), "car": (0, 0, 142)}


def scene(rng, height, width):
    """Sky over a road with a car: ids, and colours with some noise."""
    ids = np.zeros((height, width), np.uint8)
    ids[height // 2 :] = 1
    y, x = rng.integers(0, (height - 16, width - 24))
    ids[y : y + 16, x : x + 24] = 2
    tone = np.array([[0.4, 0.6, 0.9], [0.3, 0.3, 0.3], [0.9, 0.1, 0.1]])[ids]
    return ids, np.clip(tone + rng.normal(0, 0.05, tone.shape), 0, 1)


def write(folder, name, kind, image):
    if kind == "photos":
        picture = Image.fromarray(np.uint8(image * 255))
        picture.save(folder / f"{name}{'.jpg' if name.endswith('1') else '.png'}")
    elif kind == "16 bits":
        tifffile.imwrite(
            folder / f"{name}.tif", np.uint16(image * 65535), photometric="rgb"
        )
    else:
        bands = np.concatenate([image, image[..., :2]], axis=2)
        tifffile.imwrite(folder / f"{name}.tif", np.float32(bands))


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["photos", "16 bits", "5 channels"])
def test_a_folder_of_coloured_masks_becomes_a_report(
    tmp_path, monkeypatch, capsys, kind
):
    narrow(monkeypatch, "resnet18")
    rng, root = np.random.default_rng(0), tmp_path / "mydata"
    for part in ("images", "masks"):
        (root / part).mkdir(parents=True)
    palette = np.array([*INK.values()], np.uint8)
    for index in range(20):
        ids, image = scene(rng, *rng.integers(48, 97, 2))
        write(root / "images", f"{index:02}", kind, image)
        Image.fromarray(palette[ids]).save(root / "masks" / f"{index:02}.png")

    config = ["--config", "configs/folder.py", f"--config.data.root={root}"]
    doctor = ["doctor", *config, "--output", str(tmp_path / "doctor.json")]
    assert main(doctor) == 1
    told = capsys.readouterr().out
    proposed = json.loads(re.search(r"(?s)^\[\n.*?^\]$", told, re.MULTILINE)[0])
    names = {colour: name for name, colour in INK.items()}
    for entry in proposed:
        entry["name"] = names[tuple(entry["color"])]
    (root / "classes.json").write_text(json.dumps(proposed))
    assert main(doctor) == 0

    run = str(tmp_path / "run")
    small = ["steps=40", "data.image_size=64", "data.batch_size=8", "optim.lr=0.01"]
    train = [*config, *(f"--config.{text}" for text in small), "--workdir", run]
    assert main(["train", *train]) == 0
    capsys.readouterr()
    assert main(["evaluate", "--workdir", run]) == 0
    assert "car" in capsys.readouterr().out
    found = json.loads((tmp_path / "run" / "eval_val.json").read_text())
    # The three are told apart by their colours.
    assert found["miou"] > 0.8 and found["images"]
    assert main(["report", "--workdir", run]) == 0
    (page,) = (tmp_path / "run").glob("*.html")
    assert "car" in page.read_text()
    out = tmp_path / "out"
    images = str(root / "images")
    predict = ["predict", "--workdir", run, "--input", images, "--output", str(out)]
    assert main(predict) == 0
    boxes = json.loads((out / "boxes.json").read_text())
    assert len(boxes["images"]) == 20
    for index in range(20):
        with Image.open(out / f"{index:02}.png") as label:
            with Image.open(root / "masks" / f"{index:02}.png") as mask:
                assert label.size == mask.size and label.mode == "P"

"""benchmarks.speed.input: what is compared, and what the table says of a record."""

import importlib.util
import json

import numpy as np
import pytest
from PIL import Image

from benchmarks import record
from benchmarks.speed import input as bench


def test_the_table_by_hand():
    speeds = {"torch": [10.0, 20.0, 10.0], "decoding": [30.0, 40.0, 10.0]}
    row = {"images_per_s": speeds | {"run": [100.0] * 3}, "epochs": 20.0, "commit": "c"}
    row |= {"others_busy": 0.25, "milliseconds": {"fit": 1.234}}
    platform = {"threads": 2, "processor": "P"}
    environment = {"platform": platform, "versions": {"python": "3"}}
    content = {"command": "x", "environment": environment, "rows": {"data": row}}
    first, second = bench.render(content).splitlines()[2:4]
    assert first == "| data | decoding | 30 | 10 | 2.00 (1.00-3.00) | 3 | 25% |"
    assert "| data | fit | 1.23 |" in bench.render(content)
    assert second.startswith("| data | run of 20 epochs (from the two) | 100 | 10 | 10")


def test_the_page_has_the_tables_of_the_record():
    page = (record.ROOT / "docs" / "speed_input.md").read_text()
    assert bench.render(record.read(bench.RECORD)) in page


@pytest.fixture
def camvid(tmp_path, monkeypatch):
    """A CamVid of two noisy images of 24x32."""
    rng = np.random.default_rng(0)
    for name in ("train", "trainannot"):
        (tmp_path / "CamVid" / name).mkdir(parents=True)
    lines = []
    for key in "ab":
        image = rng.integers(0, 256, (24, 32, 3)).astype(np.uint8)
        label = rng.integers(0, 12, (24, 32)).astype(np.uint8)
        Image.fromarray(image).save(tmp_path / f"CamVid/train/{key}.png")
        Image.fromarray(label).save(tmp_path / f"CamVid/trainannot/{key}.png")
        lines.append(
            f"/SegNet/CamVid/train/{key}.png /SegNet/CamVid/trainannot/{key}.png"
        )
    (tmp_path / "CamVid" / "train.txt").write_text("\n".join(lines))
    monkeypatch.setenv("SEGJAX_DATA", str(tmp_path))
    return bench.Task.of("camvid", ["--config.data.batch_size=2"], None)


def test_the_jpegs_are_a_folder_of_the_same_labels(camvid, tmp_path):
    folder = tmp_path / "jpegs"
    folder.mkdir()
    bench.write_jpegs(camvid.source, folder)
    overrides = bench.jpeg_overrides(folder)
    task = bench.Task.of("jpeg512", [*overrides, "--config.data.batch_size=2"], None)
    assert (len(task.source), task.batches) == (2, 1)
    example = task.source[0]
    assert example["image"].shape == (512, 512, 3)
    assert set(np.unique(example["label"])) == set(np.unique(camvid.source[0]["label"]))
    assert json.loads((folder / "classes.json").read_text())["ignore"] == [255]


@pytest.mark.skipif(
    importlib.util.find_spec("albumentations") is None, reason="extra [bench]"
)
def test_both_read_the_same_and_other_labels_are_refused(camvid):
    assert bench.agree(camvid) == 0  # PNGs lose nothing
    other = bench.Albumented(camvid)
    image, mask = other[0]
    assert tuple(image.shape) == (3, 180, 240) and tuple(mask.shape) == (180, 240)
    wrong = np.asarray(Image.open(camvid.pairs[0].mask)) * 0
    Image.fromarray(wrong).save(camvid.pairs[0].mask)
    camvid.source.__dict__["_pairs"] = camvid.source._pairs[::-1]
    with pytest.raises(ValueError, match="nothing is timed"):
        bench.agree(camvid)

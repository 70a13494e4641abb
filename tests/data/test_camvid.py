"""CamVid's layout on made files, and the real data where it is there."""

import numpy as np
import pytest
from PIL import Image

from segjax.batch import IGNORE
from segjax.data.camvid import SPEC, CamVid, splits
from tests.requirements import require_data


@pytest.fixture
def root(tmp_path):
    rng = np.random.default_rng(0)
    for split, names in {"train": "ab", "test": "c"}.items():
        lines = []
        for name in names:
            for folder, array in (
                (split, rng.integers(0, 255, (6, 8, 3), np.uint8)),
                (f"{split}annot", np.arange(48, dtype=np.uint8).reshape(6, 8) % 12),
            ):
                (tmp_path / folder).mkdir(exist_ok=True)
                Image.fromarray(array).save(tmp_path / folder / f"{name}.png")
            prefix = "/SegNet/CamVid/"
            lines.append(f"{prefix}{split}/{name}.png {prefix}{split}annot/{name}.png")
        (tmp_path / f"{split}.txt").write_text("\n".join(lines) + "\n")
    return tmp_path


def test_any_split_with_a_list(root):
    assert splits(root) == ("test", "train")
    source = CamVid(root, "test")
    assert source.ids() == ("c",) and source.channels == 3 and source.size(0) == (6, 8)
    label = source[0]["label"]
    stored = np.arange(48).reshape(6, 8) % 12
    np.testing.assert_array_equal(label, np.where(stored == 11, IGNORE, stored))
    np.testing.assert_array_equal(
        source[0]["image"], np.asarray(Image.open(root / "test" / "c.png"))
    )


def test_root_from_the_environment(root, monkeypatch):
    (root / "here").mkdir()
    monkeypatch.setenv("SEGJAX_DATA", str(root / "here"))
    with pytest.raises(
        ValueError, match="camvid: .*here/CamVid is not a folder; set da"
    ):
        CamVid(None, "train")
    (root / "here" / "CamVid").symlink_to(root)
    assert len(CamVid(None, "train")) == 2
    monkeypatch.delenv("SEGJAX_DATA")
    with pytest.raises(
        ValueError, match="set data.root to the CamVid folder, or SEGJAX"
    ):
        splits(None)


def test_wrong_lists(root):
    with pytest.raises(
        ValueError, match=r"no split 'val': .*val\.txt is missing; have te"
    ):
        CamVid(root, "val")
    (root / "trainannot" / "b.png").unlink()
    with pytest.raises(
        ValueError, match=r"train\.txt: lists .*trainannot/b\.png, which d"
    ):
        CamVid(root, "train")
    (root / "val.txt").write_text("train/a.png\n")
    with pytest.raises(
        ValueError, match=r"val\.txt:1: a line is 'image mask', found 'tr"
    ):
        CamVid(root, "val")
    (root / "val.txt").write_text("\n")
    with pytest.raises(ValueError, match="split 'val' is empty"):
        CamVid(root, "val")


def test_names_and_palette_are_segnets():
    assert SPEC.num_classes == 11
    table = dict(zip(SPEC.names, SPEC.palette, strict=True))
    assert table["sky"] == (128, 128, 128) and table["bicyclist"] == (0, 128, 192)
    assert table["pavement"] == (60, 40, 222) and SPEC.lookup()[11] == IGNORE


def test_real_data():
    root = require_data("CamVid")
    assert {"train", "val"} <= set(splits(root))
    train, val = CamVid(root, "train"), CamVid(root, "val")
    assert (len(train), len(val)) == (367, 101)
    assert train.size(0) == val.size(100) == (360, 480)
    assert not set(train.ids()) & set(val.ids())
    # The published shares of the training pixels (percent), on every tenth image.
    counts = np.zeros(256, np.int64)
    for index in range(0, 367, 10):
        got = train[index]
        assert got["image"].shape == (360, 480, 3) and got["image"].dtype == np.uint8
        counts += np.bincount(got["label"].ravel(), minlength=256)
    shares = 100 * counts / counts.sum()
    want = [16.9, 23.3, 1.0, 31.7, 4.5, 9.7, 1.2, 1.1, 5.9, 0.6, 0.3]
    np.testing.assert_allclose(shares[:11], want, atol=2.0)
    assert shares[IGNORE] == pytest.approx(4.0, abs=1.0)
    assert counts[11:255].sum() == 0

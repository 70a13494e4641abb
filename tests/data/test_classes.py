"""Sources with one class per image, and their batches."""

import gzip
import hashlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import segjax.data
from segjax.batch import NO_CLASS, ClassSpec
from segjax.config import CHOICES, DATA_OF_TASK
from segjax.data import SOURCES, digits, open_source, splits
from segjax.data.image_batches import image_batches, whole_or_centre
from segjax.data.pipeline import example_indices, train_batches
from segjax.data.shapes import SPEC, ShapeClasses, Shapes, render


def write(path, value=0, size=(6, 8), mode="RGB"):
    path.parent.mkdir(parents=True, exist_ok=True)
    shape = (*size, 3) if mode == "RGB" else size
    Image.fromarray(np.full(shape, value, np.uint8)).save(path)


@pytest.fixture
def root(tmp_path):
    """train: 3 cats (one deeper), 2 dogs; val: 1 dog."""
    for place, value in (("train/cat/a", 1), ("train/cat/b", 2), ("train/cat/x/a", 3)):
        write(tmp_path / f"{place}.png", value)
    write(tmp_path / "train/dog/a.png", 4, (5, 9))
    write(tmp_path / "train/dog/B.PNG", 5)
    write(tmp_path / "val/dog/a.png", 6)
    (tmp_path / "train/dog/notes.txt").write_text("no image")
    return tmp_path


def test_the_config_knows_the_same_datasets():
    assert {task: tuple(known) for task, known in SOURCES.items()} == DATA_OF_TASK
    assert set(CHOICES["data.name"]) == set(segjax.data.NAMES)


def test_folders_are_classes_and_their_files_examples(root):
    assert splits("class_folder", root=str(root)) == ("train", "val")
    source = open_source("class_folder", "train", root=root, task="classification")
    assert source.spec == ClassSpec(("cat", "dog")) and source.channels == 3
    found = {e["id"]: e for e in (source[i] for i in range(len(source)))}
    assert list(found) == list(source.ids())
    labels = {name: int(e["label"]) for name, e in found.items()}
    values = {name: int(e["image"][0, 0, 0]) for name, e in found.items()}
    assert labels == {
        **{"cat/a.png": 0, "cat/b.png": 0, "cat/x/a.png": 0},
        **{"dog/a.png": 1, "dog/B.PNG": 1},
    }
    assert values["cat/x/a.png"] == 3 and values["dog/B.PNG"] == 5
    assert source.size(source.ids().index("dog/a.png")) == (5, 9)
    assert found["cat/a.png"]["label"].dtype == np.int32
    val = open_source("class_folder", "val", root=root, task="classification")
    assert val.spec == source.spec and int(val[0]["label"]) == 1


def test_without_splits_each_file_has_its_own_by_its_name(tmp_path):
    for name in ("cat", "dog"):
        for i in range(40):
            write(tmp_path / name / f"{i}.png", i, (2, 2))

    def ids(split, **options):
        options = {"root": tmp_path, "task": "classification"} | options
        return set(open_source("class_folder", split, **options).ids())

    train, val = ids("train"), ids("val")
    assert not train & val and len(train | val) == 80 and 5 < len(val) < 30
    write(tmp_path / "dog" / "new.png")
    assert ids("val") - {"dog/new.png"} == val
    assert ids("val", seed=1) != val
    assert len(ids("train", val_fraction=0.0)) == 81


@pytest.mark.parametrize(
    "change, split, message",
    [
        (lambda r: None, "test", "no split 'test'; it has train, val"),
        (lambda r: write(r / "val/cow/a.png"), "val", "no class of .*train.* cow"),
        (lambda r: (r / "val/dog/a.png").unlink(), "val", "'val' is empty: no images"),
        (lambda r: write(r / "train/dog/g.png", mode="L"), "train", None),
        (
            lambda r: (r / "train/cat/a.png").write_bytes(b"\x89PNG\r\n\x1a\n"),
            "train",
            "cat/a.png: unreadable or truncated",
        ),
    ],
)
def test_mistakes_in_folders(root, change, split, message):
    change(root)

    def read():
        source = open_source("class_folder", split, root=root, task="classification")
        return [source[i] for i in range(len(source))]

    if message is None:  # grey among colours is widened
        assert all(e["image"].shape[2] == 3 for e in read())
        return
    with pytest.raises(ValueError, match=message) as caught:
        read()
    assert "\n" not in str(caught.value)


def test_roots_and_tasks_that_do_not_fit(root, tmp_path):
    for place, message in ((None, "set data.root"), (tmp_path / "no", "not a folder")):
        with pytest.raises(ValueError, match=f"class_folder: .*{message}"):
            open_source("class_folder", "train", root=place, task="classification")
    with pytest.raises(ValueError, match="'digits' comes with segjax.*leave data.root"):
        open_source("digits", "train", root=str(root), task="classification")
    with pytest.raises(ValueError, match="no labels for task='segmentation'.*camvid"):
        open_source("digits", "train")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="has no folders; put the images of each"):
        open_source(
            "class_folder", "train", root=tmp_path / "empty", task="classification"
        )


def test_digits_are_scikit_learns_file():
    path = Path(digits.__file__).with_name("digits.csv.gz")
    assert hashlib.sha256(path.read_bytes()).hexdigest() == (
        "09f66e6debdee2cd2b5ae59e0d6abbb73fc2b0e0185d2e1957e9ebb51e23aa22"
    )
    rows = gzip.decompress(path.read_bytes()).decode().split()
    train, val = (
        open_source("digits", split, task="classification", channels=channels)
        for split, channels in (("train", None), ("val", 1))
    )
    assert (len(train), len(val)) == (1437, 360) == (1437, len(rows) - 1437)
    # The published numbers of each digit (UCI, "in testing set").
    both = [int(s[i]["label"]) for s in (train, val) for i in range(len(s))]
    counts = [178, 182, 177, 183, 181, 182, 181, 179, 174, 180]
    assert np.bincount(both).tolist() == counts
    for source, row in ((train, 0), (val, 1437)):
        want = [float(v) for v in rows[row].split(",")]
        example = source[0]
        assert int(example["label"]) == want[64]
        scaled = np.rint(np.array(want[:64]).reshape(8, 8) * 255 / 16)
        for channel in range(source.channels):
            np.testing.assert_array_equal(example["image"][:, :, channel], scaled)
    with pytest.raises(ValueError, match="channels=2: 'digits' has 1 or 3"):
        open_source("digits", "train", task="classification", channels=2)


def test_a_scene_of_one_object_is_of_its_class():
    source = ShapeClasses("train", image_size=48, train_examples=120)
    assert source.spec.names == SPEC.names[2:]
    seen = set()
    for index in range(len(source)):
        example = source[index]
        rng = np.random.default_rng([0, 0, index, 1])
        image, label = render(rng, 48, 48, objects=1)
        np.testing.assert_array_equal(example["image"], image)
        (kind,) = set(np.unique(label)) - {0, 1, 255}
        assert int(example["label"]) == kind - 2
        seen.add(kind)
    assert seen == set(range(2, 8))
    assert (Shapes("train", image_size=48)[0]["image"] != source[0]["image"]).any()


class Numbered:
    """Example i: an image full of i, of mixed sizes; its class is i modulo 300."""

    spec = ClassSpec(tuple(map(str, range(300))))
    split = "numbered"
    channels = 3

    def __len__(self):
        return 11

    def size(self, index):
        return ((6, 8), (8, 6), (12, 5))[index % 3]

    def ids(self):
        return [str(i) for i in range(11)]

    def __getitem__(self, index):
        image = np.full((*self.size(index), 3), index, np.uint8)
        return {"image": image, "label": np.asarray(index + 250), "id": str(index)}


@pytest.mark.parametrize("fit", ["resize", "pad"])
def test_training_batches_have_the_class_of_each_image(fit):
    source = Numbered()
    stream = train_batches(
        source, seed=3, start_step=5, batch_size=4, buffer=(9, 9), fit=fit
    )
    for step in (5, 6):
        batch = next(stream)
        indices = example_indices(3, step, 4, 11)
        np.testing.assert_array_equal(batch["label"], indices + 250)
        np.testing.assert_array_equal(batch["image"][:, 0, 0, 0], indices)
        assert batch["image"].shape == (4, 9, 9, 3)
    stream.close()


@pytest.mark.parametrize("processes", [1, 2])
def test_evaluation_batches_cover_every_image_once(processes):
    source, seen, fillers = Numbered(), [], 0
    shares = [
        list(
            image_batches(
                source,
                batch_size=4,
                size=(5, 7),
                crop=1.0,
                process_index=p,
                process_count=processes,
            )
        )
        for p in range(processes)
    ]
    for number, parts in enumerate(zip(*shares, strict=True)):
        label = np.concatenate([batch["label"] for _, batch in parts])
        image = np.concatenate([batch["image"] for _, batch in parts])
        assert image.shape == (4, 5, 7, 3) and label.dtype == np.int32
        for indices, _ in parts:
            assert list(indices) == list(range(11))[4 * number : 4 * number + 4]
        kept = label != NO_CLASS
        np.testing.assert_array_equal(image[kept, 0, 0, 0], label[kept] - 250)
        seen += (label[kept] - 250).tolist()
        fillers += int((~kept).sum())
    assert seen == list(range(11)) and fillers == 1


def test_the_centre_is_what_torchvision_takes_of_a_resized_image():
    # Of an image whose value is its column: the middle, and the scale of the crop.
    image = np.tile(np.arange(96, dtype=np.float32)[None, :, None], (64, 1, 1))
    for crop, size in ((0.875, (28, 28)), (1.0, (32, 16)), (0.5, (16, 32))):
        found = whole_or_centre(image, size, crop)[:, :, 0]
        assert found.shape == size
        np.testing.assert_allclose(found.mean(), 95 / 2, atol=0.02)
        scale = crop * min(64 / size[0], 96 / size[1])
        step = (found[0, -2] - found[0, 1]) / (size[1] - 3)
        np.testing.assert_allclose(step, scale, rtol=0.02)
    whole = whole_or_centre(image, (32, 48), None)
    np.testing.assert_allclose(whole[0, 1:-1, 0], 2 * np.arange(1, 47) + 0.5)


def test_images_of_two_types_are_not_mixed():
    class Mixed(Numbered):
        def __getitem__(self, index):
            example = super().__getitem__(index)
            if index == 2:
                example["image"] = example["image"].astype(np.uint16)
            return example

    with pytest.raises(ValueError, match="2 is uint16 but the image before it uint8"):
        list(image_batches(Mixed(), batch_size=4, size=(5, 7), crop=None))

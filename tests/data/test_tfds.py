"""tensorflow-datasets without TensorFlow: builders that the tests write and prepare."""

import io
import pickle
import re
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from segjax.batch import IGNORE
from segjax.data.catalog import ADE20K, KNOWN
from segjax.data.files import read_image
from segjax.data.tfds import Tfds, TfdsClasses, splits

tensorflow_datasets = pytest.importorskip("tensorflow_datasets")
features = tensorflow_datasets.features
CLASSES = ["ground", "tree", "sky"]


def array(kind, index, values=256):
    """The content of an example, by its number."""
    rng = np.random.default_rng([len(kind), index])
    shape = (6 + index, 8) if kind == "mask" else (6 + index, 8, 3)
    return rng.integers(0, values, shape, np.uint8)


def palette(ids):
    image = Image.fromarray(ids, "P")
    image.putpalette([7, 7, 7, 200, 0, 0, 7, 7, 7, 1, 2, 3])
    return image


def png(image):
    stream = io.BytesIO()
    image.save(stream, "PNG")
    return stream.getvalue()


def prepare(data_dir, name, keys, generate, counts=None):
    """Define a builder called ``name`` and prepare it for real, as array_record."""
    counts = counts or {"train": 5, "test": 2}
    image_key, mask_key = keys

    base = tensorflow_datasets.core.GeneratorBasedBuilder

    class Toy(base, skip_registration=True):
        # As in a script of its own; in a package TFDS would want importlib_resources.
        __module__ = "toy"
        VERSION = tensorflow_datasets.core.Version("1.0.0")

        def _info(self):
            shapes = {
                image_key: features.Image(),
                mask_key: features.Image(shape=(None, None, 1)),
                "disparity": features.Image(shape=(None, None, 1)),
                "number": features.Scalar(np.int64),
            }
            return tensorflow_datasets.core.DatasetInfo(
                builder=self, features=features.FeaturesDict(shapes)
            )

        def _split_generators(self, dl_manager):
            return {s: self._generate_examples(n) for s, n in counts.items()}

        def _generate_examples(self, count):
            for index in range(count):
                image, mask = generate(index)
                yield (
                    index,
                    {
                        image_key: image,
                        mask_key: mask,
                        "disparity": b"not an image at all",
                        "number": index,
                    },
                )

    Toy.name = name
    builder = Toy(data_dir=data_dir, file_format="array_record")
    builder.download_and_prepare()
    return builder.data_path


def number(source, index):
    """Which example a record is: TFDS shuffles when it writes."""
    return source[index]["image"].shape[0] - 6


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tfds")

    def generate(index):
        mask = palette(array("mask", index, 3))
        # Each of the forms a builder may yield without TensorFlow: image, bytes, path.
        image = Image.fromarray(array("image", index))
        if index == 1:
            image = folder / "one.png"
            Image.fromarray(array("image", 1)).save(image)
        return image, png(mask) if index % 2 else mask

    prepare(folder, "toy_seg", ("image", "segmentation_mask"), generate)
    return folder


def test_round_trip_with_palette_masks(data_dir):
    assert splits(data_dir) == splits(data_dir, builder="toy_seg") == ("train", "test")
    source = Tfds(data_dir, "train", builder="toy_seg", classes=CLASSES)
    assert len(source) == 5 and source.channels == 3
    assert source.spec.names == tuple(CLASSES)
    assert sorted(number(source, i) for i in range(5)) == [0, 1, 2, 3, 4]
    for index in range(5):
        got, k = source[index], number(source, index)
        np.testing.assert_array_equal(got["image"], array("image", k))
        np.testing.assert_array_equal(got["label"], array("mask", k, 3))
        assert got["label"].dtype == got["image"].dtype == np.uint8
        assert source.size(index) == got["label"].shape
        assert got["id"] == source.ids()[index] == f"train_{index:06d}"


def test_prepared_directory_slices_pickle_and_threads(data_dir):
    place = data_dir / "toy_seg" / "1.0.0"
    whole = Tfds(place, "train", classes=CLASSES)
    part = Tfds(place, "train[1:4]", classes=CLASSES)
    assert [number(part, i) for i in range(3)] == [number(whole, i) for i in (1, 2, 3)]
    assert part.ids()[0] == "train_1_4_000000"
    again = pickle.loads(pickle.dumps(part))
    np.testing.assert_array_equal(again[2]["image"], part[2]["image"])
    with ThreadPoolExecutor(8) as pool:
        got = list(pool.map(whole.__getitem__, list(range(5)) * 8))
    for place, item in enumerate(got):
        np.testing.assert_array_equal(item["image"], whole[place % 5]["image"])


def test_classes_file_and_colours(data_dir, tmp_path):
    path = tmp_path / "classes.json"
    path.write_text(
        '[{"name": "a", "color": [7, 7, 7]}, {"name": "b", "color": [200, 0, 0]}]'
    )
    source = Tfds(data_dir, "train", classes=path, mask_values="colors")
    mask = array("mask", number(source, 0), 3)
    np.testing.assert_array_equal(source[0]["label"], mask == 1)
    with pytest.raises(ValueError, match=r"toy_seg/1\.0\.0 train\[0\] segm.*: id 2 \("):
        Tfds(data_dir, "train", classes=["a", "b"])[0]


def test_no_tensorflow_no_jax_and_lazy(data_dir):
    code = (
        "import sys; import segjax.data.tfds as t; "
        "assert 'tensorflow_datasets' not in sys.modules; "
        f"s = t.Tfds({str(data_dir)!r}, 'test', classes=['a', 'b', 'c']); s[1]; "
        "assert 'tensorflow_datasets' in sys.modules; "
        "assert not {'tensorflow', 'jax'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True, timeout=60)


def test_not_prepared_says_what_to_run(tmp_path, monkeypatch):
    with pytest.raises(
        ValueError,
        match=r"'oxford_iiit_pet' is not prepared in .*; run `pip install tensorflow` a"
        r"nd `tfds build oxford_iiit_pet --file_format=array_record --data_dir=",
    ):
        Tfds(tmp_path, "train", builder="oxford_iiit_pet")
    with pytest.raises(ValueError, match="put leftImg8bit_trainvaltest.zip and gtFine"):
        Tfds(tmp_path, "train", builder="cityscapes/semantic_segmentation")
    with pytest.raises(ValueError, match="pip install tensorflow opencv-python`"):
        splits(tmp_path, builder="caltech_birds2011:0.2.0")
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "elsewhere"))
    with pytest.raises(
        ValueError, match="no prepared dataset in .*elsewhere; set builder"
    ):
        Tfds(None, "train")


def test_wrong_names(data_dir):
    with pytest.raises(
        ValueError, match="no split 'val'; it has train, test, and slices"
    ):
        Tfds(data_dir, "val", classes=CLASSES)
    with pytest.raises(ValueError, match=r"no split 'train\[5'; it has train, test"):
        Tfds(data_dir, "train[5", classes=CLASSES)
    with pytest.raises(ValueError, match=r"split 'train\[:0\]' of .* is empty"):
        Tfds(data_dir, "train[:0]", classes=CLASSES)
    with pytest.raises(
        ValueError, match="no image feature number; its image features "
    ):
        Tfds(data_dir, "train", classes=CLASSES, label_key="number")
    with pytest.raises(
        ValueError, match="toy_seg/1.0.0 train are not known; set classes"
    ):
        Tfds(data_dir, "train")
    with pytest.raises(
        ValueError, match="holds toy_seg/1.0.0, not 'cityscapes'; set bu"
    ):
        Tfds(data_dir / "toy_seg" / "1.0.0", "train", builder="cityscapes")
    with pytest.raises(ValueError, match="tfds: classes: id 3 occurs twice"):
        Tfds(data_dir, "train", classes=[{"name": n, "id": 3} for n in "ab"])


def test_damaged_and_foreign_files(data_dir, tmp_path):
    shutil.copytree(data_dir / "toy_seg", tmp_path / "toy_seg")
    place = tmp_path / "toy_seg" / "1.0.0"
    shard = next(place.glob("*train.array_record*"))
    shard.write_bytes(shard.read_bytes()[: shard.stat().st_size * 2 // 3])
    with pytest.raises(
        ValueError, match=r"toy_seg/1\.0\.0 train\[0\]: unreadable or tru"
    ):
        Tfds(tmp_path, "train", classes=CLASSES)
    info = place / "dataset_info.json"
    text = info.read_text()
    for path in place.glob("*.array_record*"):
        path.rename(path.with_name(path.name.replace("array_record", "tfrecord")))
    info.write_text(text.replace("array_record", "tfrecord"))
    with pytest.raises(
        ValueError, match="stored as tfrecord; generate it again with `tf"
    ):
        Tfds(tmp_path, "train", classes=CLASSES)
    info.write_text(text[:50])
    with pytest.raises(
        ValueError, match=r"toy_seg/1\.0\.0 is not a prepared dataset: "
    ):
        Tfds(tmp_path, "train", classes=CLASSES)


@pytest.mark.parametrize("key", ["pythonClassName", "python_class_name", "type"])
def test_a_dataset_cannot_name_code_to_import(data_dir, tmp_path, key, monkeypatch):
    shutil.copytree(data_dir / "toy_seg", tmp_path / "toy_seg")
    described = tmp_path / "toy_seg" / "1.0.0" / "features.json"
    (tmp_path / "evil_features.py").write_text("raise SystemExit('imported')")
    monkeypatch.syspath_prepend(tmp_path)
    text = described.read_text()
    usual = "tensorflow_datasets.core.features.scalar.Scalar"
    assert text.count(f'"pythonClassName": "{usual}"') == 1
    described.write_text(
        text.replace(f'"pythonClassName": "{usual}"', f'"{key}": "evil_features.A"')
    )
    with pytest.raises(ValueError, match="names the class 'evil_features.A'"):
        Tfds(tmp_path, "train", classes=CLASSES)
    assert "evil_features" not in sys.modules


def test_newest_version_and_several_datasets(data_dir, tmp_path):
    for name in ("toy_seg/1.0.0", "toy_seg/1.10.0", "toy_seg/1.9.0", "b/config/1.0.0"):
        shutil.copytree(data_dir / "toy_seg" / "1.0.0", tmp_path / name)
        info = tmp_path / name / "dataset_info.json"
        version = name.rsplit("/", 1)[1]
        info.write_text(info.read_text().replace('"1.0.0"', f'"{version}"'))
    where = {"classes": CLASSES, "builder": "toy_seg"}
    with pytest.raises(ValueError, match=r"toy_seg/1\.10\.0 has no split 'x'"):
        Tfds(tmp_path, "x", **where)
    with pytest.raises(ValueError, match=r"toy_seg/1\.9\.0 has no split 'x'"):
        Tfds(tmp_path, "x", **{**where, "builder": "toy_seg:1.9.0"})
    with pytest.raises(ValueError, match="holds b/config, toy_seg; set builder to one"):
        splits(tmp_path)


def test_sizes_that_differ(tmp_path):
    def generate(index):
        return Image.fromarray(array("image", 3)), palette(array("mask", 2, 3))

    prepare(tmp_path, "toy_sizes", ("image", "mask"), generate, {"train": 1})
    source = Tfds(tmp_path, "train", classes=CLASSES)
    with pytest.raises(
        ValueError, match=r"sizes differ: .*image is 9 x 8 .*mask is 8 x"
    ):
        source[0]


def known_source(tmp_path, name, stored):
    """A dataset called ``name`` whose every mask is ``stored`` (an image)."""
    known = KNOWN[name]

    def generate(index):
        width, height = stored.size
        return Image.new("RGB", (width, height)), stored

    keys = (known.image_key, known.label_key)
    prepare(tmp_path, name, keys, generate, {"train": 1})
    return Tfds(tmp_path, "train", builder=name)


@pytest.mark.parametrize(
    ("name", "stored", "want"),
    [
        ("oxford_iiit_pet", [1, 2, 3], ["pet", "background", "border"]),
        (
            "cityscapes",
            [0, 6, 7, 8, 26, 33, 29],
            [None, None, "road", "sidewalk", "car", "bicycle", None],
        ),
        (
            "caltech_birds2011",
            [0, 51, 102, 153, 204, 255],
            ["background"] * 3 + ["bird"] * 3,
        ),
        (
            "lost_and_found",
            [0, 1, 2, 31, 40, 43],
            [None, "free space", "obstacle", None, "obstacle", "obstacle"],
        ),
        (
            "scene_parse150",
            [0, 1, 2, 13, 150],
            [None, "wall", "building", "person", "flag"],
        ),
    ],
)
def test_known_datasets(tmp_path, name, stored, want):
    source = known_source(tmp_path, name, Image.fromarray(np.array([stored], np.uint8)))
    names = [
        None if k == IGNORE else source.spec.names[k] for k in source[0]["label"][0]
    ]
    assert names == want


def test_stock_scene_parse150_has_instances_in_red_and_green(tmp_path):
    # instanceInfo100: 1 bed, 4 person, 9 car, 50 bus, 82 animal, 100 flag.
    rgb = np.array([[[i, 77, 0] for i in (0, 1, 4, 9, 50, 82, 100)]], np.uint8)
    source = known_source(tmp_path, "scene_parse150", Image.fromarray(rgb))
    assert source.spec.num_classes == 100
    label = source[0]["label"][0]
    want = ["bed", "person", "car", "bus", "animal", "flag"]
    assert label[0] == IGNORE and [source.spec.names[k] for k in label[1:]] == want


def test_an_id_that_no_known_class_has(tmp_path):
    stored = Image.fromarray(np.array([[0, 1, 4]], np.uint8))
    source = known_source(tmp_path, "oxford_iiit_pet", stored)
    with pytest.raises(
        ValueError, match=r"id 0 \(1 pixel\), id 4 \(1 pixel\) not among"
    ):
        source[0]


def test_catalog_against_the_published_tables():
    assert len(ADE20K) == 150 and ADE20K[12] == "person" and ADE20K[149] == "flag"
    assert KNOWN["cityscapes"].spec.num_classes == 19
    # Feature names as the stock builders' sources write them.
    package = Path(tensorflow_datasets.__file__).parent
    for name, known in KNOWN.items():
        sources = [*(package / "datasets" / name).glob("*_dataset_builder.py")]
        text = (sources or [package / "image_classification" / "caltech_birds.py"])[0]
        for key in (known.image_key, known.label_key):
            assert re.search(rf"""["']{key}["']""", text.read_text()), (name, key)


def prepare_classes(data_dir, name, names=("cat", "dog", "cow"), unlabelled=False):
    """A builder of images with one class each, prepared as array_record."""
    base = tensorflow_datasets.core.GeneratorBasedBuilder

    class Toy(base, skip_registration=True):
        __module__ = "toy"
        VERSION = tensorflow_datasets.core.Version("1.0.0")

        def _info(self):
            shapes = {
                "image": features.Image(),
                "label": features.ClassLabel(names=list(names)),
                "coarse": features.ClassLabel(num_classes=2),
                "file_name": features.Text(),
            }
            return tensorflow_datasets.core.DatasetInfo(
                builder=self, features=features.FeaturesDict(shapes)
            )

        def _split_generators(self, dl_manager):
            counts = {"train": 7, "validation": 2}
            return {s: self._generate_examples(n) for s, n in counts.items()}

        def _generate_examples(self, count):
            for index in range(count):
                yield (
                    index,
                    {
                        "image": Image.fromarray(array("image", index)),
                        "label": -1 if unlabelled else index % len(names),
                        "coarse": index % 2,
                        "file_name": f"{index}.jpg",
                    },
                )

    Toy.name = name
    Toy(data_dir=data_dir, file_format="array_record").download_and_prepare()


def test_classes_of_images(tmp_path):
    # As imagenet2012, imagenette and cifar10: image, label, and more besides.
    prepare_classes(tmp_path, "toy_classes")
    source = TfdsClasses(tmp_path, "train", builder="toy_classes")
    assert source.spec.names == ("cat", "dog", "cow") and len(source) == 7
    for index in range(7):
        example, k = source[index], number(source, index)
        np.testing.assert_array_equal(example["image"], array("image", k))
        assert int(example["label"]) == k % 3 and example["label"].dtype == np.int32
        assert source.size(index) == (6 + k, 8)
        stored = source.stored(index)
        assert stored.label == k % 3 and stored.mask is None
        np.testing.assert_array_equal(read_image(stored.image), array("image", k))
    part = TfdsClasses(tmp_path, "validation[:1]", label_key="coarse", channels=3)
    assert part.spec.names == ("0", "1") and len(part) == 1
    for options, message in (
        ({"label_key": "file_name"}, "no class label 'file_name'.* coarse, label"),
        ({"image_key": "photo"}, "no image feature photo"),
    ):
        with pytest.raises(ValueError, match=message):
            TfdsClasses(tmp_path, "train", **options)


def test_images_without_a_class_are_an_error(tmp_path):
    prepare_classes(tmp_path, "toy_test", unlabelled=True)
    source = TfdsClasses(tmp_path, "train")
    with pytest.raises(ValueError, match=r"label is -1, none of the 3 classes"):
        source[0]


def test_the_builders_named_in_the_docs_have_an_image_and_a_label():
    folder = Path(tensorflow_datasets.__file__).parent
    for name in (
        "datasets/imagenet2012/imagenet2012_dataset_builder.py",
        "datasets/imagenette/imagenette_dataset_builder.py",
        "image_classification/cifar.py",
    ):
        text = (folder / name).read_text()
        for key in ("image", "label"):
            assert re.search(rf"""["']{key}["']""", text), (name, key)


def test_black_and_white_masks_of_two_classes_are_refused(tmp_path):
    def generate(index):
        mask = np.zeros_like(array("mask", index))
        mask[2:, 3:] = 255 * (index > 2)
        return Image.fromarray(array("image", index)), png(Image.fromarray(mask))

    prepare(tmp_path, "white", ("image", "segmentation_mask"), generate)
    with pytest.raises(
        ValueError, match="white.*: the ids are 0 and 255 where the two"
    ):
        Tfds(tmp_path, "train", builder="white", classes=["ground", "crack"])
    claimed = {"classes": [{"name": "ground", "id": 0}, {"name": "crack", "id": 255}]}
    found = Tfds(tmp_path, "train", builder="white", classes=claimed)
    assert {int(i) for k in range(5) for i in np.unique(found[k]["label"])} == {0, 1}

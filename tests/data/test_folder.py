"""A user's folder: every layout, classes.json, and every mistake's message."""

import json
import re
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from PIL import Image

from segjax.batch import IGNORE
from segjax.data import folder as folder_module
from segjax.data.classes import parse_classes
from segjax.data.folder import Folder, Layout, splits

NAMES = ["background", "road", "car"]


def ids_of(name, h=6, w=8):
    seed = sum(name.encode())
    return np.random.default_rng(seed).integers(0, 3, (h, w), np.uint8)


def write(path, array):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path)


def example(images, masks, name, image_end=".png", mask_end=".png", **size):
    ids = ids_of(name, **size)
    write(images / f"{name}{image_end}", np.stack([ids * 50] * 3, axis=-1))
    write(masks / f"{name}{mask_end}", ids)


@pytest.fixture
def root(tmp_path):
    (tmp_path / "classes.json").write_text(json.dumps(NAMES))
    return tmp_path


def flat(root, names, **options):
    for name in names:
        example(root / "images", root / "masks", name, **options)


def check(source, names):
    assert list(source.ids()) == list(names) and len(source) == len(names)
    for index, name in enumerate(names):
        got = source[index]
        ids = ids_of(name.rsplit("/", 1)[-1])
        np.testing.assert_array_equal(got["label"], ids)
        np.testing.assert_array_equal(got["image"][..., 0], ids * 50)
        assert got["id"] == name and got["label"].dtype == np.uint8
        assert source.size(index) == ids.shape


def test_split_folders_above(root):
    for split, names in {"train": ["b", "a"], "val": ["c"], "night": ["d"]}.items():
        for name in names:
            example(root / split / "images", root / split / "masks", name)
    assert splits(root) == ("train", "val", "night")
    source = Folder(root, "train")
    check(source, ["a", "b"])
    assert source.spec.names == tuple(NAMES) and source.channels == 3
    check(Folder(root, "night"), ["d"])


def test_split_folders_below_with_subfolders(root):
    for place in ("train/x/a", "train/y/a", "val/c", "rain/d"):
        folder, name = place.rsplit("/", 1)
        example(root / "images" / folder, root / "masks" / folder, name)
    assert splits(root) == ("train", "val", "rain")
    check(Folder(root, "train"), ["x/a", "y/a"])
    check(Folder(root, "val"), ["c"])


def test_list_files(root):
    flat(root, "abcd")
    example(root / "other", root / "gt", "e")
    (root / "train.txt").write_text("b\n\n# comment\na.png\nimages/c.png masks/c.png\n")
    (root / "extra.txt").write_text("other/e.png gt/e.png\nd\n")
    (root / "README.txt").write_text("What this is\n")
    assert splits(root) == ("train", "extra")
    check(Folder(root, "train"), ["b", "a", "c"])
    check(Folder(root, "extra"), ["other/e", "d"])


def test_list_files_in_a_folder_of_their_own(root):
    flat(root, "abc")
    (root / "lists").mkdir()
    (root / "lists/night.txt").write_text("c\na\n")
    (root / "train.txt").write_text("b\n")
    assert splits(root, list_dir="lists") == ("night",)
    check(Folder(root, "night", list_dir="lists"), ["c", "a"])
    with pytest.raises(ValueError, match="nowhere: no list of images"):
        Folder(root, "night", list_dir="nowhere")


def test_a_list_of_something_else_about_the_images_makes_no_splits(root):
    for split in ("training", "validation"):
        example(root / f"images/{split}", root / f"masks/{split}", f"ADE_{split}")
    (root / "scenes.txt").write_text("ADE_training airport_terminal\n")
    assert splits(root) == ("training", "validation")
    check(Folder(root, "training"), ["ADE_training"])


def test_classes_of_a_published_dataset_need_no_file(root):
    (root / "classes.json").unlink()
    flat(root, "ab")
    assert Folder(root, "train", classes_file="known:voc").spec.num_classes == 21
    with pytest.raises(ValueError, match="write known:cityscapes, known:ade20k, known"):
        Folder(root, "train", classes_file="known:coco")


def test_list_file_names_images_in_subfolders_by_bare_name(root):
    for place in ("x/a", "y/b"):
        folder, name = place.split("/")
        example(root / "images" / folder, root / "masks" / folder, name)
    (root / "val.txt").write_text("b\nx/a\n")
    check(Folder(root, "val"), ["b", "x/a"])


def test_fraction_is_a_function_of_seed_and_name_alone():
    layout = Layout(val_fraction=0.2, test_fraction=0.1)
    names = [f"image{i}" for i in range(3000)]
    where = {name: folder_module.split_of(name, layout) for name in names}
    share = {s: list(where.values()).count(s) / 3000 for s in ("train", "val", "test")}
    # Three standard deviations of a binomial share of 3000 draws are below 0.022.
    assert abs(share["val"] - 0.2) < 0.022 and abs(share["test"] - 0.1) < 0.017
    other = Layout(val_fraction=0.2, test_fraction=0.1, seed=1)
    assert [folder_module.split_of(n, other) for n in names] != list(where.values())
    # More validation data keeps what was validation data.
    more = Layout(val_fraction=0.4, test_fraction=0.1)
    assert all(
        folder_module.split_of(n, more) == "val" for n in names if where[n] == "val"
    )
    # The hash is fixed for ever: a change would mix train and val of existing users.
    assert [where[f"image{i}"] for i in range(12)] == FIRST


FIRST = "val train train train train train train val train train train train".split()


def test_fraction_partitions_the_folder_and_new_files_move_nothing(root):
    flat(root, [f"n{i}" for i in range(30)])
    options = {"val_fraction": 0.3, "test_fraction": 0.2, "seed": 4}
    assert splits(root, **options) == ("train", "val", "test")
    assert splits(root, val_fraction=0.3) == ("train", "val")
    before = {s: set(Folder(root, s, **options).ids()) for s in splits(root, **options)}
    assert sum(map(len, before.values())) == 30
    assert set.union(*before.values()) == {f"n{i}" for i in range(30)}
    flat(root, [f"m{i}" for i in range(5)])
    for split, ids in before.items():
        assert ids <= set(Folder(root, split, **options).ids())
    assert set(Folder(root, "train", **{**options, "seed": 5}).ids()) != before["train"]


def test_suffixes_and_formats(root):
    example(root / "images", root / "masks", "a", "_rgb.tif", "_gt.bmp")
    example(root / "images", root / "masks", "b", "_rgb.jpg", "_gt.webp")
    write(root / "masks" / "a_color.png", np.zeros((6, 8, 3), np.uint8))
    ids = ids_of("b")
    Image.fromarray(ids).save(root / "masks" / "b_gt.webp", lossless=True)
    (root / "masks" / ".DS_Store").write_text("")
    source = Folder(
        root, "train", image_suffix="_rgb", mask_suffix="_gt", val_fraction=0.0
    )
    assert source.ids() == ("a", "b")
    np.testing.assert_array_equal(source[0]["label"], ids_of("a"))
    np.testing.assert_array_equal(source[1]["label"], ids)


def test_images_and_masks_in_one_folder(root):
    example(root / "data", root / "data", "a", mask_end="_mask.png")
    where = {"image_dir": "data", "mask_dir": "data", "val_fraction": 0.0}
    check(Folder(root, "train", mask_suffix="_mask", **where), ["a"])
    with pytest.raises(ValueError, match="in 'data': set .*folder.mask_suffix"):
        Folder(root, "train", **where)


def test_channels(root):
    flat(root, "a")
    write(root / "images" / "b.png", ids_of("b"))
    write(root / "masks" / "b.png", ids_of("b"))
    (root / "train.txt").write_text("a\nb\n")
    (root / "val.txt").write_text("b\na\n")
    assert [Folder(root, "train")[i]["image"].shape[2] for i in (0, 1)] == [3, 3]
    source = Folder(root, "val")
    assert source.channels == 1
    with pytest.raises(ValueError, match=r"a\.png: has 3 channels where 1 are wanted"):
        source[1]
    assert Folder(root, "val", channels=3)[0]["image"].shape == (6, 8, 3)


def test_rgb_masks_by_colour_and_ignored_colour(root):
    classes = [
        {"name": "sky", "color": [0, 0, 255], "id": 4},
        {"name": "road", "color": "#ff0080", "id": 0},
    ]
    value = {"classes": classes, "ignore": [[9, 9, 9], 7]}
    (root / "classes.json").write_text(json.dumps(value))
    index = ids_of("a")
    rgb = np.array([[0, 0, 255], [255, 0, 128], [9, 9, 9]], np.uint8)[index]
    write(root / "images" / "a.png", rgb)
    write(root / "masks" / "a.png", rgb)
    want = np.array([0, 1, IGNORE])[index]
    source = Folder(root, "train", val_fraction=0.0)
    np.testing.assert_array_equal(source[0]["label"], want)
    assert source.spec.palette == ((0, 0, 255), (255, 0, 128))
    write(root / "masks" / "a.png", np.array([4, 0, 7], np.uint8)[index])
    np.testing.assert_array_equal(source[0]["label"], want)
    # Id 1 is below the number of classes, yet no class has it.
    write(root / "masks" / "a.png", np.array([4, 0, 1], np.uint8)[index])
    count = int((index == 2).sum())
    with pytest.raises(ValueError, match=rf"a\.png: id 1 \({count} pixels\) not among"):
        source[0]


def test_palette_mask_by_colours(root):
    classes = [{"name": n, "color": [k, k, k]} for k, n in enumerate(NAMES)]
    (root / "classes.json").write_text(json.dumps(classes))
    flat(root, "a")
    image = Image.fromarray(2 - ids_of("a"), "P")
    image.putpalette([2, 2, 2, 1, 1, 1, 0, 0, 0])
    image.save(root / "masks" / "a.png")
    options = {"val_fraction": 0.0}
    by_index = Folder(root, "train", **options)[0]["label"]
    np.testing.assert_array_equal(by_index, 2 - ids_of("a"))
    by_color = Folder(root, "train", mask_values="colors", **options)[0]["label"]
    np.testing.assert_array_equal(by_color, ids_of("a"))


def test_black_and_white_masks_do_not_become_ignored(root):
    (root / "classes.json").write_text('["background", "object"]')
    ids = ids_of("a") % 2
    for mode in ("L", "RGB"):
        write(root / "images" / "a.png", ids)
        image = Image.fromarray(ids * 255).convert(mode)
        (root / "masks").mkdir(exist_ok=True)
        image.save(root / "masks" / "a.png")
        with pytest.raises(
            ValueError, match=r'a\.png: the ids are 0 and 255 .*"id": 255'
        ):
            Folder(root, "train", val_fraction=0.0)
    claimed = [{"name": "background", "id": 0}, {"name": "object", "id": 255}]
    for value, want in (
        (claimed, ids),
        ({"classes": ["background", "object"], "ignore": [255]}, ids * 255),
    ):
        (root / "classes.json").write_text(json.dumps(value))
        got = Folder(root, "train", val_fraction=0.0)[0]["label"]
        np.testing.assert_array_equal(got, want)


def test_black_and_white_masks_are_seen_behind_empty_ones(root):
    """The first images of a set of defects often show none."""
    (root / "classes.json").write_text('["background", "crack"]')
    for i in range(40):
        mask = np.zeros((6, 8), np.uint8)
        mask[2:4, 3:5] = 255 * (i >= 12)
        write(root / "images" / f"{i:02}.png", mask)
        write(root / "masks" / f"{i:02}.png", mask)
    with pytest.raises(ValueError, match='the ids are 0 and 255 .*"id": 255'):
        Folder(root, "train", val_fraction=0.0)


def test_classes_forms():
    spec, colors = parse_classes(["a", "b"])
    assert spec.names == ("a", "b") and not colors and not spec.remap
    spec, _ = parse_classes({"classes": ["a", "b"], "ignore": [7]})
    assert spec.ignore == (7,)
    spec, _ = parse_classes([{"name": "no"}, {"name": "yes"}])
    np.testing.assert_array_equal(spec.lookup()[[0, 1, 2, 255]], [0, 1, -1, IGNORE])
    # Black and white masks: the class claims 255, which then is not ignored.
    spec, _ = parse_classes([{"name": "no", "id": 0}, {"name": "yes", "id": 255}])
    np.testing.assert_array_equal(spec.lookup()[[0, 255, 1]], [0, 1, -1])
    both = [{"name": "no", "id": 0, "color": [0, 0, 0]}]
    both.append({"name": "yes", "id": 255, "color": [255, 255, 255]})
    spec, colors = parse_classes({"classes": both, "ignore": ["#808080"]})
    assert spec.lookup()[colors[128, 128, 128]] == IGNORE
    assert spec.lookup()[colors[255, 255, 255]] == 1


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({}, "holds no list of classes; write"),
        ([], "holds no list of classes; write"),
        ("road", "holds no list of classes; write"),
        ({"classes": ["a"], "ignored": [1]}, "top level has the unknown key 'ignored'"),
        (
            [{"name": "a", "colour": [1, 2, 3]}],
            "class 'a' has the unknown key 'colour'",
        ),
        ([{"id": 1}], r"class 0 is {'id': 1}; write a name"),
        ([{"name": "a", "id": 1}, {"name": "b"}], "class 'b' has no id while others"),
        ([{"name": "a", "id": 256}], "id 256 is not a whole number from 0 to 255"),
        ([{"name": "a", "id": 1}, {"name": "b", "id": 1}], "id 1 occurs twice"),
        ({"classes": [{"name": "a", "id": 1}], "ignore": [1]}, "id 1 occurs twice"),
        ([{"name": "a", "color": "red"}], "color 'red' is neither"),
        ([{"name": "a", "color": [0, 0, 300]}], "colour value 300 is not a whole"),
        ({"classes": ["a"], "ignore": [[1, 2, 3]]}, "'ignore' lists colours, but"),
        (["a", "a"], "class names occur twice: a"),
    ],
)
def test_wrong_classes(root, value, message):
    flat(root, "a")
    (root / "classes.json").write_text(json.dumps(value))
    with pytest.raises(ValueError, match=rf"classes\.json: .*{re.escape(message)}"):
        Folder(root, "train")


def test_missing_and_broken_classes_file(root):
    flat(root, "a")
    (root / "classes.json").write_text("['a']")
    with pytest.raises(ValueError, match=r"classes\.json: not JSON \(.*line 1.*write"):
        Folder(root, "train")
    (root / "classes.json").unlink()
    with pytest.raises(
        ValueError, match=r'classes\.json: no such file; write .*"road"'
    ):
        Folder(root, "train")


def test_image_without_mask_and_the_reverse(root):
    flat(root, "abcdef")
    for name in "bcde":
        (root / "masks" / f"{name}.png").unlink()
    write(root / "masks" / "z.png", ids_of("z"))
    with pytest.raises(
        ValueError,
        match=r"4 images \(b\.png, c\.png, d\.png and 1 more\) without mask in .*mas"
        r"ks; 1 mask \(z\.png\) without image in .*images; names must agree",
    ):
        Folder(root, "train")


def test_common_mask_suffix_is_suggested(root):
    example(root / "images", root / "masks", "a", mask_end="_label.png")
    with pytest.raises(ValueError, match="set config.data.folder.mask_suffix='_label'"):
        Folder(root, "train")


def test_list_with_missing_files(root):
    flat(root, "abc")
    (root / "masks" / "b.png").unlink()
    (root / "train.txt").write_text("a\nb\nx\n")
    with pytest.raises(
        ValueError,
        match=r"train\.txt: 2 lines \(line 2 'b': no mask, line 3 'x': no such image\)",
    ):
        Folder(root, "train")
    (root / "train.txt").write_text("a\na.png\n")
    with pytest.raises(ValueError, match=r"train\.txt:2: 'a' is listed twice"):
        Folder(root, "train")
    (root / "train.txt").write_text("a b c\n")
    with pytest.raises(ValueError, match=r"train\.txt:1: a line is a name or"):
        Folder(root, "train")


def test_sizes_that_differ_are_named(root):
    flat(root, "a")
    write(root / "masks" / "a.png", ids_of("a", 5, 8))
    source = Folder(root, "train", val_fraction=0.0)
    with pytest.raises(
        ValueError,
        match=r"sizes differ: .*images/a\.png is 6 x 8 .*masks/a\.png is 5 x 8",
    ):
        source[0]


def test_unknown_id_and_lossy_mask(root):
    flat(root, "ab")
    mask = np.zeros((6, 8), np.uint8)
    mask[0, :3] = 9
    write(root / "masks" / "a.png", mask)
    (root / "masks" / "b.png").unlink()
    Image.fromarray(ids_of("b") * 100).save(root / "masks" / "b.jpg", quality=30)
    source = Folder(root, "train", val_fraction=0.0)
    with pytest.raises(ValueError, match=r"masks/a\.png: id 9 \(3 pixels\) not among"):
        source[0]
    with pytest.raises(
        ValueError, match=r"b\.jpg: id .*\.jpg is lossy and changes ids"
    ):
        source[1]


def test_truncated_file(root):
    flat(root, "ab")
    path = root / "images" / "b.png"
    path.write_bytes(path.read_bytes()[:60])
    source = Folder(root, "train", val_fraction=0.0)
    with pytest.raises(ValueError, match=r"images/b\.png: unreadable or truncated"):
        source[1]


def test_splits_that_are_unknown_or_empty(root):
    flat(root, "ab")
    with pytest.raises(ValueError, match="no split 'test'; it has train, val"):
        Folder(root, "test")
    with pytest.raises(
        ValueError, match="split 'val' is empty: .* none of the 2 images"
    ):
        Folder(root, "val", val_fraction=1e-9)
    (root / "images" / "val").mkdir()
    with pytest.raises(ValueError, match=r"'val' is empty: no images in .*images/val"):
        Folder(root, "val")
    (root / "val.txt").write_text("\n")
    with pytest.raises(ValueError, match=r"'val' is empty: no images in .*val\.txt"):
        Folder(root, "val")


def test_nothing_there(root, tmp_path):
    (root / "photos").mkdir()
    with pytest.raises(ValueError, match=r"folder\.image_dir \(there are photos/\)"):
        Folder(root, "train")
    with pytest.raises(ValueError, match="has no images; put them in images/"):
        Folder(root, "train")
    with pytest.raises(ValueError, match="data.root='/nowhere' is not a folder"):
        Folder("/nowhere", "train")
    told = r"'no' is not a folder, seen from /.*; write --config\.data\.root=DIR"
    with pytest.raises(ValueError, match=told):
        Folder("no", "train")
    with pytest.raises(ValueError, match="set data.root to the folder"):
        Folder(None, "train")
    with pytest.raises(ValueError, match="val_fraction=0.6 and test_fraction=0.4 must"):
        Folder(root, "train", val_fraction=0.6, test_fraction=0.4)
    (root / "images").mkdir()
    for ending in ("png", "JPG"):
        write(root / "images" / f"a.{ending}", ids_of("a"))
    with pytest.raises(ValueError, match="are both 'a'; remove one"):
        Folder(root, "train")


def test_threads_read_the_same(root):
    names = [f"n{i}" for i in range(12)]
    flat(root, names)
    source = Folder(root, "train", val_fraction=0.0)
    with ThreadPoolExecutor(8) as pool:
        got = list(pool.map(source.__getitem__, list(range(12)) * 4))
    for place, item in enumerate(got):
        np.testing.assert_array_equal(item["label"], source[place % 12]["label"])


def test_a_folder_of_masks_of_another_name_is_named(root):
    flat(root, ["a"])
    (root / "masks").rename(root / "labels")
    told = r"masks: there is no such folder; set config\.data\.folder\.mask_dir "
    with pytest.raises(ValueError, match=told + r"\(there are images/, labels/\)"):
        Folder(root, "train")

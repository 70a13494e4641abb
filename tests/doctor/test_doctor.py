"""segjax doctor: every kind of seeded fault is named, and clean data has none."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from segjax import config as configs
from segjax import doctor as doctor_module
from segjax import setup
from segjax.batch import ClassSpec
from segjax.data.inspection.codes import CODES
from segjax.data.inspection.dataset import own_faults
from segjax.data.inspection.example import examine
from segjax.data.pairs import Meaning, Stored
from segjax.doctor import check, doctor
from segjax.main import main
from tests.doctor import corpus
from tests.requirements import require_data

ROOT = Path(__file__).resolve().parents[2]


def codes_of(result, *severities):
    return {f["code"] for f in result["findings"] if f["severity"] in severities}


@pytest.fixture(scope="module", params=corpus.FAULTS)
def planted(request, tmp_path_factory):
    """(the fault, a config of the spoilt dataset, what the doctor says)."""
    fault = corpus.FAULTS[request.param]
    root = corpus.clean(tmp_path_factory.mktemp("spoilt") / "data")
    fault.plant(root)
    config = corpus.config_of(root, **fault.data)
    return fault, config, doctor(config, "spoilt")


def test_a_fault_is_named_and_no_other(planted):
    fault, _, result = planted
    assert codes_of(result, "error", "warning") == {*fault.said}
    for code, part in fault.said.items():
        found = [one for one in result["findings"] if one["code"] == code]
        assert any(part in where for one in found for where in one["where"])
    for one in result["findings"]:
        assert one["count"] == len(one["where"]) > 0 and "\n" not in one["text"]


def fails(config) -> bool:
    """Whether reading every example once, as training does, is impossible."""
    try:
        for split in (config.data.train_split, config.data.eval_split):
            source = setup.open_split(config, split)
            images = [source[i]["image"] for i in range(len(source))]
            if not all(np.isfinite(image).all() for image in images):
                return True
    except ValueError:
        return True
    return False


def test_the_fast_form_stops_a_run_that_would_fail_and_no_other(planted):
    """Exactly: the sample of so small a dataset is all of it."""
    fault, config, _ = planted
    would_fail = fails(config)
    assert would_fail == any(CODES[code].stops for code in fault.said)
    try:
        splits = (config.data.train_split, config.data.eval_split)
        sources = {split: setup.open_split(config, split) for split in splits}
    except ValueError:
        return  # said by the source itself, before
    if not would_fail:
        lines = check(config, sources)
        grave = {code for code in fault.said if CODES[code].severity != "note"}
        for line in lines:
            assert line.split()[1] in grave and "\n" not in line
            assert "looked at): " in line and "segjax doctor --config FILE" in line
        return
    with pytest.raises(ValueError, match="run segjax doctor --config FILE") as caught:
        check(config, sources)
    assert any(code in str(caught.value) for code in fault.said)
    assert "\n" not in str(caught.value)
    config.data.check = "off"
    assert check(config, sources) == []


def test_enough_kinds_of_faults():
    said = {code for fault in corpus.FAULTS.values() for code in fault.said}
    grave = {code for code, kind in CODES.items() if kind.severity != "note"}
    assert said == grave - {"class-unknown"}, "every error and warning is seeded"
    assert len(said) >= 25


def folder_ids(root):
    return corpus.clean(root)


def folder_colors(root):
    corpus.in_colors(corpus.clean(root))
    return root


def folder_binary(root):
    names = [{"name": "back", "id": 0}, {"name": "object", "id": 255}]
    return corpus.clean(root, lambda i: corpus.blob_of(i) * 255, names)


def folder_remapped(root):
    names = [{"name": n, "id": 10 * k + 7} for k, n in enumerate(corpus.NAMES)]
    return corpus.clean(root, lambda i: 10 * corpus.mask_of(i) + 7, names)


def folder_palette(root):
    corpus.in_colors(corpus.clean(root))
    for path in sorted(root.glob("*/masks/*.png")):
        indices = Image.fromarray(corpus.mask_of(int(path.stem)), "P")
        indices.putpalette([value for color in corpus.COLORS for value in color])
        indices.save(path)
    return root


def folder_listed(root):
    corpus.lists(corpus.clean(root), [], [])
    return root


def folder_upright_by_exif(root):
    """Every image lies on its side and says so; masks were drawn on the upright one."""
    corpus.clean(root)
    for path in sorted(root.glob("*/images/*.png")):
        corpus.with_exif(path, np.rot90(np.asarray(Image.open(path))).copy(), 6)
    return root


def folder_sixteen_bits(root):
    corpus.clean(root)
    for path in sorted(root.glob("*/images/*.png")):
        corpus.write_png(path, np.asarray(Image.open(path)).astype(np.uint16) * 257, 2)
    return root


def folder_many_bands(root):
    corpus.clean(root)
    corpus.floats(lambda array: array)(root)
    for path in sorted(root.glob("*/images/*.tif")):
        bands = np.concatenate([corpus.tifffile.imread(path)] * 3, axis=-1)[..., :7]
        corpus.tifffile.imwrite(path, bands, photometric="minisblack")
    return root


CLEAN = [v for k, v in sorted(globals().items()) if k.startswith("folder_")]


@pytest.mark.parametrize("write", CLEAN, ids=lambda f: f.__name__)
def test_clean_folders_have_neither_errors_nor_warnings(tmp_path, write):
    config = corpus.config_of(write(tmp_path / "data"))
    result = doctor(config, "clean")
    assert codes_of(result, "error", "warning") == set(), result["findings"]
    assert {k: v["examples"] for k, v in result["splits"].items()} == {
        "train": corpus.TRAIN,
        "val": corpus.VAL,
    }
    sources = {split: setup.open_split(config, split) for split in ("train", "val")}
    assert check(config, sources) == []


def class_folder(root):
    """Two classes, a folder each, in two splits."""
    for split, first in (("train", 0), ("val", 100)):
        for i in range(first, first + 8):
            name = ("cat", "dog")[i % 2]
            corpus.save(root / split / name / f"{i}.png", corpus.image_of(i))
    config = corpus.config_of(root, name="class_folder")
    config.task = "classification"
    return config


def test_classes_of_images(tmp_path):
    config, train = class_folder(tmp_path), tmp_path / "train"
    result = doctor(config, "clean")
    assert codes_of(result, "error", "warning") == set(), result["findings"]
    shown = result["splits"]["train"]["classes"]
    assert [(c["name"], c["share"], c["images"]) for c in shown] == [
        ("cat", 0.5, 4),
        ("dog", 0.5, 4),
    ]
    (train / "cat" / "2.png").unlink()
    # Labelled images: 3 and 4 of 7, two classes.
    weights = doctor(config, "clean")["class_weights"]
    np.testing.assert_allclose(weights["inverse"], [7 / 6, 7 / 8], 1e-3)
    sources = {"train": setup.open_split(config, "train")}
    assert check(config, sources) == [] and [*weights] == ["inverse"]
    corpus.copy(train / "cat" / "0.png", train / "dog" / "1.png")
    corpus.copy(train / "cat" / "4.png", tmp_path / "val" / "cat" / "100.png")
    for i in range(101, 108, 2):
        (tmp_path / "val" / "dog" / f"{i}.png").unlink()
    corpus.cut_short(train / "dog" / "3.png")
    result = doctor(config, "spoilt")
    assert codes_of(result, "error", "warning") == {
        *("image-unreadable", "duplicate-across", "duplicate-within"),
        *("duplicate-labels", "class-absent-eval"),
    }
    with pytest.raises(ValueError, match=r"image-unreadable .*dog/3\.png"):
        check(config, sources)


def test_an_image_without_a_class_and_the_embedded_ones():
    image = corpus.encoded(corpus.image_of(0), "png")
    for label, codes in ((-1, {"class-unknown"}), (2, {"class-unknown"}), (1, set())):
        facts = examine(
            "train",
            lambda y=label: Stored("a", image, "a", label=y),
            Meaning(ClassSpec(("cat", "dog"))),
        )
        assert {fault.code for fault in facts.faults} == codes
    config = configs.load(str(ROOT / "configs" / "digits_resnet18.py"))
    result = doctor(config, "digits")
    assert codes_of(result, "error") == set(), result["findings"]
    assert sum(c["images"] for c in result["splits"]["val"]["classes"]) == 360


def test_the_embedded_scenes_are_clean():
    config = configs.load(str(ROOT / "configs" / "resnet_unet.py"))
    config.data.shapes.train_examples = 300
    result = doctor(config, "shapes")
    assert codes_of(result, "error", "warning") == set(), result["findings"]
    assert result["splits"]["train"]["examples"] == 300


def test_camvid_is_clean():
    root = require_data("CamVid")
    config = configs.load(str(ROOT / "configs" / "camvid_resnet_unet.py"))
    config.data.root = str(root)
    sources = {split: setup.open_split(config, split) for split in ("train", "val")}
    assert check(config, sources) == []


@pytest.mark.slow  # 10 s; the result stands in docs/doctor.md
def test_all_of_camvid_is_clean():
    root = require_data("CamVid")
    config = configs.load(str(ROOT / "configs" / "camvid_resnet_unet.py"))
    config.data.root = str(root)
    result = doctor(config, "camvid")
    assert codes_of(result, "error", "warning") == set(), result["findings"]


def test_notes(tmp_path):
    """What may be as it is meant: of every kind one, and the exit code stays 0."""
    root = corpus.clean(tmp_path / "data")
    for i in range(corpus.TRAIN):
        ids = corpus.mask_of(i)
        ids[(ids == 2) & (i > 0)] = 0  # class 2 in one image of nine
        corpus.save(corpus.mask(root, i), ids)
    corpus.save(corpus.mask(root, 4), np.zeros((corpus.H, corpus.W), np.uint8))
    turned = np.rot90(corpus.image_of(5)).copy()
    corpus.with_exif(corpus.image(root, 5), turned, 6)
    brighter = np.clip(corpus.image_of(7) * 1.05, 0, 255).astype(np.uint8)
    corpus.save(corpus.image(root, 8), brighter)
    result = doctor(corpus.config_of(root), "notes")
    notes = {f["code"]: f["text"] for f in result["findings"]}
    assert {*notes} == {code for code, kind in CODES.items() if kind.severity == "note"}
    assert notes["class-rare"] == "car: 1 image"
    assert notes["mask-one-class"].endswith("004.png: only id 0")
    assert notes["exif-rotation"].endswith("005.png: orientation 6")
    assert notes["near-duplicate-within"].endswith("train/images/007.png")
    assert (result["errors"], result["warnings"], result["notes"]) == (0, 0, 4)


def test_the_other_way_round_is_told_of_foreground_at_the_frame(tmp_path):
    """Where class 1 is what surrounds the objects, masks of 0 outside stand out."""
    root = corpus.clean(tmp_path, lambda i: 1 - corpus.blob_of(i), corpus.NAMES[:2])
    corpus.save(corpus.mask(root), corpus.blob_of(3))
    (found,) = doctor(corpus.config_of(root), "inverted")["findings"]
    assert found["code"] == "mask-inverted" and found["count"] == 1
    assert found["text"].endswith("003.png: class 0 has 100 % of the outermost pixels")


def test_a_folder_without_splits_tells_once(tmp_path):
    (tmp_path / "classes.json").write_text(json.dumps(corpus.NAMES))
    for i in range(12):
        corpus.save(tmp_path / "images" / f"{i}.png", corpus.image_of(i))
        corpus.save(tmp_path / "masks" / f"{i}.png", corpus.mask_of(i))
    (tmp_path / "masks" / "5.png").unlink()
    result = doctor(corpus.config_of(tmp_path), "flat")
    (found,) = [f for f in result["findings"] if f["severity"] != "note"]
    assert (found["code"], found["split"]) == ("mask-missing", "")
    assert found["where"] == [str(tmp_path / "images" / "5.png")]
    assert sum(split["examples"] for split in result["splits"].values()) == 11


def test_camvids_lists(tmp_path):
    for split in ("train", "val"):
        lines = []
        for i in range(3):
            seed = i + 10 * (split == "val")
            for folder, array in (
                (split, corpus.image_of(seed)),
                (f"{split}annot", corpus.mask_of(seed)),
            ):
                corpus.save(tmp_path / folder / f"{seed}.png", array)
            lines.append(f"/x/{split}/{seed}.png /x/{split}annot/{seed}.png")
        (tmp_path / f"{split}.txt").write_text("\n".join([*lines, lines[0]]))
    (tmp_path / "trainannot" / "2.png").unlink()
    with (tmp_path / "val.txt").open("a") as stream:
        stream.write("\none_word\n")
    config = corpus.config_of(tmp_path, name="camvid")
    said = {f["code"]: f for f in doctor(config, "c")["findings"]}
    errors = {code for code, f in said.items() if f["severity"] == "error"}
    assert errors == {"mask-missing", "list-malformed", "listed-twice"}
    assert said["mask-missing"]["where"] == [str(tmp_path / "trainannot" / "2.png")]
    assert said["list-malformed"]["where"] == [str(tmp_path / "val.txt") + ":5"]
    assert said["class-absent-train"]["count"] == 7  # of 11, by four ids in the masks


def test_a_warning_of_the_fast_form_is_a_line(tmp_path):
    root = corpus.clean(tmp_path / "data")
    corpus.save(corpus.image(root), np.full((40, 48, 3), 7, np.uint8))
    config = corpus.config_of(root)
    (line,) = check(config, {"train": setup.open_split(config, "train")})
    assert line.startswith("data: image-constant (1 of the 9 examples looked at): ")


def test_the_fast_form_takes_few_pixels(tmp_path, monkeypatch):
    root = corpus.clean(tmp_path / "data")
    source = setup.open_split(corpus.config_of(root), "train")
    monkeypatch.setattr(doctor_module, "SAMPLE", 5)
    assert doctor_module._sample(source) == [0, 2, 4, 6, 8]
    monkeypatch.setattr(doctor_module, "SAMPLE_PIXELS", 2 * corpus.H * corpus.W)
    assert doctor_module._sample(source) == [0, 2]
    monkeypatch.setattr(doctor_module, "SAMPLE_PIXELS", 1)
    assert doctor_module._sample(source) == [0]


def test_a_sample_without_foreground_stops_nothing(tmp_path, monkeypatch):
    """Two classes with ignored borders, and objects in few masks: 0 and 255 so far."""

    def ids(i):
        array = corpus.blob_of(i) * 255
        return array // 255 if i in (1, 101) else array

    config = corpus.config_of(corpus.clean(tmp_path / "data", ids, corpus.NAMES[:2]))
    splits = ("train", "val")
    sources = {split: setup.open_split(config, split) for split in splits}
    monkeypatch.setattr(doctor_module, "SAMPLE", 3)
    assert check(config, sources) == []


def test_mean_and_std_of_the_config_settle_the_range(tmp_path):
    root = corpus.clean(tmp_path / "data")
    corpus.twelve_bits(root)
    config = corpus.config_of(root, mean=(0.03,) * 3, std=(0.01,) * 3)
    assert codes_of(doctor(config, "scaled"), "error", "warning") == set()


def test_prepared_tensorflow_datasets(tmp_path):
    """An unknown id in one record of five; slices are splits, too."""
    pytest.importorskip("tensorflow_datasets")
    from tests.data.test_tfds import prepare

    def generate(index):
        ids = corpus.mask_of(index)
        if index == 2:
            ids[:3, :3] = 9
        return Image.fromarray(corpus.image_of(index)), Image.fromarray(ids)

    prepare(tmp_path, "toy_seg", ("image", "segmentation_mask"), generate)
    (tmp_path / "classes.json").write_text(json.dumps(corpus.NAMES))
    config = corpus.config_of(tmp_path, name="tfds", train_split="train[:60%]")
    config.data.eval_split = "test"
    config.data.tfds.classes = str(tmp_path / "classes.json")
    result = doctor(config, "toy")
    # The builder gives its test split the first two of the training images.
    assert {"id-unknown", "duplicate-across"} >= codes_of(result, "error")
    assert [*result["splits"]] == ["train[:60%]", "test"]
    config.data.train_split = "train"
    result = doctor(config, "toy")
    assert codes_of(result, "error") == {"id-unknown", "duplicate-across"}
    (found,) = [f for f in result["findings"] if f["code"] == "id-unknown"]
    assert re.fullmatch(
        r"toy_seg/1\.0\.0 train\[\d\] segmentation_mask: id 9 \(9 pixels\)",
        found["text"],
    )
    assert result["splits"]["train"]["examples"] == 5


def test_frequencies_and_weights_by_hand(tmp_path):
    """Two training masks of 32 x 32: 3/4 class 0 and 1/4 class 1; all class 1."""
    root = tmp_path
    (root / "classes.json").write_text('["a", "b", "c"]')
    one = np.zeros((32, 32), np.uint8)
    one[:8] = 1
    two = np.ones((32, 32), np.uint8)
    two[:16] = 255
    for split in ("train", "val"):
        for k, ids in enumerate((one, two)):
            corpus.save(root / split / "masks" / f"{k}.png", ids)
            corpus.save(
                root / split / "images" / f"{k}.png", corpus.image_of(k, 32, 32)
            )
    result = doctor(corpus.config_of(root), "hand")
    train = result["splits"]["train"]
    pixels = {c["name"]: (c["pixels"], c["images"]) for c in train["classes"]}
    assert pixels == {"a": (768, 1), "b": (256 + 512, 2), "c": (0, 0)}
    assert train["ignored_share"] == 0.25
    assert train["stored_ids"] == {"0": 768, "1": 768, "255": 512}
    # Frequencies: a is 768 of the 1024 pixels of its image, b 768 of 1024 + 512.
    median = (0.75 + 0.5) / 2
    want = [median / 0.75, median / 0.5, 1.0]
    np.testing.assert_allclose(result["class_weights"]["median_frequency"], want, 1e-3)
    np.testing.assert_allclose(result["class_weights"]["inverse"], [1, 1, 1])


@pytest.fixture
def config_file(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text(
        "from segjax.config import default\ndef get_config():\n"
        "    config = default()\n    config.steps = 1\n"
        "    config.data.name = 'folder'\n"
        f"    config.data.root = {str(tmp_path / 'data')!r}\n"
        "    return config\n"
    )
    corpus.clean(tmp_path / "data")
    return path


def test_exit_codes_json_and_table(config_file, monkeypatch, capsys):
    root = config_file.parent
    monkeypatch.chdir(root)
    command = ["doctor", "--config", str(config_file)]
    assert main(command) == 0
    assert "doctor: 0 errors, 0 warnings" in capsys.readouterr().out
    default = json.loads((root / "runs" / "doctor" / "mine.json").read_text())
    assert default["errors"] == 0 and default["config"] == "mine"
    corpus.save(corpus.image(root / "data"), np.full((40, 48, 3), 7, np.uint8))
    assert main([*command, "--output", "warned.json"]) == 0
    warned = json.loads((root / "warned.json").read_text())
    assert (warned["errors"], warned["warnings"]) == (0, 1)
    capsys.readouterr()
    corpus.unknown_id(root / "data")
    assert main([*command, "--output", "a/b/wrong.json"]) == 1
    said = capsys.readouterr().out
    assert re.search(
        r"^error id-unknown in train: train/masks/003\.png: id 77 \(36 pixels\)$",
        said,
        re.M,
    )
    wrong = json.loads((root / "a" / "b" / "wrong.json").read_text())
    (error,) = [f for f in wrong["findings"] if f["severity"] == "error"]
    assert error["code"] == "id-unknown" and error["split"] == "train"
    assert error["where"] == [str(corpus.mask(root / "data"))]
    assert error["advice"] == CODES["id-unknown"].advice
    assert main(["doctor", "--config", "nowhere.py"]) == 2
    assert main([*command, "--config.data.rot=x"]) == 2


def test_train_looks_first_and_leaves_no_trace(config_file, monkeypatch, capsys):
    root = config_file.parent
    corpus.unknown_id(root / "data")
    command = ["train", "--config", str(config_file), "--workdir", str(root / "run")]
    command.append("--config.logs.every=7")
    monkeypatch.setattr("sys.argv", ["segjax", *command])
    assert main(command) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("segjax: data: id-unknown (1 of the 14 examples looked at)")
    assert f"segjax doctor --config {config_file} --config.logs.every=7" in line
    assert not (root / "run").exists()


def test_every_code_is_on_the_page():
    page = (ROOT / "docs" / "doctor.md").read_text()
    rows = dict(re.findall(r"^\| `([\w-]+)` \| (\w+)[ ,]", page, re.M))
    assert rows == {code: kind.severity for code, kind in CODES.items()}


@pytest.mark.filterwarnings("ignore")  # Pillow warns of some damages before it raises
@pytest.mark.parametrize("ending", ["png", "jpg", "tif", "bmp", "webp"])
def test_any_damage_is_a_finding_where_the_reader_fails(tmp_path, ending):
    """Bytes overwritten or cut off at random: never an exception of another kind."""
    root = corpus.clean(tmp_path / "data")
    rng = np.random.default_rng(len(ending) + ord(ending[0]))
    options = {"lossless": True} if ending == "webp" else {}
    if ending == "tif":
        options = {"compression": "tiff_adobe_deflate"}
    failed = 0
    whole = {
        kind: corpus.encoded(array, ending, **options)
        for kind, array in (
            ("images", corpus.image_of(3)),
            ("masks", corpus.mask_of(3) * 0 + 1),
        )
    }
    for kind in whole:
        (root / "train" / kind / "003.png").unlink()
    source = None
    for turn in range(60):
        for kind, content in whole.items():
            damaged = bytearray(content)
            if turn % 2 == (kind == "masks"):
                for place in rng.integers(0, min(len(content), 200), 3):
                    damaged[place] = rng.integers(256)
                cut = rng.integers(1, len(content) + 1) if turn % 3 == 0 else None
                damaged = damaged[:cut]
            (root / "train" / kind / f"003.{ending}").write_bytes(damaged)
        source = source or setup.open_split(corpus.config_of(root), "train")
        facts = examine("train", lambda s=source: s.stored(3), source.meaning)
        told = own_faults([facts], source.meaning, source.channels)
        stops = [fault.code for _, fault in told if CODES[fault.code].stops]
        try:
            source[3]
        except ValueError as error:
            failed += 1
            assert stops, error
        else:
            assert stops == []
    assert failed > 10


def test_a_folder_without_classes_is_told_what_they_may_be(tmp_path, capsys):
    root = corpus.clean(tmp_path / "data")
    corpus.in_colors(root)
    written = json.loads((root / "classes.json").read_text())
    (root / "classes.json").unlink()
    flags = ["--config.data.name=folder", f"--config.data.root={root}"]
    command = ["doctor", "--config", str(ROOT / "configs" / "resnet_unet.py"), *flags]
    output = tmp_path / "faults.json"
    assert main([*command, "--output", str(output)]) == 1
    said = capsys.readouterr().out
    proposed = json.loads(output.read_text())["proposed_classes"]["classes"]
    assert proposed in said and f"{root / 'classes.json'}, with your names" in said
    colors = {tuple(entry["color"]) for entry in json.loads(proposed)}
    assert colors == {tuple(entry["color"]) for entry in written}
    (root / "classes.json").write_text(proposed)  # as it is
    assert main([*command, "--output", str(output)]) == 0
    result = json.loads(output.read_text())
    assert result["proposed_classes"] is None
    size = [corpus.H, corpus.W]
    assert result["images"] == {
        **dict.fromkeys(("smallest", "largest", "median"), size),
        **{"channels": [3], "types": ["uint8"]},
    }
    told = f"images: {corpus.H}x{corpus.W} (height x width), 3 channels of uint8"
    assert told in capsys.readouterr().out


def test_the_fast_form_tells_of_many_sizes():
    config = configs.load(str(ROOT / "configs" / "resnet_unet.py"))
    config.data.fit = "pad"
    (line,) = check(config, {}, [(32 * i, 32) for i in range(1, 20)])
    assert line.startswith("19 padded sizes of images are joined to 16")
    assert "slide" not in line  # trainings score wholes
    config.data.fit, config.eval.mode = "resize", "slide"
    (line,) = check(config, {}, [(32, 32)])
    assert line.startswith("config.eval.mode='slide' changes nothing")
    config.eval.scales = (1.0, 2.0)  # four windows and more of the larger view
    assert check(config, {}, [(32, 32)]) == []


def test_files_are_looked_at_without_classes_too(tmp_path):
    root = corpus.clean(tmp_path / "data")
    (root / "classes.json").unlink()
    corpus.mask(root).unlink()
    result = doctor(corpus.config_of(root), "x.py")
    found = {finding["code"]: finding["where"] for finding in result["findings"]}
    assert found["mask-missing"] == [str(corpus.image(root))]
    assert found["dataset-unreadable"] == [str(root)]

"""``segjax predict`` with a network that knows colours: every label is known."""

import io
import json
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tifffile
from jax.sharding import Mesh
from PIL import ExifTags, Image

from segjax import config as configs
from segjax import detection, predict, regions, setup
from segjax.batch import IGNORE, LabelSpec
from segjax.main import main
from segjax.preprocessing import Preprocessing
from tests.data.test_video import write_clip

SPEC = LabelSpec(("red", "green", "blue"), ((200, 0, 0), (0, 200, 0), (0, 0, 200)))


@pytest.fixture
def run(monkeypatch):
    """Runs have a network whose logits are a pixel's channels; ``shapes``: it saw."""
    state = SimpleNamespace(
        channels=3, shapes=[], config=configs.default(), source=None
    )
    state.config.data.fit = "pad"

    def apply(variables, image, train):
        state.shapes.append(image.shape[1:3])
        return 8 * image[..., -3:]

    def load_parts(workdir, overrides, devices):
        configs.override(state.config, overrides)
        pre = Preprocessing(
            channels=state.channels,
            image_size=(32, 40),
            fit=state.config.data.fit,
            mean=(0.0,) * state.channels,
            std=(1.0,) * state.channels,
        )
        return SimpleNamespace(
            config=state.config,
            spec=SPEC,
            pre=pre,
            mesh=Mesh(np.array(devices).reshape(1, 1, 1), ("data", "fsdp", "spatial")),
            model=SimpleNamespace(apply=apply),
            dtype=jnp.float32,
        )

    monkeypatch.setattr(setup, "load_parts", load_parts)
    monkeypatch.setattr(setup, "restore_variables", lambda *_: ({}, 7))
    monkeypatch.setattr(
        setup, "open_split", lambda config, split, channels: state.source
    )
    return state


def scene(h: int, w: int, seed: int = 0) -> np.ndarray:
    """uint8[h, w]: classes in blocks of 8 x 8."""
    blocks = np.random.default_rng(seed).integers(0, 3, (-(-h // 8), -(-w // 8)))
    return blocks.repeat(8, 0).repeat(8, 1)[:h, :w].astype(np.uint8)


def painted(label: np.ndarray) -> np.ndarray:
    """uint8[h, w, 3]: an image of those classes."""
    image = np.full((*label.shape, 3), 60, np.uint8)
    np.put_along_axis(image, label[..., None].astype(np.int64), 190, -1)
    return image


def predicted(*arguments, output):
    return main(["predict", "--workdir", "w", *arguments, "--output", str(output)])


def label_at(path) -> np.ndarray:
    with Image.open(path) as image:
        assert image.mode == "P"
        return np.asarray(image)


def test_everything_that_is_written_for_an_image(run, tmp_path, capsys):
    label = scene(50, 70)
    Image.fromarray(painted(label)).save(tmp_path / "a.png")
    out = tmp_path / "out"
    assert predicted("--input", str(tmp_path / "a.png"), output=out) == 0
    assert sorted(p.name for p in out.iterdir()) == [
        *("a.png", "a_boxes.png", "a_contours.png", "a_overlay.png", "boxes.json")
    ]
    np.testing.assert_array_equal(label_at(out / "a.png"), label)
    told = json.loads((out / "boxes.json").read_text())
    assert told["classes"] == ["red", "green", "blue"] and told["step"] == 7
    (image,) = told["images"]
    assert image["size"] == [50, 70] and image["label"] == "a.png"
    assert image["image"].endswith("a.png") and told["failed"] == []
    e = np.exp(8 * np.array([190, 60, 60]) / 255)
    assert len(image["boxes"]) == len(regions.find(label, 3))
    for box in image["boxes"]:
        mask = regions.decode(box["mask"])
        assert (label[mask] == box["class_id"]).all() and mask.sum() == box["area"]
        assert box["score"] == pytest.approx(e[0] / e.sum(), abs=1e-5)
    lines = capsys.readouterr().out.splitlines()
    assert lines[-1].startswith("1 image, 0.0 MPix in ")
    assert "images/s, " in lines[-1] and lines[-1].endswith(" MPix/s")


def test_files_of_every_kind_in_one_go(run, tmp_path, monkeypatch):
    photos, out = tmp_path / "photos", tmp_path / "out"
    labels = {}
    for name, seed in (("day/x", 1), ("night/x", 2), ("list", 3), ("sixteen", 4)):
        labels[name] = scene(33 + seed, 47, seed)
        path = photos / f"{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(painted(labels[name])).save(path)
    deep = painted(labels["sixteen"]).astype(np.uint16) * 257
    (photos / "sixteen.png").unlink()
    tifffile.imwrite(photos / "sixteen.tif", deep, photometric="rgb")
    write_clip(photos / "clip.mp4", 3)
    monkeypatch.setattr("sys.stdin", io.StringIO(f"{photos / 'list.png'}\n"))
    wanted = [str(photos / "*" / "x.png"), str(photos / "sixteen.tif"), "-"]
    wanted += [str(photos / "clip.mp4"), "--every", "2", "--write", "label"]
    assert predicted("--input", *wanted, output=out) == 0
    for name, label in labels.items():
        np.testing.assert_array_equal(label_at(out / f"{name}.png"), label, name)
    # Red and blue frames; the white quarter is any class, and edges are blurred.
    for number, class_id in ((0, 0), (2, 2)):
        assert (label_at(out / "clip" / f"{number:06d}.png")[:, 24:] == class_id).all()
    assert (
        not list(out.rglob("*_overlay.png")) and not (out / "clip/000001.png").exists()
    )
    told = json.loads((out / "boxes.json").read_text())["images"]
    assert [i.get("frame") for i in told] == [None] * 4 + [0, 2]
    assert told[-1]["seconds"] == pytest.approx(0.2)


def test_labels_are_written_upright(run, tmp_path):
    label = scene(24, 40)
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6  # turn clockwise to see it upright
    stored = np.rot90(painted(label))
    Image.fromarray(np.ascontiguousarray(stored)).save(tmp_path / "a.png", exif=exif)
    assert predicted("--input", str(tmp_path / "a.png"), output=tmp_path / "out") == 0
    np.testing.assert_array_equal(label_at(tmp_path / "out" / "a.png"), label)
    with Image.open(tmp_path / "out" / "a_overlay.png") as overlay:
        assert overlay.size == (40, 24)


def test_five_channels(run, tmp_path):
    run.channels = 5
    label = scene(30, 41)
    first = np.zeros((30, 41, 2), np.uint8)
    image = np.concatenate([first, painted(label)], -1)
    tifffile.imwrite(tmp_path / "a.tif", image, photometric="minisblack")
    out = tmp_path / "out"
    assert predicted("--input", str(tmp_path / "a.tif"), output=out) == 0
    np.testing.assert_array_equal(label_at(out / "a.png"), label)


def test_broken_files_are_named_at_the_end(run, tmp_path, capsys):
    for name in ("a", "c"):
        Image.fromarray(painted(scene(20, 20))).save(tmp_path / f"{name}.png")
    (tmp_path / "b.png").write_bytes(b"\x89PNG\r\n\x1a\nrest")
    tifffile.imwrite(tmp_path / "d.tif", np.zeros((8, 8, 5), np.uint8))
    (tmp_path / "e.mp4").write_bytes(b"no video")
    out = tmp_path / "out"
    wanted = ["--input", str(tmp_path), str(tmp_path / "e.mp4")]
    assert predicted(*wanted, output=out) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "3 of 5 files failed: " in error
    for name in ("b.png", "d.tif: has 5 channels where 3", "e.mp4: unreadable"):
        assert name in error
    told = json.loads((out / "boxes.json").read_text())
    assert [i["label"] for i in told["images"]] == ["a.png", "c.png"]
    assert [i["image"].rsplit("/")[-1] for i in told["failed"]] == [
        *("b.png", "d.tif", "e.mp4")
    ]


def test_any_mix_of_sizes_compiles_few_programs(run, tmp_path, capsys):
    sizes = [(20 + 31 * i, 260 - 37 * i) for i in range(6)]
    labels = [scene(*size, i) for i, size in enumerate(sizes)]
    for i, label in enumerate(labels):
        Image.fromarray(painted(label)).save(tmp_path / f"{i}.png")
    for programs, most in ((16, 6), (3, 3), (1, 1)):
        run.shapes.clear()
        arguments = [f"--config.eval.programs={programs}", "--write", "label"]
        out = tmp_path / f"out{programs}"
        inputs = ["--input", str(tmp_path / "*.png")]
        assert predicted(*inputs, *arguments, output=out) == 0
        assert len(set(run.shapes)) == len(run.shapes) <= most
        for i, label in enumerate(labels):
            np.testing.assert_array_equal(label_at(out / f"{i}.png"), label)
    said = capsys.readouterr().out
    assert "6 padded sizes of images are joined to 1" in " ".join(said.split())
    # By windows there is one program, whatever the sizes.
    run.shapes.clear()
    slide = ["--config.eval.mode=slide", "--config.eval.batch_size=2"]
    assert predicted(*inputs, *slide, *arguments, output=tmp_path / "slide") == 0
    assert len(set(run.shapes)) == 1
    np.testing.assert_array_equal(label_at(tmp_path / "slide" / "0.png"), labels[0])


def test_regions_follow_their_flags(run, tmp_path):
    label = np.zeros((32, 32), np.uint8)
    label[:8, :8] = label[8:16, 8:16] = 1  # touch at a corner
    Image.fromarray(painted(label)).save(tmp_path / "a.png")
    counts = {}
    for flags in ("", "--connectivity 4", "--min-area 100"):
        wanted = ["--input", str(tmp_path / "a.png"), *flags.split()]
        assert predicted(*wanted, output=tmp_path / "out") == 0
        (image,) = json.loads((tmp_path / "out" / "boxes.json").read_text())["images"]
        counts[flags] = [b["area"] for b in image["boxes"] if b["class"] == "green"]
    assert counts == {"": [128], "--connectivity 4": [64, 64], "--min-area 100": [128]}
    with pytest.raises(SystemExit):
        predicted(*wanted, "--connectivity", "6", output=tmp_path / "out")
    assert predicted(*wanted, "--write", "cam", output=tmp_path / "out") == 2
    assert predicted(*wanted, "--every", "0", output=tmp_path / "out") == 2


class Examples:
    """A split of painted scenes, some of it ignored."""

    spec, channels = SPEC, 3

    def __init__(self, seeds):
        self.seeds = seeds

    def __len__(self):
        return len(self.seeds)

    def ids(self):
        return [f"../{seed}" for seed in self.seeds]

    def size(self, index):
        return (40, 56)

    def __getitem__(self, index):
        label = scene(40, 56, self.seeds[index])
        truth = label.copy()
        truth[:8] = IGNORE
        # What is shown differs from the truth where the seed is odd, and at the top.
        shown = np.where(np.arange(56) < 16 * (self.seeds[index] % 2), 0, label)
        shown[:8] = 2
        image = painted(shown.astype(np.uint8))
        return {"image": image, "label": truth, "id": self.ids()[index]}


def test_a_split_tells_its_average_precision(run, tmp_path, capsys):
    run.source = Examples([0, 2])
    assert predicted("--split", "val", output=tmp_path / "out") == 0
    told = json.loads((tmp_path / "out" / "boxes.json").read_text())
    for kind in ("boxes", "masks"):
        # What is ignored is shown as blue, and costs nothing.
        assert told["average_precision"][kind]["ap"] == 1.0
    assert sorted(p.name for p in tmp_path.iterdir()) == ["out"]
    assert (tmp_path / "out" / "0.png").is_file() and told["images"][0][
        "image"
    ] == "../0"
    run.source = Examples([1, 3, 4])
    assert predicted("--split", "val", output=tmp_path / "out") == 0
    told = json.loads((tmp_path / "out" / "boxes.json").read_text())
    want = detection.AveragePrecision(3)
    for i in range(3):
        truth = run.source[i]["label"]
        shown = run.source[i]["image"].argmax(-1).astype(np.uint8)
        shown[truth == IGNORE] = IGNORE
        sides = regions.find(shown, 3), regions.find(truth, 3)
        for k in range(3):
            own, true = ([r for r in s if r.class_id == k] for s in sides)
            iou = regions.mask_iou(own, true)
            want.add(k, np.ones(len(own)), iou)
    values = told["average_precision"]["masks"]
    assert 0.3 < values["ap"] < 1
    assert values == want.summarize(SPEC.names)
    said = capsys.readouterr().out
    assert "boxes AP 0.5" in said and "green" in said


def test_an_image_beyond_memory_is_named_with_the_way_out(run, tmp_path, capsys):
    Image.fromarray(painted(scene(20, 20))).save(tmp_path / "a.png")

    def refuse(*_):
        raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: out of memory")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(predict.views.Views, "on_devices", refuse)
        out = tmp_path / "out"
        assert predicted("--input", str(tmp_path / "a.png"), output=out) == 2
    error = capsys.readouterr().err
    assert "a.png: 20x20 px do not fit the device's memory" in error
    assert "--config.eval.mode=slide" in error


def test_an_interrupted_run_tells_what_it_did(run, tmp_path, monkeypatch):
    for i in range(12):
        Image.fromarray(painted(scene(16, 16, i))).save(tmp_path / f"{i:02d}.png")
    done, label = [], predict.views.Views.label

    def interrupted(*args, **options):
        done.append(1)
        if len(done) > 10:
            raise KeyboardInterrupt
        return label(*args, **options)

    monkeypatch.setattr(predict.views.Views, "label", interrupted)
    assert predicted("--input", str(tmp_path), output=tmp_path / "out") == 130
    told = json.loads((tmp_path / "out" / "boxes.json").read_text())
    assert 1 <= len(told["images"]) <= 10


def test_nothing_is_written_through_links_or_over_inputs(run, tmp_path, capsys):
    photos, out, outside = (tmp_path / name for name in ("photos", "out", "outside"))
    for name in ("a", "sub/b", "c"):
        path = photos / f"{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(painted(scene(16, 16))).save(path)
    before = (photos / "a.png").read_bytes()
    out.mkdir()
    outside.mkdir()
    (outside / "precious").write_text("yes")
    (out / "sub").symlink_to(outside)
    (out / "a.png").symlink_to(outside / "precious")
    assert predicted("--input", str(photos), output=out) == 2
    assert "1 of 3 files failed" in capsys.readouterr().err
    assert [p.name for p in outside.iterdir()] == ["precious"]
    assert (outside / "precious").read_text() == "yes"
    assert not (out / "a.png").is_symlink() and (out / "c_boxes.png").is_file()
    assert predicted("--input", str(photos / "a.png"), output=photos) == 2
    assert "a.png would be overwritten" in capsys.readouterr().err
    assert (photos / "a.png").read_bytes() == before
    assert not [p for p in photos.rglob("*") if p.name.endswith(".tmp")]


def test_a_full_disk_is_one_line(run, tmp_path, capsys, full_disk):
    Image.fromarray(painted(scene(200, 200))).save(tmp_path / "a.png")
    arguments = ["--input", str(tmp_path / "a.png"), "--min-area", "1"]
    # Compiled programs are kept on that disk, too, which warns where it cannot.
    jax.config.update("jax_enable_compilation_cache", False)
    try:
        with full_disk(600):
            assert predicted(*arguments, output=tmp_path / "out") == 2
    finally:
        jax.config.update("jax_enable_compilation_cache", True)
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "boxes.json cannot be written" in error
    assert [p for p in (tmp_path / "out").iterdir() if p.suffix == ".tmp"] == []


def test_an_image_of_nan_is_named(run, tmp_path, capsys):
    image = np.full((20, 20, 3), 0.5, np.float32)
    image[:3, :4] = np.nan
    tifffile.imwrite(tmp_path / "a.tif", image, photometric="rgb")
    wanted = ("--input", str(tmp_path / "a.tif"))
    assert predicted(*wanted, output=tmp_path / "out") == 2
    assert "a.tif: 12 of 400 pixels are NaN" in capsys.readouterr().err

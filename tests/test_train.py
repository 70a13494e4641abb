"""The whole path on small scenes: train, stop, resume, evaluate, predict."""

import json
import os
import re
import shutil
import signal
import subprocess
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import jax
import numpy as np
import pytest
import safetensors.numpy
import tifffile
from PIL import Image

from segjax import config as configs
from segjax import models, setup, train, weights
from segjax.checkpoint import Checkpoints, find_step, read_arrays
from segjax.checkpoint.digest import find_damage
from segjax.data import pipeline
from segjax.evaluate import evaluate, evaluate_split
from segjax.lock import Lock
from segjax.log_line import LogLine
from segjax.main import main
from segjax.metrics import summarize
from segjax.preprocessing import preprocessing
from segjax.warm import warm_start
from tests.tiny import tiny

QUICK = Path(__file__).parents[1] / "configs" / "resnet_unet.py"
SMALL = """
steps=4
data.image_size=(32,40)
data.batch_size=8
data.shapes.train_examples=24
data.shapes.val_examples=11
model.encoder=segnet_basic
model.decoder=segnet_basic
checkpoint.every=2
eval.every=2
logs.every=3
logs.pictures=2
optim.ema_decay=0.9
augment.scale=(0.8,1.25)
"""


REAL = setup.make_model


@pytest.fixture(scope="module", autouse=True)
def network():
    """What is tested lies around the network."""
    with tiny():
        yield


def small(*more: str):
    lines = [line for line in SMALL.strip().splitlines()]
    return configs.load(str(QUICK), [f"--config.{o}" for o in (*lines, *more)])


def lines_of(workdir: Path, timeless: bool = True) -> list[dict]:
    lines = [
        json.loads(x) for x in (workdir / "metrics.jsonl").read_text().splitlines()
    ]
    times = ("seconds", "images_per_s", "stall_share") if timeless else ()
    return [{k: v for k, v in line.items() if k not in times} for line in lines]


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """(workdir of a run that was never stopped, its result, its fetches)."""
    workdir = tmp_path_factory.mktemp("runs") / "straight"
    with pytest.MonkeyPatch.context() as patch:
        fetches = []
        get = jax.device_get
        patch.setattr(jax, "device_get", lambda x: fetches.append(1) or get(x))
        result = train.train(small(), workdir)
    return workdir, result, len(fetches)


def test_a_run_leaves_what_the_design_promises(finished):
    workdir, result, _ = finished
    for name in ("config.json", "labels.json", "metrics.jsonl", "result.json"):
        assert (workdir / name).is_file(), name
    assert sorted(p.name for p in (workdir / "checkpoints").iterdir()) == ["2", "4"]
    assert list((workdir / "tensorboard").iterdir())
    pictures = sorted(p.name for p in (workdir / "predictions").iterdir())
    assert len(pictures) == 3 and "overview.png" in pictures
    assert json.loads((workdir / "result.json").read_text()) == result
    assert {"miou", "pixel_accuracy", "iou_per_class", "steps", "seconds"} <= {*result}
    assert result["steps"] == 4 and result["seed"] == 0
    assert result["environment"]["platform"]["processor"]
    assert result["pixels"] <= 11 * 32 * 40
    lines = lines_of(workdir, timeless=False)
    assert [x["step"] for x in lines if x["split"] == "train"] == [3, 4]
    assert [x["step"] for x in lines if x["split"] == "val"] == [2, 4]
    first = next(x for x in lines if x["split"] == "train")
    assert {"step", "split", "loss", "images_per_s", "lr", "skipped"} <= {*first}
    assert 0 <= first["stall_share"] <= 1


def test_one_fetch_per_step_and_per_evaluation_batch(finished):
    # 4 steps, one fetch each; 2 evaluations of 2 batches (11 examples, 8 a batch),
    # one fetch each and one more per batch that holds a picture's example (first and
    # last example: both batches). 2 saves: whether all is finite.
    assert finished[2] == 4 + 2 * (2 + 2) + 2


def test_the_rate_of_the_log_is_that_of_the_last_update():
    """Which the optimizer numbers from 0, without those that were skipped."""
    run, told = train.Run.__new__(train.Run), {}
    run.step, run.skipped, run.waiting, run.line = 5, 2, None, LogLine()
    run.schedule, run.seconds = float, lambda: 0.0
    run.meter = SimpleNamespace(read=dict)
    run.spec = SimpleNamespace(names=())
    run.parts = SimpleNamespace(task=SimpleNamespace(scalars=lambda *_: {}))
    run.logs = SimpleNamespace(train=lambda step, scalars: told.update(scalars))
    run.log()
    assert told["lr"] == 2.0


def stop_after(patch, step: int):
    """Make the process 'die' right after the checkpoint of that step is on disk."""
    save = train.Run.save

    def save_and_stop(self):
        save(self)
        self.checkpoints.wait()
        if self.step == step:
            raise KeyboardInterrupt

    patch.setattr(train.Run, "save", save_and_stop)


def test_a_stopped_run_resumes_bit_for_bit(finished, tmp_path, monkeypatch):
    workdir = tmp_path / "stopped"
    checks = []
    monkeypatch.setattr(train, "check", lambda *_: checks.append(1) or [])
    with monkeypatch.context() as patch:
        stop_after(patch, 2)
        with pytest.raises(KeyboardInterrupt):
            train.train(small(), workdir)
    assert not (workdir / "result.json").exists()
    result = train.train(small(), workdir)
    assert lines_of(workdir) == lines_of(finished[0])
    assert result["iou_per_class"] == finished[1]["iou_per_class"]
    assert len(checks) == 1, "the data is looked at before step 0, not on a resume"
    # Once more when all is done: the same result, and no line twice.
    again = train.train(small(), workdir)
    assert again["iou_per_class"] == result["iou_per_class"]
    assert lines_of(workdir) == lines_of(finished[0])
    assert_same_state(workdir, finished[0])


def test_checkpoints_may_lie_elsewhere(finished, tmp_path, monkeypatch):
    """Their folder alone brings a run back, whose workdir is gone."""
    elsewhere = tmp_path / "bucket"
    config = small(f"checkpoint.directory={str(elsewhere)!r}")
    with monkeypatch.context() as patch:
        stop_after(patch, 2)
        with pytest.raises(KeyboardInterrupt):
            train.train(config, tmp_path / "first")
    assert not (tmp_path / "first" / "checkpoints").exists()
    train.train(config, tmp_path / "second")
    assert sorted(p.name for p in elsewhere.iterdir()) == ["2", "4"]
    wanted = [line for line in lines_of(finished[0]) if line["step"] > 2]
    assert lines_of(tmp_path / "second") == wanted
    assert find_step(elsewhere, "latest").name == "4"
    summary = evaluate(tmp_path / "second", [])
    assert summary["miou"] == finished[1]["miou"]


def arguments(workdir: Path, *more: str) -> list[str]:
    """The command line of the run that ``small`` configures."""
    options = [f"--config.{option}" for option in (*SMALL.split(), *more)]
    return ["--config", str(QUICK), "--workdir", str(workdir), *options]


def call_after(patch, owner, name: str, action) -> None:
    """Let ``action(self)`` follow every call of a method."""
    method = getattr(owner, name)

    def both(self, *args, **kwargs):
        found = method(self, *args, **kwargs)
        action(self)
        return found

    patch.setattr(owner, name, both)


def tell(number: int) -> None:
    os.kill(os.getpid(), number)


def stopped_by_sigterm(patch, workdir: Path, step: int) -> list[int]:
    """Run until the signal after that step; the steps saved.

    A second and a third signal come while the checkpoint is being written.
    """
    saves = []

    def storm(checkpoints):
        saves.append(checkpoints._saving)
        tell(signal.SIGTERM)
        tell(signal.SIGTERM)

    call_after(patch, Checkpoints, "_write_digest", storm)
    call_after(
        patch,
        train.Run,
        "advance",
        lambda run: run.step == step and tell(signal.SIGTERM),
    )
    assert main(arguments(workdir)) == 143
    assert [p.name for p in (workdir / "checkpoints").iterdir()] == [str(step)]
    assert not (workdir / "result.json").exists()
    return saves


def test_sigterm_saves_and_the_run_goes_on_bit_for_bit(finished, tmp_path, monkeypatch):
    workdir = tmp_path / "stopped"
    with monkeypatch.context() as patch:
        # Where no save is due, and in the middle of a line of the log.
        assert stopped_by_sigterm(patch, workdir, 1) == [1]
    assert main(arguments(workdir)) == 0
    assert lines_of(workdir) == lines_of(finished[0])
    assert_same_state(workdir, finished[0])


def test_sigterm_saves_once_where_a_save_is_due(tmp_path, monkeypatch):
    assert stopped_by_sigterm(monkeypatch, tmp_path / "stopped", 2) == [2]
    (line,) = lines_of(tmp_path / "stopped")
    assert line["split"] == "val"


def test_sigterm_that_reaches_the_loading_processes_too(tmp_path, monkeypatch):
    # As a scheduler sends it: to the whole group. Grain then raises a RuntimeError.
    workdir, on_devices = tmp_path / "stopped", train.on_devices

    def ended(*args):
        yield next(on_devices(*args))
        raise RuntimeError("Worker process was terminated unexpectedly")

    with monkeypatch.context() as patch:
        patch.setattr(train, "on_devices", ended)
        with pytest.raises(RuntimeError):
            main(arguments(tmp_path / "not told"))
        call_after(patch, train.Run, "advance", lambda _: tell(15))
        assert main(arguments(workdir)) == 143
    assert [p.name for p in (workdir / "checkpoints").iterdir()] == ["1"]


def test_an_interrupt_in_a_save_leaves_a_good_checkpoint(tmp_path, monkeypatch, capsys):
    workdir = tmp_path / "interrupted"
    call_after(monkeypatch, Checkpoints, "_write_digest", lambda _: tell(signal.SIGINT))
    assert main(arguments(workdir)) == 130
    assert capsys.readouterr().err == "segjax: interrupted\n"
    assert [p.name for p in (workdir / "checkpoints").iterdir()] == ["2"]
    folder = find_step(workdir, "latest")
    assert find_damage(folder) is None and read_arrays(folder)["step"] == 2


def test_the_best_is_kept_where_nothing_else_is_saved(tmp_path, monkeypatch):
    """Evaluated at every step, saved at the end only; the second step is the best."""
    scores = iter((0.1, 0.4, 0.3, 0.2))
    original = train.Run.measure

    def measure(run):
        original(run)
        run.summary["miou"] = next(scores)

    monkeypatch.setattr(train.Run, "measure", measure)
    workdir = tmp_path / "run"
    every = ("eval.every=1", "checkpoint.every=None", "checkpoint.keep=1")
    result = train.train(small(*every), workdir)
    assert result["best_step"] == 2
    kept = {p.name for p in (workdir / "checkpoints").iterdir()}
    assert kept == {"2", "4"}
    assert find_step(workdir, "best").name == "2"


def test_an_evaluation_that_fails_costs_no_training(tmp_path, monkeypatch, capsys):
    """Not even of a run that saves at its end only."""
    options = ("checkpoint.every=None", "eval.every=None")
    workdir = tmp_path / "run"

    def refuse(run):
        raise OSError(5, "Input/output error", "val/a.png")

    with monkeypatch.context() as patch:
        patch.setattr(train.Run, "measure", refuse)
        assert main(arguments(workdir, *options)) == 2
    assert "val/a.png" in capsys.readouterr().err
    assert [p.name for p in (workdir / "checkpoints").iterdir()] == ["4"]
    assert main(arguments(workdir, *options)) == 0
    assert "at step 4" in capsys.readouterr().out
    result = json.loads((workdir / "result.json").read_text())
    assert result["miou"] > 0 and result["best_step"] == 4
    # As if it had not failed: its line, the checkpoint's score, once.
    lines = lines_of(workdir)
    assert [line["split"] for line in lines[-2:]] == ["train", "val"]
    assert lines[-1]["miou"] == result["miou"]
    assert main(arguments(workdir, *options)) == 0
    assert lines_of(workdir) == lines


def test_a_second_run_in_the_workdir_is_refused(finished, capsys):
    before = {p: p.stat().st_mtime_ns for p in finished[0].rglob("*")}
    with Lock(finished[0]):
        assert main(arguments(finished[0])) == 2
    error = capsys.readouterr().err
    assert f"is in use by process {os.getpid()}" in error and error.count("\n") == 1
    before.pop(finished[0] / "lock")
    assert before == {p: p.stat().st_mtime_ns for p in before}


def test_a_config_cut_short_is_one_line(finished, tmp_path, capsys):
    shutil.copy(finished[0] / "config.json", tmp_path)
    text = (tmp_path / "config.json").read_text()
    (tmp_path / "config.json").write_text(text[:100])
    assert main(arguments(tmp_path)) == 2
    error = capsys.readouterr().err
    assert "config.json: it is damaged" in error and error.count("\n") == 1


@pytest.fixture
def disk(tmp_path, full_disk):
    """(a folder, a context with so many bytes left in it, too few for a checkpoint).

    A file system of its own where one can be mounted, which then is really full; else
    a limit to every file's size. One of the two is always tested.
    """
    folder = tmp_path / "disk"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=900m", "tmpfs", str(folder)]
    try:
        mounted = subprocess.run(command, capture_output=True).returncode == 0
    except OSError:
        mounted = False

    @contextmanager
    def filled(left: int):
        free = shutil.disk_usage(folder).free
        filler = folder / "filler"
        with filler.open("wb") as file:
            os.posix_fallocate(file.fileno(), 0, free - left)
        yield
        filler.unlink()

    # Of a checkpoint's 164 kB, or of its largest file's 13 kB.
    yield folder, (filled if mounted else full_disk), 2**16 if mounted else 2**12
    if mounted:
        subprocess.run(["umount", str(folder)], check=True)


# Orbax's writers that answer late find its event loop closed.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_full_disk_is_one_line_and_costs_no_checkpoint(finished, disk, capsys):
    folder, left, room = disk
    workdir = folder / "run"
    shutil.copytree(finished[0], workdir)
    shutil.rmtree(workdir / "checkpoints" / "4")
    for size, file in ((0, "lock|labels|config"), (room, "checkpoint 4")):
        with left(size):
            assert main(arguments(workdir)) == 2
        error = capsys.readouterr().err
        assert re.search(file, error) and error.count("\n") == 1, error
        assert re.search("No space left on device|File too large", error)
        assert (workdir / "checkpoints" / "2").is_dir()
        assert not (workdir / "checkpoints" / "4").exists()
    assert main(arguments(workdir)) == 0
    assert lines_of(workdir) == lines_of(finished[0])
    assert_same_state(workdir, finished[0])


@pytest.fixture(scope="module")
def float_images(tmp_path_factory):
    """16 float32 images: in good/ the last has an infinite pixel, in bad/ all have.

    The two images to evaluate are whole.
    """
    root, rng = tmp_path_factory.mktemp("floats"), np.random.default_rng(0)
    for name in ("good", "bad", "masks"):
        (root / name).mkdir()
    for index in range(18):
        image = rng.random((32, 40, 3), np.float32)
        mask = rng.integers(0, 3, (32, 40)).astype(np.uint8)
        Image.fromarray(mask).save(root / "masks" / f"{index}.png")
        tifffile.imwrite(root / "good" / f"{index}.tif", image, photometric="rgb")
        if index < 16:
            image[3, 4, 0] = np.inf
        tifffile.imwrite(root / "bad" / f"{index}.tif", image, photometric="rgb")
    shutil.copy(root / "bad" / "15.tif", root / "good")
    (root / "classes.json").write_text('["a", "b", "c"]')
    (root / "train.txt").write_text("\n".join(map(str, range(16))))
    (root / "val.txt").write_text("16\n17\n")
    return root


def on_floats(root: Path, images: str, *more: str) -> tuple[str, ...]:
    data = ("data.name=folder", f"data.root={root}", f"data.folder.image_dir={images}")
    # The doctor would stop the run before it begins.
    more = ("data.check=off", *more)
    shapes = ("data.shapes.train_examples=3000", "data.shapes.val_examples=200")
    return (*data, *shapes, *more)


def test_a_bad_image_costs_its_updates_and_is_named(float_images, tmp_path):
    # 16 images, 8 a batch: one update of two in each epoch.
    workdir, options = tmp_path / "run", on_floats(float_images, "good")
    assert main(arguments(workdir, *options)) == 0
    lines = lines_of(workdir)
    found = [line for line in lines if line["split"] == "skipped"]
    orders = {s: pipeline.example_indices(0, s - 1, 8, 16) for s in range(1, 5)}
    assert [x["step"] for x in found] == [s for s in orders if 15 in orders[s]]
    assert len(found) == 2
    for line in found:
        assert line["ids"] == [str(index) for index in orders[line["step"]]]
        assert line["in_row"] == 1 or found[0]["step"] + 1 == found[1]["step"]
        assert "loss nan" in line["reason"]
    training = [line for line in lines if line["split"] == "train"]
    assert sum(line["skipped"] for line in training) == 2
    assert all(np.isfinite(line["loss"]) for line in training if line["loss"])


def test_a_row_of_skipped_updates_stops_the_run_also_across_a_resume(
    float_images, tmp_path, monkeypatch, capsys
):
    options = (*on_floats(float_images, "bad"), "guard.max_skipped=3")
    workdir = tmp_path / "straight"
    assert main(arguments(workdir, *options)) == 2
    error = capsys.readouterr().err
    assert error.startswith("segjax: 3 updates in a row were skipped up to step 3")
    assert error.count("\n") == 1
    assert [line["in_row"] for line in lines_of(workdir)[:2]] == [1, 2]
    assert [p.name for p in (workdir / "checkpoints").iterdir()] == ["2"]
    stopped = tmp_path / "stopped"
    with monkeypatch.context() as patch:
        stop_after(patch, 2)
        assert main(arguments(stopped, *options)) == 130
    capsys.readouterr()
    assert main(arguments(stopped, *options)) == 2
    assert capsys.readouterr().err == error
    assert lines_of(stopped) == lines_of(workdir)
    assert_same_state(stopped, workdir)


def test_parameters_that_overflow_are_not_saved(tmp_path, monkeypatch, capsys):
    def overflow(run):
        params = jax.tree.map(lambda x: x * np.inf, run.state.params)
        run.state = run.state.replace(params=params)

    call_after(monkeypatch, train.Run, "advance", overflow)
    assert main(arguments(tmp_path / "run", "eval.every=4")) == 2
    error = capsys.readouterr().err
    assert "the parameters at step 2 are not finite and are not saved" in error
    assert list((tmp_path / "run" / "checkpoints").iterdir()) == []


def assert_same_state(ours: Path, theirs: Path) -> None:
    """The newest checkpoints of two workdirs, all of the state, bit for bit."""
    folders = [find_step(workdir, "latest") for workdir in (ours, theirs)]
    assert folders[0].name == folders[1].name
    a, b = (read_arrays(folder) for folder in folders)
    assert a.keys() == b.keys() and {"step", "skipped"} < a.keys()
    for name in a:
        np.testing.assert_array_equal(a[name], b[name], err_msg=name)


def test_another_config_in_the_same_workdir_is_refused(finished):
    with pytest.raises(ValueError, match=r"optim\.lr is 0\.5 now and 0\.00\d+ there"):
        train.train(small("optim.lr=0.5"), finished[0])


def test_more_steps_and_other_logs_are_no_other_config(finished):
    config = small("steps=9", "eval.every=3", "logs.every=5", "data.workers=1")
    text = (finished[0] / "config.json").read_text()
    configs.check_resumable(config, text, "a")


def test_another_runs_checkpoint_directory_is_refused(finished, tmp_path):
    """Not gone on with from one's own workdir: its numbers would be the other's."""
    shared = finished[0] / "checkpoints"
    config = small("optim.lr=0.5", f"checkpoint.directory={shared}")
    with pytest.raises(ValueError, match=r"checkpoint.directory .*optim\.lr is 0\.5"):
        train.train(config, tmp_path / "other")


def test_evaluate_gives_the_result_of_the_run(finished):
    workdir, result, _ = finished
    summary = evaluate(workdir, [], checkpoint="latest")
    assert summary["iou_per_class"] == result["iou_per_class"]
    assert json.loads((workdir / "eval_val.json").read_text()) == summary
    assert summary["examples"] == 11 and summary["step"] == 4


def test_evaluation_is_the_metric_of_its_predictions(finished):
    # At a label size that is not the network's, against NumPy's own count.
    workdir, *_ = finished
    parts = setup.load_parts(workdir, ["--config.eval.batch_size=8"])
    variables, _ = setup.restore_variables(parts, workdir, "latest")
    config = parts.config
    config.data.image_size = (50, 70)
    source = setup.open_split(config, "val")
    everything = range(len(source))
    summary, shown = evaluate_split(
        parts, parts.eval_step(), variables, source, show=everything
    )
    matrix = np.zeros((8, 8), np.int64)
    for index in everything:
        label = source[index]["label"]
        assert shown[index].shape == (50, 70)
        valid = label != 255
        np.add.at(matrix, (label[valid], shown[index][valid]), 1)
    expected = summarize(matrix, parts.spec.names)
    assert {k: summary[k] for k in expected} == expected


def test_predict_writes_at_the_original_size_and_names_a_broken_file(
    finished, tmp_path, capsys
):
    photos, output = tmp_path / "photos", tmp_path / "out"
    (photos / "more").mkdir(parents=True)
    rng = np.random.default_rng(0)
    for name, size in (("a.png", (97, 131)), ("more/b.jpg", (33, 50))):
        pixels = rng.integers(0, 256, (*size, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(photos / name)
    (photos / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\nrest")
    arguments = ["predict", "--workdir", str(finished[0]), "--checkpoint", "latest"]
    code = main([*arguments, "--input", str(photos), "--output", str(output)])
    assert code == 2
    message = capsys.readouterr().err
    assert "1 of 3 files failed" in message and "broken.png" in message
    with Image.open(output / "a.png") as label:
        assert label.mode == "P" and label.size == (131, 97)
        assert np.asarray(label).max() < 8
    with Image.open(output / "more" / "b_overlay.png") as shown:
        assert shown.size == (50, 33)
    boxes = json.loads((output / "boxes.json").read_text())
    assert [Path(x["image"]).name for x in boxes["images"]] == ["a.png", "b.jpg"]
    assert boxes["images"][0]["size"] == [97, 131]


def test_a_checkpoint_cut_short_falls_back(finished, tmp_path, capsys):
    workdir = tmp_path / "copy"
    shutil.copytree(finished[0], workdir)
    largest = max(
        (workdir / "checkpoints" / "4").rglob("*"), key=lambda p: p.stat().st_size
    )
    largest.write_bytes(largest.read_bytes()[:100])
    result = train.train(small(), workdir)
    said = capsys.readouterr().out
    assert "checkpoint 4" in said and "step 2" in said
    assert result["iou_per_class"] == finished[1]["iou_per_class"]


def test_a_warm_start_takes_the_other_runs_parameters(finished):
    config = small(f"model.pretrained={finished[0]}", "seed=5")
    source = setup.open_split(config, "train")
    pre = preprocessing(config, source.channels)
    parts = setup.make_parts(config, source.spec, pre)
    tx, _ = setup.make_tx(config, 4)
    abstract = parts.abstract_state(tx)
    where = jax.tree.map(lambda leaf: leaf.sharding, abstract)
    fresh = jax.jit(parts.init(tx), out_shardings=where)(jax.random.key(5))
    warm, new = warm_start(parts, fresh)
    assert new == []
    stored, _ = setup.restore_variables(parts, finished[0], "best")
    for a, b in zip(
        jax.tree.leaves(warm.params), jax.tree.leaves(stored["params"]), strict=True
    ):
        np.testing.assert_array_equal(a, b)


def test_inflate_fits_pretrained_weights_to_other_channels(
    finished, tmp_path, monkeypatch
):
    monkeypatch.setattr(setup, "make_model", REAL)
    path = tmp_path / "weights.safetensors"
    rgb = models.build("resnet18", "fcn32s", 2)
    fresh = jax.jit(rgb.init)(jax.random.key(1), np.zeros((1, 32, 40, 3), np.float32))
    state = weights.to_torch(rgb, fresh, "timm")
    safetensors.numpy.save_file(state, path)

    def warm(*more):
        network = ("model.encoder=resnet18", "model.decoder=fcn32s")
        config = small(*network, f"model.pretrained={path}", *more)
        spec = setup.open_split(config, "train").spec
        parts = setup.make_parts(config, spec, preprocessing(config, 5))
        tx, _ = setup.make_tx(config, 4)
        where = jax.tree.map(lambda leaf: leaf.sharding, parts.abstract_state(tx))
        key = jax.random.key(5)
        start = jax.jit(parts.init(tx), out_shardings=where)(key)
        state, new = warm_start(parts, start)
        # What the file has not is what the run's seed made, not one for all seeds.
        assert new == sorted({*start.params} - {"encoder"}) and "head" in new
        for name in new:
            jax.tree.map(
                np.testing.assert_array_equal, state.params[name], start.params[name]
            )
        return state.params["encoder"]["conv1"]["kernel"]

    with pytest.raises(ValueError, match=r"\(64, 5, 7, 7\); .* model.inflate"):
        warm()
    wanted = state["conv1.weight"].transpose(2, 3, 1, 0)
    np.testing.assert_array_equal(
        warm("model.inflate=zero"), np.pad(wanted, [(0, 0)] * 2 + [(0, 2), (0, 0)])
    )
    with pytest.raises(ValueError, match=r"inflate='mean' is for weights files"):
        path = finished[0]
        warm("model.inflate=mean")


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["trane"], "no command 'trane'; did you mean train"),
        (["--config", "x.py"], "x.py: there is no such file"),
        (["--config", str(QUICK), "--config.optim.lr", "1"], "lr has no value; write"),
        (["--config", str(QUICK), "--config.data.batch_size=12"], "use 8 or 16"),
        (["--config", str(QUICK), "--config.mesh.data=3"], "there are 8 devices"),
        (["--config", str(QUICK), "--config.loss.name=dise"], "did you mean 'dice'"),
        (["--config", str(QUICK), "--config.loss.class_weights=(1.,2.)"], "8 classes"),
        (["--config", str(QUICK), "--config.data.mean=(.5,.5)"], "3 channels"),
        (["--config", str(QUICK), "--config.data.eval_split=x"], "no split 'x'"),
        (["evaluate", "--workdir", "/nowhere"], "/nowhere: no config.json"),
        # A word of the runtime's about a lost process, and here a name of the user's.
        (["evaluate", "--workdir", "/heartbeat"], "/heartbeat: no config.json"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(arguments, message, capsys, tmp_path):
    if "--config" in arguments:
        arguments = [*arguments, "--workdir", str(tmp_path / "run")]
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1
    assert error.startswith("segjax: ")


def test_help_of_the_command_line_imports_nothing_heavy():
    import subprocess
    import sys

    code = (
        "import sys; sys.argv = ['segjax', '--help']\n"
        "from segjax.main import main\n"
        "try: main()\n"
        "except SystemExit: pass\n"
        "assert not {'jax', 'flax', 'numpy', 'grain'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.DEVNULL)

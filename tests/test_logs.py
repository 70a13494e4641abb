"""Logs: strict lines that survive a kill, events anyone can read, honest speed."""

import io
import json
import math
import os
import platform
import re
import signal
import subprocess
import sys
import textwrap
from importlib.metadata import version
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from rich.console import Console

from segjax.logs import Logs, Meter, class_table, environment, plain
from segjax.logs.environment import git_state, processor_name

SUMMARY = {
    "miou": 0.625,
    "pixel_accuracy": 0.9,
    "class_accuracy": 0.75,
    "dice": 0.7,
    "fwiou": 0.8,
    "iou_per_class": {"road": 0.75, "thin pole": 0.5, "bus": None},
    "accuracy_per_class": {"road": 1.0, "thin pole": 0.5, "bus": None},
    "dice_per_class": {"road": 0.857, "thin pole": 0.543, "bus": None},
    "absent_classes": ["bus"],
    "pixels": 10**12,
}


def make_logs(workdir, terminal=False, **options):
    options = {"total_steps": 100, "tensorboard": False} | options
    console = Console(
        file=io.StringIO(), force_terminal=terminal, width=120, soft_wrap=not terminal
    )
    return Logs(workdir, console=console, **options)


def said(logs):
    return logs.console.file.getvalue()


def strict_lines(path):
    def refuse(constant):
        raise AssertionError(f"{constant} is not JSON")

    text = Path(path).read_text()
    return [json.loads(x, parse_constant=refuse) for x in text.splitlines()]


def test_metrics_are_strict_json_and_flushed(tmp_path):
    logs = make_logs(tmp_path)
    logs.train(
        10,
        {
            "loss": jnp.float32(0.5),
            "lr": np.float64(1e-3),
            "images_per_s": None,
            "gradient_norm": float("nan"),
            "worst": jnp.array(-jnp.inf),
            "skipped": np.int64(2),
        },
    )
    logs.evaluation(10, "val", SUMMARY, ["road", "thin pole", "bus"])
    # Both are on disk before anything is closed.
    train, val = strict_lines(tmp_path / "metrics.jsonl")
    logs.close()
    assert train == {
        "step": 10,
        "split": "train",
        "loss": 0.5,
        "lr": 1e-3,
        "images_per_s": None,
        "gradient_norm": None,
        "worst": None,
        "skipped": 2,
    }
    assert val == {"step": 10, "split": "val"} | SUMMARY


def test_plain_handles_containers():
    value = {"a": (np.float32(math.inf), [jnp.arange(2), True]), 3: Path("x"), "s": "t"}
    assert plain(value) == {"a": [None, [[0, 1], True]], "3": "x", "s": "t"}


@pytest.mark.parametrize(
    "tail", ['{"step": 3, "split": "train", "lo', '{"step": 3}', "\x00\x00", "[]\n", ""]
)
def test_a_line_cut_short_is_repaired(tmp_path, tail):
    whole = '{"step": 1, "split": "train"}\n{"step": 2, "split": "train"}\n'
    (tmp_path / "metrics.jsonl").write_text(whole + tail)
    logs = make_logs(tmp_path)
    logs.train(3, {"loss": 1.0})
    logs.close()
    assert [line["step"] for line in strict_lines(logs.path)] == [1, 2, 3]


def test_resuming_forgets_later_steps(tmp_path):
    logs = make_logs(tmp_path)
    for step in range(10, 60, 10):
        logs.train(step, {"loss": 1 / step})
        logs.evaluation(step, "val", {"miou": step / 100})
    logs.close()
    before = logs.path.read_text().splitlines()
    again = make_logs(tmp_path)
    again.truncate_after(30)
    assert logs.path.read_text().splitlines() == before[:6]
    for step in (40, 50):
        again.train(step, {"loss": 1 / step})
        again.evaluation(step, "val", {"miou": step / 100})
    again.close()
    assert logs.path.read_text().splitlines() == before
    assert os.listdir(tmp_path) == ["metrics.jsonl"]


KILLED = """
    import os, signal, sys, threading, time
    from segjax.logs import Logs
    logs = Logs(sys.argv[1], total_steps=10**9, tensorboard=False, primary=True)
    logs.console.quiet = True
    threading.Thread(
        target=lambda: (time.sleep(0.2), os.kill(os.getpid(), signal.SIGKILL))
    ).start()
    for step in range(10**9):
        logs.train(step, {"loss": 0.5, "text": "x" * 5000})
"""


def test_a_kill_costs_at_most_the_line_being_written(tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(KILLED), str(tmp_path)],
        cwd=Path(__file__).parents[1],
        capture_output=True,
        timeout=120,
    )
    assert done.returncode == -signal.SIGKILL, done.stderr
    lines = (tmp_path / "metrics.jsonl").read_bytes().splitlines(keepends=True)
    whole = len(lines) - (not lines[-1].endswith(b"\n"))
    assert whole > 5
    make_logs(tmp_path).close()
    steps = [line["step"] for line in strict_lines(tmp_path / "metrics.jsonl")]
    assert steps == list(range(whole))


def test_other_processes_write_nothing(tmp_path):
    logs = make_logs(tmp_path / "run", primary=False, tensorboard=True)
    logs.train(1, {"loss": 1.0})
    logs.evaluation(1, "val", SUMMARY)
    logs.image(1, "x", np.zeros((4, 4, 3), np.uint8))
    logs.progress(1)
    logs.info("x")
    logs.warn("x")
    logs.truncate_after(0)
    logs.close()
    assert said(logs) == "" and not (tmp_path / "run").exists()


def test_plain_lines_off_a_terminal(tmp_path, monkeypatch):
    now = [1000.0]
    monkeypatch.setattr("segjax.logs.writer.time.monotonic", lambda: now[0])
    logs = make_logs(tmp_path)
    for step in range(1, 21):
        logs.progress(step)
        now[0] += 2
    logs.train(20, {"loss": 0.25, "miou": 0.5, "images_per_s": 12.34})
    logs.evaluation(20, "val", SUMMARY)
    logs.train(20, {"loss": None, "images_per_s": 15.0})
    logs.warn("the disk is [almost] full")
    logs.close()
    # 19 steps in 40 s; 80 steps are left.
    assert said(logs).splitlines() == [
        "step 20/100  loss 0.2500  mIoU 0.5000  12.3 images/s  2:48 left",
        "step 20  val mIoU 0.6250  pixel accuracy 0.9000",
        "step 20/100  loss 0.2500  mIoU 0.5000  val mIoU 0.6250  15.0 images/s  "
        "2:48 left",
        "warning: the disk is [almost] full",
    ]


def test_a_bar_on_a_terminal(tmp_path):
    logs = make_logs(tmp_path, terminal=True)
    logs.progress(1)
    logs.progress(50, loss=0.75, miou=0.5, images_per_s=3.0)
    logs.info("said while the bar is up")
    logs.close()
    text = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", said(logs))
    assert "said while the bar is up\n" in text
    last = text.rstrip().splitlines()[-1]
    assert "━" in last
    assert "step 50/100  loss 0.7500  mIoU 0.5000  3.0 images/s  0:00 left" in last


def events_of(folder):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    accumulator = EventAccumulator(str(folder))
    accumulator.Reload()
    return accumulator


def test_tensorboard_reads_the_events(tmp_path):
    from PIL import Image

    picture = np.random.default_rng(0).integers(0, 256, (5, 7, 3), np.uint8)
    logs = make_logs(tmp_path, tensorboard=True)
    for step in (10, 20, 30):
        logs.train(step, {"loss": 1 / step, "bad": math.nan, "flag": True})
    logs.evaluation(30, "val", SUMMARY, ["road", "thin pole", "bus"])
    logs.image(30, "predictions", picture)
    logs.close()
    events = events_of(tmp_path / "tensorboard")
    assert "tensorflow" not in sys.modules
    tags = events.Tags()
    assert {"train/loss", "val/miou", "val/iou/road"} <= set(tags["scalars"])
    assert not {"train/bad", "train/flag", "val/iou/bus"} & set(tags["scalars"])
    loss = [(e.step, e.value) for e in events.Scalars("train/loss")]
    assert loss == [(s, pytest.approx(1 / s)) for s in (10, 20, 30)]
    image = events.Images("predictions")[0]
    decoded = np.asarray(Image.open(io.BytesIO(image.encoded_image_string)))
    np.testing.assert_array_equal(decoded, picture)

    again = make_logs(tmp_path, tensorboard=True)
    again.truncate_after(20)
    again.train(30, {"loss": 5.0})
    again.close()
    loss = events_of(tmp_path / "tensorboard").Scalars("train/loss")
    assert [(e.step, round(e.value, 3)) for e in loss] == [
        (10, 0.1),
        (20, 0.05),
        (30, 5.0),
    ]


def test_class_table():
    console = Console(file=io.StringIO(), width=100)
    class_table(
        SUMMARY | {"share_per_class": {"road": 0.995, "thin pole": 0.005, "bus": 0.0}},
        console,
    )
    rows = [
        [cell.strip() for cell in re.split("[│┃]", line)[1:-1]]
        for line in console.file.getvalue().splitlines()
        if re.match("[│┃]", line)
    ]
    assert rows == [
        ["class", "IoU", "accuracy", "Dice", "pixels"],
        ["road", "75.00 %", "100.00 %", "85.70 %", "99.50 %"],
        ["thin pole", "50.00 %", "50.00 %", "54.30 %", "0.50 %"],
        ["bus", "-", "-", "-", "0.00 %"],
        ["mean", "62.50 %", "75.00 %", "70.00 %", ""],
    ]
    assert "pixel accuracy 90.00 %; absent, not counted: bus" in console.file.getvalue()


def test_class_table_of_nothing():
    nothing = dict.fromkeys(SUMMARY) | {
        key: {"[road]": None} for key in SUMMARY if key.endswith("per_class")
    }
    console = Console(file=io.StringIO(), width=100)
    class_table(nothing, console)
    assert "[road]" in console.file.getvalue()  # a name is not markup


class Clock:
    def __init__(self):
        self.now = 50.0

    def __call__(self):
        return self.now


def test_meter_counts_training_time_only():
    clock = Clock()
    meter = Meter(clock)
    assert meter.read() == {"images_per_s": None, "stall_share": None}
    with meter.stall():
        clock.now += 3  # the first batch
    clock.now += 100  # compiling, inside the first call
    meter.step(8)
    assert meter.read() == {"images_per_s": None, "stall_share": None}
    for _ in range(4):
        with meter.stall():
            clock.now += 0.5
        clock.now += 1.5
        meter.step(8)
    with meter.pause():
        clock.now += 60  # evaluation
    assert meter.read() == {"images_per_s": 32 / 8, "stall_share": 2 / 8}
    clock.now += 4
    meter.step(8)
    assert meter.read() == {"images_per_s": 8 / 4, "stall_share": 0.0}
    assert meter.total() == {"images_per_s": 40 / 12, "stall_share": 2 / 12}
    with pytest.raises(RuntimeError), meter.pause():
        clock.now += 9
        raise RuntimeError
    assert meter.total()["images_per_s"] == 40 / 12


def test_environment():
    found = environment()
    json.dumps(found, allow_nan=False)
    assert found["versions"]["python"] == platform.python_version()
    for name in ("jax", "jaxlib", "flax", "optax", "numpy"):
        assert found["versions"][name] == version(name)
    assert found["versions"]["segjax"]
    where = found["platform"]
    assert where["devices"] == len(jax.devices()) and where["backend"] == "cpu"
    assert 1 <= where["threads"] <= (os.cpu_count() or 1)
    assert where["processor"] and where["device_kind"]


def test_git_state(tmp_path):
    def git(*arguments):
        name = ("-c", "user.name=x", "-c", "user.email=x@example.org")
        command = ["git", "-C", str(tmp_path), *name, *arguments]
        return subprocess.run(command, check=True, capture_output=True, text=True)

    package = tmp_path / "package"
    package.mkdir()
    (package / "a.py").write_text("1\n")
    assert git_state(package) is None
    records = ("docs/record.json", "experiments/results/a/runs.jsonl")
    for record in records:
        (tmp_path / record).parent.mkdir(parents=True)
        (tmp_path / record).write_text("1\n")
    git("init", "-q")
    assert git_state(package) is None  # within a checkout, but not part of it
    git("add", ".")
    git("commit", "-q", "-m", "x")
    commit = git("rev-parse", "HEAD").stdout.strip()
    assert git_state(package) == {"commit": commit, "dirty": False}
    for record in records:
        (tmp_path / record).write_text("2\n")
    assert git_state(package) == {"commit": commit, "dirty": False}
    (package / "a.py").write_text("2\n")
    assert git_state(package) == {"commit": commit, "dirty": True}


def test_processor_name(tmp_path):
    cpuinfo = tmp_path / "cpuinfo"
    cpuinfo.write_text(
        "processor\t: 0\nmodel\t\t: 85\nmodel name\t: Fast CPU @ 2 GHz\n"
    )
    assert processor_name(cpuinfo) == "Fast CPU @ 2 GHz"
    assert processor_name(tmp_path / "missing") == (
        platform.processor() or platform.machine()
    )


@pytest.mark.parametrize("tensorboard", [False, True])
def test_a_full_disk_is_one_line_at_once(tmp_path, full_disk, tensorboard):
    logs = make_logs(tmp_path, tensorboard=tensorboard)
    logs.train(1, {"loss": 1.0})
    with full_disk(300):
        with pytest.raises(OSError) as error:
            # More than a queue of events, were there one that nobody empties.
            for step in range(2, 200):
                logs.train(step, {"loss": 1.0})
        logs.close()
    text = str(error.value)
    assert text.startswith(str(tmp_path)) and "cannot be written (" in text
    assert "\n" not in text
    again = make_logs(tmp_path, tensorboard=tensorboard)
    again.train(200, {"loss": 1.0})
    again.close()
    lines = strict_lines(again.path)
    assert [x["step"] for x in lines] == [*range(1, len(lines)), 200]


def test_a_skipped_update_is_a_line_of_its_own(tmp_path):
    logs = make_logs(tmp_path)
    logs.skipped(7, "loss nan", 2, ["a", "b"])
    logs.close()
    assert strict_lines(logs.path) == [
        {
            "step": 7,
            "split": "skipped",
            "reason": "loss nan",
            "in_row": 2,
            "ids": ["a", "b"],
        }
    ]
    assert "step 7: update skipped (loss nan), 2 in a row" in said(logs)

"""Runs of a study through the real commands: killed, resumed, recorded, repeated."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest

from experiments import count, figures, report, run, store, study
from segjax import config as configs
from segjax import setup
from segjax.flops import count_macs
from segjax.metrics import summarize
from tests.experiments.made_up import STUDY, add_run, make_study


def wait_for(path, process, seconds: float = 120.0) -> None:
    end = time.monotonic() + seconds
    while not path.exists():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < end, f"no {path}"
        time.sleep(0.01)


def test_a_killed_run_is_resumed_and_recorded(tmp_path, monkeypatch, capsys):
    make_study(tmp_path)
    argv = [str(tmp_path / "tiny.py"), "--only", "small", "--seeds", "1"]
    argv += ["--results", str(tmp_path / "results"), "--runs", str(tmp_path / "runs")]
    killed = subprocess.Popen(
        [sys.executable, "-m", "experiments.run", *argv],
        cwd=run.ROOT,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    workdir, kept = (
        tmp_path / "runs/tiny/small-1",
        store.Store(tmp_path / "results/tiny"),
    )
    wait_for(workdir / "checkpoints/2", killed)
    os.killpg(killed.pid, signal.SIGKILL)
    killed.communicate()
    with store.locked(tmp_path / "runs/tiny/small-1.lock"):
        pass  # its child is gone, too
    assert not kept.path.exists()
    assert run.main(argv) == 0
    assert "resuming" in (tmp_path / "runs/tiny/small-1.log").read_text()
    ((key, line),) = kept.runs().items()
    check_line(key, line, kept.counts(*key))
    assert (workdir / "result.json").is_file()
    assert not (workdir / "checkpoints").exists()
    assert "1 of 9 runs" in (kept.folder / "table.md").read_text()
    assert "Not finished: 1 of 9 runs" in capsys.readouterr().out
    # Once more: nothing is run.
    monkeypatch.setattr(run, "process", lambda *_: pytest.fail("it ran"))
    before = kept.path.read_bytes()
    assert run.main(argv) == 0 and kept.path.read_bytes() == before


def test_multiply_adds_are_the_networks():
    """Whatever a CPU makes of it: a U-Net's upsampled convolutions take fewer there."""
    made = study.load(run.ROOT / "experiments" / "decoders.py")
    config = made.config("unet", 0)
    image = jax.ShapeDtypeStruct((1, 96, 128, 3), "f4")
    found = {}
    for platform in (None, "cpu"):
        model = setup.make_model(config, 11, 3, platform)
        variables = jax.eval_shape(model.init, jax.random.key(0), image)
        found[platform] = count_macs(model.apply, variables, image)
    wanted = count.macs_of(config, 11, 3, image.shape[1:3])
    assert wanted == found[None] > found["cpu"]


def check_line(key, line, found) -> None:
    """What is kept of the run is the run's."""
    assert key == ("small", 1) and line["steps"] == 4 and line["seed"] == 1
    assert line["config"]["optim.lr"] == 1e-4 and line["config"]["seed"] == 1
    assert line["data"]["examples"] == 11 and line["macs"] > 1e6
    assert line["command"].startswith("segjax train --config ")
    assert found["counts"].shape[0] == 11 and found["counts"].min() >= 0
    # Per image, and together what the run itself measured.
    summary = summarize(found["counts"].sum(0), list(found["names"]))
    assert summary["iou_per_class"] == line["iou_per_class"]
    assert summary["miou"] == line["miou"]
    assert len({row.tobytes() for row in found["counts"]}) == 11


def test_a_changed_study_is_refused(tmp_path, capsys):
    made, kept = make_study(tmp_path), store.Store(tmp_path / "results" / "tiny")
    add_run(made, kept, "small", 1)
    (tmp_path / "tiny.py").write_text(STUDY.replace("1e-4", "2e-4"))
    argv = [str(tmp_path / "tiny.py"), "--results", str(tmp_path / "results")]
    assert run.main(argv) == 2
    told = capsys.readouterr().err
    assert "small-1 was run with optim.lr = 0.0001, the study says 0.0002" in told
    # Nor are they checked against it, nor reported beside runs of others.
    for flags in (["--check"], ["--report", "--only", "large"]):
        assert run.main([*argv, *flags]) == 2
        assert "small-1 was run with" in capsys.readouterr().err
    assert not (kept.folder / "checks.jsonl").exists()


def test_a_run_whose_line_was_taken_out_is_run_again(tmp_path, monkeypatch):
    made = make_study(tmp_path)
    process, calls = made_up_processes(made)
    monkeypatch.setattr(run, "process", process)
    argv = [str(tmp_path / "tiny.py"), "--results", str(tmp_path / "results")]
    argv += ["--runs", str(tmp_path / "runs"), "--only", "small", "--seeds", "0"]
    assert run.main(argv) == 0
    (tmp_path / "results/tiny/runs.jsonl").write_text("")
    calls.clear()
    assert run.main(argv) == 0
    assert [m for m, _ in calls] == ["segjax.main", "experiments.count"]


def test_ctrl_c_is_one_line(tmp_path, monkeypatch, capsys):
    make_study(tmp_path)

    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(run, "carry_out", interrupted)
    argv = [str(tmp_path / "tiny.py"), "--results", str(tmp_path / "results")]
    assert run.main([*argv, "--runs", str(tmp_path / "runs")]) == 130
    assert capsys.readouterr().err.count("\n") == 1


@pytest.mark.parametrize(
    "flags, message",
    [
        (["--only", "smal"], "no such variant; it has small, large, same"),
        (["--seeds", "7"], r"--seeds 7: .* has SEEDS \(0, 1, 2\)"),
        (["--check", "--only", "large"], "none of the runs asked for is recorded"),
    ],
)
def test_wrong_flags_are_told(tmp_path, capsys, flags, message):
    make_study(tmp_path)
    argv = [str(tmp_path / "tiny.py"), "--results", str(tmp_path / "results")]
    assert run.main([*argv, *flags]) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1 and re.search(message, err)


def test_a_metric_of_a_class_that_the_data_has_not(tmp_path, monkeypatch, capsys):
    made = make_study(tmp_path)
    path = tmp_path / "tiny.py"
    path.write_text(path.read_text().replace('"miou"', '"iou(car, disk)"'))
    process, calls = made_up_processes(made)
    monkeypatch.setattr(run, "process", process)
    assert run.main([str(path), "--results", str(tmp_path / "results")]) == 2
    assert "the data has no class car; it has wall, floor" in capsys.readouterr().err
    assert not calls


def made_up_processes(made, failing=(), change=0):
    """Stands in for the processes: workdirs as they leave them.

    ``change`` pixels of the first image are told otherwise.
    """
    calls = []

    def process(module, arguments, log, held):
        calls.append((module, tuple(arguments)))
        log.parent.mkdir(parents=True, exist_ok=True)
        if module == "segjax.main":
            workdir = Path(arguments[-1])
            variant, seed = workdir.name.rsplit("-", 1)
            if variant in failing:
                raise ValueError(f"{log}: it said: no")
            kept = store.Store(workdir.parent / "made" / workdir.name)
            line = add_run(made, kept, variant, int(seed))
            workdir.mkdir(parents=True)
            config = made.config(variant, int(seed))
            (workdir / "config.json").write_text(configs.to_json(config))
            (workdir / "result.json").write_text(json.dumps(line))
            training = {"split": "train", "images_per_s": 8.0}
            (workdir / "metrics.jsonl").write_text(json.dumps(training) + "\n")
            counted = kept.counts(variant, int(seed))
            counted["counts"][0, 0, :2] += [-change, change]
            np.savez(workdir / "counts.npz", **counted)

    return process, calls


def test_a_failed_run_stops_no_other(tmp_path, monkeypatch, capsys):
    made = make_study(tmp_path)
    process, calls = made_up_processes(made, failing=["large"])
    monkeypatch.setattr(run, "process", process)
    monkeypatch.setattr(figures, "draw", lambda *_: [])  # nine times: it takes seconds
    argv = [str(tmp_path / "tiny.py"), "--results", str(tmp_path / "results")]
    argv += ["--runs", str(tmp_path / "runs"), "--jobs", "2"]
    assert run.main(argv) == 1
    told = capsys.readouterr()
    assert told.err.count("FAILED") == 3 and "large-0: FAILED" in told.err
    kept = store.Store(tmp_path / "results" / "tiny")
    assert len(kept.runs()) == 6
    trained = [a for module, a in calls if module == "segjax.main"]
    assert len(trained) == 9
    assert {"--config.optim.lr=0.01", "--config.seed=2"} < {*trained[-1], *trained[-2]}
    # The rest, once it can be run.
    process, calls = made_up_processes(made)
    monkeypatch.setattr(run, "process", process)
    assert run.main(argv) == 0
    assert len([1 for module, _ in calls if module == "segjax.main"]) == 3
    assert len(kept.runs()) == 9


def test_each_finished_run_is_committed_if_wanted(tmp_path, monkeypatch):
    def git(*words):
        name = ("-c", "user.name=x", "-c", "user.email=x@example.org")
        done = subprocess.run(
            ["git", "-C", str(tmp_path), *name, *words],
            check=True,
            capture_output=True,
            text=True,
        )
        return done.stdout.split("\n")

    made = make_study(tmp_path)
    readme = tmp_path / "README.md"
    readme.write_text(report.HEADER)
    git("init", "-q")
    for key in ("user.name", "user.email"):
        git("config", key, "x@example.org")
    monkeypatch.setattr(report, "INDEX", readme)
    monkeypatch.setattr(run, "process", made_up_processes(made)[0])
    argv = [str(tmp_path / "tiny.py"), "--results", str(tmp_path / "results")]
    argv += ["--runs", str(tmp_path / "runs"), "--only", "small", "--commit"]
    assert run.main(argv) == 0
    told = git("log", "--format=%s")[:-1]
    assert [line.split(":")[1] for line in told] == [" small-2", " small-1", " small-0"]
    assert git("status", "--porcelain", "results", "README.md") == [""]
    assert "3 of 9 runs" in git("show", "HEAD:README.md")[2]
    assert len(git("show", "HEAD~2:results/tiny/runs.jsonl")) == 2


def test_a_run_that_another_process_is_at_is_left_alone(tmp_path, monkeypatch, capsys):
    made = make_study(tmp_path)
    process, calls = made_up_processes(made)
    monkeypatch.setattr(run, "process", process)
    argv = [str(tmp_path / "tiny.py"), "--results", str(tmp_path / "results")]
    argv += ["--runs", str(tmp_path / "runs"), "--only", "small", "--seeds", "0"]
    with store.locked(tmp_path / "runs" / "tiny" / "small-0.lock"):
        assert run.main(argv) == 1
    assert "another process is at" in capsys.readouterr().err and not calls
    assert run.main(argv) == 0


def test_a_lock_lasts_as_long_as_the_child_that_inherits_it(tmp_path):
    path = tmp_path / "a.lock"
    with store.locked(path) as held:
        child = subprocess.Popen(["sleep", "60"], pass_fds=(held,))
    try:
        with pytest.raises(BlockingIOError), store.locked(path, wait=False):
            pass
    finally:
        child.kill()
        child.wait()
    with store.locked(path, wait=False):
        pass


def test_check_compares_every_pixel(tmp_path, monkeypatch, capsys):
    made = make_study(tmp_path)
    argv = [str(tmp_path / "tiny.py"), "--results", str(tmp_path / "results")]
    argv += ["--runs", str(tmp_path / "runs"), "--only", "small", "--seeds", "0"]
    monkeypatch.setattr(run, "process", made_up_processes(made)[0])
    assert run.main(argv) == 0
    path = tmp_path / "results" / "tiny" / "runs.jsonl"
    before = path.read_bytes()
    assert run.main([*argv, "--check"]) == 0
    told = capsys.readouterr().out
    assert "small-0: the same, every pixel and the loss" in told
    assert "table.md: the same, times aside" in told
    # What is compared is the file.
    table = path.with_name("table.md")
    text = table.read_text()
    assert "Run again by `--check`: 1, every pixel the same" in text
    table.write_text(re.sub(r"\| \d\d\.\d \|", "| 99.9 |", text, count=1))
    assert table.read_text() != text
    assert run.main([*argv, "--check"]) == 1
    assert capsys.readouterr().err.startswith("table.md: not the same")
    assert table.read_text() == text  # written anew
    monkeypatch.setattr(run, "process", made_up_processes(made, change=1)[0])
    assert run.main([*argv, "--check"]) == 1
    told = capsys.readouterr().err
    assert "small-0: mIoU 0.54" in told and "table.md: not the same" in told
    assert path.read_bytes() == before
    noted = path.with_name("checks.jsonl").read_text().splitlines()
    assert [json.loads(line)["same"] for line in noted] == [True, True, False]
    assert "not the same: small-0" in path.with_name("table.md").read_text()


def test_on_another_platform_check_compares_with_the_first_check_there(
    tmp_path, monkeypatch, capsys
):
    made = make_study(tmp_path)
    argv = [str(tmp_path / "tiny.py"), "--results", str(tmp_path / "results")]
    argv += ["--runs", str(tmp_path / "runs"), "--only", "small", "--seeds", "0"]
    monkeypatch.setattr(run, "process", made_up_processes(made)[0])
    assert run.main(argv) == 0
    path = tmp_path / "results" / "tiny" / "runs.jsonl"
    line = json.loads(path.read_text())
    line["environment"]["platform"]["processor"] = "Another CPU"
    path.write_text(json.dumps(line) + "\n")
    # What that processor rounded otherwise is no failure here ...
    monkeypatch.setattr(run, "process", made_up_processes(made, change=1)[0])
    assert run.main([*argv, "--check"]) == 0
    told = capsys.readouterr().out
    assert "here, on another platform (" in told and "threads of Another CPU" in told
    assert "table.md" not in told
    table = path.with_name("table.md")
    assert "1 made by `--check`, none of them again yet (" in table.read_text()
    # ... and what differs from the first check here is.
    assert run.main([*argv, "--check"]) == 0
    assert (
        "the same, every pixel and the loss as at the check" in capsys.readouterr().out
    )
    assert "1 of them again, every pixel the same" in table.read_text()
    monkeypatch.setattr(run, "process", made_up_processes(made)[0])
    assert run.main([*argv, "--check"]) == 1
    assert "small-0: not the same as at the check of 2" in capsys.readouterr().err
    noted = path.with_name("checks.jsonl").read_text().splitlines()
    assert [json.loads(text)["same"] for text in noted] == [None, True, False]
    assert "1 of them again, not the same: small-0 (" in table.read_text()


def test_a_workdir_that_another_config_began_is_refused(tmp_path, monkeypatch, capsys):
    made = make_study(tmp_path)
    process, calls = made_up_processes(made)
    monkeypatch.setattr(run, "process", process)
    workdir = tmp_path / "runs" / "tiny" / "small-0"
    workdir.mkdir(parents=True)
    config = made.config("small", 0)
    config.steps = 2  # segjax train would go on with it to 4
    (workdir / "config.json").write_text(configs.to_json(config))
    argv = [str(tmp_path / "tiny.py"), "--results", str(tmp_path / "results")]
    argv += ["--runs", str(tmp_path / "runs"), "--only", "small", "--seeds", "0"]
    assert run.main(argv) == 1 and not calls
    assert "small-0 was begun with steps = 2, now it is 4" in capsys.readouterr().err


def test_smoke_makes_two_steps_of_each_variant(tmp_path, monkeypatch, capsys):
    made = make_study(tmp_path)
    process, calls = made_up_processes(made)
    monkeypatch.setattr(run, "process", process)
    argv = [str(tmp_path / "tiny.py"), "--smoke", "--results", str(tmp_path / "no")]
    assert run.main(argv) == 0
    trained = [a for module, a in calls if module == "segjax.main"]
    assert len(trained) == 3 and all("--config.steps=2" in a for a in trained)
    assert not (tmp_path / "no").exists()


def test_settings_are_what_differs_from_the_defaults(tmp_path):
    made = make_study(tmp_path)
    found = study.settings(made.config("large", 2))
    assert found["optim.lr"] == 0.01 and found["seed"] == 2 and found["steps"] == 4
    assert "optim.weight_decay" not in found and "augment.flip" not in found
    assert found["data.image_size"] == [32, 40]
    assert np.array_equal(study.settings(made.config("same", 0))["optim.lr"], 1e-4)

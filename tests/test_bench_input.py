"""segjax bench-input: the sums it tells, and what it counts in a real pipeline."""

import json

import numpy as np
import pytest

from segjax import config as configs
from segjax import main
from segjax.bench_input import Pass, bench_input

EXAMPLES, BATCH, SIZE = 7, 4, 16


def config_of(**data):
    config = configs.default()
    config.steps = 10
    config.data.image_size = SIZE
    config.data.batch_size = BATCH
    config.data.threads = 1
    config.data.shapes.train_examples = EXAMPLES
    config.data.update(data)
    return config


class Clock:
    """Stands still but for sleeping, and for ``tick`` seconds at each look."""

    def __init__(self, tick=0.0):
        self.now, self.tick = 0.0, tick

    def __call__(self):
        self.now += self.tick
        return self.now

    def sleep(self, seconds):
        self.now += seconds


def test_a_pass_by_hand():
    batch = {"image": np.zeros((2, 3, 5, 3), np.uint8), "size": np.zeros(2, np.int32)}
    one = Pass()
    one.add(batch, waited=0.25, seconds=1.0)
    one.add(batch, waited=0.75, seconds=1.0)
    assert one.row() == {
        "batches": 2,
        "images": 4,
        "seconds": 2.0,
        "images_per_s": 2.0,
        "mb_per_s": 98e-6,
        "stall_share": 0.5,
    }


def test_the_first_pass_decodes_and_the_later_ones_do_not():
    result = bench_input(config_of(), "tiny")
    first, later = result["passes"]["first"], result["passes"]["later"]
    # Two batches of 4 hold 7 examples; the eighth place is the next epoch's.
    assert (first["batches"], first["images"]) == (2, 8) == (2, later["images"])
    assert (first["decoded"], later["decoded"]) == (EXAMPLES, 0)
    assert result["buffer"] == [SIZE, SIZE, 3]
    assert result["data"]["examples"] == EXAMPLES


def test_without_a_cache_every_pass_decodes():
    result = bench_input(config_of(cache_gb=0.0), "tiny", batches=6)
    passes = result["passes"]
    assert (passes["first"]["batches"], passes["later"]["batches"]) == (2, 4)
    # What the pipeline has prepared ahead is decoded, too.
    assert passes["first"]["decoded"] >= 8
    assert passes["later"]["decoded"] >= 4 * BATCH - passes["first"]["decoded"] + 8


def test_a_step_that_takes_its_time_waits_for_the_rest():
    """0.1 s go by between two looks at the clock, and 0.3 s in the step."""
    clock = Clock(tick=0.1)
    result = bench_input(
        config_of(),
        "tiny",
        batches=2,
        step_seconds=0.3,
        clock=clock,
        sleep=clock.sleep,
    )
    row = result["passes"]["first"]
    # A batch: 0.1 s of waiting, then the step's 0.3 s and the last look's 0.1 s.
    assert row["seconds"] == pytest.approx(2 * 0.5)
    assert row["stall_share"] == pytest.approx(0.1 / 0.5)
    assert row["images_per_s"] == pytest.approx(4 / 0.5)
    sizes = BATCH * (SIZE * SIZE * 4 + 8)
    assert row["mb_per_s"] == pytest.approx(sizes / 0.5 / 1e6)
    assert "later" not in result["passes"]


def test_worker_processes_do_not_tell_what_they_decoded():
    result = bench_input(config_of(workers=1), "tiny", batches=1)
    assert result["passes"]["first"]["decoded"] is None
    assert result["passes"]["first"]["images"] == BATCH


CONFIG = """
from segjax.config import default

def get_config():
    config = default()
    config.steps = 10
    config.data.image_size = 16
    config.data.batch_size = 4
    config.data.shapes.train_examples = 7
    return config
"""


@pytest.fixture
def config_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tiny.py").write_text(CONFIG)
    return "tiny.py"


def test_the_command_prints_a_table_and_writes_json(config_file, tmp_path, capsys):
    command = ["bench-input", "--config", config_file, "--batches", "3"]
    assert main.main([*command, "--step-seconds", "0.001"]) == 0
    told = capsys.readouterr().out
    assert "7 examples of shapes" in told and "images/s" in told
    result = json.loads((tmp_path / "runs/bench_input/tiny.json").read_text())
    assert result["step_seconds"] == 0.001 and result["config"] == "tiny"
    assert [row["batches"] for row in result["passes"].values()] == [2, 1]
    assert {"git", "platform", "versions"} <= result["environment"].keys()
    assert main.main([*command, "--output", "deep/b.json"]) == 0
    assert (tmp_path / "deep/b.json").is_file()


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        (["--batches", "0"], "--batches 0 takes nothing; write 1 or more"),
        (["--step-seconds", "-1"], "--step-seconds -1.0 is no time; write 0 or more"),
        (["--step-seconds", "nan"], "--step-seconds nan is no time"),
        (["--config.data.train_split=trian"], "no split 'trian'; write train or val"),
    ],
)
def test_a_mistake_is_one_line(config_file, capsys, flags, told):
    assert main.main(["bench-input", "--config", config_file, *flags]) == 2
    error = capsys.readouterr().err
    assert told in error and error.count("\n") == 1


def test_a_full_disk_is_one_line(config_file, capsys, full_disk):
    with full_disk(10):
        code = main.main(["bench-input", "--config", config_file, "--batches", "1"])
    error = capsys.readouterr().err
    assert code == 2 and "tiny.json cannot be written" in error
    assert error.count("\n") == 1

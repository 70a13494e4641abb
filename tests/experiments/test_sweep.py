"""Searches: what they draw, what they keep, and one through the real command."""

import json
import math
import statistics
from pathlib import Path

import pytest
from optuna.distributions import (
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)

from experiments import sweep
from segjax import config as configs

CONFIG = "configs/resnet_unet.py"


def test_a_space_is_lists_and_ranges():
    space = sweep.parse(
        [
            "optim.lr=log:1e-4:1e-1",
            "optim.ema_decay=uniform:0.9:1",
            "data.batch_size=int:1:3",
            "steps=int:1e2:1e3",
            "data.image_size=(64, 64),(96, 128)",
        ]
    )
    assert space == {
        "optim.lr": FloatDistribution(1e-4, 1e-1, log=True),
        "optim.ema_decay": FloatDistribution(0.9, 1),
        "data.batch_size": IntDistribution(1, 3),
        "steps": IntDistribution(100, 1000),
        "data.image_size": CategoricalDistribution(("(64, 64)", "(96, 128)")),
    }


@pytest.mark.parametrize(
    "text, message",
    [
        ("optim.lrr=1", r"no config key; did you mean optim\.lr"),
        ("optim.lr", "write KEY=A,B"),
        ("optim.lr=log:0:1", "two numbers above 0 in this order"),
        ("optim.lr=uniform:2:1", "write uniform:LOW:HIGH"),
        ("optim.lr=log:1", "write log:LOW:HIGH"),
        ("data.batch_size=int:1.5:3.5", "two whole numbers in this order"),
    ],
)
def test_a_wrong_space_is_told(text, message):
    with pytest.raises(ValueError, match=message):
        sweep.parse([text])


def test_a_grid_has_every_combination():
    found = sweep.grid(sweep.parse(["seed=0,1", "model.decoder=unet,fpn,pan"]))
    assert len(found) == 6 and {"seed": "1", "model.decoder": "fpn"} in found
    with pytest.raises(ValueError, match="a grid takes values with commas"):
        sweep.grid(sweep.parse(["optim.lr=log:1:2"]))


def test_draws_lie_in_their_range_and_more_begin_with_the_same():
    space = sweep.parse(
        ["optim.lr=log:1e-4:1e-1", "data.batch_size=int:1:3", "augment.flip=0.0,0.5"]
    )
    found = sweep.draw(space, 300, seed=1)
    assert found[:5] == sweep.draw(space, 5, seed=1) != sweep.draw(space, 5, seed=2)
    rates = [float(trial["optim.lr"]) for trial in found]
    assert 1e-4 <= min(rates) and max(rates) <= 1e-1
    # Uniform of the logarithm: as many below the middle of the exponents as above.
    below = sum(math.log10(rate) < -2.5 for rate in rates)
    assert 120 < below < 180
    assert {trial["data.batch_size"] for trial in found} == {"1", "2", "3"}
    for trial in found[:5]:
        configs.load(CONFIG, [f"--config.{k}={v}" for k, v in trial.items()])


def test_tpe_comes_nearer_than_chance_and_keeps_what_it_drew(tmp_path, monkeypatch):
    failing = {"trial-003"}

    def score(self, trial, name, steps=None):
        if name in failing:
            raise ValueError("out of memory")
        return -abs(math.log10(float(trial["optim.lr"])) + 2.5)

    monkeypatch.setattr(sweep.Sweep, "score", score)
    space = sweep.parse(["optim.lr=log:1e-5:1e0", "model.decoder=unet,fpn"])
    made = sweep.Sweep(tmp_path / "c.py", (), tmp_path / "a", jobs=2)
    trials, found = sweep.learn(made, space, 24, seed=0)
    assert found["trial-003"] == -math.inf and len(trials) == 24
    values = list(found.values())
    # At random, half of them would lie 1.25 decades and more from the best rate.
    assert statistics.median(values[-12:]) > -0.9
    # Called again it goes on: none is drawn anew, whatever became of the failed one.
    failing.clear()
    again, scored = sweep.learn(made, space, 26, seed=0)
    assert {name: again[name] for name in trials} == trials
    assert scored["trial-003"] > -math.inf and len(scored) == 26
    assert again["trial-024"] not in list(trials.values())
    with pytest.raises(ValueError, match="is of another --set or --seed"):
        sweep.learn(made, space, 24, seed=1)
    (tmp_path / "a" / "sweep.json").write_text('{"seed": 0}')
    with pytest.raises(ValueError, match="sweep.json is damaged"):
        sweep.learn(made, space, 24, seed=0)


@pytest.mark.parametrize(
    "trials, steps, eta, least, wanted",
    [
        (9, 90, 3, 1, [(9, 10), (3, 30), (1, 90)]),
        (9, 90, 3, 30, [(9, 30), (3, 90)]),
        (8, 80, 2, 1, [(8, 10), (4, 20), (2, 40), (1, 80)]),
        (2, 90, 3, 1, [(2, 90)]),
    ],
)
def test_rungs_by_hand(trials, steps, eta, least, wanted):
    assert sweep.rungs(trials, steps, eta, least) == wanted


def test_halving_keeps_the_best(tmp_path, monkeypatch):
    trained = []

    def score(self, trial, name, steps=None):
        trained.append((name, steps))
        return float(trial["optim.lr"])

    monkeypatch.setattr(sweep.Sweep, "score", score)
    values = [0.2, 0.9, 0.1, 0.5, 0.3, 0.8, 0.4, 0.7, 0.6]
    trials = {f"t{i}": {"optim.lr": str(v)} for i, v in enumerate(values)}
    made = sweep.Sweep(tmp_path / "c.py", (), tmp_path)
    rows = sweep.halve(made, trials, 90, 3, 1)
    assert [name for name, steps, _ in rows if steps == 30] == ["t1", "t5", "t7"]
    assert rows[-1] == ("t1", 90, 0.9) and len(trained) == 9 + 3 + 1
    first = sweep.text("miou", trials, rows).splitlines()[2]
    assert first == "| t1 | 90 | 0.9 | 0.9000 |"


def test_the_command_trains_once_and_tells_failures(tmp_path, capsys, monkeypatch):
    trained = []

    def process(module, arguments, log, held):
        assert module == "segjax.main" and arguments[:2] == ["train", "--config"]
        flags = [a for a in arguments if a.startswith("--config.")]
        config = configs.load(arguments[2], flags)
        trained.append(config.optim.lr)
        if config.optim.lr > 1:
            raise ValueError("the loss is nan")
        workdir = Path(arguments[-1])
        workdir.mkdir(exist_ok=True)
        (workdir / "config.json").write_text(configs.to_json(config))
        (workdir / "result.json").write_text(json.dumps({"miou": config.optim.lr}))

    monkeypatch.setattr(sweep, "process", process)
    argv = [CONFIG, "--config.steps=2", "--method", "grid", "--workdir", str(tmp_path)]
    argv += ["--set", "optim.lr=0.125,0.5,9.0"]
    assert sweep.main(argv) == 1 and trained == [0.125, 0.5, 9.0]
    assert "trial-002: FAILED the loss is nan" in capsys.readouterr().out
    assert sweep.main(argv) == 1 and trained[3:] == [9.0]
    lines = (tmp_path / "sweep.md").read_text().splitlines()
    assert lines[2] == "| trial-001 | 2 | 0.5 | 0.5000 |"
    # A longer run begins anew elsewhere: its schedule is another.
    assert sweep.main([*argv, "--config.steps=3"]) == 1 and trained[4:] == [9.0]
    assert "was begun with steps = 2, now it is 3" in capsys.readouterr().out
    assert sweep.main([*argv, "--config.epochs=2", "--method", "halving"]) == 2
    assert "both set" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--trials", "0"], "--trials 0: write 1 or more"),
        (["--metric", "top1"], "a run of segmentation has miou, pixel_accuracy"),
        (
            ["--method", "halving", "--config.optim.warmup_steps=60"],
            "every trial of a rung failed",
        ),
    ],
)
def test_a_mistake_is_one_line(tmp_path, capsys, argv, message):
    rates = ["--set", "optim.lr=log:1e-4:1e-1", "--workdir", str(tmp_path)]
    assert sweep.main([CONFIG, *rates, *argv]) == 2
    told = capsys.readouterr().err
    assert message in told and told.count("\n") == 1


def test_a_classifier_is_chosen_by_its_accuracy(tmp_path, monkeypatch):
    def process(module, arguments, log, held):
        workdir = Path(arguments[-1])
        workdir.mkdir(exist_ok=True)
        flags = [a for a in arguments if a.startswith("--config.")]
        config = configs.load(arguments[2], flags)
        (workdir / "config.json").write_text(configs.to_json(config))
        (workdir / "result.json").write_text(json.dumps({"top1": config.optim.lr}))

    monkeypatch.setattr(sweep, "process", process)
    argv = ["configs/digits_resnet18.py", "--method", "grid", "--workdir"]
    assert sweep.main([*argv, str(tmp_path), "--set", "optim.lr=0.125,0.5"]) == 0
    assert "| top1 |" in (tmp_path / "sweep.md").read_text()

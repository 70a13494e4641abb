"""The command that trains replicas, against the runs of `segjax train`."""

import json

import numpy as np
import pytest

from experiments import replicas
from segjax import config as configs
from segjax import setup, train
from tests.experiments.made_up import make_study


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return make_study(tmp_path_factory.mktemp("study")).path


def test_the_command_trains_the_runs_of_segjax_train(path, tmp_path, capsys):
    output = tmp_path / "found.json"
    argv = [str(path), "--variant", "large", "--seeds", "0", "3"]
    assert replicas.main([*argv, "--output", str(output)]) == 0
    words = capsys.readouterr().out
    found = json.loads(output.read_text())
    assert found["note"] in words and "not bit for bit" in found["note"]
    assert (found["devices"], found["formulation"], found["steps"]) == (2, "loop", 4)
    assert f"experiments.replicas {path} --variant large" in found["command"]
    first, last = found["replicas"]
    assert (first["seed"], last["seed"], last["lr"]) == (0, 3, 1e-2)
    flags = ["--config.optim.lr=0.01", "--config.seed=3"]
    run = train.Run(configs.load(str(path), flags), tmp_path / "run")
    # The run is on one device, as its replica was.
    run.parts = setup.make_parts(
        run.config, run.spec, run.parts.pre, run.parts.mesh.devices.flat[:1]
    )
    with train.Stopping() as stopping:
        run.open()
        run.loop(stopping)
        result = run.finish()
        run.close()
    lines = map(json.loads, (tmp_path / "run/metrics.jsonl").read_text().splitlines())
    losses = [line["loss"] for line in lines if line["split"] == "train"]
    np.testing.assert_allclose(last["losses"][0], losses[0], rtol=1e-5)
    np.testing.assert_allclose(last["losses"], losses, rtol=1e-3)
    assert last["miou"] == pytest.approx(result["miou"], abs=0.01)
    assert abs(first["losses"][0] - losses[0]) > 1e-3  # another seed, other numbers


def group(path, *argv, flags=()):
    return replicas.read(replicas._parser().parse_args([str(path), *argv]), flags)


def test_seeds_and_rates_make_the_configs_of_the_replicas(path):
    made = group(path, "--seeds", "1", "2", "--rates", "0.1", "0.2", "0.3")
    assert made.seeds == (1, 1, 1, 2, 2, 2)
    assert made.rates == (0.1, 0.2, 0.3) * 2
    assert (made.of(4).seed, made.of(4).optim.lr) == (2, 0.2)
    assert made.config.seed == 0  # of() copies
    rates = group(path, "--rates", "0.1", "0.2", flags=["--config.seed=7"])
    assert (rates.seeds, rates.rates) == ((7, 7), (0.1, 0.2))


def test_replicas_of_one_seed_share_its_batches(path):
    made = group(path, "--seeds", "1", "2", "--rates", "0.1", "0.2")
    source = setup.open_split(made.config, "train")
    rows = next(replicas.batches(made, source))
    own = next(setup.train_batches(made.of(2), source, 0))
    assert rows[0] is rows[1] and rows[2] is rows[3]
    for key, value in own.items():
        np.testing.assert_array_equal(rows[2][key], value)
    assert not np.array_equal(rows[0]["image"], rows[2]["image"])


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--seeds", "1"], "one replica is a run"),
        (["--seeds", "-1", "2"], "--seeds lie from 0"),
        (["--variant", "lrage", "--seeds", "0", "1"], "has small, large, same"),
        (["--seeds", "0", "1", "--config.mesh.data=2"], "config.mesh: a replica"),
        (["--seeds", "0", "1", "--lr", "3"], "--lr is no flag"),
    ],
)
def test_a_mistake_is_one_line(path, argv, message, capsys):
    assert replicas.main([str(path), *argv]) == 2
    said = capsys.readouterr().err.strip()
    assert message in said and "\n" not in said

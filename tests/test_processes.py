"""Several real processes (jax.distributed, gloo): the same run, and a death noticed."""

import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest

from segjax import checkpoint, processes
from segjax.evaluate import evaluate
from segjax.main import main
from segjax.processes import PEER_LOST
from tests.requirements import xla_flags
from tests.tiny import tiny

ROOT = Path(__file__).parents[1]
CONFIG = ROOT / "configs" / "resnet_unet.py"
SMALL = """
data.image_size=(16, 16)
data.batch_size=8
data.shapes.train_examples=20
data.shapes.val_examples=11
model.encoder=segnet_basic
model.decoder=segnet_basic
model.dtype=float64
optim.ema_decay=0.9
optim.schedule=constant
optim.warmup_steps=0
checkpoint.every=2
eval.every=2
logs.every=1
logs.pictures=2
logs.tensorboard=False
"""
# Only sums over devices may differ, and by rounding alone.
CLOSE = dict(rtol=1e-9, atol=1e-12)


class Processes:
    """The processes of one run; ``devices`` each."""

    def __init__(
        self,
        workdir: Path,
        count: int,
        steps: int,
        *more: str,
        devices: int = 1,
        command: str = "train",
        module: str = "segjax.main",
    ):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            address = f"127.0.0.1:{free.getsockname()[1]}"
        environment = {
            **os.environ,
            "JAX_PLATFORMS": "cpu",
            "JAX_ENABLE_X64": "1",
            "SEGJAX_HUGETLB": "0",
            "XLA_FLAGS": xla_flags(devices),
        }
        if command == "train":
            more = (*SMALL.strip().splitlines(), f"steps={steps}", *more)
        words = [sys.executable, "-m", module, command, "--workdir", workdir]
        words += ["--config", CONFIG] if command == "train" else []
        words += [f"--config.{override}" for override in more]
        self.running = []
        for index in range(count):
            place = ["--coordinator", address, "--processes", count, "--process", index]
            self.running.append(
                subprocess.Popen(
                    [str(x) for x in (*words, *(place if count > 1 else ()))],
                    cwd=ROOT,
                    env=environment,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.STDOUT,
                    text=True,
                )
            )

    def wait(self, seconds: float) -> list[tuple[int, str]]:
        """(exit code, output) of each; those that do not end in time are killed."""
        end = time.monotonic() + seconds
        found = []
        for process in self.running:
            try:
                text, _ = process.communicate(timeout=max(end - time.monotonic(), 1))
            except subprocess.TimeoutExpired:
                process.kill()
                text = process.communicate()[0] + "\nTHE TEST KILLED IT: too late"
            found.append((process.returncode, text))
        return found

    def succeed(self) -> None:
        for code, text in self.wait(240):
            assert code == 0, text


def lines_of(workdir: Path) -> list[dict]:
    text = (workdir / "metrics.jsonl").read_text()
    return [json.loads(line) for line in text.splitlines()]


def assert_same_runs(
    workdir: Path, wanted: Path, of_largest: float | None = None
) -> None:
    """Log, result and state agree but for rounding and times.

    ``of_largest``: the state's values by this share of each tensor's largest.
    """
    found, lines = lines_of(workdir), lines_of(wanted)
    assert [(x["step"], x["split"]) for x in found] == [
        (x["step"], x["split"]) for x in lines
    ]
    for mine, theirs in zip(found, lines, strict=True):
        for key in ("loss", "gradient_norm", "miou"):
            if key in theirs:
                np.testing.assert_allclose(mine[key], theirs[key], **CLOSE)
    results = [json.loads((w / "result.json").read_text()) for w in (workdir, wanted)]
    for key in ("iou_per_class", "pixels", "miou", "pixel_accuracy", "steps"):
        assert results[0][key] == results[1][key], key
    states = [checkpoint_arrays(w) for w in (workdir, wanted)]
    assert states[0].keys() == states[1].keys()
    for name, array in states[1].items():
        close = CLOSE
        if of_largest is not None:
            close = {"rtol": 0, "atol": of_largest * np.abs(array).max(initial=1e-3)}
        np.testing.assert_allclose(states[0][name], array, **close, err_msg=name)


def checkpoint_arrays(workdir: Path) -> dict[str, np.ndarray]:
    """Every array of the newest checkpoint by its name, read by orbax alone."""
    folder = checkpoint.find_step(workdir, "latest") / "default"
    handler = ocp.PyTreeCheckpointHandler()
    how = ocp.RestoreArgs(restore_type=np.ndarray)
    arguments = jax.tree.map(lambda _: how, handler.metadata(folder).tree)
    tree = handler.restore(folder, args=ocp.args.PyTreeRestore(restore_args=arguments))
    leaves = jax.tree_util.tree_flatten_with_path(tree)[0]
    return {jax.tree_util.keystr(path): np.asarray(leaf) for path, leaf in leaves}


# Seldom, so that hardly a kill comes while all wait for each other at a save: only the
# heartbeat tells that, after half a minute.
SELDOM = ("checkpoint.every=10", "eval.every=11")


def endless(workdir: Path, count: int, **options) -> Processes:
    """Processes that have saved step 10 of a run without end."""
    run = Processes(workdir, count, 10**6, *SELDOM, **options)
    end = time.monotonic() + 180
    while not (workdir / "checkpoints" / "10").is_dir():
        late = time.monotonic() > end
        ended = [process.poll() for process in run.running] != [None] * count
        assert not (late or ended), run.wait(1)
        time.sleep(0.2)
    return run


def kill_one(run: Processes, victim: int) -> list[str]:
    """What the other processes say when one is killed; they end within a minute."""
    run.running[victim].kill()
    begin = time.monotonic()
    found = run.wait(90)
    assert time.monotonic() - begin < 60, found
    del found[victim]
    for code, text in found:
        assert code == PEER_LOST, (code, text)
        assert "another process of this run is gone" in text.splitlines()[-1], text
        assert "Traceback" not in text
    return [text for _, text in found]


def test_one_of_four_dies_two_go_on_and_the_run_is_that_of_one(tmp_path):
    """The other three end; then batches, statistics and sums are whole, as before.

    20 training examples in batches of 8 cross an epoch, 11 validation examples leave a
    last batch of 3.
    """
    workdir, straight = tmp_path / "elastic", tmp_path / "straight"
    fast = {"module": "tests.tiny"}
    for said in kill_one(endless(workdir, 4, **fast), 3):
        assert "the run goes on from its last checkpoint" in said
    last = int(checkpoint.find_step(workdir, "latest").name) + 2
    Processes(workdir, 2, last, *SELDOM, **fast).succeed()
    Processes(straight, 1, last, *SELDOM, **fast).succeed()
    assert_same_runs(workdir, straight)
    # 11 images over 2 processes, in each of which lies a half of every one of them.
    axes = ("mesh.data=1", "mesh.spatial=4")
    evaluation = {"devices": 2, "command": "evaluate", **fast}
    Processes(straight, 2, 0, *axes, **evaluation).succeed()
    result = json.loads((straight / "result.json").read_text())
    several = json.loads((straight / "eval_val.json").read_text())
    for key in ("iou_per_class", "pixels", "miou"):
        assert several[key] == result[key], key
    with jax.enable_x64(True), tiny():
        alone = evaluate(straight, ["--config.eval.batch_size=16"])
    for key in ("confusion", "images", "boundary_iou", "objects_by_size", "examples"):
        assert several[key] == alone[key], key
    for key in ("boundary_f1", "nll", "brier", "image_miou"):  # sums of fractions
        assert several[key] == pytest.approx(alone[key], rel=1e-12), key


@pytest.mark.slow
def test_one_process_becomes_two_four_and_one_again(tmp_path):
    workdir, straight = tmp_path / "back", tmp_path / "straight"
    for count, steps in ((1, 2), (2, 4), (4, 6), (1, 8)):
        Processes(workdir, count, steps).succeed()
    Processes(straight, 1, 8).succeed()
    assert_same_runs(workdir, straight)


@pytest.mark.slow
@pytest.mark.parametrize(
    "sizes, devices",
    [
        (dict(data=2, fsdp=2, spatial=2), 4),
        # Each image's rows in both processes, which load the same images.
        (dict(data=1, fsdp=1, spatial=4), 2),
    ],
)
def test_all_axes_over_two_processes(tmp_path, sizes, devices):
    """2 processes of 4 or 2 devices: data x fsdp x spatial.

    Losses and gradient norms to 1e-9 (they agree to 5e-12), the state to 1e-7 of each
    tensor's largest value: behind eight batch norms the first convolution's gradient
    has 1.2e-8 of other rounding by the fourth step. Not of 16x16 images, whose deepest
    maps are one pixel, nor by Adam, which divides gradients that are all rounding.
    """
    workdir, straight = tmp_path / "axes", tmp_path / "straight"
    axes = [f"mesh.{name}={size}" for name, size in sizes.items()]
    both = ("data.image_size=(64, 64)", "optim.name=sgd", "optim.lr=0.05")
    Processes(workdir, 2, 4, *both, *axes, devices=devices).succeed()
    Processes(straight, 1, 4, *both).succeed()
    assert_same_runs(workdir, straight, of_largest=1e-7)


@pytest.mark.slow
def test_without_the_first_process_the_others_end_and_the_run_goes_on(tmp_path):
    workdir = tmp_path / "killed"
    kill_one(endless(workdir, 2), 0)
    # The same command goes on from the last checkpoint.
    saved = checkpoint.find_step(workdir, "latest")
    last = int(saved.name) + 2
    Processes(workdir, 2, last, *SELDOM).succeed()
    assert lines_of(workdir)[-1]["step"] == last


@pytest.mark.slow
def test_sigterm_to_one_process_stops_all_at_one_step(tmp_path):
    workdir, straight = tmp_path / "stopped", tmp_path / "straight"
    run = endless(workdir, 2)
    run.running[1].terminate()
    time.sleep(0.2)
    run.running[1].terminate()
    found = run.wait(90)
    assert [code for code, _ in found] == [143, 143], found
    assert all("Traceback" not in text for _, text in found)
    step = int(checkpoint.find_step(workdir, "latest").name)
    assert f"SIGTERM: saved step {step} of" in found[0][1]
    Processes(workdir, 2, step + 2, *SELDOM).succeed()
    assert lines_of(workdir)[-1]["step"] == step + 2
    Processes(straight, 2, step + 2, *SELDOM).succeed()
    losses = [[line["loss"] for line in lines_of(w)] for w in (workdir, straight)]
    assert losses[0] == losses[1]


@pytest.mark.parametrize(
    "environment, by",
    [
        ({}, None),
        ({"SLURM_STEP_NUM_TASKS": "1"}, None),
        ({"SLURM_NTASKS": "8"}, None),  # a batch script's own, without srun
        ({"SLURM_STEP_NUM_TASKS": "2"}, "SLURM_STEP_NUM_TASKS"),
        ({"OMPI_COMM_WORLD_SIZE": "4"}, "OMPI_COMM_WORLD_SIZE"),
        ({"SEGJAX_DISTRIBUTED": "1"}, "SEGJAX_DISTRIBUTED"),
        ({"SLURM_STEP_NUM_TASKS": "2", "SEGJAX_DISTRIBUTED": "0"}, None),
    ],
)
def test_by_what_others_are_found(environment, by):
    assert processes.found_by(environment) == by


@pytest.mark.parametrize(
    "flags, words",
    [
        (("--processes", "2", "--process", "0"), "--coordinator HOST:PORT"),
        (("--coordinator", "a:1", "--processes", "2", "--process", "2"), "0 to 1"),
    ],
)
def test_flags_that_make_no_sense(flags, words, tmp_path, capsys):
    command = ["train", "--config", str(CONFIG), "--workdir", str(tmp_path), *flags]
    assert main(command) == 2
    said = capsys.readouterr().err
    assert words in said and len(said.splitlines()) == 1

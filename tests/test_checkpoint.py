"""Checkpoints: what is saved comes back, and damage is seen, named and survived."""

import asyncio
import json
import logging
import os
import shutil
import signal
import subprocess
import sys
import textwrap
import threading
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from absl import logging as absl_logging
from flax import struct
from jax.sharding import NamedSharding, PartitionSpec

from segjax.checkpoint import Checkpoints, find_step, restore_params
from segjax.checkpoint.reading import one_line, quiet_late_writes


@struct.dataclass
class State:
    step: jax.Array
    params: dict
    batch_stats: dict
    opt_state: optax.OptState
    ema: dict | None = None


def make_state(seed=0, ema=True, width=8):
    """A state of every kind of leaf that training has, as NumPy arrays."""
    rng = np.random.default_rng(seed)

    def normal(*shape):
        return rng.normal(size=shape).astype(np.float32)

    params = {
        "encoder": {"conv1": {"kernel": normal(3, 3, 2, width)}},
        "head": {"kernel": normal(width, 5), "bias": normal(5)},
    }
    tx = optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(1e-3))
    state = State(
        step=np.int32(7 + seed),
        params=params,
        batch_stats={"encoder": {"bn1": {"mean": normal(width)}}},
        opt_state=jax.tree.map(np.asarray, tx.init(params)),
        ema=jax.tree.map(lambda x: x + 1, params) if ema else None,
    )
    return jax.tree.map(np.asarray, state)


def placed(state, devices=1):
    """The state on devices, kernels split over them on their last divisible axis."""
    mesh = jax.make_mesh((devices,), ("data",), devices=jax.devices()[:devices])

    def put(leaf):
        axes = [i for i, n in enumerate(leaf.shape) if n % 8 == 0]
        spec = [None] * leaf.ndim
        if axes:
            spec[axes[-1]] = "data"
        return jax.device_put(leaf, NamedSharding(mesh, PartitionSpec(*spec)))

    return jax.tree.map(put, state)


def abstract(state, devices=1):
    return jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding),
        placed(state, devices),
    )


def assert_same(restored, expected):
    assert jax.tree.structure(restored) == jax.tree.structure(expected)
    for a, b in zip(jax.tree.leaves(restored), jax.tree.leaves(expected), strict=True):
        assert a.dtype == b.dtype
        np.testing.assert_array_equal(np.asarray(a), b)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A workdir with steps 1 (best), 2 and 3."""
    workdir = tmp_path_factory.mktemp("run")
    checkpoints = Checkpoints(workdir / "checkpoints", keep_last=2)
    for step, miou in ((1, 0.9), (2, 0.5), (3, 0.6)):
        checkpoints.save(
            step, placed(make_state(step)), {"miou": miou}, notes={"of": step}
        )
    checkpoints.close()
    return workdir


@pytest.fixture
def copy(run, tmp_path):
    """A copy of that workdir's checkpoints, to be damaged."""
    return Path(shutil.copytree(run / "checkpoints", tmp_path / "checkpoints"))


def reopen(directory, **options):
    warnings = []
    options = {"keep_last": 2, "warn": warnings.append} | options
    return Checkpoints(directory, **options), warnings


@pytest.mark.parametrize("saved_on, restored_on", [(1, 1), (1, 8), (8, 1), (8, 4)])
def test_any_number_of_devices(tmp_path, saved_on, restored_on):
    state = make_state()
    checkpoints, _ = reopen(tmp_path)
    checkpoints.save(5, placed(state, saved_on))
    target = abstract(state, restored_on)
    restored, step = checkpoints.restore(None, target)
    checkpoints.close()
    assert step == 5
    assert_same(restored, state)
    for leaf, wanted in zip(
        jax.tree.leaves(restored), jax.tree.leaves(target), strict=True
    ):
        assert leaf.sharding == wanted.sharding


def test_donated_buffers_are_saved_as_they_were(tmp_path):
    # On a CPU the writer reads the device's own memory while the next steps run.
    step = jax.jit(lambda x: jax.tree.map(lambda a: a + 1, x), donate_argnums=0)
    state = {"a": jnp.zeros((2048, 1024)), "b": jnp.ones((1024, 512))}
    checkpoints, _ = reopen(tmp_path, keep_last=3)
    target = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), state
    )
    for index in range(3):
        checkpoints.save(index, state)
        for _ in range(5):
            state = step(state)
    for index in range(3):
        restored, _ = checkpoints.restore(index, target)
        np.testing.assert_array_equal(restored["a"], np.float32(5 * index))
        np.testing.assert_array_equal(restored["b"], np.float32(5 * index + 1))
    checkpoints.close()


def test_notes_are_kept_as_they_were(tmp_path, monkeypatch):
    # They are written in the background, when the run has gone on already.
    write, changed = Checkpoints._write_digest, threading.Event()

    def late(self):
        assert changed.wait(60)
        write(self)

    monkeypatch.setattr(Checkpoints, "_write_digest", late)
    checkpoints, _ = reopen(tmp_path)
    notes = {"losses": [0.1, 1 / 3]}
    checkpoints.save(1, {"x": np.arange(3)}, notes=notes)
    notes["losses"].append(2.0)
    changed.set()
    checkpoints.close()
    assert checkpoints.notes(1) == {"losses": [0.1, 1 / 3]}
    assert checkpoints.notes(2) == {}


def test_last_and_best_stay(tmp_path):
    scores = {1: 0.1, 2: 0.9, 3: None, 4: 0.3, 5: float("nan"), 6: 0.2, 7: np.float32()}
    checkpoints, _ = reopen(tmp_path)
    for step, score in scores.items():
        metrics = None if score is None else {"miou": score, "iou": {"sky": 0.1}}
        assert checkpoints.save(step, {"x": np.float32(step)}, metrics)
    assert checkpoints.latest() == 7
    assert checkpoints.best() == 2
    checkpoints.close()
    again, _ = reopen(tmp_path)
    assert again.steps() == [2, 6, 7]
    assert again.best() == 2
    # The best of before counts on, in the next process too.
    again.save(8, {"x": np.float32(8)}, {"miou": 0.95})
    again.save(9, {"x": np.float32(9)}, {"miou": 0.4})
    again.save(10, {"x": np.float32(10)}, {"miou": 0.4})
    again.wait()
    assert again.steps() == [8, 9, 10]
    again.close()


def test_saves_only_what_is_asked_for(tmp_path):
    checkpoints, _ = reopen(tmp_path, every=10)
    state = {"x": np.arange(3)}
    assert checkpoints.latest() is None and checkpoints.best() is None
    assert not checkpoints.save(5, state)
    assert checkpoints.save(5, state, force=True)
    assert checkpoints.save(20, state)
    assert not checkpoints.save(20, {"x": np.arange(4)})
    checkpoints.close()
    assert checkpoints.steps() == [5, 20]


@pytest.mark.parametrize("options", [{"keep_last": 0}, {"keep_best": -1}, {"every": 0}])
def test_options_are_checked(tmp_path, options):
    with pytest.raises(ValueError, match="write [01] or more"):
        reopen(tmp_path, **options)


# What orbax keeps beside the state: without it the state is still read.
OF_ORBAX = ("metrics/", "_CHECKPOINT_METADATA", "commit_success.txt")


def files_of(folder):
    names = [str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file()]
    return sorted(n for n in names if not n.startswith(OF_ORBAX))


def damage(path, how):
    raw = path.read_bytes()
    middle = len(raw) // 2
    if how == "gone":
        path.unlink()
    elif how == "flipped":  # one bit: the size stays
        path.write_bytes(raw[:middle] + bytes([raw[middle] ^ 1]) + raw[middle + 1 :])
    else:
        path.write_bytes(raw[: middle if how == "cut" else 0])


@pytest.mark.parametrize("how", ["cut", "empty", "flipped", "gone"])
def test_damage_to_any_file_falls_back(run, copy, how):
    state = abstract(make_state())
    names = files_of(copy / "3")
    assert len(names) > 5
    if how == "gone":  # without the list the files are taken as they are
        names.remove("digest.json")
    for name in names:
        damage(copy / "3" / name, how)
        checkpoints, warnings = reopen(copy)
        restored, step = checkpoints.restore(None, state)
        assert step == 2, name
        assert len(warnings) == 1 and "\n" not in warnings[0]
        assert warnings[0].startswith(f"checkpoint 3 of {copy} is damaged (")
        assert name in warnings[0] or name == "digest.json"
        assert checkpoints.notes(2) == {"of": 2}
        assert checkpoints.steps() == [1, 2]
        assert (copy / "damaged-3").is_dir()
        checkpoints.close()
        shutil.rmtree(copy / "damaged-3")
        shutil.copytree(run / "checkpoints/3", copy / "3")
    assert_same(restored, make_state(2))


@pytest.mark.parametrize("how", ["cut", "empty", "gone"])
def test_damage_beside_the_state_costs_no_step(run, copy, how):
    files = (p for p in (copy / "3").rglob("*") if p.is_file())
    others = {str(p.relative_to(copy / "3")) for p in files} - {*files_of(copy / "3")}
    assert any(name.startswith("metrics/") for name in others), others
    if how == "gone":
        others.add("digest.json")
    for name in sorted(others):
        damage(copy / "3" / name, how)
        checkpoints, _ = reopen(copy)
        restored, step = checkpoints.restore(None, abstract(make_state()))
        assert step == 3, name
        assert_same(restored, make_state(3))
        assert checkpoints.notes(3) == {"of": 3}
        checkpoints.close()
        shutil.rmtree(copy / "3")
        shutil.copytree(run / "checkpoints/3", copy / "3")


def test_a_bit_that_only_the_checksum_sees(tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (128, 128), np.uint8)
    checkpoints, warnings = reopen(tmp_path)
    for step in (1, 2):
        checkpoints.save(step, placed({"x": noise}))
    checkpoints.wait()
    largest = max(tmp_path.glob("2/**/d/*"), key=lambda path: path.stat().st_size)
    damage(largest, "flipped")
    target = abstract({"x": noise})
    digest = (tmp_path / "2/digest.json").rename(tmp_path / "digest.json")
    restored, step = checkpoints.restore(None, target)  # orbax alone
    assert step == 2 and not warnings
    assert (np.asarray(restored["x"]) != noise).sum() == 1
    digest.rename(tmp_path / "2/digest.json")
    restored, step = checkpoints.restore(None, target)
    checkpoints.close()
    assert step == 1 and "has changed since it was written" in warnings[0]
    assert_same(restored, {"x": noise})


def test_without_checksums_orbax_reports(tmp_path):
    # One array only: what else orbax is reading when one fails, fails in its threads.
    state = {"x": np.arange(8, dtype=np.float32)}
    checkpoints, warnings = reopen(tmp_path)
    for step in (0, 1):
        checkpoints.save(step, state)
    checkpoints.wait()
    shutil.rmtree(tmp_path / "1/default/d")
    (tmp_path / "1/digest.json").unlink()
    restored, step = checkpoints.restore(None, abstract(state))
    checkpoints.close()
    assert step == 0
    assert_same(restored, state)
    assert len(warnings) == 1 and "\n" not in warnings[0] and len(warnings[0]) < 600


def test_the_step_is_saved_again_after_the_fall_back(copy):
    damage(copy / "3/default/manifest.ocdbt", "gone")
    checkpoints, _ = reopen(copy)
    checkpoints.restore(None, abstract(make_state()))
    assert checkpoints.save(3, placed(make_state(33)), {"miou": 0.6})
    restored, step = checkpoints.restore(None, abstract(make_state()))
    checkpoints.close()
    assert step == 3
    assert_same(restored, make_state(33))


def test_all_damaged_or_the_one_asked_for(copy):
    for step in (1, 2, 3):
        damage(copy / f"{step}/default/_METADATA", "cut")
    checkpoints, warnings = reopen(copy)
    state = abstract(make_state())
    with pytest.raises(
        ValueError, match="no checkpoint can be read .*step 3: .*step 2"
    ):
        checkpoints.restore(None, state)
    with pytest.raises(ValueError, match=r"\(step 2: default/_METADATA has"):
        checkpoints.restore(2, state)
    assert checkpoints.steps() == [1, 2, 3] and not warnings  # nothing is moved away
    with pytest.raises(ValueError, match="no checkpoint of step 4; it has 1, 2, 3"):
        checkpoints.restore(4, state)
    checkpoints.close()


def test_damaged_metrics_cost_only_the_score(copy):
    damage(copy / "1/metrics/metrics", "cut")
    checkpoints, warnings = reopen(copy)
    assert len(warnings) == 1 and "checkpoint 1" in warnings[0]
    assert checkpoints.best() == 3
    restored, _ = checkpoints.restore(1, abstract(make_state()))
    checkpoints.close()
    assert_same(restored, make_state(1))


def test_another_model_is_no_damage(copy):
    checkpoints, warnings = reopen(copy)
    with pytest.raises(ValueError, match="does not fit the model") as error:
        checkpoints.restore(None, abstract(make_state(width=16)))
    assert "\n" not in str(error.value)
    assert "params/head/kernel is (8, 5) there and (16, 5) here" in str(error.value)
    with pytest.raises(
        ValueError, match="ema/encoder/conv1/kernel is not in the model"
    ):
        checkpoints.restore(None, abstract(make_state(ema=False)))
    half = jax.tree.map(lambda x: x.astype(np.float16), make_state().params)
    with pytest.raises(ValueError, match="is float32 there and float16 here"):
        checkpoints.restore(None, abstract(make_state().replace(params=half)))
    assert checkpoints.steps() == [1, 2, 3] and not warnings
    checkpoints.close()


KILLED = """
    import os, signal, sys, threading, time
    import jax.numpy as jnp
    from segjax.checkpoint import Checkpoints
    checkpoints = Checkpoints(sys.argv[1], keep_last=2)
    state = {f"leaf{i}": jnp.full((512, 512), 1.0) for i in range(24)}
    checkpoints.save(1, state)
    checkpoints.wait()
    checkpoints.save(2, state)
    while not any("2.orbax" in name for name in os.listdir(sys.argv[1])):
        assert "2" not in os.listdir(sys.argv[1]), "too late"
        time.sleep(0.0005)
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_killed_in_a_save(tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(KILLED), str(tmp_path)],
        cwd=Path(__file__).parents[1],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert any(name.startswith("2.orbax") for name in os.listdir(tmp_path))
    one = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    leaf = jax.ShapeDtypeStruct((512, 512), jnp.float32, sharding=one)
    checkpoints, warnings = reopen(tmp_path)
    assert checkpoints.steps() == [1]
    state, step = checkpoints.restore(None, {f"leaf{i}": leaf for i in range(24)})
    assert step == 1 and not warnings
    assert all((x == 1).all() for x in state.values())
    checkpoints.save(2, state)
    checkpoints.close()
    assert sorted(os.listdir(tmp_path)) == ["1", "2"]  # nothing temporary is left


def test_full_disk(tmp_path, full_disk, capfd):
    rng = np.random.default_rng(0)
    state = placed({"x": rng.normal(size=(256, 512)).astype(np.float32)})
    checkpoints, _ = reopen(tmp_path, keep_last=1)
    checkpoints.save(1, state, {"miou": 0.1})
    checkpoints.wait()
    with full_disk(100_000):
        with pytest.raises(OSError, match="checkpoint 2 could not be written") as error:
            checkpoints.save(2, state, {"miou": 0.9})
            checkpoints.wait()
        assert "\n" not in str(error.value) and "File too large" in str(error.value)
        checkpoints.close()
    assert "Traceback" not in capfd.readouterr().err
    again, _ = reopen(tmp_path)
    restored, step = again.restore(None, abstract(state))
    again.close()
    assert step == 1
    assert_same(restored, jax.tree.map(np.asarray, state))


def test_writes_that_end_after_a_failed_save_say_nothing(monkeypatch):
    said = []
    monkeypatch.setattr(sys, "unraisablehook", said.append)
    quiet_late_writes()
    quiet_late_writes()
    loop = asyncio.new_event_loop()
    loop.close()

    class Late:
        def __init__(self, act):
            self.act = act

        def __del__(self):
            self.act()

    Late(lambda: loop.call_soon_threadsafe(print))  # as a write's callback
    assert said == []
    Late(lambda: 1 / 0)
    assert [x.exc_type for x in said] == [ZeroDivisionError]


def wanted(state, devices=1):
    tree = abstract(state, devices)
    return {"params": tree.params, "batch_stats": tree.batch_stats}


@pytest.mark.parametrize("inside", ["", "checkpoints", "checkpoints/1"])
def test_warm_start_from_any_path(run, inside):
    found = restore_params(run / inside, wanted(make_state(), 8))
    assert_same(found["params"], make_state(1).params)
    assert_same(found["batch_stats"], make_state(1).batch_stats)


@pytest.mark.parametrize(
    "step, expected", [("best", 1), ("latest", 3), (2, 2), ("2", 2)]
)
def test_find_step(run, step, expected):
    assert find_step(run, step).name == str(expected)
    found = restore_params(run, {"params": wanted(make_state())["params"]}, step=step)
    assert_same(found, {"params": make_state(expected).params})


def test_warm_start_with_averages(run, tmp_path):
    target = wanted(make_state())
    assert_same(restore_params(run, target, ema=True)["params"], make_state(1).ema)
    checkpoints, _ = reopen(tmp_path)  # a run that kept none
    checkpoints.save(1, placed(make_state(ema=False)))
    checkpoints.close()
    found = restore_params(tmp_path, target, ema=True)
    assert_same(found["params"], make_state(ema=False).params)


@pytest.mark.parametrize("ema", [False, True])
def test_warm_start_into_another_head(run, ema):
    state = make_state()
    state.params["head"] = {"kernel": np.zeros((8, 3)), "scale": np.zeros(3)}
    with pytest.raises(ValueError, match="does not fit the model") as error:
        restore_params(run, wanted(state), ema=ema)
    assert "params/head/kernel is (8, 5) there and (8, 3) here" in str(error.value)
    assert "params/head/scale is not in the checkpoint" in str(error.value)
    found = restore_params(run, wanted(state), ema=ema, allow_missing=["params/head/*"])
    source = make_state(1).ema if ema else make_state(1).params
    assert source is not None
    assert_same(found["params"], {"encoder": source["encoder"]})


def test_warm_start_to_numpy_and_another_dtype(run):
    target = {
        "params": jax.tree.map(
            lambda x: jax.ShapeDtypeStruct(x.shape, jnp.bfloat16), make_state().params
        )
    }
    found = restore_params(run, target)
    expected = jax.tree.map(lambda x: x.astype(jnp.bfloat16), make_state(1).params)
    assert_same(found["params"], expected)
    assert all(isinstance(x, np.ndarray) for x in jax.tree.leaves(found))


def test_warm_start_from_nothing(copy, tmp_path):
    target = wanted(make_state())
    with pytest.raises(ValueError, match="holds no checkpoint; name a workdir"):
        restore_params(tmp_path / "nowhere", target)
    with pytest.raises(ValueError, match="no checkpoint 'newest'; write best, latest"):
        restore_params(copy, target, step="newest")
    damage(copy / "3/default/_METADATA", "cut")
    with pytest.raises(ValueError, match="is damaged .*choose another step"):
        restore_params(copy, target, step=3)


def test_orbax_is_quiet_and_warnings_pass(tmp_path, capfd):
    level = absl_logging.get_verbosity()
    absl_logging.set_verbosity(absl_logging.INFO)
    try:
        checkpoints, _ = reopen(tmp_path)
        checkpoints.save(1, {"x": np.arange(3)}, {"miou": 1.0})
        checkpoints.close()
        absl_logging.info("ours stays")
    finally:
        absl_logging.set_verbosity(level)
    assert "orbax" not in capfd.readouterr().err.lower()
    shown = logging.LogRecord("absl", logging.WARNING, "/orbax/x.py", 1, "", None, None)
    assert absl_logging.get_absl_logger().filter(shown)


def test_the_digest_lists_what_is_on_disk(run):
    folder = run / "checkpoints/3"
    digest = json.loads((folder / "digest.json").read_text())
    on_disk = {n: (folder / n).stat().st_size for n in files_of(folder)}
    del on_disk["digest.json"]
    assert {name: size for name, (size, _) in digest.items()} == on_disk


def test_a_long_error_keeps_the_systems_reason():
    text = f"UNKNOWN: {'a' * 300} No space left on device {'b' * 300}"
    told = one_line(ValueError(f"{text} [os_error_code='28']"))
    assert told.startswith("No space left on device: UNKNOWN") and len(told) < 300
    assert one_line(ValueError("short\nand [os_error_code='28']")).startswith(
        "No space"
    )
    assert one_line(ValueError("two\n lines")) == "two lines"
    assert one_line(KeyError()) == "KeyError"

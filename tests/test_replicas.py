"""Replicas of one program against runs that are trained alone."""

from functools import cache, partial

import jax
import numpy as np
import pytest

from benchmarks import record
from benchmarks.speed import replicas as contest
from segjax import replicas, sharding
from segjax import step as steps
from segjax.augment import Augment
from segjax.losses import build_loss
from segjax.optim import make_optimizer
from tests.test_step import CLASSES, Tiny, assert_close, make_batch

STEPS, SIZE = 3, 12
# Every random number of an example is in use: a wrong key shows.
AUGMENT = Augment(
    (SIZE, SIZE), scale=(0.5, 2.0), flip=0.5, brightness=0.3, contrast=0.3, cutmix=0.5
)
OPTIONS = {"num_classes": CLASSES, "dtype": float, "ema_decay": 0.9}
SEEDS = tuple(range(5, 13))
RATES = np.linspace(0.5, 2.0, len(SEEDS))


def batch_of(seed, step):
    batch = make_batch(examples=4, size=16, seed=100 * seed + step)
    # Images of integers are augmented in float32, which vmap rounds otherwise.
    return batch | {"image": batch["image"].astype(np.float64)}


@cache
def optimizer(rate=1.0):
    return make_optimizer("adamw", 1e-2 * rate, weight_decay=1e-2, clip_norm=1.0)


@cache
def make_init():
    shape = (SIZE, SIZE, 3)
    options = {"image_shape": shape, "ema": True, "dtype": float}
    return jax.jit(partial(steps.init_state, Tiny(), optimizer(), **options))


def fresh(seed):
    return make_init()(steps.stream_key(seed, "init"))


@cache
def alone(seed, rate):
    """The state and the losses of a run by segjax's own training step."""
    mesh = sharding.make_mesh(devices=jax.devices()[:1])
    state = fresh(seed)
    step = steps.make_train_step(
        Tiny(),
        optimizer(rate),
        build_loss("cross_entropy"),
        AUGMENT,
        mesh,
        sharding.state_sharding(state, mesh),
        seed=seed,
        **OPTIONS,
    )
    losses = []
    for number in range(STEPS):
        state, out = step(state, sharding.to_devices(batch_of(seed, number), mesh))
        losses.append(float(out["loss"]))
    return jax.device_get(state), losses


def together(count, devices, how, rates):
    """The same of the first ``count`` seeds, in one program."""
    mesh, seeds = replicas.make_mesh(count, jax.devices()[:devices]), SEEDS[:count]
    assert mesh.shape == {"replica": devices}
    states = replicas.stack([fresh(seed) for seed in seeds], mesh)

    def function(tx):
        loss = build_loss("cross_entropy")
        return steps.train_function(
            Tiny(), tx, loss, AUGMENT, platform="cpu", **OPTIONS
        )

    step = replicas.make_step(function, optimizer(), mesh, how, rates=rates)
    losses = []
    for number in range(STEPS):
        batch = replicas.stack([batch_of(seed, number) for seed in seeds], mesh)
        states, out = step(states, batch, np.asarray(seeds, np.int32), RATES[:count])
        losses.append(np.asarray(out["loss"]))
    assert out["confusion"].shape == (count, CLASSES, CLASSES)
    return states, np.stack(losses, 1)


@pytest.mark.parametrize(
    ("count", "devices", "how", "rates"),
    [
        (2, 1, "vmap", True),
        (8, 8, "loop", True),
        pytest.param(8, 8, "vmap", False, marks=pytest.mark.slow),
        pytest.param(3, 1, "loop", False, marks=pytest.mark.slow),
        pytest.param(8, 2, "vmap", True, marks=pytest.mark.slow),
    ],
)
def test_a_replica_is_the_run_that_was_trained_alone(count, devices, how, rates):
    with jax.enable_x64(True):
        states, losses = together(count, devices, how, rates)
        for index in (0, count - 1):
            state, own = alone(SEEDS[index], RATES[index] if rates else 1.0)
            np.testing.assert_allclose(losses[index], own, rtol=1e-9)
            assert_close(replicas.unstack(states, index), state, 1e-9)
    # Otherwise the above could hold of replicas that are all the same.
    assert len({round(float(loss), 6) for loss in losses[:, -1]}) == count


def test_replicas_lie_on_as_many_devices_as_divide_them():
    for count, parts in ((1, 1), (3, 3), (5, 5), (6, 6), (9, 3), (11, 1), (16, 8)):
        assert replicas.make_mesh(count).size == parts, count


def test_an_unknown_formulation_is_refused():
    mesh, tx = replicas.make_mesh(2), make_optimizer("sgd", 0.1)
    with pytest.raises(ValueError, match="'unrolled' is none of vmap, loop"):
        replicas.make_step(lambda tx: lambda *_: None, tx, mesh, "unrolled")


def test_the_page_of_the_contest_is_that_of_its_record():
    content = record.read(contest.RECORD)
    assert contest.PAGE.read_text() == contest.render(content)
    for row in content["rows"].values():
        assert len(row["first_losses"]) == row["count"]
        assert {len(turn) for turn in row["seconds_per_step"].values()} == {7}

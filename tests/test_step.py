"""The steps: against PyTorch's own step, across meshes, accumulated, averaged."""

import gc
import json
import weakref

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import PartitionSpec as P

from segjax import config as configs
from segjax import models, setup, sharding, weights
from segjax import step as steps
from segjax.augment import Augment
from segjax.batch import IGNORE
from segjax.losses import build_loss
from segjax.models.norm import Norm
from segjax.ops import table
from segjax.ops.scores import Rule, Scores, finish
from segjax.optim import make_optimizer
from tests.golden import inputs
from tests.golden.make_one_step import PATH
from tests.requirements import require_parity

CLASSES = 5


class Tiny(nn.Module):
    """Convolutions and a norm: small enough to compile many times.

    ``norm``: "batch", or "group" (the networks' own, 32 groups of 4 channels).
    """

    norm: str = "batch"
    dtype: type = jnp.float64

    def __call__(self, image, *, train=False):
        return finish(self.scores(image, train=train))

    @nn.compact
    def scores(self, image, *, train=False):
        # No bias before batch norm: its gradient is noise, which Adam magnifies.
        x = nn.Conv(
            8, (3, 3), use_bias=False, dtype=self.dtype, param_dtype=self.dtype
        )(image)
        if self.norm == "batch":
            x = nn.BatchNorm(
                use_running_average=not train,
                momentum=0.9,
                dtype=self.dtype,
                param_dtype=self.dtype,
            )(x)
        x = nn.Conv(128, (3, 3), dtype=self.dtype, param_dtype=self.dtype)(nn.relu(x))
        if self.norm == "group":
            x = Norm("group", param_dtype=self.dtype, name="norm")(x, train)
        x = nn.Conv(CLASSES, (3, 3), dtype=self.dtype, param_dtype=self.dtype)(x)
        self.sow("auxiliary", "first", x[..., :CLASSES] * 0.5)
        size = (x.shape[1], x.shape[2])
        return Scores(x, Rule(size, size))


def make_batch(examples=8, size=16, seed=0):
    rng = np.random.default_rng(seed)
    label = rng.integers(0, CLASSES, (examples, size, size)).astype(np.uint8)
    for row in range(examples):  # uneven: each example ignores another share
        label[row, : row * size // examples] = IGNORE
    return {
        "image": rng.normal(size=(examples, size, size, 3)).astype(np.float32),
        "label": label,
        "size": np.full((examples, 2), size, np.int32),
    }


def run(model, mesh, count, *, augment=None, tx=None, batches=None, **options):
    """``count`` steps from the same start; (state, [metrics]) as NumPy."""
    tx = tx or make_optimizer("adamw", 1e-2, weight_decay=1e-2)
    size = 16

    def init(key):
        return steps.init_state(
            model, tx, key, (size, size, 3), ema="ema_decay" in options, dtype=float
        )

    shapes = jax.eval_shape(init, jax.random.key(0))
    shardings = sharding.state_sharding(shapes, mesh)
    state = jax.jit(init, out_shardings=shardings)(jax.random.key(3))
    train_step = steps.make_train_step(
        model,
        tx,
        build_loss("cross_entropy"),
        augment or Augment((size, size)),
        mesh,
        shardings,
        num_classes=CLASSES,
        seed=1,
        dtype=float,
        **options,
    )
    metrics = []
    for step in range(count):
        batch = (batches or make_batch)(seed=step)
        state, out = train_step(state, sharding.to_devices(batch, mesh))
        metrics.append(jax.device_get(out))
    return jax.device_get(state), metrics


def assert_close(a, b, tolerance):
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        np.testing.assert_allclose(x, y, rtol=tolerance, atol=tolerance)


def test_one_step_equals_the_same_step_in_pytorch():
    expected = json.loads(PATH.read_text())
    with jax.enable_x64(True):
        model = models.build(
            "resnet18", "unet", inputs.CLASSES, param_dtype=jnp.float64, platform="cpu"
        )
        image = jax.ShapeDtypeStruct((1, 64, 64, 3), jnp.float64)
        zeros = jax.tree.map(
            lambda leaf: np.zeros(leaf.shape, leaf.dtype),
            jax.eval_shape(model.init, jax.random.key(0), image),
        )
        named = weights.to_torch(model, zeros, "smp")
        source = {name: inputs.tensor(name, v.shape) for name, v in named.items()}
        variables = weights.load_torch(model, source)
        mesh = sharding.make_mesh(devices=jax.devices()[:1])
        tx = make_optimizer("adamw", inputs.LR, weight_decay=inputs.WEIGHT_DECAY)
        params = jax.tree.map(jnp.asarray, variables["params"])
        state = steps.TrainState(
            step=jnp.zeros((), jnp.int32),
            params=params,
            batch_stats=jax.tree.map(jnp.asarray, variables["batch_stats"]),
            opt_state=tx.init(params),
        )
        train_step = steps.make_train_step(
            model,
            tx,
            build_loss("cross_entropy"),
            Augment((64, 64)),
            mesh,
            sharding.state_sharding(state, mesh),
            num_classes=inputs.CLASSES,
            seed=0,
            dtype=jnp.float64,
        )
        images, labels = inputs.batch()
        batch = {"image": images, "label": labels, "size": np.full((4, 2), 64, "i4")}
        before = jax.tree.map(np.asarray, state.params)
        state, metrics = train_step(state, sharding.to_devices(batch, mesh))
        for key in ("loss", "gradient_norm"):
            assert float(metrics[key]) == pytest.approx(expected[key], rel=1e-9), key
        moved = optax.tree.norm(jax.tree.map(np.subtract, state.params, before))
        assert float(moved) == pytest.approx(expected["update_norm"], rel=1e-9)
        for key in ("mean", "var"):
            leaves = jax.tree_util.tree_leaves_with_path(state.batch_stats)
            total = sum(float(x.sum()) for path, x in leaves if path[-1].key == key)
            assert total == pytest.approx(expected[f"running_{key}_sum"], rel=1e-9)
        assert int(metrics["confusion"].sum()) == int((labels != 255).sum())


@pytest.mark.parity
def test_the_committed_step_is_what_pytorch_computes():
    require_parity("segmentation_models_pytorch")
    from tests.golden.make_one_step import compute

    assert compute() == pytest.approx(json.loads(PATH.read_text()), rel=1e-9)


AUGMENT = Augment((16, 16), scale=(0.5, 1.5), flip=0.5, brightness=0.2, cutmix=0.5)


@pytest.fixture
def split_parameters(monkeypatch):
    """Also of a network as small as here: fsdp splits its larger kernels."""
    monkeypatch.setattr(sharding, "FSDP_MIN_SIZE", 2**6)


def split(state, mesh) -> int:
    """How many of the state's arrays fsdp splits, as the step is told."""
    where = jax.tree.leaves(sharding.state_sharding(state, mesh))
    return sum("fsdp" in leaf.spec for leaf in where)


def test_five_steps_are_the_same_on_every_mesh(split_parameters):
    axes = [(8, 1, 1), (1, 8, 1), (4, 1, 2), (2, 2, 2)]
    with jax.enable_x64(True):
        one = sharding.make_mesh(devices=jax.devices()[:1])
        expected = run(Tiny(), one, 5, augment=AUGMENT, ema_decay=0.9)
        for mesh in (sharding.make_mesh(*sizes) for sizes in axes):
            actual = run(Tiny(), mesh, 5, augment=AUGMENT, ema_decay=0.9)
            assert (split(actual[0], mesh) > 0) == (mesh.shape["fsdp"] > 1)
            assert_close(actual[0], expected[0], 1e-9)
            assert [float(m["loss"]) for m in actual[1]] == pytest.approx(
                [float(m["loss"]) for m in expected[1]], rel=1e-9
            )


def test_a_networks_gradient_is_the_same_where_kernels_and_rows_are_split():
    """Also where the deepest map has one row for two devices."""
    found = []
    with jax.enable_x64(True):
        for axes in ((4, 1, 2), (2, 2, 2)):
            model = models.build(
                *("segnet_basic", "segnet_basic", CLASSES),
                param_dtype=jnp.float64,
                platform="cpu",
                spatial=2,
            )
            _, (metrics,) = run(model, sharding.make_mesh(*axes), 1)
            found.append([float(metrics[key]) for key in ("loss", "gradient_norm")])
    assert found[1] == pytest.approx(found[0], rel=1e-9)


def test_fsdp_splits_large_parameters_and_their_moments():
    mesh = sharding.make_mesh(2, 4, 1)
    big = {"kernel": jax.ShapeDtypeStruct((3, 3, 64, 128), jnp.float32)}
    small = {"bias": jax.ShapeDtypeStruct((128,), jnp.float32)}
    where = sharding.state_sharding((big, small), mesh)
    assert where[0]["kernel"].spec == P(None, None, None, "fsdp")
    assert where[1]["bias"].spec == P()
    assert where[0]["kernel"].shard_shape((3, 3, 64, 128)) == (3, 3, 64, 32)


def test_accumulated_parts_add_up_to_the_whole_batch(split_parameters):
    """Parts of 2 on one device and of 4 on a mesh of all axes, labels ignored unevenly.

    With group norm: batch norm's statistics are of a part.
    """
    with jax.enable_x64(True):
        one = sharding.make_mesh(devices=jax.devices()[:1])
        whole = run(Tiny(norm="group"), one, 2)
        for mesh, accumulate in ((one, 4), (sharding.make_mesh(2, 2, 2), 2)):
            parts = run(Tiny(norm="group"), mesh, 2, accumulate=accumulate)
            assert (split(parts[0], mesh) > 0) == (mesh.shape["fsdp"] > 1)
            assert_close(parts[0], whole[0], 1e-9)
            for a, b in zip(parts[1], whole[1], strict=True):
                assert_close(a, b, 1e-9)


class Plain(nn.Module):
    """Of the image a norm and a dropped-out classifier; nothing random but that."""

    norm: bool = False
    drop: float = 0.0

    @nn.compact
    def scores(self, image, *, train=False):
        kept = {"dtype": float, "param_dtype": float}
        x = image
        if self.norm:
            x = nn.BatchNorm(use_running_average=not train, momentum=0.9, **kept)(x)
        x = nn.Dropout(self.drop, deterministic=not train)(x)
        x = nn.Conv(CLASSES, (3, 3), **kept)(x)
        return Scores(x, Rule(x.shape[1:3], x.shape[1:3]))

    __call__ = scores


def losses(model, steps=3, examples=8, **options):
    """Of steps that change nothing, on one batch of one device."""
    mesh = sharding.make_mesh(devices=jax.devices()[:1])
    image = make_batch(1)["image"]
    batch = {
        "image": image.repeat(examples, 0),
        "label": np.arange(16 * 16).reshape(1, 16, 16).repeat(examples, 0) % CLASSES,
        "size": np.full((examples, 2), 16, np.int32),
    }
    batch["label"] = batch["label"].astype(np.uint8)
    with jax.enable_x64(True):
        tx = optax.sgd(0.0)
        _, out = run(model, mesh, steps, tx=tx, batches=lambda seed: batch, **options)
    return [round(float(m["loss"]), 12) for m in out]


def test_every_step_augments_anew():
    assert len(set(losses(Plain(), augment=Augment((16, 16), brightness=0.5)))) == 3


def test_every_step_and_every_part_drops_its_own_units():
    one = losses(Plain(drop=0.5), examples=2)
    assert len(set(one)) == 3
    # Four equal images in two parts: alike, if both dropped the same.
    (two, *_) = losses(Plain(drop=0.5), 1, examples=4, accumulate=2)
    assert abs(two - one[0]) > 1e-6


def test_running_statistics_are_of_every_part_one_after_the_other():
    mesh = sharding.make_mesh(devices=jax.devices()[:1])
    with jax.enable_x64(True):
        state, _ = run(Plain(norm=True), mesh, 1, accumulate=2)
    image = make_batch(seed=0)["image"].astype(np.float64)
    wanted = 0.0
    for part in (image[::2], image[1::2]):
        wanted = 0.9 * wanted + 0.1 * part.mean((0, 1, 2))
    np.testing.assert_allclose(
        state.batch_stats["BatchNorm_0"]["mean"], wanted, rtol=1e-6, atol=1e-9
    )


def all_ignored(seed):
    batch = make_batch(seed=seed)
    return batch | {"label": np.full_like(batch["label"], IGNORE)}


def test_an_all_ignored_batch_changes_nothing():
    with jax.enable_x64(True):
        mesh = sharding.make_mesh(devices=jax.devices()[:1])
        tx = optax.sgd(1.0)
        _, (metrics,) = run(Tiny(), mesh, 1, tx=tx, batches=all_ignored)
        assert metrics["loss"] == 0.0 and metrics["gradient_norm"] == 0.0
        assert metrics["confusion"].sum() == 0


def test_auxiliary_logits_and_the_moving_average_act():
    with jax.enable_x64(True):
        mesh = sharding.make_mesh(devices=jax.devices()[:1])
        with_aux = run(Tiny(), mesh, 1, aux_weight=0.4, ema_decay=0.99)
        without = run(Tiny(), mesh, 1, aux_weight=0.0, ema_decay=0.99)
        assert with_aux[1][0]["loss"] > without[1][0]["loss"]
        # (1 + 0) / (10 + 0) of the first average is kept.
        start = steps.init_state(
            Tiny(), optax.identity(), jax.random.key(3), (16, 16, 3), dtype=float
        )
        state = without[0]
        expected = jax.tree.map(
            lambda old, new: 0.1 * old + 0.9 * new, start.params, state.params
        )
        assert_close(state.ema, expected, 1e-12)
        assert state.variables()["params"] is state.ema


@pytest.mark.parametrize(
    "group, groups", [("all", 1), ("device", 4), (2, 2), (4, 1), (1, 4)]
)
def test_devices_share_batch_statistics_as_the_config_says(group, groups):
    config = configs.default()
    config.model.norm_group = group
    mesh = sharding.make_mesh(data=2, fsdp=2, spatial=2)
    assert setup.norm_groups(config, mesh) == groups
    model = setup.make_model(config, 3, 3, "cpu", setup.norm_groups(config, mesh))
    assert model.layers.norm(name="x").groups == groups


@pytest.mark.parametrize("group", ["each", 3, 0])
def test_devices_that_do_not_divide_are_refused(group):
    config = configs.default()
    config.model.norm_group = group
    with pytest.raises(ValueError, match="divides the 4 devices"):
        setup.norm_groups(config, sharding.make_mesh(data=2, fsdp=2, spatial=2))


BROKEN = {
    "nan": lambda image: np.where(image > 2, np.nan, image).astype(np.float32),
    "inf": lambda image: np.where(image > 2, np.inf, image).astype(np.float32),
    # Loss and gradient stay finite; the variance of 1e25 does not.
    "overflow": lambda image: (image * np.float32(1e25)).astype(np.float32),
}


@pytest.mark.parametrize(
    "how, kept", [*((how, "branch") for how in BROKEN), ("nan", "select")]
)
def test_an_update_that_is_not_finite_is_skipped_whole(monkeypatch, how, kept):
    monkeypatch.setattr(table, "update", lambda platform: kept)

    def batches(seed):
        batch = make_batch(seed=seed)
        if seed in (1, 2):  # one example of eight, on one of eight devices
            batch["image"][5] = BROKEN[how](batch["image"][5])
        return batch

    def good(seed):
        return make_batch(seed=seed)

    mesh = sharding.make_mesh(8)
    options: dict = {"augment": Augment((16, 16)), "ema_decay": 0.9}
    model = Tiny(dtype=jnp.float32)
    before, _ = run(model, mesh, 1, batches=good, **options)
    state, metrics = run(model, mesh, 3, batches=batches, **options)
    assert [int(m["skipped"]) for m in metrics] == [0, 1, 2]
    assert state.step == 3 and state.skipped == 2
    for name in ("params", "batch_stats", "opt_state", "ema"):
        for a, b in zip(
            jax.tree.leaves(getattr(state, name)),
            jax.tree.leaves(getattr(before, name)),
            strict=True,
        ):
            np.testing.assert_array_equal(a, b)
    # The next good batch is taken, and the row of skipped ones is over.
    after, metrics = run(model, mesh, 4, batches=batches, **options)
    assert metrics[3]["skipped"] == 0 and after.skipped == 0 and after.step == 4
    assert np.isfinite(metrics[3]["loss"])
    count = next(x for x in jax.tree.leaves(after.opt_state) if x.dtype == np.int32)
    assert count == 2  # updates, of four steps


def test_a_skipped_update_costs_no_second_state():
    mesh, tx = sharding.make_mesh(devices=jax.devices()[:1]), optax.adam(1e-3)
    state = jax.eval_shape(
        lambda key: steps.init_state(
            Tiny(dtype=jnp.float32), tx, key, (16, 16, 3), ema=True
        ),
        jax.random.key(0),
    )
    shardings = sharding.state_sharding(state, mesh)
    train_step = steps.make_train_step(
        Tiny(dtype=jnp.float32),
        tx,
        build_loss("cross_entropy"),
        Augment((16, 16)),
        mesh,
        shardings,
        num_classes=CLASSES,
        seed=0,
        ema_decay=0.9,
    )
    memory = train_step.lower(state, make_batch()).compile().memory_analysis()
    size = sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(state))
    # The new state is written where the old one was, all of it.
    assert memory.alias_size_in_bytes >= size
    assert memory.output_size_in_bytes - memory.alias_size_in_bytes < size / 10


def test_compiling_a_step_leaves_no_trace_of_it():
    """What a jitted function keeps of its program is let go; it computes the same."""
    x, traces = jnp.arange(3.0), []
    for compile_it in (
        lambda f: f.lower(x).compile(),
        lambda f: steps.compile_step(f, x),
    ):
        jitted = jax.jit(lambda x: jnp.sin(x) + 1)
        trace = weakref.ref(jitted.trace(x).jaxpr.jaxpr)
        compiled = compile_it(jitted)
        gc.collect()
        traces.append(trace())
        np.testing.assert_array_equal(compiled(x), jitted(x))
    assert traces[0] is not None and traces[1] is None

"""Optimizers against recursions in NumPy float64; schedules against their formulas."""

import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from segjax.optim import (
    OPTIONS,
    SCHEDULES,
    decay_mask,
    ema_update,
    make_optimizer,
    make_schedule,
    path_factors,
)

STEPS = 3
RATES = [0.1, 0.05, 0.02]


def parameters(seed=0):
    rng = np.random.default_rng(seed)
    return {
        "encoder": {
            "conv": {"kernel": rng.normal(size=(3, 2)), "bias": rng.normal(size=2)},
            "norm": {"scale": rng.normal(size=2), "bias": rng.normal(size=2)},
        },
        "decoder": {"kernel": rng.normal(size=(2, 2))},
    }


GRADIENTS = [parameters(seed) for seed in (1, 2, 3)]
SPARED = jax.tree.map(lambda x: x.ndim < 2, parameters())


def run(name, **options):
    """The parameters after three steps, and the optimizer's state."""
    with jax.enable_x64(True):
        rates = jnp.asarray(RATES)
        tx = make_optimizer(name, lambda step: rates[step], **options)
        params = jax.tree.map(jnp.asarray, parameters())
        state = jax.jit(tx.init)(params)

        @jax.jit
        def step(params, state, gradient):
            updates, state = tx.update(gradient, state, params)
            return jax.tree.map(jnp.add, params, updates), state

        for gradient in GRADIENTS:
            params, state = step(params, state, jax.tree.map(jnp.asarray, gradient))
    return params, state


def assert_close(ours, theirs, rtol=1e-12):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=rtol), ours, theirs)


def recursion(rule, weight_decay=0.0, factor=lambda path: 1.0, gradients=GRADIENTS):
    """Run ``rule(p, g, memory, lr, decay, t) -> p`` on every parameter by itself."""
    names, memory = jax.tree_util.tree_flatten_with_path(parameters())[0], {}
    params = {jax.tree_util.keystr(path): p for path, p in names}
    spared = dict(zip(params, jax.tree.leaves(SPARED), strict=True))
    for t, (lr, gradient) in enumerate(zip(RATES, gradients, strict=True), 1):
        for name, g in zip(params, jax.tree.leaves(gradient), strict=True):
            decay = 0.0 if spared[name] else weight_decay
            params[name] = rule(
                params[name],
                g,
                memory.setdefault(name, {"m": 0 * g, "v": 0 * g}),
                lr * factor(name),
                decay,
                t,
            )
    return jax.tree.unflatten(jax.tree.structure(parameters()), list(params.values()))


def sgd_rule(momentum, nesterov=False):
    """As torch.optim.SGD documents it."""

    def rule(p, g, memory, lr, decay, t):
        g = g + decay * p
        memory["m"] = momentum * memory["m"] + g
        return p - lr * (g + momentum * memory["m"] if nesterov else memory["m"])

    return rule


def adam_direction(g, memory, betas, eps, t):
    memory["m"] = betas[0] * memory["m"] + (1 - betas[0]) * g
    memory["v"] = betas[1] * memory["v"] + (1 - betas[1]) * g**2
    mean = memory["m"] / (1 - betas[0] ** t)
    return mean / (np.sqrt(memory["v"] / (1 - betas[1] ** t)) + eps)


def adamw_rule(betas=(0.9, 0.999), eps=1e-8):
    """Loshchilov & Hutter, algorithm 2, with torch's lr * decay."""

    def rule(p, g, memory, lr, decay, t):
        return p - lr * (adam_direction(g, memory, betas, eps, t) + decay * p)

    return rule


def lamb_rule(p, g, memory, lr, decay, t):
    """You et al. 2020, algorithm 2."""
    direction = adam_direction(g, memory, (0.9, 0.999), 1e-8, t) + decay * p
    trust = np.linalg.norm(p) / np.linalg.norm(direction)
    return p - lr * trust * direction


def lars_rule(p, g, memory, lr, decay, t):
    """You et al. 2017, algorithm 1; vectors keep trust ratio 1."""
    g = g + decay * p
    trust = 0.001 * np.linalg.norm(p) / np.linalg.norm(g) if p.ndim > 1 else 1.0
    memory["m"] = 0.9 * memory["m"] + lr * trust * g
    return p - memory["m"]


@pytest.mark.parametrize(
    ("name", "options", "rule"),
    [
        ("sgd", {}, sgd_rule(0.9)),
        ("sgd", {"momentum": 0.5, "nesterov": True}, sgd_rule(0.5, True)),
        ("sgd", {"momentum": 0.0}, sgd_rule(0.0)),
        ("adamw", {}, adamw_rule()),
        ("adamw", {"betas": (0.8, 0.95), "eps": 1e-3}, adamw_rule((0.8, 0.95), 1e-3)),
        ("lamb", {}, lamb_rule),
        ("lars", {}, lars_rule),
    ],
)
def test_three_steps_with_decay_of_kernels_only(name, options, rule):
    params, _ = run(name, weight_decay=0.3, **options)
    assert_close(params, recursion(rule, 0.3), rtol=1e-6 if name == "lamb" else 1e-12)


def test_decay_mask_and_its_knob():
    mask = decay_mask(
        {
            "conv": {"kernel": np.ones((3, 3, 2, 2)), "bias": np.ones(2)},
            "norm": {"scale": np.ones(2)},
            "stacked_norm": {"scale": np.ones((4, 2))},
            "attention": {"relative_position_bias_table": np.ones((9, 2))},
            "pos_embed": np.ones((1, 4, 2)),
            "layer_scale": {"gamma": np.ones(2)},
        }
    )
    assert [path for path, on in jax.tree.leaves_with_path(mask) if on] == [
        (jax.tree_util.DictKey("conv"), jax.tree_util.DictKey("kernel"))
    ]
    with jax.enable_x64(True):
        zero = jax.tree.map(np.zeros_like, parameters())
        tx = make_optimizer("adamw", 0.5, weight_decay=0.1, decay_norm_and_bias=True)
        updates, _ = jax.jit(tx.update)(zero, tx.init(parameters()), parameters())
    assert_close(updates, jax.tree.map(lambda p: -0.05 * p, parameters()))


def test_multipliers_scale_rate_and_decay_and_zero_freezes():
    params, state = run(
        "adamw",
        weight_decay=0.3,
        lr_multipliers={"encoder/*": 0.0, "encoder/norm/*": 0.1, "decoder*": 10.0},
    )

    def factor(name):
        return 10.0 if "decoder" in name else 0.1 if "norm" in name else 0.0

    assert_close(params, recursion(adamw_rule(), 0.3, factor))
    start = parameters()
    np.testing.assert_array_equal(
        params["encoder"]["conv"]["kernel"], start["encoder"]["conv"]["kernel"]
    )
    # No moments are kept for what is frozen: two for each of the other three.
    assert sum(np.ndim(x) > 0 for x in jax.tree.leaves(state)) == 6


def test_frozen_gradients_count_for_nothing_even_when_not_finite():
    tx = make_optimizer(
        "sgd", 1.0, momentum=0, clip_norm=1.0, lr_multipliers=[("encoder/*", 0)]
    )
    params = jax.tree.map(jnp.asarray, parameters())
    gradient = jax.tree.map(jnp.ones_like, params)
    gradient["encoder"]["conv"]["kernel"] *= jnp.nan
    updates, _ = tx.update(gradient, tx.init(params), params)
    np.testing.assert_allclose(updates["decoder"]["kernel"], -0.5, rtol=1e-6)
    assert not any(x.any() for x in jax.tree.leaves(updates["encoder"]))


def test_clipping_by_global_norm():
    norms = [
        np.sqrt(sum((g**2).sum() for g in jax.tree.leaves(gradient)))
        for gradient in GRADIENTS
    ]
    limit = float(np.mean(norms))
    clipped = [
        jax.tree.map(lambda g, n=n: g * min(1, limit / n), gradient)
        for gradient, n in zip(GRADIENTS, norms, strict=True)
    ]
    params, _ = run("sgd", clip_norm=limit)
    assert_close(params, recursion(sgd_rule(0.9), gradients=clipped))
    unlimited, _ = run("sgd", clip_norm=0)
    assert_close(unlimited, recursion(sgd_rule(0.9)))


def test_longest_pattern_wins_whatever_the_order():
    for pairs in ([("*", 2.0), ("encoder/*", 3.0)], [("encoder/*", 3.0), ("*", 2.0)]):
        factors = path_factors(parameters(), pairs)
        assert factors["decoder"]["kernel"] == 2.0
        assert set(jax.tree.leaves(factors["encoder"])) == {3.0}


@pytest.mark.parametrize(
    ("pattern", "nearest"),
    [
        ("encodr/*", "nearest: encoder"),
        ("encoder", r"nearest: encoder/\*"),
        ("encoder/norm2/*", "nearest: encoder/norm"),
        ("zzz", "nearest: decoder/kernel"),
    ],
)
def test_a_pattern_without_a_parameter(pattern, nearest):
    tx = make_optimizer("sgd", 0.1, lr_multipliers=[(pattern, 0.5)])
    with pytest.raises(ValueError, match=f"'{pattern[:3]}.*no parameter; {nearest}"):
        jax.eval_shape(tx.init, parameters())


@pytest.mark.parametrize(
    ("call", "text"),
    [
        (lambda: make_optimizer("adam", 0.1), "unknown optimizer 'adam'.*'adamw'"),
        (
            lambda: make_schedule("poli", lr=1.0, steps=2),
            "unknown schedule 'poli'.*'poly'.*known: constant, cosine",
        ),
        (
            lambda: make_schedule("poly", lr=1.0, steps=5, warmup_steps=5),
            "warmup_steps=5 must be at least 0 and below steps=5",
        ),
        (
            lambda: make_optimizer("sgd", 0.1, lr_multipliers={"a*": -1.0}),
            "'a\\*' has factor -1.0, below 0",
        ),
    ],
)
def test_mistakes(call, text):
    with pytest.raises(ValueError, match=text):
        call()


def rates(name, steps, **options):
    schedule = make_schedule(name, lr=0.4, steps=steps, **options)
    return np.asarray(jax.jit(jax.vmap(schedule))(jnp.arange(steps + 1)))


def test_schedules_without_warm_up():
    t = np.arange(11) / 10
    np.testing.assert_allclose(rates("constant", 10), 0.4 * np.ones(11), rtol=1e-6)
    for name, options, shape in [
        ("poly", {}, (1 - t) ** 0.9),
        ("poly", {"power": 2.0, "end_factor": 0.1}, 0.9 * (1 - t) ** 2 + 0.1),
        ("cosine", {}, (1 + np.cos(np.pi * t)) / 2),
        ("cosine", {"end_factor": 0.1}, 0.9 * (1 + np.cos(np.pi * t)) / 2 + 0.1),
    ]:
        np.testing.assert_allclose(
            rates(name, 10, **options), 0.4 * shape, rtol=1e-5, atol=1e-7
        )


@pytest.mark.parametrize("name", [n for n in SCHEDULES if n != "one_cycle"])
def test_warm_up_is_linear_and_shortens_the_rest(name):
    found = rates(name, 14, warmup_steps=4)
    np.testing.assert_allclose(found[:5], 0.4 * np.arange(1, 6) / 5, rtol=1e-6)
    np.testing.assert_allclose(found[4:], rates(name, 10), rtol=1e-5, atol=1e-7)


def test_multistep_falls_after_each_milestone():
    found = rates("multistep", 10, milestones=(0.3, 0.55, 0.9), gamma=0.5)
    powers = [0, 0, 0, 1, 1, 1, 2, 2, 2, 3, 3]  # round(5.5) is 6
    np.testing.assert_allclose(found, 0.4 * 0.5 ** np.array(powers), rtol=1e-6)
    for wrong in ({"milestones": (0.5, 1.0)}, {"gamma": 0.0}):
        with pytest.raises(ValueError, match="lie between 0 and 1.* above 0"):
            make_schedule("multistep", lr=1.0, steps=9, **wrong)


@pytest.mark.parametrize(("steps", "warmup", "peak"), [(10, 0, 3), (25, 7, 7)])
def test_one_cycle(steps, warmup, peak):
    found = rates("one_cycle", steps, warmup_steps=warmup)
    np.testing.assert_allclose(found[0], 0.4 / 25, rtol=1e-5)
    np.testing.assert_allclose(found[peak], 0.4, rtol=1e-6)
    np.testing.assert_allclose(found[-1], 0.4 / 250_000, rtol=1e-3)
    assert np.argmax(found) == peak
    assert (np.diff(found[peak:]) < 0).all() and (np.diff(found[: peak + 1]) > 0).all()


def test_ema():
    params, ema = parameters(1), parameters(0)
    update = jax.jit(ema_update)
    for step, keep in [(0, 0.1), (8, 0.5), (10**6, 0.99)]:
        new = update(ema, params, 0.99, jnp.int32(step))
        expected = jax.tree.map(lambda e, p, k=keep: k * e + (1 - k) * p, ema, params)
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6),
            new,
            expected,
        )
    half = {"w": jnp.ones(2, jnp.bfloat16)}
    assert ema_update(half, half, 0.9, 3)["w"].dtype == jnp.bfloat16


def test_the_knobs_listed_are_the_arguments():
    """OPTIONS, which the config's check reads, misses no argument and invents none."""
    arguments = set(inspect.signature(make_optimizer).parameters) - {"name", "schedule"}
    assert {knob for knobs in OPTIONS.values() for knob in knobs} == arguments
    arguments = set(inspect.signature(make_schedule).parameters) - {
        "name",
        "lr",
        "steps",
    }
    assert {knob for knobs in SCHEDULES.values() for knob in knobs} == arguments

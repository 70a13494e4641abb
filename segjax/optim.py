"""Optimizers, schedules and the moving average of parameters, put together from optax.

What is added to optax: weight decay that spares biases and norm parameters,
learning-rate factors by parameter path, and one warm-up for every schedule.
A parameter's path is its keys joined by "/", such as "encoder/layer1_0/conv1/kernel".
"""

import difflib
import fnmatch
from collections.abc import Iterable, Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import optax

from segjax.names import check_known

Multipliers = Mapping[str, float] | Iterable[tuple[str, float]]

SCHEDULES: dict[str, tuple[str, ...]] = {
    "constant": ("warmup_steps",),
    "poly": ("warmup_steps", "power", "end_factor"),
    "cosine": ("warmup_steps", "end_factor"),
    "one_cycle": ("warmup_steps",),
    "multistep": ("warmup_steps", "milestones", "gamma"),
}
"""Schedule name -> the knobs of :func:`make_schedule` that it reads besides lr."""

_COMMON = ("weight_decay", "decay_norm_and_bias", "clip_norm", "lr_multipliers")

OPTIONS: dict[str, tuple[str, ...]] = {
    "sgd": (*_COMMON, "momentum", "nesterov"),
    "adamw": (*_COMMON, "betas", "eps"),
    "lamb": (*_COMMON, "betas", "eps"),
    "lars": (*_COMMON, "momentum", "nesterov"),
}
"""Optimizer name -> the knobs of :func:`make_optimizer` that it reads."""

NO_DECAY = ("*bias", "*scale", "*bias_table", "*pos_embed*", "*cls_token*")
"""Patterns of paths without weight decay, whatever their rank."""


def make_schedule(
    name: str,
    *,
    lr: float,
    steps: int,
    warmup_steps: int = 0,
    power: float = 0.9,
    end_factor: float = 0.0,
    milestones: Iterable[float] = (0.5, 0.75),
    gamma: float = 0.1,
) -> optax.Schedule:
    """Step (from 0) -> learning rate.

    Warm-up is linear, ``lr (t + 1) / (warmup_steps + 1)``, and the schedule proper
    spans the steps that remain. ``poly`` is ``lr (1 - t / T)**power`` (Chen et al.,
    "DeepLab", 2017), ``cosine`` Loshchilov & Hutter's half cosine ("SGDR", 2017); both
    end at ``end_factor * lr``. ``one_cycle`` (Smith & Topin, "Super-Convergence",
    2018) climbs from lr / 25 for ``warmup_steps`` (30 % of the steps when that is 0)
    and falls to lr / 250 000, both along cosines. ``multistep`` multiplies the rate by
    ``gamma`` after each of the ``milestones``, fractions of its steps.

    Raises:
      ValueError: an unknown name, or numbers that leave no step to train at.
    """
    check_known("schedule", name, SCHEDULES)
    if not 0 <= warmup_steps < steps:
        raise ValueError(
            f"warmup_steps={warmup_steps} must be at least 0 and below steps={steps}"
        )
    rest = steps - warmup_steps
    if name == "one_cycle":
        # optax truncates the product with steps; the half keeps it off rounding errors.
        climb = (warmup_steps + 0.5) / steps if warmup_steps else 0.3
        return optax.schedules.cosine_onecycle_schedule(steps, lr, pct_start=climb)
    if name == "multistep":
        milestones = tuple(milestones)
        if any(not 0 < at < 1 for at in milestones) or not gamma > 0:
            raise ValueError(
                f"milestones={milestones} lie between 0 and 1, the run's length, and "
                f"gamma={gamma} is above 0"
            )
        drops = tuple(round(at * rest) for at in milestones)
        main = partial(_multistep, lr=lr, drops=drops, gamma=gamma)
    elif name == "constant":
        main = optax.schedules.constant_schedule(lr)
    elif name == "poly":
        main = partial(_poly, lr=lr, steps=rest, power=power, end_factor=end_factor)
    else:
        main = optax.schedules.cosine_decay_schedule(lr, rest, alpha=end_factor)
    if not warmup_steps:
        return main
    climb = optax.schedules.linear_schedule(lr / (warmup_steps + 1), lr, warmup_steps)
    return optax.schedules.join_schedules([climb, main], [warmup_steps])


def _poly(
    step: jax.typing.ArrayLike,
    *,
    lr: float,
    steps: int,
    power: float,
    end_factor: float,
) -> jax.Array:
    # Not optax's: under jit XLA rounds its 1 - t / T to just below 0 at t = T for some
    # T, and the power of that is NaN.
    left = jnp.clip(1 - jnp.asarray(step) / steps, 0, 1)
    return lr * (end_factor + (1 - end_factor) * left**power)


def _multistep(
    step: jax.typing.ArrayLike, *, lr: float, drops: tuple[int, ...], gamma: float
) -> jax.Array:
    passed = jnp.sum(jnp.asarray(step) >= jnp.asarray(drops))
    return lr * gamma ** passed.astype(float)


def make_optimizer(
    name: str,
    schedule: optax.ScalarOrSchedule,
    *,
    weight_decay: float = 0.0,
    momentum: float = 0.9,
    nesterov: bool = False,
    betas: tuple[float, float] = (0.9, 0.999),
    eps: float = 1e-8,
    clip_norm: float | None = None,
    decay_norm_and_bias: bool = False,
    lr_multipliers: Multipliers = (),
) -> optax.GradientTransformation:
    """The gradient transformation called ``name``; see :data:`OPTIONS`.

    ``sgd`` adds the decay to the gradient, as PyTorch does; ``adamw`` is Loshchilov &
    Hutter's ("Decoupled Weight Decay Regularization", 2019); ``lamb`` is You et al.'s
    ("Large Batch Optimization for Deep Learning", 2020) and ``lars`` You et al.'s
    ("Large Batch Training of Convolutional Networks", 2017; biases and norm
    parameters keep trust ratio 1).

    Args:
      name: one of :data:`OPTIONS`.
      schedule: step -> learning rate, or a number.
      weight_decay: 0 for none.
      momentum: of sgd and lars.
      nesterov: of sgd and lars.
      betas: of adamw and lamb.
      eps: of adamw and lamb.
      clip_norm: the largest global norm of the gradient; None or 0 for no limit.
      decay_norm_and_bias: decay every parameter, also those that
        :func:`decay_mask` spares.
      lr_multipliers: path pattern (fnmatch; "*" crosses "/") -> factor on the learning
        rate and so on the decay. Of several patterns that match the longest counts.
        0 freezes: no update, no decay, no optimizer state, no share in the norm.

    Raises:
      ValueError: an unknown name; on ``init``, a pattern that matches no parameter.
    """
    check_known("optimizer", name, OPTIONS)
    factors = dict(lr_multipliers)
    for pattern, factor in factors.items():
        if not factor >= 0:
            raise ValueError(
                f"lr_multipliers: '{pattern}' has factor {factor}, below 0"
            )
    decays = None if decay_norm_and_bias else decay_mask
    if name == "sgd":
        base = optax.chain(
            optax.add_decayed_weights(weight_decay, decays)
            if weight_decay
            else optax.identity(),
            optax.sgd(schedule, momentum or None, nesterov),
        )
    elif name == "adamw":
        base = optax.adamw(
            schedule, *betas, eps=eps, weight_decay=weight_decay, mask=decays
        )
    elif name == "lamb":
        base = optax.lamb(
            schedule, *betas, eps=eps, weight_decay=weight_decay, mask=decays
        )
    else:
        base = optax.lars(
            schedule,
            weight_decay,
            weight_decay_mask=True if decays is None else decays,
            trust_ratio_mask=decay_mask,
            momentum=momentum,
            nesterov=nesterov,
        )
    clip = [optax.clip_by_global_norm(clip_norm)] if clip_norm else []
    if not factors:
        return optax.chain(*clip, base)

    def trained(params):
        return jax.tree.map(lambda factor: factor != 0, path_factors(params, factors))

    # Frozen gradients are dropped before the norm, and again after the base, which
    # masked() does not run on them.
    return optax.chain(
        _scale_by_path(factors, freeze_only=True),
        *clip,
        optax.masked(base, trained),
        _scale_by_path(factors),
    )


def decay_mask(params: Any) -> Any:
    """Tree of bool: whether a parameter has weight decay.

    It has when its rank is 2 or more and its path matches none of :data:`NO_DECAY`:
    biases, norm scales, position tables and tokens have none.
    """

    def decays(path, value):
        name = _path_name(path)
        spared = any(fnmatch.fnmatchcase(name, pattern) for pattern in NO_DECAY)
        return jnp.ndim(value) >= 2 and not spared

    return jax.tree_util.tree_map_with_path(decays, params)


def path_factors(params: Any, lr_multipliers: Multipliers) -> Any:
    """Tree of float: every parameter's factor; 1 where no pattern matches.

    Raises:
      ValueError: a pattern that matches no parameter; names the nearest paths.
    """
    factors = dict(lr_multipliers)
    patterns = sorted(factors, key=lambda pattern: (len(pattern), pattern))
    flat, structure = jax.tree_util.tree_flatten_with_path(params)
    names = [_path_name(path) for path, _ in flat]
    for pattern in patterns:
        if not fnmatch.filter(names, pattern):
            raise ValueError(_unmatched(pattern, names))
    of_names = dict.fromkeys(names, 1.0)
    for pattern in patterns:  # the longest comes last and wins
        for name in names:
            if fnmatch.fnmatchcase(name, pattern):
                of_names[name] = float(factors[pattern])
    return structure.unflatten([of_names[name] for name in names])


def ema_update(ema: Any, params: Any, decay: float, step: jax.typing.ArrayLike) -> Any:
    """The moving average after ``step`` (from 0): ``d ema + (1 - d) params``.

    ``d = min(decay, (1 + step) / (10 + step))``, so that the early average forgets the
    initialisation (as TensorFlow's ExponentialMovingAverage does).
    """
    step = jnp.asarray(step, float)
    keep = jnp.minimum(decay, (1 + step) / (10 + step))
    new = optax.incremental_update(params, ema, 1 - keep)
    return jax.tree.map(lambda value, old: value.astype(old.dtype), new, ema)


def _scale_by_path(
    factors: dict[str, float], freeze_only: bool = False
) -> optax.GradientTransformation:
    """Multiply updates by their factor, or (freeze_only) only make frozen ones zero."""

    def scale(update, factor):
        if factor == 0:
            return jnp.zeros_like(update)  # 0 * NaN would not be
        return update if freeze_only else update * factor

    return optax.stateless(
        lambda updates, _: jax.tree.map(scale, updates, path_factors(updates, factors))
    )


def _path_name(path: tuple[Any, ...]) -> str:
    return jax.tree_util.keystr(path, simple=True, separator="/")


def _unmatched(pattern: str, names: list[str]) -> str:
    if any(name.startswith(pattern + "/") for name in names):
        near = [f"{pattern}/*"]
    else:
        stem = pattern.rstrip("*/")
        folders = {
            "/".join(name.split("/")[: i + 1])
            for name in names
            for i in range(name.count("/") + 1)
        }
        near = difflib.get_close_matches(stem, sorted(folders), n=3, cutoff=0.3)
    near = near or names[:3]
    return (
        f"lr_multipliers: pattern '{pattern}' matches no parameter; "
        f"nearest: {', '.join(near)}"
    )

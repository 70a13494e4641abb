"""The train step and the eval step: pure functions, jitted over the mesh.

Everything arrives as an argument; nothing here reads a config. Randomness is
``fold_in`` of (seed, stream, step, example), so that a resumed run needs no saved
state of a generator.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, cast

import jax
import jax.numpy as jnp
import optax
from flax import linen as nn
from flax import struct
from jax.sharding import Mesh

from segjax import sharding
from segjax.augment import Augment, augment_batch, prepare_eval
from segjax.losses import Loss
from segjax.losses.image import ImageLoss
from segjax.metrics import (
    calibration_rows,
    confusion_matrix,
    confusion_of_scores,
)
from segjax.ops import table
from segjax.ops.sampling import resize_logits
from segjax.ops.scores import Scores, finish, predictions
from segjax.optim import ema_update

# Streams of random numbers; a number once given never changes its meaning, or old
# runs would resume on other numbers.
STREAMS = {"init": 0, "augment": 1, "dropout": 2}


def stream_key(seed: int | jax.Array, stream: str) -> jax.Array:
    """The key of one stream of random numbers of a run."""
    return jax.random.fold_in(jax.random.key(seed), STREAMS[stream])


@struct.dataclass
class TrainState:
    """All that a run carries from step to step (and saves).

    ``ema`` is the moving average of ``params`` or None. ``batch_stats`` is {} for a
    network without running statistics. ``skipped`` (int32[]) counts the updates that
    were skipped in a row up to here (:func:`make_train_step`).
    """

    step: jax.Array
    params: Any
    batch_stats: Any
    opt_state: optax.OptState
    ema: Any = None
    skipped: jax.Array = struct.field(default_factory=lambda: jnp.zeros((), jnp.int32))

    def variables(self, averaged: bool = True) -> dict[str, Any]:
        """What ``model.apply`` takes; the averaged parameters where there are any."""
        params = self.ema if averaged and self.ema is not None else self.params
        return {"params": params, "batch_stats": self.batch_stats}


def init_state(
    model: nn.Module,
    tx: optax.GradientTransformation,
    key: jax.Array,
    image_shape: tuple[int, int, int],
    *,
    ema: bool = False,
    dtype=jnp.float32,
) -> TrainState:
    """A fresh state; run under ``jax.eval_shape`` or ``jit`` with ``out_shardings``.

    Args:
      image_shape: (H, W, C) of one image; the parameters do not depend on H and W.
    """
    variables = model.init(key, jnp.zeros((1, *image_shape), dtype), train=False)
    params = variables["params"]
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params=params,
        batch_stats=variables.get("batch_stats", {}),
        opt_state=tx.init(params),
        # A copy: the step donates its state, and one buffer cannot be donated twice.
        ema=jax.tree.map(jnp.copy, params) if ema else None,
    )


def _forward(model: nn.Module, loss: Loss | ImageLoss, aux_weight: float, counts, key):
    """(params, stats, images, labels, part) -> (loss, (stats, (scores, predicted))).

    ``predicted``: as of :meth:`segjax.losses.Loss.of_scores`. ``part`` is the number of
    the accumulated part, so that each drops its own units.
    """

    def forward(params, batch_stats, images, labels, part):
        scores, updates = model.apply(
            {"params": params, "batch_stats": batch_stats},
            images,
            train=True,
            method="scores",
            mutable=["batch_stats", "auxiliary"],
            rngs={"dropout": jax.random.fold_in(key, part)},
        )
        with jax.named_scope("loss"):
            value, predicted = loss.of_scores(scores, labels, counts)
        auxiliary = updates.get("auxiliary", {})
        for found in jax.tree.leaves(auxiliary, is_leaf=lambda x: type(x) is Scores):
            if isinstance(found, Scores):
                extra = cast(Loss, loss).of_scores(found, labels, counts)[0]
            else:  # a classifier's logits
                extra = loss.value(found, labels, counts)
            value += aux_weight * extra
        return value, (updates.get("batch_stats", {}), (scores, predicted))

    return forward


def _gradients(forward, count, state: TrainState, images, labels, accumulate: int):
    """Loss, gradients, batch statistics and counts of the global batch.

    With ``accumulate`` > 1 the batch is cut into that many parts, one after the other.
    The parts' losses are sums over the count of the WHOLE batch, so that they add up
    to the loss of the whole, whatever was ignored in each.
    """
    grad = jax.value_and_grad(forward, has_aux=True)
    if accumulate == 1:
        (value, (stats, found)), grads = grad(
            state.params, state.batch_stats, images, labels, 0
        )
        with jax.named_scope("metrics"):
            counted = count(*found, labels)
        return value, grads, stats, counted

    def part(carry, batch):
        value, grads, stats, counted = carry
        number, images, labels = batch
        (v, (stats, found)), g = grad(state.params, stats, images, labels, number)
        grads = jax.tree.map(jnp.add, grads, g)
        counted = jax.tree.map(jnp.add, counted, count(*found, labels))
        return (value + v, grads, stats, counted), None

    # Part i takes every accumulate-th example: each device keeps its own rows.
    parts = jax.tree.map(
        lambda x: jnp.swapaxes(
            x.reshape(x.shape[0] // accumulate, accumulate, *x.shape[1:]), 0, 1
        ),
        (images, labels),
    )

    def outcome(images, labels):
        value, (_, found) = forward(state.params, state.batch_stats, images, labels, 0)
        return value, count(*found, labels)

    value, counted = jax.tree.map(
        lambda leaf: jnp.zeros(leaf.shape, leaf.dtype),
        jax.eval_shape(outcome, images, labels),
    )
    zeros = jax.tree.map(jnp.zeros_like, state.params)
    (value, grads, stats, counted), _ = jax.lax.scan(
        part,
        (value, zeros, state.batch_stats, counted),
        (jnp.arange(accumulate), *parts),
    )
    return value, grads, stats, counted


def count_confusion(scores, predicted, labels, num_classes: int, platform: str):
    """``confusion`` int32[K, K]: what a step of segmentation counts."""
    return {
        "confusion": confusion_of_scores(
            scores, labels, num_classes, platform, predicted
        )
    }


# Arrays of fewer elements are reduced together: a TPU would start a kernel for each of
# a hundred biases and statistics. (Larger ones may be sharded, and fill a kernel.)
SMALL = 2**14


def _together(tree) -> list[jax.Array]:
    """The leaves of a tree, the small ones as one vector."""
    leaves = jax.tree.leaves(tree)
    small = [leaf.ravel() for leaf in leaves if leaf.size < SMALL]
    large = [leaf for leaf in leaves if leaf.size >= SMALL]
    return [*large, jnp.concatenate(small)] if small else large


def _norm(grads) -> jax.Array:
    """float32[]: the global norm of the gradients."""
    return jnp.sqrt(sum(jnp.sum(jnp.square(leaf)) for leaf in _together(grads)))


def _is_finite(value, norm, stats) -> jax.Array:
    """bool[]: whether an update with these may be taken.

    ``norm`` is the gradient's: finite only if every element is (and, in float32, the
    sum of their squares). Statistics can overflow where both are finite: activations
    of 1e20 have an infinite variance, by which they are divided to 0.
    """
    sums = [jnp.sum(leaf) for leaf in _together(stats)]
    return jnp.all(jnp.isfinite(jnp.stack([value, norm, *sums])))


def _update(
    state: TrainState, tx, value, grads, stats, ema_decay: float | None, platform: str
) -> tuple[TrainState, jax.Array]:
    """The state after one step, or the old one with the step counted; gradient norm."""
    norm = _norm(grads)
    finite = _is_finite(value, norm, stats)

    def take():
        updates, opt_state = tx.update(grads, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        ema = state.ema
        if ema_decay is not None:
            ema = ema_update(ema, params, ema_decay, state.step)
        return params, stats, opt_state, ema

    def skip():
        # Flax's own batch norm starts float64 statistics as float32.
        old = jax.tree.map(
            lambda old, new: old.astype(new.dtype), state.batch_stats, stats
        )
        return state.params, old, state.opt_state, state.ema

    if table.update(platform) == "select":
        params, stats, opt_state, ema = jax.tree.map(
            partial(jax.lax.select, finite), take(), skip()
        )
    else:  # both branches write into the donated state; it is never held twice
        params, stats, opt_state, ema = jax.lax.cond(finite, take, skip)
    skipped = jnp.where(finite, 0, state.skipped + 1)
    after = TrainState(state.step + 1, params, stats, opt_state, ema, skipped)
    return after, norm


def train_function(
    model: nn.Module,
    tx: optax.GradientTransformation,
    loss: Loss | ImageLoss,
    augment: Augment,
    *,
    platform: str,
    num_classes: int,
    count: Callable[..., dict[str, jax.Array]] = count_confusion,
    accumulate: int = 1,
    aux_weight: float = 0.4,
    ema_decay: float | None = None,
    dtype=jnp.float32,
) -> Callable:
    """The training step itself: (state, batch, seed, place) -> (state, metrics).

    Not jitted, and without a mesh: ``place(images, labels)`` says where the augmented
    batch lies, ``gather(params)`` where the parameters do when they are used. ``seed``
    may be traced. The rest as of :func:`make_train_step`.
    """

    def step(state: TrainState, batch, seed, place, gather=lambda params: params):
        key = jax.random.fold_in(stream_key(seed, "augment"), state.step)
        with jax.named_scope("augment"):
            stored = batch["image"], batch["label"], batch["size"]
            images, labels = augment_batch(augment, key, *stored, platform=platform)
        images, labels = place(images.astype(dtype), labels)
        dropout_key = jax.random.fold_in(stream_key(seed, "dropout"), state.step)
        forward = _forward(model, loss, aux_weight, loss.counts(labels), dropout_key)
        value, grads, stats, counted = _gradients(
            lambda params, *rest: forward(gather(params), *rest),
            partial(count, num_classes=num_classes, platform=platform),
            state,
            images,
            labels,
            accumulate,
        )
        with jax.named_scope("optimizer"):
            new_state, norm = _update(
                state, tx, value, grads, stats, ema_decay, platform
            )
        metrics = {
            "loss": value,
            "gradient_norm": norm,
            "skipped": new_state.skipped,
            **counted,
        }
        return new_state, metrics

    return step


def make_train_step(
    model: nn.Module,
    tx: optax.GradientTransformation,
    loss: Loss | ImageLoss,
    augment: Augment,
    mesh: Mesh,
    state_shardings,
    *,
    seed: int,
    **options: Any,
) -> Callable:
    """The jitted function (state, batch) -> (state, metrics); the state is donated.

    ``batch`` is a training batch (:mod:`segjax.batch`) on the mesh. ``metrics`` has
    ``loss`` (mean over the valid pixels of the global batch), ``gradient_norm``
    (float32[]), what ``count`` counts of the augmented batch as the network saw it
    (``count_confusion``: ``confusion`` int32[K, K]) and ``skipped`` (int32[]). A
    classifier's labels are int[B], its ``loss`` an
    :class:`segjax.losses.image.ImageLoss`.

    Where the loss, the gradient or a new running statistic is not finite, the update is
    skipped: parameters, statistics, optimizer state and average stay as they were, and
    only ``step`` goes on, so that the next step sees the next batch. ``skipped`` is
    then how many updates have been skipped in a row; else 0.

    ``options`` are those of :func:`train_function`.
    """
    step = train_function(
        model, tx, loss, augment, platform=sharding.platform(mesh), **options
    )

    def train_step(state: TrainState, batch):
        place = partial(sharding.spread, mesh=mesh)
        return step(state, batch, seed, place, partial(sharding.gathered, mesh=mesh))

    return jax.jit(
        train_step,
        in_shardings=(state_shardings, sharding.batch_sharding(mesh)),
        out_shardings=(state_shardings, sharding.replicated(mesh)),
        donate_argnums=0,
    )


def compile_step(step: Any, *arguments: Any) -> Any:
    """A jitted function compiled for these arguments; its trace is let go.

    A jitted function keeps its trace and the text of its program as long as it lives,
    next to the compiled one. ``step`` can still be called; it would be traced again.

    Returns:
      A ``jax.stages.Compiled``.
    """
    compiled = step.lower(*arguments).compile()
    step.clear_cache()
    return compiled


@dataclass(frozen=True)
class EvalStep:
    """(variables, batch) -> what ``score`` gives, in two programs.

    ``network`` is compiled for the images' shape alone; only ``score``, which is small,
    is compiled anew for labels of another.
    """

    network: Callable
    score: Callable

    def __call__(self, variables, batch):
        """Run both."""
        rest = {key: array for key, array in batch.items() if key != "image"}
        scores = self.network(variables, batch["image"], batch["size"])
        return self.score(scores, rest)

    def lower(self, variables, batch):
        """Both as one program, for its account."""
        return jax.jit(self.__call__).lower(variables, batch)


def _eval_outputs(mesh: Mesh, calibrate: bool) -> dict[str, Any]:
    """Where an eval step's results lie: sums on every device, predictions by rows."""
    whole = sharding.replicated(mesh)
    where = {
        "confusion": whole,
        "loss": whole,
        "prediction": sharding.batch_sharding(mesh),
    }
    return where | ({"calibration": whole} if calibrate else {})


def make_eval_step(
    model: nn.Module,
    loss: Loss,
    mesh: Mesh,
    *,
    num_classes: int,
    mean: tuple[float, ...],
    std: tuple[float, ...],
    resize: bool,
    dtype=jnp.float32,
    calibrate: bool = False,
) -> Callable:
    """The jitted function (variables, batch) -> confusion, loss, prediction.

    ``batch`` is an evaluation batch: the network sees ``image``, its logits are taken
    to the labels' own resolution (``resize``; without it the two are the same), and
    only there compared. ``confusion`` is int32[K, K], ``loss`` float32[] the mean over
    the batch's valid pixels, ``prediction`` uint8 [B, Hl, Wl]. ``calibrate`` adds
    ``calibration``, :func:`segjax.metrics.calibration_rows` of the probabilities.
    """
    platform = sharding.platform(mesh)

    def network(variables, image, size):
        images = prepare_eval(image, size, mean, std)
        images = jax.lax.with_sharding_constraint(
            images.astype(dtype), sharding.image_sharding(mesh)
        )
        variables = sharding.gathered(variables, mesh)
        return model.apply(variables, images, train=False, method="scores")

    def score(scores: Any, batch):
        label = batch["label"].astype(jnp.int32)
        logits = None
        if resize:
            logits = resize_logits(
                finish(scores), batch["size"], batch["label_size"], label.shape[1:3]
            )
            prediction = jnp.argmax(logits, -1)
            value = loss.value(logits, label)
            matrix = confusion_matrix(prediction, label, num_classes, platform)
        else:
            value, prediction = loss.of_scores(scores, label)
            if prediction is None:
                prediction = predictions(scores)
            matrix = confusion_of_scores(
                scores, label, num_classes, platform, prediction
            )
        out: dict[str, Any] = {
            "confusion": matrix,
            "loss": value,
            "prediction": prediction.astype(jnp.uint8),
        }
        if calibrate:
            logits = finish(scores) if logits is None else logits
            out["calibration"] = calibration_rows(jax.nn.softmax(logits), label)
        return out

    where = _eval_outputs(mesh, calibrate)
    rows = sharding.batch_sharding(mesh)
    if resize:
        return EvalStep(
            jax.jit(network, in_shardings=(None, rows, rows)),
            jax.jit(score, in_shardings=(None, rows), out_shardings=where),
        )
    # Labels have the images' size: one program, whose scores need not be stored.
    return jax.jit(
        EvalStep(network, score).__call__,
        in_shardings=(None, rows),
        out_shardings=where,
    )

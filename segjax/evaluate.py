"""``segjax evaluate``: a whole split at the labels' own resolution."""

import json
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils

from segjax import cache, card, logs, setup, sharding, views
from segjax import config as configs
from segjax.batch import Batch, ClassSpec, Source
from segjax.classify import evaluate_images
from segjax.data import evaluation
from segjax.metrics import Confusion, Tally, calibration_rows
from segjax.tasks import Segmentation
from segjax.views import Size
from segjax.writing import write_text

LOGITS = 2**30
"""Bytes of a batch's logits on a device in evaluation (:func:`rows_that_fit`)."""


def _fetch(predictions: jax.Array) -> np.ndarray:
    """The predictions of the whole batch, on every process."""
    if predictions.is_fully_addressable:
        return jax.device_get(predictions)
    return np.asarray(multihost_utils.process_allgather(predictions, tiled=True))


def evaluate_split(
    parts: setup.Parts,
    eval_step: Callable,
    variables: Any,
    source: Source,
    *,
    sizes: Sequence[tuple[int, int]] | None = None,
    show: Sequence[int] = (),
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> tuple[dict[str, Any], dict[int, np.ndarray]]:
    """Every example of a split once.

    Args:
      variables: what ``model.apply`` takes, on the mesh.
      sizes: (height, width) of each example; None asks the source.
      show: indices of the examples whose predictions are wanted.
      progress: called with (examples done, examples in all).

    Returns:
      The summary (:func:`segjax.metrics.summarize` and ``loss``, the batches' losses
      weighted by their valid pixels), and example index -> uint8[h, w] prediction at
      the label's own size. Of a classifier: :func:`segjax.classify.evaluate_images`'.
    """
    if parts.config.task == "classification":
        return evaluate_images(
            parts, eval_step, variables, source, show=show, progress=progress
        )
    config = parts.config
    batch_size = config.eval.batch_size or config.data.batch_size
    sharding.check_batch_size("config.eval.batch_size", batch_size, parts.mesh)
    if sizes is None:
        sizes = [source.size(i) for i in range(len(source))]
    batches = _batches_of_wholes(parts, source, sizes, batch_size)
    matrix = Confusion(parts.spec.num_classes)
    loss, done, wanted, shown = 0.0, 0, set(show), {}

    def collect(group, out) -> None:
        nonlocal loss, done
        counts, mean = jax.device_get((out["confusion"], out["loss"]))
        matrix.add(counts)
        loss += float(mean) * int(counts.sum())
        if wanted.intersection(group.indices):
            rows = _fetch(out["prediction"])
            for row, index in zip(rows, group.indices, strict=False):
                if index in wanted:
                    height, width = sizes[index]
                    shown[index] = np.asarray(row[:height, :width])
        done += len(group.indices)
        progress(done, len(source))

    scored = (
        (group, eval_step(variables, sharding.to_devices(batch, parts.mesh)))
        for group, batch in batches
    )
    for group, out in sharding.one_behind(scored):
        collect(group, out)
    summary = matrix.summarize(parts.spec.names)
    summary["loss"] = loss / max(summary["pixels"], 1)
    return summary, shown


def draw(
    source: Source, predictions: Mapping[int, np.ndarray], folder: Path
) -> np.ndarray:
    """Pictures of :func:`evaluate_split`'s predictions, written into ``folder``.

    Returns the one of all, overview.png.
    """
    from segjax import classify, inference  # Pillow: only here

    folder.mkdir(exist_ok=True)
    if isinstance(source.spec, ClassSpec):
        return classify.draw(source, predictions, folder / "overview.png")
    return inference.draw_examples(folder, source, predictions, source.spec)


def rows_that_fit(
    batch_size: int, sizes: Iterable[Size], classes: int, devices: int
) -> int:
    """The rows of a batch, ``batch_size`` or fewer, whose logits a device can hold.

    ``sizes`` are the padded ones. Logits are float32 at the labels' size (12 megapixels
    of 20 classes are 0.9 GiB), and the step holds them some four times; LOGITS bounds
    those of a device, but for one row. ``devices`` divides the result as it divides
    ``batch_size``.
    """
    largest = max((height * width for height, width in sizes), default=1)
    return min(batch_size, max(LOGITS // (4 * classes * largest), 1) * devices)


def _batches_of_wholes(
    parts: setup.Parts, source: Source, sizes: Sequence[Size], batch_size: int
) -> Iterator[tuple[evaluation.EvalGroup, Batch]]:
    """The share of this process in the batches of images seen whole."""
    known = views.padded_to(parts.config, sizes)
    batch_size = rows_that_fit(
        batch_size,
        known,
        parts.spec.num_classes,
        sharding.batch_parts(parts.mesh),
    )
    schedule = evaluation.eval_schedule(
        sizes,
        batch_size=batch_size,
        bucket=parts.config.eval.bucket,
        buffer=parts.pre.image_size if parts.pre.fit == "resize" else None,
        fit=parts.pre.fit,
        known=known,
    )
    share = sharding.batch_share(parts.mesh)
    return evaluation.eval_batches(
        source,
        schedule,
        batch_size=batch_size,
        process_index=share.index,
        process_count=share.count,
        threads=parts.config.data.threads,
    )


class _Scored(NamedTuple):
    """A batch on its way to the host.

    ``rows`` are (row, example) pairs of this process's share, ``labels`` uint8
    [B, Hl, Wl] of all rows that it has, ``out`` the devices' ``prediction`` and
    ``calibration``.
    """

    rows: list[tuple[int, int]]
    labels: np.ndarray
    out: dict[str, Any]


def _whole(
    parts: setup.Parts, variables: Any, source: Source, sizes: Sequence[Size]
) -> Iterator[_Scored]:
    """Batches of images seen whole, once: exactly what training evaluates."""
    batch_size = views.recipe_of(parts.config).batch_size
    share = sharding.batch_share(parts.mesh)
    eval_step = Segmentation.eval_step(
        *(parts.model, parts.loss, parts.mesh, parts.spec, parts.pre, parts.dtype),
        calibrate=True,
    )
    for group, batch in _batches_of_wholes(parts, source, sizes, batch_size):
        out = eval_step(variables, sharding.to_devices(batch, parts.mesh))
        labels = batch["label"]
        mine = group.indices[share.index * len(labels) :][: len(labels)]
        yield _Scored(list(enumerate(mine)) if share.leads else [], labels, out)


def _viewed(
    parts: setup.Parts, variables: Any, source: Source, sizes: Sequence[Size]
) -> Iterator[_Scored]:
    """Batches of images seen as ``config.eval`` says: windows, scales, flips.

    Every process reads all images, and takes its share of what the devices give.
    """
    seen = views.views_of(parts)
    recipe = seen.recipe
    known = views.padded_to(parts.config, sizes)
    batch_size = 1
    if recipe.mode == "whole":
        larger = max(1.0, *recipe.scales)
        batch_size = rows_that_fit(
            recipe.batch_size,
            [(round(larger * h), round(larger * w)) for h, w in known],
            parts.spec.num_classes,
            sharding.batch_parts(parts.mesh),
        )
    schedule = evaluation.eval_schedule(
        sizes,
        batch_size=batch_size,
        bucket=recipe.bucket,
        buffer=None,
        fit="pad",
        known=known,
    )

    def count(probabilities, label):
        return {
            "prediction": jnp.argmax(probabilities, -1).astype(jnp.uint8),
            "calibration": calibration_rows(probabilities, label),
        }

    counted = jax.jit(count, out_shardings=sharding.replicated(parts.mesh))
    for group, batch in evaluation.eval_batches(
        source, schedule, batch_size=batch_size, threads=parts.config.data.threads
    ):
        pairs = zip(batch["image"], batch["size"].tolist(), strict=True)
        images = [image[:h, :w] for image, (h, w) in pairs]
        found = seen.on_devices(variables, images, group.label_shape)
        rows = list(enumerate(group.indices))[
            jax.process_index() :: jax.process_count()
        ]
        yield _Scored(rows, batch["label"], counted(found, batch["label"]))


def _own_rows(array: jax.Array) -> np.ndarray:
    """The rows of an array over devices that are this process's, or all of them."""
    if array.is_fully_addressable or array.is_fully_replicated:
        return jax.device_get(array)
    shards = {
        shard.index[0].start or 0: shard.data for shard in array.addressable_shards
    }
    return np.concatenate([np.asarray(shards[start]) for start in sorted(shards)])


def _summed(tally: Tally) -> None:
    """Add up the sums of all processes, in place."""
    if jax.process_count() == 1:
        return
    for key, value in tally.sums.items():
        # As bytes: JAX would make 32 bits of 64.
        own = np.frombuffer(value.tobytes(), np.uint8)
        every = np.asarray(multihost_utils.process_allgather(own))
        arrays = [np.frombuffer(row.tobytes(), value.dtype) for row in every]
        tally.sums[key] = np.sum(arrays, axis=0).reshape(value.shape)


def score_split(
    parts: setup.Parts,
    variables: Any,
    source: Source,
    *,
    sizes: Sequence[Size],
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Tally:
    """Count every metric of a split, each example once, as ``config.eval`` says.

    ``variables`` are what ``model.apply`` takes, on the mesh; ``sizes`` the (height,
    width) of each example; ``progress`` is called with (examples done, in all).
    """
    tally, done = Tally(parts.spec.num_classes, len(source)), 0

    def collect(scored: _Scored) -> None:
        nonlocal done
        predictions = _own_rows(scored.out["prediction"])
        for row, index in scored.rows:
            height, width = sizes[index]
            truth = scored.labels[row, :height, :width]
            tally.add_image(index, truth, predictions[row, :height, :width])
        if jax.process_index() == 0:  # all have the same
            tally.add_calibration(jax.device_get(scored.out["calibration"]))
        done += len(scored.rows)
        progress(done, len(source))

    recipe = views.recipe_of(parts.config)
    sharding.check_batch_size("config.eval.batch_size", recipe.batch_size, parts.mesh)
    batches = (_whole if recipe.plain else _viewed)(parts, variables, source, sizes)
    for scored in sharding.one_behind(batches):
        collect(scored)
    _summed(tally)
    return tally


def _open(parts: setup.Parts, split: str) -> Source:
    """The split's examples, whose classes must be the run's."""
    source = setup.open_split(parts.config, split, parts.pre.channels)
    if source.spec != parts.spec:
        theirs, ours = (", ".join(s.spec.names[:20]) for s in (source, parts))
        raise ValueError(
            f"the classes of the data ({theirs}) are not those of the run ({ours})"
        )
    return source


# Of config.model, what does nothing to a trained network.
OF_TRAINING = ("pretrained", "inflate", "remat", "drop_path")


def _changed(workdir: Path, parts: setup.Parts) -> dict[str, Any]:
    """The knobs of the network that overrides changed since training."""
    trained = configs.from_json((workdir / "config.json").read_text())
    found = configs.differences(trained, parts.config)
    of_training = [f"model.{key}" for key in OF_TRAINING]
    return {
        key: now
        for key, (_, now) in found.items()
        if key.startswith("model.") and key not in of_training
    }


def _scores(
    parts: setup.Parts, variables: Any, source: Source, sizes: Sequence[Size], progress
) -> dict[str, Any]:
    """Every metric of the task."""
    if parts.config.task == "classification":
        step = parts.eval_step()
        return evaluate_split(parts, step, variables, source, progress=progress)[0]
    tally = score_split(parts, variables, source, sizes=sizes, progress=progress)
    return tally.summarize(parts.spec.names, source.ids())


def evaluate(
    workdir: Path,
    overrides: Sequence[str],
    *,
    split: str | None = None,
    checkpoint: str = "best",
    protocol: str | None = None,
) -> dict[str, Any]:
    """Evaluate a run's checkpoint; writes ``eval_<split>.json`` into the workdir.

    Returns what it holds: every metric (:meth:`segjax.metrics.Tally.summarize`, or
    :meth:`segjax.top.Outcomes.summarize` of a classifier), and ``protocol``
    (:mod:`segjax.card`), how they were measured.

    Raises:
      ValueError: no such split or checkpoint, or other classes; ``protocol`` names one
        of which a part differs.
    """
    from rich.console import Console
    from rich.progress import Progress

    started = time.perf_counter()
    cache.keep_compiled()
    parts = setup.load_parts(workdir, list(overrides))
    split = str(split or parts.config.data.eval_split)
    source = _open(parts, split)
    of_pixels = parts.config.task == "segmentation"
    sizes = [source.size(i) for i in range(len(source))] if of_pixels else []
    environment = logs.environment()
    measured = card.protocol(
        config=parts.config,
        split=split,
        source=source,
        spec=parts.spec,
        preprocessing=parts.pre.to_dict(),
        sizes=sizes,
        origin=card.read_origin(workdir),
        checkpoint=checkpoint,
        recipe=views.recipe_of(parts.config) if of_pixels else None,
        environment=environment,
        changed=_changed(workdir, parts),
    )
    if protocol is not None:
        card.check_protocol(protocol, measured)
    variables, step = setup.restore_variables(parts, workdir, checkpoint)
    console = Console(soft_wrap=True)
    for line in views.without_effect(parts.config) + views.advice(parts.config, sizes):
        console.print(line, highlight=False, markup=False)
    with Progress(console=console, transient=True) as bar:
        task = bar.add_task(f"evaluating {split}", total=len(source))
        summary = _scores(
            *(parts, variables, source, sizes),
            progress=lambda done, _: bar.update(task, completed=done),
        )
    summary |= {"split": split, "step": step, "examples": len(source)}
    summary |= {"protocol": {"name": protocol, **measured}}
    summary |= {"seconds": round(time.perf_counter() - started, 1)}
    summary = logs.plain(summary | {"environment": environment})
    path = workdir / f"eval_{split}.json"
    if jax.process_index() == 0:
        write_text(path, json.dumps(summary, indent=2, allow_nan=False) + "\n")
        logs.class_table(summary, console)
        if of_pixels:
            logs.summary_table(summary, console)
        name = f"{protocol} ({measured['id']})" if protocol else measured["id"]
        text = f"{split}, step {step}, protocol {name}: {path}"
        console.print(text, highlight=False, markup=False)
    return summary

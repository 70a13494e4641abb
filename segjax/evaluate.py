"""``segjax evaluate``: a whole split at the labels' own resolution."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from segjax import cache, logs, setup, sharding
from segjax.batch import Source
from segjax.classify import evaluate_images
from segjax.data import evaluation
from segjax.metrics import Confusion


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
    schedule = evaluation.eval_schedule(
        sizes,
        batch_size=batch_size,
        bucket=config.eval.bucket,
        buffer=parts.pre.image_size if parts.pre.fit == "resize" else None,
        fit=parts.pre.fit,
    )
    batches = evaluation.eval_batches(
        source,
        schedule,
        batch_size=batch_size,
        process_index=jax.process_index(),
        process_count=jax.process_count(),
        threads=config.data.threads,
    )
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

    waiting = None
    for group, batch in batches:
        out = eval_step(variables, sharding.to_devices(batch, parts.mesh))
        # One batch behind, so that the device works while the host counts.
        if waiting is not None:
            collect(*waiting)
        waiting = group, out
    if waiting is not None:
        collect(*waiting)
    summary = matrix.summarize(parts.spec.names)
    summary["loss"] = loss / max(summary["pixels"], 1)
    return summary, shown


def evaluate(
    workdir: Path,
    overrides: Sequence[str],
    *,
    split: str | None = None,
    checkpoint: str = "best",
) -> dict[str, Any]:
    """Evaluate a run's checkpoint; writes ``eval_<split>.json`` into the workdir."""
    from rich.console import Console
    from rich.progress import Progress

    cache.keep_compiled()
    parts = setup.load_parts(workdir, list(overrides))
    split = str(split or parts.config.data.eval_split)
    source = setup.open_split(parts.config, split)
    if source.spec != parts.spec:
        theirs, ours = (", ".join(s.spec.names[:20]) for s in (source, parts))
        raise ValueError(
            f"the classes of the data ({theirs}) are not those of the run ({ours})"
        )
    variables, step = setup.restore_variables(parts, workdir, checkpoint)
    console = Console(soft_wrap=True)
    with Progress(console=console, transient=True) as bar:
        task = bar.add_task(f"evaluating {split}", total=len(source))
        summary, _ = evaluate_split(
            parts,
            parts.eval_step(),
            variables,
            source,
            progress=lambda done, _: bar.update(task, completed=done),
        )
    summary |= {"split": split, "step": step, "examples": len(source)}
    summary |= {"environment": logs.environment()}
    path = workdir / f"eval_{split}.json"
    if jax.process_index() == 0:
        path.write_text(json.dumps(logs.plain(summary), indent=2) + "\n")
        logs.class_table(summary, console)
        console.print(f"{split}, step {step}: {path}")
    return summary

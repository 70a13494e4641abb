"""``model.pretrained``: a run begins with the weights of another one, or of a file."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from segjax import checkpoint, weights
from segjax import config as configs
from segjax.setup import Parts, abstract_variables
from segjax.step import TrainState
from segjax.tasks import TASKS, Task

# What a warm start may go without: the head, which knows the classes (GoogLeNet's
# auxiliary heads stand in its encoder); of another task's run all but the encoder.
HEADS = ("params/head/*", "params/encoder/aux[12]/*", "batch_stats/encoder/aux[12]/*")
NOT_ENCODER = (*HEADS, "*/decoder/*", "*/auxiliary/*")


def warm_start(parts: Parts, state: TrainState) -> tuple[TrainState, list[str]]:
    """The state with the parameters of ``model.pretrained``.

    What that has not keeps its value in ``state``, which the run's seed gave it; the
    names of these modules, such as "decoder", come second.

    That is another run's workdir (everything that has the same shape but the head is
    taken; of a run of another task the encoder), a file of PyTorch weights, of the
    whole network or of its encoder, or a package of them
    ("package:efficientnet-lite0").
    """
    name, inflate = parts.config.model.pretrained, parts.config.model.inflate
    path = Path(name)
    variables = abstract_variables(parts)
    if path.is_dir():
        if inflate is not None:
            raise ValueError(
                f"config.model.inflate={inflate!r} is for weights files, but "
                f"config.model.pretrained={path} is a folder; leave inflate out, or "
                "write the weights to a file with segjax export"
            )
        theirs = task_of_run(path)
        loaded = checkpoint.restore_params(
            path,
            variables,
            ema=True,
            metric=theirs.metric,
            allow_missing=HEADS if theirs is parts.task else NOT_ENCODER,
        )
    else:
        loaded = weights.load_torch(
            parts.model,
            weights.read_package(name) if name.startswith(weights.PREFIX) else path,
            image_shape=(*parts.pre.image_size, parts.pre.channels),
            allow_missing=("decoder/*", "head/*", "auxiliary/*"),
            inflate=inflate,
            initialize=False,
        )
    params = _merge(state.params, loaded["params"])
    stats = _merge(state.batch_stats, loaded.get("batch_stats", {}))
    ema = None if state.ema is None else jax.tree.map(jnp.copy, params)
    state = dataclasses.replace(state, params=params, batch_stats=stats, ema=ema)
    return state, _lacking(variables["params"], loaded["params"])


def task_of_run(path: Path) -> Task:
    """The task of the run whose workdir, checkpoints or checkpoint ``path`` is."""
    stored = checkpoint.file_of_run(path, "config.json")
    if stored is None:
        return TASKS["segmentation"]
    return TASKS[configs.from_json(stored.read_text()).task]


def _lacking(wanted: Any, loaded: Mapping[str, Any], prefix: str = "") -> list[str]:
    """The highest modules of ``wanted`` of which ``loaded`` has nothing."""
    names = []
    for key, value in wanted.items():
        if key not in loaded:
            names.append(f"{prefix}{key}")
        elif isinstance(value, Mapping):
            names += _lacking(value, loaded[key], f"{prefix}{key}/")
    return names


def _merge(fresh: Any, loaded: Any) -> Any:
    """``fresh`` with the leaves that ``loaded`` has, where and as ``fresh`` is."""
    if isinstance(fresh, Mapping):
        return {k: _merge(v, loaded[k]) if k in loaded else v for k, v in fresh.items()}
    return jax.device_put(jnp.asarray(loaded, fresh.dtype), fresh.sharding)

"""Numbers that are not finite: said with the examples behind them, never saved."""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

SHOWN = 8  # example ids in a message; the log has all


def is_finite(tree: Any) -> jax.Array:
    """bool[]: whether every number of a tree of arrays is finite; run under jit."""
    leaves = [leaf for leaf in jax.tree.leaves(tree) if _is_float(leaf)]
    return jnp.all(jnp.stack([jnp.all(jnp.isfinite(leaf)) for leaf in leaves]))


def _is_float(leaf: Any) -> bool:
    return jnp.issubdtype(leaf.dtype, jnp.floating)


def reason(metrics: Mapping[str, Any]) -> str:
    """Why a step's update was skipped, from its fetched metrics."""
    found = {"loss": metrics["loss"], "gradient norm": metrics["gradient_norm"]}
    said = [f"{name} {float(v)}" for name, v in found.items() if not np.isfinite(v)]
    return ", ".join(said) or "running statistics overflow"


def check_in_a_row(step: int, in_row: int, most: int, ids: Sequence[str]) -> None:
    """Refuse to go on after too many skipped updates.

    Raises:
      ValueError: ``in_row`` has reached ``most``; ids are the last batch's.
    """
    if in_row < most:
        return
    shown = ", ".join(ids[:SHOWN]) + (", ..." if len(ids) > SHOWN else "")
    raise ValueError(
        f"{in_row} updates in a row were skipped up to step {step}, because loss or "
        f"gradient were not finite (config.guard.max_skipped={most}); the checkpoints "
        "are from before: lower config.optim.lr, set config.optim.clip_norm, or look "
        f"at the data (metrics.jsonl names the examples; the last: {shown})"
    )


def check_saved(step: int, finite: bool) -> None:
    """Refuse to save parameters that are not finite.

    Raises:
      ValueError: they are not.
    """
    if not finite:
        raise ValueError(
            f"the parameters at step {step} are not finite and are not saved; the "
            "checkpoints are from before: lower config.optim.lr or set "
            "config.optim.clip_norm"
        )

"""Checkpoints: written in the background, whole or not at all, and read with care.

Orbax does the work: one folder per step, written under a temporary name and renamed
when complete, so that a process killed at any moment leaves the earlier checkpoints
as they were. What this file adds is what a run needs when something went wrong
later: a newest checkpoint that cannot be read is passed over with one line that
names it, and the one before is taken.
"""

import json
import logging
import math
from collections.abc import Callable, Mapping, Sequence
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp
from absl import logging as absl_logging
from etils import epath
from orbax.checkpoint import checkpoint_managers as policies

_ITEM = "default"  # the folder that orbax gives to the only item of a step


class _Quiet(logging.Filter):
    """Drops what orbax says about its ordinary work; its warnings pass."""

    def filter(self, record: logging.LogRecord) -> bool:
        return record.levelno >= logging.WARNING or "orbax" not in record.pathname


_QUIET = _Quiet()


class Checkpoints:
    """The checkpoints of one run: the last few, and the best by one metric.

    Args:
      directory: the folder; made when missing. A path of object storage will do.
      keep_last: how many of the newest stay, 1 or more. With 2 or more there is one
        to fall back on when the newest turns out to be damaged.
      keep_best: how many of the best by ``metric`` stay besides, 0 or more.
      metric: the key of ``metrics`` that says which is best; larger is better.
      every: ``save`` does nothing at steps that are no multiple of it.
      warn: receives one-line warnings; by default they go to absl's log.

    Every process of a run makes its own Checkpoints and calls ``save`` and
    ``restore`` at the same steps; process 0 renames and deletes.
    """

    def __init__(
        self,
        directory: str | Path,
        *,
        keep_last: int,
        keep_best: int = 1,
        metric: str = "miou",
        every: int = 1,
        warn: Callable[[str], None] | None = None,
    ):
        for name, value, least in (
            ("checkpoint.keep", keep_last, 1),
            ("keep_best", keep_best, 0),
            ("checkpoint.every", every, 1),
        ):
            if value < least:
                raise ValueError(f"{name} = {value}: write {least} or more")
        absl_logging.get_absl_logger().addFilter(_QUIET)
        self.directory = epath.Path(directory).absolute()
        self._metric, self._every = metric, every
        self._warn = warn or absl_logging.warning

        def score(metrics: Mapping[str, Any] | None) -> float:
            return (metrics or {}).get(metric, -math.inf)

        kept: list[policies.PreservationPolicy] = [policies.LatestN(keep_last)]
        if keep_best:
            kept.append(
                policies.BestN(
                    get_metric_fn=score,
                    n=keep_best,
                    keep_checkpoints_without_metrics=False,
                )
            )
        self._manager = ocp.CheckpointManager(
            self.directory,
            options=ocp.CheckpointManagerOptions(
                preservation_policy=policies.AnyPreservationPolicy(kept),
                # Without best_fn orbax would not write the metrics down, and which
                # checkpoint is best would be forgotten with the process.
                best_fn=score,
                cleanup_tmp_directories=True,
                enable_async_checkpointing=True,
            ),
        )

    def save(
        self,
        step: int,
        state: Any,
        metrics: Mapping[str, float] | None = None,
        force: bool = False,
    ) -> bool:
        """Start to save ``state``; return whether a save was started.

        The state's arrays are copied before this returns, so that the next step may
        donate them; writing goes on in the background, and a failed write is raised
        by the next ``save``, ``wait`` or ``close``. A step that is there already is
        left alone. ``force`` saves at steps that are no multiple of ``every``.
        """
        if step in self._manager.all_steps() or (step % self._every and not force):
            return False
        finite = {
            key: float(value)
            for key, value in (metrics or {}).items()
            if isinstance(value, int | float) and math.isfinite(value)
        }
        return self._manager.save(
            step, args=ocp.args.PyTreeSave(state), metrics=finite, force=True
        )

    def steps(self) -> list[int]:
        """The steps that have a checkpoint, the newest last."""
        return sorted(self._manager.all_steps())

    def latest(self) -> int | None:
        """The newest step that has a checkpoint."""
        return max(self._manager.all_steps(), default=None)

    def best(self) -> int | None:
        """The step with the largest metric (the later of equals), if any has one."""
        self.wait()
        return _best(self.directory, self.steps(), self._metric)

    def restore(self, step: int | None, abstract_state: Any) -> tuple[Any, int]:
        """Read a state onto the devices that ``abstract_state`` asks for.

        Args:
          step: a step, or None for the newest that can be read.
          abstract_state: a pytree of ``jax.ShapeDtypeStruct`` with shardings, of the
            structure that was saved; the number of devices may have changed.

        Returns:
          The state, and its step.

        Raises:
          ValueError: there is no checkpoint, the step asked for cannot be read, or
            none of them can.
        """
        self.wait()
        steps = self.steps()
        if not steps or (step is not None and step not in steps):
            wanted = "" if step is None else f" of step {step}"
            raise ValueError(
                f"{self.directory} has no checkpoint{wanted}; "
                f"it has {', '.join(map(str, steps)) or 'none at all'}"
            )
        failed: dict[int, str] = {}
        for candidate in reversed(steps) if step is None else [step]:
            try:
                state = self._read(candidate, abstract_state)
            except Exception as error:
                failed[candidate] = _one_line(error)
                continue
            for broken, reason in failed.items():
                self._warn(
                    f"checkpoint {broken} of {self.directory} cannot be read "
                    f"({reason}); going on from step {candidate}"
                )
            self._set_aside(failed)
            return state, candidate
        reasons = "; ".join(f"step {s}: {reason}" for s, reason in failed.items())
        raise ValueError(
            f"no checkpoint of {self.directory} can be read ({reasons}); "
            "start again in a new --workdir, or restore the folder from a copy"
        )

    def wait(self) -> None:
        """Return when everything saved is on disk."""
        self._manager.wait_until_finished()

    def close(self) -> None:
        """Finish writing and release the threads."""
        self._manager.close()

    def _read(self, step: int, abstract_state: Any) -> Any:
        args = ocp.args.PyTreeRestore(
            abstract_state,
            restore_args=ocp.checkpoint_utils.construct_restore_args(abstract_state),
        )
        return self._manager.restore(step, args=args)

    def _set_aside(self, steps: Sequence[int] | Mapping[int, str]) -> None:
        """Rename damaged checkpoints: their steps will be reached and saved again."""
        if not steps:
            return
        if jax.process_index() == 0:
            for step in steps:
                target = self.directory / f"damaged-{step}"
                if target.exists():
                    target.rmtree()
                (self.directory / str(step)).rename(target)
        if jax.process_count() > 1:
            from jax.experimental import multihost_utils

            multihost_utils.sync_global_devices("segjax: damaged checkpoints")
        self._manager.reload()


def _one_line(error: BaseException) -> str:
    """What went wrong, short enough for one line of a terminal."""
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= 200 else text[:197] + "..."


def _steps_in(directory: epath.Path) -> list[int]:
    """The complete checkpoints of a folder, the newest last."""
    return sorted(int(p.name) for p in directory.iterdir() if p.name.isdecimal())


def _best(directory: epath.Path, steps: Sequence[int], metric: str) -> int | None:
    scores = {}
    for step in steps:
        try:
            values = json.loads((directory / str(step) / "metrics/metrics").read_text())
        except (OSError, ValueError):
            continue
        if metric in values:
            scores[step] = values[metric]
    return max(scores, key=lambda step: (scores[step], step), default=None)


def find_step(path: str | Path, step: int | str = "best", metric: str = "miou"):
    """The folder of one checkpoint, from a workdir, its checkpoints/ or the folder.

    ``step`` is a number, "latest", or "best" (the newest where none has a metric).

    Raises:
      ValueError: there is no such checkpoint.
    """
    root = epath.Path(path).absolute()
    if (root / _ITEM).exists():
        return root
    directory = root / "checkpoints" if (root / "checkpoints").exists() else root
    steps = _steps_in(directory) if directory.exists() else []
    if not steps:
        raise ValueError(
            f"{path} holds no checkpoint; name a workdir, its checkpoints folder or "
            "the folder of one step"
        )
    found = max(steps)
    if step == "best":
        best = _best(directory, steps, metric)
        found = found if best is None else best
    elif step != "latest":
        found = int(step)
    if found not in steps:
        raise ValueError(
            f"{directory} has no checkpoint of step {found}; it has "
            f"{', '.join(map(str, steps))}"
        )
    return directory / str(found)


def restore_params(
    path: str | Path,
    abstract: Mapping[str, Any],
    *,
    step: int | str = "best",
    ema: bool = False,
    metric: str = "miou",
    allow_missing: Sequence[str] = (),
) -> dict[str, Any]:
    """Read parameters and batch statistics from a checkpoint of any run.

    Args:
      path: a workdir, its ``checkpoints`` folder, or the folder of one step.
      abstract: ``{"params": ..., "batch_stats": ...}`` of ``jax.ShapeDtypeStruct``
        with shardings; leave out what is not wanted.
      step: "best" by ``metric`` (the newest where none has it), "latest" or a number.
      ema: take the averaged parameters for ``params``, where the run kept any.
      metric: what "best" means; larger is better.
      allow_missing: patterns (fnmatch on "params/decoder/head/kernel"); leaves that
        match may be missing or of another shape, and are then left out.

    Returns:
      Nested dicts of arrays, structured as ``abstract``.

    Raises:
      ValueError: no such checkpoint, unreadable, or leaves that are missing or of
        another shape (all are listed).
    """
    absl_logging.get_absl_logger().addFilter(_QUIET)
    folder = find_step(path, step, metric)
    with ocp.PyTreeCheckpointer() as reader:
        try:
            stored = reader.metadata(folder / _ITEM).item_metadata.tree
        except Exception as error:
            raise ValueError(f"{folder} cannot be read: {_one_line(error)}") from error
        wanted = {key: abstract[key] for key in abstract}
        source = {key: key for key in wanted}
        if ema and "params" in wanted and stored.get("ema"):
            source["params"] = "ema"
        chosen = _select(wanted, stored, source, folder, allow_missing)
        item = {source[key]: value for key, value in chosen.items()}
        try:
            restored = reader.restore(
                folder / _ITEM,
                args=ocp.args.PyTreeRestore(
                    item,
                    restore_args=ocp.checkpoint_utils.construct_restore_args(item),
                    partial_restore=True,
                ),
            )
        except Exception as error:
            raise ValueError(f"{folder} cannot be read: {_one_line(error)}") from error
    return {key: restored[source[key]] for key in chosen}


def _select(wanted, stored, source, folder, allow_missing) -> dict[str, Any]:
    """The part of ``wanted`` that the checkpoint holds; complain about the rest."""
    wrong: list[str] = []

    def walk(want: Any, have: Any, path: str) -> Any:
        if isinstance(want, Mapping):
            have = have if isinstance(have, Mapping) else {}
            pairs = {k: walk(v, have.get(k), f"{path}/{k}") for k, v in want.items()}
            return {k: v for k, v in pairs.items() if v is not None}
        shape = getattr(have, "shape", None)
        if shape is not None and tuple(shape) == tuple(want.shape):
            return want
        if not any(fnmatch(path, pattern) for pattern in allow_missing):
            has = "is missing" if shape is None else f"is {tuple(shape)} there"
            wrong.append(f"{path} {tuple(want.shape)} {has}")
        return None

    chosen = {key: walk(wanted[key], stored.get(source[key]), key) for key in wanted}
    if wrong:
        raise ValueError(
            f"{folder} does not fit the model: {'; '.join(wrong)}; name what may "
            "differ in allow_missing"
        )
    return chosen

"""Checkpoints: the folder of a run's checkpoints, written and read."""

import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from absl import logging as absl_logging
from etils import epath
from orbax.checkpoint import checkpoint_managers as policies

from segjax.checkpoint.digest import DIGEST, files_in, size_and_checksum
from segjax.checkpoint.folder import (
    ITEM,
    METRICS,
    NOTES,
    best_step,
    read_metrics,
    steps_in,
)
from segjax.checkpoint.reading import (
    barrier,
    one_line,
    quiet_late_writes,
    quiet_orbax,
    read_state,
)

_TEMPORARY = ".orbax-checkpoint-tmp"


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
        quiet_orbax()
        self.directory = epath.Path(directory).absolute()
        self._metric, self._every = metric, every
        self._warn = warn or absl_logging.warning
        self._saving: int | None = None
        self._notes: str | None = None
        self._forget_damaged_metrics()

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
                async_options=ocp.AsyncOptions(
                    # Runs in process 0 when all files of a step are written, just
                    # before its folder gets its final name.
                    post_finalization_callback=self._write_digest
                ),
            ),
        )

    def save(
        self,
        step: int,
        state: Any,
        metrics: Mapping[str, float] | None = None,
        force: bool = False,
        notes: Mapping[str, Any] | None = None,
    ) -> bool:
        """Start to save ``state``; return whether a save was started.

        The arrays may be donated to the next step as soon as this returns; writing
        goes on in the background. A step that is there already is left alone.

        Args:
          step: the number of steps made; the folder's name.
          state: a pytree of arrays, sharded or not.
          metrics: anything; the finite scalars are kept.
          force: save also at a step that is no multiple of ``every``.
          notes: plain data to keep with it (:meth:`notes`); of process 0.

        Raises:
          OSError: this or the save before could not be written; the checkpoints
            before that are still there.
        """
        self.wait()
        if step in self._manager.all_steps() or (step % self._every and not force):
            return False
        self._saving = step
        # As they are now: they are written when the run has gone on.
        self._notes = json.dumps(notes) if notes else None
        args, metrics = ocp.args.PyTreeSave(state), _finite(metrics or {})
        try:
            return self._manager.save(step, args=args, metrics=metrics, force=True)
        except Exception as error:
            raise self._failed(error) from error

    def metrics(self, step: int) -> dict[str, Any]:
        """The metrics that were saved with a checkpoint; {} where there are none."""
        path = self.directory / str(step) / METRICS
        return read_metrics(path) or {}

    def add_metrics(self, step: int, metrics: Mapping[str, float]) -> None:
        """Give a checkpoint that was saved without metrics its own."""
        self.wait()
        if jax.process_index() == 0:
            path = self.directory / str(step) / METRICS
            path.parent.mkdir(exist_ok=True)
            path.write_text(json.dumps(_finite(metrics)))
        barrier("segjax: metrics added")
        self._manager.reload()

    def steps(self) -> list[int]:
        """The steps that have a checkpoint (or soon will), the newest last."""
        return sorted(self._manager.all_steps())

    def latest(self) -> int | None:
        """The newest of :meth:`steps`."""
        return max(self._manager.all_steps(), default=None)

    def best(self) -> int | None:
        """The step with the largest metric (the later of equals), if any has one."""
        self.wait()
        return best_step(self.directory, self.steps(), self._metric)

    def notes(self, step: int) -> dict[str, Any]:
        """What was noted with a checkpoint that could be restored; else {}."""
        path = self.directory / str(step) / NOTES
        return json.loads(path.read_text()) if path.exists() else {}

    def restore(self, step: int | None, abstract_state: Any) -> tuple[Any, int]:
        """Read a state onto the devices that ``abstract_state`` asks for.

        With ``step`` None the newest undamaged checkpoint is read. Damaged ones that
        are newer get the name ``damaged-<step>``, since the run will come to their
        steps again, and one line of warning each.

        Args:
          step: a step, or None for the newest.
          abstract_state: a pytree of ``jax.ShapeDtypeStruct`` with shardings, of the
            structure that was saved; the number of devices may have changed. A leaf
            without a sharding becomes a NumPy array.

        Returns:
          The state, and its step.

        Raises:
          ValueError: there is no checkpoint, it is of another model, the step asked
            for is damaged, or all are.
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
            state, reason = read_state(self.directory / str(candidate), abstract_state)
            if reason is None:
                self._set_aside(failed, candidate)
                return state, candidate
            failed[candidate] = reason
        reasons = "; ".join(f"step {s}: {reason}" for s, reason in failed.items())
        raise ValueError(
            f"{self.directory}: no checkpoint can be read ({reasons}); begin again in "
            "another --workdir, or bring the folder back from a copy"
        )

    def wait(self) -> None:
        """Return when everything saved is on disk.

        Raises:
          OSError: it could not be written.
        """
        try:
            self._manager.wait_until_finished()
        except Exception as error:
            raise self._failed(error) from error

    def close(self) -> None:
        """Finish writing and release the threads; errors as :meth:`wait`."""
        try:
            self._manager.close()
        except Exception as error:
            raise self._failed(error) from error

    def _failed(self, error: Exception) -> OSError:
        """The one line for a save that failed; makes the manager look again."""
        quiet_late_writes()
        self._manager.reload()
        left = ", ".join(map(str, self.steps())) or "none"
        return OSError(
            f"{self.directory}: checkpoint {self._saving} could not be written "
            f"({one_line(error)}); make room or name another --workdir, the "
            f"checkpoints before it are untouched ({left})"
        )

    def _forget_damaged_metrics(self) -> None:
        """Remove metrics that are cut short: orbax's manager would not even open."""
        for step in steps_in(self.directory):
            path = self.directory / str(step) / METRICS
            if (
                path.exists()
                and read_metrics(path) is None
                and jax.process_index() == 0
            ):
                path.unlink()
                self._warn(
                    f"checkpoint {step} of {self.directory}: its metrics cannot be "
                    "read; it does not count for the best any more"
                )
        barrier("segjax: metrics looked at")

    def _write_digest(self) -> None:
        """Put sizes and checksums of the step being saved into its folder."""
        for folder in self.directory.iterdir():
            name, temporary, _ = folder.name.partition(_TEMPORARY)
            if name == str(self._saving) and (temporary or (folder / ITEM).exists()):
                names = list(files_in(folder, ITEM))
                if self._notes is not None:
                    (folder / NOTES).write_text(self._notes)
                    names.append(NOTES)
                digest = {name: size_and_checksum(folder / name) for name in names}
                (folder / DIGEST).write_text(json.dumps(digest, indent=0))

    def _set_aside(self, damaged: Mapping[int, str], step: int) -> None:
        """Warn, and rename damaged checkpoints: their steps will be saved again."""
        for broken, reason in damaged.items():
            name = f"damaged-{broken}"
            self._warn(
                f"checkpoint {broken} of {self.directory} is damaged ({reason}); "
                f"going on from step {step}, it is kept as {name}"
            )
            if jax.process_index() == 0:
                target = self.directory / name
                if target.exists():
                    target.rmtree()
                (self.directory / str(broken)).rename(target)
        if damaged:
            barrier("segjax: damaged checkpoints set aside")
            self._manager.reload()


def _finite(metrics: Mapping[str, Any]) -> dict[str, float]:
    """The finite scalars among the metrics."""
    found = {}
    for key, value in metrics.items():
        if np.ndim(value) == 0 and isinstance(value, int | float | np.number):
            if math.isfinite(value):
                found[key] = float(value)
    return found

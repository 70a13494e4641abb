"""Checkpoints: written in the background, whole or not at all, and read with care.

Orbax does the work: one folder per step, written under a temporary name and renamed
when complete, so that a process killed at any moment leaves the earlier checkpoints
as they were. What this file adds is what a run needs when something goes wrong
later. Each folder gets the sizes and checksums of its files before it is renamed
(orbax alone restores a flipped bit without a word), and a newest checkpoint that is
damaged is passed over with one line that names it: the run goes on from the one
before.
"""

import json
import logging
import math
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from absl import logging as absl_logging
from etils import epath
from orbax.checkpoint import checkpoint_managers as policies

_ITEM = "default"  # the folder that orbax gives to the only item of a step
_METRICS = "metrics/metrics"  # where orbax writes a step's metrics
_DIGEST = "digest.json"  # {file: [bytes, crc32]}, ours
_TEMPORARY = ".orbax-checkpoint-tmp"


class _Quiet(logging.Filter):
    """Drops what orbax says about ordinary work, and its tracebacks.

    The error behind a traceback is raised as well, and becomes one line here.
    """

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether the record is shown."""
        if "orbax" not in record.pathname:
            return True
        return record.levelno >= logging.WARNING and not record.exc_info


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
        self._saving: int | None = None
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
    ) -> bool:
        """Start to save ``state``; return whether a save was started.

        The arrays may be donated to the next step as soon as this returns; writing
        goes on in the background. A step that is there already is left alone.

        Args:
          step: the number of steps made; the folder's name.
          state: a pytree of arrays, sharded or not.
          metrics: anything; the finite scalars are kept.
          force: save also at a step that is no multiple of ``every``.

        Raises:
          OSError: this or the save before could not be written; the checkpoints
            before that are still there.
        """
        self.wait()
        if step in self._manager.all_steps() or (step % self._every and not force):
            return False
        self._saving = step
        args, metrics = ocp.args.PyTreeSave(state), _finite(metrics or {})
        try:
            return self._manager.save(step, args=args, metrics=metrics, force=True)
        except Exception as error:
            raise self._failed(error) from error

    def steps(self) -> list[int]:
        """The steps that have a checkpoint (or soon will), the newest last."""
        return sorted(self._manager.all_steps())

    def latest(self) -> int | None:
        """The newest of :meth:`steps`."""
        return max(self._manager.all_steps(), default=None)

    def best(self) -> int | None:
        """The step with the largest metric (the later of equals), if any has one."""
        self.wait()
        return _best(self.directory, self.steps(), self._metric)

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
            state, reason = _read(self.directory / str(candidate), abstract_state)
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
        self._manager.reload()
        left = ", ".join(map(str, self.steps())) or "none"
        return OSError(
            f"{self.directory}: checkpoint {self._saving} could not be written "
            f"({_one_line(error)}); make room or name another --workdir, the "
            f"checkpoints before it are untouched ({left})"
        )

    def _forget_damaged_metrics(self) -> None:
        """Remove metrics that are cut short: orbax's manager would not even open."""
        for step in _steps_in(self.directory):
            path = self.directory / str(step) / _METRICS
            if path.exists() and _metrics(path) is None and jax.process_index() == 0:
                path.unlink()
                self._warn(
                    f"checkpoint {step} of {self.directory}: its metrics cannot be "
                    "read; it does not count for the best any more"
                )
        _barrier("segjax: metrics looked at")

    def _write_digest(self) -> None:
        """Put sizes and checksums of the step being saved into its folder."""
        for folder in self.directory.iterdir():
            name, temporary, _ = folder.name.partition(_TEMPORARY)
            if name == str(self._saving) and (temporary or (folder / _ITEM).exists()):
                digest = {
                    name: _size_and_checksum(folder / name)
                    for name in _files(folder, _ITEM)
                }
                (folder / _DIGEST).write_text(json.dumps(digest, indent=0))

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
            _barrier("segjax: damaged checkpoints set aside")
            self._manager.reload()


def _one_line(error: BaseException) -> str:
    """What went wrong, short enough for a line: storage's reasons stand at the end."""
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= 240 else f"{text[:110]} ... {text[-120:]}"


def _barrier(name: str) -> None:
    if jax.process_count() > 1:
        from jax.experimental import multihost_utils

        multihost_utils.sync_global_devices(name)


def _everywhere(fine: bool) -> bool:
    """Whether it is fine in every process, so that all of them decide alike."""
    if jax.process_count() == 1:
        return fine
    from jax.experimental import multihost_utils

    return bool(np.all(multihost_utils.process_allgather(np.asarray(fine))))


def _finite(metrics: Mapping[str, Any]) -> dict[str, float]:
    """The finite scalars among the metrics."""
    found = {}
    for key, value in metrics.items():
        if np.ndim(value) == 0 and isinstance(value, int | float | np.number):
            if math.isfinite(value):
                found[key] = float(value)
    return found


def _steps_in(directory: epath.Path) -> list[int]:
    """The complete checkpoints of a folder, the newest last."""
    if not directory.exists():
        return []
    return sorted(int(p.name) for p in directory.iterdir() if p.name.isdecimal())


def _metrics(path: epath.Path) -> dict[str, float] | None:
    """A step's metrics; None where there are none or they cannot be read."""
    try:
        values = json.loads(path.read_text())
    except (OSError, ValueError):
        return None
    return values if isinstance(values, dict) else None


def _best(directory: epath.Path, steps: Sequence[int], metric: str) -> int | None:
    scores = {step: _metrics(directory / str(step) / _METRICS) or {} for step in steps}
    scored = [(scores[step][metric], step) for step in steps if metric in scores[step]]
    return max(scored)[1] if scored else None


def _files(folder: epath.Path, inside: str) -> Iterator[str]:
    """The files below ``folder / inside``, as paths within ``folder``."""
    for path in sorted((folder / inside).iterdir()):
        name = f"{inside}/{path.name}"
        if path.is_dir():
            yield from _files(folder, name)
        else:
            yield name


def _size_and_checksum(path: epath.Path) -> list[int]:
    size = checksum = 0
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            size, checksum = size + len(block), zlib.crc32(block, checksum)
    return [size, checksum]


def _damage(folder: epath.Path) -> str | None:
    """What is wrong with a checkpoint's files; each process looks at its share."""
    path = folder / _DIGEST
    if not path.exists():  # written by other hands: orbax will see what it sees
        return None
    try:
        digest = json.loads(path.read_text())
        entries = [(name, size, crc) for name, (size, crc) in sorted(digest.items())]
    except (OSError, ValueError, AttributeError, TypeError):
        return f"{_DIGEST} cannot be read"
    for name, size, crc in entries[jax.process_index() :: jax.process_count()]:
        if not (folder / name).exists():
            return f"{name} is missing"
        found = _size_and_checksum(folder / name)
        if found[0] != size:
            return f"{name} has {found[0]} bytes instead of {size}"
        if found[1] != crc:
            return f"{name} has changed since it was written"
    return None


def _read(folder: epath.Path, abstract: Any) -> tuple[Any, str | None]:
    """The tree of a checkpoint, or why it cannot be read.

    Raises:
      ValueError: it can, but is not the tree that is asked for.
    """
    damage = _damage(folder)
    if not _everywhere(damage is None):
        return None, damage or "another process found damage"
    try:
        stored, reason = _stored(folder), None
    except Exception as error:
        stored, reason = {}, _one_line(error)
    if not _everywhere(reason is None):
        return None, reason or "another process could not read it"
    wrong = _differences(_by_path(abstract), stored)
    wrong |= {
        path: "is not in the model" for path in stored.keys() - _by_path(abstract)
    }
    _complain(folder, wrong, "the config or the code has changed since it was saved")
    try:
        state = _restore(folder, abstract)
    except Exception as error:
        state, reason = None, _one_line(error)
    if not _everywhere(reason is None):
        return None, reason or "another process could not read it"
    return state, None


def _restore(folder: epath.Path, abstract: Any, partial: bool = False) -> Any:
    """Read through the handler: orbax's Checkpointer ends in a barrier, at which the
    other processes would wait for one that fails.
    """

    def how(leaf: Any) -> ocp.RestoreArgs:
        if getattr(leaf, "sharding", None) is None:
            return ocp.RestoreArgs(restore_type=np.ndarray, dtype=leaf.dtype)
        return ocp.ArrayRestoreArgs(
            sharding=leaf.sharding, global_shape=leaf.shape, dtype=leaf.dtype
        )

    handler = ocp.PyTreeCheckpointHandler()
    try:
        return handler.restore(
            folder / _ITEM,
            args=ocp.args.PyTreeRestore(
                abstract,
                restore_args=jax.tree.map(how, abstract),
                partial_restore=partial,
            ),
        )
    finally:
        handler.close()


def _by_path(tree: Any) -> dict[str, Any]:
    """The arrays of a tree as {"params/encoder/conv1/kernel": leaf}."""
    leaves = jax.tree_util.tree_flatten_with_path(tree)[0]
    return {
        jax.tree_util.keystr(path, simple=True, separator="/"): leaf
        for path, leaf in leaves
        if hasattr(leaf, "shape")
    }


def _stored(folder: epath.Path) -> dict[str, Any]:
    """Shapes and dtypes of what a checkpoint holds, by path."""
    handler = ocp.PyTreeCheckpointHandler()
    try:
        return _by_path(handler.metadata(folder / _ITEM).tree)
    finally:
        handler.close()


def _differences(
    wanted: Mapping[str, Any], stored: Mapping[str, Any], dtypes: bool = True
) -> dict[str, str]:
    """What the leaves that are wanted lack: {path: what is wrong}."""
    wrong = {}
    for path, leaf in wanted.items():
        if path not in stored:
            wrong[path] = "is not in the checkpoint"
            continue
        have, want = stored[path], leaf
        if tuple(have.shape) != tuple(want.shape):
            wrong[path] = f"is {tuple(have.shape)} there and {tuple(want.shape)} here"
        elif dtypes and have.dtype != want.dtype:
            wrong[path] = f"is {have.dtype} there and {want.dtype} here"
    return wrong


def _complain(folder: epath.Path, wrong: Mapping[str, str], fix: str) -> None:
    if wrong:
        shown = "; ".join(f"{path} {what}" for path, what in list(wrong.items())[:6])
        more = f"; and {len(wrong) - 6} more" if len(wrong) > 6 else ""
        raise ValueError(f"{folder} does not fit the model: {shown}{more}; {fix}")


def find_step(
    path: str | Path, step: int | str = "best", metric: str = "miou"
) -> epath.Path:
    """The folder of one checkpoint, from a workdir, its checkpoints/ or the folder.

    ``step`` is a number, "latest", or "best" (the newest where none has a metric).

    Raises:
      ValueError: there is no such checkpoint.
    """
    root = epath.Path(path).absolute()
    if (root / _ITEM).exists():
        return root
    directory = root / "checkpoints" if (root / "checkpoints").exists() else root
    steps = _steps_in(directory)
    if not steps:
        raise ValueError(
            f"{path} holds no checkpoint; name a workdir, its checkpoints folder or "
            "the folder of one step"
        )
    found = str(step)
    if step == "best":
        found = str(_best(directory, steps, metric) or max(steps))
    elif step == "latest":
        found = str(max(steps))
    if found not in map(str, steps):
        raise ValueError(
            f"{directory} has no checkpoint {found!r}; write best, latest or one of "
            f"{', '.join(map(str, steps))}"
        )
    return directory / found


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
        with shardings (without one, a leaf becomes a NumPy array), in the dtype that
        is wanted; leave out what is not.
      step: "best" by ``metric`` (the newest where none has it), "latest" or a number.
      ema: take the averaged parameters for ``params``, where the run kept any.
      metric: what "best" means; larger is better.
      allow_missing: patterns (fnmatch on "params/decoder/head/kernel"); leaves that
        match may be missing or of another shape, and are then left out.

    Returns:
      Nested dicts of arrays, structured as ``abstract``.

    Raises:
      ValueError: no such checkpoint, a damaged one, or one of another model.
    """
    absl_logging.get_absl_logger().addFilter(_QUIET)
    folder = find_step(path, step, metric)
    damage = _damage(folder)
    if damage is not None:
        raise ValueError(f"{folder} is damaged ({damage}); choose another step")
    try:
        stored = _stored(folder)
    except Exception as error:
        raise ValueError(f"{folder} cannot be read ({_one_line(error)})") from error
    source = {key: key for key in abstract}
    if ema and any(name.startswith("ema/") for name in stored):
        source["params"] = "ema"
        stored = {
            name.replace("ema/", "params/", 1): leaf
            for name, leaf in stored.items()
            if not name.startswith("params/")
        }
    wrong = _differences(_by_path(abstract), stored, dtypes=False)
    left_out = {n for n in wrong if any(fnmatch(n, p) for p in allow_missing)}
    wrong = {name: what for name, what in wrong.items() if name not in left_out}
    _complain(folder, wrong, "name what may differ in allow_missing")
    chosen = {key: _without(abstract[key], left_out, key) for key in abstract}
    item = {source[key]: value for key, value in chosen.items()}
    if not _by_path(item):
        raise ValueError(f"{folder}: nothing is left to read of {', '.join(abstract)}")
    try:
        restored = _restore(folder, item, partial=True)
    except Exception as error:
        raise ValueError(f"{folder} cannot be read ({_one_line(error)})") from error
    return {key: restored.get(source[key], {}) for key in chosen}


def _without(tree: Any, paths: set[str], prefix: str) -> Any:
    """Nested dicts without the leaves at ``paths``, nor dicts that become empty."""
    if not isinstance(tree, Mapping):
        return tree
    kept = {
        key: _without(value, paths, f"{prefix}/{key}")
        for key, value in tree.items()
        if f"{prefix}/{key}" not in paths
    }
    return {k: v for k, v in kept.items() if not (isinstance(v, Mapping) and not v)}

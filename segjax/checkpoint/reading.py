"""Reading a checkpoint through orbax: what it holds, whether it fits, its arrays."""

import logging
import os
import re
import sys
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from absl import logging as absl_logging
from etils import epath

from segjax.checkpoint.digest import find_damage
from segjax.checkpoint.folder import ITEM


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


def quiet_orbax() -> None:
    """Leave of orbax's log what a user can act on."""
    absl_logging.get_absl_logger().addFilter(_QUIET)


def quiet_late_writes() -> None:
    """Say nothing of writes that end after the first that failed ended the save.

    Orbax then closes its event loop, and each array still being written would print a
    traceback about that, hundreds of them.
    """
    before = sys.unraisablehook
    if getattr(before, "late_writes", False):
        return

    def hook(raised: Any) -> None:
        if str(raised.exc_value) != "Event loop is closed":
            before(raised)

    hook.late_writes = True
    sys.unraisablehook = hook


def one_line(error: BaseException) -> str:
    """What went wrong, short enough for a line: storage's reasons stand at the end.

    TensorStore may have the system's reason in the middle, and its number after it.
    """
    text = " ".join(str(error).split()) or type(error).__name__
    short = text if len(text) <= 240 else f"{text[:110]} ... {text[-120:]}"
    number = re.search(r"os_error_code='(\d+)'", text)
    reason = os.strerror(int(number[1])) if number else ""
    return short if reason in short else f"{reason}: {short}"


def barrier(name: str) -> None:
    """Wait for the other processes, where there are any."""
    if jax.process_count() > 1:
        from jax.experimental import multihost_utils

        multihost_utils.sync_global_devices(name)


def everywhere(fine: bool) -> bool:
    """Whether it is fine in every process, so that all of them decide alike."""
    if jax.process_count() == 1:
        return fine
    from jax.experimental import multihost_utils

    return bool(np.all(multihost_utils.process_allgather(np.asarray(fine))))


def read_state(folder: epath.Path, abstract: Any) -> tuple[Any, str | None]:
    """The tree of a checkpoint, or why it cannot be read.

    Raises:
      ValueError: it can, but is not the tree that is asked for.
    """
    damage = find_damage(folder)
    if not everywhere(damage is None):
        return None, damage or "another process found damage"
    try:
        stored, reason = stored_leaves(folder), None
    except Exception as error:
        stored, reason = {}, one_line(error)
    if not everywhere(reason is None):
        return None, reason or "another process could not read it"
    wrong = differences(by_path(abstract), stored)
    wrong |= {path: "is not in the model" for path in stored.keys() - by_path(abstract)}
    refuse(folder, wrong, "the config or the code has changed since it was saved")
    try:
        state = restore_tree(folder, abstract)
    except Exception as error:
        state, reason = None, one_line(error)
    if not everywhere(reason is None):
        return None, reason or "another process could not read it"
    return state, None


def restore_tree(folder: epath.Path, abstract: Any, partial: bool = False) -> Any:
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
            folder / ITEM,
            args=ocp.args.PyTreeRestore(
                abstract,
                restore_args=jax.tree.map(how, abstract),
                partial_restore=partial,
            ),
        )
    finally:
        handler.close()


def by_path(tree: Any) -> dict[str, Any]:
    """The arrays of a tree as {"params/encoder/conv1/kernel": leaf}."""
    leaves = jax.tree_util.tree_flatten_with_path(tree)[0]
    return {
        jax.tree_util.keystr(path, simple=True, separator="/"): leaf
        for path, leaf in leaves
        if hasattr(leaf, "shape")
    }


def stored_leaves(folder: epath.Path) -> dict[str, Any]:
    """Shapes and dtypes of what a checkpoint holds, by path."""
    handler = ocp.PyTreeCheckpointHandler()
    try:
        return by_path(handler.metadata(folder / ITEM).tree)
    finally:
        handler.close()


def read_arrays(folder: epath.Path) -> dict[str, np.ndarray]:
    """Every array of a checkpoint, on the host: {"params/head/kernel": array}."""
    handler = ocp.PyTreeCheckpointHandler()
    try:
        tree = handler.metadata(folder / ITEM).tree
    finally:
        handler.close()
    abstract = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), tree)
    return by_path(restore_tree(folder, abstract))


def differences(
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


def refuse(folder: epath.Path, wrong: Mapping[str, str], fix: str) -> None:
    """Raise a ValueError of one line if anything is wrong: {path: what}."""
    if wrong:
        shown = "; ".join(f"{path} {what}" for path, what in list(wrong.items())[:6])
        more = f"; and {len(wrong) - 6} more" if len(wrong) > 6 else ""
        raise ValueError(f"{folder} does not fit the model: {shown}{more}; {fix}")

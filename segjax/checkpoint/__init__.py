"""Checkpoints: written in the background, whole or not at all, and read with care.

Orbax does the work: one folder per step, written under a temporary name and renamed
when complete, so that a process killed at any moment leaves the earlier checkpoints
as they were. What this file adds is what a run needs when something goes wrong
later. Each folder gets the sizes and checksums of its files before it is renamed
(orbax alone restores a flipped bit without a word), and a newest checkpoint that is
damaged is passed over with one line that names it: the run goes on from the one
before.
"""

from segjax.checkpoint.folder import file_of_run, find_step
from segjax.checkpoint.manager import Checkpoints
from segjax.checkpoint.reading import everywhere, read_arrays
from segjax.checkpoint.warm import restore_params

__all__ = [
    "Checkpoints",
    "everywhere",
    "file_of_run",
    "find_step",
    "read_arrays",
    "restore_params",
]

"""``segjax bench-input``: the config's own input pipeline, with nothing behind it.

What is measured is the host's work alone (decode, fit, batch, in the config's threads
or workers); augmentation belongs to the training step. The pipeline keeps decoded
examples in memory (``data.cache_gb``), so that the first pass over the split and the
later ones are told apart.
"""

import importlib
import json
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from segjax import logs, setup
from segjax.batch import Example, Source
from segjax.config import Config
from segjax.writing import write_text

PASSES = ("first", "later")


class Counted:
    """A source that counts the examples read from it, in this process."""

    def __init__(self, source: Source):
        self._source = source
        self.spec, self.channels = source.spec, source.channels
        self.size, self.ids = source.size, source.ids
        self.reads = 0

    def __len__(self) -> int:
        return len(self._source)

    def __getitem__(self, index: int) -> Example:
        self.reads += 1
        return self._source[index]


class Pass:
    """What a consumer took, and how long it had to wait for it."""

    def __init__(self):
        self.batches = self.images = self.bytes = 0
        self.seconds = self.waited = 0.0

    def add(self, batch: Any, waited: float, seconds: float) -> None:
        """One batch, for which ``waited`` of ``seconds`` were spent waiting."""
        self.batches += 1
        self.images += len(batch["image"])
        self.bytes += sum(array.nbytes for array in batch.values())
        self.seconds += seconds
        self.waited += waited

    def row(self) -> dict[str, float]:
        """``images_per_s``, ``mb_per_s`` (1e6 bytes), ``stall_share`` and the sums."""
        seconds = max(self.seconds, 1e-9)
        return {
            "batches": self.batches,
            "images": self.images,
            "seconds": self.seconds,
            "images_per_s": self.images / seconds,
            "mb_per_s": self.bytes / 1e6 / seconds,
            "stall_share": self.waited / seconds,
        }


def bench_input(
    config: Config,
    name: str,
    *,
    batches: int | None = None,
    step_seconds: float = 0.0,
    clock: Callable[[], float] = time.perf_counter,
    sleep: Callable[[float], None] = time.sleep,
) -> dict[str, Any]:
    """Take batches as training would; returns what ``--output`` holds.

    Args:
      config: whose pipeline.
      name: the config's, for the report.
      batches: how many to take; None: enough to see the split twice.
      step_seconds: how long the consumer is busy with each batch. It sleeps, as a host
        does that waits for an accelerator: the pipeline has the processor to itself.
      clock: seconds; another one is for tests, as is ``sleep``.

    Raises:
      ValueError: ``batches`` or ``step_seconds`` out of range; what the data raises.
    """
    if batches is not None and batches < 1:
        raise ValueError(f"--batches {batches} takes nothing; write 1 or more")
    if not 0 <= step_seconds < math.inf:
        raise ValueError(f"--step-seconds {step_seconds} is no time; write 0 or more")
    source = Counted(setup.open_split(config, config.data.train_split))
    stream = setup.train_batches(config, source, 0)
    first = math.ceil(len(source) / config.data.batch_size)
    passes, decoded = {}, {}
    importlib.import_module("grain")  # takes a second, which is not the pipeline's
    for number in range(2 * first if batches is None else batches):
        key = PASSES[number >= first]
        begin = clock()
        batch = next(stream)
        taken = clock()
        if step_seconds:
            sleep(step_seconds)
        passes.setdefault(key, Pass()).add(batch, taken - begin, clock() - begin)
        decoded[key] = source.reads - (decoded["first"] if key == "later" else 0)
    stream.close()  # type: ignore[attr-defined]
    # Worker processes count for themselves.
    known = config.data.workers == 0
    rows = {
        key: one.row() | {"decoded": decoded[key] if known else None}
        for key, one in passes.items()
    }
    return {
        "config": name,
        "data": config.data.to_dict() | {"examples": len(source)},
        "buffer": list(batch["image"].shape[1:]),
        "step_seconds": step_seconds,
        "passes": rows,
        "environment": logs.environment(),
    }


def table(result: dict[str, Any]) -> Any:
    """A rich table: a row per pass."""
    from rich.table import Table

    data = result["data"]
    shape = " x ".join(map(str, result["buffer"]))
    ahead = f"{data['threads']} threads"
    if data["workers"]:
        ahead = f"{data['workers']} workers with {ahead} each"
    step = f"{result['step_seconds']:g} s" if result["step_seconds"] else "only takes"
    table = Table(
        title=f"{result['config']}: {data['examples']} examples of {data['name']}, "
        f"batches of {data['batch_size']} x {shape}, {ahead}",
        caption=f"step: {step}; MB: 1e6 bytes of the batches handed on; stall: share "
        "of the wall time in which the consumer waits for its next batch",
    )
    for title in ("pass", "batches", "decoded", "images/s", "MB/s", "stall"):
        table.add_column(title, justify="left" if title == "pass" else "right")
    for key, row in result["passes"].items():
        decoded = "-" if row["decoded"] is None else str(row["decoded"])
        speed = (f"{row['images_per_s']:.1f}", f"{row['mb_per_s']:.1f}")
        stall = f"{100 * row['stall_share']:.1f} %"
        table.add_row(key, str(row["batches"]), decoded, *speed, stall)
    return table


def report(result: dict[str, Any], path: Path) -> None:
    """Write the JSON, print the table and where the JSON is."""
    from rich.console import Console

    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, json.dumps(logs.plain(result), indent=1) + "\n")
    console = Console(soft_wrap=True)
    console.print(table(result))
    console.print(f"bench-input: {path}", markup=False)

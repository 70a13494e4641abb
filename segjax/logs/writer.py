"""Logs: one object that takes what a run has to say and writes it everywhere."""

import json
import math
import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from segjax.logs.events import Events
from segjax.logs.table import decimals
from segjax.writing import writing

# What an evaluation says in its line of text, in this order, where it has it.
TITLES = {
    "miou": "mIoU",
    "pixel_accuracy": "pixel accuracy",
    "top1": "top-1",
    "top5": "top-5",
}


def plain(value: Any) -> Any:
    """Turn scalars, arrays and containers into strict JSON: NaN and inf are None."""
    if isinstance(value, Mapping):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [plain(v) for v in value]
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    return plain(np.asarray(value).tolist())


class Logs:
    """Writes metrics.jsonl, TensorBoard events and the terminal.

    Args:
      workdir: the run's folder; ``metrics.jsonl`` and ``tensorboard/`` lie in it.
      total_steps: how long the run is, for the progress bar and the time left.
      tensorboard: whether to write TensorBoard events (no TensorFlow is needed).
      console: a ``rich.console.Console``; None makes one for standard output.
      primary: whether this process writes; None: process 0 does.

    On a terminal there is a progress bar; elsewhere each training line is a line of
    text. A line of ``metrics.jsonl`` is handed over at once, so that a killed process
    leaves at most one line cut short, which the next Logs removes.
    """

    def __init__(
        self,
        workdir: str | Path,
        *,
        total_steps: int,
        tensorboard: bool,
        console: Any = None,
        primary: bool | None = None,
    ):
        if primary is None:
            import jax

            primary = jax.process_index() == 0
        if console is None:
            from rich.console import Console

            # Long lines are for the reader of a file to wrap, not for rich.
            console = Console(soft_wrap=True)
        self.console = console
        self.primary = primary
        self.path = Path(workdir) / "metrics.jsonl"
        self._tensorboard = tensorboard
        self._total_steps = total_steps
        self._file = None
        self._events: Events | None = None
        self._bar: tuple[Any, Any] | None = None
        self._purge_step: int | None = None
        self._first: tuple[int, float] | None = None
        self._shown: dict[str, Any] = {}
        if primary:
            with writing(self.path):
                self.path.parent.mkdir(parents=True, exist_ok=True)
                self._rewrite(lambda line: True)
                self._file = self._open()

    def truncate_after(self, step: int) -> None:
        """Forget the lines of later steps: the run goes on from ``step``."""
        if not self.primary:
            return
        with writing(self.path):
            if self._file is not None:
                self._file.close()
            self._rewrite(lambda line: line.get("step", 0) <= step)
            self._file = self._open()
        self._purge_step = step + 1

    def train(self, step: int, scalars: Mapping[str, Any]) -> None:
        """One training line: ``loss``, ``images_per_s`` and whatever else there is."""
        values = plain(scalars)
        self._line({"step": step, "split": "train", **values})
        self._scalars("train", step, values)
        self._show(values)
        if self.primary and not self.console.is_terminal:
            self.console.print(self._text(step), highlight=False)

    def evaluation(
        self,
        step: int,
        split: str,
        summary: Mapping[str, Any],
        names: Sequence[str] = (),
    ) -> None:
        """One evaluation line; ``names`` are the classes whose IoU TensorBoard gets."""
        values = plain(summary)
        self._line({"step": step, "split": split, **values})
        self._scalars(split, step, values)
        per_class = values.get("iou_per_class", {})
        shown = {name: per_class.get(name) for name in names}
        self._scalars(f"{split}/iou", step, shown)
        told = {TITLES[key]: values[key] for key in TITLES if key in values}
        first = next(iter(told), None)
        if first:
            self._show({f"{split} {first}": told[first]})
        numbers = "  ".join(f"{title} {decimals(v)}" for title, v in told.items())
        self.info(f"step {step}  {split} {numbers}")

    def skipped(self, step: int, reason: str, in_row: int, ids: Sequence[str]) -> None:
        """One line about an update that was skipped, the ``in_row``-th in a row."""
        values = {"reason": reason, "in_row": in_row, "ids": list(ids)}
        self._line({"step": step, "split": "skipped", **values})
        self.warn(f"step {step}: update skipped ({reason}), {in_row} in a row")

    def image(self, step: int, tag: str, picture: np.ndarray) -> None:
        """A picture uint8[h, w, 3] for TensorBoard."""
        if (writer := self._writer()) is not None:
            writer.image(step, tag, picture)

    def info(self, text: str) -> None:
        """A line for the reader."""
        if self.primary:
            self.console.print(text, highlight=False, markup=False)

    def warn(self, text: str) -> None:
        """A line for the reader that should not be overlooked."""
        if self.primary:
            self.console.print(
                f"warning: {text}", style="yellow", highlight=False, markup=False
            )

    def progress(
        self,
        step: int,
        loss: float | None = None,
        miou: float | None = None,
        images_per_s: float | None = None,
    ) -> None:
        """Move the bar; it shows the last values given here or to another method."""
        if not self.primary:
            return
        self._show({"loss": loss, "miou": miou, "images_per_s": images_per_s})
        if self._first is None:
            self._first = (step, time.monotonic())
        if self.console.is_terminal:
            self._bar = self._bar or self._start_bar()
            bar, task = self._bar
            bar.update(task, completed=step, text=self._text(step))

    def close(self) -> None:
        """Take the bar away, and close the files."""
        if self._bar is not None:
            self._bar[0].stop()
        if self._events is not None:
            self._events.close()
        if self._file is not None:
            self._file.close()
        self._bar = self._events = self._file = None

    def _start_bar(self) -> tuple[Any, Any]:
        from rich.progress import BarColumn, Progress, TextColumn

        bar = Progress(
            BarColumn(bar_width=24),
            TextColumn("{task.fields[text]}"),
            console=self.console,
            refresh_per_second=2,
        )
        task = bar.add_task("", total=self._total_steps, text="")
        bar.start()
        return bar, task

    def _show(self, values: Mapping[str, Any]) -> None:
        self._shown |= {k: v for k, v in values.items() if v is not None}

    def _text(self, step: int) -> str:
        shown = self._shown
        parts = [f"step {step}/{self._total_steps}"]
        if "loss" in shown:
            parts.append(f"loss {shown['loss']:.4f}")
        for key in ("miou", "top1"):
            if key in shown:
                parts.append(f"{TITLES[key]} {shown[key]:.4f}")
        ends = (f" {TITLES['miou']}", f" {TITLES['top1']}")
        parts += [f"{k} {v:.4f}" for k, v in shown.items() if k.endswith(ends)]
        if "images_per_s" in shown:
            parts.append(f"{shown['images_per_s']:.1f} images/s")
        if (left := self._seconds_left(step)) is not None:
            parts.append(f"{_clock(left)} left")
        return "  ".join(parts)

    def _seconds_left(self, step: int) -> float | None:
        if self._first is None or step <= self._first[0]:
            return None
        since, began = self._first
        pace = (time.monotonic() - began) / (step - since)
        return pace * max(self._total_steps - step, 0)

    def _open(self):
        # Without a buffer: what a full disk did not take is not tried again on close.
        return self.path.open("ab", buffering=0)

    def _line(self, values: Mapping[str, Any]) -> None:
        if self._file is not None:
            line = json.dumps(values, allow_nan=False) + "\n"
            with writing(self.path):
                left = memoryview(line.encode())
                while left:
                    left = left[self._file.write(left) :]

    def _rewrite(self, keep) -> None:
        """Keep the whole lines that ``keep`` says yes to, in one atomic move."""
        if not self.path.exists():
            return
        old = self.path.read_bytes()
        lines = []
        for raw in old.splitlines(keepends=True):
            try:
                line = json.loads(raw)
            except ValueError:
                continue
            if raw.endswith(b"\n") and isinstance(line, dict) and keep(line):
                lines.append(raw)
        new = b"".join(lines)
        if new != old:
            temporary = self.path.with_name(self.path.name + ".tmp")
            temporary.write_bytes(new)
            os.replace(temporary, self.path)

    def _writer(self) -> Events | None:
        if not (self._tensorboard and self.primary):
            return None
        if self._events is None:
            self._events = Events(self.path.parent / "tensorboard", self._purge_step)
        return self._events

    def _scalars(self, prefix: str, step: int, values: Mapping[str, Any]) -> None:
        if (writer := self._writer()) is None:
            return
        numbers = {
            f"{prefix}/{key}": value
            for key, value in values.items()
            if isinstance(value, int | float) and not isinstance(value, bool)
        }
        writer.scalars(step, numbers)


def _clock(seconds: float) -> str:
    minutes, seconds = divmod(int(seconds + 0.5), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"

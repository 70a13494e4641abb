"""``segjax train``: the loop, as the list of its events."""

import json
import shlex
import sys
import time
from contextlib import ExitStack
from functools import cached_property
from pathlib import Path
from typing import Any

import jax
import numpy as np

from segjax import cache, card, checkpoint, guards, logs, setup
from segjax import config as configs
from segjax import step as steps
from segjax.config import Config
from segjax.data.pipeline import example_indices
from segjax.doctor import check
from segjax.evaluate import draw, evaluate_split
from segjax.lock import Lock
from segjax.log_line import LogLine, introduction
from segjax.preprocessing import preprocessing
from segjax.sharding import on_devices
from segjax.stopping import Stopping, Terminated, next_batch
from segjax.warm import warm_start
from segjax.writing import write_text, writing


class Run:
    """One training run in a workdir; each method is one event of the loop."""

    def __init__(self, config: Config, workdir: Path):
        self.config, self.workdir = config, workdir
        splits = (config.data.train_split, config.data.eval_split)
        self.train_source = source = setup.open_split(config, splits[0])
        # With the network's channels, whatever the split's own first image has.
        self.eval_source = setup.open_split(config, splits[1], source.channels)
        self.sources = dict(zip(splits, (source, self.eval_source), strict=True))
        self.spec = self.train_source.spec
        pre = preprocessing(config, self.train_source.channels)
        self.parts = setup.make_parts(config, self.spec, pre)
        examples = len(self.train_source)
        self.total = setup.num_steps(config, examples)
        self.eval_steps = setup.event_steps(config, config.eval.every, examples)
        self.save_steps = setup.event_steps(config, config.checkpoint.every, examples)
        self.main_process = jax.process_index() == 0
        self.lock: Lock | None = None
        self.logs: Any = None
        self.checkpoints: Any = None
        self.started = time.perf_counter()
        self.earlier_seconds = 0.0
        self.summary: dict[str, Any] = {}
        self.pictures: dict[int, np.ndarray] = {}

    @cached_property
    def eval_sizes(self) -> list[tuple[int, int]]:
        """Of the evaluation examples: their files' headers are read once."""
        if self.config.task != "segmentation":
            return []  # All are brought to one size.
        return [self.eval_source.size(i) for i in range(len(self.eval_source))]

    def claim(self) -> None:
        """Make the workdir this run's alone; all processes fail where one does."""
        error = None
        try:
            if self.main_process:
                self.lock = Lock(self.workdir)
        except ValueError as found:
            error = found
        if not checkpoint.everywhere(error is None):
            raise error or ValueError(
                f"process 0 cannot use --workdir {self.workdir}; it says why"
            )

    def open(self) -> None:
        """Make or reopen the workdir; build state and steps; restore what is there."""
        config, parts = self.config, self.parts
        resumed = setup.check_workdir(config, self.workdir)
        warnings = [] if resumed else self.check_data()
        self.claim()
        # Another run may have begun here in the meantime.
        setup.check_workdir(config, self.workdir)
        if self.main_process:
            setup.save_description(self.workdir, parts)
            card.save_origin(self.workdir, config, self.train_source, self.eval_source)
        self.logs = logs.Logs(
            self.workdir,
            total_steps=self.total,
            tensorboard=config.logs.tensorboard,
        )
        for line in warnings:
            self.logs.warn(line)
        self.tx, self.schedule = setup.make_tx(config, self.total)
        abstract = parts.abstract_state(self.tx)
        self.shardings = jax.tree.map(lambda leaf: leaf.sharding, abstract)
        self.checkpoints = checkpoint.Checkpoints(
            setup.checkpoint_directory(config, self.workdir),
            keep_last=config.checkpoint.keep,
            keep_best=config.checkpoint.keep_best,
            metric=parts.task.metric,
            warn=self.logs.warn,
        )
        notes: dict[str, Any] = {}
        self.logs.info(introduction(self.sources, self.spec.names))
        if self.checkpoints.latest() is not None:
            self.state, self.step = self.checkpoints.restore(None, abstract)
            notes = self.checkpoints.notes(self.step)
            if "config" in notes:  # of another run's in a directory shared by two
                place = f"checkpoint.directory {self.checkpoints.directory}"
                configs.check_resumable(config, notes["config"], place)
            self.logs.info(f"resuming {self.workdir} at step {self.step}")
        else:
            self.state, self.step = self.fresh_state(), 0
        self.logs.truncate_after(self.step)
        self.earlier_seconds = notes.get("seconds", 0.0)
        self.skipped = notes.get("skipped", 0)
        self.best: float | None = notes.get("best")
        self.unmeasured = notes.get("unmeasured", False)
        self.unmeasured &= not self.checkpoints.metrics(self.step)
        self.improved = False
        self.meter = logs.Meter()
        self.line = LogLine.from_dict(notes.get("line", {}))
        self.is_finite = jax.jit(guards.is_finite)
        self.waiting = None

    def check_data(self) -> list[str]:
        """Look at some examples; an error stops the run before it leaves a trace."""
        return check(self.config, self.sources, self.eval_sizes)

    def fresh_state(self) -> steps.TrainState:
        """Initialised on the mesh, nothing whole on one device; warm where asked."""
        key = steps.stream_key(self.config.seed, "init")
        init = jax.jit(self.parts.init(self.tx), out_shardings=self.shardings)
        state = init(key)
        if self.config.model.pretrained is not None:
            state, new = warm_start(self.parts, state)
            text = f"weights from {self.config.model.pretrained}"
            self.logs.info(text + f"; {', '.join(new)} without" * bool(new))
        return state

    def compile(self, batch) -> None:
        """The train step for this batch's shapes."""
        train_step = self.parts.train_step(self.tx, self.shardings)
        start = time.perf_counter()
        self.train_step = steps.compile_step(train_step, self.state, batch)
        self.eval_step = self.parts.eval_step()
        self.logs.info(f"train step compiled in {time.perf_counter() - start:.1f} s")

    def advance(self, batch) -> None:
        """One step; its metrics are waited for when the next one is under way."""
        with jax.transfer_guard("disallow"):
            self.state, metrics = self.train_step(self.state, batch)
        self.fetch()
        self.waiting = metrics
        self.step += 1
        self.meter.step(self.config.data.batch_size)
        self.logs.progress(self.step)

    def fetch(self) -> None:
        """Take the metrics of the step before; the devices are busy with the next."""
        if self.waiting is None:
            return
        metrics, step = jax.device_get(self.waiting), self.step
        self.waiting = None
        self.line.add(metrics)
        if metrics["skipped"]:
            self.skip(step, metrics)

    def skip(self, step: int, metrics: dict[str, Any]) -> None:
        """A line about an update that was skipped; the end, after too many in a row."""
        self.skipped += 1
        in_row, source = int(metrics["skipped"]), self.train_source
        chosen = example_indices(
            self.config.seed, step - 1, self.config.data.batch_size, len(source)
        )
        known: Any = source.ids()
        ids = [known[index] for index in chosen]
        self.logs.skipped(step, guards.reason(metrics), in_row, ids)
        guards.check_in_a_row(step, in_row, self.config.guard.max_skipped, ids)

    def log(self) -> None:
        """One line of metrics.jsonl."""
        self.fetch()
        scalars = self.line.scalars()
        scalars |= self.parts.task.scalars(self.line.counts, self.spec.names)
        # The optimizer does not count what was skipped.
        updates = max(self.step - 1 - self.skipped, 0)
        scalars |= {"lr": float(self.schedule(updates))} | self.meter.read()
        scalars["seconds"] = self.seconds()
        self.logs.train(self.step, scalars)
        self.line = LogLine()

    def measure(self) -> None:
        """Score the evaluation split, with averaged parameters where there are any."""
        count = min(self.config.logs.pictures, len(self.eval_source))
        show = np.linspace(0, len(self.eval_source) - 1, count).astype(int).tolist()
        with self.meter.pause():
            self.summary, self.pictures = evaluate_split(
                self.parts,
                self.eval_step,
                self.state.variables(),
                self.eval_source,
                sizes=self.eval_sizes,
                show=show,
            )

    def evaluate(self) -> None:
        """Measure, and one line of metrics.jsonl about it.

        What was trained is not lost to an image that cannot be read or does not fit in
        memory: where a save is due, it comes first then.
        """
        self.fetch()
        try:
            self.measure()
        except Exception:
            # Other processes are in the middle of their evaluation: alone only.
            if self.step in self.save_steps and jax.process_count() == 1:
                self.summary, self.unmeasured = {}, True
                self.save()
                self.checkpoints.wait()
            raise
        self.logs.evaluation(
            self.step, self.config.data.eval_split, self.summary, self.spec.names
        )
        score = self.summary.get(self.parts.task.metric)
        self.improved = score is not None and (self.best is None or score > self.best)
        if self.improved:
            self.best = score

    def make_up(self) -> None:
        """The evaluation that failed when this step was saved."""
        self.evaluate()
        self.checkpoints.add_metrics(self.step, self.summary)
        self.unmeasured = False

    def wants_save(self) -> bool:
        """At the steps of checkpoint.every, and where the best so far was measured."""
        best = self.improved and self.config.checkpoint.keep_best > 0
        return self.step in self.save_steps or (best and self.step in self.eval_steps)

    def save(self) -> None:
        """A checkpoint, written while training goes on."""
        self.fetch()
        with self.meter.pause():
            finite = jax.device_get(self.is_finite(self.state.params))
            guards.check_saved(self.step, bool(finite))
            evaluated = self.step in self.eval_steps
            self.checkpoints.save(
                self.step,
                self.state,
                self.summary if evaluated else None,
                # What the log of a resumed run needs to go on as if never stopped.
                notes={
                    "line": self.line.to_dict(),
                    "skipped": self.skipped,
                    "best": self.best,
                    "unmeasured": self.unmeasured,
                    "seconds": self.seconds(),
                    "config": configs.to_json(self.config),
                },
            )

    def stop(self) -> None:
        """Save once, and end: the same command goes on from here, bit for bit."""
        self.save()
        self.checkpoints.wait()
        self.logs.info(
            f"SIGTERM: saved step {self.step} of {self.total}; the same command with "
            f"--workdir {self.workdir} goes on from there"
        )
        raise Terminated

    def draw(self) -> Path | None:
        """predictions/*.png: image | truth | prediction; the path of all in one."""
        if not self.pictures:
            return None
        folder = self.workdir / "predictions"
        overview = draw(self.eval_source, self.pictures, folder)
        self.logs.image(self.step, "predictions", overview)
        return folder / "overview.png"

    def seconds(self) -> float:
        """Wall time of the run so far, earlier sessions included."""
        return self.earlier_seconds + time.perf_counter() - self.started

    def loop(self, stopping: Stopping) -> None:
        """Step, log, evaluate, save, to the end or until told to stop."""
        if self.step < self.total:
            feed = on_devices(
                setup.train_batches(
                    self.config, self.train_source, self.step, self.parts.mesh
                ),
                self.parts.mesh,
                self.meter.stall,
            )
            batch = next(feed)
            self.compile(batch)
        else:
            self.eval_step = self.parts.eval_step()
        if self.unmeasured:
            self.make_up()
        elif self.step >= self.total:
            # A finished run, started again: its lines are written already.
            self.measure()
        while self.step < self.total:
            self.advance(batch)
            if self.step < self.total:
                batch = next_batch(feed, stopping)
            if self.step % self.config.logs.every == 0 or self.step == self.total:
                self.log()
            if self.step in self.eval_steps:
                self.evaluate()
            if self.wants_save():
                self.save()
            if self.step < self.total and stopping.due(self.step):
                self.stop()
        self.checkpoints.wait()

    def finish(self) -> dict[str, Any]:
        """The last table, picture and result.json."""
        result = logs.plain(self.summary) | {
            "split": self.config.data.eval_split,
            "steps": self.step,
            "seconds": round(self.seconds(), 1),
            "seed": self.config.seed,
            "best_step": self.checkpoints.best(),
            "parameters": sum(x.size for x in jax.tree.leaves(self.state.params)),
            "command": shlex.join(["segjax", *sys.argv[1:]]),
            "environment": logs.environment(),
        }
        if self.main_process:
            path = self.workdir / "result.json"
            write_text(path, json.dumps(result, indent=2, allow_nan=False) + "\n")
            logs.class_table(self.summary, self.logs.console)
            with writing(self.workdir / "predictions"):
                picture = self.draw()
            self.logs.info(f"result: {path}")
            if picture:
                self.logs.info(f"picture (image, truth, prediction): {picture}")
        return result

    def close(self) -> None:
        """Let go of files and threads, also after an error; the lock comes last."""
        with ExitStack() as stack:
            for part in (self.lock, self.logs, self.checkpoints):
                if part is not None:
                    stack.callback(part.close)


def train(config: Config, workdir: Path) -> dict[str, Any]:
    """Train, evaluate and draw; returns what ``result.json`` holds.

    Raises:
      ValueError: a mistake of the user's, or too many updates in a row skipped.
      OSError: the workdir could not be written.
      Terminated: SIGTERM stopped the run, which saved its state before.
    """
    cache.keep_compiled()
    run = Run(config, workdir)
    with Stopping() as stopping:
        try:
            run.open()
            run.loop(stopping)
            return run.finish()
        finally:
            run.close()

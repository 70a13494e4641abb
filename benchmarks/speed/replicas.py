"""Replicas in one program beside the same runs one after the other.

    python -m benchmarks.speed.replicas [--only 'segnet*'] [--rounds 7]

Whole training steps of k runs of a small network in float32, 5 classes, with flips and
scales: "alone" is segjax's own step of each run in turn, as `segjax train` would make
it; the others are one program of all (segjax/replicas.py), on one device or on two
virtual ones, of which each has half of the replicas. The contestants take turns in one
process, so that what else the machine does meets all of them; batches are on the
devices beforehand. A ratio above 1 means that the replicas are faster than alone.
Record: docs/results/speed_replicas.json; page: docs/replicas.md.
"""

import os
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import jax
import numpy as np

from benchmarks import record
from benchmarks.speed.contest import spread
from segjax import config as configs
from segjax import replicas, setup, sharding
from segjax.batch import LabelSpec, default_palette
from segjax.preprocessing import preprocessing
from segjax.step import stream_key

RECORD = record.ROOT / "docs" / "results" / "speed_replicas.json"
PAGE = record.ROOT / "docs" / "replicas.md"
CONFIG = record.ROOT / "configs" / "resnet_unet.py"
COMMAND = "python -m benchmarks.speed.replicas"
CLASSES = 5
DEVICES = "--xla_force_host_platform_device_count=2"
CONTESTANTS = (("vmap", 1), ("loop", 1), ("loop", 2))


@dataclass(frozen=True)
class Case:
    """``count`` runs of a network on ``batch`` images of ``height`` x ``width``."""

    encoder: str
    decoder: str
    count: int
    batch: int
    height: int
    width: int

    @property
    def key(self) -> str:
        """Its name in the record."""
        size = f"{self.batch} of {self.height}x{self.width}"
        return f"{self.encoder} {self.decoder}, {self.count} runs, {size}"


CASES = (
    Case("segnet_basic", "fcn32s", 4, 2, 24, 32),
    Case("segnet_basic", "segnet_basic", 4, 4, 48, 64),
    Case("mobilenet_v3_small", "lraspp", 4, 2, 24, 32),
    Case("mobilenet_v3_small", "lraspp", 4, 4, 48, 64),
)


def make_parts(case: Case) -> setup.Parts:
    """Network, loss and augmentation of a case on one device."""
    overrides = {
        "model.encoder": case.encoder,
        "model.decoder": case.decoder,
        "data.image_size": (case.height, case.width),
        "data.batch_size": case.batch,
        "augment.scale": (0.5, 2.0),
        "optim.warmup_steps": 0,
        "steps": 1000,
        "epochs": None,
    }
    texts = [f"--config.{key}={value}" for key, value in overrides.items()]
    config = configs.load(str(CONFIG), texts)
    names = tuple(f"class{i}" for i in range(CLASSES))
    spec = LabelSpec(names, default_palette(CLASSES))
    pre = preprocessing(config, 3)
    return setup.make_parts(config, spec, pre, jax.devices()[:1])


def make_batch(case: Case, seed: int) -> dict[str, np.ndarray]:
    """A training batch of noise."""
    rng, size = np.random.default_rng(seed), (case.height, case.width)
    return {
        "image": rng.integers(0, 256, (case.batch, *size, 3), np.uint8),
        "label": rng.integers(0, CLASSES, (case.batch, *size), np.uint8),
        "size": np.full((case.batch, 2), size, np.int32),
    }


Step = Callable[[], list[float]]


def alone(case: Case, parts: setup.Parts, tx) -> Step:
    """A function that makes one step of each run; their losses."""
    where = jax.tree.map(lambda leaf: leaf.sharding, parts.abstract_state(tx))
    init = jax.jit(parts.init(tx), out_shardings=where)
    runs = []
    for seed in range(case.count):
        batch = sharding.to_devices(make_batch(case, seed), parts.mesh)
        runs.append([init(stream_key(seed, "init")), batch])
    step = parts.train_step(tx, where).lower(*runs[0]).compile()

    def advance() -> list[float]:
        losses = []
        for run in runs:
            run[0], out = step(*run)
            losses.append(out["loss"])
        return [float(loss) for loss in jax.device_get(losses)]

    return advance


def together(case: Case, parts: setup.Parts, tx, how: str, devices: int) -> Step:
    """The same of all runs as one program."""
    mesh = replicas.make_mesh(case.count, jax.devices()[:devices])
    init, seeds = jax.jit(parts.init(tx)), range(case.count)
    states = replicas.stack([init(stream_key(seed, "init")) for seed in seeds], mesh)
    batch = replicas.stack([make_batch(case, seed) for seed in seeds], mesh)
    # All runs augment by the config's seed, so that "alone" is compiled once.
    rest = jax.device_put(
        (np.full(case.count, parts.config.seed, np.int32), np.ones(case.count, "f4")),
        replicas.sharded(mesh),
    )
    step = replicas.make_step(parts.train_function, tx, mesh, how)
    step = step.lower(states, batch, *rest).compile()

    def advance() -> list[float]:
        nonlocal states
        states, out = step(states, batch, *rest)
        return jax.device_get(out["loss"]).tolist()

    return advance


def measure(case: Case, rounds: int, steps: int) -> dict[str, Any]:
    """A row: seconds to compile, and per round seconds for a step of all runs."""
    parts = make_parts(case)
    tx, _ = setup.make_tx(parts.config, 1000)
    makers = {"alone": partial(alone, case, parts, tx)}
    for how, devices in CONTESTANTS:
        name = f"{how}, {devices} device{'s' * (devices > 1)}"
        makers[name] = partial(together, case, parts, tx, how, devices)
    contestants, compiled, first = {}, {}, {}
    for name, make in makers.items():
        begin = time.perf_counter()
        contestants[name] = make()
        compiled[name] = round(time.perf_counter() - begin, 1)
        begin = time.perf_counter()
        first[name] = contestants[name]()
        print(f"{name}: {compiled[name]} s, {time.perf_counter() - begin:.2f} s a step")
        # Otherwise something else would be timed.
        np.testing.assert_allclose(first[name], first["alone"], rtol=1e-5)
    turns: dict[str, list[float]] = {name: [] for name in contestants}
    for _ in range(rounds):
        for name, advance in contestants.items():
            begin = time.perf_counter()
            for _ in range(steps):
                advance()
            turns[name].append((time.perf_counter() - begin) / steps)
    return asdict(case) | {
        "first_losses": first["alone"],
        "compile_seconds": compiled,
        "seconds_per_step": turns,
    }


def ratios(row: Mapping[str, Any], name: str) -> list[float]:
    """Seconds alone over seconds together, by round."""
    turns = row["seconds_per_step"]
    return [a / b for a, b in zip(turns["alone"], turns[name], strict=True)]


PAGE_HEAD = """# Replicas: k trainings in one program

`python -m experiments.replicas` trains several seeds or learning rates of one small
network as one program ([segjax/replicas.py](../segjax/replicas.py)). Each replica is
whole on one device and shares nothing with the others.

**How equal.** Replica i is the run that would have been trained alone: after 3 steps in
float64, images too, every parameter, statistic, moment and average to 1e-9, on 1 and 8
devices, with augmentation and batch norm (`pytest -m '' tests/test_replicas.py`).
Images of 8 bits are augmented in float32 in any run, which *vmap* rounds otherwise: of
float32 images, 17 of 5,760 weights then differed by up to 2.3e-9. In float32 the first
loss agrees to 1e-5; from there the two drift apart by rounding, as runs on other
numbers of devices do. So the scores are draws of the same distribution, not the same
numbers, and they never enter a study's results.

**How fast, here.** Seconds for one step of all runs, and how many times as fast as
segjax's own steps one after the other (median and range over rounds; above 1: faster).
"""
PAGE_TAIL = """
*vmap* makes a convolution a grouped one, as every replica has its own kernel, and XLA
has no fast grouped convolution for CPUs: there *loop* is taken, in which the program
has the replicas one after the other, spread over the devices. (Not as a `lax.map`:
convolutions inside a while loop were four times as slow.) Compiling it grows with the
replicas. What it saves on a CPU is the time between small operations; where one run
keeps all threads busy there is nothing to be had. On accelerators *vmap* is taken; none
was there to measure it on. Virtual devices on a CPU:
`XLA_FLAGS=--xla_force_host_platform_device_count=2`.
"""


def render(content: Mapping[str, Any]) -> str:
    """The page of a record."""
    rows = content["rows"]
    if not rows:
        return f"{PAGE_HEAD}\nNo row was measured.\n{PAGE_TAIL}"
    names = [name for name in next(iter(rows.values()))["compile_seconds"]]
    lines = []
    for key, row in rows.items():
        own = 1000 * statistics.median(row["seconds_per_step"]["alone"])
        cells = [key, f"{own:.0f} ms"]
        cells += [spread(ratios(row, name)) for name in names if name != "alone"]
        longest = row["compile_seconds"]
        cells.append(" / ".join(f"{longest[name]:.0f}" for name in names))
        lines.append(cells)
    header = ("network, images a run", *names, "start-up, s")
    table = record.table(header, lines)
    return f"{PAGE_HEAD}\n{table}\n{PAGE_TAIL}\n{record.where(content)}\n"


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure what is missing; returns the exit code."""
    parser = record.parser(__doc__)
    record.add_flags(parser)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--steps", type=int, default=1, help="timed steps per turn")
    args = parser.parse_args(arguments)
    cases = {c.key: partial(measure, c, args.rounds, args.steps) for c in CASES}
    chosen = record.chosen(cases, args.only)
    failed = record.run(RECORD, chosen, COMMAND, args.again, args.minutes)
    PAGE.write_text(render(record.read(RECORD)))
    print(PAGE.read_text())
    return int(bool(failed))


if __name__ == "__main__":
    if len(jax.devices()) < 2:
        flags = f"{os.environ.get('XLA_FLAGS', '')} {DEVICES}".strip()
        os.environ["XLA_FLAGS"] = flags
        os.execv(sys.executable, [sys.executable, "-m", __spec__.name, *sys.argv[1:]])
    sys.exit(main())

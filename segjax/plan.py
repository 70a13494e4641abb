"""``segjax plan``: the real steps, compiled for a TPU slice that nobody has to own.

libtpu (the extra ``[tpu]``) holds the TPU's compiler and needs no TPU. Its program
tells memory, FLOPs, bytes, collectives, and in each fusion an estimate of its cycles:
the compiler's estimate, not a measurement. Without libtpu the step is compiled for the
CPU, and only its cost analysis is told.
"""

import dataclasses
import gzip
import hashlib
import importlib.metadata
import json
import os
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from segjax import cache, hlo, logs, setup, sharding, traffic
from segjax.batch import ClassSpec, LabelSpec
from segjax.chips import Chip, chip_of
from segjax.config import Config
from segjax.flops import count_macs
from segjax.preprocessing import Preprocessing, pair, preprocessing
from segjax.tasks import TASKS
from segjax.writing import write_text

# Above this share of bytes without an estimate the sum of cycles is a lower bound.
ESTIMATED_ENOUGH = 0.05
STEPS = ("train", "eval")


@dataclass(frozen=True)
class Data:
    """What a step must know of the data."""

    spec: LabelSpec | ClassSpec
    channels: int
    dtype: Any
    buffer: tuple[int, int]
    examples: int


def describe_data(config: Config, classes: int | None) -> Data:
    """From the config's dataset, or with ``classes`` from the config alone.

    Raises:
      ValueError: the dataset is not there.
    """
    if classes is None:
        source = setup.open_split(config, config.data.train_split)
        dtype = np.asarray(source[0]["image"]).dtype
        buffer = setup.train_buffer(config, source)
        return Data(source.spec, source.channels, dtype, buffer, len(source))
    names = tuple(f"class{i}" for i in range(classes))
    if config.task == "classification":
        spec = ClassSpec(names)
    else:
        spec = LabelSpec(names, tuple((i, i, i) for i in range(classes)))
    buffer = pair(config.data.buffer_size or config.data.image_size)
    return Data(spec, config.data.channels or 3, np.uint8, buffer, 1000)


def tpu_devices(topology: str) -> Sequence[Any] | None:
    """Devices to compile for; None where libtpu is not installed.

    Raises:
      ValueError: libtpu does not know the topology.
    """
    if _libtpu() is None:
        return None
    # No TPU is asked for, so libtpu need not look for one.
    os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")
    # Nor keep others from it: several plans may be made at once.
    os.environ.setdefault("ALLOW_MULTIPLE_LIBTPU_LOAD", "1")
    os.environ.setdefault("TPU_WORKER_HOSTNAMES", "localhost")
    os.environ.setdefault("TPU_ACCELERATOR_TYPE", topology.replace(":", "-"))
    from jax.experimental import topologies

    try:
        found = topologies.get_topology_desc(
            platform="tpu", topology_name=topology
        ).devices
    except Exception as error:
        text = " ".join(str(error).split())[:200]
        raise ValueError(f"--topology {topology}: libtpu refuses it: {text}") from error
    return found


@contextmanager
def progress(what: str, say: Callable[[str], None], every: float = 20.0):
    """Tell every so many seconds that the work goes on."""
    done, begin = threading.Event(), time.monotonic()

    def tell() -> None:
        while not done.wait(every):
            say(f"{what}: {time.monotonic() - begin:.0f} s so far")

    thread = threading.Thread(target=tell, daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


def lower_steps(
    config: Config, data: Data, devices: Sequence[Any], names: Sequence[str] = STEPS
) -> tuple[dict[str, Any], dict[str, int]]:
    """The steps as the run would make them, lowered, and their multiply-adds."""
    pre = preprocessing(config, data.channels)
    mesh = setup.make_mesh(config, devices)
    parts = setup.assemble(config, data.spec, pre, mesh)
    tx, _ = setup.make_tx(config, setup.num_steps(config, data.examples))
    state = parts.abstract_state(tx)
    where = jax.tree.map(lambda leaf: leaf.sharding, state)
    rows, shapes = batch_sizes(config), {}
    for name in names:
        key = "data" if name == "train" else "eval"
        sharding.check_batch_size(f"config.{key}.batch_size", rows[name], mesh)
        shapes[name] = abstract_batch(config, data, pre, mesh, rows[name])
        if name == "eval":
            shapes[name]["label_size"] = shapes[name]["size"]
    train = parts.train_step(tx, where)
    variables = {"params": state.params, "batch_stats": state.batch_stats}
    before = {"train": state, "eval": variables}
    arguments = {name: (before[name], shapes[name]) for name in names}
    functions = {"train": train, "eval": parts.eval_step()}
    lowered = {name: functions[name].lower(*arguments[name]) for name in names}
    macs = {name: count_macs(functions[name], *arguments[name]) for name in names}
    return lowered, macs


def batch_sizes(config: Config) -> dict[str, int]:
    """Step -> the images of its batch, over all devices."""
    train = config.data.batch_size
    return {"train": train, "eval": config.eval.batch_size or train}


def abstract_batch(
    config: Config, data: Data, pre: Preprocessing, mesh, rows: int
) -> dict:
    """Shapes, dtypes and shardings of a batch of so many images."""
    where = sharding.batch_sharding(mesh)
    shapes = {
        "image": ((rows, *data.buffer, pre.channels), data.dtype),
        "label": TASKS[config.task].label_shape(rows, data.buffer),
        "size": ((rows, 2), np.int32),
    }
    return {
        key: jax.ShapeDtypeStruct(shape, jnp.dtype(dtype), sharding=where)
        for key, (shape, dtype) in shapes.items()
    }


@dataclass(frozen=True)
class Compiled:
    """What is kept of a compiled step: the program's text and the compiler's sums.

    ``flops`` and ``bytes`` are of XLA's cost analysis; ``peak`` and ``temporary`` bytes
    of a device's memory; ``seconds`` what compiling took.
    """

    text: str
    flops: float
    bytes: float
    peak: int
    temporary: int
    seconds: float


def describe(
    compiled: Compiled, chip: Chip, macs: int, images: int, devices: int, tpu: bool
) -> dict[str, Any]:
    """What a compiled step costs one device.

    Args:
      macs: multiply-adds of the whole step, all devices.
      images: of the global batch.
      tpu: whether the TPU's compiler made it, whose text has estimates.
    """
    program = hlo.parse(compiled.text)
    account = hlo.account(program)
    # XLA's analysis counts a loop's body once; the account knows how often it runs.
    repeated = account.bytes / max(account.bytes_once, 1)
    work, moved = 2 * macs / devices, compiled.bytes * repeated
    found = hlo.as_json(account)
    row: dict[str, Any] = {
        "model_flops": work,
        "compiler_flops": compiled.flops,
        "bytes_accessed": moved,
        "intensity": work / moved,
        "peak_bytes": compiled.peak,
        "temporary_bytes": compiled.temporary,
        "collectives": found["collectives"],
        "compile_seconds": compiled.seconds,
    }
    if not tpu:
        return row
    hbm = traffic.hbm_traffic(program)
    bound = max(work / chip.flops, hbm / chip.bandwidth)
    seconds = account.cycles / chip.clock
    # As if nothing of what has no estimate happened while something else is computed.
    extra = sum(account.unestimated.values()) + sum(account.prefetched.values())
    longest = seconds + extra / chip.bandwidth
    return row | {
        "hbm_traffic": hbm,
        "intensity": work / max(hbm, 1),  # of a CPU: by XLA's count
        "fits": compiled.peak <= chip.hbm,
        "roofline_seconds": bound,
        "estimated_cycles": account.cycles,
        "estimated_cycles_at_most": round(longest * chip.clock),
        "estimated_seconds": seconds,
        "estimated_images_per_s": images / seconds,
        "estimated_mfu": work / seconds / chip.flops,
        "lower_bound": account.unestimated_share > ESTIMATED_ENOUGH
        or bool(account.unknown_loops),
        **found,
    }


def compile_step(name: str, lowered: Any, topology: str, say) -> Compiled:
    """Compile, or take what the cache has of the same program.

    Kept is what the compiler said, not what :func:`describe` makes of it.
    """
    versions = [importlib.metadata.version("jaxlib"), topology, str(_libtpu())]
    # The compilers' own settings make other programs of it.
    flags = [os.environ.get(name) for name in ("XLA_FLAGS", "LIBTPU_INIT_ARGS")]
    text = "\n".join([*versions, *filter(None, flags), lowered.as_text()])
    stem = hashlib.sha256(text.encode()).hexdigest()
    path = cache.folder("programs") / f"{stem}.json.gz"
    if path.is_file():
        say(f"{name} step: known from {path}")
        return Compiled(**json.loads(gzip.decompress(path.read_bytes())))
    begin = time.monotonic()
    with progress(f"compiling the {name} step for {topology}", say):
        compiled = lowered.compile()
    cost, memory = compiled.cost_analysis(), compiled.memory_analysis()
    peak = (
        memory.argument_size_in_bytes
        + memory.output_size_in_bytes
        - memory.alias_size_in_bytes
        + memory.temp_size_in_bytes
        + memory.generated_code_size_in_bytes
    )
    found = Compiled(
        compiled.as_text(),
        cost["flops"],
        cost["bytes accessed"],
        peak,
        memory.temp_size_in_bytes,
        round(time.monotonic() - begin, 1),
    )
    temporary = path.with_suffix(f".{os.getpid()}.tmp")
    content = json.dumps(dataclasses.asdict(found)).encode()
    temporary.write_bytes(gzip.compress(content, 3, mtime=0))
    temporary.replace(path)
    return found


def _libtpu() -> str | None:
    """Its version, where it is installed."""
    try:
        return importlib.metadata.version("libtpu")
    except importlib.metadata.PackageNotFoundError:
        return None


def plan(
    config: Config,
    name: str,
    topology: str,
    *,
    batch_per_chip: int | None = None,
    classes: int | None = None,
    steps: Sequence[str] = STEPS,
    say: Callable[[str], None] = print,
) -> dict[str, Any]:
    """Compile the steps for a topology; returns what they cost one device.

    Args:
      name: the config's, for the report.
      topology: "v5e:4x4", "v4:2x2x1" ...
      batch_per_chip: images per chip, in both steps, instead of the config's batches.
      classes: their number, where the dataset is not here.
      steps: which of "train" and "eval".

    Raises:
      ValueError: an unknown topology, or a batch that does not fit it.
    """
    chip = chip_of(topology)
    data = describe_data(config, classes)
    devices = tpu_devices(topology)
    estimated = devices is not None
    if devices is None:
        say(
            "libtpu is not installed (pip install 'segjax[tpu]'): compiling for one "
            "CPU device; its FLOPs and bytes are told, no estimate for the TPU"
        )
        devices = jax.devices("cpu")[:1]
        # Of one device: whatever the config's mesh and groups of devices are.
        config.mesh.data = config.mesh.fsdp = config.mesh.spatial = 1
        config.model.norm_group = "all"
    count = max(len(devices) // chip.per_chip, 1) if estimated else 1
    if batch_per_chip is not None:
        config.data.batch_size = batch_per_chip * count
        config.eval.batch_size = None
    lowered, macs = lower_steps(config, data, devices, steps)
    images = batch_sizes(config)

    def row(step: str) -> dict[str, Any]:
        where = topology if estimated else "cpu"
        compiled = compile_step(step, lowered[step], where, say)
        count = len(devices)
        return describe(compiled, chip, macs[step], images[step], count, estimated)

    return {
        "config": name,
        "topology": topology,
        "chip": chip.name if estimated else "CPU",
        "devices": len(devices),
        "chips": count,
        "batch_size": images["train"],
        "eval_batch_size": images["eval"],
        "image_size": list(pair(config.data.image_size)),
        "dtype": config.model.dtype,
        "hbm_bytes": chip.hbm if estimated else None,
        "steps": {step: row(step) for step in steps},
        "environment": logs.environment() | {"libtpu": _libtpu()},
    }


def save(results: Sequence[dict[str, Any]], path: Path) -> Path:
    """Write the JSON: one plan, or a list of two."""
    path.parent.mkdir(parents=True, exist_ok=True)
    content = results[0] if len(results) == 1 else list(results)
    write_text(path, json.dumps(logs.plain(content), indent=1) + "\n")
    return path


def report(results: Sequence[dict[str, Any]], path: Path) -> None:
    """Print the tables, and where the JSON is."""
    from rich.console import Console

    console = Console(soft_wrap=True)
    for table in logs.plan_tables(results):
        console.print(table)
    console.print(f"plan: {path}", markup=False)

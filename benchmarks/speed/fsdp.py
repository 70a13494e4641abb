"""What a device holds of a run's state, by how many share it: ``mesh.fsdp``.

    python -m benchmarks.speed.fsdp [--only "resnet50 unet*"]

The real training step (AdamW, moving average), compiled for eight virtual devices of
the CPU, of which 1, 2, 4 or 8 share parameters, moments and average and the rest repeat
them. Told is what the compiler says that one device holds of the step's arguments, and
the same by hand: the sizes of all shards. Nothing is run or timed.
Record: docs/results/speed_fsdp.json; the table is in docs/scale.md.
"""

import sys
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import jax
import numpy as np

from benchmarks import record
from segjax import config as configs
from segjax import plan, setup
from segjax.preprocessing import preprocessing

RECORD = record.ROOT / "docs" / "results" / "speed_fsdp.json"
PAGE = record.ROOT / "docs" / "scale.md"
CONFIG = record.ROOT / "configs" / "resnet_unet.py"
COMMAND = "python -m benchmarks.speed.fsdp"
NETWORKS = ("resnet50 unet", "mit_b0 segformer", "segnet_basic segnet_basic")
DEVICES, CLASSES, BATCH = 8, 21, 8
SHARED = (1, 2, 4, 8)


def make_config(network: str, fsdp: int) -> Any:
    """Of 8 images of 64x64."""
    encoder, decoder = network.split()
    overrides = (
        f"model.encoder={encoder}",
        f"model.decoder={decoder}",
        "data.image_size=64",
        f"data.batch_size={BATCH}",
        "optim.ema_decay=0.999",
        f"mesh.fsdp={fsdp}",
    )
    return configs.load(str(CONFIG), overrides)


def bytes_of(tree: Any, shared: bool) -> int:
    """Of all arrays: the whole ones, or one device's shards."""
    total = 0
    for leaf in jax.tree.leaves(tree):
        shape = leaf.sharding.shard_shape(leaf.shape) if shared else leaf.shape
        total += int(np.prod(shape)) * leaf.dtype.itemsize
    return total


def by_hand(network: str, fsdp: int) -> dict[str, int]:
    """Bytes of the state, whole and one device's, and of its rows of the batch."""
    config = make_config(network, fsdp)
    data = plan.describe_data(config, CLASSES)
    pre = preprocessing(config, data.channels)
    mesh = setup.make_mesh(config, jax.devices()[:DEVICES])
    parts = setup.assemble(config, data.spec, pre, mesh)
    tx, _ = setup.make_tx(config, setup.num_steps(config, data.examples))
    state = parts.abstract_state(tx)
    return {
        "parameters": sum(int(leaf.size) for leaf in jax.tree.leaves(state.params)),
        "state_bytes": bytes_of(state, shared=False),
        "state_bytes_per_device": bytes_of(state, shared=True),
        "batch_bytes_per_device": bytes_of(
            plan.abstract_batch(config, data, pre, mesh, config.data.batch_size),
            shared=True,
        ),
    }


def measure(network: str, fsdp: int) -> dict[str, Any]:
    """The row of a network whose state so many devices share."""
    config = make_config(network, fsdp)
    data = plan.describe_data(config, CLASSES)
    devices = jax.devices()[:DEVICES]
    lowered, _ = plan.lower_steps(config, data, devices, ("train",))
    planned: Any = lowered["train"].compile().memory_analysis()
    return {
        "network": network,
        "fsdp": fsdp,
        "devices": DEVICES,
        "argument_bytes_per_device": planned.argument_size_in_bytes,
        "aliased_bytes_per_device": planned.alias_size_in_bytes,
        "temporary_bytes_per_device": planned.temp_size_in_bytes,
        **by_hand(network, fsdp),
    }


def figure(rows: Mapping[str, Any]) -> str:
    """What docs/reliability.md says of all rows."""
    before, after = (rows[f"{NETWORKS[0]}, fsdp={n}"] for n in (SHARED[0], SHARED[-1]))
    held = [row["argument_bytes_per_device"] / 1e6 for row in (before, after)]
    return (
        f"{NETWORKS[0]}: {held[0]:.1f} MB, over {SHARED[-1]} devices {held[1]:.1f} MB"
    )


def render(content: Mapping[str, Any]) -> str:
    """The table of docs/scale.md."""
    found: dict[str, dict[int, Any]] = {}
    for row in content["rows"].values():
        found.setdefault(row["network"], {})[row["fsdp"]] = row
    lines = []
    for network in (name for name in NETWORKS if name in found):
        rows = found[network]
        held = [row["argument_bytes_per_device"] for _, row in sorted(rows.items())]
        shares = [f"{b / 1e6:.1f} MB (1/{held[0] / b:.1f})" for b in held]
        parameters = f"{rows[1]['parameters'] / 1e6:.1f} M"
        lines.append([network, parameters, f"{held[0] / 1e6:.1f} MB", *shares[1:]])
    header = ["network", "parameters", *(f"fsdp = {n}" for n in SHARED)]
    return f"{record.table(header, lines)}\n\n{record.where(content)}"


def main(arguments: Sequence[str] | None = None) -> int:
    """Compile what is missing; returns the exit code."""
    parser = record.parser(__doc__)
    record.add_flags(parser)
    args = parser.parse_args(arguments)
    jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_num_cpu_devices", DEVICES)
    cases = {
        f"{network}, fsdp={fsdp}": partial(measure, network, fsdp)
        for network in NETWORKS
        for fsdp in SHARED
    }
    code = record.carry_out(RECORD, cases, COMMAND, args, render)
    record.insert(PAGE, "fsdp", render(record.read(RECORD)))
    return code


if __name__ == "__main__":
    sys.exit(main())

"""Pixels that another number of devices labels otherwise: docs/results/ties.json.

    python -m benchmarks.ties [--only "resnet18 unet"] [--again]

A network is trained for some steps on rendered scenes; then the whole evaluation split
is evaluated on 1, 2, 4 and 8 virtual devices of the CPU in float32. Sums over other
parts of a batch round otherwise, so that scores that are as good as equal may change
places. A pixel differs if two of the four label it otherwise; its gap is that of its
two best scores, relative to the larger of their magnitudes, by a forward pass of its
own on one device.
"""

import sys
import tempfile
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np

from benchmarks import record
from segjax import config as configs
from segjax import setup, sharding
from segjax.evaluate import evaluate_split
from segjax.train import train

RECORD = record.ROOT / "docs" / "results" / "ties.json"
CONFIG = record.ROOT / "configs" / "resnet_unet.py"
COMMAND = "python -m benchmarks.ties"
NETWORKS = ("resnet18 unet", "mobilenet_v2 deeplabv3plus")
DEVICES = (1, 2, 4, 8)
LIMIT = 1e-4
OPTIONS = """
steps=100
data.image_size=96
data.batch_size=16
data.shapes.train_examples=800
data.shapes.val_examples=400
eval.batch_size=8
logs.tensorboard=False
logs.pictures=0
"""


def predictions(parts, variables, source) -> tuple[np.ndarray, dict[str, Any]]:
    """uint8[N, h, w] of all examples, and the summary of the evaluation."""
    summary, shown = evaluate_split(
        parts,
        parts.eval_step(),
        jax.device_put(variables, sharding.replicated(parts.mesh)),
        source,
        show=range(len(source)),
    )
    return np.stack([shown[i] for i in range(len(source))]), summary


def gaps(parts, variables, source, batch_size: int = 16) -> np.ndarray:
    """float[N, h, w]: how far the two best scores lie apart, relative to the larger."""
    forward, found = jax.jit(partial(parts.model.apply, train=False)), []
    for start in range(0, len(source), batch_size):
        rows = range(start, min(start + batch_size, len(source)))
        images = np.stack([source[i]["image"] for i in rows]) / 255
        images = ((images - parts.pre.mean) / parts.pre.std).astype(np.float32)
        second, best = np.moveaxis(
            np.sort(np.asarray(forward(variables, images)), -1)[..., -2:], -1, 0
        )
        found.append((best - second) / np.maximum(np.abs(best), np.abs(second)))
    return np.concatenate(found)


def compare(config, workdir: Path) -> dict[str, Any]:
    """Of a run in ``workdir``: what differs between numbers of devices.

    Raises:
      RuntimeError: a pixel differs whose gap is not below :data:`LIMIT`.
    """
    run = setup.load_parts(workdir, [])
    source = setup.open_split(config, "val")
    variables = jax.device_get(setup.restore_variables(run, workdir, "latest")[0])
    found, miou = {}, {}
    for count in DEVICES:
        devices = jax.devices()[:count]
        parts = setup.make_parts(config, run.spec, run.pre, devices)
        found[count], summary = predictions(parts, variables, source)
        miou[str(count)] = summary["miou"]
    alone = setup.make_parts(config, run.spec, run.pre, jax.devices()[:1])
    gap = gaps(alone, variables, source)
    differs = np.any([found[n] != found[1] for n in DEVICES], 0)
    row = {
        "examples": len(source),
        "pixels": int(differs.size),
        "differing_from_one_device": {
            str(n): int(np.sum(found[n] != found[1])) for n in DEVICES
        },
        "differing": int(differs.sum()),
        "gaps": sorted(float(x) for x in gap[differs]),
        "miou": miou,
        "pixels_below_limit": int(np.sum(gap < LIMIT)),
    }
    if np.any(gap[differs] >= LIMIT):
        raise RuntimeError(f"gap of {max(row['gaps'])}: {row}")
    return row


def measure(network: str, options: Sequence[str] = ()) -> dict[str, Any]:
    """The row of a network."""
    encoder, decoder = network.split()
    overrides = [f"model.encoder={encoder}", f"model.decoder={decoder}"]
    overrides += [*OPTIONS.split(), *options]
    config = configs.load(str(CONFIG), overrides)
    with tempfile.TemporaryDirectory() as temporary:
        workdir = Path(temporary, "run")
        train(config, workdir)
        return {"options": overrides, **compare(config, workdir)}


def figure(rows: Mapping[str, Any]) -> str:
    """What docs/reliability.md says of all rows."""
    pixels = sum(row["pixels"] for row in rows.values())
    differing = sum(row["differing"] for row in rows.values())
    gaps = [gap for row in rows.values() for gap in row["gaps"]]
    largest = f", the largest gap {max(gaps):.0e}" if gaps else ""
    return f"{differing} of {pixels:,} pixels ({', '.join(rows)}){largest}"


def render(content: Mapping[str, Any]) -> str:
    """Each network's row, and where it was measured."""
    lines = [
        f"{key}: {row['differing']} of {row['pixels']} pixels, gaps up to "
        f"{max(row['gaps'], default=0):.1e}; {row['pixels_below_limit']} have a gap "
        f"below {LIMIT:.0e}"
        for key, row in content["rows"].items()
    ]
    return "\n".join([*lines, figure(content["rows"]), record.where(content)])


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure what is missing; returns the exit code."""
    parser = record.parser(__doc__)
    record.add_flags(parser)
    args = parser.parse_args(arguments)
    jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_num_cpu_devices", max(DEVICES))
    cases = {network: partial(measure, network) for network in NETWORKS}
    return record.carry_out(RECORD, cases, COMMAND, args, render)


if __name__ == "__main__":
    sys.exit(main())

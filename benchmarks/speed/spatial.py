"""One large image over the rows of eight devices: docs/results/speed_spatial.json.

    python -m benchmarks.speed.spatial [--only "resnet18 unet*"]

A forward pass in float32 of one image of 1024x2048, on one device and on eight virtual
devices of the CPU that share its rows (``mesh.spatial``), in a process of its own: how
far the logits differ, the memory that XLA plans per device, and what the devices
exchange. Nothing is timed. Temporary memory is that of the maps; "all of it" adds the
image, the logits and the parameters, which every device holds whole.
"""

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks import record

RECORD = record.ROOT / "docs" / "results" / "speed_spatial.json"
COMMAND = "python -m benchmarks.speed.spatial"
NETWORKS = ("resnet50 deeplabv3plus", "resnet18 unet")
SIZE, CLASSES, DEVICES = (1024, 2048), 19, 8


def compiled(network: str, spatial: int, variables, image) -> tuple[Any, Any]:
    """The forward pass, and its arguments on ``spatial`` devices that share rows."""
    import jax

    from segjax import sharding
    from segjax.models import build

    encoder, decoder = network.split()
    model = build(encoder, decoder, CLASSES, platform="cpu", spatial=spatial)
    mesh = sharding.make_mesh(1, 1, spatial, jax.devices()[:spatial])
    whole, rows = sharding.replicated(mesh), sharding.image_sharding(mesh)
    forward = jax.jit(model.apply, in_shardings=(whole, rows), out_shardings=rows)
    arguments = jax.device_put((variables, image), (whole, rows))
    return forward.lower(*arguments).compile(), arguments


def random_variables(network: str) -> Any:
    """Fresh parameters with running statistics that do something."""
    import jax
    import jax.numpy as jnp
    import numpy as np

    from segjax.models import build

    rng = np.random.default_rng(0)
    encoder, decoder = network.split()
    model = build(encoder, decoder, CLASSES)
    variables = jax.jit(model.init)(jax.random.key(0), jnp.zeros((1, 64, 64, 3)))

    def stir(leaf):
        return leaf * rng.uniform(0.5, 1.5, leaf.shape).astype(leaf.dtype)

    statistics = jax.tree.map(stir, variables["batch_stats"])
    return jax.device_get({**variables, "batch_stats": statistics})


def measure(network: str, size: tuple[int, int] = SIZE) -> dict[str, Any]:
    """The row of a network; wants :data:`DEVICES` devices."""
    import numpy as np

    from segjax import hlo

    variables = random_variables(network)
    image = np.random.default_rng(1).normal(size=(1, *size, 3)).astype(np.float32)
    logits, temporary, memory, exchanged = [], [], [], {}
    for devices in (1, DEVICES):
        program, arguments = compiled(network, devices, variables, image)
        planned = program.memory_analysis()
        temporary.append(planned.temp_size_in_bytes)
        held = planned.argument_size_in_bytes + planned.output_size_in_bytes
        memory.append(temporary[-1] + held)
        logits.append(np.asarray(program(*arguments)))
        exchanged = hlo.largest_collectives(hlo.parse(program.as_text()))
    return {
        "devices": DEVICES,
        "largest_difference": float(np.abs(logits[1] - logits[0]).max()),
        "largest_logit": float(np.abs(logits[0]).max()),
        "temporary_bytes": dict(zip(("one", "each"), temporary, strict=True)),
        "all_bytes": dict(zip(("one", "each"), memory, strict=True)),
        "collectives": {
            kind: {"count": count, "largest_bytes": largest}
            for kind, (count, largest) in sorted(exchanged.items())
        },
    }


def measure_apart(network: str, size: tuple[int, int] = SIZE) -> dict[str, Any]:
    """:func:`measure` in a process that has the devices.

    Raises:
      RuntimeError: it failed; with its last words.
    """
    flags = os.environ.get("XLA_FLAGS", "")
    count = f"--xla_force_host_platform_device_count={DEVICES}"
    environment = {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": f"{flags} {count}"}
    code = (
        "import json; from benchmarks.speed.spatial import measure; "
        f"print(json.dumps(measure({network!r}, {tuple(size)!r})))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=record.ROOT,
        env=os.environ | environment,
        capture_output=True,
        text=True,
    )
    if done.returncode:
        raise RuntimeError(done.stderr.strip()[-300:])
    return json.loads(done.stdout.splitlines()[-1])


def render(content: Mapping[str, Any]) -> str:
    """The record as a markdown table."""
    rows = []
    for key, row in content["rows"].items():
        found = row["collectives"]
        exchanged = ", ".join(
            f"{c['count']} {kind} (at most {c['largest_bytes'] / 1024:,.0f} KiB)"
            for kind, c in found.items()
        )
        memory = [
            f"{bytes['each'] / 2**20:,.0f} of {bytes['one'] / 2**20:,.0f} "
            f"(1/{bytes['one'] / bytes['each']:.2f})"
            for bytes in (row["temporary_bytes"], row["all_bytes"])
        ]
        difference = f"{row['largest_difference']:.1e} of {row['largest_logit']:.1f}"
        rows.append([key, difference, *memory, exchanged])
    header = (
        "network",
        "logits differ by",
        "temporary MiB per device, of one's",
        "all of it",
        "exchanged",
    )
    return record.table(header, rows)


def arguments():
    parser = record.parser(__doc__)
    record.add_flags(parser)
    parser.add_argument("--output", type=Path, default=RECORD, help="of the record")
    return parser.parse_args()


def main() -> int:
    args = arguments()
    cases = {
        f"{name} 1x{SIZE[0]}x{SIZE[1]}": partial(measure_apart, name)
        for name in NETWORKS
    }
    return record.carry_out(args.output, cases, COMMAND, args, render)


if __name__ == "__main__":
    sys.exit(main())

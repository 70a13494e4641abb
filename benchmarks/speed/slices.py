"""One training step on slices of 8 to 1024 chips, by the TPU compiler.

    python -m benchmarks.speed.slices [--only "v5e:16x16*"] [--minutes 5]

Needs the extra [tpu] and no TPU: ``segjax plan`` for each slice, with as many images
per chip on each. Estimates are the compiler's, of one chip's computation; of
collectives it gives number and bytes, no time. A slice that does not compile is told,
too.
Record: docs/results/speed_slices.json; the table is in docs/scale.md.
"""

import sys
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from benchmarks import record
from segjax import config as configs
from segjax.plan import plan

RECORD = record.ROOT / "docs" / "results" / "speed_slices.json"
PAGE = record.ROOT / "docs" / "scale.md"
CONFIG = record.ROOT / "configs" / "resnet_unet.py"
COMMAND = "python -m benchmarks.speed.slices"
OPTIONS = (
    "model.encoder=resnet18",
    "model.decoder=fcn32s",  # of the shortest to compile
    "data.image_size=128",
    "model.dtype=bfloat16",
)
CLASSES, IMAGES = 21, 32  # images per chip
# Topology -> meshes, as options beyond those of data alone.
CASES: dict[str, tuple[str, ...]] = {
    "v5e:2x4": (),
    "v5e:4x8": (),
    "v5e:8x8": (),
    "v5e:8x8 fsdp=8": ("mesh.fsdp=8",),
    "v5e:16x16": (),
    "v5e:16x16 fsdp=8": ("mesh.fsdp=8",),
    "v5p:8x8x16": (),
}
KEPT = (
    "estimated_cycles",
    "estimated_cycles_at_most",
    "estimated_seconds",
    "estimated_images_per_s",
    "estimated_mfu",
    "share_without_estimate",
    "lower_bound",
    "bytes_accessed",
    "peak_bytes",
    "fits",
    "model_flops",
    "collectives",
    "compile_seconds",
)


def measure(case: str) -> dict[str, Any]:
    """The row of a slice; what the compiler said where it refused."""
    topology = case.split()[0]
    options = [*OPTIONS, *CASES[case]]
    row: dict[str, Any] = {"topology": topology, "images_per_chip": IMAGES}
    row["options"] = options
    try:
        found = plan(
            configs.load(str(CONFIG), options),
            case,
            topology,
            batch_per_chip=IMAGES,
            classes=CLASSES,
            steps=("train",),
        )
    except Exception as error:
        text = " ".join(f"{type(error).__name__}: {error}".split())[:300]
        return row | {"error": text}
    row |= {key: found[key] for key in ("chip", "chips", "batch_size")}
    return row | {key: found["steps"]["train"].get(key) for key in KEPT}


def line(key: str, row: Mapping[str, Any]) -> list[str]:
    """A row of the table."""
    if "error" in row:
        return [key, *[""] * 6, f"does not compile: {row['error']}"]
    collectives = [
        f"{found['count']} {kind}, {found['bytes'] / 1e6:.0f} MB"
        for kind, found in sorted(row["collectives"].items())
    ]
    # Where much of the program has no estimate, the sum is a lower bound.
    least, most = ("at least ", "at most ") if row["lower_bound"] else ("", "")
    return [
        key,
        f"{row['chips']}",
        f"{row['batch_size']:,}",
        f"{row['peak_bytes'] / 1e9:.2f} GB",
        f"{least}{1e3 * row['estimated_seconds']:.1f} ms",
        f"{most}{row['estimated_images_per_s']:,.0f}",
        "; ".join(collectives),
        f"{row['compile_seconds']:.0f} s",
    ]


def render(content: Mapping[str, Any]) -> str:
    """The table of docs/scale.md."""
    header = (
        "slice",
        "chips",
        "images a step",
        "memory per chip",
        "computation, estimated",
        "images/s, estimated, without collectives",
        "collectives of a step",
        "to compile",
    )
    rows = content["rows"]
    ordered = [key for key in CASES if key in rows]
    table = record.table(header, [line(key, rows[key]) for key in ordered])
    return f"{table}\n\n{record.where(content)}"


def main(arguments: Sequence[str] | None = None) -> int:
    """Plan what is missing; returns the exit code."""
    parser = record.parser(__doc__)
    record.add_flags(parser)
    args = parser.parse_args(arguments)
    cases = {case: partial(measure, case) for case in CASES}
    code = record.carry_out(RECORD, cases, COMMAND, args, render)
    record.insert(PAGE, "slices", render(record.read(RECORD)))
    return code


if __name__ == "__main__":
    sys.exit(main())

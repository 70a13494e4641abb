"""README's tables of speed, from the records of everything in this folder.

python -m benchmarks.speed.readme
"""

import statistics
import sys
from collections.abc import Mapping
from typing import Any

from benchmarks import record
from benchmarks.speed import (
    contest,
    inference,
    input,
    plans,
    slices,
    spatial,
    startup,
    training,
)

PAGE = record.ROOT / "README.md"
NAME = "speed"


def rivals(task: str, content: Mapping[str, Any]) -> str:
    """Beside PyTorch: ratios of speed (median and range) and of memory."""
    rows = []
    for key, row in content["rows"].items():
        ours, theirs = contest.peaks(row)
        speed = contest.spread(contest.ratios(row, "torch") or [])
        rows.append((key, speed, f"{ours / theirs:.2f}", f"{row['others_busy']:.0%}"))
    header = (
        *(f"{task}, images", "speed, segjax : PyTorch"),
        *("memory, segjax : PyTorch", "others' CPU"),
    )
    return f"{record.table(header, rows)}\n\n{record.where(content)}"


def planned(content: Mapping[str, Any]) -> str:
    """What the TPU's compiler says of the training step, plain and segjax's."""
    rows, found = [], content["rows"]
    for key, row in found.items():
        plain = found.get(f"{key}, plain")
        if plain is not None:
            cycles = (f"{r['estimated_cycles'] / 1e6:.1f} M" for r in (plain, row))
            rows.append((key, row["images_per_chip"], *cycles, plans.ratio(plain, row)))
    header = (
        *("training step, v5e, bfloat16", "images per chip", "cycles, plain layers"),
        *("cycles, segjax", "plain : segjax"),
    )
    return f"{record.table(header, rows)}\n\n{record.where(content)}"


def over_chips(content: Mapping[str, Any]) -> str:
    """What the compiler says of one step on slices of 8 chips and more, a chip."""
    rows, found = [], content["rows"]
    for key in ("v5e:2x4", "v5e:16x16"):
        row = found[key]
        exchanged = ", ".join(
            f"{kind}, {each['bytes'] / 1e6:.0f} MB"
            for kind, each in sorted(row["collectives"].items())
        )
        cycles = f"{row['estimated_cycles'] / 1e6:.2f} M"
        rows.append((key, row["chips"], row["images_per_chip"], cycles, exchanged))
    header = (
        *("resnet18 fcn32s 128, bfloat16, on", "chips", "images per chip"),
        *("cycles of a chip", "exchanged"),
    )
    return f"{record.table(header, rows)}\n\n{record.where(content)}"


def divided(content: Mapping[str, Any]) -> str:
    """One image over eight devices, beside one."""
    rows = []
    for key, row in content["rows"].items():
        memory = (
            f"1/{found['one'] / found['each']:.2f}"
            for found in (row["temporary_bytes"], row["all_bytes"])
        )
        error = row["largest_difference"] / row["largest_logit"]
        rows.append((key, *memory, f"{error:.0e}"))
    header = (
        *("one image over 8 devices", "maps per device, of one's"),
        *("with image, logits and parameters", "logits differ by"),
    )
    return f"{record.table(header, rows)}\n\n{record.where(content)}"


def fed(content: Mapping[str, Any]) -> str:
    """The input pipeline beside a DataLoader."""
    rows = []
    for key, row in content["rows"].items():
        speeds = row["images_per_s"]
        for name, label in (
            ("decoding", "first epoch"),
            ("run", "run of 20 epochs (from two rows of the record)"),
        ):
            pairs = zip(speeds[name], speeds["torch"], strict=True)
            ratios = [ours / theirs for ours, theirs in pairs]
            cells = (key, label, f"{statistics.median(speeds[name]):.0f}")
            rows.append((*cells, contest.spread(ratios), f"{row['others_busy']:.0%}"))
    header = (
        *("images on disk", "of which", "segjax images/s"),
        *("segjax : DataLoader", "others' CPU"),
    )
    return f"{record.table(header, rows)}\n\n{record.where(content)}"


def text() -> str:
    """All of it."""
    return "\n\n".join(
        [
            rivals("training", record.read(training.RECORD)),
            rivals("inference", record.read(inference.RECORD)),
            planned(record.read(plans.RECORD)),
            over_chips(record.read(slices.RECORD)),
            divided(record.read(spatial.RECORD)),
            fed(record.read(input.RECORD)),
            startup.render(record.read(startup.RECORD)),
        ]
    )


def main() -> int:
    """Write them into README.md."""
    record.insert(PAGE, NAME, text())
    return 0


if __name__ == "__main__":
    sys.exit(main())

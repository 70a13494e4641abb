"""What the configs for accelerators would need: chips, memory and hours.

    python -m benchmarks.accelerators [--only 'voc*'] [--again] [--minutes 60]

Needs the extra [tpu] and neither a TPU nor the data: the real training step of each
config is compiled ahead of time for a slice, as ``segjax plan`` does it, and its time
is the compiler's estimate, not a measurement. None of these configs has been run here.
Record: docs/results/accelerators.json; page: docs/accelerators.md.
"""

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from benchmarks import record
from segjax import config as configs
from segjax import setup
from segjax.plan import plan

RECORD = record.ROOT / "docs" / "results" / "accelerators.json"
PAGE = record.ROOT / "docs" / "accelerators.md"
COMMAND = "python -m benchmarks.accelerators"
MMSEG = "[mmsegmentation {0}](https://github.com/open-mmlab/mmsegmentation/tree/main/configs/{0})"


@dataclass(frozen=True)
class Case:
    """A config, the slice that is planned for, and what its publishers reached.

    ``expected`` is their mIoU in points, single scale; None: none was found.
    """

    classes: int
    examples: int  # of the training split, for lengths in epochs
    expected: float | None
    source: str
    topology: str = "v5e:2x4"


CASES = {
    "cityscapes_deeplabv3plus_r101": Case(
        19, 2975, 80.97, MMSEG.format("deeplabv3plus")
    ),
    "cityscapes_segformer_b2": Case(19, 2975, 81.08, MMSEG.format("segformer")),
    "cityscapes_upernet_convnext_b": Case(19, 2975, None, "none found"),
    "ade20k_upernet_swin_b": Case(150, 20210, 47.99, MMSEG.format("swin")),
    "ade20k_segformer_b5": Case(150, 20210, 49.13, MMSEG.format("segformer")),
    "voc_fcn8s_vgg16": Case(
        21,
        8498,
        62.7,
        "[Long et al. 2015](https://arxiv.org/abs/1411.4038), VOC 2011 val",
        topology="v5e:2x2",
    ),
    "voc_deeplabv3_r101": Case(21, 10582, 78.70, MMSEG.format("deeplabv3")),
}
KEPT = (
    *("estimated_seconds", "estimated_cycles", "estimated_cycles_at_most"),
    *("share_without_estimate", "lower_bound", "estimated_images_per_s"),
    *("estimated_mfu", "roofline_seconds", "bytes_accessed", "model_flops"),
    *("peak_bytes", "fits", "collectives", "compile_seconds"),
)


def command(name: str, case: Case) -> str:
    """The command that plans a config by itself."""
    return (
        f"segjax plan --config configs/{name}.py --topology {case.topology} "
        f"--classes {case.classes} --steps train"
    )


def load(name: str) -> configs.Config:
    """The config of a case."""
    return configs.load(str(record.ROOT / "configs" / f"{name}.py"))


def measure(name: str, case: Case) -> dict[str, Any]:
    """The row of a config."""
    config = load(name)
    steps = setup.num_steps(config, case.examples)
    # A plan has no data to take a length in epochs from.
    config.steps, config.epochs = steps, None
    found = plan(config, name, case.topology, classes=case.classes, steps=("train",))
    if found["chip"] == "CPU":
        raise ValueError("libtpu is not installed: pip install 'segjax[tpu]'")
    row = {key: found["steps"]["train"].get(key) for key in KEPT}
    longest = row["estimated_seconds"] * (
        row["estimated_cycles_at_most"] / row["estimated_cycles"]
    )
    return row | {
        "topology": case.topology,
        "chips": found["chips"],
        "chip": found["chip"],
        "hbm_bytes": found["hbm_bytes"],
        "batch_size": found["batch_size"],
        "image_size": found["image_size"],
        "steps": steps,
        "hours": steps * row["estimated_seconds"] / 3600,
        "hours_at_most": steps * longest / 3600,
        "command": command(name, case),
    }


PAGE_HEAD = """# Configs for accelerators

**Not run here.** Each config in [configs/](../configs) has the published recipe; its
docstring says what is different, and how the data has to lie. The expected mIoU is the
publishers' (points, validation, one scale). Chips, memory and hours are what `segjax
plan` says, for the whole training without evaluations, data loading and start-up: the
training step is compiled for the slice by the TPU's compiler, which gives each fusion
an estimate of its cycles. "At most" adds, at the memory's full rate, every byte of what
has no estimate. Estimates, not measurements.
"""


def _row(name: str, case: Case, row: Mapping[str, Any] | None) -> tuple[Any, ...]:
    expected = "-" if case.expected is None else f"{case.expected:.2f}"
    first = (f"[{name}](../configs/{name}.py)", expected, case.source)
    if row is None:
        return (*first, *("not planned",), *("",) * 7)
    height, width = row["image_size"]
    fits = "" if row["fits"] else ", **too much**"
    bound = "at least " if row["lower_bound"] else ""
    return (
        *first,
        f"{row['chips']} ({row['topology']})",
        f"{row['batch_size']} of {height}x{width}",
        f"{row['steps']:,}",
        f"{row['peak_bytes'] / 2**30:.1f} of {row['hbm_bytes'] / 2**30:.0f} GiB{fits}",
        f"{bound}{1000 * row['estimated_seconds']:.0f} ms",
        f"{100 * row['estimated_mfu']:.0f} %",
        f"{bound}{row['hours']:.1f}, at most {row['hours_at_most']:.1f}",
        f"{row['chips'] * row['hours']:.0f}",
    )


def render(content: Mapping[str, Any]) -> str:
    """The page of a record."""
    header = (
        *("config", "expected mIoU", "source", "chips", "batch", "steps"),
        *("memory of a chip", "a step", "MFU", "hours", "chip hours"),
    )
    rows = content["rows"]
    lines = [_row(name, case, rows.get(name)) for name, case in CASES.items()]
    commands = "\n".join(command(name, case) for name, case in CASES.items())
    told = [
        PAGE_HEAD,
        record.table(header, lines),
        f"\nOne by one (`pip install 'segjax[tpu]'`, no TPU, no data):\n\n"
        f"```bash\n{commands}\n```",
    ]
    if rows:
        told.append(f"\n{record.where(content)}")
    return "\n".join(told) + "\n"


def main(arguments: Sequence[str] | None = None) -> int:
    """Plan what is missing; returns the exit code."""
    parser = record.parser(__doc__)
    record.add_flags(parser)
    args = parser.parse_args(arguments)
    cases = {name: partial(measure, name, case) for name, case in CASES.items()}
    chosen = record.chosen(cases, args.only)
    failed = record.run(RECORD, chosen, COMMAND, args.again, args.minutes)
    PAGE.write_text(render(record.read(RECORD)))
    print(PAGE.read_text())
    return int(bool(failed))


if __name__ == "__main__":
    sys.exit(main())

"""From a process's start to the end of its first training step: cold, then again.

    python -m benchmarks.speed.startup [--rounds 7]

Each round starts the same command twice with a cache folder of its own: the first start
compiles, the second finds the compiled programs. The end of step 1 is when its line
stands in metrics.jsonl. Record: docs/results/speed_startup.json.
"""

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks import record

RECORD = record.ROOT / "docs" / "results" / "speed_startup.json"
COMMAND = "python -m benchmarks.speed.startup"
CASES = {
    "resnet18 unet": ("configs/resnet_unet.py",),
    "resnet50 unet": ("configs/resnet_unet.py", "--config.model.encoder=resnet50"),
}
PATIENCE = 900


def first_step(arguments: Sequence[str], workdir: Path, cache: Path) -> float:
    """Seconds until the line of step 1 is there; ends the run then.

    Raises:
      RuntimeError: the run ended before, or took too long.
    """
    command = [sys.executable, "-m", "segjax.main", "--config", *arguments]
    command += ["--config.logs.every=1", "--workdir", str(workdir)]
    environment = {**os.environ, "SEGJAX_CACHE": str(cache)}
    path = workdir / "metrics.jsonl"
    begin = time.monotonic()
    with tempfile.TemporaryFile("w+") as output:
        run = subprocess.Popen(
            command, env=environment, cwd=record.ROOT, stdout=output, stderr=output
        )
        try:
            while time.monotonic() - begin < PATIENCE:
                if path.is_file() and is_done(path.read_text()):
                    return time.monotonic() - begin
                if run.poll() is not None:
                    output.seek(0)
                    raise RuntimeError(f"the run ended: {output.read()[-300:]}")
                time.sleep(0.02)
            raise RuntimeError(f"no step after {PATIENCE} s")
        finally:
            run.kill()
            run.wait()


def is_done(text: str) -> bool:
    """Whether a whole line of metrics.jsonl is that of a training step."""
    lines = [json.loads(line) for line in text.split("\n")[:-1]]
    return any(line.get("split") == "train" and line["step"] >= 1 for line in lines)


def measure(arguments: Sequence[str], rounds: int) -> dict[str, Any]:
    """Seconds of every first and second start, and the median of their ratios."""
    cold, warm = [], []
    for _ in range(rounds):
        with tempfile.TemporaryDirectory() as folder:
            root = Path(folder)
            cold.append(first_step(arguments, root / "first", root / "cache"))
            warm.append(first_step(arguments, root / "second", root / "cache"))
    ratios = sorted(c / w for c, w in zip(cold, warm, strict=True))
    return {
        "first_seconds": [round(x, 2) for x in cold],
        "second_seconds": [round(x, 2) for x in warm],
        "ratio": round(statistics.median(ratios), 3),
        "ratio_range": [round(ratios[0], 3), round(ratios[-1], 3)],
    }


def render(content: Mapping[str, Any]) -> str:
    """The record's table and where it was measured."""
    header = (
        *("start, to the end of step 1", "first s", "second s", "first : second"),
        "rounds",
    )
    lines = [
        (
            key,
            f"{statistics.median(row['first_seconds']):.1f}",
            f"{statistics.median(row['second_seconds']):.1f}",
            "{:.2f} ({:.2f}-{:.2f})".format(row["ratio"], *row["ratio_range"]),
            len(row["first_seconds"]),
        )
        for key, row in content["rows"].items()
    ]
    return f"{record.table(header, lines)}\n\n{record.where(content)}"


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure what is missing; returns the exit code."""
    parser = record.parser(__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    record.add_flags(parser)
    args = parser.parse_args(arguments)
    cases = {
        key: lambda case=case: measure(case, args.rounds) for key, case in CASES.items()
    }
    return record.carry_out(RECORD, cases, COMMAND, args, render)


if __name__ == "__main__":
    sys.exit(main())

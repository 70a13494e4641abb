"""Errors against PyTorch packages, all tensors random: the CASES of tests/parity.

    python -m benchmarks.parity --slow --output docs/parity.md

Each test module runs in a process of its own. Rows that docs/results/parity.json has
are kept; ``--again`` measures them anew.
"""

import importlib
import subprocess
import sys
from pathlib import Path
from typing import Any

from benchmarks import record

RECORD = record.ROOT / "docs" / "results" / "parity.json"
TITLES = {"smp": "segmentation_models_pytorch", "paper": "the paper, in plain PyTorch"}
DISTRIBUTIONS = {"smp": "segmentation-models-pytorch"}


def key_of(case) -> str:
    """What a case compares, the same whatever the commit."""
    extra = {**case.options, **case.fields}
    if case.platform:
        extra["platform"] = case.platform
    words = [f"{name}={value}" for name, value in sorted(extra.items())]
    return " ".join([str(case), f"like={case.like}", *words])


def measure(case: Any) -> dict:
    """A row: names, package and version, size, parameters, errors."""
    import jax

    jax.clear_caches()
    row = case.measure()
    package: str = case.package
    name = DISTRIBUTIONS.get(package, package)
    return {
        "encoder": case.encoder,
        "decoder": case.decoder,
        "package": package,
        "version": record.versions().get(name),
        "like": case.like,
        "options": {k: str(v) for k, v in case.options.items()},
        "small": bool(case.fields),
        "dtype": "float64" if case.double else "float32",
        "size": list(case.size),
        "parameters": row["parameters"],
        "stages": row["stages"],
        "logits": row["logits"],
    }


def modules() -> list[str]:
    """Names of the test modules that have cases."""
    paths = sorted((record.ROOT / "tests" / "parity").glob("test_*.py"))
    return [f"tests.parity.{p.stem}" for p in paths if "\nCASES" in p.read_text()]


def run_module(name: str, slow: bool, again: bool, command: str) -> int:
    """Measure the cases of a module; 1 if any failed."""
    found = importlib.import_module(name).CASES
    cases = {
        key_of(case): lambda case=case: measure(case)
        for case in found
        if slow or not case.slow
    }
    return int(bool(record.run(RECORD, cases, command, again)))


def render(content: dict) -> str:
    """docs/parity.md from the record."""
    rows = list(content["rows"].values())
    worst = max(max(row["logits"], *row["stages"], 0.0) for row in rows)
    lines = [
        "# Parity with PyTorch",
        "",
        "Each row is one network here and in the package named, every tensor of it "
        "random (weights, running statistics, layer scales, position tables), in "
        "evaluation mode. An error is max |ours - theirs| / max |theirs|; a stage is a "
        "map of the encoder. Each case also asserts that the number of parameters is "
        "the same, that the weights go back (`load_state_dict(strict=True)`), and that "
        "setting a tensor to zero, or swapping two, breaks the agreement. Limit: 1e-4.",
        "",
        f"{len(rows)} cases, largest error {worst:.1e}. {record.where(content)}",
    ]
    for package in dict.fromkeys(row["package"] for row in rows):
        own = [row for row in rows if row["package"] == package]
        version = own[0]["version"] or ""
        title = TITLES.get(package, package)
        lines += ["", f"## Against {title} {version}".rstrip(), ""]
        lines.append(
            record.table(
                ("encoder", "decoder", "size", "parameters", "worst stage", "logits"),
                [_cells(row) for row in own],
            )
        )
    return "\n".join(lines) + "\n"


def _cells(row: dict) -> list[str]:
    options = [f"{k} {v}" for k, v in row["options"].items()]
    notes = options + ["made smaller"] * row["small"]
    notes += [row["dtype"]] * (row["dtype"] != "float32")
    decoder = row["decoder"] or "classifier"
    return [
        row["encoder"],
        f"{decoder} ({', '.join(notes)})" if notes else decoder,
        "x".join(map(str, row["size"])),
        f"{row['parameters']:,}",
        f"{max(row['stages']):.1e}" if row["stages"] else "",
        f"{row['logits']:.1e}",
    ]


def main() -> int:
    parser = record.parser(__doc__)
    parser.add_argument("--slow", action="store_true", help="the large networks too")
    parser.add_argument("--again", action="store_true", help="recorded cases too")
    parser.add_argument("--module", help="only this: tests.parity.test_resnet")
    parser.add_argument("--output", type=Path, metavar="FILE", help="docs/parity.md")
    args = parser.parse_args()
    slow = ["--slow"] * args.slow
    command = " ".join(["python -m benchmarks.parity", *slow])
    code = 0
    if args.module:
        code = run_module(args.module, args.slow, args.again, command)
    else:
        for name in modules():  # one process each: memory is given back
            call = [sys.executable, "-m", "benchmarks.parity", "--module", name, *slow]
            call += ["--again"] * args.again
            code |= subprocess.run(call, cwd=record.ROOT).returncode
    if args.output:
        args.output.write_text(render(record.read(RECORD)))
    return code


if __name__ == "__main__":
    sys.exit(main())

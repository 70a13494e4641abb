"""A record: a committed JSON with one row per case, written as the cases are done."""

import argparse
import importlib.metadata
import json
import math
import time
from collections.abc import Callable, Mapping, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from segjax import logs

ROOT = Path(__file__).parents[1]
PEERS = (
    "torch",
    "torchvision",
    "segmentation-models-pytorch",
    "timm",
    "transformers",
    "libtpu",
)


def versions() -> dict[str, str]:
    """Of the peers that are installed."""
    found = {}
    for name in PEERS:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def read(path: Path) -> dict[str, Any]:
    """The record at a path; an empty one where there is none."""
    return json.loads(path.read_text()) if path.is_file() else {"rows": {}}


def write(path: Path, rows: Mapping[str, Any], command: str) -> None:
    """Write rows and what they were measured with, in one piece."""
    environment = logs.environment()
    environment["versions"] |= versions()
    content = {"command": command, "environment": environment}
    content["rows"] = dict(sorted(rows.items()))
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".tmp")
    temporary.write_text(json.dumps(logs.plain(content), indent=1) + "\n")
    temporary.replace(path)


def run(
    path: Path,
    cases: Mapping[str, Callable[[], Mapping[str, Any]]],
    command: str,
    again: bool = False,
    minutes: float = math.inf,
) -> list[str]:
    """Measure the cases that the record lacks; returns those that failed.


    Args:
      cases: key -> the function that measures: its row, plain values. A case that
        raises is told and leaves no row.
      again: measure those, too, that the record has.
      minutes: begin no case after that; called again, it goes on from there.
    """
    failed, start = [], time.monotonic()
    for number, (key, measure) in enumerate(cases.items(), 1):
        rows = read(path)["rows"]
        if key in rows and not again:
            continue
        begin = time.monotonic()
        if begin - start > 60 * minutes:
            print(f"{number - 1}/{len(cases)} cases; {minutes} minutes are over")
            break
        try:
            row = dict(measure())
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # pytest's Skipped is no Exception
            failed.append(key)
            text = " ".join(f"{type(error).__name__}: {error}".split())[:300]
            print(f"{number}/{len(cases)} {key}: FAILED {text}", flush=True)
            continue
        row["seconds"] = round(time.monotonic() - begin, 1)
        git = logs.environment()["git"] or {}
        row["commit"] = str(git.get("commit"))[:7] + "+" * bool(git.get("dirty"))
        write(path, read(path)["rows"] | {key: row}, command)
        print(f"{number}/{len(cases)} {key}: {row['seconds']} s", flush=True)
    return failed


def parser(text: str | None) -> argparse.ArgumentParser:
    """A parser whose description is the first line of a module's docstring."""
    return argparse.ArgumentParser(description=(text or "").split("\n")[0])


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Of the benchmarks that take long."""
    parser.add_argument("--again", action="store_true", help="recorded cases too")
    parser.add_argument(
        "--minutes", type=float, default=math.inf, help="begin no case after that"
    )
    parser.add_argument("--only", default="*", metavar="PATTERN", help="resnet18 *")


def chosen(cases: Mapping[str, Any], pattern: str) -> dict[str, Any]:
    """The cases whose keys match (fnmatch)."""
    return {key: case for key, case in cases.items() if fnmatchcase(key, pattern)}


def carry_out(
    path: Path,
    cases: Mapping[str, Callable[[], Mapping[str, Any]]],
    command: str,
    args: argparse.Namespace,
    render: Callable[[Mapping[str, Any]], str],
) -> int:
    """Measure what the flags of :func:`add_flags` ask for, print; the exit code."""
    wanted = chosen(cases, args.only)
    failed = run(path, wanted, command, args.again, args.minutes)
    print(render(read(path)))
    return int(bool(failed))


def where(record: Mapping[str, Any]) -> str:
    """One sentence: command, machine and versions of a record."""
    platform = record["environment"]["platform"]
    found = record["environment"]["versions"]
    names = ("python", "jax", "flax", *PEERS)
    listed = ", ".join(f"{name} {found[name]}" for name in names if found.get(name))
    commits = sorted({row["commit"] for row in record["rows"].values()})
    return (
        f"Made by `{record['command']}` at {', '.join(f'`{c}`' for c in commits)} on "
        f"{platform['threads']} threads of {platform['processor']} ({listed})."
    )


def insert(page: Path, name: str, text: str) -> None:
    """Put the text into a page, between the comments ``name`` and ``/name``.

    Raises:
      ValueError: the page lacks them.
    """
    before, begin, rest = page.read_text().partition(f"<!-- {name} -->\n")
    _, end, after = rest.partition(f"<!-- /{name} -->")
    if not end:
        raise ValueError(f"{page} has no <!-- {name} --> and <!-- /{name} -->")
    page.write_text(f"{before}{begin}{text.rstrip()}\n{end}{after}")


def table(header: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """A markdown table."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(map(str, line))} |" for line in lines)

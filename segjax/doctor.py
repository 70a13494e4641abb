"""``segjax doctor``: what is wrong with a config's dataset, before it is trained on.

Every example of every split is read. :func:`check` is the fast form that ``train`` runs
before its first step: a few examples of the two splits that it uses.
"""

import json
import shlex
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.progress import Progress

from segjax import logs, setup, views
from segjax.batch import Source
from segjax.config import Config
from segjax.data.inspection import dataset
from segjax.data.inspection.codes import SEVERITIES, Finding, merge
from segjax.data.inspection.example import Facts, examine
from segjax.data.inspection.listing import (
    Load,
    list_dataset,
    loads,
    masks_of,
    meaning_of,
)
from segjax.data.pairs import Meaning
from segjax.data.proposal import propose
from segjax.writing import write_text, writing

SAMPLE, SAMPLE_PIXELS = 16, 2**24  # of each split, in the fast form
_SCALING = ("image-dark", "image-range")
_NO_CLASSES = (
    *("dataset-unreadable", "color-table-missing", "color-unknown", "id-unknown"),
)
"""Where one is found, classes.json may be missing or lack classes."""


def doctor(config: Config, name: str) -> dict[str, Any]:
    """Look at the whole dataset; returns what ``--output`` holds.

    Args:
      config: whose dataset.
      name: the config's, for the report.
    """
    data = config.data
    wanted = tuple(dict.fromkeys((data.train_split, data.eval_split)))
    options = setup.data_options(config)
    listing = list_dataset(data.name, data.root, wanted, options)
    told, meaning = listing.told, listing.meaning
    splits: dict[str, dataset.Classes] = {}
    facts: list[Facts] = []
    if meaning is not None:
        jobs = [
            (split, load) for split, some in listing.splits.items() for load in some
        ]
        with Progress(console=Console(stderr=True), transient=True) as bar:
            task = bar.add_task("reading examples", total=len(jobs))
            advance = partial(bar.advance, task)
            facts = examine_all(jobs, meaning, data.threads, advance)
        told += dataset.own_faults(facts, meaning, data.channels)
        told += dataset.black_and_white(facts, meaning) + dataset.inverted(facts)
        told += dataset.overlap(facts) + dataset.copies(facts)
        roles = {data.eval_split: "eval", data.train_split: "train"}
        for split in listing.splits:
            own = [one for one in facts if one.split == split]
            splits[split] = dataset.Classes(own, meaning)
            role = roles.get(split, "")
            told += dataset.class_faults(split, splits[split], role)
    findings = _relevant(config, merge(told))
    counts = {s: sum(f.kind.severity == s for f in findings) for s in SEVERITIES}
    train = splits.get(data.train_split)
    proposed = None
    if data.name == "folder" and {f.code for f in findings} & {*_NO_CLASSES}:
        masks = masks_of(data.root, options)
        found = propose(masks, data.mask_values) if masks else None
        proposed = found and {"classes": found.text, "about": found.about}
    return {
        "config": name,
        "data": data.to_dict(),
        **{f"{severity}s": count for severity, count in counts.items()},
        "findings": [finding.to_dict() for finding in findings],
        "splits": {split: classes.to_dict() for split, classes in splits.items()},
        "class_weights": train.weights() if train else {},
        "images": _images(facts),
        "proposed_classes": proposed,
        "environment": logs.environment(),
    }


def examine_all(
    jobs: Iterable[tuple[str, Load]],
    meaning: Meaning,
    threads: int,
    advance: Callable[[], None] = lambda: None,
) -> list[Facts]:
    """What is found out about each example, in order; ``advance`` after each."""

    def look(job: tuple[str, Load]) -> Facts:
        found = examine(job[0], job[1], meaning)
        advance()
        return found

    with ThreadPoolExecutor(threads) as pool:
        return list(pool.map(look, jobs))


def _images(facts: Iterable[Facts]) -> dict[str, Any] | None:
    """What the images that could be read are: sizes, channels, types."""
    known = [one for one in facts if one.size]
    if not known:
        return None
    heights, widths = zip(*(one.size for one in known if one.size), strict=True)
    return {
        "smallest": [min(heights), min(widths)],
        "largest": [max(heights), max(widths)],
        "median": [int(np.median(heights)), int(np.median(widths))],
        "channels": sorted({one.channels for one in known}),
        "types": sorted({one.dtype for one in known}),
    }


def _relevant(config: Config, findings: list[Finding]) -> list[Finding]:
    """Without those about the values' range where the config gives mean and std."""
    own = config.data.mean is not None or config.data.std is not None
    return [f for f in findings if not (own and f.code in _SCALING)]


def check(
    config: Config, sources: Mapping[str, Source], sizes: Sequence[tuple[int, int]] = ()
) -> list[str]:
    """The fast form: a sample of each split, a second or two; lines of warning.

    The same examples on all processes of a run, so that all stop or none.

    Args:
      config: of the run.
      sources: split -> its examples, the training split first.
      sizes: of the images that are evaluated.

    Raises:
      ValueError: one line, about a fault on which the run would stop later.
    """
    facts: list[Facts] = []
    meaning = channels = None
    for split, source in sources.items():
        # Only what comes from files can be wrong.
        if config.data.check == "off" or not hasattr(source, "stored"):
            continue
        meaning = meaning or meaning_of(source)
        channels = channels or source.channels
        jobs = [(split, load) for load in loads(source, _sample(source))]
        facts += examine_all(jobs, meaning, config.data.threads)
    told = views.without_effect(config) if config.task == "segmentation" else []
    told += views.advice(config, sizes, training=True) + views.shrunk(config, sizes)
    if meaning is None:
        return told
    findings = _relevant(config, merge(dataset.own_faults(facts, meaning, channels)))
    stopping = [finding for finding in findings if finding.kind.stops]
    seen = f"of the {len(facts)} examples looked at"
    if stopping:
        first = stopping[0]
        more = f"; {len(stopping) - 1} more kinds of fault" if stopping[1:] else ""
        raise ValueError(
            f"data: {first.code} ({len(first.where)} {seen}): {first.text}: "
            f"{first.kind.advice}{more}; run {_command()} to see all, or set "
            "data.check=off"
        )
    return told + [
        f"data: {finding.code} ({len(finding.where)} {seen}): {finding.text}: "
        f"{finding.kind.what}; {_command()} tells more"
        for finding in findings
        if finding.kind.severity != "note"
    ]


def _sample(source: Source) -> list[int]:
    """At most ``SAMPLE`` indices, evenly spread, of ``SAMPLE_PIXELS`` together."""
    count = min(SAMPLE, len(source))
    chosen, pixels = [], 0
    for index in np.linspace(0, len(source) - 1, count).astype(int).tolist():
        try:
            height, width = source.size(index)
        except ValueError:  # said better by who reads it
            height = width = 0
        pixels += height * width
        if not chosen or pixels <= SAMPLE_PIXELS:
            chosen.append(index)
    return chosen


def _command() -> str:
    """The command that looks at all, with the flags of this one where it has any."""
    if "--config" not in sys.argv:
        return "segjax doctor --config FILE"
    place = sys.argv.index("--config")
    flags = [word for word in sys.argv if word.startswith("--config.")]
    return shlex.join(["segjax", "doctor", *sys.argv[place : place + 2], *flags])


def class_table(result: dict[str, Any]) -> Any:
    """A rich table: shares and images of each class, and the weights."""
    from rich.table import Table
    from rich.text import Text

    splits, weights = result["splits"], result["class_weights"]
    table = Table(title=f"{result['config']}: {result['data']['name']}")
    table.add_column("class")
    for split in splits:
        table.add_column(Text(f"{split} share"), justify="right")
        table.add_column("images", justify="right")
    for name in weights:
        table.add_column(name.replace("_", " "), justify="right")
    rows = zip(*(some["classes"] for some in splits.values()), strict=True)
    for place, row in enumerate(rows):
        cells = [
            text
            for one in row
            for text in (f"{100 * one['share']:.2f} %", str(one["images"]))
        ]
        cells += [f"{some[place]:g}" for some in weights.values()]
        table.add_row(Text(row[0]["name"]), *cells)  # [a] in a name is no markup
    notes = (
        f"{split}: {some['examples']} examples, {100 * some['ignored_share']:.2f} % "
        "ignored"
        for split, some in splits.items()
    )
    table.caption = Text("; ".join(notes))
    return table


def lines(result: dict[str, Any]) -> Iterable[str]:
    """The findings, the gravest first, two lines each."""
    root = f"{result['data']['root']}/"
    for one in result["findings"]:
        place = f" in {one['split']}" if one["split"] else ""
        text = (one["text"] or one["where"][0]).replace(root, "")
        count = f" {one['count']} x" if one["count"] > 1 else ""
        yield f"{one['severity']} {one['code']}{place}:{count} {text}"
        yield f"    {one['what']}: {one['advice']}"


def _sizes(images: dict[str, Any]) -> str:
    """One line of what the images are."""
    low, high, middle = (
        "x".join(map(str, images[key])) for key in ("smallest", "largest", "median")
    )
    size = low if low == high else f"{low} to {high}, median {middle}"
    channels = " or ".join(map(str, images["channels"]))
    plural = "" if channels == "1" else "s"
    types = " or ".join(images["types"])
    return f"images: {size} (height x width), {channels} channel{plural} of {types}"


def _proposal(result: dict[str, Any]) -> str:
    """What to write into classes.json."""
    found = result["proposed_classes"]
    if not found["classes"]:
        return f"the masks hold {found['about']}"
    data = result["data"]
    path = Path(data["root"], data["folder"]["classes_file"])
    return "\n".join(
        (
            f"the masks hold {found['about']}",
            f"{path}, with your names for class0, class1, ...:",
            found["classes"],
        )
    )


def report(result: dict[str, Any], path: Path) -> int:
    """Write the JSON, print table and lines; the exit code: 1 if there are errors."""
    with writing(path.parent):
        path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, json.dumps(logs.plain(result), indent=1) + "\n")
    console = Console(soft_wrap=True, highlight=False)
    if result["splits"]:
        console.print(class_table(result))
    if result["images"]:
        console.print(_sizes(result["images"]), markup=False)
    for name, weights in result["class_weights"].items():
        values = ", ".join(f"{weight:g}" for weight in weights)
        line = f'{name}: --config.loss.class_weights="({values},)"'
        console.print(line, markup=False)
    styles = {"error": "red", "warning": "yellow"}
    for line in lines(result):
        console.print(line, markup=False, style=styles.get(line.split()[0]))
    if result["proposed_classes"]:
        console.print(_proposal(result), markup=False)
    counts = ", ".join(f"{result[f'{s}s']} {s}s" for s in SEVERITIES)
    console.print(f"doctor: {counts}; {path}", markup=False)
    return int(result["errors"] > 0)

"""What all pages share: one HTML file that asks for nothing from anywhere."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from string import Template
from typing import Any

from segjax.report import sections, tables
from segjax.report.sections import Section, Subject

LIMIT = 10_000_000
"""Bytes of a report at most."""

ROOM = 2_500_000  # bytes for tables, charts and the script


@dataclass(frozen=True)
class Content:
    """What all pages are made of; ``other`` is the run of ``--against``."""

    ours: Subject
    other: Subject | None
    split: str
    ids: Sequence[str]
    truths: Sequence[tuple[bytes, bytes]]
    source: Any
    command: str
    environment: Mapping[str, Any]

    @property
    def runs(self) -> list[Subject]:
        """The run, and the other where there is one."""
        return [self.ours] if self.other is None else [self.ours, self.other]


def write(
    content: Content,
    tiles: Sequence[tuple[str, str, str]],
    parts: Sequence[Section],
    data: Mapping[str, Any],
) -> str:
    """The page's text: a head with ``tiles`` (name, value, note), then the sections.

    ``data`` is what the page's script reads, beside the charts.

    Raises:
      ValueError: it does not fit in LIMIT bytes.
    """
    parts = [
        *parts,
        Section("config", "Config", sections.settings(content.ours)),
        Section("environment", "Environment", _environment(content)),
    ]
    data = {
        "task": content.ours.config.task,
        "names": content.ours.spec.names,
        "charts": {k: v for part in parts for k, v in part.charts.items()},
        **data,
    }
    page = _frame(content, _head(content, tiles), parts, data)
    # Names of files need not be text.
    page = page.encode(errors="backslashreplace").decode()
    size = len(page.encode())
    if size > LIMIT:
        raise ValueError(
            f"the report would have {size:,} bytes, more than {LIMIT:,}; choose a "
            "--split with fewer images"
        )
    return page


def _head(content: Content, tiles: Sequence[tuple[str, str, str]]) -> str:
    """The title and the figures that one looks for first."""
    ours = content.ours
    tiles = [*tiles, ("parameters", _short(ours.parameters), "")]
    if ours.result and ours.result.get("seconds") is not None:
        minutes = ours.result["seconds"] / 60
        tiles.append(("training", f"{minutes:.1f} min", "wall time"))
    shown = "".join(
        f"<div><dt>{name}</dt><dd>{value}<small>{note}</small></dd></div>"
        for name, value, note in tiles
    )
    model, data = ours.config.model, ours.config.data
    network = model.encoder
    if ours.config.task == "segmentation":
        network = f"{network} + {model.decoder}"
    what = f"{network} on {data.name}, split {content.split}, checkpoint {ours.step}"
    if content.other is not None:
        what += f", against {content.other.name} (checkpoint {content.other.step})"
    return (
        f"<header><h1>{escape(ours.name)}</h1><p>{escape(what)}</p></header>"
        f'<dl class="tiles">{shown}</dl>'
    )


def percent(value: float | None, digits: int = 1) -> str:
    """A share in per cent."""
    return "–" if value is None else f"{100 * value:.{digits}f} %"


def _short(count: int) -> str:
    for power, letter in ((1e9, " G"), (1e6, " M"), (1e3, " k")):
        if count >= power:
            return f"{count / power:.1f}{letter}"
    return str(count)


def _flat(values: Mapping[str, Any] | None, prefix: str = "") -> dict[str, Any]:
    """Nested dicts as dotted keys."""
    found = {}
    for key, value in (values or {}).items():
        if isinstance(value, Mapping):
            found |= _flat(value, f"{prefix}{key}.")
        else:
            found[prefix + key] = value
    return found


def _environment(content: Content) -> str:
    """Versions, commit and machine of training and of this report."""
    columns = [("this report", _flat(content.environment))]
    for run, title in zip(
        content.runs, ("training", "the other's training"), strict=False
    ):
        if run.result:
            columns.append((title, _flat(run.result.get("environment"))))
    keys = list(dict.fromkeys(k for _, values in columns for k in values))
    rows = [(key, *(values.get(key, "–") for _, values in columns)) for key in keys]
    header = ("", *(title for title, _ in columns))
    text = tables.pairs("environment", "Software and machine", header, rows)
    said = content.ours.result.get("command") if content.ours.result else None
    trained = f"<p>Trained by <code>{escape(said)}</code></p>" if said else ""
    return f"{trained}<p>Reported by <code>{escape(content.command)}</code></p>{text}"


def _frame(
    content: Content, head: str, parts: Sequence[Section], data: Mapping[str, Any]
) -> str:
    """The whole document."""
    folder = Path(__file__).parent / "assets"
    style, script, frame = (
        (folder / f"page.{kind}").read_text() for kind in ("css", "js", "html")
    )
    # "</script>" in a class's name must not end the script.
    stored = json.dumps(data, separators=(",", ":"), allow_nan=False)
    stored = stored.replace("<", "\\u003c")
    links = "".join(
        f'<li><a href="#{part.anchor}">{escape(part.title)}</a></li>' for part in parts
    )
    body = "".join(
        f'<section aria-labelledby="{part.anchor}"><h2 id="{part.anchor}">'
        f"{escape(part.title)}</h2>{part.html}</section>"
        for part in parts
    )
    return Template(frame).substitute(
        title=escape(content.ours.name),
        style=style,
        links=links,
        body=head + body,
        data=stored,
        script=script,
    )

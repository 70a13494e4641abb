"""Tables of a report as HTML: classes, confusions, images, differences, config."""

from collections.abc import Callable, Mapping, Sequence
from html import escape
from typing import Any

import numpy as np

from segjax.batch import ClassSpec, LabelSpec, default_palette
from segjax.report.account import Account
from segjax.report.compare import Interval

MATRIX_CLASSES = 30
"""Classes of the confusion matrix at most; the others are added up."""

ROWS = 500
"""Images listed at most, the worst first."""

Spec = LabelSpec | ClassSpec

Cell = tuple[str, float | None]
"""What a cell shows (HTML), and what it is sorted by (None: the text)."""


def number(value: float | None, digits: int = 1, factor: float = 100.0) -> Cell:
    """A cell with a number, per cent unless ``factor`` says otherwise."""
    if value is None or np.isnan(value):
        return "–", None
    return f"{value * factor:,.{digits}f}", float(value)


def signed(value: float) -> Cell:
    """A cell with a difference in percentage points."""
    if np.isnan(value):
        return "–", None
    return _points(value, plus=True), float(value)


def span(interval: Interval, plus: bool = False) -> Cell:
    """A cell with an interval."""
    if np.isnan(interval.low):
        return "–", None
    ends = (_points(end, plus) for end in (interval.low, interval.high))
    return " to ".join(ends), interval.high - interval.low


def _points(value: float, plus: bool) -> str:
    """Percentage points with a sign, but for zero."""
    shown = round(100 * value, 1) + 0.0  # -0.0 + 0.0 is 0.0
    return f"{shown:{'+' if plus and shown else ''}.1f}".replace("-", "−")


def palette(spec: Spec) -> Sequence[tuple[int, int, int]]:
    """A colour per class: the classes' own, where they have any."""
    if isinstance(spec, LabelSpec):
        return spec.palette
    return default_palette(spec.num_classes)


def class_name(spec: Spec, index: int) -> str:
    """The name, after a swatch where classes have colours."""
    if isinstance(spec, ClassSpec):
        return escape(spec.names[index])
    rgb = ",".join(map(str, spec.palette[index]))
    name = escape(spec.names[index])
    return f'<i class="swatch" style="background:rgb({rgb})"></i>{name}'


def table(
    name: str,
    caption: str,
    header: Sequence[str],
    rows: Sequence[tuple[str, Sequence[Cell]]],
    foot: Sequence[str] | None = None,
) -> str:
    """A sortable table: each row is (its header as HTML, its cells)."""
    heads = "".join(
        f'<th scope="col" aria-sort="none"><button type="button">{escape(h)}'
        "</button></th>"
        for h in header
    )
    body = []
    for first, cells in rows:
        line = "".join(
            f"<td{'' if key is None else f' data-v={key:.6g}'}>{shown}</td>"
            for shown, key in cells
        )
        body.append(f'<tr><th scope="row">{first}</th>{line}</tr>')
    end = ""
    if foot:
        first, *rest = foot
        line = "".join(f"<td>{cell}</td>" for cell in rest)
        end = f'<tfoot><tr><th scope="row">{first}</th>{line}</tr></tfoot>'
    return (
        f'{_scrolled(caption)}<table class="sortable" id="table-{name}">'
        f"<caption>{escape(caption)}</caption>"
        f"<thead><tr>{heads}</tr></thead><tbody>{''.join(body)}</tbody>{end}</table>"
        "</div>"
    )


def _scrolled(label: str) -> str:
    """The opening tag of what may be wider than the page: it scrolls by itself."""
    return (
        f'<div class="scroll" tabindex="0" role="region" aria-label="{escape(label)}">'
    )


def bar(value: float | None) -> str:
    """A number in per cent with a bar behind it."""
    shown, _ = number(value)
    width = 0.0 if value is None else 100 * value
    return f'<span class="bar" style="--v:{width:.1f}%">{shown}</span>'


def classes(
    account: Account,
    summary: Mapping[str, Any],
    found: Sequence[Interval],
    spec: Spec,
) -> str:
    """IoU with its interval, the other scores, share and images per class."""
    matrix = account.confusion.matrix
    guessed = matrix.sum(0)
    images = (account.truths > 0).sum(0)
    rows = []
    for k, name in enumerate(spec.names):
        iou = summary["iou_per_class"][name]
        precision = matrix[k, k] / guessed[k] if guessed[k] else None
        cells = [
            (bar(iou), iou),
            span(found[k]),
            number(summary["accuracy_per_class"][name]),
            number(precision),
            number(summary["dice_per_class"][name]),
            number(summary["boundary_iou_per_class"][name]),
            number(summary["boundary_f1_per_class"][name]),
            number(summary["share_per_class"][name], 2),
            number(images[k], 0, 1),
        ]
        rows.append((class_name(spec, k), cells))
    header = ("class", "IoU", "95 % interval", "accuracy", "precision", "Dice")
    foot = (
        "mean",
        bar(summary["miou"]),
        span(found[-1])[0],
        number(summary["class_accuracy"])[0],
        "",
        number(summary["dice"])[0],
        number(summary["boundary_iou"])[0],
        number(summary["boundary_f1"])[0],
        "",
        number(len(account.maps), 0, 1)[0],
    )
    return table(
        "classes",
        "Scores per class, in per cent",
        (*header, "boundary IoU", "boundary F1", "pixels", "images"),
        rows,
        foot,
    )


def sizes(
    spec: Spec, runs: Sequence[tuple[str, Mapping[str, Any]]], words: Sequence[str]
) -> str:
    """The IoU of objects by size, per class and in the mean.

    ``runs`` are (name, summary); ``words`` say what each size is.
    """
    known = list(runs[0][1]["miou_by_size"])
    header = [
        f"{word}{f', {name}' if len(runs) > 1 else ''}"
        for word in words
        for name, _ in runs
    ]
    rows = []
    for k, label in enumerate(spec.names):
        found = (
            run["iou_by_size_per_class"][size][label]
            for size in known
            for _, run in runs
        )
        rows.append((class_name(spec, k), [(bar(iou), iou) for iou in found]))
    foot = [bar(run["miou_by_size"][size]) for size in known for _, run in runs]
    caption = "IoU by the size of objects, in per cent"
    return table("sizes", caption, ("class", *header), rows, ("mean", *foot))


def matrix_classes(matrix: np.ndarray) -> list[int]:
    """The classes that a confusion matrix shows: those with the most wrong pixels."""
    if len(matrix) <= MATRIX_CLASSES:
        return list(range(len(matrix)))
    wrong = matrix.sum(0) + matrix.sum(1) - 2 * np.diagonal(matrix)
    return sorted(np.argsort(-wrong, kind="stable")[:MATRIX_CLASSES].tolist())


def confusion(matrix: np.ndarray, shown: Sequence[int], spec: Spec) -> str:
    """Rows are the truth and add up to 100 %; cells are buttons for the examples."""
    rest = np.setdiff1d(np.arange(len(matrix)), shown)
    heads = [f'<th scope="col"><span>{class_name(spec, k)}</span></th>' for k in shown]
    if rest.size:
        heads.append('<th scope="col"><span>others</span></th>')
    body = []
    for a in shown:
        total = int(matrix[a].sum())
        cells = [_cell(a, b, int(matrix[a, b]), total, spec) for b in shown]
        if rest.size:
            cells.append(f"<td>{_share(int(matrix[a, rest].sum()), total)}</td>")
        body.append(
            f'<tr><th scope="row">{class_name(spec, a)}</th>{"".join(cells)}</tr>'
        )
    return (
        f"{_scrolled('Confusion matrix')}"
        '<table class="matrix"><caption>Share of each true class (row) that was '
        "predicted as the column, in per cent</caption><thead><tr>"
        f'<td class="corner">truth ↓<br>prediction →</td>{"".join(heads)}</tr></thead>'
        f"<tbody>{''.join(body)}</tbody></table></div>"
    )


def _share(part: int, whole: int) -> str:
    """Per cent in few characters: 0 is nothing at all, and "<.1" is something."""
    if not whole:
        return "–"
    value = 100 * part / whole
    if part and value < 0.1:
        return "&lt;.1"
    return "100" if part == whole else f"{value:.1f}" if part else "0"


def _cell(a: int, b: int, pixels: int, total: int, spec: Spec) -> str:
    share = pixels / total if total else 0.0
    if a == b:
        return f'<td class="hit" style="--v:{share:.3f}">{_share(pixels, total)}</td>'
    if not pixels:
        return f"<td>{_share(pixels, total)}</td>"
    unit = "image" if isinstance(spec, ClassSpec) else "pixel"
    said = (
        f"{spec.names[a]} taken for {spec.names[b]}: {100 * share:.2f} %, "
        f"{pixels:,} {unit}{'s' * (pixels != 1)}; show examples"
    )
    # The root makes a few per cent, which matter, visible beside 90.
    return (
        f'<td class="miss" style="--v:{share**0.5:.3f}"><button type="button" '
        f'data-cell="{a}-{b}" aria-label="{escape(said)}" title="{escape(said)}">'
        f"{_share(pixels, total)}</button></td>"
    )


def images(
    ids: Sequence[str],
    scores: np.ndarray,
    accuracy: np.ndarray,
    pixels: np.ndarray,
    pictured: Callable[[int], bool],
    other: np.ndarray | None = None,
) -> str:
    """One line per image, the worst first."""
    # NaN, nothing labelled, comes last.
    order = np.argsort(scores, kind="stable")[:ROWS]
    rows = []
    for i in map(int, order):
        name = escape(ids[i])
        if pictured(i):
            name = (
                f'<button type="button" class="open" data-image="{i}">{name}</button>'
            )
        cells = [number(scores[i]), number(accuracy[i]), number(pixels[i], 0, 1)]
        if other is not None:
            cells += [number(other[i]), signed(scores[i] - other[i])]
        rows.append((name, cells))
    header = ["image", "mIoU", "pixel accuracy", "labelled pixels"]
    if other is not None:
        header += ["mIoU of the other", "difference"]
    caption = "Scores per image, in per cent"
    if len(scores) > ROWS:
        caption += f"; the worst {ROWS} of {len(scores)}"
    return table("images", caption, header, rows)


def differences(
    found: Sequence[Interval],
    rows: Sequence,
    spec: Spec,
    what: str = "IoU",
    mean: str = "mIoU",
) -> str:
    """Per class and of all: both scores, the difference, its interval, a verdict.

    ``rows`` are pairs (our score, theirs), as many as ``found``; ``what`` is the score
    of a class, ``mean`` that of all.
    """
    ends = [end for i in found for end in (i.low, i.high) if not np.isnan(end)]
    reach = (min(0.0, *ends), max(0.0, *ends)) if ends else (-1.0, 1.0)
    lines = []
    for k, (interval, (ours, theirs)) in enumerate(zip(found, rows, strict=True)):
        cells = [
            number(ours),
            number(theirs),
            signed(interval.value),
            span(interval, plus=True),
            (_whisker(interval, reach), interval.value),
            (_verdict(interval), float(interval.side)),
        ]
        of_all = k == spec.num_classes
        lines.append((f"<b>{mean}</b>" if of_all else class_name(spec, k), cells))
    header = ("class", "this run", "the other", "difference", "95 % interval")
    return table(
        "differences",
        f"Difference in {what}, percentage points: this run less the other",
        (*header, "around zero", "verdict"),
        [lines[-1], *lines[:-1]],
    )


def _verdict(interval: Interval) -> str:
    return {1: "better", -1: "worse", 0: "not told apart"}[interval.side]


def _whisker(interval: Interval, reach: tuple[float, float]) -> str:
    """The interval drawn on a scale that all lines share, with zero on it."""
    if np.isnan(interval.low):
        return ""

    def at(value: float) -> str:
        low, high = reach
        return f"{6 + 108 * (value - low) / (high - low or 1.0):.1f}"

    return (
        '<svg class="whisker" viewBox="0 0 120 14" aria-hidden="true">'
        f'<line class="zero" x1="{at(0)}" x2="{at(0)}" y1="0" y2="14"/>'
        f'<line class="reach" x1="{at(interval.low)}" x2="{at(interval.high)}" y1="7" '
        f'y2="7"/><circle cx="{at(interval.value)}" cy="7" r="3.5"/></svg>'
    )


def pairs(name: str, caption: str, header: Sequence[str], rows: Sequence) -> str:
    """A table of texts: each row (key, value, ...), escaped here.

    A row whose key ends in "*" is marked as changed.
    """
    body = []
    for key, *values in rows:
        mark = ' class="changed"' if key.endswith("*") else ""
        cells = "".join(f"<td>{escape(str(v))}</td>" for v in values)
        body.append(f'<tr{mark}><th scope="row">{escape(key)}</th>{cells}</tr>')
    heads = "".join(f'<th scope="col">{escape(h)}</th>' for h in header)
    return (
        f"{_scrolled(caption)}"
        f'<table class="pairs" id="table-{name}"><caption>{escape(caption)}</caption>'
        f"<thead><tr>{heads}</tr></thead><tbody>{''.join(body)}</tbody></table></div>"
    )

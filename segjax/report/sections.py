"""What a report says, section by section: each gives HTML and the charts in it."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from typing import Any

import numpy as np

from segjax import config as configs
from segjax.batch import LabelSpec
from segjax.report import charts, tables
from segjax.report.compare import Interval

CURVES = 12
"""Classes that are drawn over training at most: those that end lowest."""

SCORES = {
    "segmentation": (("miou", "mIoU, %", 100.0, False),),
    "classification": (
        ("top1", "Top-1 accuracy, %", 100.0, False),
        ("top5", "Top-5 accuracy, %", 100.0, False),
    ),
}
"""Task -> key in metrics.jsonl, title, factor, logarithmic."""


@dataclass
class Subject:
    """One run as a report sees it."""

    name: str
    config: Any
    spec: tables.Spec
    step: int
    parameters: int
    account: Any  # Account; of a classifier Guesses
    summary: Mapping[str, Any]
    lines: Sequence[Mapping[str, Any]] = ()
    result: Mapping[str, Any] | None = None

    def series(self, split: str, key: str, factor: float = 1.0):
        """Points (step, value) of a key in the split's lines of metrics.jsonl."""
        return [
            (float(line["step"]), factor * line[key])
            for line in self.lines
            if line.get("split") == split and isinstance(line.get(key), int | float)
        ]

    @property
    def eval_splits(self) -> list[str]:
        """Splits other than train that the run scored while it trained."""
        # Updates that were skipped have lines of their own.
        others = ("train", "skipped")
        return list(
            dict.fromkeys(x["split"] for x in self.lines if x["split"] not in others)
        )


@dataclass
class Section:
    """A part of the page with an anchor."""

    anchor: str
    title: str
    html: str
    charts: dict[str, Any] = field(default_factory=dict)


def read_lines(path: Path) -> list[dict[str, Any]]:
    """The whole lines of a metrics.jsonl; none where there is no such file."""
    lines = []
    for line in path.read_text().splitlines() if path.is_file() else ():
        try:
            lines.append(json.loads(line))
        except ValueError:  # cut short by a kill
            continue
    return [x for x in lines if isinstance(x, dict) and {"step", "split"} <= {*x}]


def _charts(found: Sequence[tuple[str, charts.Chart | None]]) -> tuple[str, dict]:
    kept = {name: chart for name, chart in found if chart is not None}
    html = "".join(chart.html for chart in kept.values())
    return html, {name: chart.data for name, chart in kept.items()}


def curves(ours: Subject, other: Subject | None) -> Section:
    """Loss, scores and the rest over the steps of training."""
    if not ours.lines:
        note = "<p>There is no metrics.jsonl: the weights were imported.</p>"
        return Section("curves", "Learning curves", note)
    runs = [(ours, ("s0", "s1"), "")]
    if other is not None:
        runs.append((other, ("s2", "s3"), ", the other"))

    def lines(key: str, factor: float = 1.0) -> list[charts.Series]:
        found = []
        for run, (first, second), of in runs:
            points = run.series("train", key, factor)
            found.append(charts.Series(f"train{of}", points, first))
            for split in run.eval_splits:
                points = run.series(split, key, factor)
                found.append(charts.Series(f"{split}{of}", points, second, dots=True))
        return [s for s in found if s.points]

    titles = (
        ("loss", "Loss", 1.0, True),
        *SCORES[ours.config.task],
        ("lr", "Learning rate", 1.0, False),
        ("gradient_norm", "Gradient norm", 1.0, True),
        ("images_per_s", "Images per second", 1.0, False),
    )
    found = [
        (
            f"curve-{key}",
            charts.line_chart(
                f"curve-{key}",
                title,
                lines(key, factor),
                percent=factor > 1,
                log=log,
            ),
        )
        for key, title, factor, log in titles
    ]
    found.insert(2, ("curve-classes", _class_curves(ours)))
    html, data = _charts(found)
    note = (
        "<p>Training loss and scores are of the augmented batches since the line "
        "before; evaluations are of whole splits. Point at a chart, or focus it and "
        "use the arrow keys, to read values.</p>"
    )
    return Section(
        "curves", "Learning curves", f'{note}<div class="grid">{html}</div>', data
    )


def _class_curves(ours: Subject) -> charts.Chart | None:
    """IoU or accuracy per class at each evaluation, in the classes' colours."""
    what = "IoU" if ours.config.task == "segmentation" else "Accuracy"
    key = f"{what.lower()}_per_class"
    lines = [x for x in ours.lines if x["split"] != "train" and key in x]
    if len(lines) < 2:
        return None
    last = lines[-1][key]
    names = sorted(last, key=lambda n: last[n] if last[n] is not None else 2.0)
    palette = dict(zip(ours.spec.names, tables.palette(ours.spec), strict=True))
    series = [
        charts.Series(
            name,
            [
                (float(x["step"]), 100 * x[key][name])
                for x in lines
                if x[key].get(name) is not None
            ],
            "class",
            palette.get(name),
        )
        for name in names[:CURVES]
    ]
    title = f"{what} per class, %"
    if len(names) > CURVES:
        title = f"{what} of the {CURVES} classes that end lowest, %"
    return charts.line_chart("curve-classes", title, series, percent=True)


def classes(ours: Subject, found: Sequence[Interval]) -> Section:
    """The table per class."""
    absent = ours.summary["absent_classes"]
    note = (
        "<p>IoU = TP / (truth + predicted − TP), accuracy = TP / truth, precision = "
        "TP / predicted, Dice = 2 TP / (truth + predicted), of the whole split's "
        "pixels; boundary IoU and F1 see the boundaries alone (docs/metrics.md says "
        "how; both means as <code>segjax evaluate</code> has them); "
        "<em>pixels</em> is the class's share of the truth, <em>images</em> in how "
        "many it occurs. The interval is a bootstrap over images: another "
        "sample of images, not another seed of training. A click on a heading "
        "sorts.</p>"
    )
    if absent:
        note += f"<p>Absent, not counted: {escape(', '.join(absent))}.</p>"
    html = note + tables.classes(ours.account, ours.summary, found, ours.spec)
    return Section("classes", "Classes", html)


def confusion(ours: Subject, matrix: np.ndarray, shown: Sequence[int]) -> Section:
    """The matrix, and the place where its examples appear."""
    unit = "pixels" if isinstance(ours.spec, LabelSpec) else "images"
    note = (
        "<p>What the network takes for what. Choose a cell off the diagonal to see the "
        "images where that confusion is largest.</p>"
    )
    spec = ours.spec
    if len(shown) < spec.num_classes:
        note += (
            f"<p>The {len(shown)} classes with the most wrong {unit} of "
            f"{spec.num_classes} are shown; the rest is added up as “others”.</p>"
        )
    html = note + tables.confusion(matrix, shown, spec)
    html += '<div id="examples" class="examples" tabindex="-1" hidden></div>'
    return Section("confusion", "Confusion matrix", html)


def gallery(groups: Mapping[str, Sequence[int]], titles: Mapping[str, str]) -> str:
    """Places for pictures, which the script fills, under a heading per group."""
    parts = []
    for key, indices in groups.items():
        if indices:
            places = "".join(f'<div data-picture="{i}"></div>' for i in indices)
            parts.append(f'<h3>{titles[key]}</h3><div class="pictures">{places}</div>')
    return "".join(parts)


def pictures(groups: Mapping[str, Sequence[int]], spec: tables.Spec) -> Section:
    """Worst, median and best images, a legend, and how strong colours cover."""
    note = (
        "<p>By mIoU of the image alone. The slider, also with the arrow keys, wipes "
        "from the image to the truth, the prediction and the errors; the words under "
        "it jump there. Point at a picture to read the classes.</p>"
        '<noscript><p class="warning">Pictures need JavaScript.</p></noscript>'
    )
    names = "".join(
        f"<li>{tables.class_name(spec, k)}</li>" for k in range(spec.num_classes)
    )
    key = (
        f'<details class="legends" open><summary>Colours</summary><ul class="legend">'
        f"{names}</ul>"
        '<ul class="legend"><li><i class="swatch near"></i>error at a boundary</li>'
        '<li><i class="swatch inside"></i>error inside an area</li>'
        '<li><i class="swatch unlabelled"></i>not labelled, not counted</li></ul>'
        '<label class="cover">Colours cover <input type="range" id="cover" min="20" '
        'max="100" value="75" step="5"></label></details>'
    )
    titles = {"worst": "Worst", "median": "In the middle", "best": "Best"}
    return Section("gallery", "Gallery", note + key + gallery(groups, titles))


def calibration(runs: Sequence[Subject], unit: str = "pixel") -> Section:
    """The reliability diagram and how often each confidence occurs."""
    series, shares, notes = [], [], []
    for number, run in enumerate(runs):
        name, look = ("this run", "s0") if number == 0 else ("the other", "s2")
        pixels, hits, confidence = run.account.calibration
        used = np.flatnonzero(pixels)
        points = [
            (100 * confidence[i] / pixels[i], 100 * hits[i] / pixels[i]) for i in used
        ]
        series.append(charts.Series(name, points, look))
        share = 100 * pixels / max(pixels.sum(), 1)
        shares.append(charts.Series(name, list(enumerate(share.tolist())), look))
        error = run.account.calibration_error()
        if error is not None:
            notes.append(f"{name}: <b>{100 * error:.2f} %</b>")
    count = len(runs[0].account.calibration[0])
    error = "; ".join(notes)
    diagram = charts.diagonal_chart(
        "reliability",
        "Accuracy, %, by confidence",
        series,
        x_label="mean confidence of the bin, %",
        note=f"Reliability diagram with {count} bins; expected calibration error "
        + error.replace("<b>", "").replace("</b>", ""),
    )
    ends = [f"{100 * (i + 1) / count:.0f}" for i in range(count)]
    bars = charts.bar_chart(
        "confidence",
        f"Share of {unit}s by confidence, %",
        ends,
        shares,
        x_label="confidence up to, %",
        every=2,
    )
    note = (
        f"<p>Expected calibration error over {count} equal bins (Guo et al. 2017): "
        f"{error or f'no {unit}s'}. Confidence is the largest softmax probability "
        f"of each {unit}, from the predictions made for this report. Under the "
        "diagonal the network is surer than it is right.</p>"
    )
    html = f'{note}<div class="grid">{diagram.html}{bars.html}</div>'
    data = {"reliability": diagram.data, "confidence": bars.data}
    return Section("calibration", "Calibration", html, data)


def settings(ours: Subject) -> str:
    """Every knob of the run; what differs from its default is marked."""
    known, flat = configs.flatten(configs.default()), configs.flatten(ours.config)
    rows = []
    for key, value in flat.items():
        changed = key not in known or known[key] != value
        default = known.get(key, "–")
        rows.append((f"{key}{'*' if changed else ''}", value, default))
    toggle = (
        '<label class="toggle"><input type="checkbox" id="changed-only" checked> only '
        "what differs from the default (*)</label>"
    )
    return toggle + tables.pairs("config", "Config", ("key", "value", "default"), rows)


def config_differences(ours: Subject, other: Subject) -> str:
    """The keys in which the two configs differ."""
    found = configs.differences(ours.config, other.config)
    if not found:
        return "<p>The two configs are the same.</p>"
    rows = [(key, *values) for key, values in found.items()]
    header = ("key", "this run", "the other")
    return tables.pairs("config-differences", "Config that differs", header, rows)

"""Charts as inline SVG, drawn here, so that a page shows them without a script.

One size fits a telephone and a column of a wide page: text keeps a legible size because
the drawing is hardly scaled. What the page's script needs for its hover values comes
beside the drawing.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

WIDTH, HEIGHT = 360, 220
LEFT, RIGHT, TOP, BOTTOM = 46, 12, 10, 34
POINTS = 400
"""Points of a line at most; longer ones are thinned evenly."""


@dataclass(frozen=True)
class Series:
    """A line: its name, its points, and how it looks (a class of the style sheet)."""

    name: str
    points: Sequence[tuple[float, float]]
    style: str = "s0"
    color: tuple[int, int, int] | None = None
    dots: bool = False


@dataclass(frozen=True)
class Chart:
    """A drawing (HTML) and what the script wants to know of it (JSON)."""

    html: str
    data: dict[str, Any]


@dataclass(frozen=True)
class Axis:
    """A linear or logarithmic scale from values to px of the drawing."""

    low: float
    high: float
    start: float
    end: float
    log: bool = False

    def __call__(self, value: float) -> float:
        """The place of a value, in px."""
        low, high = self.low, self.high
        if self.log:
            low, high, value = math.log10(low), math.log10(high), math.log10(value)
        return self.start + (value - low) / (high - low) * (self.end - self.start)

    def ticks(self) -> list[float]:
        """About five round values within the scale."""
        if self.log:
            decades = range(
                math.ceil(math.log10(self.low) - 1e-9),
                math.floor(math.log10(self.high) + 1e-9) + 1,
            )
            every = max(1, len(decades) // 5)
            return [10.0**n for n in list(decades)[::every]]
        step = round_step((self.high - self.low) / 5)
        first = math.ceil(self.low / step - 1e-9)
        last = math.floor(self.high / step + 1e-9)
        return [n * step for n in range(first, last + 1)]


def round_step(width: float) -> float:
    """The least of 1, 2, 5 times a power of ten that is not below ``width``."""
    power = 10.0 ** math.floor(math.log10(width))
    return next(m * power for m in (1, 2, 5, 10) if m * power >= width * (1 - 1e-9))


def number(value: float) -> str:
    """A tick's label."""
    if value and (abs(value) < 1e-3 or abs(value) >= 1e5):
        mantissa, power = f"{value:.0e}".split("e")
        return f"{mantissa}e{int(power)}"
    return f"{value:g}"


def _axes(x: Axis, y: Axis, x_label: str, labels: Sequence[str] = ()) -> str:
    """Grid lines, ticks and the label under them; ``labels`` name a bar each."""
    parts = []
    for value in y.ticks():
        at = f"{y(value):.1f}"
        parts.append(
            f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{at}" y2="{at}"/>'
            f'<text x="{LEFT - 6}" y="{at}" dy=".32em" text-anchor="end">'
            f"{number(value)}</text>"
        )
    base = HEIGHT - BOTTOM
    named = enumerate(labels) if labels else ((v, number(v)) for v in x.ticks())
    for value, text in named:
        parts.append(
            f'<text x="{x(value):.1f}" y="{base + 14}" text-anchor="middle">'
            f"{text}</text>"
        )
    middle = (LEFT + WIDTH - RIGHT) / 2
    parts.append(
        f'<text class="label" x="{middle}" y="{HEIGHT - 4}" text-anchor="middle">'
        f"{escape(x_label)}</text>"
    )
    return "".join(parts)


def legend(series: Sequence[Series]) -> str:
    """A list of swatches and names."""
    items = []
    for one in series:
        color = f' style="--swatch:rgb{one.color}"' if one.color else ""
        look = "class" if one.color else one.style
        items.append(f'<li><i class="key {look}"{color}></i>{escape(one.name)}</li>')
    return f'<ul class="legend">{"".join(items)}</ul>'


def _figure(name: str, title: str, note: str, key: str, drawing: str) -> str:
    return (
        f'<figure class="chart" data-chart="{name}"><figcaption><b>{escape(title)}</b>'
        f"{key}</figcaption>"
        f'<div class="plot"><svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" '
        f'tabindex="0" aria-label="{escape(note)}">{drawing}'
        f'<line class="cursor" y1="{TOP}" y2="{HEIGHT - BOTTOM}" x1="-9" x2="-9"/>'
        '</svg><output class="tip" hidden></output></div></figure>'
    )


def _thin(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    every = -(-len(points) // POINTS)
    kept = list(points[::every]) if every else []
    return kept if not kept or kept[-1] == points[-1] else [*kept, points[-1]]


def _span(values: Sequence[float], log: bool, zero: bool) -> tuple[float, float]:
    """The ends of an axis, with some room; never the same."""
    low, high = min(values), max(values)
    if log:
        return low / 1.1, high * 1.1
    if zero:
        low = min(low, 0.0)
    room = 0.05 * (high - low) or max(abs(high), 1.0) * 0.05
    return (low if zero and low == 0 else low - room), high + room


def line_chart(
    name: str,
    title: str,
    series: Sequence[Series],
    *,
    x_label: str = "step",
    percent: bool = False,
    log: bool = False,
) -> Chart | None:
    """Lines over steps; None where no series has two points.

    ``log`` allows a logarithmic scale, taken where values span a factor of 50.
    """
    series = [s for s in series if s.points]
    if not any(len(s.points) > 1 for s in series):
        return None
    values = [y for s in series for _, y in s.points]
    log = log and min(values) > 0 and max(values) > 50 * min(values)
    low, high = _span(values, log, zero=True)
    if percent:
        high = min(high, 100.0)
    ends = [x for s in series for x, _ in s.points]
    x = Axis(min(0, *ends), max(ends), LEFT, WIDTH - RIGHT)
    y = Axis(low, high, HEIGHT - BOTTOM, TOP, log)
    drawn, data = [], []
    for one in series:
        points = _thin(one.points)
        path = " ".join(f"{x(a):.1f},{y(b):.1f}" for a, b in points)
        color = f' style="stroke:rgb{one.color}"' if one.color else ""
        if one.color:  # a class's colour may be that of the paper
            drawn.append(f'<polyline class="under" points="{path}"/>')
        drawn.append(f'<polyline class="line {one.style}"{color} points="{path}"/>')
        if one.dots and len(points) <= 40:
            drawn += [
                f'<circle class="dot {one.style}" r="2.5" cx="{x(a):.1f}" '
                f'cy="{y(b):.1f}"/>'
                for a, b in points
            ]
        data.append(
            {"name": one.name, "points": [[a, float(f"{b:.5g}")] for a, b in points]}
        )
    last = "; ".join(f"{s.name} ends at {s.points[-1][1]:.4g}" for s in series)
    unit = " %" if percent else ""
    note = f"{title}, over {x_label}s: {last}{unit}. Arrow keys read values."
    drawing = _axes(x, y, x_label) + "".join(drawn)
    return Chart(
        _figure(name, title, note, legend(series), drawing),
        {"x": [x.low, x.high, x.start, x.end], "series": data}
        | {"unit": unit, "label": x_label},
    )


def bar_chart(
    name: str,
    title: str,
    labels: Sequence[str],
    series: Sequence[Series],
    *,
    x_label: str,
    every: int = 1,
) -> Chart:
    """Bars in per cent; the points of a series are (number of a label, value).

    Each ``every``-th label is drawn.
    """
    count = len(labels)
    high = max([y for s in series for _, y in s.points] or [0.0]) * 1.05 or 1.0
    x = Axis(-0.5, count - 0.5, LEFT, WIDTH - RIGHT)
    y = Axis(0, high, HEIGHT - BOTTOM, TOP)
    slot = (x.end - x.start) / count
    width = slot * 0.76 / max(1, len(series))
    drawn = []
    for number_, one in enumerate(series):
        shift = (number_ - len(series) / 2) * width
        drawn += [
            f'<rect class="bar {one.style}" x="{x(a) + shift:.1f}" y="{y(b):.1f}" '
            f'width="{width:.1f}" height="{y.start - y(b):.1f}"/>'
            for a, b in one.points
        ]
    data = [
        {"name": s.name, "points": [[a, float(f"{b:.4g}")] for a, b in s.points]}
        for s in series
    ]
    shown = "; ".join(
        f"{s.name}: " + ", ".join(f"{labels[int(a)]}: {b:.1f} %" for a, b in s.points)
        for s in series
    )
    written = [t if i % every == 0 else "" for i, t in enumerate(labels)]
    drawing = _axes(x, y, x_label, written) + "".join(drawn)
    return Chart(
        _figure(name, title, f"{title}. {shown}", legend(series), drawing),
        {"x": [x.low, x.high, x.start, x.end], "series": data}
        | {"unit": " %", "label": x_label, "labels": list(labels)},
    )


def diagonal_chart(
    name: str,
    title: str,
    series: Sequence[Series],
    *,
    x_label: str,
    note: str,
    names: Sequence[str] | None = None,
) -> Chart:
    """Per cent against per cent with the diagonal where both are equal.

    With ``names`` the points are a cloud and each has one, and both axes have only the
    tens that hold it; else each series is a line, from 0 to 100.
    """
    low, high = 0.0, 100.0
    values = [v for s in series for point in s.points for v in point]
    if names is not None and values:
        low, high = 10 * math.floor(min(values) / 10), 10 * math.ceil(max(values) / 10)
        high = max(high, low + 10)
    x = Axis(low, high, LEFT, WIDTH - RIGHT)
    y = Axis(low, high, HEIGHT - BOTTOM, TOP)
    ends = f'x1="{x(low)}" y1="{y(low)}" x2="{x(high)}" y2="{y(high)}"'
    drawn = [f'<line class="diagonal" {ends}/>']
    for one in series:
        places = [(f"{x(a):.1f}", f"{y(b):.1f}") for a, b in one.points]
        if names is None:
            path = " ".join(f"{a},{b}" for a, b in places)
            drawn.append(f'<polyline class="line {one.style}" points="{path}"/>')
        look = "dot" if names is None else "dot cloud"
        drawn += [
            f'<circle class="{look} {one.style}" r="3" cx="{a}" cy="{b}"/>'
            for a, b in places
        ]
    data = [
        {"name": s.name, "points": [[round(a, 2), round(b, 2)] for a, b in s.points]}
        for s in series
    ]
    key = legend(series) if names is None else ""
    drawing = _axes(x, y, x_label) + "".join(drawn)
    more = {"unit": " %", "label": x_label}
    if names is not None:
        more |= {"names": list(names), "y": [low, high, y.start, y.end]}
    return Chart(
        _figure(name, title, note, key, drawing),
        {"x": [low, high, x.start, x.end], "series": data} | more,
    )

"""Charts: where a value is drawn, against places worked out by hand."""

import re

import pytest

from segjax.report import charts
from segjax.report.charts import Axis, Series
from segjax.report.sections import Subject


def test_ticks_are_round_and_inside():
    assert Axis(0, 10, 0, 100).ticks() == [0, 2, 4, 6, 8, 10]
    assert Axis(0.13, 0.58, 0, 100).ticks() == pytest.approx([0.2, 0.3, 0.4, 0.5])
    assert Axis(1e-4, 2e-1, 0, 100, log=True).ticks() == pytest.approx(
        [1e-4, 1e-3, 1e-2, 1e-1]
    )
    assert [charts.round_step(x) for x in (0.9, 1.0, 1.1, 3.0, 6.0)] == [1, 1, 2, 5, 10]
    assert [charts.number(x) for x in (0, 0.25, 1e-4, 2e6)] == [
        "0",
        "0.25",
        "1e-4",
        "2e6",
    ]


def test_an_axis_is_linear_or_logarithmic():
    assert Axis(0, 4, 100, 0)(1) == 75
    assert Axis(1, 100, 0, 10, log=True)(10) == 5


def test_a_line_goes_through_its_points():
    series = [Series("loss", [(0, 0.0), (5, 1.0), (10, 2.0)])]
    chart = charts.line_chart("x", "Loss", series)
    assert chart is not None
    (points,) = re.findall(r'<polyline class="line s0" points="([^"]+)"', chart.html)
    places = [tuple(map(float, p.split(","))) for p in points.split()]
    # x: 0 to 10 over 46 to 348 px. y: 0 to 2.1 (5 % of room above) over 186 to 10 px.
    assert places == [(46, 186), (197, 102.2), (348, 18.4)]
    assert chart.data["x"] == [0, 10, 46, 348]
    assert chart.data["series"] == [
        {"name": "loss", "points": [[0, 0], [5, 1], [10, 2]]}
    ]


def test_a_wide_range_is_logarithmic_only_where_allowed():
    series = [Series("lr", [(0, 1.0), (1, 1000.0)])]
    for log, wanted in (
        (True, ["1", "10", "100", "1000"]),
        (False, ["0", "500", "1000"]),
    ):
        chart = charts.line_chart("x", "x", series, log=log)
        assert chart is not None
        ticks = re.findall(r'text-anchor="end">([^<]+)<', chart.html)
        assert ticks == wanted


def test_long_lines_are_thinned_but_end_where_they_end():
    series = [Series("a", [(float(i), 1.0) for i in range(10 * charts.POINTS + 3)])]
    chart = charts.line_chart("x", "x", series)
    assert chart is not None
    points = chart.data["series"][0]["points"]
    assert len(points) <= charts.POINTS + 1
    assert points[0][0] == 0 and points[-1][0] == 10 * charts.POINTS + 2


def test_a_single_value_is_no_line_and_one_level_is_no_error():
    assert charts.line_chart("x", "x", [Series("a", [(1, 1.0)])]) is None
    assert charts.line_chart("x", "x", []) is None
    flat = charts.line_chart("x", "x", [Series("a", [(1, 0.0), (2, 0.0)])])
    assert flat is not None and "nan" not in flat.html


def test_bars_stand_side_by_side_as_high_as_their_values():
    series = [Series("a", [(0, 10.0), (1, 20.0)]), Series("b", [(1, 5.0)], "s2")]
    chart = charts.bar_chart("x", "x", ("near", "far"), series, x_label="px")
    bars = re.findall(
        r'rect class="bar (s\d)" x="([\d.]+)" y="[\d.]+" width="([\d.]+)" '
        r'height="([\d.]+)"',
        chart.html,
    )
    # 176 px are 21 %; each of two slots of 151 px has two bars of 57.4 px.
    assert [(s, float(h)) for s, _, _, h in bars] == [
        *(("s0", 83.8), ("s0", 167.6), ("s2", 41.9))
    ]
    (_, x, width, _), (_, other, _, _) = bars[1:]
    assert float(other) - float(x) == pytest.approx(float(width), abs=0.11)
    assert "near: 10.0 %" in chart.html and chart.data["labels"] == ["near", "far"]


def test_updates_that_were_skipped_are_no_split():
    lines = [{"step": s, "split": x} for s, x in enumerate(("train", "skipped", "val"))]
    subject = Subject("a", None, None, 0, 0, None, {}, lines)  # type: ignore
    assert subject.eval_splits == ["val"]

"""The two figures of a study, as SVG and PNG, the same bytes from the same runs."""

from pathlib import Path
from typing import Any

from experiments.analysis import Analysis
from experiments.scores import title

MINUS = "\N{MINUS SIGN}"

BLUE, ORANGE, GREY = "#0072b2", "#d55e00", "#8a8a8a"  # Okabe & Ito: for all eyes
STYLE: dict[Any, Any] = {
    "svg.hashsalt": "segjax",
    "font.size": 9.0,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.grid.axis": "x",
    "grid.color": "#e4e4e4",
    "axes.axisbelow": True,
    "legend.frameon": False,
}


def draw(analysis: Analysis, folder: Path) -> list[Path]:
    """scores.{svg,png} and cost.{svg,png} in a folder; returns their paths.

    Where all variants cost the same there is no picture of it.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    written = []
    with matplotlib.rc_context(STYLE):
        costs = {round(v.cost["macs"], -6) for v in analysis.variants.values()}
        both = (("scores", _scores), ("cost", _cost))
        for name, make in both if len(costs) > 1 else both[:1]:
            figure = make(pyplot, analysis)
            for ending, metadata in (("svg", {"Date": None}), ("png", {})):
                path = folder / f"{name}.{ending}"
                figure.savefig(path, metadata=metadata, dpi=160, bbox_inches="tight")
                written.append(path)
            pyplot.close(figure)
    return written


def _scores(pyplot: Any, analysis: Analysis) -> Any:
    """Left: every run, means, intervals. Right: the differences and theirs."""
    variants, pairs = analysis.variants, analysis.pairs
    rows = max(len(variants), len(pairs), 2)
    figure, axes = pyplot.subplots(
        1,
        2 if pairs else 1,
        figsize=(9.2 if pairs else 4.8, 0.9 + 0.42 * rows),
        squeeze=False,
        layout="constrained",
    )
    left = axes[0, 0]
    for row, variant in enumerate(variants.values()):
        values = [100 * value for value in variant.values]
        left.plot(values, [row] * len(values), "o", color=GREY, ms=4, mec="none")
        if variant.spread:
            mean = 100 * variant.spread.mean
            half = 100 * (variant.spread.high - variant.spread.mean)
            left.errorbar(mean, row + 0.22, xerr=half, fmt="|", color=BLUE, capsize=3)
    _rows(left, list(variants))
    left.set_xlabel(f"{title(analysis.study.primary)}, points")
    note = "grey: one seed each; blue: mean, 95 % interval over seeds"
    left.set_title(note, fontsize=8, loc="left", color="#444444")
    if pairs:
        _differences(axes[0, 1], analysis)
    return figure


def _differences(axes: Any, analysis: Analysis) -> None:
    axes.axvline(0, color="#444444", lw=0.8)
    for row, pair in enumerate(analysis.pairs):
        found = pair.found
        axes.errorbar(
            100 * found.effect,
            row,
            xerr=100 * (found.high - found.effect),
            fmt="o",
            ms=5,
            color=BLUE if pair.sure else ORANGE,
            mfc=BLUE if pair.sure else "white",
            capsize=3,
        )
        axes.annotate(
            f"{100 * found.effect:+.1f}".replace("-", MINUS),
            (100 * found.effect, row),
            xytext=(0, 6),
            textcoords="offset points",
            ha="center",
            fontsize=8,
        )
    _rows(
        axes, [f"{pair.first} \N{MINUS SIGN} {pair.second}" for pair in analysis.pairs]
    )
    axes.set_xlabel("difference, points")
    note = "95 % interval over seeds and images; hollow: cannot tell (Holm)"
    axes.set_title(note, fontsize=8, loc="left", color="#444444")


def _rows(axes: Any, names: list[str]) -> None:
    axes.set_yticks(range(len(names)), names)
    axes.set_ylim(len(names) - 0.4, -0.6)
    axes.tick_params(axis="y", length=0)


def _cost(pyplot: Any, analysis: Analysis) -> Any:
    """Score over multiply-adds; the area of a dot is the number of parameters."""
    figure, axes = pyplot.subplots(figsize=(4.8, 3.2), layout="constrained")
    largest = max(v.cost["parameters"] for v in analysis.variants.values())
    for name, variant in analysis.variants.items():
        mean = sum(variant.values) / len(variant.values)
        x, y = variant.cost["macs"] / 1e9, 100 * mean
        half = 100 * (variant.spread.high - mean) if variant.spread else 0
        axes.errorbar(x, y, yerr=half, color=GREY, lw=1, capsize=2, zorder=1)
        area = 20 + 180 * variant.cost["parameters"] / largest
        axes.scatter([x], [y], s=area, color=BLUE, alpha=0.75, lw=0, zorder=2)
        axes.annotate(
            name, (x, y), xytext=(7, 5), textcoords="offset points", fontsize=8
        )
    axes.margins(x=0.25, y=0.15)
    axes.grid(axis="both", color="#e4e4e4")
    axes.set_xlabel("GMACs of one image, forward")
    axes.set_ylabel(f"{title(analysis.study.primary)}, points")
    largest_text = f"{largest / 1e6:.1f} M" if largest >= 1e5 else f"{largest:,.0f}"
    axes.set_title(
        f"area: parameters, at most {largest_text}",
        fontsize=8,
        loc="left",
        color="#444444",
    )
    return figure

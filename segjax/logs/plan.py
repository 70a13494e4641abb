"""The tables that end ``segjax plan``."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any


def _count(value: float) -> str:
    for factor, unit in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= factor:
            return f"{value / factor:.3g} {unit}"
    return f"{value:.3g}"


def _bytes(value: float) -> str:
    return f"{value / 1e9:.2f} GB"


# Key of a step's row, title, how it is written.
ROWS: tuple[tuple[str, str, Callable[[Any], str]], ...] = (
    ("peak_bytes", "peak HBM", _bytes),
    ("fits", "fits", lambda fits: "yes" if fits else "NO"),
    ("temporary_bytes", "of it temporary", _bytes),
    ("model_flops", "FLOPs of the model's products", _count),
    ("compiler_flops", "FLOPs, the compiler's count", _count),
    ("bytes_accessed", "bytes accessed, XLA's count", _bytes),
    ("hbm_traffic", "bytes to and from HBM", _bytes),
    ("intensity", "FLOPs per byte", _count),
    ("roofline_seconds", "roofline bound", lambda s: f"{1000 * s:.2f} ms"),
    ("estimated_cycles", "estimated cycles", _count),
    ("estimated_cycles_at_most", "at most, if no copy overlaps", _count),
    ("estimated_seconds", "estimated time", lambda s: f"{1000 * s:.2f} ms"),
    ("estimated_images_per_s", "estimated images/s, all chips", lambda x: f"{x:.0f}"),
    ("estimated_mfu", "estimated MFU", lambda x: f"{100 * x:.1f} %"),
    ("share_without_estimate", "bytes without estimate", lambda x: f"{100 * x:.1f} %"),
    ("lower_bound", "estimate is only a lower bound", lambda x: "YES" if x else "no"),
    ("compile_seconds", "compiled in", lambda s: f"{s:.0f} s"),
)


def plan_tables(results: Sequence[Mapping[str, Any]]) -> list[Any]:
    """Rich tables of one plan, or of two side by side, with their ratio."""
    tables = []
    for step in results[0]["steps"]:
        rows = [result["steps"][step] for result in results]
        tables.append(_costs(step, results, rows))
        for result, row in zip(results, rows, strict=True):
            tables += _details(f"{step} step, {result['config']}", row)
    return tables


def _costs(step: str, results, rows) -> Any:
    from rich.table import Table

    first = results[0]
    table = Table(
        title=f"{step} step on {first['topology']} ({first['chips']} x "
        f"{first['chip']}), one device",
        caption="estimates are the compiler's, not measurements",
    )
    table.add_column("")
    for result in results:
        name = f"{result['config']}\nbatch {result['batch_size']}"
        table.add_column(name, justify="right")
    if len(rows) == 2:
        table.add_column("second : first", justify="right")
    for key, title, write in ROWS:
        values = [row.get(key) for row in rows]
        if any(value is None for value in values):
            continue
        cells = [write(value) for value in values]
        if len(values) == 2:
            plain = isinstance(values[0], bool) or not values[0]
            cells.append("" if plain else f"{values[1] / values[0]:.3f}")
        table.add_row(title, *cells)
    return table


def _details(title: str, row: Mapping[str, Any]) -> list[Any]:
    from rich.table import Table

    tables = []
    if row["collectives"]:
        table = Table("collective", "count", "bytes", title=title)
        for kind, found in row["collectives"].items():
            table.add_row(kind, str(found["count"]), _bytes(found["bytes"]))
        tables.append(table)
    if row.get("bytes_without_estimate"):
        table = Table("without an estimate", "bytes", title=title)
        for kind, size in list(row["bytes_without_estimate"].items())[:5]:
            table.add_row(kind, _bytes(size))
        tables.append(table)
    if row.get("costliest_scopes"):
        table = Table("costliest scopes", "pass", "cycles", "share", title=title)
        for found in row["costliest_scopes"]:
            share = found["cycles"] / max(row["cycles"], 1)
            cells = (_count(found["cycles"]), f"{100 * share:.1f} %")
            table.add_row(found["module"], found["pass"], *cells)
        tables.append(table)
    return tables

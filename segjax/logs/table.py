"""The table per class that ends a training run and an evaluation."""

from collections.abc import Mapping
from typing import Any

from segjax.logs.top import top_table


def class_table(summary: Mapping[str, Any], console: Any = None) -> Any:
    """A rich table of IoU, accuracy, Dice and share of pixels per class, and means.

    Args:
      summary: what ``segjax.metrics.summarize`` returns; ``share_per_class`` (of the
        labelled pixels), boundary IoU and boundary F1 are shown where they are there.
        Of a classifier: what ``segjax.top.Outcomes.summarize`` does
        (:func:`top_table`).
      console: a ``rich.console.Console`` to print it on; None prints nothing.

    Returns:
      The ``rich.table.Table``.
    """
    from rich.table import Table
    from rich.text import Text

    if "top1" in summary:
        return top_table(summary, console)
    columns = [
        ("IoU", "iou_per_class", summary["miou"]),
        ("accuracy", "accuracy_per_class", summary["class_accuracy"]),
        ("Dice", "dice_per_class", summary["dice"]),
    ]
    for title, key in (
        ("boundary IoU", "boundary_iou"),
        ("boundary F1", "boundary_f1"),
    ):
        if key in summary:
            columns.append((title, f"{key}_per_class", summary[key]))
    if "share_per_class" in summary:
        columns.append(("pixels", "share_per_class", None))
    table = Table(show_footer=True)
    table.add_column("class", footer="mean", no_wrap=True)
    for title, _, mean in columns:
        table.add_column(title, footer=_percent(mean, ""), justify="right")
    for name in summary["iou_per_class"]:
        cells = [_percent(summary[key][name]) for _, key, _ in columns]
        table.add_row(Text(name), *cells)  # [a] in a name is no markup
    notes = [f"pixel accuracy {_percent(summary['pixel_accuracy'])}"]
    if summary.get("absent_classes"):
        notes.append(f"absent, not counted: {', '.join(summary['absent_classes'])}")
    table.caption = Text("; ".join(notes))
    if console is not None:
        console.print(table)
    return table


def detection_table(found: Mapping[str, Any], console: Any) -> None:
    """Print average precision per class.

    ``found`` has under "boxes" and "masks" what
    ``segjax.detection.AveragePrecision.summarize`` returns.
    """
    from rich.table import Table
    from rich.text import Text

    table = Table(show_footer=True)
    table.add_column("class", footer="mean")
    columns = [(kind, key) for kind in ("boxes", "masks") for key in ("ap50", "ap")]
    for kind, key in columns:
        title = f"{kind} AP {'0.5' if key == 'ap50' else '0.5:0.95'}"
        footer = _percent(found[kind][key], "")
        table.add_column(title, footer=footer, justify="right")
    for name in found["boxes"]["per_class"]:
        values = [(found[kind]["per_class"][name] or {}).get(k) for kind, k in columns]
        table.add_row(Text(name), *map(_percent, values))
    counts = "{detections} regions found, {objects} true ones".format(**found["boxes"])
    table.caption = Text(counts)
    console.print(table)


def summary_table(summary: Mapping[str, Any], console: Any = None) -> Any:
    """A rich table of the metrics of a whole split that no class has.

    ``summary`` is what ``segjax.metrics.Tally.summarize`` returns; printed on a
    ``rich.console.Console``, if one is given.
    """
    from rich.table import Table
    from rich.text import Text

    table = Table(show_header=False)
    table.add_column()
    table.add_column(justify="right")
    rows = [
        ("mIoU", _percent(summary["miou"])),
        ("frequency-weighted IoU", _percent(summary["fwiou"])),
        ("expected calibration error", _percent(summary["ece"])),
        ("negative log-likelihood, nats", decimals(summary["nll"])),
        ("Brier score, 0 to 2", decimals(summary["brier"])),
        ("mIoU of single images, mean", _percent(summary["image_miou"])),
    ]
    worst = summary["worst_images"]
    name = f"mIoU of the worst {len(worst)} of {len(summary['images'])} images"
    rows.append((name, _percent(summary["worst_miou"])))
    for size, value in summary["miou_by_size"].items():
        number = summary["objects_by_size"][size]
        objects = f"{size} object{'s' * (number != 1)}"
        rows.append((f"mIoU of {number} {objects}", _percent(value)))
    for name, value in rows:
        table.add_row(name, value)
    named = ", ".join(image["id"] for image in worst[:5])
    more = f" and {len(worst) - 5} more" if len(worst) > 5 else ""
    if worst:
        table.caption = Text(f"worst: {named}{more}")
    if console is not None:
        console.print(table)
    return table


def decimals(value: float | None) -> str:
    """Four decimals, or a dash."""
    return "-" if value is None else f"{value:.4f}"


def _percent(value: float | None, none: str = "-") -> str:
    return none if value is None else f"{100 * value:.2f} %"

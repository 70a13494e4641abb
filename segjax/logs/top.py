"""The table per class that ends the training and the evaluation of a classifier."""

from collections.abc import Mapping
from typing import Any

MOST_CLASSES = 100
WORST = 20


def top_table(summary: Mapping[str, Any], console: Any = None) -> Any:
    """A rich table per class: accuracy, share of the images, what it is taken for.

    Beyond 100 classes only the 20 that do worst are shown. ``console`` None prints
    nothing.
    """
    from rich.table import Table
    from rich.text import Text

    accuracy, share = summary["accuracy_per_class"], summary["share_per_class"]
    names = [name for name in accuracy if accuracy[name] is not None]
    title = None
    if len(accuracy) > MOST_CLASSES:
        names = sorted(names, key=lambda name: accuracy[name])[:WORST]
        title = f"the {len(names)} of {len(accuracy)} classes that do worst"
    taken: dict[str, str] = {}
    for truth, prediction, images in summary["most_confused"]:
        taken.setdefault(truth, f"{prediction} ({images})")
    table = Table(show_footer=True, title=title)
    table.add_column("class", footer="mean")
    mean = _percent(summary["class_accuracy"])
    table.add_column("accuracy", footer=mean, justify="right")
    table.add_column("images", justify="right")
    table.add_column("taken for")
    for name in names:  # [a] in a name is no markup
        cells = [_percent(accuracy[name]), _percent(share[name])]
        table.add_row(Text(name), *cells, Text(taken.get(name, "")))
    notes = [f"top-1 {_percent(summary['top1'])}, top-5 {_percent(summary['top5'])}"]
    absent = summary["absent_classes"]
    if absent:
        more = f" and {len(absent) - 5} more" if len(absent) > 5 else ""
        notes.append(f"absent, not counted: {', '.join(absent[:5])}{more}")
    table.caption = Text("; ".join(notes))
    if console is not None:
        console.print(table)
    return table


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.2f} %"

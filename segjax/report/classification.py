"""The page of a classifier: which class it gives the images of a split."""

from collections.abc import Callable, Sequence
from html import escape
from typing import Any

import numpy as np

from segjax.report import album, frame, guesses, sections, tables
from segjax.report.compare import Interval
from segjax.report.frame import Content, percent
from segjax.report.guesses import Guesses
from segjax.report.sections import Section, Subject

WRONG, RIGHT = 12, 6
"""Images of the gallery: wrong ones, and right ones of each kind."""

TITLES = {
    "wrong": "Most wrong: the true class has the least probability",
    "unsure": "Right, but least sure",
    "sure": "Right and surest",
}

Heat = Callable[[int], list[tuple[str, str]]]
"""Index of an image -> (name, packed uint8[h, w]) of each heat map to show."""


def groups(found: Guesses) -> dict[str, list[int]]:
    """The images of the gallery, by :data:`TITLES`."""
    order = np.argsort(found.of_truth, kind="stable")
    wrong = [int(i) for i in order if not found.right[i]]
    right = [int(i) for i in order if found.right[i]]
    unsure = right[: min(RIGHT, -(-len(right) // 2))]
    sure = right[len(unsure) :][::-1][:RIGHT]
    return {"wrong": wrong[:WRONG], "unsure": unsure, "sure": sure}


def render(content: Content, heat: Heat = lambda index: []) -> str:
    """The page's text; ``heat`` is asked for the images of the gallery.

    Raises:
      ValueError: it does not fit in ``frame.LIMIT`` bytes.
    """
    ours, other = content.ours, content.other
    found: Guesses = ours.account
    pictured = groups(found)
    hot = {i for kind in pictured.values() for i in kind}

    def layers(index: int) -> dict[str, Any]:
        runs = [_best(run.account, index) for run in content.runs]
        maps = heat(index) if index in hot else []
        return {"truth": int(found.truth[index]), "best": runs, "heat": maps}

    pictures = album.Album(content.source, layers, frame.LIMIT - frame.ROOM)
    pictures.add_all(pictured)
    parts = [] if other is None else [_against(ours, other, content.ids, pictures)]
    shown = tables.matrix_classes(found.matrix)
    examples = {}
    for (a, b), indices in found.examples().items():
        if a in shown and b in shown:
            kept = [i for i in indices if pictures.add(i)]
            examples[f"{a}-{b}"] = [[i] for i in kept]
    intervals = guesses.shares(found)
    listed = _images(content, pictures.pictures.__contains__)
    parts += [
        sections.curves(ours, other),
        _classes(ours, intervals),
        sections.confusion(ours, found.matrix, shown),
        _gallery(pictured),
        sections.calibration(content.runs, "image"),
        Section("images", "Images", listed),
    ]
    data = {
        "layers": ["this run"] if other is None else ["this run", "other"],
        "examples": examples,
        "pictures": pictures.pictures,
    }
    return frame.write(content, _tiles(content, intervals[-1]), parts, data)


def _best(found: Guesses, index: int) -> list[list[float]]:
    """[class, probability] of the likeliest classes, and of the true one."""
    pairs = zip(found.best[index], found.chance[index], strict=True)
    rows = [[int(k), round(float(p), 4)] for k, p in pairs]
    truth = int(found.truth[index])
    if truth not in found.best[index]:
        rows.append([truth, round(float(found.of_truth[index]), 4)])
    return rows


def _tiles(content: Content, top1: Interval) -> list[tuple[str, str, str]]:
    summary = content.ours.summary
    error = content.ours.account.calibration_error()
    return [
        ("top-1", percent(summary["top1"]), f"95 %: {tables.span(top1)[0]}"),
        ("top-5", percent(summary["top5"]), ""),
        ("class accuracy", percent(summary["class_accuracy"]), "mean over classes"),
        ("calibration error", percent(error, 2), "lower is better"),
        ("images", f"{len(content.ids):,}", f"{content.ours.spec.num_classes} classes"),
    ]


def _classes(ours: Subject, intervals: Sequence[Interval]) -> Section:
    """The table per class."""
    found: Guesses = ours.account
    matrix, names = found.matrix, ours.spec.names
    guessed = matrix.sum(0)
    rows = []
    for k, name in enumerate(names):
        accuracy = ours.summary["accuracy_per_class"][name]
        own = found.truth == k
        five = float((found.rank[own] < 5).mean()) if own.any() else None
        cells = [
            (tables.bar(accuracy), accuracy),
            tables.span(intervals[k]),
            tables.number(five),
            tables.number(matrix[k, k] / guessed[k] if guessed[k] else None),
            tables.number(int(own.sum()), 0, 1),
            tables.number(int(guessed[k]), 0, 1),
        ]
        rows.append((escape(name), cells))
    header = ("class", "accuracy", "95 % interval", "top-5", "precision")
    foot = (
        "mean",
        tables.bar(ours.summary["class_accuracy"]),
        "",
        "",
        "",
        tables.number(len(found.truth), 0, 1)[0],
        "",
    )
    note = (
        "<p>Accuracy = the share of a class's images whose likeliest class it is "
        "(<em>top-5</em>: among the five likeliest), precision = the share of the "
        "images taken for it that are. The interval is Wilson's (1927): another sample "
        "of images, not another seed of training. A click on a heading sorts.</p>"
    )
    absent = ours.summary["absent_classes"]
    if absent:
        note += f"<p>Without images: {escape(', '.join(absent))}.</p>"
    caption = "Scores per class, in per cent"
    table = tables.table(
        "classes", caption, (*header, "images", "predicted"), rows, foot
    )
    return Section("classes", "Classes", note + table)


def _gallery(pictured: dict[str, list[int]]) -> Section:
    """Wrong and right images, with the likeliest classes of each."""
    note = (
        "<p>Bars are the probabilities of the likeliest classes and of the true one, "
        "which is in bold. Where a network has class activation maps, the slider wipes "
        "from the image to where it sees a class (Zhou et al. 2016; Grad-CAM for heads "
        "that are not linear).</p>"
        '<noscript><p class="warning">Pictures need JavaScript.</p></noscript>'
    )
    html = note + sections.gallery(pictured, TITLES)
    return Section("gallery", "Gallery", html)


def _images(content: Content, pictured: Callable[[int], bool]) -> str:
    """One line per image, the most wrong first."""
    ours, names = content.ours.account, content.ours.spec.names
    order = np.argsort(ours.of_truth, kind="stable")[: tables.ROWS]
    rows = []
    for i in map(int, order):
        name = escape(content.ids[i])
        if pictured(i):
            name = (
                f'<button type="button" class="open" data-image="{i}">{name}</button>'
            )
        cells: list[tables.Cell] = [
            (escape(names[ours.truth[i]]), float(ours.truth[i])),
            tables.number(ours.of_truth[i]),
            (escape(names[ours.best[i, 0]]), float(ours.best[i, 0])),
            tables.number(ours.chance[i, 0]),
        ]
        if content.other is not None:
            theirs = content.other.account
            guess = int(theirs.best[i, 0])
            cells += [
                (escape(names[guess]), float(guess)),
                tables.signed(float(ours.of_truth[i] - theirs.of_truth[i])),
            ]
        rows.append((name, cells))
    header = ["image", "class", "its probability", "taken for", "with probability"]
    if content.other is not None:
        header += ["the other takes it for", "difference in the class's probability"]
    caption = "Images, the most wrong first; probabilities in per cent"
    if len(ours.truth) > tables.ROWS:
        caption += f"; the first {tables.ROWS} of {len(ours.truth)}"
    place = '<div id="image" class="examples" tabindex="-1" hidden></div>'
    return tables.table("images", caption, header, rows) + place


def _against(
    ours: Subject, other: Subject, ids: Sequence[str], pictures: album.Album
) -> Section:
    """What differs between two runs, per class and per image."""
    mine, theirs = ours.account, other.account
    found = guesses.differences(mine, theirs)
    names = ours.spec.names
    rows = [
        (ours.summary["accuracy_per_class"][n], other.summary["accuracy_per_class"][n])
        for n in names
    ]
    rows.append((ours.summary["top1"], other.summary["top1"]))
    changed = {
        "gained": np.flatnonzero(mine.right & ~theirs.right),
        "lost": np.flatnonzero(~mine.right & theirs.right),
    }
    chosen = {key: [int(i) for i in some[:RIGHT]] for key, some in changed.items()}
    pictures.add_all(chosen)
    mean = found[-1]
    said = {
        1: "This run is better",
        -1: "This run is worse",
        0: "The two are not told apart",
    }[mean.side]
    text = (
        f"<p><b>{said}</b>: top-1 {tables.signed(mean.value)[0]} points, 95 % interval "
        f"{tables.span(mean, plus=True)[0]} (paired bootstrap over the {len(ids)} "
        f"images). {len(changed['gained'])} images this run alone gets right, "
        f"{len(changed['lost'])} the other alone. It speaks of these two trainings, "
        "not of their recipes: another seed gives another training.</p>"
    )
    table = tables.differences(found, rows, ours.spec, "accuracy", "top-1")
    titles = {"gained": "Right in this run alone", "lost": "Right in the other alone"}
    html = text + sections.config_differences(ours, other) + table
    html += sections.gallery(chosen, titles)
    return Section("against", f"Against {other.name}", html)

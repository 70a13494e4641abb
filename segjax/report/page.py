"""The page of a segmentation: what it predicts of a split, and where it errs."""

from typing import Any

import numpy as np

from segjax.report import against, album, compare, frame, sections, tables, where
from segjax.report.frame import Content, percent
from segjax.report.sections import Section


def render(content: Content) -> str:
    """The page's text.

    Raises:
      ValueError: it does not fit in LIMIT bytes.
    """
    ours, other = content.ours, content.other
    accounts = [run.account for run in content.runs]
    scores, accuracy = ours.account.image_scores()
    rivals = other.account.image_scores()[0] if other is not None else None

    def layers(index: int) -> dict[str, Any]:
        truth, near = map(album.text, content.truths[index])
        maps = [album.text(account.maps[index]) for account in accounts]
        return {"truth": truth, "near": near, "maps": maps}

    pictures = album.Album(content.source, layers, frame.LIMIT - frame.ROOM)
    groups = album.ranked(scores)
    pictures.add_all(groups)
    parts = []
    if other is not None:
        changed = album.extremes(scores - rivals)
        pictures.add_all(changed)
        parts.append(against.section(ours, other, content.ids, changed))
    matrix = ours.account.confusion.matrix
    shown = tables.matrix_classes(matrix)
    examples = album.confusions(ours.account, shown, pictures)
    found = compare.intervals(ours.account)
    listed = tables.images(
        content.ids,
        scores,
        accuracy,
        ours.account.truths.sum(1),
        pictures.pictures.__contains__,
        rivals,
    )
    listed += '<div id="image" class="examples" tabindex="-1" hidden></div>'
    parts += [
        sections.curves(ours, other),
        sections.classes(ours, found),
        sections.confusion(ours, matrix, shown),
        sections.pictures(groups, ours.spec),
        where.boundaries(content.runs, content.source.size(0)),
        where.sizes(content.runs),
        sections.calibration(content.runs),
        Section("images", "Images", listed),
    ]
    data = {
        "palette": tables.palette(ours.spec),
        "layers": ["prediction"] if other is None else ["this run", "other"],
        "examples": examples,
        "scores": {
            i: [_json(scores[i]), *([] if rivals is None else [_json(rivals[i])])]
            for i in pictures.pictures
        },
        "pictures": pictures.pictures,
    }
    return frame.write(content, _tiles(content, found[-1]), parts, data)


def _tiles(content: Content, mean: compare.Interval) -> list[tuple[str, str, str]]:
    """The figures of the head."""
    summary = content.ours.summary
    error = content.ours.account.calibration_error()
    return [
        ("mIoU", percent(summary["miou"]), f"95 %: {tables.span(mean)[0]}"),
        ("pixel accuracy", percent(summary["pixel_accuracy"]), ""),
        ("class accuracy", percent(summary["class_accuracy"]), "mean over classes"),
        ("Dice", percent(summary["dice"]), "mean over classes"),
        ("boundary F1", percent(summary["boundary_f1"]), "mean over images"),
        ("calibration error", percent(error, 2), "lower is better"),
        ("images", f"{len(content.ids):,}", f"{summary['pixels']:,} labelled pixels"),
    ]


def _json(value: float) -> float | None:
    return None if np.isnan(value) else round(float(value), 5)

"""The section of a second run: what differs, per class, per image and in the config."""

from collections.abc import Mapping, Sequence

import numpy as np

from segjax.report import charts, compare, sections, tables
from segjax.report.sections import Section, Subject

DOTS = 2000
"""Images in the scatter plot at most."""

TITLES = {"gained": "Most gained by this run", "lost": "Most lost"}


def section(
    ours: Subject,
    other: Subject,
    ids: Sequence[str],
    groups: Mapping[str, Sequence[int]],
) -> Section:
    """Ours less theirs; ``groups`` are the images that gained and lost most."""
    scores, rivals = ours.account.image_scores()[0], other.account.image_scores()[0]
    found = compare.intervals(ours.account, other.account)
    rows = [
        (ours.summary["iou_per_class"][name], other.summary["iou_per_class"][name])
        for name in ours.spec.names
    ]
    rows.append((ours.summary["miou"], other.summary["miou"]))
    scatter = _scatter(scores, rivals, ids)
    html = (
        f"{_verdict(found[-1], scores - rivals)}"
        f'{sections.config_differences(ours, other)}<div class="beside">'
        f"{tables.differences(found, rows, ours.spec)}{scatter.html}</div>"
        f"{sections.gallery({k: groups[k] for k in TITLES}, TITLES)}"
    )
    title = f"Against {other.name}"
    return Section("against", title, html, {"paired": scatter.data})


def _verdict(mean: compare.Interval, change: np.ndarray) -> str:
    """The difference in words."""
    said = {
        1: "This run is better",
        -1: "This run is worse",
        0: "The two are not told apart",
    }[mean.side]
    known = change[~np.isnan(change)]
    return (
        f"<p><b>{said}</b>: mIoU {tables.signed(mean.value)[0]} points, 95 % interval "
        f"{tables.span(mean, plus=True)[0]} (paired bootstrap over the {len(change)} "
        f"images: their pixel counts added up anew {compare.DRAWS:,} times, the same "
        f"images for both). In {int((known > 0).sum())} images this run is better, in "
        f"{int((known < 0).sum())} worse. It speaks of these two trainings, not of "
        "their recipes: another seed gives another training.</p>"
    )


def _scatter(
    scores: np.ndarray, rivals: np.ndarray, ids: Sequence[str]
) -> charts.Chart:
    """One dot per image."""
    dots = np.flatnonzero(~np.isnan(scores - rivals))[:DOTS].tolist()
    cloud = [(100 * float(rivals[i]), 100 * float(scores[i])) for i in dots]
    return charts.diagonal_chart(
        "paired",
        "mIoU of each image, %: this run (up) and the other",
        [charts.Series("this run", cloud, "s0")],
        x_label="the other",
        note="One dot per image; above the line this run is better",
        names=[str(ids[i]) for i in dots],
    )

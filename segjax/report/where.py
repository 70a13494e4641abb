"""Where errors lie: near boundaries, at what place, in objects of what size."""

import base64
import io
from collections.abc import Sequence

import numpy as np
from PIL import Image

from segjax.metrics.objects import SIZES
from segjax.report import charts, tables
from segjax.report.account import DISTANCES, Account, tolerance
from segjax.report.sections import Section, Subject


def _distance_labels() -> list[str]:
    return [*map(str, DISTANCES[:-1]), f"{DISTANCES[-1]}+"]


def boundaries(runs: Sequence[Subject], size: tuple[int, int]) -> Section:
    """Where errors lie: how far from a boundary, and where in the picture."""
    series = []
    for number, run in enumerate(runs):
        valid, wrong = run.account.by_distance
        points = [
            (float(i), 100 * wrong[i] / valid[i]) for i in range(len(valid)) if valid[i]
        ]
        name = "this run" if number == 0 else "the other"
        series.append(charts.Series(name, points, f"s{2 * number}"))
    chart = charts.bar_chart(
        "distance",
        "Wrong pixels by distance to a true boundary, %",
        _distance_labels(),
        series,
        x_label="px to the nearest boundary (from)",
    )
    (pixels, _), (near, _) = runs[0].account.near
    valid, wrong = runs[0].account.near.sum(1)
    note = (
        f"<p><b>{100 * near / max(wrong, 1):.1f} %</b> of the {wrong:,} wrong pixels "
        "lie within 0.75 % of the image's diagonal of a true boundary (the tolerance "
        f"of SegNet's boundary F1; {tolerance(size)} px for an image of "
        f"{size[1]} x {size[0]}), "
        f"where {100 * pixels / max(valid, 1):.1f} % of all labelled pixels lie. A "
        "boundary is where the true map changes, to unlabelled pixels too; a pixel "
        "that touches it has distance 1.</p>"
    )
    html = f'{note}<div class="grid">{chart.html}{_plane(runs[0].account, size)}</div>'
    return Section("boundaries", "Boundaries", html, {"distance": chart.data})


def _plane(account: Account, size: tuple[int, int]) -> str:
    """The share of wrong pixels by place in the picture, as a small PNG."""
    valid, wrong = account.plane
    share = np.divide(wrong, valid, out=np.zeros(valid.shape), where=valid > 0)
    most = float(share.max()) or 1.0
    cells = np.zeros((*share.shape, 4), np.uint8)
    cells[..., :3] = (208, 32, 96)
    cells[..., 3] = np.rint(255 * share / most)
    buffer = io.BytesIO()
    Image.fromarray(cells).save(buffer, format="PNG", optimize=True)
    data = base64.b64encode(buffer.getvalue()).decode("ascii")
    row, column = np.unravel_index(share.argmax(), share.shape)
    words = ("top", "middle", "bottom")[int(3 * row / share.shape[0])]
    side = ("left", "centre", "right")[int(3 * column / share.shape[1])]
    note = (
        f"Share of wrong pixels by place: at most {100 * most:.1f} %, at {words} {side}"
    )
    return (
        '<figure class="chart"><figcaption><b>Wrong pixels by place in the picture, %'
        '</b><ul class="legend"><li>0 <i class="ramp"></i> '
        f'{100 * most:.1f}</li></ul></figcaption><img class="plane" alt="{note}" '
        f'style="aspect-ratio:{size[1]}/{size[0]}" src="data:image/png;base64,{data}">'
        "</figure>"
    )


def sizes(runs: Sequence[Subject]) -> Section:
    """IoU by the size of objects."""
    ours = runs[0].summary
    above = [f"below {least:,} px" for _, least in SIZES[1:]]
    above.append(f"from {SIZES[-1][1]:,} px")
    words = [f"{size}, {end}" for (size, _), end in zip(SIZES, above, strict=True)]
    counts = []
    for size, _ in SIZES:
        recall = ours["recall_by_size"][size]
        share = "" if recall is None else f" ({100 * recall:.1f} % of their pixels)"
        counts.append(f"{ours['objects_by_size'][size]:,} {size}{share}")
    note = (
        "<p>An object is a connected region of a class in the truth; its area decides "
        "its size (COCO's bounds). A wrong pixel counts with the object that its "
        "region of the prediction covers most. Objects, and the share of their pixels "
        f"that is found: {', '.join(counts)}.</p>"
    )
    names = ("this run", "the other")
    found = [(name, run.summary) for name, run in zip(names, runs, strict=False)]
    html = note + tables.sizes(runs[0].spec, found, words)
    return Section("sizes", "Object sizes", html)

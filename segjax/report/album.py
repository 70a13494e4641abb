"""Which images a report shows, and their pictures, small and within so many bytes."""

import base64
import io
import json
from collections.abc import Callable, Mapping, Sequence
from itertools import zip_longest
from typing import Any

import numpy as np
from PIL import Image

from segjax import inference
from segjax.batch import Source
from segjax.report.account import Account, small_size

GALLERY = 6
"""Images of each kind."""

_LOSSLESS = 128 * 128  # px, up to which JPEG's artefacts would show
_QUALITY = 82


def ranked(scores: np.ndarray, per_kind: int = GALLERY) -> dict[str, list[int]]:
    """Images float64[N] -> the indices of the worst, of those in the middle, the best.

    No image is in two of them; those without a score (NaN) are in none.
    """
    order = [
        int(i) for i in np.argsort(scores, kind="stable") if scores[i] == scores[i]
    ]
    each = min(per_kind, max(1, len(order) // 3)) if order else 0
    worst, rest = order[:each], order[each:]
    best, rest = rest[len(rest) - each :][::-1], rest[: len(rest) - each]
    start = max(0, len(rest) - each) // 2
    return {
        "worst": worst,
        "median": rest[start : start + each],
        "best": best,
    }


def extremes(change: np.ndarray, per_kind: int = GALLERY) -> dict[str, list[int]]:
    """Paired differences float64[N] -> indices of the largest losses and gains."""
    order = [
        int(i) for i in np.argsort(change, kind="stable") if change[i] == change[i]
    ]
    return {
        "lost": [i for i in order[:per_kind] if change[i] < 0],
        "gained": [i for i in order[::-1][:per_kind] if change[i] > 0],
    }


def photograph(image: np.ndarray) -> str:
    """An image [h, w, C] of any kind as a data URL of its small copy."""
    shown = Image.fromarray(inference.display_image(image))
    height, width = small_size(image.shape)
    if (width, height) != shown.size:
        shown = shown.resize((width, height), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    if height * width <= _LOSSLESS:
        shown.save(buffer, format="PNG", optimize=True)
    else:
        shown.save(buffer, format="JPEG", quality=_QUALITY, optimize=True)
    kind = "png" if height * width <= _LOSSLESS else "jpeg"
    return f"data:image/{kind};base64,{text(buffer.getvalue())}"


def text(data: bytes) -> str:
    """Bytes as base64."""
    return base64.b64encode(data).decode("ascii")


class Album:
    """Pictures of examples, as many as fit.

    Args:
      source: the split.
      layers: index of an example -> what its picture holds beside the photograph, plain
        JSON values.
      budget: bytes of all pictures together, as they stand in the page.
    """

    def __init__(
        self, source: Source, layers: Callable[[int], dict[str, Any]], budget: int
    ):
        self._source, self._layers = source, layers
        self._ids = source.ids()
        self.left = budget
        self.pictures: dict[int, dict[str, Any]] = {}
        self.full = False

    def add_all(self, groups: Mapping[str, Sequence[int]]) -> None:
        """Add the groups side by side: where room is short, some of each are in."""
        for same_place in zip_longest(*groups.values()):
            for index in same_place:
                if index is not None:
                    self.add(index)

    def add(self, index: int) -> bool:
        """Put the example in, unless the budget is spent; whether it is in."""
        if index in self.pictures or self.full:
            return index in self.pictures
        image = self._source[index]["image"]
        picture = {
            "id": self._ids[index],
            "size": list(small_size(image.shape)),
            "own": [int(n) for n in image.shape[:2]],
            "photo": photograph(image),
            **self._layers(index),
        }
        size = len(json.dumps(picture)) + 10
        if size > self.left:
            self.full = True
            return False
        self.left -= size
        self.pictures[index] = picture
        return True


def confusions(
    account: Account, shown: Sequence[int], album: Album
) -> dict[str, list[list[int]]]:
    """Cell "truth-prediction" of the shown classes -> [[image, pixels], ...].

    The images where the confusion is largest, the largest first; pictures of them go
    into the album, those of the largest cells first, while it has room.
    """
    matrix = account.confusion.matrix
    cells = [(a, b) for a in shown for b in shown if a != b and matrix[a, b]]
    cells.sort(key=lambda cell: -matrix[cell])
    found = {}
    for place in range(account.top.shape[-1]):
        # All first examples before all second ones: an album too small has some of all.
        for a, b in cells:
            pixels, image = (
                account.top[a, b, place],
                int(account.top_image[a, b, place]),
            )
            if pixels:
                album.add(image)
                found.setdefault(f"{a}-{b}", []).append([image, int(pixels)])
    return found

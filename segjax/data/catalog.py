"""What the masks of well-known datasets mean, from tensorflow-datasets or folders.

Feature names and stored ids were read in the builders' own sources
(tensorflow-datasets 4.9.10); ``tfds`` applies these entries by a dataset's name.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from segjax.batch import IGNORE, LabelSpec, default_palette
from segjax.data.classes import UNKNOWN, read_classes
from segjax.data.files import Color

PREFIX = "known:"


@dataclass(frozen=True)
class Known:
    """One builder: its feature names, its classes, and how to generate it.

    ``red`` is the meaning of the red channel where masks are RGB and green and blue
    hold something else; ``install`` and ``before`` go into the advice when the
    dataset is not there.
    """

    image_key: str
    label_key: str
    spec: LabelSpec
    red: LabelSpec | None = None
    install: str = "tensorflow"
    before: str = ""


# name, colour, labelIds of the 19 classes that Cityscapes evaluates; the other ids of
# 0 to 33 are void (cityscapesScripts, helpers/labels.py).
_CITYSCAPES = (
    ("road", (128, 64, 128), 7),
    ("sidewalk", (244, 35, 232), 8),
    ("building", (70, 70, 70), 11),
    ("wall", (102, 102, 156), 12),
    ("fence", (190, 153, 153), 13),
    ("pole", (153, 153, 153), 17),
    ("traffic light", (250, 170, 30), 19),
    ("traffic sign", (220, 220, 0), 20),
    ("vegetation", (107, 142, 35), 21),
    ("terrain", (152, 251, 152), 22),
    ("sky", (70, 130, 180), 23),
    ("person", (220, 20, 60), 24),
    ("rider", (255, 0, 0), 25),
    ("car", (0, 0, 142), 26),
    ("truck", (0, 0, 70), 27),
    ("bus", (0, 60, 100), 28),
    ("train", (0, 80, 100), 31),
    ("motorcycle", (0, 0, 230), 32),
    ("bicycle", (119, 11, 32), 33),
)

# The 150 classes of the MIT scene parsing benchmark (ADE20K) in the order of its ids,
# under the first of their names in objectInfo150.
ADE20K = tuple(
    name.strip()
    for name in (
        "wall, building, sky, floor, tree, ceiling, road, bed, windowpane, grass, "
        "cabinet, sidewalk, person, earth, door, table, mountain, plant, curtain, "
        "chair, car, water, painting, sofa, shelf, house, sea, mirror, rug, field, "
        "armchair, seat, fence, desk, rock, wardrobe, lamp, bathtub, railing, cushion, "
        "base, box, column, signboard, chest of drawers, counter, sand, sink, "
        "skyscraper, fireplace, refrigerator, grandstand, path, stairs, runway, case, "
        "pool table, pillow, screen door, stairway, river, bridge, bookcase, blind, "
        "coffee table, toilet, flower, book, hill, bench, countertop, stove, palm, "
        "kitchen island, computer, swivel chair, boat, bar, arcade machine, hovel, "
        "bus, towel, light, truck, tower, chandelier, awning, streetlight, booth, "
        "television receiver, airplane, dirt track, apparel, pole, land, bannister, "
        "escalator, ottoman, bottle, buffet, poster, stage, van, ship, fountain, "
        "conveyer belt, canopy, washer, plaything, swimming pool, stool, barrel, "
        "basket, waterfall, tent, bag, minibike, cradle, oven, ball, food, step, tank, "
        "trade name, microwave, pot, animal, bicycle, lake, dishwasher, screen, "
        "blanket, sculpture, hood, sconce, vase, traffic light, tray, ashcan, fan, "
        "pier, crt screen, plate, monitor, bulletin board, shower, radiator, glass, "
        "clock, flag"
    ).split(",")
)

# Those of the 150 that the instance benchmark leaves out: its 100 categories are the
# others, in the same order (placeschallenge, instanceInfo100_train.txt).
_ADE20K_NO_INSTANCES = (
    "wall, building, sky, floor, tree, ceiling, road, grass, sidewalk, earth, "
    "mountain, plant, water, house, sea, rug, field, rock, base, sand, skyscraper, "
    "grandstand, path, runway, stairway, river, bridge, blind, hill, bar, hovel, "
    "tower, dirt track, land, escalator, buffet, poster, stage, conveyer belt, canopy, "
    "swimming pool, waterfall, tent, cradle, tank, lake, blanket, pier, crt screen, "
    "shower"
).split(", ")

# Lost and Found: small things that are no hazard (posts, timber, a wheel cap ...).
_LOST_AND_FOUND_HARMLESS = (31, 33, 34, 36, 37, 38, 39)


def _ade20k(names: tuple[str, ...]) -> LabelSpec:
    """Stored id k + 1 is class k, and 0 is unlabelled."""
    remap = ((0, IGNORE), *((k + 1, k) for k in range(len(names))))
    return LabelSpec(names, default_palette(len(names)), remap=remap)


def _cityscapes() -> LabelSpec:
    classes = {stored: k for k, (_, _, stored) in enumerate(_CITYSCAPES)}
    return LabelSpec(
        names=tuple(name for name, _, _ in _CITYSCAPES),
        palette=tuple(color for _, color, _ in _CITYSCAPES),
        remap=tuple((stored, classes.get(stored, IGNORE)) for stored in range(34)),
    )


def _lost_and_found() -> LabelSpec:
    obstacles = [i for i in range(2, 44) if i not in _LOST_AND_FOUND_HARMLESS]
    ignored = [(i, IGNORE) for i in (0, *_LOST_AND_FOUND_HARMLESS)]
    return LabelSpec(
        names=("free space", "obstacle"),
        palette=((128, 64, 128), (0, 0, 142)),
        remap=(*ignored, (1, 0), *((i, 1) for i in obstacles)),
    )


def _voc() -> LabelSpec:
    """Pascal VOC's palette files: the indices are the classes, 255 the border."""
    names = (
        "background aeroplane bicycle bird boat bottle bus car cat chair cow "
        "diningtable dog horse motorbike person pottedplant sheep sofa train tvmonitor"
    ).split()
    return LabelSpec(tuple(names), default_palette(len(names)))


CLASSES: dict[str, LabelSpec] = {
    "cityscapes": _cityscapes(),
    "ade20k": _ade20k(ADE20K),
    "voc": _voc(),
}
"""What the published files' masks hold, for datasets that lie in folders."""

KNOWN: dict[str, Known] = {
    # Trimaps: 1 pet, 2 background, 3 the border between them, which the data set's
    # README calls not classified and TensorFlow's tutorials train as a class.
    "oxford_iiit_pet": Known(
        "image",
        "segmentation_mask",
        LabelSpec(
            names=("pet", "background", "border"),
            palette=((220, 20, 60), (70, 130, 180), (255, 255, 0)),
            remap=((0, UNKNOWN), (1, 0), (2, 1), (3, 2)),
        ),
    ),
    "cityscapes": Known(
        "image_left",
        "segmentation_label",
        _cityscapes(),
        before=(
            "put leftImg8bit_trainvaltest.zip and gtFine_trainvaltest.zip from "
            "www.cityscapes-dataset.com into downloads/manual there, then "
        ),
    ),
    # The stock builder packs annotations_instance: red is one of 100 categories, green
    # the instance, and walls, sky and floor are not told from unlabelled pixels. For
    # the 150 classes generate it with single-channel annotations of ids 0 to 150.
    "scene_parse150": Known(
        "image",
        "annotation",
        _ade20k(ADE20K),
        red=_ade20k(tuple(n for n in ADE20K if n not in _ADE20K_NO_INSTANCES)),
    ),
    # Grey levels are the share of annotators who drew the bird there.
    "caltech_birds2011": Known(
        "image",
        "segmentation_mask",
        LabelSpec(
            names=("background", "bird"),
            palette=((0, 0, 0), (255, 160, 0)),
            remap=tuple((grey, int(grey >= 128)) for grey in range(256)),
        ),
        install="tensorflow opencv-python",
    ),
    "lost_and_found": Known("image_left", "segmentation_label", _lost_and_found()),
}


def find_classes(root: Path, name: str) -> tuple[LabelSpec, dict[Color, int]]:
    """What masks hold: by a file below the root, or "known:NAME".

    Raises:
      ValueError: no such file or dataset.
    """
    if not name.startswith(PREFIX):
        return read_classes(root / name)
    if name.removeprefix(PREFIX) not in CLASSES:
        raise ValueError(
            f"config.data.folder.classes_file={name!r} is not known; write "
            f"{', '.join(PREFIX + known for known in CLASSES)}, or name a file"
        )
    return CLASSES[name.removeprefix(PREFIX)], {}

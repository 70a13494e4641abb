"""Small datasets, clean and with one fault each, written by the tests.

A fault is a function that spoils a clean folder dataset in one way, and what the doctor
has to say then: its codes (errors and warnings, no other) and a file each.
"""

import io
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
from PIL import Image

from segjax import config as configs
from tests.data.test_files import write_png

NAMES = ["background", "road", "car", "tree"]
COLORS = [(0, 0, 0), (128, 64, 128), (0, 0, 142), (107, 142, 35)]
TRAIN, VAL = 9, 5
H, W = 40, 48


def grid(h=H, w=W):
    return np.mgrid[0:h, 0:w].astype(float)


def image_of(seed, h=H, w=W):
    """uint8[h, w, 3]: waves that are different for every seed."""
    rng = np.random.default_rng([1, seed])
    y, x = grid(h, w)
    waves = [
        np.sin(rng.uniform(-0.3, 0.3) * y + rng.uniform(-0.3, 0.3) * x + phase)
        for phase in rng.uniform(0, 6, 9)
    ]
    mixed = np.tensordot(rng.normal(0, 1, (3, 9)), waves, axes=1).transpose(1, 2, 0)
    return np.clip(128 + 30 * mixed + rng.normal(0, 3, (h, w, 3)), 1, 254).astype("u1")


def mask_of(seed, h=H, w=W, classes=4):
    """uint8[h, w]: cells around random points, every class in one of them at least."""
    rng = np.random.default_rng([2, seed])
    y, x = grid(h, w)
    points = rng.uniform(0, (h, w), (8, 2))
    distance = [(y - a) ** 2 + (x - b) ** 2 for a, b in points]
    return (np.argmin(distance, axis=0) % classes).astype(np.uint8)


def blob_of(seed):
    """uint8[H, W]: one object of class 1 that does not reach the frame."""
    y, x = grid()
    a, b, c = np.random.default_rng([3, seed]).uniform(9, 13, 3)
    return (((y - 20) / a) ** 2 + ((x - 10 - c) / b) ** 2 < 1).astype(np.uint8)


def save(path: Path, array, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.asarray(array)).save(path, **options)


def encoded(array, ending, **options) -> bytes:
    stream = io.BytesIO()
    kind = {"jpg": "JPEG", "tif": "TIFF"}.get(ending, ending)
    Image.fromarray(np.asarray(array)).save(stream, kind, **options)
    return stream.getvalue()


def clean(root: Path, mask=mask_of, names=NAMES) -> Path:
    """A dataset without fault: train/ and val/ with images/ and masks/."""
    root.mkdir(exist_ok=True)
    (root / "classes.json").write_text(json.dumps(names))
    for split, first, count in (("train", 0, TRAIN), ("val", 100, VAL)):
        for i in range(first, first + count):
            save(root / split / "images" / f"{i:03d}.png", image_of(i))
            save(root / split / "masks" / f"{i:03d}.png", mask(i))
    return root


def config_of(root: Path, **data: Any):
    """A config that trains on a folder."""
    config = configs.default()
    config.steps = 1
    config.data.name, config.data.root = "folder", str(root)
    config.data.image_size = (H, W)
    for key, value in data.items():
        configs.get(config, ".".join(["data", *key.split(".")[:-1]]))[
            key.split(".")[-1]
        ] = value
    return config


def image(root, i=3, ending="png", split="train"):
    return root / split / "images" / f"{i:03d}.{ending}"


def mask(root, i=3, ending="png", split="train"):
    return root / split / "masks" / f"{i:03d}.{ending}"


@dataclass(frozen=True)
class Planted:
    """``said``: code -> part of a file's name; ``data``: other keys of the config."""

    plant: Callable[[Path], Any]
    said: Mapping[str, str]
    data: Mapping[str, Any] = field(default_factory=dict)


def cut_short(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def with_exif(path, array, orientation):
    exif = Image.Exif()
    exif[274] = orientation
    save(path, array, exif=exif)


def smooth_two_classes(root):
    clean(root, blob_of, [{"name": "back", "id": 0}, {"name": "object", "id": 255}])
    for path in sorted(root.glob("*/masks/*.png")):
        soft = Image.fromarray(np.asarray(Image.open(path)) * 255)
        if path.stem == "003":
            soft = soft.resize((60, 50), Image.Resampling.BILINEAR)
            save(image(root), image_of(3, 50, 60))
        soft.save(path)


def in_colors(root, spoil=lambda rgb: rgb, ending="png", table=True):
    """RGB masks; ``spoil`` changes number 3."""
    classes = [{"name": n, "color": c} for n, c in zip(NAMES, COLORS, strict=True)]
    (root / "classes.json").write_text(json.dumps(classes if table else NAMES))
    for path in sorted(root.glob("*/masks/*.png")):
        rgb = Image.fromarray(np.array(COLORS, np.uint8)[np.asarray(Image.open(path))])
        if path.stem == "003":
            path.unlink()
            spoil(rgb).save(path.with_suffix(f".{ending}"))
        else:
            rgb.save(path)


def antialiased(root):
    size = (72, 60)
    in_colors(root, lambda rgb: rgb.resize(size, Image.Resampling.BILINEAR))
    save(image(root), image_of(3, 60, 72))


def other_color(rgb):
    array = np.array(rgb)
    array[:10, :10] = (9, 99, 9)
    return Image.fromarray(array)


def transparent(rgb):
    alpha = np.full((H, W, 1), 255, np.uint8)
    alpha[:20] = 0
    return Image.fromarray(np.concatenate([np.asarray(rgb), alpha], axis=-1))


def palette_of_others(root):
    in_colors(root)
    for path in sorted(root.glob("*/masks/*.png")):
        number = int(path.stem)
        indices = Image.fromarray(mask_of(number), "P")
        order = [0, 2, 1, 3] if number == 3 else range(4)
        indices.putpalette([v for k in order for v in COLORS[k]])
        indices.save(path)


def unknown_id(root):
    ids = mask_of(3)
    ids[:6, :6] = 77
    save(mask(root), ids)


def off_by_one(root):
    clean(root, lambda i: mask_of(i) + 1)


def instances(root):
    ids = mask_of(3).astype(np.uint16) * 1000
    save(mask(root), ids)


def ramps(root):
    """Interpolation between ids far apart runs through other classes' ids."""
    clean(root, lambda i: mask_of(i, classes=8), [f"class {k}" for k in range(8)])
    ids = Image.fromarray(mask_of(3, classes=8))
    ids.resize((72, 60), Image.Resampling.BILINEAR).save(mask(root))
    save(image(root), image_of(3, 60, 72))


def inverted(root):
    clean(root, blob_of, NAMES[:2])
    save(mask(root), 1 - blob_of(3))


def black_white(root):
    clean(root, lambda i: blob_of(i) * 255, NAMES[:2])


def class_absent(split, number):
    def plant(root):
        for path in sorted((root / split / "masks").iterdir()):
            ids = np.array(Image.open(path))
            ids[ids == number] = 0
            save(path, ids)

    return plant


def one_class(root):
    clean(root, lambda seed: np.zeros((H, W), np.uint8), NAMES[:1])


def mostly_ignored(root):
    for path in sorted((root / "val" / "masks").iterdir()):
        ids = np.array(Image.open(path))
        ids[:, :30] = 255
        save(path, ids)


def unlabelled(root):
    for path in sorted((root / "val" / "masks").iterdir()):
        save(path, np.full((H, W), 255, np.uint8))


def lists(root, train, val):
    """The same files under images/ and masks/, with list files."""
    for kind in ("images", "masks"):
        for path in sorted(root.glob(f"*/{kind}/*.png")):
            (root / kind).mkdir(exist_ok=True)
            path.rename(root / kind / path.name)
    for split in ("train", "val"):
        for kind in ("images", "masks"):
            (root / split / kind).rmdir()
        (root / split).rmdir()
    names = {"train": range(TRAIN), "val": range(100, 100 + VAL)}
    for split, more in (("train", train), ("val", val)):
        lines = [f"{i:03d}" for i in names[split]] + more
        (root / f"{split}.txt").write_text("\n".join(lines) + "\n")


def floats(change):
    """Float TIFFs; ``change`` spoils number 3."""

    def plant(root):
        for path in sorted(root.glob("*/images/*.png")):
            array = np.asarray(Image.open(path)).astype(np.float32) / 255
            array = change(array) if path.stem == "003" else array
            path.unlink()
            tifffile.imwrite(path.with_suffix(".tif"), array, photometric="rgb")

    return plant


def with_nan(array):
    array[5, 7] = np.nan
    return array


def twelve_bits(root):
    for path in sorted(root.glob("*/images/*.png")):
        scale = 16 if path.stem == "003" else 257
        write_png(path, np.asarray(Image.open(path)).astype(np.uint16) * scale, 2)


def opaque_alpha(root):
    full = np.full((H, W, 1), 255, np.uint8)
    for path in sorted(root.glob("*/images/*.png")):
        save(path, np.concatenate([np.asarray(Image.open(path)), full], axis=-1))


def sixteen_bits_once(root):
    write_png(image(root), image_of(3).astype(np.uint16) * 257, 2)


def copy(source, target):
    target.write_bytes(source.read_bytes())


def animation(root):
    frames = [Image.fromarray(image_of(i)) for i in (3, 500)]
    image(root).unlink()
    path = image(root, ending="webp")
    frames[0].save(path, save_all=True, append_images=frames[1:], lossless=True)


def huge(root):
    """A PNG whose header claims 60000 x 60000 pixels."""
    import struct
    import zlib

    content = bytearray(image(root).read_bytes())
    content[16:24] = struct.pack(">II", 60000, 60000)
    content[29:33] = struct.pack(">I", zlib.crc32(content[12:29]))
    image(root).write_bytes(content)


def near_copy(root):
    noise = np.random.default_rng(0).normal(0, 2, (H, W, 3))
    array = np.clip(image_of(3) * 1.05 + noise, 0, 255)
    save(image(root, 100, split="val"), array.astype(np.uint8))


def renamed_jpeg(root):
    Image.fromarray(image_of(3)).save(root / "a.jpg", quality=95)
    (root / "a.jpg").rename(image(root))


FAULTS: dict[str, Planted] = {
    # Lists and folders.
    "no classes.json": Planted(
        lambda r: (r / "classes.json").unlink(), {"dataset-unreadable": ""}
    ),
    "classes.json cut short": Planted(
        lambda r: cut_short(r / "classes.json"), {"dataset-unreadable": ""}
    ),
    "a split that is not there": Planted(
        lambda r: None, {"split-missing": "test"}, {"eval_split": "test"}
    ),
    "a split without images": Planted(
        lambda r: [p.unlink() for p in r.glob("val/*/*.png")], {"split-empty": "val"}
    ),
    "one example in two lists": Planted(
        lambda r: lists(r, ["100"], []), {"split-overlap": "100.png"}
    ),
    "one example twice in a list": Planted(
        lambda r: lists(r, ["000"], []), {"listed-twice": "train.txt:10"}
    ),
    "a list with three words": Planted(
        lambda r: lists(r, ["a b c"], []), {"list-malformed": "train.txt:10"}
    ),
    "a list of files that are gone": Planted(
        lambda r: lists(r, ["gone"], []), {"image-missing": "train.txt:10"}
    ),
    "two endings of one name": Planted(
        lambda r: copy(image(r, 500 % 7), image(r, 500 % 7, "jpg")),
        {"name-duplicate": "003"},
    ),
    "a mask without image": Planted(
        lambda r: image(r).unlink(), {"image-missing": "masks/003.png"}
    ),
    "an image without mask": Planted(
        lambda r: mask(r).unlink(), {"mask-missing": "images/003.png"}
    ),
    "pictures of other formats": Planted(
        lambda r: (r / "train/images/x.gif").write_bytes(b"GIF89a"),
        {"file-passed-over": "x.gif"},
    ),
    # Files.
    "an image cut short": Planted(
        lambda r: cut_short(image(r)), {"image-unreadable": "images/003.png"}
    ),
    "an empty image file": Planted(
        lambda r: image(r).write_bytes(b""), {"image-unreadable": "images/003.png"}
    ),
    "a mask cut short": Planted(
        lambda r: cut_short(mask(r)), {"mask-unreadable": "masks/003.png"}
    ),
    "text for a mask": Planted(
        lambda r: mask(r).write_text("no"), {"mask-unreadable": "masks/003.png"}
    ),
    "an image bomb": Planted(huge, {"file-too-large": "images/003.png"}),
    "a JPEG named PNG": Planted(renamed_jpeg, {"file-misnamed": "images/003.png"}),
    "an animation": Planted(animation, {"frames-many": "images/003.webp"}),
    "EXIF turns the image alone": Planted(
        lambda r: with_exif(image(r), image_of(3), 6),
        {"exif-size-mismatch": "masks/003.png"},
    ),
    "EXIF turns the image by half a turn": Planted(
        lambda r: with_exif(image(r), image_of(3), 3),
        {"exif-ambiguous": "masks/003.png"},
    ),
    # Images.
    "an image of one colour": Planted(
        lambda r: save(image(r), np.full((H, W, 3), 7, np.uint8)),
        {"image-constant": "images/003.png"},
    ),
    "NaN in an image": Planted(floats(with_nan), {"image-nan": "images/003.tif"}),
    "a float image up to 255": Planted(
        floats(lambda a: a * 255), {"image-range": "images/003.tif"}
    ),
    "12 bits in 16": Planted(twelve_bits, {"image-dark": "images/003.png"}),
    "a CMYK image": Planted(
        lambda r: (
            image(r).unlink(),
            Image.fromarray(image_of(3)).convert("CMYK").save(image(r, ending="jpg")),
        ),
        {"image-cmyk": "images/003.jpg"},
    ),
    "an alpha channel for nothing": Planted(
        opaque_alpha, {"image-alpha": "images/003.png"}
    ),
    "a grey image among RGB": Planted(
        lambda r: save(image(r), image_of(3)[..., 0]),
        {"channels-mixed": "images/003.png"},
    ),
    "an RGB image among grey": Planted(
        lambda r: save(image(r, 0), image_of(0)[..., 0]),
        {"channels-wrong": "images/003.png"},
    ),
    "16 bits among 8": Planted(sixteen_bits_once, {"depth-mixed": "images/003.png"}),
    "a thumbnail": Planted(
        lambda r: (
            save(image(r), image_of(3, 12, 14)),
            save(mask(r), mask_of(3, 12, 14)),
        ),
        {"size-tiny": "images/003.png"},
    ),
    "a strip": Planted(
        lambda r: (
            save(image(r), image_of(3, 20, 140)),
            save(mask(r), mask_of(3, 20, 140)),
        ),
        {"aspect-extreme": "images/003.png"},
    ),
    # Masks.
    "a mask of another size": Planted(
        lambda r: save(mask(r), mask_of(3, 20, 24)),
        {"size-mismatch": "masks/003.png"},
    ),
    "rows and columns swapped": Planted(
        lambda r: save(mask(r), mask_of(3).T), {"size-transposed": "masks/003.png"}
    ),
    "the image for a mask": Planted(
        lambda r: copy(image(r), mask(r)),
        {"mask-is-image": "masks/003.png", "color-table-missing": "masks/003.png"},
    ),
    "a one-hot mask": Planted(
        lambda r: (
            mask(r).unlink(),
            tifffile.imwrite(
                mask(r, ending="tif"),
                np.eye(5, dtype=np.uint8)[mask_of(3)],
                photometric="minisblack",
                planarconfig="contig",
            ),
        ),
        {"mask-channels": "masks/003.tif"},
    ),
    "a JPEG mask": Planted(
        lambda r: (
            mask(r).unlink(),
            Image.fromarray(mask_of(3) * 60).save(mask(r, ending="jpg"), quality=75),
        ),
        {"mask-lossy": "masks/003.jpg", "id-unknown": "masks/003.jpg"},
    ),
    "a lossy WebP mask": Planted(
        lambda r: in_colors(r, ending="webp"),
        {"mask-lossy": "masks/003.webp", "color-unknown": "masks/003.webp"},
    ),
    "a smoothed mask of two classes": Planted(
        smooth_two_classes, {"mask-interpolated": "masks/003.png"}
    ),
    "a mask resized bilinearly": Planted(ramps, {"mask-ramps": "masks/003.png"}),
    "an anti-aliased RGB mask": Planted(
        antialiased, {"mask-antialiased": "masks/003.png"}
    ),
    "float ids with fractions": Planted(
        lambda r: (
            mask(r).unlink(),
            tifffile.imwrite(
                mask(r, ending="tif"), mask_of(3).astype(np.float32) + 0.5
            ),
        ),
        {"mask-fraction": "masks/003.tif"},
    ),
    "a partly transparent mask": Planted(
        lambda r: in_colors(r, transparent), {"mask-transparent": "masks/003.png"}
    ),
    "an unknown id": Planted(unknown_id, {"id-unknown": "masks/003.png"}),
    "instance ids": Planted(instances, {"id-too-large": "masks/003.png"}),
    "ids from 1 to K": Planted(
        off_by_one,
        {
            "ids-off-by-one": "masks/003.png",
            "class-absent-train": "background",
            "class-absent-eval": "background",
        },
    ),
    "black and white for two classes": Planted(
        black_white,
        {
            "mask-black-white": "masks/003.png",
            "class-absent-train": "road",
            "class-absent-eval": "road",
        },
    ),
    "an inverted mask": Planted(inverted, {"mask-inverted": "masks/003.png"}),
    "an unknown colour": Planted(
        lambda r: in_colors(r, other_color), {"color-unknown": "masks/003.png"}
    ),
    "colours without a table": Planted(
        lambda r: in_colors(r, table=False), {"color-table-missing": "masks/003.png"}
    ),
    "a palette in another order": Planted(
        palette_of_others, {"palette-mismatch": "masks/003.png"}
    ),
    "a mask that is all ignored": Planted(
        lambda r: save(mask(r), np.full((H, W), 255, np.uint8)),
        {"mask-ignored": "masks/003.png"},
    ),
    "one mask for two images": Planted(
        lambda r: copy(mask(r), mask(r, 4)), {"mask-repeated": "masks/004.png"}
    ),
    # All together.
    "a training image in val": Planted(
        lambda r: (
            save(image(r, 100, split="val"), image_of(3), optimize=True),
            copy(mask(r), mask(r, 100, split="val")),
        ),
        {"duplicate-across": "images/003.png"},
    ),
    "an image twice": Planted(
        lambda r: (copy(image(r), image(r, 4)), copy(mask(r), mask(r, 4))),
        {"duplicate-within": "images/003.png"},
    ),
    "an image twice with two masks": Planted(
        lambda r: copy(image(r), image(r, 4)),
        {"duplicate-within": "images/003.png", "duplicate-labels": "images/004.png"},
    ),
    "a training image in val, brighter": Planted(
        near_copy, {"near-duplicate-across": "images/003.png"}
    ),
    "a class that train lacks": Planted(
        class_absent("train", 2), {"class-absent-train": "car"}
    ),
    "a class that val lacks": Planted(
        class_absent("val", 2), {"class-absent-eval": "car"}
    ),
    "a single class": Planted(one_class, {"class-single": "background"}),
    "a split that is mostly ignored": Planted(
        mostly_ignored, {"ignored-mostly": "val"}
    ),
    "a split without labels": Planted(
        unlabelled, {"split-unlabelled": "val", "mask-ignored": "masks/100.png"}
    ),
}

"""The names of the faults that are looked for, how grave they are, and what to do."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

SEVERITIES = ("error", "warning", "note")


class Code(NamedTuple):
    """A kind of fault.

    ``severity``: error, warning or note. ``stops``: training would fail on it for
    certain, so that a run does not begin. ``what`` is wrong; ``advice`` on what to do.
    """

    severity: str
    stops: bool
    what: str
    advice: str


CODES: dict[str, Code] = {
    # The dataset's description, its lists and folders.
    "dataset-unreadable": Code(
        "error",
        True,
        "the dataset cannot be opened",
        "do what the message says",
    ),
    "split-missing": Code(
        "error",
        True,
        "the config names a split that is not there",
        "correct data.train_split or data.eval_split, or add the split",
    ),
    "split-empty": Code(
        "error",
        True,
        "a split without examples",
        "add images, correct the list, or change the fractions",
    ),
    "split-overlap": Code(
        "error",
        False,
        "the same files are in several splits",
        "remove them from one: a score on examples that were trained on means nothing",
    ),
    "split-unlabelled": Code(
        "error",
        False,
        "no pixel of the split has a class",
        "see that ids, remap and ignore in classes.json are those of the masks",
    ),
    "list-malformed": Code(
        "error",
        True,
        "a line of a list file is neither a name nor 'image mask'",
        "write one name, or two paths below the root, per line",
    ),
    "listed-twice": Code(
        "error",
        True,
        "an example is listed twice in a split",
        "remove the second line",
    ),
    "name-duplicate": Code(
        "error",
        True,
        "two files of a folder have the same name but for the ending",
        "remove or rename one of them",
    ),
    "image-missing": Code(
        "error",
        True,
        "a mask, or a line of a list, without its image",
        "add the image or remove the mask or the line",
    ),
    "mask-missing": Code(
        "error",
        True,
        "an image without mask",
        "add the mask, remove the image, or set mask_suffix or mask_dir "
        "(config.data.folder)",
    ),
    "file-passed-over": Code(
        "warning",
        False,
        "files that are not read because of their ending",
        "convert them to PNG, JPEG, TIFF, BMP or WebP, or move them away",
    ),
    # One file.
    "image-unreadable": Code(
        "error",
        True,
        "the image is damaged, cut short, or no image",
        "restore the file or leave the example out",
    ),
    "mask-unreadable": Code(
        "error",
        True,
        "the mask is damaged, cut short, or no image",
        "restore the file or leave the example out",
    ),
    "file-too-large": Code(
        "error",
        True,
        "the file would decode to more than the limits",
        "cut the image into tiles; do not trust the file if it is small",
    ),
    "file-misnamed": Code(
        "warning",
        False,
        "the file's ending is not that of its format",
        "rename it; a JPEG called .png has lost what PNG would have kept",
    ),
    "frames-many": Code(
        "warning",
        False,
        "the file holds several images, of which the first is read",
        "save each as a file of its own",
    ),
    "exif-rotation": Code(
        "note",
        False,
        "the file carries an EXIF orientation and is turned upright",
        "save it upright, so that all programs see the same",
    ),
    "exif-ambiguous": Code(
        "warning",
        False,
        "EXIF turns one of image and mask, and their sizes do not tell if it should",
        "look at one pair; save both upright without EXIF orientation",
    ),
    "exif-size-mismatch": Code(
        "error",
        True,
        "image and mask have one size as stored, but EXIF turns only one of them",
        "the mask was drawn on the unturned image: turn it, or drop the orientation",
    ),
    # The image.
    "image-constant": Code(
        "warning",
        False,
        "all pixels of the image are the same",
        "remove it, or see why nothing was recorded",
    ),
    "image-nan": Code(
        "error",
        True,
        "the image holds NaN or infinite values",
        "replace them (by 0, say) and set the mask to ignore there",
    ),
    "image-dark": Code(
        "warning",
        False,
        "a 16-bit image that uses less than a sixteenth of the range",
        "scale to 16 bits (10 or 12 bits stored in 16?) or set data.mean and data.std",
    ),
    "image-range": Code(
        "warning",
        False,
        "float values far outside of [0, 1], which float images are taken to be in",
        "divide them by their range, or set data.mean and data.std",
    ),
    "image-cmyk": Code(
        "warning",
        False,
        "a CMYK image, converted without its colour profile",
        "save it as RGB",
    ),
    "image-alpha": Code(
        "warning",
        False,
        "an alpha channel without content is read as a channel",
        "set data.channels=3 (1 for grey), or save without alpha",
    ),
    "channels-wrong": Code(
        "error",
        True,
        "the image has other channels than the first of the dataset",
        "convert the file, or set data.channels",
    ),
    "channels-mixed": Code(
        "warning",
        False,
        "images of several numbers of channels are converted to one",
        "set data.channels to what is meant",
    ),
    "depth-mixed": Code(
        "error",
        False,
        "images of several bit depths; one batch cannot hold both",
        "convert all images to one type",
    ),
    "size-tiny": Code(
        "warning",
        False,
        "an image with a side below 16 pixels",
        "see that it is no thumbnail",
    ),
    "aspect-extreme": Code(
        "warning",
        False,
        "an image more than 5 times as long as wide",
        "cut it into tiles; data.fit=resize would squeeze it",
    ),
    # The mask.
    "size-mismatch": Code(
        "error",
        True,
        "image and mask differ in size",
        "export the mask again at the image's size; never resize masks smoothly",
    ),
    "size-transposed": Code(
        "error",
        True,
        "the mask is as high as the image is wide, and the reverse",
        "swap the mask's rows and columns",
    ),
    "mask-is-image": Code(
        "error",
        False,
        "the mask is the image itself",
        "correct mask_dir, mask_suffix (config.data.folder) or the list",
    ),
    "mask-channels": Code(
        "error",
        True,
        "a mask with neither one channel nor 8-bit RGB (one-hot?)",
        "save the index of the class as one channel",
    ),
    "mask-lossy": Code(
        "warning",
        False,
        "the mask is compressed with loss (JPEG, WebP), which changes ids",
        "export masks as PNG from where they were drawn",
    ),
    "mask-interpolated": Code(
        "error",
        True,
        "ids in between, where borders were smoothed: no classes",
        "resize and draw masks without interpolation or anti-aliasing (nearest)",
    ),
    "mask-ramps": Code(
        "warning",
        False,
        "at most borders ids climb one by one, as if the mask had been interpolated",
        "look at it; resize masks with nearest",
    ),
    "mask-antialiased": Code(
        "error",
        True,
        "colours in between, where borders were smoothed: in no colour table",
        "draw and resize masks without anti-aliasing (nearest)",
    ),
    "mask-fraction": Code(
        "error",
        True,
        "float ids with fractions",
        "save ids as 8-bit integers",
    ),
    "mask-transparent": Code(
        "warning",
        False,
        "some pixels of the mask are transparent; their hidden colours are read",
        "save the mask without alpha",
    ),
    "id-unknown": Code(
        "error",
        True,
        "ids that are neither a class nor ignored",
        "add them to the classes, to 'ignore' or to 'remap' in classes.json",
    ),
    "id-too-large": Code(
        "error",
        True,
        "ids above 255 or below 0 (instances?)",
        "save class ids, from 0 to 255",
    ),
    "ids-off-by-one": Code(
        "error",
        True,
        "the ids are 1 to K where the classes are 0 to K-1",
        'give the classes an "id" in classes.json, or subtract 1 from the masks',
    ),
    "mask-black-white": Code(
        "error",
        True,
        "two classes painted 0 and 255, of which 255 would be ignored",
        'give the second class "id": 255 in classes.json',
    ),
    "mask-inverted": Code(
        "warning",
        False,
        "foreground and background are the other way round than in the other masks",
        "swap the two ids in these masks if so",
    ),
    "color-unknown": Code(
        "error",
        True,
        "colours that no class has",
        "add them to the classes or to 'ignore' in classes.json",
    ),
    "color-table-missing": Code(
        "error",
        True,
        "an RGB mask, but the classes have no colours",
        'give each class a "color" in classes.json, or save one channel of ids',
    ),
    "palette-mismatch": Code(
        "warning",
        False,
        "an index of the palette has the colour of another class than its id",
        "set data.mask_values=colors, or save the indices as they are meant",
    ),
    "mask-ignored": Code(
        "warning",
        False,
        "a mask without any labelled pixel",
        "leave the example out; it only takes time",
    ),
    "mask-one-class": Code(
        "note",
        False,
        "a mask with a single class",
        "nothing, if it is meant so",
    ),
    "mask-repeated": Code(
        "warning",
        False,
        "the same mask belongs to different images",
        "see that masks and images were not mixed up",
    ),
    "class-unknown": Code(
        "error",
        True,
        "an image whose class is none of the classes (-1: it has no label)",
        "choose a split that has labels",
    ),
    # All examples together.
    "duplicate-across": Code(
        "error",
        False,
        "the same image is in several splits",
        "remove it from one: a score on examples that were trained on means nothing",
    ),
    "duplicate-within": Code(
        "warning",
        False,
        "the same image is there more than once",
        "remove the copies",
    ),
    "duplicate-labels": Code(
        "warning",
        False,
        "the same image is there with different masks or classes",
        "keep the right one",
    ),
    "near-duplicate-across": Code(
        "warning",
        False,
        "almost the same image is in several splits",
        "split by scene, patient or video, not by image",
    ),
    "near-duplicate-within": Code(
        "note",
        False,
        "almost the same image is there more than once",
        "nothing, if it is a video",
    ),
    "class-single": Code(
        "warning",
        False,
        "the only class: whatever the network says is right, and it learns nothing",
        "add a class for the rest, such as background",
    ),
    "class-absent-train": Code(
        "warning",
        False,
        "a class without a pixel in the training split",
        "it cannot be learnt: add examples, or remove the class",
    ),
    "class-absent-eval": Code(
        "warning",
        False,
        "a class without a pixel in the evaluation split",
        "it does not count in mIoU: add examples, or choose another split",
    ),
    "class-rare": Code(
        "note",
        False,
        "a class in fewer than 3 training images",
        "add examples, or weigh the classes (loss.class_weights)",
    ),
    "ignored-mostly": Code(
        "warning",
        False,
        "more than half of the split's pixels are ignored",
        "see that 'ignore' in classes.json is meant so",
    ),
}


class Fault(NamedTuple):
    """One fault of one file or example: its code, where, and what was found there."""

    code: str
    where: str
    text: str


@dataclass(frozen=True)
class Finding:
    """Faults of one kind in one split ("" where it is about several or none)."""

    code: str
    split: str
    where: tuple[str, ...]
    text: str

    @property
    def kind(self) -> Code:
        """Severity, meaning and advice."""
        return CODES[self.code]

    def to_dict(self) -> dict:
        """Plain JSON values."""
        kind = self.kind
        return {
            "code": self.code,
            "severity": kind.severity,
            "split": self.split,
            "count": len(self.where),
            "where": list(self.where),
            "what": kind.what,
            "text": self.text,
            "advice": kind.advice,
        }


def merge(faults: Sequence[tuple[str, Fault]]) -> list[Finding]:
    """(split, fault) to one finding per code and split, the gravest first.

    A finding's text is that of its first fault.
    """
    found: dict[tuple[str, str], list[Fault]] = {}
    for split, fault in faults:
        found.setdefault((fault.code, split), []).append(fault)
    order = list(CODES)
    findings = [
        Finding(code, split, tuple(fault.where for fault in members), members[0].text)
        for (code, split), members in found.items()
    ]
    return sorted(
        findings,
        key=lambda f: (SEVERITIES.index(f.kind.severity), order.index(f.code), f.split),
    )

"""All examples together: what their masks share, copies, channels, and classes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

import numpy as np

from segjax.batch import IGNORE, ClassSpec
from segjax.data.classes import is_white_unclaimed
from segjax.data.inspection.codes import Fault
from segjax.data.inspection.example import Facts
from segjax.data.inspection.similar import near_pairs
from segjax.data.pairs import Meaning

Told = list[tuple[str, Fault]]
"""Splits and their faults."""

_FEW = 3  # images
_ENOUGH_MASKS = 8
_FEW_IN_FRAME, _MUCH_IN_FRAME = 0.2, 0.8


def own_faults(facts: Sequence[Facts], meaning: Meaning, channels: int | None) -> Told:
    """What was found example by example, seen in the light of all of them.

    Args:
      facts: of the examples, those of the training split first.
      meaning: of their masks.
      channels: that the network gets; None: those of the first image.
    """
    told = [(one.split, fault) for one in facts for fault in one.faults]
    told = _same_shift(told, facts, meaning) + _channels(facts, channels)
    if meaning.spec.num_classes == 1:
        (name,) = meaning.spec.names
        told.append(("", Fault("class-single", name, name)))
    return told


def _stored_ids(facts: Iterable[Facts]) -> set[int]:
    found = [one.stored for one in facts if one.stored is not None]
    return set(np.flatnonzero(np.sum(found, axis=0)).tolist()) if found else set()


def _same_shift(told: Told, facts: Sequence[Facts], meaning: Meaning) -> Told:
    """One finding in the place of many unknown ids: they run from 1 to K."""
    if isinstance(meaning.spec, ClassSpec):
        return told
    count, table = meaning.spec.num_classes, meaning.table
    ids = {i for i in _stored_ids(facts) if table[i] != IGNORE}
    if meaning.spec.remap or 0 in ids or not ids or max(ids) != count:
        return told
    changed = []
    for split, fault in told:
        if fault.code == "id-unknown":
            text = f"the ids are {min(ids)} to {count}, the classes 0 to {count - 1}"
            fault = Fault("ids-off-by-one", fault.where, text)
        changed.append((split, fault))
    return changed


def black_and_white(facts: Sequence[Facts], meaning: Meaning) -> Told:
    """Masks of two classes that hold 0 and 255 alone, in the whole dataset."""
    spec = meaning.spec
    if isinstance(spec, ClassSpec):
        return []
    read = [one for one in facts if one.stored is not None]
    ids = _stored_ids(read)
    if not is_white_unclaimed(spec) or IGNORE not in ids or ids - {0, IGNORE}:
        return []
    text = "all ids are 0 or 255, where the two classes are 0 and 1"
    return [
        (one.split, Fault("mask-black-white", one.mask, text))
        for one in read
        if one.stored is not None and one.stored[IGNORE]
    ]


def _channels(facts: Sequence[Facts], channels: int | None) -> Told:
    read = [one for one in facts if one.channels]
    told: Told = []
    if not read:
        return told
    wanted = channels or read[0].channels
    for one in read:
        text = f"{one.image} has {one.channels} channels where {wanted} are wanted"
        if one.channels != wanted:
            # What segjax.data.files.read_image converts.
            fits = (one.channels, wanted) in ((1, 3), (2, 3), (2, 1), (4, 3))
            if not fits:
                told.append((one.split, Fault("channels-wrong", one.image, text)))
            elif channels is None:
                told.append((one.split, Fault("channels-mixed", one.image, text)))
        elif one.opaque:
            told.append((one.split, Fault("image-alpha", one.image, text)))
    depth = Counter(one.dtype for one in read).most_common(1)[0][0]
    for one in read:
        if one.dtype != depth:
            text = f"{one.image} is {one.dtype}, most are {depth}"
            told.append((one.split, Fault("depth-mixed", one.image, text)))
    return told


def inverted(facts: Sequence[Facts]) -> Told:
    """Masks of two classes whose frame is foreground, where others' is background."""
    read = [
        (one, one.frame, one.area)
        for one in facts
        if one.frame is not None and one.area is not None
    ]
    if len(read) < _ENOUGH_MASKS:
        return []
    usual = float(np.median([frame for _, frame, _ in read]))
    turn = usual > 0.5
    if (1 - usual if turn else usual) > _FEW_IN_FRAME:
        return []
    told = []
    for one, *shares in read:
        frame, area = (1 - share if turn else share for share in shares)
        if frame > _MUCH_IN_FRAME and area > 0.5:
            text = (
                f"{one.mask}: class {int(not turn)} has {100 * frame:.0f} % of the "
                "outermost pixels"
            )
            told.append((one.split, Fault("mask-inverted", one.mask, text)))
    return told if 5 * len(told) <= len(read) else []


def copies(facts: Sequence[Facts]) -> Told:
    """Images that are there twice, exactly or almost, and masks that are."""
    told: Told = []
    seen: dict[bytes, list[Facts]] = {}
    for one in facts:
        if not one.image_digest or one.constant:
            continue
        others = seen.setdefault(one.image_digest, [])
        told += _copy(one, others, "duplicate")
        if others and one.mask_digest and others[0].mask_digest:
            if one.mask_digest != others[0].mask_digest:
                text = f"{one.image} = {others[0].image}, but the masks differ"
                told.append((one.split, Fault("duplicate-labels", one.image, text)))
        others.append(one)
    told += _near_copies(facts)
    masks: dict[bytes, Facts] = {}
    for one in facts:
        if one.stored is None or np.count_nonzero(one.stored) < 2:
            continue
        other = masks.setdefault(one.mask_digest, one)
        if other.image_digest != one.image_digest:
            text = f"{one.mask} = {other.mask}"
            told.append((one.split, Fault("mask-repeated", one.mask, text)))
    return told


def _copy(one: Facts, others: Sequence[Facts], code: str, sign: str = "=") -> Told:
    """Of a copy: one fault for its own split, and one for another split."""
    told: Told = []
    for here, where in ((True, "within"), (False, "across")):
        alike = [other for other in others if (other.split == one.split) == here]
        # One file in two splits is told by overlap().
        if alike and alike[0].image != one.image:
            text = f"{one.image} {sign} {alike[0].image}"
            fault = Fault(f"{code}-{where}", text, text)
            told.append((one.split, fault))
    return told


def _near_copies(facts: Sequence[Facts]) -> Told:
    read = [one for one in facts if one.thumb is not None]
    found: dict[int, list[Facts]] = {}
    for first, second in near_pairs([one.thumb for one in read]):  # type: ignore[misc]
        if read[first].image_digest != read[second].image_digest:
            found.setdefault(second, []).append(read[first])
    told: Told = []
    for second in sorted(found):
        told += _copy(read[second], found[second], "near-duplicate", "~")
    return told


def overlap(facts: Sequence[Facts]) -> Told:
    """Examples that are listed twice, in one split or in several."""
    told: Told = []
    seen: dict[str, list[str]] = {}
    for one in facts:
        splits = seen.setdefault(one.image, [])
        if one.split in splits:
            text = f"{one.image} is in {one.split} twice"
            told.append((one.split, Fault("listed-twice", one.image, text)))
        elif splits:
            text = f"{one.image} is in {splits[0]} and in {one.split}"
            told.append((one.split, Fault("split-overlap", one.image, text)))
        splits.append(one.split)
    return told


class Classes:
    """Pixels and images per class in one split; in classification a pixel per image.

    ``pixels`` and ``images`` are int64[K], ``area`` float64[K]: labelled pixels of the
    images in which the class is; ``ignored`` and ``unknown`` count pixels.
    """

    def __init__(self, facts: Iterable[Facts], meaning: Meaning):
        count, table = meaning.spec.num_classes, meaning.table
        self.of_images = isinstance(meaning.spec, ClassSpec)
        labelled = (table >= 0) & (self.of_images | (table != IGNORE))
        self.names = meaning.spec.names
        self.pixels = np.zeros(count, np.int64)
        self.images = np.zeros(count, np.int64)
        self.area = np.zeros(count)
        self.examples = self.read = self.ignored = self.unknown = 0
        self.ids: dict[int, int] = {}
        for one in facts:
            self.examples += 1
            if one.stored is None:
                continue
            self.read += 1
            for i in np.flatnonzero(one.stored):
                self.ids[int(i)] = self.ids.get(int(i), 0) + int(one.stored[i])
            pixels = np.zeros(count, np.int64)
            np.add.at(pixels, table[labelled], one.stored[labelled])
            self.pixels += pixels
            self.images += pixels > 0
            self.area += np.where(pixels > 0, pixels.sum(), 0)
            self.unknown += int(one.stored[table < 0].sum())
            self.ignored += int(one.stored[~labelled & (table >= 0)].sum())

    @property
    def ignored_share(self) -> float:
        """Of all pixels."""
        total = self.pixels.sum() + self.ignored + self.unknown
        return float(self.ignored / total) if total else 0.0

    def weights(self) -> dict[str, list[float]]:
        """Weights for ``loss.class_weights``; a class without a pixel gets 1.

        ``median_frequency``: Eigen and Fergus 2015, *Predicting depth, surface normals
        and semantic labels* (a class's frequency is that in the images which have it);
        of masks alone.
        ``inverse``: labelled pixels / (classes that occur * pixels of the class).
        """
        some = self.pixels > 0
        if not some.any():
            return {}
        frequency = self.pixels[some] / self.area[some]
        median, inverse = np.ones(len(some)), np.ones(len(some))
        median[some] = np.median(frequency) / frequency
        inverse[some] = self.pixels.sum() / (some.sum() * self.pixels[some])
        found = {"inverse": [float(f"{w:.4g}") for w in inverse]}
        if self.of_images:
            return found
        return {"median_frequency": [float(f"{w:.4g}") for w in median], **found}

    def to_dict(self) -> dict:
        """Plain JSON values."""
        total = max(int(self.pixels.sum()), 1)
        return {
            "examples": self.examples,
            "masks_read": self.read,
            "ignored_share": self.ignored_share,
            "unknown_pixels": self.unknown,
            "stored_ids": {str(i): n for i, n in sorted(self.ids.items())},
            "classes": [
                {
                    "name": name,
                    "pixels": int(pixels),
                    "share": float(pixels / total),
                    "images": int(images),
                }
                for name, pixels, images in zip(
                    self.names, self.pixels, self.images, strict=True
                )
            ],
        }


def class_faults(split: str, classes: Classes, role: str) -> Told:
    """Classes that are absent or rare; ``role``: train, eval or "" for other splits."""
    if not classes.read:
        return []
    if not classes.pixels.any():
        return [(split, Fault("split-unlabelled", split, f"of {classes.read} masks"))]
    told: Told = []
    if classes.ignored_share > 0.5:
        text = f"{100 * classes.ignored_share:.1f} % of the pixels"
        told.append((split, Fault("ignored-mostly", split, text)))
    for name, pixels, images in zip(
        classes.names, classes.pixels, classes.images, strict=True
    ):
        if role and not pixels:
            told.append((split, Fault(f"class-absent-{role}", name, name)))
        elif role == "train" and images < _FEW <= classes.read:
            text = f"{name}: {images} image{'s' if images > 1 else ''}"
            told.append((split, Fault("class-rare", name, text)))
    return told

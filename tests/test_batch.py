"""LabelSpec.apply against its table, entry by entry."""

import numpy as np
import pytest

from segjax.batch import IGNORE, MAX_CLASSES, LabelSpec, default_palette


def spec_of(classes, **options):
    names = tuple(f"class{i}" for i in range(classes))
    return LabelSpec(names, default_palette(classes), **options)


@pytest.mark.parametrize("classes", [1, 11, 254, MAX_CLASSES])
@pytest.mark.parametrize("fault", [None, 7])
def test_every_stored_id_becomes_what_the_table_says(classes, fault):
    remap = ((3, 0), (5, IGNORE), *([(fault, -1)] if fault is not None else []))
    spec = spec_of(classes, ignore=(0,), remap=remap)
    table = spec.lookup()
    mask = np.arange(256, dtype=np.uint8).repeat(3).reshape(16, 48)
    known = table[mask] >= 0
    label = spec.apply(np.where(known, mask, 255).astype(np.uint8), "m.png")
    np.testing.assert_array_equal(label, np.where(known, table[mask], IGNORE))
    assert label.dtype == np.uint8 and label.flags.writeable
    for stored in np.flatnonzero(table < 0):
        mask = np.full((4, 5), 3, np.uint8)
        mask[1, 2] = mask[3, 4] = stored
        with pytest.raises(ValueError, match=rf"m.png: id {stored} \(2 pixels\) not"):
            spec.apply(mask, "m.png")


def test_a_mask_that_is_not_contiguous():
    mask = np.arange(12, dtype=np.uint8).reshape(3, 4)
    label = spec_of(12).apply(mask.T[::-1], "m.png")
    np.testing.assert_array_equal(label, mask.T[::-1])

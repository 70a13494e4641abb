"""benchmarks.ties: the record keeps the limit; gaps by hand."""

from types import SimpleNamespace

import numpy as np

from benchmarks import record, ties

ROWS = record.read(ties.RECORD)["rows"]


def test_pixels_that_differ_are_ties():
    assert set(ROWS) == set(ties.NETWORKS)
    for row in ROWS.values():
        assert len(row["gaps"]) == row["differing"]
        assert max(row["gaps"], default=0) < ties.LIMIT
        assert row["differing"] >= max(row["differing_from_one_device"].values())
        assert row["differing"] <= row["pixels_below_limit"] < row["pixels"] / 100


def test_the_page_says_what_the_record_says():
    page = (record.ROOT / "docs" / "reliability.md").read_text()
    assert ties.figure(ROWS) in page


def test_gaps_by_hand():
    """A model whose scores are its image: 2 of 4, 1 of 4, a tie, both below 0."""
    scores = [[4, 2, 0], [1, 4, 3], [2, 2, 1], [-4, -2, -9]]
    model = SimpleNamespace(apply=lambda variables, image, train: image * variables)
    pre = SimpleNamespace(mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))
    images = 255 * np.asarray(scores, np.float64).reshape(2, 1, 2, 3)
    source = [{"image": image} for image in images]
    parts = SimpleNamespace(model=model, pre=pre)
    found = ties.gaps(parts, np.float32(1), source, batch_size=1)
    np.testing.assert_allclose(found, [[[0.5, 0.25]], [[0, 0.5]]], rtol=1e-6)

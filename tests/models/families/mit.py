"""Mix Transformer: transformers' SegformerForImageClassification."""

PARAMETERS = {
    "mit_b0": 3_576_392,
    "mit_b1": 13_664_424,
    "mit_b2": 24_709_288,
    "mit_b3": 44_585_128,
    "mit_b4": 61_355_688,
    "mit_b5": 81_956_008,
}
SMALL = {
    # At 40 x 56, larger ratios would leave a single key.
    "mit_b0": {
        "widths": (8, 8, 20, 16),
        "depths": (1, 1, 1, 1),
        "ratios": (4, 2, 2, 1),
    },
}

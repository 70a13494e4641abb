"""Swin Transformer."""

PARAMETERS = {"swin_t": 28_288_354, "swin_s": 49_606_258, "swin_b": 87_768_224}
SMALL = {
    "swin_t": {"width": 8, "depths": (2, 1, 1, 2), "heads": (1, 2, 2, 4), "window": 3}
}

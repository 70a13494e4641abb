"""ConvNeXt."""

PARAMETERS = {
    "convnext_tiny": 28_589_128,
    "convnext_small": 50_223_688,
    "convnext_base": 88_591_464,
    "convnext_large": 197_767_336,
}
SMALL = {"convnext_tiny": {"widths": (8, 8, 12, 16), "depths": (1, 2, 1, 1)}}

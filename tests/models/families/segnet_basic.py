"""SegNet-Basic, which was never published as a classifier: counted by hand."""

CONVOLUTIONS = 49 * 3 * 64 + 3 * 49 * 64 * 64
PARAMETERS = {"segnet_basic": CONVOLUTIONS + 4 * 2 * 64 + 64 * 1000 + 1000}
SMALL = {"segnet_basic": {"width": 8}}


def SIZES(height, width, stride):
    return height // stride, width // stride

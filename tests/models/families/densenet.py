"""DenseNet: its average pools leave out a last odd row and column."""

PARAMETERS = {
    "densenet121": 7_978_856,
    "densenet169": 14_149_480,
    "densenet201": 20_013_928,
}
SMALL = {"densenet121": {"width": 8, "growth": 4, "counts": (2, 1, 1, 1)}}


def SIZES(height, width, stride):
    """Height and width at a stride: two halvings by ceil, the others by floor."""
    first = min(stride, 4)
    return tuple(-(-n // first) // (stride // first) for n in (height, width))

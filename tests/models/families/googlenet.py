"""GoogLeNet, with both auxiliary classifiers."""

PARAMETERS = {"googlenet": 13_004_888}
BLOCK = (4, 4, 6, 2, 4, 2)
SMALL = {
    "googlenet": {
        "stem": (8, 8, 12),
        "stages": ((BLOCK,), (BLOCK, BLOCK, BLOCK, BLOCK), (BLOCK,)),
    }
}


def SIZES(height, width, stride):
    """The first convolution rounds up, 3x3 poolings down, the 2x2 one up again."""

    def side(n):
        n = (n + 1) // 2
        for _ in range({2: 0, 4: 1, 8: 2, 16: 3, 32: 3}[stride]):
            n = n // 2
        return (n + 1) // 2 if stride == 32 else n

    return side(height), side(width)

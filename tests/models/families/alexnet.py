"""AlexNet, with sizes of its own."""

PARAMETERS = {"alexnet": 61_100_840}
SMALL = {"alexnet": {"widths": (8, 8, 12, 8, 8)}}


def SIZES(height, width, stride):
    def side(n):
        n = (n + 4 - 11) // 4 + 1
        for _ in range({4: 0, 8: 1, 16: 2, 32: 3}[stride]):
            n = (n - 3) // 2 + 1
        return n

    return side(height), side(width)

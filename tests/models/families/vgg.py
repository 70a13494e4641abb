"""VGG. Every pooling drops an odd last row."""

PARAMETERS = {
    "vgg11": 132_863_336,
    "vgg13": 133_047_848,
    "vgg16": 138_357_544,
    "vgg19": 143_667_240,
    "vgg11_bn": 132_868_840,
    "vgg13_bn": 133_053_736,
    "vgg16_bn": 138_365_992,
    "vgg19_bn": 143_678_248,
}
SMALL = {
    "vgg11": {"width": 4},
    "vgg11_bn": {"width": 4},
}


def SIZES(height, width, stride):
    return height // stride, width // stride

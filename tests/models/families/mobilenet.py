"""MobileNetV2 and V3."""

from segjax.models.encoders.mobilenet import Block, hard_swish, relu, relu6

PARAMETERS = {
    "mobilenet_v2": 3_504_872,
    "mobilenet_v3_small": 2_542_856,
    "mobilenet_v3_large": 5_483_032,
}
V2 = (
    Block(3, 8, 8, False, relu6),
    Block(3, 24, 12, False, relu6, 2),
    Block(3, 36, 12, False, relu6, 2),
    Block(3, 36, 16, False, relu6, 2),
    Block(3, 48, 16, False, relu6, 2),
    Block(3, 48, 16, False, relu6),
)
V3 = (
    Block(3, 8, 8, False, relu),
    Block(3, 24, 12, False, relu, 2),
    Block(5, 36, 16, True, relu, 2),
    Block(3, 48, 16, False, hard_swish, 2),
    Block(5, 48, 16, True, hard_swish, 2),
    Block(5, 32, 16, True, hard_swish),
)
SMALL = {
    "mobilenet_v2": {"width": 8, "last_width": 48, "blocks": V2},
    "mobilenet_v3_large": {"width": 8, "last_width": 48, "blocks": V3},
}

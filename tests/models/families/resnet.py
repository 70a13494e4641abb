"""ResNet, ResNeXt and wide ResNet."""

PARAMETERS = {
    "resnet18": 11_689_512,
    "resnet34": 21_797_672,
    "resnet50": 25_557_032,
    "resnet101": 44_549_160,
    "resnet152": 60_192_808,
    "resnext50_32x4d": 25_028_904,
    "resnext101_32x8d": 88_791_336,
    "wide_resnet50_2": 68_883_240,
    "wide_resnet101_2": 126_886_696,
}
SMALL = {
    "resnet18": {"width": 8, "counts": (1, 1, 1, 1)},
    "resnet50": {"width": 8, "counts": (2, 1, 1, 1)},
    "resnext50_32x4d": {"width": 16, "counts": (1, 1, 1, 1)},
    "wide_resnet50_2": {"width": 4, "counts": (1, 1, 1, 1)},
}

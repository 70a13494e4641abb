"""ResNet."""

PARAMETERS = {
    "resnet18": 11_689_512,
    "resnet34": 21_797_672,
    "resnet50": 25_557_032,
    "resnet101": 44_549_160,
    "resnet152": 60_192_808,
}
SMALL = {
    "resnet18": {"width": 8, "counts": (1, 1, 1, 1)},
    "resnet50": {"width": 8, "counts": (2, 1, 1, 1)},
}

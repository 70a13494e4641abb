"""Vision Transformer: timm's vit_*_patch16_224 and _384."""

PARAMETERS = {
    "vit_small": 22_050_664,
    "vit_base": 86_567_656,
    "vit_large": 304_326_632,
    "vit_base_384": 86_859_496,
    "vit_large_384": 304_715_752,
}
SMALL = {
    "vit_small": {"width": 16, "depth": 4, "heads": 2, "image_size": 48},
}

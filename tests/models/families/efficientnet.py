"""EfficientNet and EfficientNet-Lite; counted in timm."""

PARAMETERS = {
    "efficientnet_b0": 5_288_548,
    "efficientnet_b1": 7_794_184,
    "efficientnet_b2": 9_109_994,
    "efficientnet_b3": 12_233_232,
    "efficientnet_b4": 19_341_616,
    "efficientnet_b5": 30_389_784,
    "efficientnet_b6": 43_040_704,
    "efficientnet_b7": 66_347_960,
    "tf_efficientnet_lite0": 4_652_008,
    "tf_efficientnet_lite1": 5_416_680,
    "tf_efficientnet_lite2": 6_092_072,
    "tf_efficientnet_lite3": 8_197_096,
    "tf_efficientnet_lite4": 13_006_568,
}
STAGES = (
    (3, 1, 1, 8, 1),
    (3, 2, 6, 8, 1),
    (5, 2, 6, 16, 1),
    (3, 2, 6, 16, 1),
    (5, 1, 6, 24, 2),
    (5, 2, 6, 24, 1),
    (3, 1, 6, 32, 1),
)
SMALL = {
    "efficientnet_b0": {"width": 0.5, "stages": STAGES},
    "tf_efficientnet_lite0": {"stages": STAGES},
}

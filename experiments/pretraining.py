"""What are ImageNet weights worth with 92 and with 367 training images?

    pip install 'segjax[experiments,weights]'
    python -m experiments.run experiments/pretraining.py

EfficientNet-Lite0 U-Net on CamVid at 96x128, 400 steps of 8 whatever the number of
images (so 92 are seen four times as often), scored on the 101 validation images at
360x480. The 92 are every fourth of the 367.
"""

from segjax.config import default

HYPOTHESIS = """
Pretraining helps with either number of images. Pretrained with 92 images is above
scratch with 367, and below pretrained with 367.
"""
PRIMARY = "miou"
SEEDS = (0, 1, 2)
COMPARISONS = (
    ("imagenet92", "scratch92"),
    ("imagenet367", "scratch367"),
    ("imagenet92", "scratch367"),
    ("imagenet367", "imagenet92"),
)


def get_config():
    config = default()
    config.steps = 400
    config.data.name = "camvid"
    config.data.image_size = (96, 128)
    config.data.batch_size = 8
    config.augment.scale = (0.75, 1.5)
    config.model.encoder = "tf_efficientnet_lite0"
    config.model.decoder = "unet"
    config.optim.lr = 1e-3
    config.optim.schedule = "one_cycle"
    config.checkpoint.every = 100
    config.checkpoint.keep = 1
    config.logs.every = 20
    config.logs.tensorboard = False
    return config


def variants():
    weights = {"model.pretrained": "package:efficientnet-lite0"}
    return {
        "scratch92": {"data.subset": 92},
        "imagenet92": {"data.subset": 92, **weights},
        "scratch367": {},
        "imagenet367": weights,
    }

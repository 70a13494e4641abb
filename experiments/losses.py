"""Which loss is best for the rare classes of CamVid?

    pip install 'segjax[experiments,weights]'
    python -m experiments.run experiments/losses.py

EfficientNet-Lite0 U-Net with ImageNet weights at 96x128, 400 steps of 8, scored on the
101 validation images at 360x480. Rare are the five classes with about 1 % of the
training images' pixels or less: pole 1.0, sign symbol 1.2, fence 1.2, pedestrian 0.7,
bicyclist 0.3 % (of the validation images' fence 3.1, bicyclist 2.3 %). Losses:
cross-entropy; the same with median-frequency class weights (Eigen & Fergus 2015), which
change its scale, too; plus Dice; plus Lovasz-Softmax (Berman et al. 2018).
"""

from segjax.config import default

HYPOTHESIS = """
All three are above plain cross-entropy on the mean IoU of the rare classes: class
weights find more of them at the price of false positives, so they gain least; losses of
overlap gain most. Between Dice and Lovasz three seeds cannot tell.
"""
COMPARISONS = (
    ("weighted", "cross_entropy"),
    ("with_dice", "cross_entropy"),
    ("with_lovasz", "cross_entropy"),
    ("with_dice", "weighted"),
    ("with_lovasz", "weighted"),
    ("with_lovasz", "with_dice"),
)
PRIMARY = "iou(pole, sign_symbol, fence, pedestrian, bicyclist)"
SEEDS = (0, 1, 2)
# Of the 367 images, every pixel (tests/experiments).
WEIGHTS = (
    *(0.2794, 0.2018, 4.7889, 0.1491, 1.0, 0.4235),
    *(3.8464, 1.9798, 0.789, 6.3847, 8.8193),
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
    config.model.pretrained = "package:efficientnet-lite0"
    config.optim.lr = 1e-3
    config.optim.schedule = "one_cycle"
    config.checkpoint.every = 100
    config.checkpoint.keep = 1
    config.logs.every = 20
    config.logs.tensorboard = False
    return config


def variants():
    return {
        "cross_entropy": {},
        "weighted": {"loss.class_weights": WEIGHTS},
        "with_dice": {"loss.name": "cross_entropy+dice"},
        "with_lovasz": {"loss.name": "cross_entropy+lovasz_softmax"},
    }

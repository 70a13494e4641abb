"""What does each part of the encoder-decoder bring, on one encoder?

    python -m experiments.run experiments/decoders.py

ResNet-18 from scratch on CamVid's 367 training images at 96x128, 400 steps of 8, scored
on the 101 validation images at 360x480. No skips (FCN-32s); scores of finer maps summed
(FCN-16s, FCN-8s); features summed (LinkNet); features concatenated (U-Net). Small,
short and without pretraining: what is compared is how far each gets in five minutes of
two cores, not what each can reach.
"""

from segjax.config import default

HYPOTHESIS = """
Each finer skip helps, less each time: FCN-32s < FCN-16s < FCN-8s. Features tell more
than scores, so LinkNet and U-Net are above FCN-8s. Between summing (LinkNet) and
concatenating (U-Net) there is less than three seeds can tell.
"""
PRIMARY = "miou"
SEEDS = (0, 1, 2)
COMPARISONS = (
    ("fcn16s", "fcn32s"),
    ("fcn8s", "fcn16s"),
    ("linknet", "fcn8s"),
    ("unet", "fcn8s"),
    ("unet", "linknet"),
)


def get_config():
    config = default()
    config.steps = 400
    config.data.name = "camvid"
    config.data.image_size = (96, 128)
    config.data.batch_size = 8
    config.augment.scale = (0.75, 1.5)
    config.model.encoder = "resnet18"
    config.model.decoder = "fcn32s"
    config.optim.lr = 2e-3
    config.optim.schedule = "one_cycle"
    config.checkpoint.every = 100
    config.checkpoint.keep = 1
    config.logs.every = 20
    config.logs.tensorboard = False
    return config


def variants():
    decoders = ("fcn32s", "fcn16s", "fcn8s", "linknet", "unet")
    return {name: {"model.decoder": name} for name in decoders}

"""Which of the encoders that made history is best, under one decoder and one recipe?

    python -m experiments.run experiments/encoders.py

AlexNet (2012), VGG-16 with batch norm and GoogLeNet (2014), ResNet-18 and -50 (2015)
from scratch with an FPN decoder on the rendered shapes: 64x64, 300 steps of 8, 200
validation images. One recipe for all is not the best recipe for each.
"""

from segjax.config import default

HYPOTHESIS = """
Batch norm and, above all, fine maps decide on so small images: VGG-16, whose first map
has the image's own size, is first; AlexNet, whose first map is a quarter of it and
which has no norm, is last. ResNet-50 needs more steps than it has here and is no better
than ResNet-18.
"""
PRIMARY = "miou"
SEEDS = (0, 1, 2)
COMPARISONS = (
    ("alexnet", "resnet18"),
    ("vgg16_bn", "resnet18"),
    ("googlenet", "resnet18"),
    ("resnet50", "resnet18"),
)


def get_config():
    config = default()
    config.steps = 300
    config.data.batch_size = 8
    config.model.encoder = "resnet18"
    config.model.decoder = "fpn"
    config.optim.lr = 1e-3
    config.optim.schedule = "one_cycle"
    config.checkpoint.every = 100
    config.checkpoint.keep = 1
    config.logs.every = 20
    config.logs.tensorboard = False
    return config


def variants():
    encoders = ("resnet18", "alexnet", "vgg16_bn", "googlenet", "resnet50")
    return {name: {"model.encoder": name} for name in encoders}

"""ResNet-18 classifies handwritten digits, embedded: needs no data and no network.

python -m segjax.main --config configs/digits_resnet18.py

1437 images of 8x8 pixels, enlarged to 32x32; the other 360 are val. 6.0 minutes on 2
cores that had other work too; val top-1 0.983 (docs/results/digits_resnet18.json).
"""

from segjax.config import default


def get_config():
    config = default()
    config.task = "classification"
    config.epochs = 12.0
    config.data.name = "digits"
    config.data.image_size = 32
    config.data.batch_size = 32
    config.augment.flip = 0.0
    config.augment.rotation = 10.0
    config.augment.crop_area = (0.6, 1.0)
    config.optim.lr = 2e-3
    config.optim.schedule = "one_cycle"
    config.logs.pictures = 24
    return config

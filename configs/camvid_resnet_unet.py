"""ResNet-18 U-Net from scratch on CamVid, 11 classes, trained at half resolution.

SEGJAX_DATA=... python -m segjax.main --config configs/camvid_resnet_unet.py
"""

from segjax.config import default


def get_config():
    config = default()
    config.epochs = 20.0
    config.data.name = "camvid"
    config.data.image_size = (180, 240)
    config.data.batch_size = 8
    config.augment.scale = (0.75, 1.5)
    config.optim.lr = 1e-3
    config.optim.schedule = "poly"
    config.eval.every = 5
    config.checkpoint.every = 1
    return config

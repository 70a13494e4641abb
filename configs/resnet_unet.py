"""ResNet-18 U-Net on the embedded shapes: the quick start.

python -m segjax.main --config configs/resnet_unet.py
"""

from segjax.config import default


def get_config():
    config = default()
    config.steps = 300
    config.data.batch_size = 16
    config.optim.schedule = "one_cycle"
    return config

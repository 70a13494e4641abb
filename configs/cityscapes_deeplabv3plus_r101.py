r"""DeepLabV3+ with ResNet-101 on Cityscapes, by MMSegmentation's recipe. Not run here.

python -m segjax.main --config configs/cityscapes_deeplabv3plus_r101.py \
  --config.data.root=DIR --config.model.pretrained=resnet101-63fe2227.pth

DIR is Cityscapes as it is published: leftImg8bit/{train,val}/CITY/*_leftImg8bit.png and
gtFine/{train,val}/CITY/*_gtFine_labelIds.png; of the ids 0 to 33 the 19 that are
evaluated are classes, the others are ignored.

The recipe (deeplabv3plus_r101-d8_4xb2-80k_cityscapes-512x1024): SGD with batches of 8,
momentum 0.9, weight decay 5e-4 on all parameters, rate 0.01 falling to 1e-4 with the
power 0.9 of what is left, 80,000 steps; scale 0.5 to 2, crops of 512 x 1024, flips,
colour jitter; output stride 8; an FCN head on stage 3 with weight 0.4; ImageNet
weights. Different here: torchvision's ResNet-101 instead of the one with three 3x3
convolutions at the start; a tenth is dropped behind the pyramid's projection, there
before the scores; no crop is drawn anew where one class fills three quarters of it; the
four colour changes always, there each with probability 1/2; bfloat16.

Expected mIoU (val, single scale): 80.97, with scales and flips 82.03 (MMSegmentation's
table). Chips and hours: docs/accelerators.md. Ours: not measured.
"""

from segjax.config import default


def get_config():
    config = default()
    config.steps = 80_000
    config.data.name = "folder"
    config.data.folder.classes_file = "known:cityscapes"
    config.data.folder.image_dir = "leftImg8bit"
    config.data.folder.mask_dir = "gtFine"
    config.data.folder.image_suffix = "_leftImg8bit"
    config.data.folder.mask_suffix = "_gtFine_labelIds"
    config.data.channels = 3
    config.data.image_size = (512, 1024)
    config.data.fit = "pad"
    config.data.buffer_size = (1024, 2048)
    config.data.batch_size = 8
    config.data.cache_gb = 0.0
    config.augment.scale = (0.5, 2.0)
    config.augment.brightness = 0.125
    config.augment.contrast = 0.5
    config.augment.saturation = 0.5
    config.augment.hue = 0.1
    config.model.encoder = "resnet101"
    config.model.decoder = "deeplabv3plus"
    config.model.output_stride = 8
    config.model.decoder_options.decoder_channels = 512
    config.model.decoder_options.decoder_aspp_dropout = 0.1
    config.model.auxiliary = True
    config.optim.name = "sgd"
    config.optim.lr = 0.01
    config.optim.end_factor = 0.01
    config.optim.weight_decay = 5e-4
    config.optim.decay_norm_and_bias = True
    config.model.dtype = "bfloat16"
    config.eval.every = 8000
    config.eval.batch_size = 8
    config.checkpoint.every = 2000
    config.logs.every = 50
    return config

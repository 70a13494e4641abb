r"""DeepLabV3 with ResNet-101 on Pascal VOC, by MMSegmentation's recipe. Not run here.

python -m segjax.main --config configs/voc_deeplabv3_r101.py \
  --config.data.root=DIR --config.model.pretrained=resnet101-63fe2227.pth

DIR is VOCdevkit/VOC2012: JPEGImages/*.jpg, ImageSets/Segmentation/{trainaug,val}.txt
and SegmentationClassAug/*.png, the class ids of VOC 2012 and of the Semantic Boundaries
Dataset (Hariharan et al. 2011) as they go round together; 255, the border, is ignored.
trainaug has 10,582 images, val the 1,449 of VOC 2012.

The recipe (deeplabv3_r101-d8_4xb4-20k_voc12aug-512x512): SGD with batches of 16,
momentum 0.9, weight decay 5e-4 on all parameters, rate 0.01 falling to 1e-4 with the
power 0.9 of what is left, 20,000 steps; scale 0.5 to 2, crops of 512 px, flips, colour
jitter; output stride 8; an FCN head on stage 3 with weight 0.4; ImageNet weights.
Different here: torchvision's ResNet-101 instead of the one with three 3x3 convolutions
at the start; a tenth is dropped behind the pyramid's projection, there before the
scores; the scale is of the image as it is stored, there of one brought to at most
2048 x 512 px; no crop is drawn anew where one class fills three quarters of it; the
four colour changes always, there each with probability 1/2; bfloat16.

Expected mIoU (val, single scale): 78.70, with scales and flips 79.95 (MMSegmentation's
table; after 40,000 steps 77.92). Chips and hours: docs/accelerators.md. Ours: not
measured.
"""

from segjax.config import default


def get_config():
    config = default()
    config.steps = 20_000
    config.data.name = "folder"
    config.data.folder.classes_file = "known:voc"
    config.data.folder.image_dir = "JPEGImages"
    config.data.folder.mask_dir = "SegmentationClassAug"
    config.data.folder.list_dir = "ImageSets/Segmentation"
    config.data.train_split = "trainaug"
    config.data.eval_split = "val"
    config.data.channels = 3
    config.data.image_size = 512
    config.data.fit = "pad"
    config.data.buffer_size = 500
    config.data.batch_size = 16
    config.data.cache_gb = 12.0
    config.augment.scale = (0.5, 2.0)
    config.augment.brightness = 0.125
    config.augment.contrast = 0.5
    config.augment.saturation = 0.5
    config.augment.hue = 0.1
    config.model.encoder = "resnet101"
    config.model.decoder = "deeplabv3"
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
    config.eval.every = 2000
    config.eval.batch_size = 8
    config.checkpoint.every = 1000
    config.logs.every = 50
    return config

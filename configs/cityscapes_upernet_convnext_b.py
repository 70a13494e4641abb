r"""UPerNet with ConvNeXt-B on Cityscapes, by the ADE20K recipe. Not run here.

python -m segjax.main --config configs/cityscapes_upernet_convnext_b.py \
  --config.data.root=DIR --config.model.pretrained=convnext_base-6075fbad.pth

DIR is Cityscapes as it is published: leftImg8bit/{train,val}/CITY/*_leftImg8bit.png and
gtFine/{train,val}/CITY/*_gtFine_labelIds.png; of the ids 0 to 33 the 19 that are
evaluated are classes, the others are ignored.

The authors have a recipe for ADE20K; this is it with Cityscapes' crop (MMSegmentation's
convnext-base_upernet_8xb2-amp-160k_ade20k-512x512, after Liu et al. 2022): AdamW with
batches of 16, weight decay 0.05 but on norms and biases, rate 1e-4 with factors per
stage (0.9 to the power of 13 in the downsampling layers, 12 to 9 in stages 1 to 4),
linear warm-up over 1,500 steps, then linear to 0, 160,000 steps; scale 0.5 to 2, crops
of 512 x 1024, flips, colour jitter; stochastic depth 0.4; an FCN head of 256 channels
on stage 3 with weight 0.4; ImageNet-1k weights. Different here: no crop is drawn anew
where one class fills three quarters of it; the four colour changes always, there each
with probability 1/2; bfloat16 instead of float16; the encoder's maps have no layer norm
of their own, UPerNet's first norms see to that; the FCN head has a quarter of its
input's channels, 128.

Expected mIoU: no published number of this pair on Cityscapes was found. Around it: on
ADE20K it has 48.71, 4.89 above UPerNet with ResNet-101 and as many steps, 43.82
(MMSegmentation's tables), which after 80,000 steps has 79.40 on Cityscapes. Chips and
hours: docs/accelerators.md. Ours: not measured.
"""

from segjax.config import default


def get_config():
    config = default()
    config.steps = 160_000
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
    config.data.batch_size = 16
    config.data.cache_gb = 0.0
    config.augment.scale = (0.5, 2.0)
    config.augment.brightness = 0.125
    config.augment.contrast = 0.5
    config.augment.saturation = 0.5
    config.augment.hue = 0.1
    config.model.encoder = "convnext_base"
    config.model.decoder = "upernet"
    config.model.drop_path = 0.4
    config.model.decoder_options.decoder_channels = 512
    config.model.decoder_options.decoder_dropout = 0.1
    config.model.auxiliary = True
    config.optim.lr = 1e-4
    config.optim.power = 1.0
    config.optim.warmup_steps = 1500
    config.optim.weight_decay = 0.05
    config.optim.lr_multipliers = {
        **{f"encoder/stage{i}_block*": 0.9 ** (12 - i) for i in range(4)},
        **{f"encoder/stage{i}_conv/*": 0.9**13 for i in range(4)},
        **{f"encoder/stage{i}_norm/*": 0.9**13 for i in range(4)},
    }
    config.model.dtype = "bfloat16"
    config.eval.every = 16000
    config.eval.batch_size = 8
    config.checkpoint.every = 4000
    config.logs.every = 50
    return config

r"""SegFormer-B2 on Cityscapes, by MMSegmentation's recipe. Not run here.

python -m segjax.main --config configs/cityscapes_segformer_b2.py \
  --config.data.root=DIR --config.model.pretrained=mit_b2.safetensors

DIR is Cityscapes as it is published: leftImg8bit/{train,val}/CITY/*_leftImg8bit.png and
gtFine/{train,val}/CITY/*_gtFine_labelIds.png; of the ids 0 to 33 the 19 that are
evaluated are classes, the others are ignored. mit_b2.safetensors: the ImageNet weights
of MiT-B2 in transformers' names (nvidia/mit-b2).

The recipe (segformer_mit-b2_8xb1-160k_cityscapes-1024x1024, after Xie et al. 2021):
AdamW with batches of 8, weight decay 0.01 but on norms, rate 6e-5 and ten
times that in the decoder, linear warm-up over 1,500 steps, then linear to 0, 160,000
steps; scale 0.5 to 2, crops of 1024 x 1024, flips, colour jitter. Evaluation by windows
of 1024 px, 768 px apart. Different here: no crop is drawn anew where one class fills
three quarters of it; the four colour changes always, there each with probability 1/2;
bfloat16; biases have no weight decay.

Expected mIoU (val, single scale): 81.08, with scales and flips 82.18 (MMSegmentation's
table). Chips and hours: docs/accelerators.md. Ours: not measured.
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
    config.data.image_size = (1024, 1024)
    config.data.fit = "pad"
    config.data.buffer_size = (1024, 2048)
    config.data.batch_size = 8
    config.data.cache_gb = 0.0
    config.augment.scale = (0.5, 2.0)
    config.augment.brightness = 0.125
    config.augment.contrast = 0.5
    config.augment.saturation = 0.5
    config.augment.hue = 0.1
    config.model.encoder = "mit_b2"
    config.model.decoder = "segformer"
    config.optim.lr = 6e-5
    config.optim.power = 1.0
    config.optim.warmup_steps = 1500
    config.optim.lr_multipliers = {"decoder/*": 10.0, "head/*": 10.0}
    config.eval.mode = "slide"
    config.eval.overlap = 0.25
    config.model.dtype = "bfloat16"
    config.eval.every = 16000
    config.eval.batch_size = 8
    config.checkpoint.every = 4000
    config.logs.every = 50
    return config

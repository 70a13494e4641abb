r"""SegFormer-B5 on ADE20K, by MMSegmentation's recipe. Not run here.

python -m segjax.main --config configs/ade20k_segformer_b5.py \
  --config.data.root=DIR --config.model.pretrained=mit_b5.safetensors

DIR is ADEChallengeData2016 as it is published: images/{training,validation}/*.jpg and
annotations/{training,validation}/*.png, whose ids 1 to 150 are the classes; 0, the
unlabelled, is ignored. Training images above 1024 px are reduced to that.
mit_b5.safetensors: the ImageNet weights of MiT-B5 in transformers' names
(nvidia/mit-b5).

The recipe (segformer_mit-b5_8xb2-160k_ade20k-512x512, after Xie et al. 2021): AdamW
with batches of 16, weight decay 0.01 but on norms, rate 6e-5 and ten times
that in the decoder, linear warm-up over 1,500 steps, then linear to 0, 160,000 steps;
scale 0.5 to 2, crops of 512 px, flips, colour jitter. Different here: the scale is of
the image as it is stored, whose shorter side is 512 px for most, not of one brought to
that; no crop is drawn anew where one class fills three quarters of it; the four colour
changes always, there each with probability 1/2; bfloat16; biases have no
weight decay. The paper trains B5 with
crops of 640 px: --config.data.image_size=640 (49.62).

Expected mIoU (val, single scale): 49.13, with scales and flips 50.22 (MMSegmentation's
table; 50.08 where images are resized to multiples of 32 to be evaluated). Chips and
hours: docs/accelerators.md. Ours: not measured.
"""

from segjax.config import default


def get_config():
    config = default()
    config.steps = 160_000
    config.data.name = "folder"
    config.data.folder.classes_file = "known:ade20k"
    config.data.folder.mask_dir = "annotations"
    config.data.train_split = "training"
    config.data.eval_split = "validation"
    config.data.channels = 3
    config.data.image_size = 512
    config.data.fit = "pad"
    config.data.buffer_size = 1024
    config.data.batch_size = 16
    config.data.cache_gb = 0.0
    config.augment.scale = (0.5, 2.0)
    config.augment.brightness = 0.125
    config.augment.contrast = 0.5
    config.augment.saturation = 0.5
    config.augment.hue = 0.1
    config.model.encoder = "mit_b5"
    config.model.decoder = "segformer"
    config.optim.lr = 6e-5
    config.optim.power = 1.0
    config.optim.warmup_steps = 1500
    config.optim.lr_multipliers = {"decoder/*": 10.0, "head/*": 10.0}
    config.model.dtype = "bfloat16"
    config.eval.every = 16000
    config.eval.batch_size = 8
    config.checkpoint.every = 4000
    config.logs.every = 50
    return config

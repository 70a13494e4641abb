r"""UPerNet with Swin-B on ADE20K, by the authors' recipe. Not run here.

python -m segjax.main --config configs/ade20k_upernet_swin_b.py \
  --config.data.root=DIR --config.model.pretrained=swin_b-68c6b09e.pth

DIR is ADEChallengeData2016 as it is published: images/{training,validation}/*.jpg and
annotations/{training,validation}/*.png, whose ids 1 to 150 are the classes; 0, the
unlabelled, is ignored. Training images above 1024 px are reduced to that.

The recipe (MMSegmentation's
swin-base-patch4-window7-in1k-pre_upernet_8xb2-160k_ade20k-512x512, after Liu et al.
2021): AdamW with batches of 16, weight decay 0.01 but on norms and tables of
positions, rate 6e-5, linear warm-up over 1,500 steps, then linear to 0, 160,000 steps;
scale 0.5 to 2, crops of 512 px, flips, colour jitter; stochastic depth 0.3; an FCN head
of 256 channels on stage 3 with weight 0.4; ImageNet-1k weights (224 px). Different
here: the scale is of the image as it is stored, whose shorter side is 512 px for most,
not of one brought to that; no crop is drawn anew where one class fills three quarters
of it; the four colour changes always, there each with probability 1/2; bfloat16; the
FCN head has a quarter of its input's channels, 128; biases have no weight decay.

Expected mIoU (val, single scale): 47.99 (MMSegmentation's table, ImageNet-1k 224 px).
Chips and hours: docs/accelerators.md. Ours: not measured.
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
    config.model.encoder = "swin_b"
    config.model.decoder = "upernet"
    config.model.drop_path = 0.3
    config.model.decoder_options.decoder_channels = 512
    config.model.decoder_options.decoder_dropout = 0.1
    config.model.auxiliary = True
    config.optim.lr = 6e-5
    config.optim.power = 1.0
    config.optim.warmup_steps = 1500
    config.model.dtype = "bfloat16"
    config.eval.every = 16000
    config.eval.batch_size = 8
    config.checkpoint.every = 4000
    config.logs.every = 50
    return config

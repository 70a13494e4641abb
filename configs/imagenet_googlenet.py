"""GoogLeNet with its auxiliary classifiers on ImageNet (Szegedy et al. 2015).

python -m segjax.main --config configs/imagenet_googlenet.py --config.data.root=DIR

DIR is tensorflow-datasets' data_dir with imagenet2012 prepared
(--file_format=array_record); --config.data.name=class_folder
--config.data.tfds.builder=None --config.data.eval_split=val takes the folders
train/<class>/ and val/<class>/.

The paper's: SGD with momentum 0.9, a rate that falls by 4 % every 8 epochs, averaged
parameters, crops of 8 to 100 % of the area with aspects from 3/4 to 4/3, flips, changes
of colour, auxiliary losses of weight 0.3. It does not tell batch, first rate and
length: 256 and 0.01 are ours, 250 epochs and weight decay 2e-4 those of BVLC's replica.
Its asynchronous updates are not here. The network is torchvision's, with batch norm.

Cost: not measured. 1.5e9 multiply-adds per image (without the auxiliary heads): 2.9e+18
FLOPs for all of the training.
Top-5 accuracy to expect of a single network: 89.5 % with the central crop
(torchvision's weights, GoogLeNet_Weights), 88.9 % (BVLC's replica, 60 epochs), 89.9 %
with the central crop, 90.9 % over 10 and 92.1 % over 144 crops (table 3 of
https://arxiv.org/abs/1409.4842). The famous 93.3 % are seven networks over 144 crops.
Ours: not measured.
"""

from segjax.config import default


def get_config():
    config = default()
    config.task = "classification"
    config.epochs = 250.0
    config.data.name = "tfds"
    config.data.tfds.builder = "imagenet2012"
    config.data.eval_split = "validation"
    config.data.channels = 3
    config.data.image_size = 224
    config.data.fit = "pad"
    config.data.buffer_size = 512
    config.data.batch_size = 256
    config.data.cache_gb = 0.0
    config.augment.crop_area = (0.08, 1.0)
    config.augment.brightness = 0.2
    config.augment.contrast = 0.2
    config.augment.saturation = 0.2
    config.model.encoder = "googlenet"
    config.optim.name = "sgd"
    config.optim.lr = 0.01
    config.optim.weight_decay = 2e-4
    config.optim.ema_decay = 0.9999
    config.optim.schedule = "multistep"
    config.optim.milestones = tuple(8 * i / 250 for i in range(1, 32))
    config.optim.gamma = 0.96
    config.eval.every = 5
    config.checkpoint.every = 1
    config.logs.every = 100
    config.logs.pictures = 24
    return config

"""VGG-16 on ImageNet, by the recipe of Simonyan & Zisserman 2015 (configuration D).

python -m segjax.main --config configs/imagenet_vgg16.py --config.data.root=DIR

DIR is tensorflow-datasets' data_dir with imagenet2012 prepared
(--file_format=array_record); --config.data.name=class_folder
--config.data.tfds.builder=None --config.data.eval_split=val takes the folders
train/<class>/ and val/<class>/.

SGD with batches of 256, momentum 0.9, weight decay 5e-4, rate 0.01 cut to a tenth three
times; scale jittering (shorter side 256 to 512), random 224 px crops, flips; 74 epochs.
The paper cuts the rate when the validation accuracy stops rising, here at 0.5, 0.75 and
0.9 of the run, and starts from a shallower network's weights or Glorot's distribution;
here it is torchvision's. Its PCA colour noise is not here.

Cost: not measured. 15.5e9 multiply-adds per image: 8.8e+18 FLOPs for all of the
training.
Top-5 accuracy to expect of a single network: 90.4 % with the central crop
(torchvision's weights, VGG16_Weights), 91.9 % dense at one scale, 92.5 % at three
scales (table 4 of https://arxiv.org/abs/1409.1556: 7.5 % error). The famous 92.7 % are
the ILSVRC 2014 entry, an average of seven networks (7.3 % error on test, table 7).
Ours: not measured.
"""

from segjax.config import default


def get_config():
    config = default()
    config.task = "classification"
    config.epochs = 74.0
    config.data.name = "tfds"
    config.data.tfds.builder = "imagenet2012"
    config.data.eval_split = "validation"
    config.data.channels = 3
    config.data.image_size = 224
    config.data.fit = "pad"
    config.data.buffer_size = 512
    config.data.batch_size = 256
    config.data.cache_gb = 0.0
    config.augment.shorter_side = (256, 512)
    config.model.encoder = "vgg16"
    config.optim.name = "sgd"
    config.optim.lr = 0.01
    config.optim.weight_decay = 5e-4
    config.optim.schedule = "multistep"
    config.optim.milestones = (0.5, 0.75, 0.9)
    config.eval.every = 5
    config.checkpoint.every = 1
    config.logs.every = 100
    config.logs.pictures = 24
    return config

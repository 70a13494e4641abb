"""AlexNet on ImageNet, by the recipe of Krizhevsky, Sutskever & Hinton 2012.

python -m segjax.main --config configs/imagenet_alexnet.py --config.data.root=DIR

DIR is tensorflow-datasets' data_dir with imagenet2012 prepared
(--file_format=array_record); --config.data.name=class_folder
--config.data.tfds.builder=None --config.data.eval_split=val takes the folders
train/<class>/ and val/<class>/.

SGD with batches of 128, momentum 0.9, weight decay 5e-4, rate 0.01 cut to a tenth three
times; shorter side 256, random 224 px crops, flips; about 90 epochs. The paper cuts the
rate when the validation error stops falling, here at 0.4, 0.65 and 0.9 of the run. Its
PCA colour noise is not here, nor its two towers and local response normalisation: this
is torchvision's one-tower network (Krizhevsky 2014).

Cost: not measured. 0.71e9 multiply-adds per image: 4.9e+17 FLOPs for all of the
training.
Top-5 accuracy to expect of a single network: 79.1 % with the central crop
(torchvision's weights of this network, AlexNet_Weights), 80.2 % (BVLC's AlexNet in
Caffe), 81.8 % over ten crops ("1 CNN", table 2 of the paper). The famous 84.6 % are
five networks and two more that were pre-trained on all of ImageNet (15.4 % error on
val, table 2).
Ours: not measured.
"""

from segjax.config import default


def get_config():
    config = default()
    config.task = "classification"
    config.epochs = 90.0
    config.data.name = "tfds"
    config.data.tfds.builder = "imagenet2012"
    config.data.eval_split = "validation"
    config.data.channels = 3
    config.data.image_size = 224
    config.data.fit = "pad"
    config.data.buffer_size = 512
    config.data.batch_size = 128
    config.data.cache_gb = 0.0
    config.augment.shorter_side = (256, 256)
    config.model.encoder = "alexnet"
    config.optim.name = "sgd"
    config.optim.lr = 0.01
    config.optim.weight_decay = 5e-4
    config.optim.schedule = "multistep"
    config.optim.milestones = (0.4, 0.65, 0.9)
    config.eval.every = 5
    config.checkpoint.every = 1
    config.logs.every = 100
    config.logs.pictures = 24
    return config

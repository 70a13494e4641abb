"""ResNet-152 on ImageNet, by the recipe of He et al. 2016.

python -m segjax.main --config configs/imagenet_resnet152.py --config.data.root=DIR

DIR is tensorflow-datasets' data_dir with imagenet2012 prepared
(--file_format=array_record); --config.data.name=class_folder
--config.data.tfds.builder=None --config.data.eval_split=val takes the folders
train/<class>/ and val/<class>/.

SGD with batches of 256, momentum 0.9, weight decay 1e-4, rate 0.1 cut to a tenth when
the error plateaus (here at 1/4, 1/2 and 3/4 of the run); shorter side 256 to 480,
random 224 px crops, flips; 600,000 steps, 120 epochs. The stride is on the 3x3
convolution, as in torchvision's network. The paper's PCA colour noise is not here.

Cost: not measured. 11.5e9 multiply-adds per image: 1.1e+19 FLOPs for all of the
training.
Top-5 accuracy to expect of a single network: 94.0 % with the central crop
(torchvision's first weights, ResNet152_Weights.IMAGENET1K_V1), 94.3 % over ten crops,
95.5 % fully convolutional at several scales (tables 3 and 4 of
https://arxiv.org/abs/1512.03385: 5.71 and 4.49 % error). The famous 96.4 % are an
ensemble of six networks (3.57 % on test).
Ours: not measured.
"""

from segjax.config import default


def get_config():
    config = default()
    config.task = "classification"
    config.epochs = 120.0
    config.data.name = "tfds"
    config.data.tfds.builder = "imagenet2012"
    config.data.eval_split = "validation"
    config.data.channels = 3
    config.data.image_size = 224
    config.data.fit = "pad"
    config.data.buffer_size = 512
    config.data.batch_size = 256
    config.data.cache_gb = 0.0
    config.augment.shorter_side = (256, 480)
    config.model.encoder = "resnet152"
    config.optim.name = "sgd"
    config.optim.lr = 0.1
    config.optim.weight_decay = 1e-4
    config.optim.schedule = "multistep"
    config.optim.milestones = (0.25, 0.5, 0.75)
    config.eval.every = 5
    config.checkpoint.every = 1
    config.logs.every = 100
    config.logs.pictures = 24
    return config

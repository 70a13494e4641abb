"""SegNet-Basic on CamVid at 360x480 by the paper's protocol. Not run here.

SEGJAX_DATA=DIR python -m segjax.main --config configs/camvid_segnet_basic.py

Badrinarayanan, Kendall & Cipolla 2017 (PAMI), section 4: SGD with a fixed rate of 0.1
and momentum 0.9, batches of 12, median-frequency class weights, the 367 training
images, no augmentation is described; they trained until the loss had converged and took
the iteration with the best validation accuracy. Their mIoU on the test split is 47.7
(Table 1). Where this differs: no local contrast normalisation of the input (ImageNet's
mean and deviation instead), a gradient norm of at most 10, 400 epochs instead of "until
converged"; the weights are recomputed from the images (the published one of sign
symbols, 9.6446, does not follow from them). The other variants of
experiments/segnet.py: --config.model.upsampling=unpool_add or =deconvolution;
Bilinear-Interpolation is --config.model.decoder=fcn32s --config.model.upsampling=None.

59 GMACs an image, forward, hence for an accelerator: segjax plan says what it needs.
"""

from segjax.config import default


def get_config():
    config = default()
    config.epochs = 400.0
    config.data.name = "camvid"
    config.data.image_size = (360, 480)
    config.data.batch_size = 12
    config.augment.flip = 0.0
    config.model.encoder = "segnet_basic"
    config.model.decoder = "segnet_basic"
    config.model.upsampling = "unpool"
    config.loss.class_weights = (
        *(0.2794, 0.2018, 4.7889, 0.1491, 1.0, 0.4235),
        *(3.8464, 1.9798, 0.789, 6.3847, 8.8193),
    )
    config.optim.name = "sgd"
    config.optim.lr = 0.1
    config.optim.schedule = "constant"
    config.optim.weight_decay = 5e-4
    config.optim.momentum = 0.9
    config.optim.clip_norm = 10.0
    config.eval.every = 10
    config.checkpoint.every = 10
    return config

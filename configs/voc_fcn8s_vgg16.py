r"""FCN-8s with VGG-16 on Pascal VOC, by Long, Shelhamer & Darrell 2015. Not run here.

python -m segjax.main --config configs/voc_fcn8s_vgg16.py \
  --config.data.root=DIR --config.model.pretrained=vgg16-397923af.pth

DIR is VOCdevkit/VOC2012: JPEGImages/*.jpg,
ImageSets/Segmentation/{sbdtrain,seg11valid}.txt and SegmentationClassAug/*.png, the
class ids of VOC 2012 and of the Semantic Boundaries Dataset (Hariharan et al. 2011) as
they go round together; 255, the border, is ignored. The paper's lists: the 8,498
training images of that data set, and the 736 of VOC 2011's validation that are not
among them (seg11valid.txt in the authors' repository).

The recipe (section 4.3): SGD with batches of 20 whole images, momentum 0.9, a fixed
rate of 1e-4, weight decay 5e-4, dropout, no class balancing, no augmentation, the
layers that score the skips begin at zero, 175 epochs; ImageNet weights. Different here:
all at once instead of FCN-32s, 16s and 8s one after the other; the deepest scores begin
at random (segjax/models/decoders/fcn.py says why); fc6 and fc7 begin at random, of the
ImageNet weights the convolutions alone are taken; biases have the same rate as weights,
there twice that; "same" padding instead of 100 pixels and crops; bfloat16. Where the
loss does not fall: the authors' code sums it over an image's pixels, here it is their
mean.

Expected mIoU: 62.7 (VOC 2011 val, the paper's table of skip networks; 62.2 on VOC 2012
test; of 2017's journal version, learnt otherwise, 67.2 there). Chips and hours:
docs/accelerators.md. Ours: not measured.
"""

from segjax.config import default


def get_config():
    config = default()
    config.epochs = 175.0
    config.data.name = "folder"
    config.data.folder.classes_file = "known:voc"
    config.data.folder.image_dir = "JPEGImages"
    config.data.folder.mask_dir = "SegmentationClassAug"
    config.data.folder.list_dir = "ImageSets/Segmentation"
    config.data.train_split = "sbdtrain"
    config.data.eval_split = "seg11valid"
    config.data.channels = 3
    config.data.image_size = 500
    config.data.fit = "pad"
    config.data.buffer_size = 500
    config.data.batch_size = 20
    config.data.cache_gb = 12.0
    config.augment.flip = 0.0
    config.model.encoder = "vgg16"
    config.model.decoder = "fcn8s"
    config.optim.name = "sgd"
    config.optim.lr = 1e-4
    config.optim.schedule = "constant"
    config.optim.weight_decay = 5e-4
    config.model.dtype = "bfloat16"
    config.eval.every = 10
    config.eval.batch_size = 8
    config.checkpoint.every = 5
    config.logs.every = 50
    return config

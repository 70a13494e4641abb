"""Your own images, one folder per class: a ResNet-18 from scratch.

segjax doctor --config configs/class_folder.py --config.data.root=DIR
python -m segjax.main --config configs/class_folder.py --config.data.root=DIR

DIR holds train/CLASS/ and val/CLASS/, or the classes' folders alone, of whose images a
fifth is then val (segjax/data/class_folder.py). The network sees every image stretched
to data.image_size. Cost: about as configs/folder.py. Score: not measured, being that of
the data.
"""

from segjax.config import default


def get_config():
    config = default()
    config.task = "classification"
    config.steps = 600
    config.data.name = "class_folder"
    config.data.image_size = 128
    config.data.batch_size = 16
    config.augment.crop_area = (0.35, 1.0)
    config.optim.lr = 2e-3
    config.optim.schedule = "one_cycle"
    config.logs.pictures = 24
    return config

"""Your own folder of images and masks: a ResNet-18 U-Net from scratch.

segjax doctor --config configs/folder.py --config.data.root=DIR
segjax train --config configs/folder.py --config.data.root=DIR --workdir runs/mine

DIR holds images/, masks/ and classes.json (segjax/data/folder.py lists other layouts).
The network sees every image stretched to data.image_size; scores and predictions have
the images' own sizes. Cost: as the quick start's for as many pixels, 0.4 to 0.8 s a step
on 2 cores. Score: not measured, it is that of the data.
"""

from segjax.config import default


def get_config():
    config = default()
    config.steps = 600
    config.data.name = "folder"
    config.data.image_size = 128
    config.data.batch_size = 8
    config.optim.lr = 2e-3
    config.optim.schedule = "one_cycle"
    return config

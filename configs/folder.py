"""Your own folder of images and masks: a ResNet-18 U-Net from scratch.

segjax doctor --config configs/folder.py --config.data.root=DIR
python -m segjax.main --config configs/folder.py --config.data.root=DIR

DIR holds images/, masks/ and classes.json (segjax/data/folder.py lists other layouts).
The network sees every image stretched to data.image_size; scores and predictions have
the images' own sizes. Cost: half a second a step, 5 minutes, on 2 cores. Score: not
measured, being that of the data.
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

"""ResNet-18 tells what stands in a rendered scene: six kinds of one object each.

python -m segjax.main --config configs/shape_classes_resnet18.py

Its encoder then starts a segmentation of scenes with few labelled images:
python -m benchmarks.classify_first. Top-1 0.625 (docs/results/classify_first.json).
"""

from segjax.config import default


def get_config():
    config = default()
    config.task = "classification"
    config.steps = 480
    config.data.batch_size = 16
    config.augment.crop_area = (0.5, 1.0)
    config.optim.lr = 2e-3
    config.optim.schedule = "one_cycle"
    config.logs.pictures = 24
    return config

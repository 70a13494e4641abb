"""Training steps beside PyTorch's: docs/results/speed_training.json.

    python -m benchmarks.speed.training [--only "resnet50 unet*"]

Whole steps on 4 images of 256x256 in float32: normalisation, forward, loss, backward,
running statistics, SGD with momentum. Here ``segjax.step.make_train_step``, which also
counts the confusion matrix and the norms of its metrics; there SMP's model, channels
last. A ratio above 1 means that segjax is the faster.
"""

import sys

from benchmarks import record
from benchmarks.speed import contest
from benchmarks.speed.networks import NETWORKS, Network

RECORD = record.ROOT / "docs" / "results" / "speed_training.json"
COMMAND = "python -m benchmarks.speed.training"


def networks() -> list[Network]:
    return [Network(*name.split(), batch=4, size=256) for name in NETWORKS]


def main() -> int:
    rivals = contest.EAGER
    return contest.main(__doc__, "training", networks(), rivals, RECORD, COMMAND)


if __name__ == "__main__":
    sys.exit(main())

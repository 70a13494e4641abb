"""Inference beside PyTorch's, batch norms folded; docs/results/speed_inference.json.

    python -m benchmarks.speed.inference [--only "resnet50 unet*"]

From normalised float32 images to the class of every pixel, on 1 image of 512x512 and
on 4 of 256x256. Rivals: SMP's model in torch.inference_mode, channels last, and the
same under torch.compile with frozen weights (which folds batch norms too). There are no
gradients here: logits are compared, with batch norms folded and as they are. A ratio
above 1 means that segjax is the faster.
"""

import sys

from benchmarks import record
from benchmarks.speed import contest
from benchmarks.speed.networks import NETWORKS, Network

RECORD = record.ROOT / "docs" / "results" / "speed_inference.json"
COMMAND = "python -m benchmarks.speed.inference"


def networks() -> list[Network]:
    return [
        Network(*name.split(), batch=batch, size=size)
        for name in NETWORKS
        for batch, size in ((1, 512), (4, 256))
    ]


def main() -> int:
    rivals = (*contest.EAGER, *contest.COMPILED)
    return contest.main(__doc__, "inference", networks(), rivals, RECORD, COMMAND)


if __name__ == "__main__":
    sys.exit(main())

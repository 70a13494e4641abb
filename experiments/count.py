"""The confusion matrix of every evaluation image of a finished run, and its cost.

    python -m experiments.count WORKDIR

Writes ``counts.npz`` into the workdir: ``counts`` int32[N, K, K] (rows: truth), class
``names``, image ``ids``, ``macs`` (multiply-adds of one forward pass of one image at
the training size). The last state of the run is evaluated, not the best: which is best
was chosen by these images.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np


def count(prediction: np.ndarray, label: np.ndarray, classes: int) -> np.ndarray:
    """int32[K, K], rows the truth: of uint8[h, w] each; other ids are dropped."""
    valid = label < classes
    cells = label[valid].astype(np.int64) * classes + prediction[valid]
    found = np.bincount(cells, minlength=classes * classes)
    return found.reshape(classes, classes).astype(np.int32)


def macs_of(config: Any, classes: int, channels: int, size: Sequence[int]) -> int:
    """Multiply-adds of the config's network for an image of ``size`` (H, W).

    Of the network itself, not of the formulations that suit this machine.
    """
    import jax

    from segjax import setup
    from segjax.flops import count_macs

    model = setup.make_model(config, classes, channels, platform=None)
    image = jax.ShapeDtypeStruct((1, *size, channels), "f4")
    variables = jax.eval_shape(model.init, jax.random.key(0), image)
    return count_macs(lambda v, x: model.apply(v, x, train=False), variables, image)


def counts_of_run(workdir: Path) -> dict[str, Any]:
    """What ``counts.npz`` holds.

    Raises:
      ValueError: the matrices' sum does not give the run's own score.
    """
    from segjax import cache, setup
    from segjax.evaluate import evaluate_split
    from segjax.metrics import summarize

    cache.keep_compiled()
    parts = setup.load_parts(workdir, [])
    source = setup.open_split(
        parts.config, parts.config.data.eval_split, parts.pre.channels
    )
    variables, _ = setup.restore_variables(parts, workdir, "latest")
    _, shown = evaluate_split(
        parts, parts.eval_step(), variables, source, show=range(len(source))
    )
    classes = parts.spec.num_classes
    counts = np.stack(
        [count(shown[i], source[i]["label"], classes) for i in range(len(source))]
    )
    result = json.loads((workdir / "result.json").read_text())
    summary = summarize(counts.sum(0, dtype=np.int64), parts.spec.names)
    if summary["iou_per_class"] != result["iou_per_class"]:
        raise ValueError(
            f"{workdir}: the images' confusion matrices give mIoU {summary['miou']}, "
            f"result.json has {result['miou']}; is it of the last checkpoint?"
        )
    macs = macs_of(parts.config, classes, parts.pre.channels, parts.pre.image_size)
    return {
        "counts": counts,
        "names": np.array(parts.spec.names),
        "ids": np.array(list(source.ids())),
        "macs": np.array(macs),
    }


def main() -> int:
    """Count and write."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("workdir", type=Path)
    workdir = parser.parse_args().workdir
    found = counts_of_run(workdir)
    temporary = workdir / "counts.tmp.npz"
    np.savez_compressed(temporary, **found)
    temporary.replace(workdir / "counts.npz")
    return 0


if __name__ == "__main__":
    sys.exit(main())

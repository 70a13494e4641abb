"""Classes of whole images: evaluation of a split, and a picture of some.

``segjax evaluate`` comes here for a run of classification, ``segjax predict`` goes to
localize.py.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from segjax import inference, setup, sharding
from segjax.batch import ClassSpec, Source
from segjax.data.image_batches import image_batches
from segjax.top import Outcomes

_SIDE = 128  # px, of a picture in the sheet
_CAPTION = 16  # px
_RIGHT, _WRONG, _PAPER = (0, 110, 50), (190, 20, 30), (255, 255, 255)


def central_crop(parts: setup.Parts) -> float | None:
    """What share of an image is looked at (:func:`whole_or_centre`)."""
    return parts.config.eval.crop if parts.pre.fit == "pad" else None


def evaluate_images(
    parts: setup.Parts,
    eval_step: Callable,
    variables: Any,
    source: Source,
    *,
    show: Sequence[int] = (),
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> tuple[dict[str, Any], dict[int, np.ndarray]]:
    """Every image of a split once.

    Args:
      variables: what ``model.apply`` takes, on the mesh.
      show: indices of the examples whose predictions are wanted.
      progress: called with (examples done, examples in all).

    Returns:
      The summary (:meth:`segjax.top.Outcomes.summarize` and ``loss``, the mean over the
      images), and example index -> int32[], the predicted class.
    """
    config = parts.config
    batch_size = config.eval.batch_size or config.data.batch_size
    sharding.check_batch_size("config.eval.batch_size", batch_size, parts.mesh)
    share = sharding.batch_share(parts.mesh)
    batches = image_batches(
        source,
        batch_size=batch_size,
        size=parts.pre.image_size,
        crop=central_crop(parts),
        process_index=share.index,
        process_count=share.count,
        threads=config.data.threads,
    )
    outcomes, wanted, shown = Outcomes(parts.spec.num_classes), set(show), {}
    loss = 0.0

    def collect(indices: range, out: Any) -> None:
        nonlocal loss
        out = jax.device_get(out)
        outcomes.add(out["label"], out["prediction"], out["rank"])
        loss += float(out["loss"]) * len(indices)
        found = zip(indices, out["prediction"], strict=False)  # then rows of no image
        shown.update({index: row for index, row in found if index in wanted})
        progress(indices.stop, len(source))

    scored = (
        (indices, eval_step(variables, sharding.to_devices(batch, parts.mesh)))
        for indices, batch in batches
    )
    for indices, out in sharding.one_behind(scored):
        collect(indices, out)
    return outcomes.summarize(parts.spec.names) | {"loss": loss / len(source)}, shown


def sheet(
    rows: Sequence[tuple[np.ndarray, int, int]], spec: ClassSpec, columns: int = 8
) -> np.ndarray:
    """Images with their class, and what they were taken for where that is another.

    ``rows`` hold (uint8[h, w, 3], truth, prediction). Returns uint8[H, W, 3].
    """
    columns = min(columns, len(rows))
    lines = -(-len(rows) // columns)
    size = (columns * _SIDE, lines * (_SIDE + _CAPTION))
    picture, font = Image.new("RGB", size, _PAPER), ImageFont.load_default()
    draw = ImageDraw.Draw(picture)
    for place, (image, truth, prediction) in enumerate(rows):
        x, y = place % columns * _SIDE, place // columns * (_SIDE + _CAPTION)
        shown = Image.fromarray(image)
        scale = _SIDE / max(shown.size)
        width, height = (max(1, round(n * scale)) for n in shown.size)
        picture.paste(shown.resize((width, height), Image.Resampling.BOX), (x, y))
        text, colour = spec.names[truth], _RIGHT
        if truth != prediction:
            text, colour = f"{text}: {spec.names[prediction]}?", _WRONG
        draw.text((x + 2, y + _SIDE + 1), text[:24], colour, font)
    return np.asarray(picture)


def draw(
    source: Source, predictions: Mapping[int, np.ndarray], path: Path
) -> np.ndarray:
    """Write the sheet of a split's shown examples as PNG; returns it."""
    rows = []
    for index, prediction in sorted(predictions.items()):
        example = source[index]
        image = inference.display_image(example["image"])
        rows.append((image, int(example["label"]), int(prediction)))
    picture = sheet(rows, source.spec)  # type: ignore[arg-type]
    inference.write_png(path, picture)
    return picture

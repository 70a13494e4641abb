"""Classes of whole images: evaluation of a split, prediction for files, a picture.

``segjax evaluate`` and ``segjax predict`` come here for a run of classification.
"""

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from segjax import inference, setup, sharding
from segjax.augment import prepare_eval
from segjax.batch import ClassSpec, Source
from segjax.data.image_batches import image_batches, whole_or_centre
from segjax.data.inputs import Entry
from segjax.outputs import raise_failed, write_json
from segjax.top import Outcomes

BEST = 5  # classes told of each image
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
    batches = image_batches(
        source,
        batch_size=batch_size,
        size=parts.pre.image_size,
        crop=central_crop(parts),
        process_index=jax.process_index(),
        process_count=jax.process_count(),
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

    waiting = None
    for indices, batch in batches:
        out = eval_step(variables, sharding.to_devices(batch, parts.mesh))
        # One batch behind, so that the device works while the host counts.
        if waiting is not None:
            collect(*waiting)
        waiting = indices, out
    if waiting is not None:
        collect(*waiting)
    return outcomes.summarize(parts.spec.names) | {"loss": loss / len(source)}, shown


class ImageClassifier:
    """Class probabilities of single images of any size, prepared as in evaluation."""

    def __init__(self, parts: setup.Parts, variables: Any):
        self.spec, self.channels = parts.spec, parts.pre.channels
        self._size, self._crop = parts.pre.image_size, central_crop(parts)
        self._variables = variables
        self._placed = sharding.replicated(parts.mesh)

        def probabilities(variables, image, size):
            image = prepare_eval(image, size, parts.pre.mean, parts.pre.std)
            logits = parts.model.apply(variables, image.astype(parts.dtype))
            return jax.nn.softmax(jnp.asarray(logits))[0]

        self._run = jax.jit(probabilities)

    def probabilities(self, image: np.ndarray) -> np.ndarray:
        """float32[K] of an image u8 | u16 | f32[h, w, C]."""
        seen = whole_or_centre(image, self._size, self._crop)[None]
        arrays = jax.device_put((seen, np.array([self._size], np.int32)), self._placed)
        return np.asarray(jax.device_get(self._run(self._variables, *arrays)))

    def describe(self, image: np.ndarray) -> dict[str, Any]:
        """``class``, ``class_id``, ``probability``, and ``best`` up to five of them."""
        found = self.probabilities(image)
        order = np.argsort(-found, kind="stable")[:BEST]
        best = [
            {"class": self.spec.names[k], "class_id": int(k), "probability": float(p)}
            for k, p in zip(order, found[order], strict=True)
        ]
        return best[0] | {"best": best}


def classify_all(
    parts: setup.Parts,
    variables: Any,
    entries: Iterable[Entry],
    say: Callable[[str, dict[str, Any]], None],
) -> dict[str, Any]:
    """Classify every entry: ``images``, each as :meth:`ImageClassifier.describe` has
    it, and what ``failed``. ``say`` is told of each as it is done.
    """
    classifier = ImageClassifier(parts, variables)
    images, failed = [], []
    for entry in entries:
        name = entry.about["image"]
        try:
            image, _ = entry.read()
            found = classifier.describe(image)
        except (ValueError, OSError) as error:
            text = str(error)
            text = text if name in text else f"{name}: {text}"
            failed.append({"image": name, "error": text})
            continue
        images.append(entry.about | {"size": list(image.shape[:2])} | found)
        say(name, found)
    return {"images": images, "failed": failed}


def classify(
    parts: setup.Parts,
    variables: Any,
    entries: Iterable[Entry],
    output: Path,
    about: dict[str, Any],
    console: Any,
) -> dict[str, Any]:
    """Classify every entry; writes ``predictions.json`` and returns what it holds.

    ``about`` is what it says besides (``step`` among it).

    Raises:
      ValueError: some could not be read (the others are done first; it names these).
    """
    output.mkdir(parents=True, exist_ok=True)

    def say(image: str, found: dict[str, Any]) -> None:
        text = f"{image}: {found['class']} {found['probability']:.3f}"
        console.print(text, highlight=False, markup=False)

    about |= classify_all(parts, variables, entries, say)
    write_json(output, "predictions.json", about)
    path, done = output / "predictions.json", len(about["images"])
    text = f"{done} image{'s' * (done != 1)}, step {about['step']}: {path}"
    console.print(text, highlight=False)
    raise_failed(about["failed"], done, path)
    return about


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
        fitted = (max(1, round(n * scale)) for n in shown.size)
        picture.paste(shown.resize(tuple(fitted), Image.Resampling.BOX), (x, y))
        text, colour = spec.names[truth], _RIGHT
        if truth != prediction:
            text, colour = f"{text}: {spec.names[prediction]}?", _WRONG
        draw.text((x + 2, y + _SIDE + 1), text[:24], colour, font)
    return np.asarray(picture)


def draw(source: Source, predictions: dict[int, np.ndarray], path: Path) -> np.ndarray:
    """Write the sheet of a split's shown examples as PNG; returns it."""
    rows = []
    for index, prediction in sorted(predictions.items()):
        example = source[index]
        image = inference.display_image(example["image"])
        rows.append((image, int(example["label"]), int(prediction)))
    picture = sheet(rows, source.spec)  # type: ignore[arg-type]
    inference.write_png(path, picture)
    return picture

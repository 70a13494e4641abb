"""What a classifier sees in single images, and where: classes, heat maps, boxes."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from segjax import cam, drawing, inference, setup, sharding
from segjax.augment import prepare_eval
from segjax.batch import ClassSpec
from segjax.classify import central_crop
from segjax.data.image_batches import centre, whole_or_centre
from segjax.data.inputs import Entry
from segjax.stream import Results

BEST = 5  # classes told of each image
_WHITE = (255, 255, 255)


class Localizer:
    """Probabilities, the best classes and their heat maps, prepared as in evaluation.

    A network without class activation maps (:func:`segjax.cam.has_maps`) has no heat.
    """

    def __init__(self, parts: setup.Parts, variables: Any, best: int = BEST):
        self._size, self._crop = parts.pre.image_size, central_crop(parts)
        self._variables = variables
        self._placed = sharding.replicated(parts.mesh)
        model, best = parts.model, min(best, parts.spec.num_classes)

        def run(variables, image, size):
            image = prepare_eval(image, size, parts.pre.mean, parts.pre.std)
            image = image.astype(parts.dtype)
            if cam.has_maps(model):
                logits, classes, maps = cam.activation_maps(
                    model, variables, image, best
                )
            else:
                logits = jnp.asarray(model.apply(variables, image))
                classes, maps = jax.lax.top_k(logits, best)[1], jnp.zeros((1, 0, 0, 0))
            return jax.nn.softmax(logits)[0], classes[0], maps[0]

        self._run = jax.jit(run)

    def __call__(self, image: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """float32[K], int32[n], the largest first, and their heat float32[n, h, w].

        Heat is in [0, 1], at the size of the image u8 | u16 | f32[h, w, C], and 0
        where the network does not look (beyond a central crop); n is 0 for a network
        without maps.
        """
        seen = whole_or_centre(image, self._size, self._crop)[None]
        size = np.array([self._size], np.int32)
        arrays = jax.device_put((seen, size), self._placed)
        found = jax.device_get(self._run(self._variables, *arrays))
        probabilities, classes, maps = (np.asarray(part) for part in found)
        own = (image.shape[0], image.shape[1])
        rows, columns = centre(own, self._size, self._crop)
        heat = np.zeros((maps.shape[-1], *own), np.float32)
        inside = (rows.stop - rows.start, columns.stop - columns.start)
        for place, activation in zip(heat, np.moveaxis(maps, -1, 0), strict=True):
            place[rows, columns] = cam.heat(activation, inside)
        return probabilities, classes, heat


def guesses(
    spec: ClassSpec, probabilities: np.ndarray, classes: np.ndarray, heat: np.ndarray
) -> list[dict[str, Any]]:
    """What a :class:`Localizer` found as plain JSON values, the likeliest class first.

    Keys: ``class``, ``class_id``, ``probability`` and, where there is heat, ``box``.
    """
    best: list[dict[str, Any]] = [
        {
            "class": spec.names[k],
            "class_id": int(k),
            "probability": float(probabilities[k]),
        }
        for k in classes
    ]
    for guess, own in zip(best, heat, strict=False):
        guess["box"] = list(cam.box(own))
    return best


def draw(image: np.ndarray, guess: dict[str, Any], heat: np.ndarray) -> np.ndarray:
    """uint8[h, w, 3]: the image under the heat f[h, w] of a guess, and its box."""
    shown = drawing.heat_map(inference.display_image(image), heat)
    found = [guess | {"score": guess["probability"]}]
    return drawing.boxes(shown, found, {guess["class_id"]: _WHITE})


@dataclass(frozen=True)
class HeatWriter:
    """Writes ``<name>_cam.png``: the image under the heat of its class, and the box.

    ``save(name, write)`` has a file of that name written by ``write(path)``; ``spec``
    names the classes; nothing is written if ``pictures`` is empty.
    """

    save: Callable[[str, Callable[[Path], Any]], None]
    spec: ClassSpec
    pictures: tuple[str, ...]

    def __call__(
        self,
        entry: Entry,
        image: np.ndarray,
        truth: np.ndarray | None,
        probabilities: np.ndarray,
        classes: np.ndarray,
        heat: np.ndarray,
    ) -> tuple[dict[str, Any], None]:
        """What ``predictions.json`` says: class, probability, box, and the best."""
        best = guesses(self.spec, probabilities, classes, heat)
        about = entry.about | {"size": list(image.shape[:2])} | best[0] | {"best": best}
        if truth is not None:
            about["truth"] = self.spec.names[int(truth)]
        if self.pictures and len(heat):
            picture = draw(image, best[0], heat[0])
            self.save(f"{entry.name}_cam.png", partial(drawing.write_fast, picture))
            about["cam"] = f"{entry.name}_cam.png"
        return about, None


class Classes(Results):
    """Tells each image's class as it is found."""

    def __init__(self, console: Any):
        super().__init__()
        self._console = console

    def note(self, about: dict[str, Any], more: None) -> None:
        """Print it."""
        text = f"{about['image']}: {about['class']} {about['probability']:.3f}"
        self._console.print(text, highlight=False, markup=False)

"""``segjax.load(workdir)``: a trained run in Python, for notebooks and programs."""

import html
import importlib
import importlib.util
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np
from PIL import Image, ImageOps

from segjax import cache, inference, localize, regions, setup
from segjax.batch import LabelSpec
from segjax.config import Config
from segjax.data import files, pipeline
from segjax.preprocessing import Preprocessing
from segjax.views import Views, views_of

SHOWN_CLASSES = 20  # of a thousand

Picture = Any
"""An image: a path, a PIL image, or an array [h, w] or [h, w, C].

uint8 and uint16 are fractions of their range; floats are taken as they are, which is in
[0, 1] for a run that was trained on such images.
"""


@dataclass(frozen=True, eq=False)
class Run:
    """A trained network with all that it needs for images of any size.

    Attributes:
      workdir: the run's folder.
      step: the step whose weights these are.
      config: every knob, as the run has it.
      spec: class names and, of segmentation, colours.
      preprocessing: channels, mean, standard deviation and size of its images.
      model: the Linen module; ``model.apply(variables, image)`` takes f32[B, H, W, C].
      variables: ``params`` and ``batch_stats``, nested dicts of arrays.
    """

    workdir: Path
    step: int
    config: Config
    spec: Any
    preprocessing: Preprocessing
    model: Any
    variables: Any

    def image(self, picture: Picture) -> np.ndarray:
        """The picture as an array [h, w, C] of the run's channels.

        Grey is repeated to three channels, and the alpha channel left out, where that
        fits. EXIF orientation is respected.

        Raises:
          ValueError: it is no image, has other channels, or holds NaN.
        """
        channels = self.preprocessing.channels
        if isinstance(picture, str | os.PathLike):
            read = files.read_image(Path(picture), channels)
            return pipeline.finite(read, str(picture))
        if isinstance(picture, Image.Image):
            picture = ImageOps.exif_transpose(picture)
            if picture.mode in ("P", "PA", "CMYK", "YCbCr", "HSV", "LAB"):
                picture = picture.convert("RGB")
            elif picture.mode == "1":
                picture = picture.convert("L")
        array = np.asarray(picture)
        if array.ndim not in (2, 3) or 0 in array.shape:
            raise ValueError(
                f"the image has shape {array.shape}; give [height, width] or [height, "
                "width, channels]"
            )
        array = array.astype(array.dtype.newbyteorder("="), copy=False)
        if np.issubdtype(array.dtype, np.floating):
            array = array.astype(np.float32)
        elif array.dtype not in (np.uint8, np.uint16):
            raise ValueError(
                f"the image's type is {array.dtype}; give uint8, uint16 or floats in "
                "[0, 1]"
            )
        array = files.with_channels(array, channels, "the image")
        return pipeline.finite(array, "the image")

    @property
    def parameters(self) -> int:
        """The number of parameters of the network."""
        return sum(leaf.size for leaf in jax.tree.leaves(self.variables["params"]))

    @property
    def network(self) -> str:
        """The names of its parts."""
        return str(self.config.model.encoder)

    def _facts(self) -> dict[str, str]:
        height, width = self.preprocessing.image_size
        names = self.spec.names[:SHOWN_CLASSES]
        more = self.spec.num_classes - len(names)
        return {
            "network": self.network,
            "parameters": f"{self.parameters:,}",
            "images": f"{height}x{width}x{self.preprocessing.channels}",
            "classes": ", ".join(names) + (f" and {more} more" if more else ""),
        }

    def __repr__(self) -> str:
        facts = ", ".join(f"{key}: {text}" for key, text in self._facts().items())
        return f"<segjax run {self.workdir}, step {self.step}; {facts}>"

    def _repr_html_(self) -> str:
        """A small table, for notebooks."""
        facts = {k: html.escape(text) for k, text in self._facts().items()}
        if isinstance(self.spec, LabelSpec):
            facts["classes"] = _swatches(self.spec)
        rows = "".join(f"<tr><th>{k}</th><td>{v}</td></tr>" for k, v in facts.items())
        title = f"{html.escape(str(self.workdir))}, step {self.step}"
        return f"<table><caption>{title}</caption>{rows}</table>"


def _swatches(spec: LabelSpec) -> str:
    """HTML: each class behind its colour."""
    return " ".join(
        f'<span style="border-left:1em solid rgb{tuple(colour)};padding-left:.3em;'
        f'margin-right:.8em;white-space:nowrap">{html.escape(name)}</span>'
        for name, colour in zip(spec.names, spec.palette, strict=True)
    )


@dataclass(frozen=True, eq=False, repr=False)
class SegmentationRun(Run):
    """A :class:`Run` that labels every pixel; ``views`` say how it sees an image."""

    views: Views

    @property
    def network(self) -> str:
        """The names of its parts."""
        return f"{self.config.model.encoder} + {self.config.model.decoder}"

    def predict(self, picture: Picture) -> np.ndarray:
        """Class ids uint8[h, w], at the picture's own size."""
        return self.views.label(self.variables, self.image(picture))[0]

    def probabilities(self, picture: Picture) -> np.ndarray:
        """float32[h, w, K]: each pixel's probability of each class."""
        return self.views(self.variables, self.image(picture))

    def boxes(
        self, picture: Picture, min_area: int = regions.MIN_AREA
    ) -> list[dict[str, Any]]:
        """Connected regions, the largest first, as :func:`segjax.regions.describe`.

        Each has class, class_id, box [x0, y0, x1, y1], area, score (mean probability)
        and mask (COCO RLE). ``min_area``: pixels of the smallest.
        """
        label, sure = self.views.label(self.variables, self.image(picture))
        found = regions.find(label, self.spec.num_classes, sure, min_area=min_area)
        return regions.describe(found, self.spec, label.shape)

    def _panels(self, picture: Picture, truth: np.ndarray | None):
        """Named pictures uint8[h, w, 3] of what is in the image."""
        image = self.image(picture)
        label, shown = self.predict(image), inference.display_image(image)
        panels = {"image": shown}
        if truth is not None:
            if truth.shape != label.shape:
                raise ValueError(
                    f"the truth has shape {truth.shape}, the image {label.shape}"
                )
            panels["truth"] = inference.colorize(truth, self.spec)
        panels["prediction"] = inference.colorize(label, self.spec)
        panels["overlay"] = inference.overlay(shown, label, self.spec)
        return panels

    def show(self, picture: Picture, truth: np.ndarray | None = None) -> Image.Image:
        """Image, truth (if given: ids uint8[h, w]), prediction and overlay, a legend.

        A PIL image, which notebooks display.
        """
        panels = self._panels(picture, truth)
        return Image.fromarray(inference.panels([[*panels.values()]], self.spec))

    def figure(self, picture: Picture, truth: np.ndarray | None = None) -> Any:
        """As :meth:`show`, a matplotlib figure with an axis for each picture.

        Raises:
          ValueError: matplotlib is not installed.
        """
        if importlib.util.find_spec("matplotlib") is None:
            raise ValueError("figure needs matplotlib: pip install matplotlib, or show")
        figures = importlib.import_module("matplotlib.figure")
        patches = importlib.import_module("matplotlib.patches")
        panels = self._panels(picture, truth)
        figure = figures.Figure((4 * len(panels), 4.6), layout="constrained")
        axes = figure.subplots(1, len(panels), squeeze=False)[0]
        for axis, (name, panel) in zip(axes, panels.items(), strict=True):
            axis.imshow(panel, interpolation="nearest")
            axis.set_title(name)
            axis.set_axis_off()
        handles = [
            patches.Patch(color=np.array(colour) / 255, label=name)
            for name, colour in zip(self.spec.names, self.spec.palette, strict=True)
        ]
        figure.legend(handles=handles, loc="outside lower center", ncols=6)
        return figure


@dataclass(frozen=True, eq=False, repr=False)
class ClassificationRun(Run):
    """A :class:`Run` that classifies whole images; ``localizer`` says where, too."""

    localizer: localize.Localizer

    def predict(self, picture: Picture) -> int:
        """The class's id; its name is ``spec.names[id]``."""
        return int(self.probabilities(picture).argmax())

    def probabilities(self, picture: Picture) -> np.ndarray:
        """float32[K]: the probability of each class."""
        return self.localizer(self.image(picture))[0]

    def boxes(self, picture: Picture) -> list[dict[str, Any]]:
        """The five likeliest classes: class, class_id, probability, and where.

        ``box`` is around its activation map's largest region; a network without such
        maps (a vision transformer) gives none.
        """
        return localize.guesses(self.spec, *self.localizer(self.image(picture)))

    def show(self, picture: Picture) -> Image.Image:
        """The picture under the heat map of its class, with the box."""
        image = self.image(picture)
        probabilities, classes, heat = self.localizer(image)
        if not len(heat):
            return Image.fromarray(inference.display_image(image))
        best = localize.guesses(self.spec, probabilities, classes[:1], heat[:1])
        return Image.fromarray(localize.draw(image, best[0], heat[0]))


def load(
    workdir: str | os.PathLike,
    checkpoint: str | int = "best",
    overrides: Mapping[str, Any] | None = None,
) -> SegmentationRun | ClassificationRun:
    """The run of a workdir, ready to label or to classify images.

    Compiled programs are kept, in memory per rounded image size and on disk. An image
    is padded to whole buckets: ``eval.programs`` is for the sizes of a whole split.

    Args:
      workdir: the folder that ``segjax train`` or ``segjax import`` wrote.
      checkpoint: "best" (by the evaluation split), "latest" or a step.
      overrides: knobs to change: {"eval.mode": "slide"} for large images by windows.

    Raises:
      ValueError: it is no run's folder, has no such checkpoint, or no such knob.
    """
    folder = Path(workdir)
    changed = [f"--config.{key}={value}" for key, value in (overrides or {}).items()]
    parts = setup.load_parts(folder, changed, devices=jax.local_devices()[:1])
    cache.keep_compiled()
    variables, step = setup.restore_variables(parts, folder, str(checkpoint))
    known = {
        "workdir": folder,
        "step": step,
        "config": parts.config,
        "spec": parts.spec,
        "preprocessing": parts.pre,
        "model": parts.model,
        "variables": variables,
    }
    if parts.config.task == "classification":
        localizer = localize.Localizer(parts, variables)
        return ClassificationRun(**known, localizer=localizer)
    return SegmentationRun(**known, views=views_of(parts))

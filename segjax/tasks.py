"""What differs between segmentation and classification; the rest of a run is the same.

A task is found by its name in :data:`TASKS`; ``setup`` asks it for network, loss and
evaluation step, the train step and the loop for what to count.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
from flax import linen as nn
from jax.sharding import Mesh

from segjax import models
from segjax import step as steps
from segjax.batch import ClassSpec, LabelSpec
from segjax.config import Config, is_used, nearest
from segjax.image_step import make_image_eval_step
from segjax.losses import OPTIONS, build_loss
from segjax.losses.image import ImageLoss
from segjax.metrics import summarize
from segjax.preprocessing import Preprocessing
from segjax.top import count_hits, of_hits

Counts = Mapping[str, np.ndarray]


def class_weights(config: Config, spec: LabelSpec | ClassSpec) -> tuple | None:
    """The config's, or None.

    Raises:
      ValueError: not one per class.
    """
    weights = config.loss.class_weights
    if weights and len(weights) != spec.num_classes:
        shown = ", ".join(spec.names[:20]) + (", ..." * (spec.num_classes > 20))
        raise ValueError(
            f"config.loss.class_weights has {len(weights)} values, but the data has "
            f"{spec.num_classes} classes: {shown}"
        )
    return tuple(weights) or None


class Segmentation:
    """A class for every pixel."""

    name: ClassVar = "segmentation"
    metric: ClassVar = "miou"  # says which checkpoint is the best; larger is better
    auxiliary: ClassVar = "auxiliary"  # config.loss's weight of the auxiliary losses
    spec: ClassVar = LabelSpec
    # What the train step counts, to be summed over the steps of a line of the log,
    count: ClassVar[Callable] = staticmethod(steps.count_confusion)

    @staticmethod
    def scalars(counts: Counts, names: Sequence[str]) -> dict[str, float | None]:
        """And what the line says of the sums."""
        return {"miou": summarize(counts["confusion"], names)["miou"]}

    @staticmethod
    def source_options(config: Config) -> dict[str, Any]:
        """Of the data's source, those that this task alone has."""
        known = is_used(config, "data.mask_values")
        return {"mask_values": config.data.mask_values} if known else {}

    @staticmethod
    def build(config: Config, num_classes: int, **options: Any) -> nn.Module:
        """The network; ``options``: what every task's has."""
        model = config.model
        known = models.defaults_of(model.decoder)
        given = model.decoder_options.to_dict().items()
        own = {key: value for key, value in given if value is not None}
        for key in own:
            if key in model:
                raise ValueError(
                    f"config.model.decoder_options.{key} is a knob of its own: write "
                    f"config.model.{key}"
                )
            if key not in known:
                raise ValueError(
                    f"config.model.decoder_options.{key}: {model.decoder} has "
                    f"{', '.join(known) or 'no options'}{nearest(key, known)}"
                )
        return models.build(
            model.encoder,
            model.decoder,
            num_classes,
            auxiliary=model.auxiliary,
            **own,
            **options,
        )

    @staticmethod
    def loss(config: Config, spec: LabelSpec, platform: str | None) -> Any:
        """The config's loss, of label maps, for a platform.

        Raises:
          ValueError: there is one class alone, of which the softmax is 1 whatever the
            network says: loss 0, mIoU 1.
        """
        if spec.num_classes < 2:
            raise ValueError(
                f"the data has one class alone, {spec.names[0]}: every pixel is of it "
                "and nothing is learnt; name the background as a class, too, instead "
                "of ignoring it"
            )
        names = config.loss.name
        known = (OPTIONS.get(name.strip(), ()) for name in names.split("+"))
        options = {key: config.loss[key] for of_one in known for key in of_one}
        of_classes = class_weights(config, spec)
        if "class_weights" in options:
            options["class_weights"] = of_classes
        weights = tuple(config.loss.weights)
        return build_loss(names, weights, platform=platform, **options)

    @staticmethod
    def crop(config: Config) -> dict[str, Any]:
        """Of the augmentation, how images are cropped."""
        return {"scale": config.augment.scale, "cutmix": config.augment.cutmix}

    @staticmethod
    def eval_step(
        model: nn.Module,
        loss: Any,
        mesh: Mesh,
        spec,
        pre: Preprocessing,
        dtype,
        calibrate: bool = False,
    ) -> Callable:
        """The jitted evaluation step."""
        return steps.make_eval_step(
            model,
            loss,
            mesh,
            num_classes=spec.num_classes,
            mean=pre.mean,
            std=pre.std,
            resize=pre.fit == "resize",
            dtype=dtype,
            calibrate=calibrate,
        )

    @staticmethod
    def label_shape(rows: int, buffer: tuple[int, int]) -> tuple[tuple[int, ...], type]:
        """Shape and dtype of a batch's labels."""
        return (rows, *buffer), np.uint8


class Classification:
    """A class for every image; the members as of :class:`Segmentation`."""

    name: ClassVar = "classification"
    metric: ClassVar = "top1"
    auxiliary: ClassVar = "classifier_auxiliary"
    spec: ClassVar = ClassSpec
    count: ClassVar[Callable] = staticmethod(count_hits)

    @staticmethod
    def scalars(counts: Counts, names: Sequence[str]) -> dict[str, float | None]:
        """Top-1 and top-5 of the augmented training batches."""
        return of_hits(counts["hits"])

    @staticmethod
    def source_options(config: Config) -> dict[str, Any]:
        """None."""
        return {}

    @staticmethod
    def build(config: Config, num_classes: int, **options: Any) -> nn.Module:
        """The encoder with its published head."""
        options.pop("spatial")
        return models.build_classifier(config.model.encoder, num_classes, **options)

    @staticmethod
    def loss(config: Config, spec: ClassSpec, platform: str | None) -> ImageLoss:
        """Cross-entropy, with the config's class weights and smoothing."""
        return ImageLoss(class_weights(config, spec), config.loss.label_smoothing)

    @staticmethod
    def crop(config: Config) -> dict[str, Any]:
        """By area and aspect, or by the shorter side."""
        crop, side = config.augment, config.augment.shorter_side
        if side is not None:
            return {"shorter_side": side}
        return {"crop_area": crop.crop_area, "crop_aspect": crop.crop_aspect}

    @staticmethod
    def eval_step(
        model: nn.Module, loss: Any, mesh: Mesh, spec, pre: Preprocessing, dtype
    ) -> Callable:
        """The jitted evaluation step."""
        return make_image_eval_step(
            model, loss, mesh, mean=pre.mean, std=pre.std, dtype=dtype
        )

    @staticmethod
    def label_shape(rows: int, buffer: tuple[int, int]) -> tuple[tuple[int, ...], type]:
        """Shape and dtype of a batch's labels."""
        return (rows,), np.int32


Task = type[Segmentation] | type[Classification]
TASKS: Mapping[str, Task] = {task.name: task for task in (Segmentation, Classification)}

"""What stands between an image file and the network."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from segjax import checkpoint, weights
from segjax.config import Config

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class Preprocessing:
    """What stands between an image file and the network; it lies in the workdir.

    ``image_size`` (H, W) is the size the network was trained on and, with
    ``fit="resize"``, sees every image at; ``mean`` and ``std`` are per channel, of
    values in [0, 1].
    """

    channels: int
    image_size: tuple[int, int]
    fit: str
    mean: tuple[float, ...]
    std: tuple[float, ...]

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {
            key: list(v) if isinstance(v, tuple) else v for key, v in vars(self).items()
        }

    @classmethod
    def from_dict(cls, value: dict[str, Any]) -> "Preprocessing":
        """The inverse of :meth:`to_dict`."""
        plain: dict[str, Any] = {
            k: tuple(v) if isinstance(v, list) else v for k, v in value.items()
        }
        return cls(**plain)


def pair(size: int | tuple[int, int]) -> tuple[int, int]:
    """(H, W) from an int or a pair."""
    return (size, size) if isinstance(size, int) else (int(size[0]), int(size[1]))


def pretrained_range(config: Config) -> dict[str, tuple[float, ...]] | None:
    """``mean`` and ``std`` that ``model.pretrained`` was trained with, where known.

    A package of weights and another run's workdir know; a file does not.
    """
    name = config.model.pretrained
    if name is None:
        return None
    if name.startswith(weights.PREFIX):
        known = weights.package(name)
        return {"mean": known.mean, "std": known.std}
    path = checkpoint.file_of_run(Path(name), "labels.json")
    if path is None:
        return None
    pre = Preprocessing.from_dict(json.loads(path.read_text())["preprocessing"])
    return {"mean": pre.mean, "std": pre.std}


def preprocessing(config: Config, channels: int) -> Preprocessing:
    """The config's preprocessing for images of so many channels.

    Raises:
      ValueError: ``data.mean`` or ``data.std`` does not fit the channels.
    """
    rgb = channels == 3
    values, trained = {}, pretrained_range(config)
    if trained and len(trained["mean"]) != channels:  # another number: model.inflate
        trained = None
    for key, known in (("mean", IMAGENET_MEAN), ("std", IMAGENET_STD)):
        given = config.data[key]
        given = (given,) if isinstance(given, (int, float)) else given
        if trained and given is not None and tuple(given) != trained[key]:
            raise ValueError(
                f"config.data.{key}={given} is not the range that the weights "
                f"{config.model.pretrained} were trained on, {trained[key]}; leave "
                "it out"
            )
        if trained:
            given = trained[key]
        if given is None:
            given = known if rgb else ((0.5 if key == "mean" else 0.25),) * channels
        if len(given) == 1:
            given = tuple(given) * channels
        if len(given) != channels:
            raise ValueError(
                f"config.data.{key} has {len(given)} values, but the images have "
                f"{channels} channels; give {channels} values or one"
            )
        values[key] = tuple(float(v) for v in given)
    return Preprocessing(
        channels=channels,
        image_size=pair(config.data.image_size),
        fit=config.data.fit,
        mean=values["mean"],
        std=values["std"],
    )

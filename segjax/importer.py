"""``segjax import``: a workdir from the weights of another program."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax

from segjax import checkpoint, models, setup, weights
from segjax import config as configs
from segjax.batch import LabelSpec, default_palette
from segjax.config import Config
from segjax.data.classes import read_classes
from segjax.lock import Lock
from segjax.preprocessing import preprocessing

SIZE = 512  # px, that a workdir names where nobody says what the network trained on


@dataclass(frozen=True)
class Wanted:
    """What the user says of the network; None: as the file says, else the default.

    ``labels`` is a classes.json or the labels.json of a run; ``mean`` and ``std`` are
    of values in [0, 1] (default: ImageNet's). With ``image_size`` (H, W) every image is
    resized to it for the network, without it images keep their sizes. ``naming``: whose
    names the tensors have (None: found out). ``ignore`` are patterns of tensors to pass
    over.
    """

    encoder: str
    decoder: str | None = None
    like: str | None = None
    classes: int | None = None
    labels: Path | None = None
    channels: int | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    image_size: tuple[int, ...] | None = None
    naming: str | None = None
    ignore: tuple[str, ...] = ()


def import_weights(
    workdir: Path, file: Path, wanted: Wanted, overrides: Sequence[str] = ()
) -> None:
    """Make a self-contained workdir of one checkpoint, for predict and evaluate.

    Raises:
      ValueError: the weights do not fit the network, or the workdir has a run already.
    """
    if (workdir / "config.json").exists():
        raise ValueError(f"--workdir {workdir} holds a run already; name another")
    if wanted.image_size and len(wanted.image_size) > 2:
        raise ValueError("--image-size takes one or two numbers (height, width)")
    tensors = weights.read_file(file)
    try:
        described = json.loads(weights.read_metadata(file).get(weights.KEY, "{}"))
        _check_task(described, file)
        config, channels = _config(wanted, described)
        own = LabelSpec.from_dict(described["labels"]) if described else None
    except (KeyError, TypeError, AttributeError, json.JSONDecodeError) as error:
        text = f"its metadata {weights.KEY!r} is damaged ({type(error).__name__})"
        raise ValueError(f"{file}: {text}") from error
    configs.override(config, overrides)

    tensors, found = _found(config, tensors, channels, wanted.naming, file)
    number = 2 if (background := found.num_classes == 1) else found.num_classes
    channels = found.in_channels
    known = configs.CHOICES["model.like"]
    if wanted.like is None and "model" not in described and found.naming in known:
        config.model.like = found.naming
    configs.validate(config)
    spec = _labels(wanted, own, number, file, background)
    pre = preprocessing(config, channels)
    config.data.mean, config.data.std = pre.mean, pre.std
    parts = setup.make_parts(config, spec, pre, jax.local_devices()[:1])
    try:
        variables = weights.load_torch(
            parts.model,
            tensors,
            allow_unexpected=wanted.ignore,
            naming=wanted.naming,
        )
    except ValueError as error:
        hint = ""
        if "of another shape" in str(error):
            hint = (
                "; widths are options of the decoder: `segjax models "
                f"{config.model.decoder}`"
            )
        raise ValueError(f"{file}: {error}{hint}") from error
    with Lock(workdir):
        checkpoints = workdir / "checkpoints"
        saved = checkpoint.Checkpoints(checkpoints, keep_last=1, keep_best=0)
        saved.save(0, variables, force=True)
        saved.close()
        setup.save_description(workdir, parts)
    model = config.model
    print(
        f"{model.encoder} + {model.decoder} like {model.like}, {spec.num_classes} "
        f"classes, weights named as {found.naming}'s: {workdir}"
    )


def _found(
    config: Config,
    tensors: Mapping[str, Any],
    channels: int | None,
    naming: str | None,
    file: Path,
) -> tuple[Mapping[str, Any], weights.Guess]:
    """The tensors, and what they are for; one class becomes two, after a background.

    Raises:
      ValueError: they are of no such network, or for other ``channels``.
    """

    def make(num_classes: int) -> models.Segmenter:
        return _model(config, num_classes, channels or 3)

    try:
        found = weights.guess(make, tensors, naming)
        if found.num_classes == 1:  # a sigmoid's, as of SMP's networks by default
            tensors = weights.with_background(make, tensors, found.naming)
    except ValueError as error:
        raise ValueError(f"{file}: {error}") from error
    if channels not in (None, found.in_channels):
        raise ValueError(
            f"{file} is for images of {found.in_channels} channels, but {channels} are "
            "asked for"
        )
    return tensors, found


def _check_task(described: dict[str, Any], file: Path) -> None:
    if described.get("task", "segmentation") != "segmentation":
        raise ValueError(
            f"{file} is of a classifier, and import takes segmentation networks; train "
            f"one that starts from it: --config.model.pretrained={file}"
        )


def _config(wanted: Wanted, described: dict[str, Any]) -> tuple[Config, int | None]:
    """The config of the workdir, and the channels of its images, if anyone says.

    ``described`` is what ``segjax export`` wrote beside the tensors.
    """
    config = configs.default()
    config.steps = 1  # a config has a length; nothing was trained here
    config.model.encoder = wanted.encoder
    config.model.decoder = wanted.decoder or described.get("decoder", "unet")
    config.model.update(described.get("model", {}))
    if wanted.like is not None:
        config.model.like = wanted.like
    before = described.get("preprocessing", {})
    channels = wanted.channels or before.get("channels")
    size = wanted.image_size or before.get("image_size", (SIZE, SIZE))
    config.data.image_size = (size[0], size[-1])
    config.data.fit = before.get("fit", "pad") if not wanted.image_size else "resize"
    for key in ("mean", "std"):
        value = getattr(wanted, key) or before.get(key)
        config.data[key] = tuple(value) if value else None
    return config, channels


def _model(config: Config, num_classes: int, channels: int) -> models.Segmenter:
    return setup.make_model(config, num_classes, channels, platform="cpu")


def _labels(
    wanted: Wanted, own: LabelSpec | None, number: int, file: Path, background: bool
) -> LabelSpec:
    """The classes: of --labels, of the file, or numbered; ``number`` of them.

    ``background``: the first of them is what the one class of the file is not.
    """
    names = tuple(f"class{i}" for i in range(number))
    names = ("background", *names[1:]) if background else names
    spec = own or LabelSpec(names, default_palette(number))
    if wanted.labels is not None:
        spec = _read_labels(wanted.labels)
    told = wanted.classes or spec.num_classes
    told = 2 if background and wanted.classes == 1 else told
    if told != number:
        raise ValueError(f"{file} is for {number} classes, but {told} are asked for")
    return spec


def _read_labels(path: Path) -> LabelSpec:
    """The classes of a classes.json, or of a run's labels.json."""
    try:
        value = json.loads(path.read_text())
        if "preprocessing" in value:
            return LabelSpec.from_dict(value)
    except (OSError, ValueError, KeyError, TypeError):
        pass  # read_classes says what is wrong
    return read_classes(path)[0]

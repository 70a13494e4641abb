"""Every knob once: default(), how a config file is loaded, and what is refused.

A config file is Python with ``get_config()``, which returns :func:`default` plus only
what differs. A duration is given in ``steps`` or in ``epochs``, exactly one of them;
``eval.every`` and ``checkpoint.every`` count in the same unit.
"""

import ast
import difflib
import itertools
import json
import math
import re
import runpy
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict, config_dict

# A ConfigDict; what its attributes hold no type checker can know.
Config = Any


# Open for keys that are not in default(): patterns of parameter paths, and what the
# decoder knows.
OPEN = ("optim.lr_multipliers", "model.decoder_options")


def _options(**values: Any) -> Config:
    return ConfigDict(values)


def _any(value: Any = None) -> config_dict.FieldReference:
    """A knob that takes values of several types (an int or a pair; None for 'auto')."""
    return config_dict.FieldReference(value, field_type=object)


def default() -> Config:
    """Every knob with its default; the comment gives unit and meaning."""
    config: Config = ConfigDict()
    config.task = "segmentation"  # segmentation | classification
    config.seed = 0  # of initialisation, example order and augmentation
    config.steps = config_dict.placeholder(int)  # length of training: steps,
    config.epochs = config_dict.placeholder(float)  # or passes over the train split

    config.data = _options(
        # Of segmentation: shapes | folder | camvid | tfds; of classification: shapes |
        # class_folder | digits | tfds.
        name="shapes",
        root=config_dict.placeholder(str),  # folder of the data; None: the source's own
        train_split="train",
        subset=config_dict.placeholder(int),  # so many of it, evenly spaced; None: all
        eval_split="val",
        image_size=_any((64, 64)),  # px, what the network trains on: int or (H, W)
        fit="resize",  # to the buffer: resize (stretch) | pad (original pixels)
        buffer_size=_any(),  # px, training shrinks what is larger; None: the largest
        batch_size=16,  # examples of the global batch
        mean=_any(),  # per channel, of values in [0, 1]; None: ImageNet's / 0.5
        std=_any(),
        threads=2,  # that decode, per process
        workers=0,  # processes that decode instead, per process; 0: threads only
        cache_gb=2.0,  # decoded examples are kept in memory if the split fits
        shapes=_options(
            seed=0,  # of the scenes, apart from the run's seed
            train_examples=3000,
            val_examples=200,
        ),
        channels=config_dict.placeholder(int),  # of every image; None: the first's
        mask_values="auto",  # of palettes and grey: auto | ids | colors
        check="fast",  # of some examples before the first step: fast | off
        folder=_options(
            classes_file="classes.json",  # or known:cityscapes | ade20k | voc
            image_dir="images",
            mask_dir="masks",
            image_suffix="",  # what file names end in before the ending
            mask_suffix="",
            val_fraction=0.2,  # where neither sub-folders nor list files give splits
            test_fraction=0.0,
            seed=0,  # of that split
            list_dir="",  # folder of the list files, below root
        ),
        class_folder=_options(
            val_fraction=0.2,  # where there are no folders of splits
            seed=0,  # of that split
        ),
        tfds=_options(
            builder=config_dict.placeholder(str),  # name[/config][:version]
            image_key=config_dict.placeholder(str),  # None: the dataset's known map
            label_key=config_dict.placeholder(str),
            classes=_any(),  # a classes.json, where the dataset is not a known one
        ),
    )

    config.augment = _options(
        scale=(1.0, 1.0),  # factor on the image, uniform in this range
        flip=0.5,  # probability, left-right
        vertical_flip=0.0,  # probability
        rotation=0.0,  # degrees, uniform in +-
        brightness=0.0,  # factor uniform in 1 +-
        contrast=0.0,  # factor uniform in 1 +-
        saturation=0.0,  # factor uniform in 1 +-, RGB only
        hue=0.0,  # turns of the colour circle, uniform in +-, RGB only
        blur=0.0,  # probability of a Gaussian blur
        blur_sigma=(0.1, 2.0),  # px
        cutmix=0.0,  # probability that a box of another example is pasted in
        # Classification: a crop by its share of the image's area, uniform in this
        # range (None: image_size px of it), with width / height log-uniform in this,
        crop_area=_any((0.25, 1.0)),
        crop_aspect=(0.75, 1.3333),
        # or of an image whose shorter side becomes uniform in (low, high), px.
        shorter_side=_any(),
    )

    config.model = _options(
        encoder="resnet18",
        decoder="unet",
        like="segjax",  # whose rules: segjax | smp | torchvision | timm | transformers
        # Of segnet_basic's decoder: unpool (None) | unpool_add | deconvolution.
        upsampling=config_dict.placeholder(str),
        decoder_options=_options(),  # decoder_options.NAME=VALUE; `segjax models`
        output_stride=config_dict.placeholder(int),  # 8 | 16 | 32; None: published
        # Largest rate of stochastic depth; None: the published one for ImageNet.
        drop_path=config_dict.placeholder(float),
        norm="batch",  # batch | group | layer | none
        norm_group=_any("all"),  # devices that share batch statistics: all | device | k
        dtype="float32",  # of the computation: float32 | bfloat16 | float64
        remat=False,  # recompute blocks in the backward pass: less memory, more time
        auxiliary=False,  # an FCN head on the second deepest map, for training alone
        # A file of weights, another run's workdir, or package:NAME.
        pretrained=config_dict.placeholder(str),
        inflate=config_dict.placeholder(str),  # its stem to channels: repeat|mean|zero
    )

    config.loss = _options(
        name="cross_entropy",  # joined by '+': cross_entropy+dice
        weights=(),  # one per name; (): 1 each
        class_weights=(),  # one per class; (): 1 each
        label_smoothing=0.0,
        auxiliary=0.4,  # weight of the auxiliary heads' losses
        classifier_auxiliary=0.3,  # of those of GoogLeNet as a classifier
        ohem_threshold=0.7,  # pixels whose true class has less probability are kept
        ohem_min_kept=0.0625,  # fraction of the valid pixels kept at least
        focal_gamma=2.0,
        dice_smooth=1.0,
        tversky_alpha=0.3,  # weight of false positives
        tversky_beta=0.7,  # weight of false negatives
        tversky_smooth=1.0,
        lovasz_per_image=False,  # the mean over images instead of over the batch
        boundary_width=8,  # px, how far from a boundary distances count
    )

    config.optim = _options(
        name="adamw",  # sgd | adamw | lamb | lars
        lr=1e-3,
        schedule="poly",  # constant | poly | cosine | one_cycle | multistep
        warmup_steps=0,  # steps of linear warm-up, part of the run's steps
        power=0.9,  # of poly
        end_factor=0.0,  # last rate / lr
        # Of multistep: fractions of the run, without its warm-up, after which the rate
        milestones=(0.5, 0.75),
        gamma=0.1,  # is multiplied by this.
        weight_decay=1e-2,  # decoupled (adamw, lamb); L2 in the gradient (sgd, lars)
        decay_norm_and_bias=False,
        momentum=0.9,
        nesterov=False,
        betas=(0.9, 0.999),
        eps=1e-8,
        clip_norm=config_dict.placeholder(float),  # global gradient norm; None: off
        lr_multipliers=_options(),  # path pattern -> factor, as {"encoder/*": 0.1}
        accumulate=1,  # parts into which the global batch is cut, one after the other
        ema_decay=config_dict.placeholder(float),  # None: off
    )

    config.eval = _options(
        every=_any(),  # steps or epochs, as the run's length; None: at the end only
        batch_size=config_dict.placeholder(int),  # None: data.batch_size
        bucket=32,  # px: padded sizes are multiples of it, so few are compiled,
        programs=16,  # and the nearest of them are joined until there are so few
        # Of evaluate and predict; training scores whole images, once.
        mode="whole",  # how the network sees an image: whole | slide (by windows)
        window=_any(),  # px, int or (H, W), multiples of bucket; None: data.image_size
        overlap=0.5,  # of neighbouring windows, fraction of a window, at least
        margin=0,  # px at a window's ends that count for nothing
        scales=(1.0,),  # factors on the image; probabilities are averaged over them
        flip=False,  # and over the mirror images
        crop=0.875,  # classification: side of the central crop / the largest that fits
    )
    config.checkpoint = _options(
        every=_any(),  # steps or epochs, as the run's length; None: at the end only
        keep=2,  # newest checkpoints kept
        keep_best=1,  # and this many with the best mIoU, or top-1
        directory=_any(),  # path or gs://...; None: checkpoints/ in the workdir
    )
    config.logs = _options(
        every=10,  # steps between lines of metrics.jsonl
        tensorboard=True,
        pictures=4,  # evaluation examples drawn into predictions/
    )
    config.guard = _options(
        max_skipped=10,  # updates skipped in a row (not finite) that stop the run
    )
    config.mesh = _options(
        data=-1,  # devices over which the batch is split; -1: all that are left
        fsdp=1,  # devices over which batch, parameters and optimizer are split
        spatial=1,  # devices over which image rows are split
    )
    config.lock()
    for key in OPEN:
        get(config, key).unlock()
    return config


def is_open(key: str) -> bool:
    """Whether a key that default() lacks may be one of an open dictionary."""
    return key.startswith(tuple(f"{place}." for place in OPEN))


CHOICES: dict[str, tuple[str, ...]] = {
    "task": ("segmentation", "classification"),
    "data.name": ("shapes", "folder", "camvid", "class_folder", "digits", "tfds"),
    "data.fit": ("pad", "resize"),
    "data.mask_values": ("auto", "ids", "colors"),
    "data.check": ("fast", "off"),
    "model.like": ("segjax", "smp", "torchvision", "timm", "transformers"),
    "model.norm": ("batch", "group", "layer", "none"),
    "model.dtype": ("float32", "bfloat16", "float64"),
    "model.inflate": ("repeat", "mean", "zero"),
    "eval.mode": ("whole", "slide"),
    "model.upsampling": ("unpool", "unpool_add", "deconvolution"),
    "optim.name": ("sgd", "adamw", "lamb", "lars"),
    "optim.schedule": ("constant", "poly", "cosine", "one_cycle", "multistep"),
}

POSITIVE = (
    "steps epochs data.batch_size data.subset data.threads eval.every eval.batch_size "
    "eval.bucket eval.programs checkpoint.every checkpoint.keep logs.every "
    "optim.accumulate guard.max_skipped"
).split()

# Key -> (least, most) of its number, or of each of its numbers.
RANGES: dict[str, tuple[float, float]] = {
    "optim.lr": (0, math.inf),
    "optim.weight_decay": (0, math.inf),
    "optim.power": (0, math.inf),
    "optim.end_factor": (0, math.inf),
    "optim.momentum": (0, 1),
    "optim.betas": (0, 1),
    "optim.eps": (0, math.inf),
    "optim.clip_norm": (0, math.inf),
    "optim.ema_decay": (0, 1),
    "optim.milestones": (0, 1),
    "loss.weights": (0, math.inf),
    "loss.class_weights": (0, math.inf),
    "loss.auxiliary": (0, math.inf),
    "loss.classifier_auxiliary": (0, math.inf),
    "data.mean": (-math.inf, math.inf),
    "data.std": (0, math.inf),
    "checkpoint.keep_best": (0, math.inf),
    "eval.crop": (0, 1),
}
SIZES = ("data.image_size", "data.buffer_size", "eval.window")
LOW_HIGH = tuple(
    f"augment.{name}"
    for name in ("scale", "blur_sigma", "crop_area", "crop_aspect", "shorter_side")
)

Chosen = Callable[[Config], bool]


def _chosen(key: str, *values: str) -> tuple[Chosen, str]:
    def chosen(config: Config) -> bool:
        return any(part.strip() in values for part in str(get(config, key)).split("+"))

    return chosen, f"{key} = {' or '.join(values)}"


# Keys that only some choices use: key (or prefix) -> when it is used, in words. A key
# changed from its default that the chosen parts do not use is an error.
USED_WHEN: dict[str, tuple[Chosen, str]] = {
    "data.shapes": _chosen("data.name", "shapes"),
    "data.folder": _chosen("data.name", "folder"),
    "data.class_folder": _chosen("data.name", "class_folder"),
    "data.tfds": _chosen("data.name", "tfds"),
    "data.root": _chosen("data.name", "folder", "camvid", "class_folder", "tfds"),
    "data.channels": _chosen("data.name", "folder", "class_folder", "digits", "tfds"),
    "data.mask_values": _chosen("data.name", "folder", "tfds"),
    "data.check": _chosen("data.name", "folder", "camvid", "class_folder", "tfds"),
    "data.buffer_size": _chosen("data.fit", "pad"),
    "model.upsampling": _chosen("model.decoder", "segnet_basic"),
    "model.norm_group": _chosen("model.norm", "batch"),
    "model.inflate": (lambda c: c.model.pretrained is not None, "model.pretrained"),
    "loss.auxiliary": (lambda c: c.model.auxiliary, "model.auxiliary = True"),
    "loss.classifier_auxiliary": (
        lambda c: c.task == "classification" and c.model.encoder == "googlenet",
        "task = classification and model.encoder = googlenet",
    ),
    "augment.crop_aspect": (
        lambda c: c.augment.shorter_side is None,
        "augment.crop_area",
    ),
    "eval.crop": _chosen("data.fit", "pad"),
    "augment.blur_sigma": (lambda c: c.augment.blur > 0, "augment.blur > 0"),
    "loss.class_weights": _chosen(
        "loss.name", "cross_entropy", "ohem_cross_entropy", "focal"
    ),
    "loss.label_smoothing": _chosen("loss.name", "cross_entropy", "ohem_cross_entropy"),
    "loss.ohem_threshold": _chosen("loss.name", "ohem_cross_entropy"),
    "loss.ohem_min_kept": _chosen("loss.name", "ohem_cross_entropy"),
    "loss.focal_gamma": _chosen("loss.name", "focal"),
    "loss.dice_smooth": _chosen("loss.name", "dice"),
    "loss.tversky_alpha": _chosen("loss.name", "tversky"),
    "loss.tversky_beta": _chosen("loss.name", "tversky"),
    "loss.tversky_smooth": _chosen("loss.name", "tversky"),
    "loss.lovasz_per_image": _chosen("loss.name", "lovasz_softmax"),
    "loss.boundary_width": _chosen("loss.name", "boundary"),
    "eval.window": _chosen("eval.mode", "slide"),
    "eval.overlap": _chosen("eval.mode", "slide"),
    "eval.margin": _chosen("eval.mode", "slide"),
    "optim.power": _chosen("optim.schedule", "poly"),
    "optim.end_factor": _chosen("optim.schedule", "poly", "cosine"),
    "optim.milestones": _chosen("optim.schedule", "multistep"),
    "optim.gamma": _chosen("optim.schedule", "multistep"),
    "optim.momentum": _chosen("optim.name", "sgd", "lars"),
    "optim.nesterov": _chosen("optim.name", "sgd", "lars"),
    "optim.betas": _chosen("optim.name", "adamw", "lamb"),
    "optim.eps": _chosen("optim.name", "adamw", "lamb"),
}

# Keys that only one task uses, whatever else is chosen.
OF_TASK: dict[str, tuple[str, ...]] = {
    "segmentation": (
        *("data.mask_values", "data.tfds.classes", "mesh.spatial"),
        *(
            "eval.bucket",
            "eval.programs",
            "eval.mode",
            "eval.window",
            "eval.overlap",
            "eval.margin",
        ),
        *("eval.scales", "eval.flip"),
        *(
            "model.decoder",
            "model.decoder_options",
            "model.auxiliary",
            "augment.scale",
            "augment.cutmix",
        ),
    ),
    "classification": (
        *("augment.crop_area", "augment.crop_aspect", "augment.shorter_side"),
        "eval.crop",
    ),
}
# Which datasets have labels for it, and which losses it has; others are refused.
DATA_OF_TASK: dict[str, tuple[str, ...]] = {
    "segmentation": ("shapes", "folder", "camvid", "tfds"),
    "classification": ("shapes", "class_folder", "digits", "tfds"),
}
IMAGE_LOSSES = ("cross_entropy",)


def is_used(config: Config, key: str) -> bool:
    """Whether the chosen parts use a key of :data:`USED_WHEN`."""
    return USED_WHEN[key][0](config)


def nearest(word: str, known: Iterable[str]) -> str:
    """' (did you mean X?)' or nothing, for the end of an error's first half."""
    found = difflib.get_close_matches(word, list(known), n=1, cutoff=0.5)
    return f"; did you mean {found[0]}?" if found else ""


def get(config: Config, key: str) -> Any:
    """The value at a dotted key."""
    for part in key.split("."):
        config = config[part]
    return config


def flatten(config: Config, prefix: str = "") -> dict[str, Any]:
    """Dotted key -> value; tuples as lists, so that it compares equal after JSON."""
    flat: dict[str, Any] = {}
    for key in config:
        value = config[key]
        if isinstance(value, (ConfigDict, dict)):
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = list(value) if isinstance(value, tuple) else value
    return flat


def _unused(config: Config) -> Iterable[str]:
    known = flatten(default())
    for key, value in flatten(config).items():
        if key in known and value == known[key]:
            continue
        for task, keys in OF_TASK.items():
            of_task = any(key == k or key.startswith(f"{k}.") for k in keys)
            if of_task and task != config.task:
                yield (
                    f"config.{key}={value!r} is not used here: it needs task = {task}; "
                    "leave it out or change that"
                )
        for prefix, (used, words) in USED_WHEN.items():
            if (key == prefix or key.startswith(prefix + ".")) and not used(config):
                yield (
                    f"config.{key}={value!r} is not used here: it needs {words}; "
                    "leave it out or change that"
                )


def _contradicts_task(config: Config) -> Iterable[str]:
    known = DATA_OF_TASK.get(config.task, ())
    if config.data.name not in known:
        yield (
            f"config.data.name={config.data.name!r} has no labels for config.task="
            f"{config.task!r}; those that have: {', '.join(known)}"
        )
    if config.task != "classification":
        return
    if config.loss.name not in IMAGE_LOSSES:
        yield (
            f"config.loss.name={config.loss.name!r} is a loss of label maps; with "
            f"config.task='classification' write {' or '.join(IMAGE_LOSSES)}"
        )
    area, side = config.augment.crop_area, config.augment.shorter_side
    if area is not None and side is not None:
        if tuple(area) != tuple(default().augment.crop_area):
            yield (
                f"config.augment.crop_area={area!r} and config.augment.shorter_side="
                f"{side!r} both say how to crop; keep one"
            )


def _contradictions(config: Config) -> Iterable[str]:
    given = [key for key in ("steps", "epochs") if config[key] is not None]
    if len(given) != 1:
        yield (
            "config.steps and config.epochs are both set; keep one"
            if given
            else "neither config.steps nor config.epochs is set; set exactly one"
        )
    known = default()
    for key, choices in CHOICES.items():
        value = get(config, key)
        empty = value is None and get(known, key) is None
        if value not in choices and not empty:
            yield (
                f"config.{key}={value!r} is not one of {', '.join(choices)}"
                f"{nearest(str(value), choices)}"
            )
    for key in POSITIVE:
        value = get(config, key)
        if value is not None and not (_is_number(value) and value > 0):
            yield f"config.{key}={value!r} must be positive"
    accumulate, batch = config.optim.accumulate, config.data.batch_size
    if accumulate > 0 and batch % accumulate:
        yield (
            f"config.optim.accumulate={accumulate} does not divide "
            f"config.data.batch_size={batch}; use a divisor of {batch}"
        )
    if config.steps is not None and config.optim.warmup_steps >= config.steps:
        yield (
            f"config.optim.warmup_steps={config.optim.warmup_steps} leaves nothing of "
            f"config.steps={config.steps}; make it smaller"
        )
    options = config.eval
    if not 0 <= options.overlap < 1:
        yield f"config.eval.overlap={options.overlap!r} must be 0 or more, below 1"
    for key in ("eval.margin", "logs.pictures", "data.workers", "data.cache_gb"):
        if not get(config, key) >= 0:
            yield f"config.{key}={get(config, key)!r} must be 0 or more"
    scales = options.scales
    if not scales or not all(_is_number(scale) and scale > 0 for scale in scales):
        yield f"config.eval.scales={scales!r} must be positive factors"


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _out_of_range(config: Config) -> Iterable[str]:
    """Numbers that are none, or mean nothing; before anything computes with them."""
    for key in SIZES:
        size = get(config, key)
        numbers = [size] if isinstance(size, int) else size
        if size is None and key != "data.image_size":
            continue
        if not (
            isinstance(numbers, tuple | list)
            and len(numbers) == (1 if isinstance(size, int) else 2)
            and all(isinstance(n, int) and n > 0 for n in numbers)
        ):
            yield f"config.{key}={size!r} must be an int or (height, width) above 0"
    for key in LOW_HIGH:
        pair = get(config, key)
        if pair is None and key in ("augment.crop_area", "augment.shorter_side"):
            continue
        if not (
            isinstance(pair, tuple | list)
            and len(pair) == 2
            and all(map(_is_number, pair))
            and 0 < pair[0] <= pair[1]
        ):
            yield f"config.{key}={pair!r} must be (low, high), 0 < low <= high"
    if len(config.optim.betas) != 2:
        yield f"config.optim.betas={config.optim.betas!r} must be two numbers"
    for key, (least, most) in RANGES.items():
        value = get(config, key)
        numbers = value if isinstance(value, tuple | list) else (value,)
        if value is not None and not all(
            _is_number(n) and least <= n <= most for n in numbers
        ):
            yield f"config.{key}={value!r} must lie between {least} and {most}"


def validate(config: Config) -> None:
    """Refuse what is unknown, unused or contradictory.

    Raises:
      ValueError: one line that says what is wrong and what to write instead.
    """
    known = flatten(default())
    for key in flatten(config):
        if key not in known and not is_open(key):
            raise ValueError(
                f"config.{key} is not a key of segjax.config.default()"
                f"{nearest(key, known)}"
            )
    checks = (_out_of_range, _contradictions, _contradicts_task, _unused)
    for problem in itertools.chain.from_iterable(check(config) for check in checks):
        raise ValueError(problem)


def _parse(key: str, text: str, kind: type) -> Any:
    """The value that ``--config.key=text`` means, of the key's own type."""
    if text == "None":
        return None
    if kind is str:
        return text
    if kind is bool and text.lower() in ("true", "false"):
        return text.lower() == "true"
    try:
        value = ast.literal_eval(text)
    except (ValueError, SyntaxError):
        # A knob of several types may be text; any other may not.
        value = text
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        value = float(value)
    if kind is tuple and isinstance(value, list):
        value = tuple(value)
    if kind is not object and type(value) is not kind:
        raise ValueError(f"--config.{key}={text} must be of type {kind.__name__}")
    return value


def override(config: Config, overrides: Iterable[str]) -> None:
    """Apply ``--config.a.b=value`` to a config, in place.

    ``None`` empties a knob; tuples are written ``(1, 2)``. (ml_collections' own
    config_flags can neither empty a knob nor take a path pattern as a key.)

    Raises:
      ValueError: an unknown key (with the nearest one), no value, a wrong type.
    """
    known = flatten(config)
    for text in overrides:
        key, equals, value = text.removeprefix("--config.").partition("=")
        if not equals:
            raise ValueError(f"{text} has no value; write {text}=VALUE")
        if is_open(key):
            place = next(known for known in OPEN if key.startswith(f"{known}."))
            kind = float if place == "optim.lr_multipliers" else object
            target = get(config, place)
            with target.ignore_type():
                target[key.removeprefix(f"{place}.")] = _parse(key, value, kind)
            continue
        if key in OPEN:
            raise ValueError(f"{text}: write --config.{key}.NAME=VALUE")
        if key not in known:
            raise ValueError(
                f"--config.{key} is not a key of segjax.config.default()"
                f"{nearest(key, known)}"
            )
        *path, last = key.split(".")
        parent = get(config, ".".join(path)) if path else config
        kind = parent.get_type(last)
        parsed = _parse(key, value, kind)
        # A knob of several types may know None beside its default (crop_area).
        if parsed is None and kind is not object and get(default(), key) is not None:
            raise ValueError(f"--config.{key}={value}: it cannot be None")
        parent[last] = parsed


def load(path: str, overrides: Iterable[str] = ()) -> Config:
    """Run a config file's get_config(), apply ``--config.a.b=value`` overrides, check.

    Raises:
      ValueError: no such file, an error in it, an unknown, unused or contradictory key.
    """
    if not Path(path).is_file():
        raise ValueError(f"--config {path}: there is no such file")
    try:
        config = runpy.run_path(path)["get_config"]()
    except Exception as error:
        text = " ".join(str(error).strip("'\"").split())
        locked = re.match(r'Key "(\w+)" does not exist', text)
        if locked:
            word, known = locked[1], re.findall(r"'(\w+)\\?':", text)
            raise ValueError(
                f"--config {path}: {word} is not a key of segjax.config.default()"
                f"{nearest(word, known)}"
            ) from error
        raise ValueError(f"--config {path}: {type(error).__name__}: {text}") from error
    if not isinstance(config, ConfigDict):
        raise ValueError(f"--config {path}: get_config() must return a ConfigDict")
    override(config, overrides)
    validate(config)
    return config


def to_json(config: Config) -> str:
    """The config as stored in a workdir."""
    return json.dumps(config.to_dict(), indent=2, sort_keys=True)


def from_json(text: str) -> Config:
    """The config of a workdir. Plain data: nothing in it is run.

    Raises:
      ValueError: it is not JSON, has keys that this version does not know, or values
        of a wrong type.
    """
    config = default()

    def fill(target: Config, values: Mapping[str, Any], prefix: str) -> None:
        for key, value in values.items():
            if key not in target and prefix.removesuffix(".") not in OPEN:
                raise ValueError(f"config.json: {prefix}{key} is unknown here")
            if isinstance(value, dict):
                if key not in target or not isinstance(target[key], ConfigDict):
                    raise ValueError(f"config.json: {prefix}{key} holds no keys")
                fill(target[key], value, f"{prefix}{key}.")
                continue
            try:
                target[key] = tuple(value) if isinstance(value, list) else value
            except TypeError as error:
                text = f"config.json: {prefix}{key}={value!r} is of a wrong type"
                raise ValueError(text) from error

    try:
        values = json.loads(text)
    except ValueError as error:
        raise ValueError(
            f"config.json: it is damaged ({error}); bring it back from a copy, or "
            "begin again in another --workdir"
        ) from error
    if not isinstance(values, dict):
        raise ValueError("config.json: it holds no keys")
    fill(config, values, "")
    return config


def differences(ours: Config, theirs: Config) -> dict[str, tuple[Any, Any]]:
    """Dotted key -> (our value, their value) where the two configs differ."""
    a, b = flatten(ours), flatten(theirs)
    return {
        key: (a.get(key), b.get(key))
        for key in sorted({*a, *b})
        if a.get(key) != b.get(key)
    }


# What a resumed run may change: nothing here touches the steps already made.
RESUMABLE = (
    *("data.root", "data.check", "steps", "epochs"),
    *("data.threads", "data.workers", "data.cache_gb"),
    *("eval.", "checkpoint.", "logs.", "guard.", "mesh."),
)


def check_resumable(config: Config, text: str, place: str) -> None:
    """Refuse to go on with another experiment's run, which ``place`` holds.

    ``text`` is that run's config, as :func:`to_json` writes it.

    Raises:
      ValueError: with the difference, one key = ours (theirs) each.
    """
    changed = {
        key: values
        for key, values in differences(config, from_json(text)).items()
        if not key.startswith(RESUMABLE)
    }
    if changed:
        text = "; ".join(
            f"{key} is {ours!r} now and {theirs!r} there"
            for key, (ours, theirs) in changed.items()
        )
        raise ValueError(
            f"{place} holds a run with another config: {text}; name another one "
            "or restore the config"
        )

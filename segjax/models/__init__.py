"""Networks: ``build("resnet18", "unet", num_classes=11)``, ``build_classifier``."""

import dataclasses
import difflib
from functools import partial
from types import ModuleType
from typing import Any

import jax.numpy as jnp

from segjax.models import decoders, encoders
from segjax.models.ahead import compute_ahead
from segjax.models.classifier import Classifier
from segjax.models.fold import fold_batch_norm
from segjax.models.heads import FCNHead
from segjax.models.layers import Layers
from segjax.models.segmenter import Segmenter
from segjax.ops import table

__all__ = [
    "build",
    "build_classifier",
    "compute_ahead",
    "defaults_of",
    "fold_batch_norm",
    "lookup",
    "names",
]

LIKE = ("segjax", "smp", "torchvision", "timm", "transformers")
NORMS = ("batch", "group", "layer", "none")
PLATFORMS = ("cpu", "tpu", "gpu")
OUTPUT_STRIDES = (8, 16, 32)
SHARED_OPTIONS = ("output_stride", "norm", "norm_groups", "remat", "drop_path")
SEGMENTER_OPTIONS = (*SHARED_OPTIONS, "auxiliary", "spatial")


def names() -> dict[str, list[str]]:
    """The names :func:`build` knows: {"encoders": [...], "decoders": [...]}."""
    return {"encoders": sorted(encoders.__all__), "decoders": sorted(decoders.__all__)}


def _unknown(kind: str, name: Any, known) -> ValueError:
    close = difflib.get_close_matches(str(name), [str(k) for k in known], 1, 0.4)
    hint = f" Did you mean {close[0]!r}?" if close else ""
    listed = ", ".join(str(k) for k in known)
    return ValueError(f"unknown {kind} {name!r}.{hint} Known: {listed}")


def defaults_of(decoder: str) -> dict[str, Any]:
    """What :func:`build` takes for this decoder alone, with the default of each.

    None stands for a default that depends on the encoder or on ``like``.

    Raises:
      ValueError: there is no such decoder.
    """
    module: Any = lookup(decoders, decoder).func
    default = {field.name: field.default for field in dataclasses.fields(module)}
    return {name: default[name] for name in module.options}


def _check_own(decoder: str, module: Any, options) -> None:
    """Values of the decoder's own options, by the types of its fields."""
    types = {field.name: str(field.type) for field in dataclasses.fields(module)}
    for name, value in options.items():
        kind = types[name]
        if value is None and "None" in kind:
            continue
        if "tuple" in kind:
            several = value if isinstance(value, tuple) else ()
            good = several and all(_counts(number, least=1) for number in several)
            words = "whole numbers above 0"
        elif "int" in kind:
            least = 0 if name == "fc_channels" else 1
            good = _counts(value, least)
            words = "a whole number above 0" if least else "0 (none) or more"
        elif "float" in kind:
            good = isinstance(value, (int, float)) and 0 <= value < 1
            words = "a rate from 0 to below 1"
        else:  # texts are the decoder's to judge
            good, words = isinstance(value, str), "a text"
        if not good:
            raise ValueError(f"{name} is {value!r}; {decoder} takes {words}")


def _counts(value: Any, least: int) -> bool:
    whole = isinstance(value, int) and not isinstance(value, bool)
    return whole and value >= least


def lookup(package: ModuleType, name: str) -> partial:
    """The encoder or decoder called ``name`` (a hyphen reads as an underscore).

    Raises:
      ValueError: there is none; lists the known names and the nearest.
    """
    wanted = str(name).replace("-", "_").lower()
    if wanted not in package.__all__:
        kind = package.__name__.rsplit(".", 1)[1].removesuffix("s")
        raise _unknown(kind, name, sorted(package.__all__))
    return getattr(package, wanted)


def _check(like, platform, options, **counts) -> None:
    """Values that are wrong whatever the network."""
    for kind, value, known in (
        ("like", like, LIKE),
        ("platform", platform, (None, *PLATFORMS)),
        ("norm", options.get("norm", "batch"), NORMS),
        ("output_stride", options.get("output_stride"), (None, *OUTPUT_STRIDES)),
    ):
        if value not in known:
            raise _unknown(kind, value, known)
    counts |= {name: options.get(name, 1) for name in ("norm_groups", "spatial")}
    for name, value in counts.items():
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise ValueError(f"{name} is {value!r}; it must be a whole number above 0")
    for name in ("remat", "auxiliary"):
        if not isinstance(options.get(name, False), bool):
            raise ValueError(f"{name} is {options[name]!r}; it must be True or False")


def _make_layers(platform, dtype, param_dtype, options) -> Layers:
    double = jnp.dtype(param_dtype) == jnp.float64
    spatial = options.pop("spatial", 1)
    return Layers(
        norm_kind=options.pop("norm", "batch"),
        norm_groups=options.pop("norm_groups", 1),
        remat=options.pop("remat", False),
        dtype=jnp.dtype(param_dtype if double else dtype),
        param_dtype=jnp.dtype(param_dtype),
        platform=table.suited(platform, spatial),
        spatial=spatial,
    )


def _make_encoder(name: str, make: partial, layers, like, options, **fields):
    """The encoder; ``output_stride`` only where its family can trade strides."""
    stride = options.pop("output_stride", None)
    dilates = "output_stride" in _fields(make.func)
    if dilates:
        fields["output_stride"] = stride or 32
    elif stride not in (None, max(make.func.strides)):
        raise ValueError(
            f"{name} has output_stride {max(make.func.strides)} only: its family has "
            f"no dilated form, so {stride} is not possible; leave it out, or take a "
            "resnet, for instance"
        )
    rate = options.pop("drop_path", None)
    if rate is not None:
        if "drop_path" not in _fields(make.func) or not 0 <= rate < 1:
            able = "convnext_*, efficientnet_*, mit_* and swin_*"
            raise ValueError(
                f"drop_path is {rate!r} for {name}: a rate from 0 to below 1, and of "
                f"{able} alone, which have stochastic depth; leave it out"
            )
        fields["drop_path"] = rate
    return make(layers=layers, like=like, **fields)


def _fields(module) -> set[str]:
    return {field.name for field in dataclasses.fields(module)}


def _check_pair(encoder: str, decoder: str, make_encoder, make_decoder) -> None:
    """A decoder that ``needs`` what the encoder does not provide."""
    needs = getattr(make_decoder.func, "needs", None)
    if needs is None or needs in getattr(make_encoder.func, "provides", ()):
        return
    able = [
        name
        for name in sorted(encoders.__all__)
        if needs in getattr(getattr(encoders, name).func, "provides", ())
    ]
    raise ValueError(
        f"{decoder} needs {needs}, which {encoder} does not have; encoders that do: "
        + ", ".join(able)
    )


def build(
    encoder: str,
    decoder: str,
    num_classes: int,
    *,
    in_channels: int = 3,
    like: str = "segjax",
    platform: str | None = None,
    dtype: Any = jnp.float32,
    param_dtype: Any = jnp.float32,
    **options: Any,
) -> Segmenter:
    """A model whose ``apply(variables, image f[B, H, W, C])`` gives f32[B, H, W, K].

    Args:
      encoder: name, see :func:`names`.
      decoder: name, see :func:`names`.
      num_classes: K, the number of logits per pixel.
      in_channels: C, the number of channels of an image.
      like: whose rules hold where publishers differ without it showing in the weights.
      platform: "cpu", "tpu", "gpu": which formulations run; None: the plain ones.
      dtype: of the computation. Logits, statistics and parameters keep their own.
      param_dtype: of the parameters. float64 makes computation and logits float64.
      **options: ``output_stride`` (8, 16, 32; None: the network's own), ``norm``
        ("batch", "group", "layer", "none"), ``norm_groups`` (parts of the batch over
        which batch norm takes its statistics), ``remat`` (recompute the blocks in the
        backward pass to save memory), ``drop_path`` (the deepest block's rate of
        stochastic depth, where the encoder has it), ``auxiliary`` (an FCN head on the
        second deepest map, trained beside the decoder), ``spatial`` (over how many
        devices the rows of an image are split: convolutional networks then exchange
        neighbouring rows and pooled vectors only), and the decoder's own options.

    Raises:
      ValueError: an unknown name or option, a value or a pair that is not possible.
    """
    make_encoder, make_decoder = lookup(encoders, encoder), lookup(decoders, decoder)
    options = {k: tuple(v) if isinstance(v, list) else v for k, v in options.items()}
    _check(like, platform, options, num_classes=num_classes, in_channels=in_channels)
    known_options = (*SEGMENTER_OPTIONS, *make_decoder.func.options)
    for option in options:
        if option not in known_options:
            raise _unknown(f"option for {encoder} + {decoder}:", option, known_options)
    _check_pair(encoder, decoder, make_encoder, make_decoder)
    layers = _make_layers(platform, dtype, param_dtype, options)
    auxiliary = None
    if options.pop("auxiliary", False):
        channels = 256 if like == "transformers" else None
        auxiliary = FCNHead(num_classes, layers, channels)
    if options.get("output_stride") is None:
        # DeepLab and PSPNet dilate what can be dilated, except where SMP does not.
        wanted = getattr(make_decoder.func, "output_stride", lambda like: None)(like)
        if wanted is not None and "output_stride" in _fields(make_encoder.func):
            options["output_stride"] = wanted
    made = _make_encoder(encoder, make_encoder, layers, like, options)
    fields = {
        "like": like,
        "strides": tuple(made.strides),
        "num_classes": num_classes,
        # What special maps it has, and its convolutions (or blocks) per stage.
        "provides": tuple(getattr(made, "provides", ())),
        "counts": tuple(getattr(made, "counts", ())),
    }
    own = _fields(make_decoder.func)
    fields = {name: value for name, value in fields.items() if name in own}
    _check_own(decoder, make_decoder.func, options)
    return Segmenter(
        encoder=made,
        decoder=make_decoder(layers=layers, **fields, **options),
        num_classes=num_classes,
        in_channels=in_channels,
        layers=layers,
        align_corners=getattr(make_decoder.func, "align_corners", like == "smp"),
        auxiliary=auxiliary,
    )


def build_classifier(
    encoder: str,
    num_classes: int = 1000,
    *,
    in_channels: int = 3,
    like: str = "segjax",
    platform: str | None = None,
    dtype: Any = jnp.float32,
    param_dtype: Any = jnp.float32,
    **options: Any,
) -> Classifier:
    """The encoder with its published head: ``apply(variables, image)`` is f32[B, K].

    Arguments as in :func:`build`; of the options, ``output_stride``, ``norm``,
    ``norm_groups``, ``remat`` and ``drop_path``. GoogLeNet's auxiliary logits are sown
    in the collection "auxiliary".

    Raises:
      ValueError: an unknown name or option, or a value that is not possible.
    """
    make = lookup(encoders, encoder)
    _check(like, platform, options, num_classes=num_classes, in_channels=in_channels)
    for option in options:
        if option not in SHARED_OPTIONS:
            raise _unknown(f"option for {encoder}:", option, SHARED_OPTIONS)
    layers = _make_layers(platform, dtype, param_dtype, options)
    fields = {}
    if "auxiliary_classes" in _fields(make.func):
        fields["auxiliary_classes"] = num_classes
    made = _make_encoder(encoder, make, layers, like, options, **fields)
    head = made.classifier_head(num_classes=num_classes, layers=layers, like=like)
    return Classifier(
        encoder=made,
        head=head,
        num_classes=num_classes,
        in_channels=in_channels,
        layers=layers,
    )

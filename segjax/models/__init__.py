"""Segmentation models: ``build("resnet18", "unet", num_classes=11)``."""

import difflib
from functools import partial
from types import ModuleType
from typing import Any

import jax.numpy as jnp

from segjax.models import decoders, encoders
from segjax.models.layers import Layers
from segjax.models.segmenter import Segmenter

LIKE = ("segjax", "smp", "torchvision", "timm", "transformers")
NORMS = ("batch", "group", "layer", "none")
PLATFORMS = ("cpu", "tpu", "gpu")
OUTPUT_STRIDES = (8, 16, 32)
SHARED_OPTIONS = ("output_stride", "norm", "remat")


def names() -> dict[str, list[str]]:
    """The names :func:`build` knows: {"encoders": [...], "decoders": [...]}."""
    return {"encoders": sorted(encoders.__all__), "decoders": sorted(decoders.__all__)}


def _unknown(kind: str, name: Any, known) -> ValueError:
    close = difflib.get_close_matches(str(name), [str(k) for k in known], 1, 0.4)
    hint = f" Did you mean {close[0]!r}?" if close else ""
    listed = ", ".join(str(k) for k in known)
    return ValueError(f"unknown {kind} {name!r}.{hint} Known: {listed}")


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
      **options: ``output_stride`` (8, 16, 32; None: the encoder's own), ``norm``
        ("batch", "group", "layer", "none"), ``remat`` (recompute the blocks in the
        backward pass to save memory), and the decoder's own options.

    Raises:
      ValueError: an unknown name or option, or a value that is not possible.
    """
    make_encoder, make_decoder = lookup(encoders, encoder), lookup(decoders, decoder)
    for kind, value, known in (
        ("like", like, LIKE),
        ("platform", platform, (None, *PLATFORMS)),
        ("norm", options.get("norm", "batch"), NORMS),
        ("output_stride", options.get("output_stride"), (None, *OUTPUT_STRIDES)),
    ):
        if value not in known:
            raise _unknown(kind, value, known)
    known_options = (*SHARED_OPTIONS, *make_decoder.func.options)
    for option in options:
        if option not in known_options:
            raise _unknown(f"option for {encoder} + {decoder}:", option, known_options)
    for name, value in (("num_classes", num_classes), ("in_channels", in_channels)):
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise ValueError(f"{name} is {value!r}; it must be a whole number above 0")
    if not isinstance(options.get("remat", False), bool):
        raise ValueError(f"remat is {options['remat']!r}; it must be True or False")
    double = jnp.dtype(param_dtype) == jnp.float64
    layers = Layers(
        norm_kind=options.pop("norm", "batch"),
        remat=options.pop("remat", False),
        dtype=jnp.dtype(param_dtype if double else dtype),
        param_dtype=jnp.dtype(param_dtype),
        platform=platform,
    )
    stride = options.pop("output_stride", None)
    return Segmenter(
        encoder=make_encoder(layers=layers, like=like, output_stride=stride or 32),
        decoder=make_decoder(layers=layers, **options),
        num_classes=num_classes,
        in_channels=in_channels,
        layers=layers,
    )

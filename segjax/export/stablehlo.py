"""StableHLO through jax.export: one program for CPU, GPU and TPU, and its weights.

The file is a zip of ``network`` (a serialised :class:`jax.export.Exported` with its
calling convention: call(weights, image) -> logits), ``weights.safetensors`` and
``description.json``. :func:`load` needs JAX and safetensors alone.
"""

import json
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import safetensors.numpy
from flax import traverse_util

from segjax.export.network import Network

ENDING = ".stablehlo"
PLATFORMS = ("cpu", "cuda", "tpu")
MEMBERS = ("network", "weights.safetensors", "description.json")


def check() -> None:
    """Nothing besides segjax's own dependencies is needed."""


def write(network: Network, path: Path, about: Mapping[str, Any]) -> None:
    """Write program, weights and ``about``; the batch may have any size.

    With ``network.any_size`` rows and columns may be any multiples of the encoder's
    largest stride.

    Raises:
      ValueError: this network cannot be traced for any size.
    """
    weights = traverse_util.flatten_dict(dict(network.variables), sep="/")

    def call(weights: Mapping[str, Any], image: jax.Array) -> jax.Array:
        return network.apply(
            traverse_util.unflatten_dict(dict(weights), sep="/"), image
        )

    exported = _exported(call, weights, network)
    contents = (
        bytes(exported.serialize()),
        safetensors.numpy.save(
            {k: np.ascontiguousarray(v) for k, v in weights.items()}
        ),
        json.dumps(about, indent=2).encode(),
    )
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in zip(MEMBERS, contents, strict=True):
            archive.writestr(name, content)


def _exported(call: Callable[..., Any], weights: Any, network: Network) -> Any:
    height, width = map(str, network.size)
    if network.any_size:
        height, width = f"{network.stride}*rows", f"{network.stride}*columns"
    shape = jax.export.symbolic_shape(f"batch, {height}, {width}, {network.channels}")
    export = jax.export.export(jax.jit(call), platforms=PLATFORMS)
    arguments = (
        {k: jax.ShapeDtypeStruct(v.shape, v.dtype) for k, v in weights.items()},
        jax.ShapeDtypeStruct(shape, jnp.float32),
    )
    if not network.any_size:
        return export(*arguments)
    try:
        return export(*arguments)
    except Exception as error:  # JAX has no common kind for what symbols cannot do
        text = " ".join(str(error).split())[:160]
        raise ValueError(
            f"--size any: this network is built for one size only ({text}); "
            "give --size H W"
        ) from error


def load(path: str | Path) -> tuple[Callable[[Any], jax.Array], dict[str, Any]]:
    """The network of a file, image float32[B, H, W, C] -> logits, and what it says.

    The image is normalised as ``["preprocessing"]`` says. Runs on any platform that
    JAX has here, of CPU, GPU and TPU.

    Raises:
      ValueError: it is no such file.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            program, weights, about = (archive.read(name) for name in MEMBERS)
    except (OSError, KeyError, zipfile.BadZipFile) as error:
        raise ValueError(
            f"{path}: {error}; give a file of segjax export --format stablehlo"
        ) from error
    exported = jax.export.deserialize(bytearray(program))
    variables = jax.device_put(safetensors.numpy.load(weights))
    call = jax.jit(exported.call)
    return lambda image: call(variables, image), json.loads(about)


def read(path: Path) -> Callable[[np.ndarray], np.ndarray]:
    """The file's network: float32[B, H, W, C] -> logits."""
    call, _ = load(path)
    return lambda image: np.asarray(call(image))

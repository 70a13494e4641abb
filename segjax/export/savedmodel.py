"""TensorFlow's SavedModel, through jax2tf, where TensorFlow is installed."""

import importlib
import importlib.util
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from segjax.export.network import Network

ENDING = ""  # a folder
DESCRIPTION = "segjax.json"


def check() -> None:
    """Raise a ValueError where TensorFlow is missing."""
    if importlib.util.find_spec("tensorflow") is None:
        raise ValueError(
            "--format savedmodel needs TensorFlow, which is not installed: pip install "
            "tensorflow, or take --format onnx or stablehlo"
        )


def write(network: Network, path: Path, about: Mapping[str, Any]) -> None:
    """Write the folder; its signature takes ``image`` and gives ``logits``.

    The batch may have any size. ``about`` lies in assets.extra/.
    """
    from jax.experimental import jax2tf

    tf = importlib.import_module("tensorflow")
    height, width = network.size
    shapes = (None, f"(batch, {height}, {width}, {network.channels})")
    convert = jax2tf.convert(
        network.apply,
        polymorphic_shapes=list(shapes),
        native_serialization_platforms=("cpu", "cuda", "tpu"),
    )
    module = tf.Module()
    module.variables_ = tf.nest.map_structure(tf.Variable, dict(network.variables))
    given = tf.TensorSpec((None, height, width, network.channels), tf.float32, "image")

    @tf.function(input_signature=[given], autograph=False)
    def call(image: Any) -> Any:
        return {"logits": convert(module.variables_, image)}

    module.__call__ = call
    tf.saved_model.save(module, str(path), signatures={"serving_default": call})
    extra = path / "assets.extra"
    extra.mkdir(exist_ok=True)
    (extra / DESCRIPTION).write_text(json.dumps(about, indent=2) + "\n")


def read(path: Path) -> Callable[[np.ndarray], np.ndarray]:
    """The folder's network: float32[B, H, W, C] -> logits."""
    tf = importlib.import_module("tensorflow")
    loaded = tf.saved_model.load(str(path))
    call = loaded.signatures["serving_default"]
    return lambda image: call(image=tf.constant(image))["logits"].numpy()

"""PyTorch: a state dict in a package's naming (.safetensors)."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np

from segjax import weights
from segjax.export.network import Trained, for_import

ENDING = ".safetensors"


def naming_of(trained: Trained, naming: str | None) -> tuple[str, bool]:
    """The naming (default: the first that the network has); is it of the decoder, too?

    Raises:
      ValueError: the network has no such naming.
    """
    known = weights.namings(trained.parts.model)
    naming = naming or next(iter(known), None)
    if naming is None:
        raise ValueError(
            f"nobody publishes weights of {trained.parts.config.model.encoder} as a "
            "classifier, so there are no names; take --format onnx or stablehlo"
        )
    return naming, known.get(naming, True)


def write(trained: Trained, path: Path, naming: str) -> int:
    """Write the weights; returns how many tensors there are.

    The description of network, classes and preprocessing goes into the metadata, where
    ``segjax import`` reads it.
    """
    tensors = weights.to_torch(trained.parts.model, trained.variables, naming)
    described = for_import(trained.parts) | {"naming": naming, "step": trained.step}
    weights.write_file(path, tensors, {weights.KEY: json.dumps(described)})
    return len(tensors)


def read(
    trained: Trained, path: Path, naming: str
) -> Callable[[np.ndarray], np.ndarray]:
    """The run's network with the file's weights; what the file lacks stays."""
    model = trained.model()
    absent = ("decoder/*", "head/*", "auxiliary/*")
    loaded = weights.load_torch(model, path, allow_missing=absent, naming=naming)
    if not weights.namings(model)[naming]:
        for kind, tree in loaded.items():
            loaded[kind] = {**trained.variables[kind], "encoder": tree["encoder"]}
    return lambda image: np.asarray(trained.apply(loaded, image))

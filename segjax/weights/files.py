"""Weight files. Read as data: nothing in them is ever executed."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import safetensors.numpy

from segjax.weights.pickles import Tensor, arrays
from segjax.weights.torch_files import open_torch

KEY = "segjax"
"""Where a .safetensors file's metadata holds the network's description (JSON)."""

WRAPPERS = ("state_dict", "model", "model_state_dict")
"""Where training programs keep the state dict, beside what else they keep."""


def read_file(path: Path) -> dict[str, np.ndarray]:
    """The tensors of a .safetensors file or of one that torch.save wrote (.pth, .pt).

    Raises:
      ValueError: the file is missing, damaged, of another kind, or its pickle names
        anything but tensors and containers; names the file.
    """
    if not path.is_file():
        raise ValueError(f"{path}: there is no such file")
    try:
        if _is_safetensors(path):
            return safetensors.numpy.load_file(path)
        with open_torch(path) as (value, read):
            return arrays(_state_dict(value), read)
    except Exception as error:  # the libraries raise their own and built-in kinds
        text = " ".join(str(error).split()) or type(error).__name__
        raise ValueError(f"{path}: {text}") from error


def read_metadata(path: Path) -> dict[str, str]:
    """The texts that a .safetensors file holds beside its tensors; else none."""
    if not path.is_file() or not _is_safetensors(path):
        return {}
    try:
        with safetensors.safe_open(path, framework="np") as file:
            return dict(file.metadata() or {})
    except Exception as error:
        raise ValueError(f"{path}: {' '.join(str(error).split())}") from error


def write_file(
    path: Path, tensors: Mapping[str, np.ndarray], metadata: Mapping[str, str]
) -> None:
    """Write a .safetensors file, under a temporary name until it is complete.

    PyTorch reads it with ``safetensors.torch.load_file``.
    """
    if path.suffix != ".safetensors":
        raise ValueError(f"{path}: weights are written as .safetensors; name it so")
    temporary = path.with_name(f"{path.name}.tmp")
    path.parent.mkdir(parents=True, exist_ok=True)
    # Readers of transformers ask for a format; "pt" means torch's axes.
    safetensors.numpy.save_file(
        dict(tensors), temporary, metadata={"format": "pt", **metadata}
    )
    temporary.replace(path)


def _is_safetensors(path: Path) -> bool:
    """By its name or its content: eight bytes, then JSON."""
    with path.open("rb") as file:
        return path.suffix == ".safetensors" or file.read(9)[8:] == b"{"


def _state_dict(content: Any) -> dict[str, Tensor]:
    """The mapping of names to tensors in what a pickle held."""
    if _is_state(content):
        return content
    if not isinstance(content, dict):
        kind = type(content).__name__
        raise ValueError(f"holds no state dict (names -> tensors) but a {kind}")
    wrapped = [content[key] for key in WRAPPERS if _is_state(content.get(key))]
    if len(wrapped) == 1:
        return wrapped[0]
    keys = ", ".join(
        f"{key!r} ({type(value).__name__})" for key, value in list(content.items())[:20]
    )
    more = f" and {len(content) - 20} more" if len(content) > 20 else ""
    wanted = " or ".join(map(repr, WRAPPERS))
    raise ValueError(
        f"holds no state dict (names -> tensors), neither itself nor under {wanted}"
        f"{' alone' if wrapped else ''}; its keys: {keys or 'none'}{more}"
    )


def _is_state(value: Any) -> bool:
    return (
        isinstance(value, dict)
        and len(value) > 0
        and all(
            isinstance(name, str) and isinstance(tensor, Tensor)
            for name, tensor in value.items()
        )
    )

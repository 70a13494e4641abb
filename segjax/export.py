"""``segjax export``: a run's weights for other programs."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax

from segjax import __version__, setup, weights

# Of config.model, what tells (with encoder and decoder) which weights fit it and how
# they are run.
IN_WEIGHTS = ("like", "output_stride", "norm", "auxiliary")


def describe(parts: setup.Parts) -> dict[str, Any]:
    """What ``segjax import`` needs besides the tensors, as plain JSON values."""
    model = parts.config.model
    return {
        "version": __version__,
        "encoder": model.encoder,
        "decoder": model.decoder,
        "model": {key: model[key] for key in IN_WEIGHTS},
        "labels": parts.spec.to_dict(),
        "preprocessing": parts.pre.to_dict(),
    }


def export(
    workdir: Path,
    output: Path,
    overrides: Sequence[str] = (),
    *,
    naming: str | None = None,
    checkpoint: str = "best",
) -> None:
    """Write a run's weights as a PyTorch state dict (.safetensors).

    Averaged parameters are taken where the run kept any. The description of network,
    classes and preprocessing goes into the file's metadata.

    Args:
      naming: whose names: "smp", "torchvision", "timm" or "transformers"; None: the
        first that the network has.
      checkpoint: "best", "latest" or a step.

    Raises:
      ValueError: no such run, checkpoint or naming; the file's ending is another one.
    """
    parts = setup.load_parts(workdir, list(overrides), devices=jax.local_devices()[:1])
    known = weights.namings(parts.model)
    naming = naming or next(iter(known))
    variables, step = setup.restore_variables(parts, workdir, checkpoint)
    tensors = weights.to_torch(parts.model, jax.device_get(variables), naming)
    described = describe(parts) | {"naming": naming, "step": step}
    weights.write_file(output, tensors, {weights.KEY: json.dumps(described)})
    whole = (
        "" if known[naming] else f", the encoder alone ({naming} has no such decoder)"
    )
    print(f"{len(tensors)} tensors named as {naming}'s{whole}, step {step}: {output}")

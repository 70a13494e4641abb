"""Whether two contestants compute the same: the condition for timing them.

    python -m benchmarks.speed.agreement '{"encoder": ..., ...}' WEIGHTS [--gradients]

In a process of its own, which leaves the contestants' memory alone. It draws the
weights, writes them as PyTorch's state dict, and prints the errors as JSON.
"""

import argparse
import functools
import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.speed.networks import Network, variables_of
from segjax.losses import build_loss
from segjax.models import fold_batch_norm
from segjax.models.drop import DropPath
from segjax.weights import to_torch
from tests.parity.reference import randomize, relative_error, settle, to_nchw, to_nhwc

LOGITS, GRADIENTS = 1e-4, 1e-7
SMALL = 64
# Gradients that are zero but for rounding (a bias before a batch norm) have no
# relative error: they count against this share of the largest gradient.
FLOOR = 1e-6


def check(errors: Mapping[str, float]) -> None:
    """Refuse contestants that do not agree.

    Raises:
      ValueError: says which error is beyond its limit.
    """
    limits = {"logits": LOGITS, "gradients": GRADIENTS}
    for name, error in errors.items():
        if not error <= limits[name]:  # NaN too
            raise ValueError(
                f"{name} differ by {error:.1e} from PyTorch's, more than "
                f"{limits[name]:.0e}: nothing is timed"
            )


def make_reference(network: Network):
    """SMP's model with random weights and running statistics, evaluation mode."""
    import torch

    model = randomize(network.torch())
    batch = to_nchw(replace(network, batch=2).image())
    settle(model, lambda: model(batch))
    return model.to(memory_format=torch.channels_last)  # type: ignore


def logits_error(network: Network, reference: Any, state: Mapping[str, Any]) -> float:
    """Largest error over largest logit in float32, batch norms folded and not."""
    import torch

    # The timed shape: formulations depend on the number of images, too.
    model, x = network.segjax(), network.image()
    variables = variables_of(model, state)
    with torch.inference_mode():
        wanted = to_nhwc(reference(to_nchw(x)))
    found = [_program(network, False)(variables, x)]
    _, variables = fold_batch_norm(model, variables)
    found.append(_program(network, True)(variables, x))
    return max(relative_error(one, wanted) for one in found)


@functools.cache
def _program(network: Network, folded: bool):
    model = network.segjax()
    if not folded:
        return jax.jit(model.apply)
    image = jnp.zeros((1, 32, 32, 3))
    variables = jax.eval_shape(model.init, jax.random.key(0), image)
    variables = jax.tree.map(lambda leaf: np.zeros(leaf.shape), variables)
    return jax.jit(fold_batch_norm(model, variables)[0].apply)


def gradients_error(
    network: Network, reference: Any, state: Mapping[str, Any]
) -> float:
    """The largest relative error of a parameter's gradient: training, float64.

    On two small images, without dropout (the two draw other numbers).
    """
    import torch

    network = replace(network, batch=2, size=SMALL)
    reference = _without_dropout(reference).double().train()
    x, label = network.image(np.float64), network.example()["label"]
    loss = torch.nn.functional.cross_entropy(
        reference(to_nchw(x)), torch.from_numpy(label).long(), ignore_index=255
    )
    loss.backward()
    # timm's encoders keep the last layers of their classifiers, which nothing uses.
    wanted = {
        name: p.grad.numpy()
        for name, p in reference.named_parameters()
        if p.grad is not None
    }
    with jax.enable_x64(True):
        model = network.segjax(param_dtype=jnp.float64)
        variables = variables_of(model, state)
        value = build_loss("cross_entropy").value

        def ours(params):
            with nn.intercept_methods(_pass_dropout):
                logits, _ = model.apply(
                    {**variables, "params": params},
                    x,
                    train=True,
                    mutable=["batch_stats"],
                )
            return value(logits, jnp.asarray(label, jnp.int32))

        found = jax.jit(jax.grad(ours))(variables["params"])
        # to_torch wants all variables; the statistics go back as they came.
        found = to_torch(model, {**variables, "params": found}, "smp")
    floor = FLOOR * max(np.abs(g).max() for g in wanted.values())
    return max(
        float(np.abs(found[name] - g).max() / max(np.abs(g).max(), floor))
        for name, g in wanted.items()
    )


def _without_dropout(model: Any):
    """The torch model with every rate 0."""
    for module in model.modules():
        for name in ("p", "drop_prob", "drop_rate", "drop_connect_rate"):
            if isinstance(getattr(module, name, None), float):
                setattr(module, name, 0.0)
    return model


def _pass_dropout(following, args, kwargs, context):
    if isinstance(context.module, (nn.Dropout, DropPath)):
        return args[0]
    return following(*args, **kwargs)


def main() -> None:
    import torch

    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("network")
    parser.add_argument("weights")
    parser.add_argument("--gradients", action="store_true")
    args = parser.parse_args()
    network = Network(**json.loads(args.network))
    reference = make_reference(network)
    state = {k: v.clone() for k, v in reference.state_dict().items()}
    torch.save(state, args.weights)
    errors = {"logits": logits_error(network, reference, state)}
    if args.gradients:
        errors["gradients"] = gradients_error(network, reference, state)
    print(json.dumps(errors))


if __name__ == "__main__":
    main()

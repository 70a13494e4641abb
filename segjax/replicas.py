"""Replicas: k trainings of one small network as one program.

They differ in their seeds or learning rates. Replica i has its own parameters,
optimizer state, batches and random numbers, and shares nothing with the others but the
program: it is the run that would have been trained alone, up to the order in which
floats are added (:func:`make_step`). The replicas are spread over the devices, each
whole on one, so that nothing is communicated; those of one device are one batch more
of every operation ("vmap"), or follow each other within the step ("loop").

``vmap`` turns a convolution into a grouped one, since every replica has its own kernel:
an accelerator that a small network leaves idle is filled by it; XLA's grouped
convolutions on a CPU are slow (docs/replicas.md has measurements).
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from segjax.step import TrainState

AXIS = "replica"
FORMULATIONS = ("vmap", "loop")


def formulation(platform: str) -> str:
    """The faster one on a platform."""
    return "loop" if platform == "cpu" else "vmap"


def make_mesh(count: int, devices: Sequence[Any] | None = None) -> Mesh:
    """A mesh of the axis "replica": as many of the devices as divide the count."""
    devices = list(jax.devices() if devices is None else devices)
    parts = max(n for n in range(1, len(devices) + 1) if count % n == 0)
    return Mesh(np.asarray(devices[:parts]), (AXIS,))


def sharded(mesh: Mesh) -> NamedSharding:
    """Replicas over the devices."""
    return NamedSharding(mesh, P(AXIS))


def stack(trees: Sequence[Any], mesh: Mesh) -> Any:
    """The replicas' trees as one with a leading axis of replicas, on the mesh."""

    def one(*leaves):
        stacked = np.stack([np.asarray(jax.device_get(leaf)) for leaf in leaves])
        return jax.device_put(stacked, sharded(mesh))

    return jax.tree.map(one, *trees)


def unstack(tree: Any, index: int) -> Any:
    """One replica's tree, on the host."""
    return jax.tree.map(np.asarray, unstacked(tree, index))


def unstacked(tree: Any, index: int) -> Any:
    """One replica's tree, where it is."""
    return jax.tree.map(lambda leaf: leaf[index], tree)


def scaled(tx: optax.GradientTransformation, factor: Any) -> Any:
    """``tx`` with its learning rate times ``factor``, which may be traced.

    All updates of :mod:`segjax.optim` are proportional to the rate, weight decay
    included.
    """

    def update(updates, state, params=None):
        updates, state = tx.update(updates, state, params)
        return jax.tree.map(lambda u: u * jnp.asarray(factor, u.dtype), updates), state

    return optax.GradientTransformation(tx.init, update)


def make_step(
    make_function: Callable[[optax.GradientTransformation], Callable],
    tx: optax.GradientTransformation,
    mesh: Mesh,
    how: str,
    *,
    rates: bool = False,
) -> Callable:
    """The jitted step: (states, batches, seeds, factors) -> (states, metrics).

    Replica i equals the stand-alone run of ``seeds[i]`` on one device: after 3 steps in
    float64 to 1e-9, with augmentation and batch norm (tests/test_replicas.py; images of
    integers are augmented in float32 whatever the network, and "vmap" rounds that
    otherwise); in float32 the first loss to 1e-5, after which the two drift apart, as
    runs on other numbers of devices do.

    Args:
      make_function: an optimizer -> :func:`segjax.step.train_function` with it.
      tx: of all replicas.
      mesh: :func:`make_mesh`'s.
      how: one of :data:`FORMULATIONS`.
      rates: whether replica i's learning rate is times ``factors[i]``; else those are
        not looked at, and the optimizer is exactly ``tx``.

    ``states``, ``batches`` (of :mod:`segjax.batch`), ``seeds`` int32[k] and ``factors``
    float[k] have a leading axis of replicas, and so have the metrics. The states are
    donated.

    Raises:
      ValueError: an unknown formulation.
    """
    if how not in FORMULATIONS:
        raise ValueError(f"replicas: {how!r} is none of {', '.join(FORMULATIONS)}")

    def one(state: TrainState, batch, seed, factor):
        step = make_function(scaled(tx, factor) if rates else tx)
        return step(state, batch, seed, lambda images, labels: (images, labels))

    def local(*arguments):
        if how == "vmap":
            return jax.vmap(one)(*arguments)
        # Not lax.map: inside a while loop XLA's convolutions on a CPU are several times
        # as slow. So the program is as long as there are replicas on a device.
        count = jax.tree.leaves(arguments)[0].shape[0]
        found = [one(*unstacked(arguments, index)) for index in range(count)]
        return jax.tree.map(lambda *leaves: jnp.stack(leaves), *found)

    mapped = jax.shard_map(
        local, mesh=mesh, in_specs=P(AXIS), out_specs=P(AXIS), check_vma=False
    )
    where = sharded(mesh)
    return jax.jit(mapped, in_shardings=where, out_shardings=where, donate_argnums=0)

"""Traces of initialisations: shapes of results and variables, nothing is computed."""

from contextlib import contextmanager
from typing import Any
from unittest import mock

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.core.scope import Scope

from segjax.models.layers import Features

KEY = jax.random.key(0)


@contextmanager
def undrawn():
    """Parameters begin as zeros: a third of a trace is of what draws them.

    Every parameter names its shape and type, as the models' own do.
    """
    own = Scope.param

    def param(scope, name, init, shape, dtype, **options):
        return own(scope, name, lambda *_: jnp.zeros(shape, dtype), **options)

    with mock.patch.object(Scope, "param", param):
        yield


def traced(module: nn.Module, shape: tuple[int, ...], **options: Any):
    """Shapes of (result, variables) of an initialisation in training."""
    image = jax.ShapeDtypeStruct(shape, jnp.float32)
    with undrawn():
        return jax.eval_shape(
            lambda x: module.init_with_output(KEY, x, train=True, **options), image
        )


class Stub(nn.Module):
    """In an encoder's place: features of its shapes, whatever the image."""

    features: Features
    strides: tuple[int, ...]
    auxiliary_map: int = -2

    def __call__(self, image, *, train):
        return jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), self.features)

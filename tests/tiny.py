"""A network that compiles in no time; ``python -m tests.tiny`` is segjax with it.

For tests of what goes on around a network. ``SEGJAX_TRACE=FILE`` observes a run as
benchmarks.faults.observed does.
"""

import os
import sys
import time
from contextlib import contextmanager
from unittest import mock

import jax.numpy as jnp
from flax import linen as nn

from segjax import setup
from segjax.models.norm import Norm
from segjax.ops.scores import Rule, Scores, finish

SCATTERED = nn.initializers.normal(0.4)


class Tiny(nn.Module):
    """Two convolutions and a batch norm, down by 2 and up again."""

    classes: int
    param_dtype: str = "float32"

    @nn.compact
    def scores(self, image, train=False):
        options = {"param_dtype": jnp.dtype(self.param_dtype)}
        kernel = options | {"kernel_init": SCATTERED}
        # A bias before a batch norm has a gradient of rounding alone.
        x = nn.Conv(8, (3, 3), (2, 2), use_bias=False, **kernel)(image)
        x = Norm(**options)(x, train)
        x = nn.Conv(self.classes, (3, 3), **kernel)(nn.tanh(x))
        return Scores(x, Rule(image.shape[1:3], image.shape[1:3]))

    def __call__(self, image, train=False):
        return finish(self.scores(image, train))


@contextmanager
def tiny():
    """Runs have the tiny network, whatever their config says."""

    def make(config, classes, *_, **__):
        double = config.model.dtype == "float64"
        return Tiny(classes, "float64" if double else "float32")

    with mock.patch.object(setup, "make_model", make):
        yield


def slowly(method):
    """A method that begins with a pause."""

    def paused(*args):
        time.sleep(0.2)
        return method(*args)

    return paused


def main() -> int:
    """The command line, with the tiny network."""
    from benchmarks.faults import observed
    from segjax import main as segjax
    from segjax import train

    with tiny():
        if "SEGJAX_TRACE" in os.environ:
            # Long enough to be hit by a signal.
            for name in ("evaluate", "save"):
                method = getattr(train.Run, name)
                setattr(train.Run, name, slowly(method))
            return observed.main()
        return segjax.main()


if __name__ == "__main__":
    sys.exit(main())

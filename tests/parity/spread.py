"""Initial weights here and in a reference."""

import jax
import jax.numpy as jnp
import numpy as np

from segjax.weights import to_torch


def assert_initial_spread(case, at_least=9000):
    """The mean distance from zero, within 3 %, in every large tensor that is not zero.

    Not the standard deviation: timm's ``trunc_normal_`` (std 0.02) throws in a 2 now
    and then, which alone moves that of 25,000 weights by a fifth.
    """
    model, reference = case.build(), case.make()
    image = jnp.zeros((1, *case.size, 3))
    key = jax.random.key(0, impl="rbg")  # compiles faster
    state = to_torch(model, jax.jit(model.init)(key, image), case.package)
    checked, wrong = 0, []
    for name, tensor in reference.state_dict().items():
        wanted = np.abs(tensor.numpy()).mean()
        # Zeros are what is never run, here.
        if tensor.numel() >= at_least and wanted > 0 and np.any(state[name]):
            checked += 1
            found = np.abs(state[name]).mean()
            if abs(found / wanted - 1) > 0.03:
                wrong.append((name, found, wanted))
    assert checked > 20 and not wrong, wrong

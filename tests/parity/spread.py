"""Initial weights here and in a reference."""

import jax
import jax.numpy as jnp
import numpy as np

from segjax.weights import to_torch


def assert_initial_spread(case, at_least=9000):
    """Each large tensor's sigma, and biases and gains, are the reference's, within 3 %.

    Of a sample of n, sigma is known to 1 / sqrt(2n).
    """
    model, reference = case.build(), case.make()
    image = jnp.zeros((1, *case.size, 3))
    key = jax.random.key(0, impl="rbg")  # compiles faster
    state = to_torch(model, jax.jit(model.init)(key, image), case.naming or "smp")
    checked = 0
    for name, tensor in reference.state_dict().items():
        if tensor.numel() >= at_least:
            found, wanted = np.std(state[name]), np.std(tensor.numpy())
            if wanted > 0:
                assert abs(found / wanted - 1) < 0.03, (name, found, wanted)
                checked += 1
    assert checked > 20

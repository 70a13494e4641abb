"""Gradients of one small encoder per family with every decoder, in float64.

    python -m benchmarks.pairs [--minutes 30] [--only 'resnet18 *']

Every parameter must get a finite gradient that is not zero, in training mode, at a size
that nothing divides. Record: docs/results/pairs.json; called again it goes on.
"""

import sys
from collections.abc import Callable
from fnmatch import fnmatchcase
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import record
from segjax.models import names
from tests.models import families
from tests.models.test_contract import small, traced
from tests.models.test_pairs import possible

RECORD = record.ROOT / "docs" / "results" / "pairs.json"
SIZE, CLASSES = (99, 115), 5  # the deepest map has several pixels in every family
# Other weights and other draws of dropout each time: a small network may have a ReLU
# that one draw silences.
ATTEMPTS = 8
SMALLEST = 1e-12  # of the largest gradient: what float64's rounding leaves of a zero

# Pattern of "encoder decoder parameter" -> why it never has a gradient.
EXCEPTIONS = {
    "* manet decoder/center/top_conv/bias": "it adds the same to all that the softmax "
    "of a pixel compares",
}


def encoders() -> list[str]:
    """The first small encoder of each family."""
    return [next(iter(table)) for table in families._collect("SMALL").values() if table]


def draw(shapes, seed: int):
    """Random variables: Kaiming's spread, gains and variances around 1."""
    rng = np.random.default_rng(seed)

    def one(path, leaf):
        if path[-1].key.endswith(("scale", "var")):
            return rng.uniform(0.5, 1.5, leaf.shape)
        fan_in = np.prod(leaf.shape[:-1]) if leaf.ndim > 1 else 50
        return rng.normal(0, (2 / fan_in) ** 0.5, leaf.shape)

    return jax.tree_util.tree_map_with_path(one, shapes)


def measure(encoder: str, decoder: str) -> dict:
    """A row: parameters, smallest and largest of the gradients' maxima, exceptions."""
    jax.clear_caches()
    rng = np.random.default_rng(0)
    x = rng.normal(size=(2, *SIZE, 3))
    weight = rng.normal(size=(2, *SIZE, CLASSES))
    found: dict[str, float] = {}

    def silent() -> set[str]:
        limit = SMALLEST * max(found.values())
        return {path for path, size in found.items() if size <= limit}

    with jax.enable_x64(True):
        model = small(encoder, decoder, param_dtype=jnp.float64)
        shapes = traced(model, x.shape)[1]

        def loss(params, variables, key, train):
            logits, _ = model.apply(
                {**variables, "params": params},
                x,
                train=train,
                mutable=["batch_stats"],
                rngs={"dropout": key},
            )
            return jnp.sum(logits * weight)

        @partial(jax.jit, static_argnums=2)
        def sizes(variables, key, train):
            value, gradients = jax.value_and_grad(loss)(
                variables["params"], variables, key, train
            )
            return value, jax.tree.map(lambda g: jnp.abs(g).max(), gradients)

        def attempt(seed, train):
            value, tree = sizes(draw(shapes, seed), jax.random.key(seed), train)
            assert np.isfinite(value), value
            for keys, leaf in jax.tree_util.tree_leaves_with_path(tree):
                path = "/".join(key.key for key in keys)
                assert np.isfinite(leaf), path
                found[path] = max(found.get(path, 0.0), float(leaf))

        before: set[str] = set()
        for seed in range(ATTEMPTS):
            attempt(seed, True)
            if not silent():
                break
        else:
            # A batch norm takes the bias before it away, in training.
            before = {path for path in silent() if path.endswith("/bias")}
            # PAN's pyramid has one channel, which a ReLU silences half of the time.
            for seed in range(4 * ATTEMPTS):
                if not before & silent():
                    break
                attempt(seed, False)
    zero = silent()
    unknown = sorted(p for p in zero if not reason(f"{encoder} {decoder} {p}"))
    assert not unknown, f"no gradient for {unknown}"
    return {
        "encoder": encoder,
        "decoder": decoder,
        "parameters": len(found),
        "smallest": min(size for path, size in found.items() if path not in zero),
        "largest": max(found.values()),
        "without_gradient": sorted(zero),
        "without_gradient_in_training": sorted(before - zero),
    }


def reason(name: str) -> str | None:
    """Why a parameter's gradient may be zero."""
    for pattern, words in EXCEPTIONS.items():
        if fnmatchcase(name, pattern):
            return words
    return None


def cases() -> dict[str, Callable[[], dict]]:
    """Every possible pair of a family and a decoder, and the function that measures."""
    return {
        f"{encoder} {decoder}": partial(measure, encoder, decoder)
        for encoder in encoders()
        for decoder in names()["decoders"]
        if possible(encoder, decoder)
    }


def main() -> int:
    parser = record.parser(__doc__)
    record.add_flags(parser)
    args = parser.parse_args()
    chosen = record.chosen(cases(), args.only)
    command = "python -m benchmarks.pairs"
    failed = record.run(RECORD, chosen, command, args.again, args.minutes)
    return int(bool(failed))


if __name__ == "__main__":
    sys.exit(main())

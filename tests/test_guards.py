"""Numbers that are not finite: what is said of them."""

import jax.numpy as jnp
import numpy as np
import pytest

from segjax import guards


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("place", ["kernel", "bias"])
def test_one_number_in_a_tree_is_found(value, place):
    tree = {"kernel": np.zeros((3, 4), np.float32), "bias": np.zeros(5, np.float32)}
    assert guards.is_finite(tree | {"count": np.array([2**31 - 1], np.int32)})
    tree[place].flat[2] = value
    assert not guards.is_finite(tree)


def test_the_largest_numbers_are_finite():
    assert guards.is_finite({"x": jnp.full((4, 4), jnp.finfo(jnp.float32).max)})


@pytest.mark.parametrize(
    "loss, norm, said",
    [
        (np.float32(np.nan), np.float32(np.inf), "loss nan, gradient norm inf"),
        (np.float32(1), np.float32(np.nan), "gradient norm nan"),
        (np.float32(1), np.float32(2), "running statistics overflow"),
    ],
)
def test_the_reason_names_what_is_not_finite(loss, norm, said):
    assert guards.reason({"loss": loss, "gradient_norm": norm}) == said


def test_too_many_in_a_row_is_one_line_with_examples():
    ids = [f"image{i}" for i in range(9)]
    guards.check_in_a_row(7, 2, 3, ids)
    with pytest.raises(ValueError) as error:
        guards.check_in_a_row(7, 3, 3, ids)
    text = str(error.value)
    assert text.startswith("3 updates in a row were skipped up to step 7, because")
    assert text.endswith("image6, image7, ...)") and "\n" not in text


def test_parameters_that_are_not_finite_are_not_saved():
    guards.check_saved(5, True)
    with pytest.raises(ValueError, match="at step 5 are not finite and are not saved"):
        guards.check_saved(5, False)

"""State dicts in PyTorch's naming, without PyTorch."""

import re
from collections import OrderedDict

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy

from segjax.models import build
from segjax.weights import load_torch, to_torch
from segjax.weights.braces import braces
from segjax.weights.naming import Layout, detect
from tests.requirements import require_parity
from tests.weights.torch_save import contiguous, dump, save, torch_names, write_zip

__all__ = ["save", "torch_names"]  # fixtures


@pytest.fixture(scope="module")
def model():
    model = build("resnet18", "unet", 3, decoder_channels=(16, 8, 8, 8, 4))
    return model.clone(encoder=model.encoder.clone(width=4, counts=(1, 1, 1, 1)))


@pytest.fixture(scope="module")
def variables(model):
    """Every array random, so that no two can be mixed up."""
    image = jax.ShapeDtypeStruct((1, 64, 64, 3), jnp.float32)
    shapes = jax.eval_shape(model.init, jax.random.key(0), image)
    rng = np.random.default_rng(0)
    return jax.tree.map(lambda s: rng.normal(size=s.shape).astype(np.float32), shapes)


def assert_equal(a, b):
    jax.tree.map(np.testing.assert_array_equal, a, b)


def test_names_and_axes(model, variables):
    state = to_torch(model, variables)
    kernel = variables["params"]["encoder"]["layer2"]["block0"]["downsample_conv"]
    found = state["encoder.layer2.0.downsample.0.weight"]
    assert found.shape == (8, 4, 1, 1)
    np.testing.assert_array_equal(found[5, 2, 0, 0], kernel["kernel"][0, 0, 2, 5])
    statistics = variables["batch_stats"]["decoder"]["block3"]["bn2"]["var"]
    name = "decoder.blocks.3.conv2.1.running_var"
    np.testing.assert_array_equal(state[name], statistics)
    assert state["segmentation_head.0.bias"].shape == (3,)
    assert state["encoder.bn1.num_batches_tracked"].dtype == np.int64
    assert all(a.flags["C_CONTIGUOUS"] for a in state.values())


def test_there_and_back(model, variables):
    assert_equal(load_torch(model, to_torch(model, variables)), variables)


def test_variables_are_copies(model, variables):
    state = to_torch(model, variables)
    loaded = load_torch(model, state)
    for array in state.values():
        array[...] = 7
    assert_equal(loaded, variables)


def test_safetensors(model, variables, tmp_path):
    path = tmp_path / "weights.safetensors"
    safetensors.numpy.save_file(to_torch(model, variables), path)
    assert_equal(load_torch(model, path, image_shape=(64, 64, 3)), variables)


def test_any_array_and_any_float_become_the_models_dtype(model, variables):
    state = to_torch(model, variables)
    half = {k: jnp.asarray(v, jnp.bfloat16) for k, v in state.items()}
    loaded = load_torch(model, half)
    leaves = jax.tree.leaves(loaded)
    assert {leaf.dtype for leaf in leaves} == {np.dtype(np.float32)}
    for a, b in zip(leaves, jax.tree.leaves(variables), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-2)


@pytest.mark.parity
def test_torchs_own_bfloat16_tensors_are_taken(model, variables):
    torch = require_parity("torch")
    state = {k: torch.from_numpy(v) for k, v in to_torch(model, variables).items()}
    half = {k: v.bfloat16() if v.is_floating_point() else v for k, v in state.items()}
    exact = jax.tree.map(lambda a: a.astype(ml_dtypes.bfloat16).astype("f"), variables)
    assert_equal(load_torch(model, half), exact)


def test_one_error_lists_all_that_does_not_fit(model, variables):
    state = to_torch(model, variables)
    del state["encoder.bn1.weight"], state["decoder.blocks.0.conv1.0.weight"]
    state["fc.bias"] = np.zeros(3, np.float32)
    state["segmentation_head.0.bias"] = np.zeros(7, np.float32)
    with pytest.raises(ValueError) as error:
        load_torch(model, state)
    text = str(error.value)
    for part in (
        "2 missing: ",
        "encoder.bn1.weight",
        "decoder.blocks.0.conv1.0.weight",
        "1 unexpected: fc.bias",
        "segmentation_head.0.bias (7,) instead of (3,)",
    ):
        assert part in text
    assert "\n" not in text
    with pytest.raises(ValueError, match="1 missing: encoder.bn1.weight; 1 of another"):
        load_torch(model, state, allow_missing=["decoder.*"], allow_unexpected=["fc.*"])


def test_a_classifier_fills_the_encoder_alone(model, variables):
    state = to_torch(model, variables, "torchvision")
    assert "conv1.weight" in state and "layer4.0.conv2.weight" in state
    state["fc.weight"] = np.zeros((10, 32), np.float32)
    with pytest.raises(ValueError, match="decoder/block0/conv1/kernel"):
        load_torch(model, state, allow_unexpected=["fc.*"])
    fcn = build("resnet18", "fcn32s", 3).clone(encoder=model.encoder)
    loaded = load_torch(fcn, state, allow_missing=["head/*"], allow_unexpected=["fc.*"])
    assert_equal(loaded["params"]["encoder"], variables["params"]["encoder"])
    assert_equal(
        loaded["batch_stats"], {"encoder": variables["batch_stats"]["encoder"]}
    )
    head = loaded["params"]["head"]
    assert head["kernel"].shape == (1, 1, 32, 3) and np.std(head["kernel"]) > 0.1
    np.testing.assert_array_equal(head["bias"], np.zeros(3))


def test_unknown_naming(model, variables):
    with pytest.raises(
        ValueError, match="unknown naming 'keras' for this model; known: smp"
    ):
        to_torch(model, variables, "keras")


@pytest.mark.parametrize("wrap", [lambda s: s, lambda s: {"state_dict": s, "epoch": 3}])
def test_pth_without_torch(model, variables, save, wrap):
    state = OrderedDict(
        (name, contiguous(array)) for name, array in to_torch(model, variables).items()
    )
    assert_equal(load_torch(model, save(wrap(state))), variables)


PREFIXES = ["", "module.", "model.", "module.model.", "encoder.", "backbone.", "a.0."]


def test_what_stands_before_all_names_is_found(model, variables):
    whole, encoder = to_torch(model, variables), to_torch(model, variables, "timm")
    encoder |= {"fc.weight": np.zeros((9, 32), np.float32), "fc.bias": np.zeros(9)}
    for prefix in PREFIXES:
        names = [f"{prefix}{name}" for name in whole]
        assert detect(model, variables, names) == Layout("smp", True, prefix)
        names = [f"{prefix}{name}" for name in encoder]
        found = detect(model, variables, names)
        assert not found.whole and found.prefix == prefix


@pytest.mark.parametrize("prefix", ["encoder.", "module.model."])
def test_prefixed_weights_are_read(model, variables, prefix, torch_names, tmp_path):
    """Of a whole network in a wrapper; of a classifier's encoder."""
    tensors = {
        f"{prefix}{name}": contiguous(value)
        for name, value in to_torch(model, variables).items()
    }
    data = dump(torch_names, {"epoch": 1, "state_dict": tensors}, False)
    path = write_zip(tmp_path / "a.pth", *data)
    assert_equal(load_torch(model, path), variables)
    state = to_torch(model, variables, "timm") | {"fc.bias": np.zeros(9)}
    state = {f"{prefix}{name}": value for name, value in state.items()}
    fcn = build("resnet18", "fcn32s", 3).clone(encoder=model.encoder)
    found = load_torch(fcn, state, allow_missing=["head/*"])
    assert_equal(found["params"]["encoder"], variables["params"]["encoder"])


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16, np.float64])
def test_files_of_other_precision_become_the_models(model, variables, tmp_path, dtype):
    path = tmp_path / "a.safetensors"
    state = {k: np.asarray(v, dtype) for k, v in to_torch(model, variables).items()}
    safetensors.numpy.save_file(state, path)
    exact = jax.tree.map(lambda a: a.astype(dtype).astype(np.float32), variables)
    assert_equal(load_torch(model, path), exact)


def state_of(model):
    """A state dict of zeros."""
    image = jax.ShapeDtypeStruct((1, 64, 64, model.in_channels), jnp.float32)
    shapes = jax.eval_shape(model.init, jax.random.key(0), image)
    return to_torch(model, jax.tree.map(lambda s: np.zeros(s.shape, s.dtype), shapes))


def test_the_weights_of_another_network_are_refused_in_one_readable_line():
    small, large = build("resnet18", "fcn32s", 3), build("resnet50", "fcn32s", 3)
    with pytest.raises(ValueError) as error:
        load_torch(small, state_of(large))
    text = str(error.value)
    for part in (
        "165 unexpected: encoder.{layer1.{0.{",
        "layer2.{{0,1}.{bn3.{",
        "{2-5}.{{bn1,bn2,bn3}.{",
        "(1024,) instead of (256,)",
        "segmentation_head.0.weight (3, 2048, 1, 1) instead of (3, 512, 1, 1)",
    ):
        assert part in text, part
    assert "inflate" not in text and "\n" not in text and len(text) < 2500
    with pytest.raises(ValueError, match="165 missing: encoder.{layer1") as error:
        load_torch(large, state_of(small))


def test_another_width_lists_each_shape_once(model):
    wide = model.clone(encoder=model.encoder.clone(width=8))
    with pytest.raises(ValueError) as error:
        load_torch(model, state_of(wide))
    text = str(error.value)
    assert "encoder.conv1.weight (8, 3, 7, 7) instead of (4, 3, 7, 7)" in text
    assert text.count("(64,) instead of (32,)") == 1 and "inflate" not in text
    assert "missing" not in text and "unexpected" not in text


def split(text):
    """At the commas outside of braces."""
    parts, depth = [""], 0
    for letter in text:
        depth += {"{": 1, "}": -1}.get(letter, 0)
        if letter == "," and depth == 0:
            parts.append("")
        else:
            parts[-1] += letter
    return parts


def expand(text):
    """The names that a text of braces stands for, as a shell reads it."""
    start = text.find("{")
    if start < 0:
        return [text]
    end = start + 1
    while text[start:end].count("{") > text[start:end].count("}"):
        end += 1
    found = []
    for option in split(text[start + 1 : end - 1]):
        numbers = re.fullmatch(r"(\d+)-(\d+)", option)
        if numbers:
            options = map(str, range(int(numbers[1]), int(numbers[2]) + 1))
        else:
            options = expand(option)
        found += [
            text[:start] + o + rest for o in options for rest in expand(text[end:])
        ]
    return found


@pytest.mark.parametrize(
    "names, text",
    [
        (["a", "b.c"], "a, b.c"),
        ([f"l.{i}.w" for i in (3, 1, 2, 7)], "l.{1-3,7}.w"),
        ([f"l.{i}.{w}" for i in (0, 1) for w in "ab"], "l.{0,1}.{a,b}"),
        (["a.x", "a.y", "b.x", "b.y", "c"], "{a,b}.{x,y}, c"),
        (["a", "a.b", "a.c", "a.d"], "a, a.{b,c,d}"),
        (["a.0", "a.1", "a.2", "a.3"], "a.{0-3}"),
        (["a", "b", "c", "d"], "{a,b,c,d}"),
    ],
)
def test_braces(names, text):
    assert braces(names) == text
    found = [name for part in split(text) for name in expand(part.strip())]
    assert sorted(found) == sorted(names)


def test_braces_of_a_network_stand_for_its_names(model):
    names = list(state_of(model))
    found = [name for part in split(braces(names)) for name in expand(part.strip())]
    assert sorted(found) == sorted(names) and len(braces(names)) < 700

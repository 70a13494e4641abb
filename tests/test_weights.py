"""Weights in PyTorch's naming and files, without PyTorch."""

import os
import pickle
import sys
import types
import zipfile
from collections import OrderedDict

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy

from segjax.models import build
from segjax.weights import load_torch, to_torch


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


class Storage:
    """A torch storage to be pickled: by persistent id, its bytes beside."""

    def __init__(self, kind, array):
        self.kind = kind
        self.array = array


class Tensor:
    """Pickles as a torch tensor does."""

    def __init__(self, storage, offset, size, stride):
        self.parts = storage, offset, size, stride, False, OrderedDict()

    def __reduce__(self):
        return sys.modules["torch._utils"]._rebuild_tensor_v2, self.parts


@pytest.fixture
def save(monkeypatch, tmp_path):
    """torch.save's zip format, written by names alone: torch is not needed."""
    torch = types.ModuleType("torch")
    utils = types.ModuleType("torch._utils")

    def _rebuild_tensor_v2():
        pass

    _rebuild_tensor_v2.__module__ = "torch._utils"
    _rebuild_tensor_v2.__qualname__ = "_rebuild_tensor_v2"
    utils._rebuild_tensor_v2 = _rebuild_tensor_v2
    for name in ("FloatStorage", "LongStorage"):
        setattr(torch, name, type(name, (), {"__module__": "torch"}))
    monkeypatch.setitem(sys.modules, "torch", torch)
    monkeypatch.setitem(sys.modules, "torch._utils", utils)
    path = tmp_path / "weights.pth"

    def write(content):
        blocks = {}

        class Pickler(pickle.Pickler):
            def persistent_id(self, obj):
                if not isinstance(obj, Storage):
                    return None
                key = str(len(blocks))
                blocks[key] = obj.array.tobytes()
                kind = getattr(torch, obj.kind)
                return "storage", kind, key, "cpu", obj.array.size

        with zipfile.ZipFile(path, "w") as archive:
            with archive.open("weights/data.pkl", "w") as file:
                Pickler(file, protocol=2).dump(content)
            for key, data in blocks.items():
                archive.writestr(f"weights/data/{key}", data)
        return path

    return write


def contiguous(array):
    kind = "LongStorage" if array.dtype == np.int64 else "FloatStorage"
    stride = tuple(s // array.itemsize for s in array.strides)
    return Tensor(Storage(kind, array), 0, array.shape, stride)


@pytest.mark.parametrize("wrap", [lambda s: s, lambda s: {"state_dict": s, "epoch": 3}])
def test_pth_without_torch(model, variables, save, wrap):
    state = OrderedDict(
        (name, contiguous(array)) for name, array in to_torch(model, variables).items()
    )
    assert_equal(load_torch(model, save(wrap(state))), variables)


def test_pth_views_share_a_storage(save):
    from segjax.weights.files import read_file

    block = Storage("FloatStorage", np.arange(10, dtype=np.float32))
    path = save({"a": Tensor(block, 1, (2, 3), (1, 2)), "b": Tensor(block, 9, (), ())})
    found = read_file(path)
    np.testing.assert_array_equal(found["a"], [[1, 3, 5], [2, 4, 6]])
    assert found["b"] == 9


@pytest.mark.parametrize(
    "content, words",
    [
        (
            {"a": Tensor(Storage("FloatStorage", np.zeros(4, "f")), 2, (3,), (1,))},
            "bey",
        ),
        (
            {"a": Tensor(Storage("FloatStorage", np.zeros(4, "f")), 0, (3,), (-1,))},
            "im",
        ),
        ({"a": 3}, "does not hold a state dict"),
        ([1, 2], "does not hold a state dict"),
    ],
)
def test_impossible_contents(save, content, words):
    path = save(content)
    with pytest.raises(ValueError, match=f"weights.pth: .*{words}"):
        load_torch(build("resnet18", "fcn32s", 2), path)


class Malicious:
    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize("function", [os.mkdir, eval, pickle.loads])
def test_a_malicious_file_is_named_and_not_executed(save, tmp_path, function):
    victim = tmp_path / "executed"
    argument = {"mkdir": str(victim), "eval": f"open({str(victim)!r}, 'w')"}
    path = save({"a": Malicious(function, argument.get(function.__name__, b"."))})
    name = function.__name__
    with pytest.raises(ValueError, match=f"{name}; only tensors and containers"):
        load_torch(build("resnet18", "fcn32s", 2), path)
    assert not victim.exists()


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_damaged_and_absent_files(model, variables, tmp_path, save, suffix):
    path = tmp_path / f"weights{suffix}"
    with pytest.raises(ValueError, match="there is no such file"):
        load_torch(model, path)
    state = to_torch(model, variables)
    if suffix == ".pth":
        save({name: contiguous(array) for name, array in state.items()})
    else:
        safetensors.numpy.save_file(state, path)
    whole = path.read_bytes()
    for size in (0, 5, len(whole) // 2, len(whole) - 9):
        path.write_bytes(whole[:size])
        with pytest.raises(ValueError, match=f"weights{suffix}: ") as error:
            load_torch(model, path)
        assert "\n" not in str(error.value)

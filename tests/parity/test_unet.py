"""ResNet U-Nets and dilated ResNets against SMP and torchvision, weights randomised."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from segjax.models import build
from segjax.models.encoders.resnet import Bottleneck, ResNet
from segjax.models.layers import Layers
from segjax.weights import load_torch, to_torch
from tests.parity.reference import Case, randomize, relative_error, to_nchw
from tests.requirements import require_parity

pytestmark = pytest.mark.parity


@pytest.fixture(scope="module")
def smp():
    require_parity("torch")
    return require_parity("segmentation_models_pytorch")


def image(height, width, dtype=np.float32):
    return np.random.default_rng(1).normal(size=(2, height, width, 3)).astype(dtype)


def smp_unet(encoder):
    package = require_parity("segmentation_models_pytorch")
    return package.Unet(encoder, encoder_weights=None, classes=5)


CASES = [
    Case(
        encoder,
        "unet",
        "smp",
        partial(smp_unet, encoder),
        size=size,
        platform=platform,
        slow=slow,
    )
    for encoder, size, platform, slow in [
        ("resnet18", (97, 131), "cpu", False),
        ("resnet18", (64, 64), None, True),
        ("resnet50", (64, 64), "cpu", True),
    ]
]


@pytest.mark.parametrize("case", [c for c in CASES if not c.slow], ids=str)
def test_networks(case):
    case.check()


@pytest.mark.slow
@pytest.mark.parametrize("case", [c for c in CASES if c.slow], ids=str)
def test_more_networks(case):
    case.check()


@pytest.mark.parametrize("train", [pytest.param(False, marks=pytest.mark.slow), True])
def test_gradients_and_training_are_smps_in_float64(smp, train):
    """Input gradients to 1e-7; in training mode, running statistics as well."""
    reference = randomize(smp.Unet("resnet18", encoder_weights=None, classes=5))
    reference = reference.double().train(train)
    x = image(32, 32, np.float64)
    with jax.enable_x64(True):
        model = build("resnet18", "unet", 5, param_dtype=jnp.float64)
        variables = load_torch(model, reference.state_dict())
        weight = np.random.default_rng(2).normal(size=(2, 32, 32, 5))

        def loss(x, variables):  # as constants XLA would fold them for a long time
            logits, new = model.apply(
                variables, x, train=train, mutable=["batch_stats"]
            )
            return jnp.sum(logits * weight), new

        gradient, new = jax.jit(jax.grad(loss, has_aux=True))(x, variables)
    tensor = to_nchw(x).requires_grad_()
    (reference(tensor) * to_nchw(weight)).sum().backward()
    wanted = tensor.grad.permute(0, 2, 3, 1).numpy()
    assert relative_error(gradient, wanted) <= 1e-7
    state = to_torch(model, {**variables, **new})
    for name, value in reference.state_dict().items():
        if "running" in name:
            assert relative_error(state[name], value) <= 1e-9, name


def test_a_file_of_torch_save_is_read_without_torch(smp, tmp_path):
    torch = require_parity("torch")
    reference = randomize(smp.Unet("resnet18", encoder_weights=None, classes=5))
    path = tmp_path / "weights.pth"
    torch.save({"state_dict": reference.state_dict(), "epoch": 3}, path)
    model = build("resnet18", "unet", 5)
    jax.tree.map(
        np.testing.assert_array_equal,
        load_torch(model, path),
        load_torch(model, reference.state_dict()),
    )


@pytest.mark.parametrize("output_stride", [8, 16])
@pytest.mark.parametrize("like", ["torchvision", "smp"])
def test_dilation_follows_each_publisher(smp, like, output_stride):
    """All five maps of a bottleneck ResNet whose last strides became dilation."""
    resnet = require_parity("torchvision").models.resnet
    torch = require_parity("torch")
    counts = (1, 1, 2, 2)
    if like == "torchvision":
        replaced = [False, output_stride == 8, True]
        reference = resnet.ResNet(
            resnet.Bottleneck, counts, replace_stride_with_dilation=replaced
        )
    else:
        reference = smp.encoders.resnet.ResNetEncoder(
            out_channels=[3, 64, 256, 512, 1024, 2048],
            block=resnet.Bottleneck,
            layers=counts,
        )
        reference.make_dilated(output_stride)
    randomize(reference)
    encoder = ResNet(
        Bottleneck, counts, Layers(), output_stride=output_stride, like=like
    )
    model = build("resnet50", "fcn32s", 2).clone(encoder=encoder)
    variables = load_torch(
        model,
        reference.state_dict(),
        allow_missing=["head/*"],
        allow_unexpected=["fc.*"],
    )
    variables = {k: v["encoder"] for k, v in variables.items()}
    x = image(65, 72)
    maps = jax.jit(lambda v, x: encoder.apply(v, x, train=False).maps)(variables, x)
    y = to_nchw(x)
    with torch.no_grad():
        y = reference.relu(reference.bn1(reference.conv1(y)))
        wanted = [y]
        y = reference.maxpool(y)
        for stage in ("layer1", "layer2", "layer3", "layer4"):
            y = getattr(reference, stage)(y)
            wanted.append(y)
    for found, tensor in zip(maps, wanted, strict=True):
        assert relative_error(found, tensor.permute(0, 2, 3, 1).numpy()) <= 1e-4

"""AlexNet, VGG and GoogLeNet against torchvision, VGG's U-Net against SMP."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from segjax.models import build_classifier
from segjax.weights import load_torch, to_torch
from tests.parity.reference import Case, image, randomize, relative_error, to_nchw
from tests.requirements import OPTIMIZED, require_parity

pytestmark = pytest.mark.parity
VGG = {"vgg11": "A", "vgg13": "B", "vgg16": "D", "vgg19": "E"}
VGGS = [f"{name}{norm}" for name in VGG for norm in ("", "_bn")]


def torchvision(name):
    def make():
        models = require_parity("torchvision").models
        if name == "googlenet":
            return models.googlenet(weights=None, num_classes=5, init_weights=False)
        if name == "alexnet":
            return models.alexnet(weights=None, num_classes=5)
        # Not by its name, which draws 140 million initial weights.
        plain, *norm = name.split("_")
        layers = models.vgg.make_layers(models.vgg.cfgs[VGG[plain]], bool(norm))
        return models.vgg.VGG(layers, num_classes=5, init_weights=False)

    return make


def smp_unet(name):
    def make():
        smp = require_parity("segmentation_models_pytorch")
        return smp.Unet(name, encoder_weights=None, classes=5)

    return make


def before_pooling(model, x):
    """Torchvision's maps before each max pooling of ``features``, and the last one."""
    from torch import nn

    y, maps = to_nchw(x), []
    for layer in model.features:
        if isinstance(layer, nn.MaxPool2d):
            maps.append(y)
        y = layer(y.clone())
    return [y.permute(0, 2, 3, 1).numpy() for y in (*maps, y)]


def smp_maps(model, x):
    return [y.permute(0, 2, 3, 1).numpy() for y in model.encoder(to_nchw(x))]


INCEPTIONS = ("conv1", "conv3", "inception3b", "inception4e", "inception5b")
CASES = [
    Case(
        "alexnet", None, "torchvision", torchvision("alexnet"), pyramid=before_pooling
    ),
    Case(
        "alexnet",
        None,
        "torchvision",
        torchvision("alexnet"),
        pyramid=before_pooling,
        size=(97, 131),
        slow=True,
    ),
    *(
        Case(
            "googlenet",
            None,
            "torchvision",
            torchvision("googlenet"),
            pyramid=INCEPTIONS,
            size=size,
            slow=size == (64, 64),
        )
        for size in ((64, 64), (97, 131))
    ),
    *(
        Case(
            name,
            None,
            "torchvision",
            torchvision(name),
            pyramid=before_pooling,
            size=(97, 131) if name == "vgg13" else (64, 64),
            slow=True,
        )
        for name in VGGS
    ),
    *(
        Case(
            name,
            "unet",
            "smp",
            smp_unet(name),
            like="smp",
            pyramid=smp_maps,
            size=(97, 131) if name == "vgg11" else (64, 64),
            slow=name != "vgg11",
        )
        for name in VGGS
    ),
]


@pytest.mark.parametrize("case", [c for c in CASES if not c.slow], ids=str)
def test_classifiers_and_unets(case):
    case.check()


@pytest.mark.slow
@pytest.mark.parametrize("case", [c for c in CASES if c.slow], ids=str)
def test_large_classifiers_and_unets(case):
    case.check()


@pytest.mark.parametrize(
    "gradients", [False, pytest.param(True, marks=pytest.mark.slow)]
)
def test_googlenets_training_is_torchvisions_in_float64(gradients):
    """All three logits, running statistics, every parameter's gradient; no dropout."""
    torch = require_parity("torch")
    reference = randomize(torchvision("googlenet")()).double().train()
    for module in reference.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    x = image(64, 64, np.float64)
    scales = (1.0, 0.3, 0.3)
    weight = np.random.default_rng(2).normal(size=(2, 5))
    state = {k: v.clone() for k, v in reference.state_dict().items()}
    logits, second, first = reference(to_nchw(x))
    wanted = logits, first, second

    def weighted(logits, weight):
        return sum(
            scale * (y * weight).sum() for scale, y in zip(scales, logits, strict=True)
        )

    weighted(wanted, torch.from_numpy(weight)).backward()
    with jax.enable_x64(True):
        model = build_classifier("googlenet", 5, param_dtype=jnp.float64)
        model = model.clone(
            encoder=model.encoder.clone(auxiliary_dropout=0.0),
            head=model.head.clone(dropout=0.0),
        )
        variables = load_torch(model, state)

        def loss(params, stats, x):
            logits, new = model.apply(
                {"params": params, "batch_stats": stats},
                x,
                train=True,
                mutable=["batch_stats", "auxiliary"],
            )
            sown = new["auxiliary"]["encoder"]
            found = [logits, *(sown[name]["logits"] for name in ("aux1", "aux2"))]
            return weighted(found, weight), (found, new["batch_stats"])

        arguments = variables["params"], variables["batch_stats"], x
        if gradients:
            loss = jax.grad(loss, has_aux=True)
        result, (found, stats) = jax.jit(loss, compiler_options=OPTIMIZED)(*arguments)
    for ours, theirs in zip(found, wanted, strict=True):
        assert relative_error(ours, theirs.detach().numpy()) <= 1e-9
    own = {k: v for k, v in reference.state_dict().items() if "running" in k}
    moved = {"params": variables["params"], "batch_stats": stats}
    if gradients:
        own |= {k: p.grad for k, p in reference.named_parameters()}
        moved["params"] = result
    moved = to_torch(model, moved, "torchvision")
    for name, value in own.items():
        assert relative_error(moved[name], value.numpy()) <= 1e-7, name

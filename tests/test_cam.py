"""Class activation maps against the logits they explain, differences, and PyTorch."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from segjax import cam
from segjax.models import build_classifier
from segjax.models.layers import Features
from tests.models.families import SMALL
from tests.requirements import require_parity

CLASSES = 5


def small(name: str, size=(64, 96), **fields):
    """(tiny classifier, variables whose every leaf is random, two images)."""
    model = build_classifier(name, CLASSES)
    encoder = dataclasses.replace(model.encoder, **SMALL[name])
    head = dataclasses.replace(model.head, **fields)
    model = dataclasses.replace(model, encoder=encoder, head=head)
    random = np.random.default_rng(0)
    image = random.normal(size=(2, *size, 3)).astype(np.float32)
    shapes = jax.eval_shape(model.init, jax.random.key(0), image)
    variables = jax.tree.map(
        lambda leaf: random.uniform(0.1, 0.5, leaf.shape).astype(leaf.dtype), shapes
    )
    kernels = jax.tree.map(
        lambda leaf: (random.normal(size=leaf.shape) * 0.2).astype(leaf.dtype),
        shapes["params"],
    )
    variables = {**variables, "params": kernels}
    return model, variables, image


@pytest.mark.parametrize("name", ["resnet18", "googlenet"])
def test_the_mean_of_a_cam_and_the_bias_are_the_logit(name):
    model, variables, image = small(name)
    assert cam.is_linear(model)
    run = jax.jit(lambda v, x: (*cam.class_maps(model, v, x), model.apply(v, x)))
    logits, maps, want = map(np.asarray, run(variables, image))
    scale = np.abs(want).max()
    np.testing.assert_allclose(logits, want, atol=1e-5 * scale)
    bias = variables["params"]["head"]["dense"]["bias"]
    np.testing.assert_allclose(maps.mean((1, 2)) + bias[None], want, atol=1e-4 * scale)
    assert maps.shape[1:3] == (2, 3) and np.std(maps) > 1e-3 * scale


def head_only(model, variables, features):
    own = {k: v["head"] for k, v in variables.items() if "head" in v}
    return model.head.apply(own, features, False)


def test_a_cam_is_the_linear_layer_at_every_position():
    model, variables, image = small("resnet18")
    own = {k: v["encoder"] for k, v in variables.items() if "encoder" in v}

    def both(image):
        deepest = model.encoder.apply(own, image, train=False).maps[-1]
        return cam.class_maps(model, variables, image)[1], deepest

    maps, deepest = map(np.asarray, jax.jit(both)(image))
    kernel = np.asarray(variables["params"]["head"]["dense"]["kernel"], np.float64)
    want = np.asarray(deepest, np.float64) @ kernel
    np.testing.assert_allclose(maps, want, atol=1e-5 * np.abs(want).max())


@pytest.mark.parametrize("name", ["efficientnet_b0", "swin_t", "densenet121"])
def test_heads_with_layers_before_the_mean_are_linear_after_it(name):
    model = build_classifier(name, CLASSES)
    assert cam.is_linear(model)
    random = np.random.default_rng(1)
    deepest = random.normal(size=(2, 3, 4, 6)).astype(np.float32)
    features = Features((jnp.asarray(deepest),))
    own = model.head.init(jax.random.key(0), features, False)
    own = jax.tree.map(
        lambda x: random.uniform(0.2, 1, x.shape).astype(np.float32), own
    )
    variables = {kind: {"head": tree} for kind, tree in own.items()}
    # The encoder is not run: its map is given.
    original, cam._features = cam._features, lambda *_: features
    try:
        logits, maps = cam.class_maps(model, variables, jnp.zeros((2, 8, 8, 3)))
    finally:
        cam._features = original
    want = np.asarray(head_only(model, variables, features))
    np.testing.assert_allclose(logits, want, rtol=1e-5)
    bias = own["params"]["dense"]["bias"]
    np.testing.assert_allclose(maps.mean((1, 2)) + bias[None], want, rtol=1e-4)


@pytest.mark.parity
@pytest.mark.parametrize("name", ["alexnet", "vgg11"])
def test_grad_cam_is_pytorchs_autograd(name):
    torch = require_parity("torch")
    functional = require_parity("torch.nn.functional")
    model, variables, image = small(name, size=(97, 130), width=16)
    assert not cam.is_linear(model)
    classes = np.array([[0, 3, 4], [2, 0, 1]])
    own = {k: v["encoder"] for k, v in variables.items() if "encoder" in v}

    def both(image):
        deepest = model.encoder.apply(own, image, train=False).maps[-1]
        return *cam.grad_cam(model, variables, image, classes), deepest

    logits, maps, deepest = map(np.asarray, jax.jit(both)(image))
    deepest = torch.tensor(deepest.transpose(0, 3, 1, 2).copy())
    deepest = deepest.double().requires_grad_()
    x = functional.adaptive_avg_pool2d(deepest, model.head.size).flatten(1)
    for number in (1, 2, 3):
        layer = variables["params"]["head"][f"dense{number}"]
        weight, bias = (torch.tensor(layer[k]).double() for k in ("kernel", "bias"))
        x = x @ weight + bias
        x = x.relu() if number < 3 else x
    np.testing.assert_allclose(logits, x.detach().numpy(), rtol=1e-4, atol=1e-5)
    for i, row in enumerate(classes):
        for n, class_id in enumerate(row):
            (gradient,) = torch.autograd.grad(
                x[i, class_id], deepest, retain_graph=True
            )
            alpha = gradient[i].mean((1, 2))
            want = (alpha[:, None, None] * deepest[i]).sum(0).relu().detach().numpy()
            top = max(np.abs(want).max(), 1e-6)
            np.testing.assert_allclose(maps[i, :, :, n], want, atol=1e-4 * top)
    assert np.asarray(maps).max() > 0


def test_grad_cam_by_finite_differences():
    with jax.enable_x64(True):
        model = build_classifier("vgg11", CLASSES, param_dtype=jnp.float64)
        model = dataclasses.replace(
            model, head=dataclasses.replace(model.head, width=6, size=(2, 2))
        )
        random = np.random.default_rng(2)
        deepest = random.uniform(0, 1, (1, 2, 3, 4))
        features = Features((jnp.asarray(deepest),))
        own = jax.eval_shape(
            lambda key: model.head.init(key, features, False), jax.random.key(1)
        )
        own = jax.tree.map(lambda x: jnp.asarray(random.normal(size=x.shape)), own)
        variables = {"params": {"head": own["params"]}}
        original, cam._features = cam._features, lambda *_: features
        try:
            arguments = (variables, jnp.zeros((1, 8, 8, 3)), np.array([[3]]))
            _, maps = cam.grad_cam(model, *arguments)
        finally:
            cam._features = original

        steps = 1e-5 * np.eye(deepest.size).reshape(-1, *deepest.shape[1:])
        both = jnp.asarray(np.concatenate([deepest + steps, deepest - steps]))
        high, low = np.split(head_only(model, variables, Features((both,)))[:, 3], 2)
        gradient = ((high - low) / 2e-5).reshape(deepest.shape)
        alpha = gradient.mean((1, 2), keepdims=True)
        want = np.maximum((alpha * deepest).sum(-1), 0)
    assert want.max() > 0
    np.testing.assert_allclose(maps[..., 0], want, atol=1e-6 * want.max())


@pytest.mark.parametrize("name, size", [("resnet18", (64, 96)), ("alexnet", (97, 130))])
def test_activation_maps_are_those_of_the_most_certain_classes(name, size):
    model, variables, image = small(
        name, size, **({"width": 16} if name == "alexnet" else {})
    )

    def both(image):
        found = cam.activation_maps(model, variables, image, 3)
        if cam.is_linear(model):
            want = cam.class_maps(model, variables, image)[1]
        else:
            every = jnp.tile(jnp.arange(CLASSES)[None], (2, 1))
            want = cam.grad_cam(model, variables, image, every)[1]
        return *found, want

    logits, classes, maps, want = map(np.asarray, jax.jit(both)(image))
    order = np.argsort(-logits, -1)[:, :3]
    np.testing.assert_array_equal(classes, order)
    for i in range(2):
        top = np.abs(want[i]).max()
        np.testing.assert_allclose(maps[i], want[i][..., order[i]], atol=1e-5 * top)


def test_a_vision_transformer_and_a_wrong_head_are_refused():
    image = jnp.zeros((1, 32, 32, 3))
    with pytest.raises(ValueError, match="sees a token, no map"):
        cam.grad_cam(build_classifier("vit_base", 3), {}, image, jnp.zeros((1, 1)))
    with pytest.raises(ValueError, match="V3Head is not linear .* use grad_cam"):
        cam.class_maps(build_classifier("mobilenet_v3_small", 3), {}, image)


def test_heat_is_scaled_bilinear_interpolation():
    activation = np.array([[-3.0, 2.0], [0.0, 4.0]])
    found = cam.heat(activation, (4, 4))
    # Pixel centres lie at -1/4, 1/4, 3/4, 5/4 of the map's, edges repeated.
    x = np.clip((np.arange(4) + 0.5) / 2 - 0.5, 0, 1)
    positive = np.array([[0.0, 2.0], [0.0, 4.0]])
    weights = np.stack([1 - x, x])
    np.testing.assert_allclose(found, weights.T @ positive @ weights / 4)
    want = jax.image.resize(positive, (4, 4), "bilinear") / 4
    np.testing.assert_allclose(found, want, atol=1e-6)
    assert (cam.heat(-activation[:, 1:], (3, 3)) == 0).all()


def test_a_box_is_around_the_largest_region_above_the_threshold():
    heat = np.zeros((8, 10))
    heat[1:4, 2:5], heat[6:8, 6:8], heat[5, 5] = 0.5, 1.0, 0.9
    assert cam.box(heat) == (2, 1, 5, 4)
    assert cam.box(heat, threshold=0.6) == (6, 6, 8, 8)
    heat[0, 0] = 0.2  # not above a fifth of the largest
    heat[4, 4] = 0.21
    assert cam.box(heat) == (2, 1, 5, 5)
    assert cam.box(np.zeros((3, 4))) == (0, 0, 4, 3)

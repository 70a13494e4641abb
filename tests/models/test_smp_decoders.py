"""The decoders from SMP on small feature pyramids: sizes, options, rules, counts."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from segjax.models import build, decoders
from segjax.models.decoders.aspp import ASPP
from segjax.models.decoders.manet import PositionAttention
from segjax.models.layers import Features, Layers
from tests.models.tracing import undrawn
from tests.requirements import OPTIMIZED
from tests.test_benchmarks import sample

# smp.<Decoder>("resnet18" | "resnet50", classes=11), counted in SMP 0.6.0.
PARAMETERS = {
    "unetplusplus": (15_971_899, 48_987_195),
    "manet": (21_676_923, 147_441_443),
    "linknet": (11_664_107, 31_178_107),
    "fpn": (13_048_523, 26_117_323),
    "pspnet": (11_375_915, 24_347_083),
    "pan": (11_370_546, 24_262_706),
    "deeplabv3": (15_901_515, 39_636_299),
    "deeplabv3plus": (12_331_867, 26_680_155),
}
STRIDES = (2, 4, 8, 16, 32)
KEY = jax.random.key(0, impl="rbg")


def pyramid(strides=STRIDES, size=(64, 96), channels=16, reached=32):
    """Random maps of an image of ``size``; ``reached`` is the output stride."""
    rng = np.random.default_rng(0)
    shapes = [[-(-n // min(stride, reached)) for n in size] for stride in strides]
    return Features(
        tuple(
            jnp.asarray(rng.normal(size=(2, *shape, channels + 4 * i)), jnp.float32)
            for i, shape in enumerate(shapes)
        )
    )


def make(name, strides=STRIDES, **fields):
    """The decoder alone, with those of ``fields`` that it has."""
    module = getattr(decoders, name)
    own = module.func.__dataclass_fields__
    fields = {"strides": strides, **fields}
    return module(layers=Layers(), **{k: v for k, v in fields.items() if k in own})


def traced(decoder, features, size=(64, 96)):
    """Shapes of the map and of the parameters."""
    with undrawn():
        found, variables = jax.eval_shape(
            lambda f: decoder.init_with_output(KEY, f, size, train=False), features
        )
    return found.shape, variables["params"]


def drawn(trace):
    """NumPy's random values for what ``trace()`` initialises: nothing is compiled."""
    rng = np.random.default_rng(0)

    def draw(path, leaf):
        if leaf.ndim > 1:
            values = rng.normal(0, np.prod(leaf.shape[:3]) ** -0.5, leaf.shape)
        else:
            values = np.full(leaf.shape, path[-1].key in ("scale", "var"))
        return values.astype(leaf.dtype)

    with undrawn():
        return jax.tree_util.tree_map_with_path(draw, jax.eval_shape(trace))


def shapes(tree):
    return {
        "/".join(key.key for key in keys): leaf.shape
        for keys, leaf in jax.tree_util.tree_leaves_with_path(tree)
    }


@pytest.mark.parametrize("decoder", PARAMETERS)
def test_parameters_are_as_many_as_smps(decoder):
    for encoder, wanted in zip(
        ("resnet18", "resnet50"), PARAMETERS[decoder], strict=True
    ):
        model = build(encoder, decoder, 11, like="smp")
        with undrawn():
            variables = jax.eval_shape(model.init, KEY, jnp.zeros((1, 64, 64, 3)))
        leaves = jax.tree.leaves(variables["params"])
        assert sum(int(np.prod(leaf.shape)) for leaf in leaves) == wanted


@pytest.mark.parametrize("decoder", PARAMETERS)
def test_output_stride_that_each_wants(decoder):
    wanted = {"pspnet": 8, "deeplabv3": 8, "deeplabv3plus": 16, "pan": 16}
    assert build("resnet18", decoder, 2).encoder.output_stride == wanted.get(
        decoder, 32
    )
    if decoder == "pspnet":
        wanted = {}
    model = build("resnet18", decoder, 2, like="smp")
    assert model.encoder.output_stride == wanted.get(decoder, 32)
    model = build("resnet18", decoder, 2, output_stride=32)
    assert model.encoder.output_stride == 32


@pytest.mark.parametrize(
    "strides",
    [
        (4, 8, 16, 32),  # ConvNeXt, Swin, MiT
        (1, 2, 4, 8, 16, 32),  # VGG
        (2, 8, 32),
        (16,),  # ViT
    ],
    ids=str,
)
@pytest.mark.parametrize("decoder", PARAMETERS)
def test_whatever_strides_an_encoder_has(decoder, strides):
    fields = {"decoder_channels": (24, 20, 16, 12)} if strides == (16,) else {}
    if decoder not in ("unetplusplus", "manet"):
        fields = {}
    module = make(decoder, strides, **fields)
    size = (96, 160) if not module.any_size else (97, 131)
    found, params = traced(module, pyramid(strides, size), size)
    height, width = size
    deepest = max(strides)
    stride = {"unetplusplus": 1, "manet": 1, "linknet": 1, "fpn": 4}.get(decoder)
    if decoder in ("pspnet", "deeplabv3"):
        stride = deepest
    if decoder == "pan":
        stride = 4 if 4 in strides else 8 if 8 in strides else deepest
    if decoder == "deeplabv3plus":
        stride = 4
    assert found[:3] == (2, -(-height // stride), -(-width // stride))
    if decoder == "unetplusplus" and strides[0] == 4:
        # A node for every map behind another one, and none beside the missing map.
        wanted = "x_0_0 x_0_1 x_1_1 x_0_2 x_1_2 x_2_2 x_0_3 x_0_4"
        assert sorted(params) == sorted(wanted.split())


def test_unetplusplus_without_maps_is_a_chain():
    module = make("unetplusplus", (16,), decoder_channels=(8, 8, 8, 8))
    _, params = traced(module, pyramid((16,)))
    assert sorted(params) == ["x_0_0", "x_0_1", "x_0_2", "x_0_3"]


@pytest.mark.parametrize(
    "decoder, option, value, path, shape",
    [
        ("unetplusplus", "decoder_channels", (7, 6, 5, 4, 3), "x_0_3/conv2/kernel", 4),
        ("manet", "decoder_channels", (7, 6, 5, 4, 3), "block4/conv2/kernel", 3),
        ("manet", "decoder_pab_channels", 9, "center/top_conv/kernel", 9),
        ("fpn", "decoder_pyramid_channels", 9, "lateral2/kernel", 9),
        ("fpn", "decoder_segmentation_channels", 9, "branch0/conv2/kernel", 9),
        ("pspnet", "psp_out_channels", 9, "project/conv/kernel", 9),
        ("pan", "decoder_channels", 9, "gau3/low/conv/kernel", 9),
        ("deeplabv3", "decoder_channels", 9, "last/conv/kernel", 9),
        ("deeplabv3plus", "decoder_channels", 9, "fuse/pointwise/kernel", 9),
    ],
)
def test_options_of_width_act(decoder, option, value, path, shape):
    module = make(decoder, **{option: value})
    found, params = traced(module, pyramid())
    assert shapes(params)[path][-1] == shape
    if option not in ("decoder_pab_channels", "decoder_pyramid_channels"):
        assert found[3] == (value[-1] if isinstance(value, tuple) else value)
    built = build("resnet18", decoder, 2, **{option: value})
    assert getattr(built.decoder, option) == value
    assert option in module.options


RATES = {
    "fpn": "decoder_dropout",
    "pspnet": "psp_dropout",
    "upernet": "decoder_dropout",
    "deeplabv3": "decoder_aspp_dropout",
    "deeplabv3plus": "decoder_aspp_dropout",
}


@pytest.mark.parametrize("decoder, option", RATES.items())
def test_rates_of_dropout_act(decoder, option, monkeypatch):
    rates = []
    monkeypatch.setattr(
        Layers, "dropout", lambda self, x, rate, train, **_: rates.append(rate) or x
    )
    traced(make(decoder, **{option: 0.25}), pyramid())
    assert rates == [0.25]


def test_every_option_is_tested():
    tested = {
        "unetplusplus": {"decoder_channels"},
        "manet": {"decoder_channels", "decoder_pab_channels"},
        "fpn": {"decoder_pyramid_channels", "decoder_segmentation_channels"},
        "pspnet": {"psp_out_channels"},
        "pan": {"decoder_channels"},
        "deeplabv3": {"decoder_channels", "decoder_atrous_rates"},
        "deeplabv3plus": {"decoder_channels", "decoder_atrous_rates"},
    }
    for decoder in PARAMETERS:
        options = set(getattr(decoders, decoder).func.options)
        assert options - {RATES.get(decoder)} == tested.get(decoder, set())


@pytest.mark.parametrize("decoder", ["unetplusplus", "manet"])
def test_one_width_for_every_halving(decoder):
    with pytest.raises(ValueError, match="has 2 numbers, but the encoder halves 5"):
        traced(make(decoder, decoder_channels=(8, 8)), pyramid())


@pytest.mark.parametrize("decoder", ["deeplabv3", "deeplabv3plus"])
def test_atrous_rates_act(decoder):
    """A pixel reaches as far as the largest rate, and as many branches as rates."""
    two = make(decoder, decoder_channels=4, decoder_atrous_rates=(1, 2))
    _, params = traced(two, pyramid())
    assert shapes(params)["aspp/project/conv/kernel"] == (1, 1, 4 * 4, 4)
    _, params = traced(make(decoder, decoder_channels=4), pyramid())
    assert shapes(params)["aspp/project/conv/kernel"] == (1, 1, 5 * 4, 4)


@pytest.mark.parametrize("separable", [False, True])
def test_aspp_reaches_as_far_as_its_rates(separable):
    """The gradient of one pixel: at distance 0 and the rates, and the pooled branch."""
    module = ASPP(4, (3, 5), separable=separable)
    x = jnp.ones((1, 1, 15, 6))
    variables = drawn(lambda: module.init(KEY, x, False))
    params = jax.tree.map(np.abs, variables["params"])  # nothing cancels, no ReLU cuts

    def middle(x):
        y = module.apply({**variables, "params": params}, x, False)
        return y[0, 0, 7].sum()

    gradient = np.abs(jax.jit(jax.grad(middle))(x)).sum((0, 1, 3))
    pooled = np.median(gradient)
    assert pooled > 0
    assert [i - 7 for i in range(15) if gradient[i] > 1.01 * pooled] == [
        -5,
        -3,
        0,
        3,
        5,
    ]


@pytest.mark.parametrize("decoder", ["fpn", "pan", "deeplabv3plus"])
def test_corners_are_aligned_by_smp_alone(decoder):
    features, size = pyramid(size=(128, 128)), (128, 128)
    smp, segjax = (make(decoder, like=like) for like in ("smp", "segjax"))
    variables = drawn(lambda: smp.init(KEY, features, size, train=False))
    a, b = jax.jit(
        lambda v, f: [m.apply(v, f, size, train=False) for m in (smp, segjax)]
    )(variables, features)
    assert a.shape == b.shape
    assert np.abs(a - b).max() > 1e-3 * np.abs(a).max()


@pytest.mark.parametrize("like, used", [("smp", 2), ("segjax", 4)])
def test_pspnets_map(like, used):
    """SMP's at stride 8, the others' the deepest, wherever it is."""
    features = pyramid(reached=8)
    module = make("pspnet", like=like, psp_out_channels=8)
    variables = drawn(lambda: module.init(KEY, features, (64, 96), train=False))
    run = jax.jit(lambda f: module.apply(variables, f, (64, 96), train=False))
    wanted = run(features)
    assert wanted.shape == (2, 8, 12, 8)
    for i, x in enumerate(features.maps):
        maps = (*features.maps[:i], x + 1, *features.maps[i + 1 :])
        changed = np.any(np.asarray(run(Features(maps)) != wanted))
        assert changed == (i == used)
    shallow = make("pspnet", (16,), like=like)
    assert traced(shallow, pyramid((16,)))[0] == (2, 4, 6, 512)


def test_position_attention_is_a_softmax_over_the_others():
    """NumPy in float64, the rule of "segjax"; SMP's is under parity."""
    with jax.enable_x64(True):
        layers = Layers(dtype=jnp.float64, param_dtype=jnp.float64)
        x = np.random.default_rng(0).normal(size=(2, 3, 4, 5))
        module = PositionAttention(6, "segjax", layers)
        variables = drawn(lambda: module.init(KEY, x))
        kernel = {k: np.array(v["kernel"]) for k, v in variables["params"].items()}
        for name in ("bottom_conv", "out_conv"):  # to their middle taps: 1x1 as well
            kernel[name][[0, 0, 0, 1, 1, 2, 2, 2], [0, 1, 2, 0, 2, 0, 1, 2]] = 0
        params = {
            k: {"kernel": v, "bias": np.zeros(v.shape[3])} for k, v in kernel.items()
        }
        found = jax.jit(module.apply)({"params": params}, x)
        one = {k: v[v.shape[0] // 2, v.shape[1] // 2] for k, v in kernel.items()}
        for example, result in zip(x, np.asarray(found), strict=True):
            pixels = example.reshape(12, 5)
            score = (pixels @ one["center_conv"]) @ (pixels @ one["top_conv"]).T
            weight = np.exp(score) / np.exp(score).sum(1, keepdims=True)
            wanted = (pixels + weight @ pixels @ one["bottom_conv"]) @ one["out_conv"]
            np.testing.assert_allclose(result.reshape(12, 5), wanted, atol=1e-12)


@pytest.mark.parametrize(
    "decoder, option",
    [("fpn", "decoder_segmentation_channels"), ("pspnet", "psp_out_channels")],
)
def test_dropout_of_whole_maps(decoder, option):
    """SMP's Dropout2d(0.2): a fifth of the channels zero, the others by 1 / 0.8."""
    module, size = make(decoder, **{option: 512}), (64, 64)
    features = pyramid(size=size, channels=8, reached=8)
    variables = drawn(lambda: module.init(KEY, features, size, train=False))
    found = jax.jit(
        lambda v, f: module.apply(
            v, f, size, train=True, rngs={"dropout": KEY}, mutable=["batch_stats"]
        )[0]
    )(variables, features)
    empty = np.all(np.asarray(found) == 0, (1, 2))
    assert abs(empty.mean() - 0.2) < 0.04


@pytest.mark.parametrize("norm", ["group", "layer"])
def test_no_norm_of_pan_sees_a_single_value(norm):
    """One channel, or the image's mean: a norm of it would pass no gradient."""
    features, size = pyramid(size=(128, 128), reached=8), (128, 128)
    module = make("pan").clone(layers=Layers(norm_kind=norm))
    variables = drawn(lambda: module.init(KEY, features, size, train=False))
    weight = np.random.default_rng(1).normal(size=(2, 32, 32, 32)).astype(np.float32)

    def loss(variables, features):
        found = module.apply(variables, features, size, train=False)
        return jnp.sum(found * weight)

    gradient = jax.jit(jax.grad(loss))(variables, features)["params"]
    for keys, one in jax.tree_util.tree_leaves_with_path(gradient):
        if keys[-1].key == "kernel":
            assert np.abs(one).max() > 1e-5, jax.tree_util.keystr(keys)


def test_dropout_of_aspp():
    """Half of the elements: of the half that the ReLU leaves, another half."""
    module, x = ASPP(64, (1, 2, 3)), pyramid().maps[2]
    variables = drawn(lambda: module.init(KEY, x, False))
    found = jax.jit(
        lambda v, x: module.apply(
            v, x, True, rngs={"dropout": KEY}, mutable=["batch_stats"]
        )[0]
    )(variables, x)
    assert abs(np.mean(np.asarray(found) == 0) - 0.75) < 0.02


@pytest.mark.parametrize("turn", range(3))
def test_initial_weights_have_the_references_spread(turn):
    """Kaiming uniform for SMP's decoders, PyTorch's own for DeepLab's."""
    decoder = sample(PARAMETERS)[turn]  # others for every commit
    fields: dict = {
        "decoder_pyramid_channels": 32,
        "decoder_segmentation_channels": 32,
    }
    if decoder in ("unetplusplus", "manet"):
        fields["decoder_channels"] = (16, 16, 16)
    strides = (2, 4, 8) if decoder in ("unetplusplus", "manet", "linknet") else STRIDES
    channels = 64 if decoder in ("linknet", "pspnet") else 16  # else all is small
    features = pyramid(strides, (32, 32), channels)
    module = make(decoder, strides, **fields)
    init = jax.jit(
        lambda f: module.init(KEY, f, (32, 32), train=False)["params"],
        compiler_options=OPTIMIZED,
    )
    checked = 0
    for keys, kernel in jax.tree_util.tree_leaves_with_path(init(features)):
        path = "/".join(key.key for key in keys)
        if path.endswith(("bias", "scale")):
            assert np.all(np.asarray(kernel) == path.endswith("scale")), path
            continue
        own = decoder.startswith("deeplab") or path.endswith("transposed_kernel")
        limit = np.sqrt((1 if own else 6) / np.prod(kernel.shape[:3]))
        assert np.abs(kernel).max() <= limit * 1.0001, path
        if kernel.size >= 1000:
            # 4 sigma of a uniform sample's spread, or 3 %.
            tolerance = max(0.03, 4 / np.sqrt(5 * kernel.size))
            assert abs(np.std(kernel) / limit * np.sqrt(3) - 1) < tolerance, path
            checked += 1
    assert checked >= 3

"""Whole images, windows, scales and flips, against NumPy and SciPy."""

from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import ndimage

from segjax import config as configs
from segjax import sharding, views
from segjax.data.pipeline import resize_image

MEAN, STD = (0.4, 0.5, 0.6), (0.2, 0.3, 0.25)
RNG = np.random.default_rng(0)
MIX = RNG.normal(size=(3, 4)).astype(np.float32)
FIRST = (RNG.normal(size=(3, 3, 3, 5)) / 4).astype(np.float32)
SECOND = (RNG.normal(size=(3, 3, 5, 4)) / 4).astype(np.float32)
MESH = sharding.make_mesh()
ONE = sharding.make_mesh(devices=jax.devices()[:1])  # compiles faster


def picture(h, w, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (h, w, 3), dtype=np.uint8)


def pixelwise(variables, image, train):
    return jnp.einsum("bhwc,ck->bhwk", image, variables["mix"])


def convolve(image, kernel, stride=1):
    return jax.lax.conv_general_dilated(
        image,
        kernel,
        (stride, stride),
        "SAME",
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )


def convolutional(variables, image, train):
    """Two 3x3 convolutions: a receptive field of 2 pixels to each side."""
    return convolve(jnp.tanh(convolve(image, FIRST)), SECOND)


def strided(variables, image, train):
    """Down by 4, a 3x3 convolution there, up by 4: 7 pixels to each side at most."""
    pooled = convolve(image, np.tile(FIRST[:1, :1] / 16, (4, 4, 1, 1)), 4)
    return convolve(pooled, SECOND).repeat(4, 1).repeat(4, 2)


def seen_by(apply, fit="pad", image_size=(24, 32), mesh=MESH, **recipe):
    return views.Views(
        SimpleNamespace(apply=apply),  # type: ignore
        mesh,
        mean=MEAN,
        std=STD,
        image_size=image_size,
        fit=fit,
        recipe=views.Recipe(**recipe),
    )


def make(apply, fit="pad", image_size=(24, 32), mesh=ONE, **recipe):
    traced = []

    def noting(variables, image, train):
        assert not train
        traced.append(image.shape)
        return apply(variables, image, train)

    recipe = {"bucket": 8, "window": (24, 32), "batch_size": 8} | recipe
    made = seen_by(noting, fit, image_size, mesh, **recipe)
    return lambda image: made({"mix": MIX}, image), traced


def normalised(image):
    return (image.astype(np.float64) / 255 - MEAN) / STD


def softmax(logits):
    exp = np.exp(logits - logits.max(-1, keepdims=True))
    return exp / exp.sum(-1, keepdims=True)


def pixelwise_oracle(image):
    return normalised(image) @ MIX.astype(np.float64)


def convolutional_oracle(image):
    """Zeros beyond the image, as the network's own padding."""

    def layer(x, kernel):
        kernel = kernel.astype(np.float64)
        return np.stack(
            [
                sum(
                    ndimage.correlate(x[..., i], kernel[..., i, o], mode="constant")
                    for i in range(x.shape[2])
                )
                for o in range(kernel.shape[3])
            ],
            -1,
        )

    return layer(np.tanh(layer(normalised(image), FIRST)), SECOND)


@pytest.mark.parametrize(
    "mode, overlap", [("whole", 0), ("slide", 0), ("slide", 0.37), ("slide", 0.9)]
)
def test_a_pixelwise_network_gives_the_same_everywhere(mode, overlap):
    made, _ = make(pixelwise, mode=mode, overlap=overlap)
    for h, w in ((61, 90), (24, 32), (7, 5), (33, 32)):
        image = picture(h, w)
        got = made(image)
        assert got.shape == (h, w, 4) and got.dtype == np.float32
        np.testing.assert_allclose(got, softmax(pixelwise_oracle(image)), atol=2e-6)


def test_windows_are_the_whole_image_where_the_receptive_field_allows():
    image = picture(64, 96)
    want = softmax(convolutional_oracle(image))
    whole, _ = make(convolutional)
    np.testing.assert_allclose(whole(image), want, atol=2e-6)
    # Margins as wide as the receptive field: everywhere.
    made, _ = make(convolutional, mesh=MESH, mode="slide", overlap=0.3, margin=2)
    np.testing.assert_allclose(made(image), want, atol=2e-6)
    # Without them: wherever no window's end is within 2 pixels.
    made, _ = make(convolutional, mode="slide", overlap=0.3)
    got = made(image)
    plan = views.windows.layout((64, 96), (24, 32), overlap=0.3, step=8)
    seen = np.ones((64, 96), bool)
    for axis, (length, extent) in enumerate(((64, 24), (96, 32))):
        for start in set(plan.corners[:, axis].tolist()):
            for end, inner in (
                (start, start > 0),
                (start + extent, start + extent < length),
            ):
                if inner:
                    bad = [slice(None)] * 2
                    bad[axis] = slice(end - 2, end + 2)
                    seen[tuple(bad)] = False
    assert 0.2 < seen.mean() < 0.8
    np.testing.assert_allclose(got[seen], want[seen], atol=2e-6)
    assert np.abs(got - want)[~seen].max() > 1e-3


def test_windows_keep_the_grid_of_a_network_with_strides():
    image = picture(50, 77)  # no multiple of anything
    whole, _ = make(strided)
    made, _ = make(strided, mode="slide", overlap=0.5, margin=8)
    np.testing.assert_allclose(made(image), whole(image), atol=2e-6)


def resized(logits, size):
    return np.asarray(
        jax.image.resize(
            logits.astype(np.float32), (*size, 4), "bilinear", antialias=False
        ),
        np.float64,
    )


@pytest.mark.parametrize("fit", ["pad", "resize"])
@pytest.mark.parametrize("mode", ["whole", "slide"])
def test_scales_and_flips_are_averaged(fit, mode):
    scales = (1.0, 0.75)
    # Every size that the network sees is a multiple of the bucket: beyond a padded
    # image's end its second layer would see what the first makes of zeros.
    base = (32, 64)
    own = base if fit == "pad" else (41, 53)
    made, _ = make(
        *(convolutional, fit, base),
        **{"mode": mode, "scales": scales, "flip": True, "overlap": 0.5, "margin": 2},
    )
    image = picture(*own)
    want = np.zeros((*own, 4))
    for scale in scales:
        size = (round(scale * base[0]), round(scale * base[1]))
        view = resize_image(image, size)
        logits = convolutional_oracle(view)
        mirror = convolutional_oracle(view[:, ::-1])[:, ::-1]
        want += softmax(resized(logits, own)) + softmax(resized(mirror, own))
    np.testing.assert_allclose(made(image), want / 4, atol=1e-5)


def test_a_knob_acts():
    image = picture(41, 53)
    plain = make(convolutional)[0](image)
    for knob in ({"flip": True}, {"scales": (0.5,)}, {"mode": "slide"}):
        assert np.abs(make(convolutional, **knob)[0](image) - plain).max() > 1e-3


SIZES = [tuple(map(int, s)) for s in np.random.default_rng(2).integers(9, 33, (12, 2))]


@pytest.mark.parametrize(
    "fit, recipe, shapes",
    [
        # Rounded up to 16 or 32: 4 shapes at scale 1, all (16, 16) at half of it.
        ("pad", {"scales": (1.0, 0.5), "flip": True}, 4),
        ("resize", {"scales": (1.0, 0.5), "flip": True}, 2),
        ("pad", {"mode": "slide", "scales": (1.0, 0.5), "flip": True}, 1),
    ],
)
def test_the_network_is_compiled_for_few_shapes(fit, recipe, shapes):
    made, traced = make(
        pixelwise, fit, bucket=16, window=(32, 32), batch_size=2, **recipe
    )
    for i, (h, w) in enumerate(SIZES):
        assert made(picture(h, w, i)).shape == (h, w, 4)
    assert len(traced) == len(set(traced)) == shapes


@pytest.mark.parametrize("fit", ["pad", "resize"])
def test_windows_see_the_same_however_far_arrays_are_padded(fit):
    recipe = {"mode": "slide", "window": (16, 16), "scales": (1.0, 1.5)}
    made = seen_by(convolutional, fit, **recipe, bucket=8, batch_size=8)
    image = picture(27, 45)
    found = [
        np.asarray(made.on_devices({"mix": MIX}, [image], shape))[0, :27, :45]
        for shape in ((32, 48), (64, 128))
    ]
    np.testing.assert_allclose(found[0], found[1], atol=5e-7)  # exp rounds otherwise
    labels = [made.label({"mix": MIX}, image, known) for known in ((), [(64, 128)])]
    np.testing.assert_array_equal(labels[0][0], labels[1][0])


def test_several_images_at_once_over_the_devices():
    made = seen_by(pixelwise, bucket=8)
    images = [picture(9 + i % 8, 16 - i % 5, i) for i in range(8)]
    got = made.on_devices({"mix": MIX}, images, (16, 16))
    assert got.shape == (8, 16, 16, 4)
    assert len(got.sharding.device_set) == len(jax.devices())
    assert not got.sharding.is_fully_replicated
    for row, image in zip(np.asarray(got), images, strict=True):
        h, w = image.shape[:2]
        want = softmax(pixelwise_oracle(image))
        np.testing.assert_allclose(row[:h, :w], want, atol=2e-6)


def test_windows_are_split_over_the_devices():
    seen = []

    def apply(variables, image, train):
        seen.append(image.shape)
        jax.debug.inspect_array_sharding(image, callback=seen.append)
        return pixelwise(variables, image, train)

    make(apply, mesh=MESH, mode="slide")[0](picture(50, 60))
    assert seen[0] == (8, 24, 32, 3)
    assert len(seen[1].device_set) == 8 and not seen[1].is_fully_replicated


def test_mistakes_are_named():
    with pytest.raises(
        ValueError, match=r"window=\(20, 32\) is no multiple.*\(24, 32\)"
    ):
        make(pixelwise, mode="slide", window=(20, 32))
    with pytest.raises(ValueError, match="config.eval.batch_size=3 cannot be split"):
        make(pixelwise, mesh=MESH, mode="slide", batch_size=3)
    with pytest.raises(ValueError, match=r"give \[height, width, channels\]"):
        make(pixelwise)[0](np.zeros((4, 4), np.uint8))
    with pytest.raises(ValueError, match="overlap by 8 px leave a gap"):
        make(pixelwise, mode="slide", overlap=0.2, margin=7)[0](picture(48, 64))


def test_the_config_says_how():
    config = configs.default()
    config.data.image_size = (50, 64)
    assert views.recipe_of(config).plain
    assert views.recipe_of(config).window == (64, 64)
    config.eval.update(
        {"mode": "slide", "window": 96, "overlap": 0.25, "margin": 3, "flip": True}
    )
    config.eval.scales, config.eval.batch_size = (0.5, 1.0), 4
    assert views.recipe_of(config) == views.Recipe(
        "slide", (96, 96), 0.25, 3, (0.5, 1.0), True, 32, 4
    )


def test_many_padded_sizes_become_few_and_are_told():
    config = configs.default()
    config.data.fit = "pad"
    config.eval.programs = 2
    # To 32x32, 64x32 (three images) and 160x32: the first two become one.
    sizes = [(7, 30), (40, 32), (40, 32), (64, 5), (150, 9)]
    assert views.padded_to(config, sizes) == ((64, 32), (160, 32))
    (line,) = views.advice(config, sizes)
    # 8 buckets of 1,024 pixels and 9 pixels in all: 12 + 1.
    assert line.startswith("3 padded sizes of images are joined to 2 (config.eval.")
    assert "adds 8% pixels" in line and "eval.mode=slide" in line
    (line,) = views.advice(config, sizes, training=True)
    assert "adds 8% pixels" in line and "slide" not in line
    assert views.advice(config, sizes[:4]) == []
    config.data.fit = "resize"
    assert views.advice(config, sizes) == []

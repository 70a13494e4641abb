"""Augmentation against NumPy, SciPy, colorsys and jax.image, and its promises."""

import colorsys
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from scipy import ndimage

from segjax import augment
from segjax.augment import Augment, augment_batch
from segjax.batch import IGNORE
from segjax.ops.colour import gray as gray_of
from segjax.ops.colour import shift_hue
from tests.requirements import require_parity

KEY = jax.random.key(3)
EVERYTHING = {
    "scale": (0.6, 1.8),
    "flip": 0.5,
    "vertical_flip": 0.5,
    "brightness": 0.3,
    "contrast": 0.3,
    "saturation": 0.3,
    "hue": 0.1,
    "blur": 0.5,
    "cutmix": 0.5,
}


@functools.partial(jax.jit, static_argnums=0, static_argnames="platform")
def run(settings, key, image, label, size, positions=None, platform="cpu"):
    return augment_batch(settings, key, image, label, size, positions, platform)


def batch(n, h, w, channels=3, seed=0, dtype=np.uint8, ids=(0, 3, 7, IGNORE)):
    rng = np.random.default_rng(seed)
    top = 1 if np.issubdtype(dtype, np.floating) else np.iinfo(dtype).max
    image = (rng.random((n, h, w, channels)) * top).astype(dtype)
    label = rng.choice(ids, size=(n, h, w)).astype(np.uint8)
    return image, label, np.tile(np.array([[h, w]], np.int32), (n, 1))


def valid(size, h, w):
    return (np.arange(h)[:, None] < size[0]) & (np.arange(w)[None] < size[1])


# Geometry


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32, np.float64])
@pytest.mark.parametrize("out_size", [(21, 40), (64, 30)])
def test_gathers_equal_the_products(dtype, out_size):
    settings = Augment(out_size, scale=(0.4, 2.5), flip=0.5, vertical_flip=0.5)
    double = dtype == np.float64
    with jax.enable_x64(double):
        image, label, size = batch(24, 37, 29, dtype=dtype, ids=range(256))
        size[::3], size[1::3] = (17, 23), (1, 29)
        got, ids = run(settings, KEY, image, label, size)
        want, wanted_ids = run(settings, KEY, image, label, size, platform=None)
    assert got.dtype == want.dtype and ids.dtype == wanted_ids.dtype
    # The coordinates' own rounding: 1 ulp of 37 px.
    np.testing.assert_allclose(got, want, rtol=0, atol=1e-12 if double else 1e-5)
    assert (ids != wanted_ids).mean() <= (0 if double else 1e-4)


@pytest.mark.parametrize("factor", [0.7, 1.6])
def test_scale_and_centre_crop_are_jax_image_resize_and_a_slice(factor):
    image, label, size = batch(2, 20, 26)
    size[1] = 17, 22
    settings = Augment((21, 24), scale=(factor, factor), crop="center")
    got, ids = run(settings, KEY, image, label, size)
    for b, (h, w) in enumerate(size):
        shape = round(h * factor), round(w * factor)
        x = image[b, :h, :w] / np.float32(255)
        x = jax.image.resize(x, (*shape, 3), "linear", antialias=False)
        # Nearest by the definition of a pixel's centre.
        rows = np.floor((np.arange(shape[0]) + 0.5) * h / shape[0]).astype(int)
        columns = np.floor((np.arange(shape[1]) + 0.5) * w / shape[1]).astype(int)
        y = label[b][rows][:, columns]
        want, wanted_ids = np.zeros((21, 24, 3)), np.full((21, 24), IGNORE)
        spans = []
        for scaled, out in zip(shape, (21, 24), strict=True):
            offset = (abs(scaled - out) + 1) // 2
            length = min(scaled, out)
            from_ = offset if scaled > out else 0
            to = 0 if scaled > out else offset
            spans.append((slice(from_, from_ + length), slice(to, to + length)))
        (sy, ty), (sx, tx) = spans
        want[ty, tx], wanted_ids[ty, tx] = x[sy, sx], y[sy, sx]
        np.testing.assert_allclose(got[b], want, atol=2e-6)
        np.testing.assert_array_equal(ids[b], wanted_ids)


def test_flips_are_reversals():
    image, label, size = batch(2, 12, 15)
    settings = Augment((12, 15), flip=1.0, vertical_flip=1.0)
    got, ids = run(settings, KEY, image, label, size)
    np.testing.assert_allclose(got, image[:, ::-1, ::-1] / 255.0, atol=1e-6)
    np.testing.assert_array_equal(ids, label[:, ::-1, ::-1])


def test_a_larger_image_is_cropped_inside_anywhere_and_a_smaller_one_kept_whole():
    n = 96
    # The label is the row, the image the column: together the place in the source.
    image = np.tile(np.arange(20, dtype=np.uint8)[None, None, :, None], (n, 18, 1, 1))
    label = np.tile(np.arange(18, dtype=np.uint8)[None, :, None], (n, 1, 20))
    size = np.tile(np.array([[16, 6]], np.int32), (n, 1))  # higher, narrower than out
    got, ids = (np.array(a) for a in run(Augment((12, 9)), KEY, image, label, size))
    columns, tops = np.rint(got[..., 0] * 255).astype(int), set()
    lefts = set()
    for x, y in zip(columns, ids, strict=True):
        left = int(np.argmax((y != IGNORE).any(0)))
        assert (y[:, left : left + 6] == y[0, left] + np.arange(12)[:, None]).all()
        assert (x[:, left : left + 6] == np.arange(6)[None]).all()
        outside = np.delete(np.arange(9), np.arange(left, left + 6))
        assert (y[:, outside] == IGNORE).all() and (x[:, outside] == 0).all()
        tops.add(int(y[0, left]))
        lefts.add(left)
    assert tops == set(range(5)) and lefts == set(range(4))  # uniform, all met


def test_scale_is_uniform_and_relative_to_the_image():
    n = 256
    label = np.zeros((n, 16, 40), np.uint8)
    image = np.zeros((n, 16, 40, 1), np.uint8)
    size = np.tile(np.array([[16, 40]], np.int32), (n, 1))
    settings = Augment((32, 80), scale=(0.5, 2.0), crop="top_left")
    _, ids = run(settings, KEY, image, label, size)
    kept = np.asarray(ids) != IGNORE
    height, width = kept.any(2).sum(1), kept.any(1).sum(1)
    assert height.min() >= 8 and height.max() <= 32
    np.testing.assert_allclose(width / 40, height / 16, atol=0.04)
    # A third of the draws shrink: 85 with a standard deviation of 7.5.
    assert abs((width < 40).sum() - 85) < 30


def ramps(n, h, w):
    """Channels that hold the row and the column, and ids that name 4x4 cells."""
    y, x = np.mgrid[:h, :w].astype(np.float32)
    image = np.stack([y / h, x / w, 0.5 * np.ones_like(x)], -1)
    label = ((y // 4) * 8 + x // 4).astype(np.uint8)
    size = np.tile(np.array([[h, w]], np.int32), (n, 1))
    return np.tile(image[None], (n, 1, 1, 1)), np.tile(label[None], (n, 1, 1)), size


@pytest.mark.parametrize("rotation", [0.0, 20.0])
def test_image_and_label_stay_aligned(rotation):
    image, label, size = ramps(8, 32, 32)
    settings = Augment(
        (28, 30),
        scale=(0.6, 1.8),
        flip=0.5,
        vertical_flip=0.5,
        cutmix=0.5,
        rotation=rotation,
    )
    got, ids = (np.array(a) for a in run(settings, KEY, image, label, size))
    inside = ids != IGNORE
    assert 0.3 < inside.mean() <= 1 and (got[~inside] == 0).all()
    y, x = got[..., 0] * 32, got[..., 1] * 32
    named = np.rint(got[..., 2] * 2).astype(bool)
    np.testing.assert_array_equal(named, inside)
    # The nearest pixel's cell, but within rounding of a pixel's edge.
    want = (np.floor(y + 0.5) // 4) * 8 + np.floor(x + 0.5) // 4
    edge = (abs(y % 1 - 0.5) < 0.01) | (abs(x % 1 - 0.5) < 0.01)
    sure = inside & ~edge
    assert sure.sum() > 2000
    np.testing.assert_array_equal(ids[sure], want[sure])


def test_rotation_turns_about_the_centre_by_at_most_the_angle():
    image, label, size = ramps(16, 33, 33)
    settings = Augment((33, 33), rotation=20.0)
    got, _ = (np.array(a) for a in run(settings, KEY, image, label, size))
    y, x = got[..., 0] * 33, got[..., 1] * 33
    np.testing.assert_allclose(y[:, 16, 16], 16, atol=1e-3)
    np.testing.assert_allclose(x[:, 16, 16], 16, atol=1e-3)
    down = np.stack([y[:, 20, 16] - 16, x[:, 20, 16] - 16])
    np.testing.assert_allclose(np.hypot(*down), 4, atol=1e-3)
    angles = np.rad2deg(np.arctan2(down[1], down[0]))
    assert 10 < abs(angles).max() <= 20.001 and angles.min() < 0 < angles.max()


ALL = Augment((18, 13), **EVERYTHING, rotation=30.0)
SETTINGS = [
    {"scale": (0.6, 1.8)},
    {"flip": 0.5, "vertical_flip": 0.5, "crop": "center"},
    {"cutmix": 0.5, "crop": "top_left"},
    {"rotation": 30.0},
    EVERYTHING,
    EVERYTHING | {"rotation": 30.0},
]


def eight():
    """One batch for several tests, so that they share a compilation."""
    image, label, size = batch(8, 16, 20, ids=(1, 6, 200, 254))
    size[2] = 9, 20
    return image, label, size


@pytest.mark.parametrize("change", SETTINGS, ids=lambda c: "+".join(c)[:30])
def test_ids_out_are_ids_in_or_ignore(change):
    image, label, size = eight()
    settings = Augment((18, 13), **change)
    x, ids = (np.array(a) for a in run(settings, KEY, image, label, size))
    assert x.shape == (8, 18, 13, 3) and x.dtype == np.float32
    assert ids.shape == (8, 18, 13) and ids.dtype == np.int32
    assert set(np.unique(ids)) <= {1, 6, 200, 254, IGNORE}
    assert np.isfinite(x).all() and x.min() >= 0 and x.max() <= 1 + 1e-6
    assert (x[ids == IGNORE] == 0).all()


# Colour: the factor is read off the result, then every pixel has to follow it.


def colour(change, image, size=None):
    n, h, w, _ = image.shape
    if size is None:
        size = np.tile(np.array([[h, w]], np.int32), (n, 1))
    label = np.zeros((n, h, w), np.uint8)
    settings = Augment((h, w), crop="top_left", **change)
    return np.asarray(run(settings, KEY, image, label, size)[0], np.float64)


def colours(channels=3, n=4):
    rng = np.random.default_rng(5)
    return rng.random((n, 6, 7, channels)).astype(np.float32)


@pytest.mark.parametrize("channels", [1, 3, 5])
def test_brightness_multiplies_and_clips(channels):
    image = colours(channels)
    got = colour({"brightness": 0.4}, image)
    for x, y in zip(image, got, strict=True):
        darkest = np.unravel_index(np.argmin(x), x.shape)
        factor = y[darkest] / x[darkest]
        assert 0.6 <= factor <= 1.4
        np.testing.assert_allclose(y, np.clip(x * factor, 0, 1), atol=1e-6)
    assert len({round(float(y.mean()), 5) for y in got}) == 4


def luma(x):
    if x.shape[-1] == 3:
        return x @ np.array([0.2989, 0.587, 0.114])
    return x.mean(-1)


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_contrast_blends_with_the_mean_of_the_valid_area(channels):
    image, size = colours(channels), np.tile(np.array([[6, 5]], np.int32), (4, 1))
    got = colour({"contrast": 0.4}, image, size)
    for x, y in zip(image[:, :, :5].astype(np.float64), got[:, :, :5], strict=True):
        mean = luma(x).mean()
        at = np.unravel_index(np.argmax(np.where((y > 0) & (y < 1), x, -1)), x.shape)
        factor = (y[at] - mean) / (x[at] - mean)
        assert 0.6 <= factor <= 1.4
        want = np.clip(factor * x + (1 - factor) * mean, 0, 1)
        np.testing.assert_allclose(y, want, atol=1e-5)
    assert (got[:, :, 5:] == 0).all()


def test_saturation_blends_with_the_gray_image():
    image = colours()
    got = colour({"saturation": 0.4}, image)
    for x, y in zip(image.astype(np.float64), got, strict=True):
        gray = luma(x)[..., None]
        away = np.where((y > 0) & (y < 1), abs(x - gray), -1)
        at = np.unravel_index(np.argmax(away), x.shape)
        factor = (y[at] - gray[at[:2]][0]) / (x[at] - gray[at[:2]][0])
        assert 0.6 <= factor <= 1.4
        want = np.clip(factor * x + (1 - factor) * gray, 0, 1)
        np.testing.assert_allclose(y, want, atol=1e-5)


def test_hue_is_colorsys():
    image = colours()
    image[:, 0] = image[:, 0, :, :1]  # gray has no hue
    got = colour({"hue": 0.3}, image)
    for x, y in zip(image.astype(np.float64), got, strict=True):
        turn = colorsys.rgb_to_hsv(*y[3, 3])[0] - colorsys.rgb_to_hsv(*x[3, 3])[0]
        turn = (turn + 0.5) % 1 - 0.5
        assert abs(turn) <= 0.3
        for before, after in zip(x.reshape(-1, 3), y.reshape(-1, 3), strict=True):
            h, s, v = colorsys.rgb_to_hsv(*before)
            want = colorsys.hsv_to_rgb((h + turn) % 1, s, v)
            np.testing.assert_allclose(after, want, atol=2e-5)
    assert np.ptp(got - image, axis=0).max() > 0.05


def test_floats_beyond_one_keep_their_range():
    """Reflectances of thousands, with the mean and std of the config."""
    image = colours(4) * 3000 - 200
    got = colour({"brightness": 0.2, "contrast": 0.2}, image)
    for x, y in zip(image, got, strict=True):
        assert x.min() - 0.01 <= y.min() and 1500 < y.max() <= x.max() + 0.01
        assert np.corrcoef(x.ravel(), y.ravel())[0, 1] > 0.95


def test_hue_and_saturation_need_three_channels():
    image = colours(4)
    np.testing.assert_allclose(colour({"hue": 0.5, "saturation": 1}, image), image)


@pytest.mark.parity
def test_colour_formulas_are_torchvisions():
    torch = require_parity("torch")
    functional = require_parity("torchvision.transforms.v2.functional")
    image = colours()
    x = torch.from_numpy(image).permute(0, 3, 1, 2)

    def check(got, want):
        np.testing.assert_allclose(got, want.permute(0, 2, 3, 1), atol=2e-5)

    shift = jnp.full((4, 1, 1, 1), -0.2)
    check(shift_hue(jnp.asarray(image), shift), functional.adjust_hue(x, -0.2))
    gray = functional.rgb_to_grayscale(x)
    check(gray_of(jnp.asarray(image)), gray)


def test_blur_is_scipys_gaussian_filter():
    image = np.random.default_rng(6).random((2, 24, 25, 2)).astype(np.float32)
    size = np.array([[24, 25], [20, 24]], np.int32)
    got = colour({"blur": 1.0, "blur_sigma": (1.3, 1.3)}, image, size)
    for x, y, (h, w) in zip(image.astype(np.float64), got, size, strict=True):
        sigma = (1.3, 1.3, 0)
        mask = valid((h, w), 24, 25)[..., None] * np.ones(2)
        options = {"mode": "constant", "truncate": 8.0}
        total = ndimage.gaussian_filter(mask, sigma, **options)
        want = ndimage.gaussian_filter(x * mask, sigma, **options) / total
        np.testing.assert_allclose(y[:h, :w], want[:h, :w], atol=2e-6)


def test_blur_touches_about_as_many_as_asked():
    image = np.random.default_rng(6).random((64, 8, 8, 1)).astype(np.float32)
    got = colour({"blur": 0.5, "blur_sigma": (1.0, 2.0)}, image)
    same = (abs(got - image).max((1, 2, 3)) < 1e-6).sum()
    assert 16 < same < 48


def test_cutmix_pastes_boxes_of_the_example_before():
    n = 128
    image = np.tile(np.arange(n, dtype=np.float32)[:, None, None, None], (1, 20, 20, 1))
    label = np.tile(np.arange(n, dtype=np.uint8)[:, None, None], (1, 20, 20))
    size = np.full((n, 2), 20, np.int32)
    got, ids = (
        np.array(a) for a in run(Augment((20, 20), cutmix=0.5), KEY, image, label, size)
    )
    np.testing.assert_array_equal(got[..., 0], ids)
    own = np.arange(n)[:, None, None]
    pasted = ids == (own - 1) % n
    assert ((ids == own) | pasted).all()
    share = pasted.mean((1, 2))
    assert 32 < (share > 0).sum() < 80
    assert share.max() > 0.5
    for mask in pasted[share > 0]:
        box = mask.any(1)[:, None] & mask.any(0)[None]
        np.testing.assert_array_equal(mask, box)


# Types, keys, devices, programs


def test_types_and_channel_counts():
    for channels, other in ((1, np.uint16), (6, np.float32)):
        image, label, size = batch(2, 10, 12, channels)
        mean, std = (0.5,) * channels, (0.25,) * channels
        settings = Augment((8, 14), crop="center", mean=mean, std=std)
        want, ids = run(settings, KEY, image, label, size)
        assert want.shape == (2, 8, 14, channels)
        top = 65535 if other == np.uint16 else 1
        same = (image / 255 * top).astype(other)
        got, other_ids = run(settings, KEY, same, label, size)
        np.testing.assert_allclose(got, want, atol=1e-5)
        np.testing.assert_array_equal(ids, other_ids)


def test_normalize_and_prepare_eval():
    image, _, size = batch(2, 6, 7)
    size[0] = 4, 5
    mean, std = (0.4, 0.5, 0.6), (0.2, 0.3, 0.4)
    want = (image.astype(np.float64) / 255 - mean) / std
    np.testing.assert_allclose(augment.normalize(image, mean, std), want, atol=1e-6)
    got = augment.prepare_eval(jnp.asarray(image), jnp.asarray(size), mean, std)
    for b in range(2):
        mask = valid(size[b], 6, 7)[..., None]
        np.testing.assert_allclose(got[b], np.where(mask, want[b], 0), atol=1e-6)


def test_float64_flows_with_the_same_draws():
    image, label, size = eight()
    want, ids = run(ALL, KEY, image, label, size)
    with jax.enable_x64(True):
        # Of the integers, in float64, as the other run reads them.
        got, other = run(ALL, KEY, image / 255, label, size)
        assert got.dtype == np.float64
    np.testing.assert_array_equal(ids, other)
    np.testing.assert_allclose(got, want, atol=2e-5)


def test_an_example_depends_on_its_own_key_only():
    image, label, size = eight()
    x, ids = run(ALL, KEY, image, label, size)
    again, again_ids = run(ALL, KEY, image[4:], label[4:], size[4:], jnp.arange(4, 8))
    # CutMix takes from the example before: the first one's is another one here.
    np.testing.assert_allclose(x[5:], again[1:], atol=1e-6)
    np.testing.assert_array_equal(ids[5:], again_ids[1:])
    same = (np.repeat(a[:1], 8, axis=0) for a in (image, label, size))
    x, _ = run(ALL, KEY, *same)
    assert len({float(v) for v in x.mean((1, 2, 3))}) == 8


def test_the_batch_is_the_same_on_eight_devices():
    image, label, size = eight()
    want, ids = run(ALL, KEY, image, label, size)
    mesh = Mesh(np.array(jax.devices()), ("data",))
    split = NamedSharding(mesh, PartitionSpec("data"))
    arrays = [jax.device_put(a, split) for a in (image, label, size)]
    program = run.lower(ALL, KEY, *arrays).compile()
    assert "all-gather" not in program.as_text()
    got, other = program(KEY, *arrays)
    assert got.sharding.is_equivalent_to(split, got.ndim)
    np.testing.assert_array_equal(ids, other)
    np.testing.assert_allclose(got, want, atol=1e-6)


def compiled(platform="cpu", **change):
    image, label, size = batch(2, 16, 20)
    settings = Augment((12, 12), **change)
    lowered = run.lower(settings, KEY, image, label, size, platform=platform)
    return lowered.compile().as_text()


def test_what_is_off_is_not_in_the_program():
    off = compiled(crop="top_left")
    for operation in (" dot(", " gather(", " xor(", " exponential(", "custom-call"):
        assert operation not in off, operation
    separable = compiled(scale=(0.5, 2.0), flip=0.5)
    assert " gather(" in separable and " dot(" not in separable
    plain = compiled(scale=(0.5, 2.0), flip=0.5, platform=None)
    assert " dot(" in plain and " gather(" not in plain


def test_mistakes_are_named():
    for change, text in (
        ({"flip": 1.5}, "augment.flip = 1.5: a probability"),
        ({"scale": (2.0, 1.0)}, "0 < low <= high"),
        ({"rotation": -3.0}, "augment.rotation = -3.0"),
        ({"hue": 0.7}, "at most 0.5"),
        ({"crop": "middle"}, "center, random, top_left"),
        ({"std": (0.0,)}, "augment.std"),
    ):
        with pytest.raises(ValueError, match=text.replace("(", r"\(")):
            Augment((8, 8), **change)
    assert Augment((8, 8), scale=[1.0, 1.0]) == Augment((8, 8))  # type: ignore
    with pytest.raises(ValueError, match="one value per channel"):
        augment.normalize(np.zeros((4, 4, 3)), (0.1, 0.2), (1.0,))


# Crops that are brought to one size: of classification


def coordinates(n, h, w, buffer=(48, 64)):
    """Float images whose two channels are the row and the column of each pixel."""
    y, x = np.mgrid[: buffer[0], : buffer[1]].astype(np.float32)
    image = np.tile(np.stack([y, x], -1)[None], (n, 1, 1, 1))
    size = np.tile(np.array([[h, w]], np.int32), (n, 1))
    return image, np.arange(n, dtype=np.int32), size


def crop_boxes(got, out):
    """(top, left, height, width) f[n] of the crops, from their inner samples' places.

    Linear interpolation of a ramp is exact where no sample lies beyond the outermost
    pixel's centre, as those in the middle do not.
    """
    boxes = []
    for axis, along in ((0, got[:, :, 0, 0]), (1, got[:, 0, :, 1])):
        middle, n = out[axis] // 2, out[axis]
        step = along[:, middle] - along[:, middle - 1]
        # The crop's first edge, in units of pixels' left edges.
        start = along[:, middle] + 0.5 - (middle + 0.5) * step
        start = np.where(step < 0, start + n * step, start)  # flipped
        boxes.append((start, np.abs(step) * n))
    (top, height), (left, width) = boxes
    return top, left, height, width


@pytest.mark.parametrize("platform", ["cpu", None])
def test_a_crop_by_area_and_aspect_lies_inside_and_is_as_drawn(platform):
    n, h, w, out = 400, 40, 60, (12, 16)
    image, label, size = coordinates(n, h, w)
    settings = Augment(out, flip=0.5, crop_area=(0.2, 0.6), crop_aspect=(0.5, 2.0))
    got, classes = run(settings, KEY, image, label, size, platform=platform)
    got = np.asarray(got)
    assert got.shape == (n, *out, 2) and classes.dtype == np.int32
    np.testing.assert_array_equal(classes, label)
    top, left, height, width = crop_boxes(got, out)
    assert top.min() > -1e-3 and (top + height).max() < h + 1e-3
    assert left.min() > -1e-3 and (left + width).max() < w + 1e-3
    area, aspect = height * width / (h * w), width / height
    # No drawn side is longer than the image's but the height (at most 38 < 40 and 54 <
    # 60 pixels): sqrt(0.6 * 2400 / 0.5) = 54 > 40 is cut.
    free = height < h - 1e-2
    assert area[free].min() > 0.2 - 1e-3 and area.max() < 0.6 + 1e-3
    assert aspect[free].min() > 0.5 - 1e-2 and aspect.max() < 2 + 1e-2
    assert 0.05 < 1 - free.mean() < 0.4
    # Uniform place and flip: means within 4 standard errors.
    free = (h - height) > 1
    assert abs((top[free] / (h - height[free])).mean() - 0.5) < 4 / np.sqrt(12 * n)
    flipped = got[:, 0, 8, 1] < got[:, 0, 7, 1]
    assert abs(flipped.mean() - 0.5) < 4 * 0.5 / np.sqrt(n)


def test_the_whole_area_with_the_images_aspect_is_the_resized_image():
    image, label, size = batch(2, 20, 26)
    settings = Augment((10, 13), crop_area=(1.0, 1.0), crop_aspect=(1.3, 1.3))
    got, _ = run(settings, KEY, image, np.zeros(2, np.int32), size)
    want = jax.image.resize(
        image / np.float32(255), (2, 10, 13, 3), "linear", antialias=False
    )
    np.testing.assert_allclose(got, want, atol=2e-5)


def test_a_crop_by_the_shorter_side_keeps_the_scale():
    n, h, w, out = 64, 40, 60, (16, 16)
    image, label, size = coordinates(n, h, w)
    settings = Augment(out, shorter_side=(20.0, 32.0))
    top, left, height, width = crop_boxes(
        np.asarray(run(settings, KEY, image, label, size)[0]), out
    )
    np.testing.assert_allclose(height, width, rtol=1e-3)
    # The shorter side of 40 px becomes S: 16 px of the output are 16 * 40 / S of it.
    side = 16 * h / height
    assert 20 - 1e-2 < side.min() < 21 and 31 < side.max() < 32 + 1e-2
    assert left.min() > -1e-3 and (left + width).max() < w + 1e-3
    assert left.std() > 5  # it moves
    # A shorter side below the output's: the largest crop that fits.
    small = Augment(out, shorter_side=(8.0, 8.0))
    top, left, height, width = crop_boxes(
        np.asarray(run(small, KEY, image, label, size)[0]), out
    )
    np.testing.assert_allclose(height, h, rtol=1e-4)


def test_mistakes_of_crops():
    for wrong in (
        {"crop_area": (0.5, 1.5)},
        {"crop_area": (0.0, 1.0)},
        {"crop_area": (0.5, 1.0), "shorter_side": (8.0, 9.0)},
        {"shorter_side": (9.0, 8.0)},
    ):
        with pytest.raises(ValueError, match="augment.(crop_area|shorter_side) = "):
            Augment((4, 4), **wrong)
    image, _, size = batch(2, 8, 8)
    with pytest.raises(ValueError, match="cutmix"):
        augment_batch(Augment((8, 8), cutmix=0.5), KEY, image, np.zeros(2, int), size)

"""Augmentation inside jit: pure functions of (settings, key, image, label).

Every example has its own key, ``fold_in(key, position in the global batch)``, from
which all its random numbers are drawn at once, each decision having its own place among
them: a batch comes out the same on any number of devices, and switching one operation
on leaves the draws of the others alone.
Scale, crop, flip and rotation are ONE coordinate map per example: order 1 for the image
and order 0 for the label, so label ids out are a subset of ids in and IGNORE. Settings
are static: what is off is not in the compiled program.

What the choices are:

* scale: ``s`` is uniform in ``scale``, relative to the image's own valid area
  ``h x w``, which becomes ``round(s h) x round(s w)``. Plain bilinear, without
  antialiasing: down to s = 0.5 no pixel of the image goes unseen; below, some do.
* crop: where the scaled image is larger than ``out_size`` the crop lies inside it;
  where it is smaller the whole image is placed inside the crop. "random": uniformly,
  by whole pixels; "center" and "top_left" are deterministic.
* crop_area, crop_aspect (instead of scale; Szegedy et al. 2015,
  https://arxiv.org/abs/1409.4842): the crop has a share of the image's area uniform in
  ``crop_area`` and an aspect (width / height) whose logarithm is uniform in that of
  ``crop_aspect``; a side longer than the image's is cut to it. It lies uniformly inside
  the image and is brought to ``out_size``.
* shorter_side (likewise; Krizhevsky et al. 2012, Simonyan & Zisserman 2015, "scale
  jittering"): the image is scaled, keeping its aspect, so that its shorter side is
  uniform in ``shorter_side`` pixels, at least what ``out_size`` needs, and cropped.
* rotation: uniform in ``[-rotation, rotation]`` degrees about the crop's centre.
* blur: Gaussian, with weights renormalised inside the valid area.
* colour: the formulas of torchvision's ColorJitter on values in [0, 1], which are kept
  in [0, 1]; where a float image goes beyond, in its own range. Factors are uniform in
  ``[max(0, 1 - x), 1 + x]``, hue shifts in ``[-hue, hue]`` of a turn. The order is
  fixed: brightness, contrast, saturation, hue.
  Saturation and hue act on 3 channels only; contrast is about the mean of the
  valid area.
* CutMix (Yun et al. 2019, https://arxiv.org/abs/1905.04899; for segmentation French et
  al. 2020, https://arxiv.org/abs/1906.01916): a box of area 1 - lambda, lambda uniform
  in [0, 1], around a uniform centre, is taken from the example before in the batch
  (from the last one for the first).
"""

import math
from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jax import lax

from segjax.batch import IGNORE
from segjax.ops import crops, sampling, table
from segjax.ops.blur import gaussian_blur
from segjax.ops.colour import gray, shift_hue, value_range

# Each random decision's place among the example's random numbers. Append only: the
# places are part of what a seed means.
(_SCALE, _CROP_ROW, _CROP_COLUMN, _FLIP, _VERTICAL, _ROTATION) = range(6)
(_BRIGHTNESS, _CONTRAST, _SATURATION, _HUE, _BLUR, _SIGMA) = range(6, 12)
(_CUTMIX, _BOX_AREA, _BOX_ROW, _BOX_COLUMN) = range(12, 16)
(_AREA, _ASPECT) = range(16, 18)
_DECISIONS = 18

_CROPS = {"top_left": 0.0, "center": 0.5, "random": None}


@dataclass(frozen=True)
class Augment:
    """What to do to a training batch; everything is off unless given.

    ``scale`` (low, high) factors; ``flip``, ``vertical_flip``, ``blur``, ``cutmix``
    probabilities; ``rotation`` the largest angle in degrees; ``brightness``,
    ``contrast``, ``saturation``, ``hue`` the largest changes (hue in turns, at most
    0.5); ``blur_sigma`` (low, high) in pixels; ``crop`` random | center | top_left;
    ``mean`` and ``std`` of the values in [0, 1], one number or one per channel.
    ``crop_area`` (low, high) shares of the image with ``crop_aspect`` (low, high) width
    / height, or ``shorter_side`` (low, high) pixels: see the module.
    """

    out_size: tuple[int, int]
    scale: tuple[float, float] = (1.0, 1.0)
    flip: float = 0.0
    vertical_flip: float = 0.0
    rotation: float = 0.0
    brightness: float = 0.0
    contrast: float = 0.0
    saturation: float = 0.0
    hue: float = 0.0
    blur: float = 0.0
    blur_sigma: tuple[float, float] = (0.1, 2.0)
    cutmix: float = 0.0
    crop: str = "random"
    crop_area: tuple[float, float] | None = None
    crop_aspect: tuple[float, float] = (3 / 4, 4 / 3)
    shorter_side: tuple[float, float] | None = None
    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)

    def __post_init__(self):
        pairs = ("scale", "blur_sigma", "crop_area", "crop_aspect", "shorter_side")
        pairs = tuple(name for name in pairs if getattr(self, name) is not None)
        for name in ("out_size", "mean", "std", *pairs):
            # Lists (as from JSON) could not be hashed, nor compared with a tuple.
            object.__setattr__(self, name, tuple(getattr(self, name)))
        for name in ("flip", "vertical_flip", "blur", "cutmix"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(
                    f"augment.{name} = {getattr(self, name)}: a probability lies "
                    "between 0 and 1"
                )
        for name in ("rotation", "brightness", "contrast", "saturation", "hue"):
            if getattr(self, name) < 0:
                raise ValueError(
                    f"augment.{name} = {getattr(self, name)}: give the largest change, "
                    "0 (off) or more"
                )
        if self.hue > 0.5:
            raise ValueError(f"augment.hue = {self.hue}: at most 0.5, half a turn")
        for name in pairs:
            low, high = getattr(self, name)
            if not 0 < low <= high:
                raise ValueError(
                    f"augment.{name} = {(low, high)}: give (low, high), 0 < low <= high"
                )
        area, side = self.crop_area, self.shorter_side
        if area is not None and (area[1] > 1 or side is not None):
            raise ValueError(
                f"augment.crop_area = {area}: at most 1, and without shorter_side"
            )
        if self.crop not in _CROPS:
            raise ValueError(
                f"augment.crop = {self.crop!r}: one of {', '.join(sorted(_CROPS))}"
            )
        if min(self.out_size) < 1:
            raise ValueError(f"augment.out_size = {self.out_size}: at least 1 x 1")
        if min(self.std) <= 0:
            raise ValueError(f"augment.std = {self.std}: above 0")


def _fraction(image: jax.Array) -> jax.Array:
    """Integers as fractions of their largest value, floats as they are: f[...]."""
    if jnp.issubdtype(image.dtype, jnp.integer):
        return image.astype(jnp.float32) / jnp.iinfo(image.dtype).max
    return image.astype(jnp.promote_types(image.dtype, jnp.float32))


def _channels(values: tuple[float, ...], like: jax.Array) -> jax.Array:
    """``values`` as [1, ..., C] (or [1, ..., 1] for a single one)."""
    if len(values) not in (1, like.shape[-1]):
        raise ValueError(
            f"mean or std has {len(values)} values, but the image {like.shape[-1]} "
            "channels: give one value per channel, or one for all"
        )
    return jnp.asarray(values, like.dtype).reshape((1,) * (like.ndim - 1) + (-1,))


def normalize(
    image: jax.Array, mean: tuple[float, ...], std: tuple[float, ...]
) -> jax.Array:
    """(fraction - mean) / std: float32[..., C] (float64 for a float64 image).

    uint8 and uint16 are read as fractions of 255 and 65535, floats as they are.
    """
    x = _fraction(image)
    return (x - _channels(mean, x)) / _channels(std, x)


def _valid_mask(size: jax.Array, height: int, width: int) -> jax.Array:
    """bool[B, H, W]: the top left ``size`` i32[B, 2]."""
    rows = jnp.arange(height)[None, :] < size[:, :1]
    columns = jnp.arange(width)[None, :] < size[:, 1:]
    return rows[:, :, None] & columns[:, None, :]


def prepare_eval(
    image: jax.Array,
    size: jax.Array,
    mean: tuple[float, ...],
    std: tuple[float, ...],
) -> jax.Array:
    """Normalise ``image`` [B, H, W, C]; zero outside ``size`` i32[B, 2]."""
    mask = _valid_mask(size, *image.shape[1:3])
    return jnp.where(mask[..., None], normalize(image, mean, std), 0)


def _draws(key: jax.Array, positions: jax.Array) -> jax.Array:
    """f32[B, _DECISIONS], uniform in [0, 1); float32 under jax_enable_x64 too."""

    def one(position):
        own = jax.random.fold_in(key, position)
        return jax.random.uniform(own, (_DECISIONS,), jnp.float32)

    return jax.vmap(one)(positions)


def _pick(draws: jax.Array, decision: int, low=0.0, high=1.0) -> jax.Array:
    """f32[B]: the numbers of one decision, uniform in [low, high)."""
    return low + (high - low) * draws[:, decision]


def _axis_map(settings, axis, scale, crop, flip, size, dtype):
    """(start, step) f[B] from an output pixel to the source, along one axis."""
    out = settings.out_size[axis]
    if scale is None:
        step = jnp.ones(size.shape[0], dtype)
        spare = size[:, axis] - out
    else:
        scaled = jnp.maximum(jnp.round(size[:, axis] * scale), 1)
        step = size[:, axis].astype(dtype) / scaled.astype(dtype)
        spare = scaled.astype(jnp.int32) - out
    # Positive: how far the crop can move inside the image. Negative: how far the
    # image can move inside the crop. Whole pixels, so that scale 1 only copies.
    moves = jnp.floor(crop * (jnp.abs(spare) + 1).astype(crop.dtype))
    offset = jnp.sign(spare) * jnp.minimum(moves.astype(jnp.int32), jnp.abs(spare))
    start = (offset.astype(dtype) + 0.5) * step - 0.5
    if flip is None:
        return start, step
    return jnp.where(flip, start + (out - 1) * step, start), jnp.where(
        flip, -step, step
    )


def _crop_maps(settings: Augment, draws, size, dtype):
    """As :func:`_coordinate_maps`, for crops by area or by the shorter side."""
    share = settings.crop_area or settings.shorter_side or (1.0, 1.0)
    drawn = _pick(draws, _AREA, *share)
    if settings.crop_area is not None:
        low, high = (math.log(value) for value in settings.crop_aspect)
        aspect = jnp.exp(_pick(draws, _ASPECT, low, high))
        sides = crops.sides_of_area(size, drawn, aspect)
    else:
        sides = crops.sides_of_scale(size, drawn, settings.out_size)
    fixed = _CROPS[settings.crop]

    def axis_map(axis, flip_probability, operation):
        at = _pick(draws, (_CROP_ROW, _CROP_COLUMN)[axis]) if fixed is None else fixed
        flip = _pick(draws, operation) < flip_probability
        return crops.line_map(
            size[:, axis], sides[:, axis], at, flip, settings.out_size[axis], dtype
        )

    return (
        axis_map(0, settings.vertical_flip, _VERTICAL),
        axis_map(1, settings.flip, _FLIP),
    )


def _coordinate_maps(settings: Augment, draws, size, dtype):
    """((start, step) of rows, (start, step) of columns), each f[B]."""
    if settings.crop_area is not None or settings.shorter_side is not None:
        return _crop_maps(settings, draws, size, dtype)
    batch = size.shape[0]
    low, high = settings.scale
    scale = None
    if (low, high) != (1.0, 1.0):
        scale = _pick(draws, _SCALE, low, high)
    fixed = _CROPS[settings.crop]

    def axis_map(axis, flip_probability, operation):
        if fixed is None:
            crop = _pick(draws, (_CROP_ROW, _CROP_COLUMN)[axis])
        else:
            crop = jnp.full(batch, fixed, jnp.float32)
        flip = None
        if flip_probability > 0:
            flip = _pick(draws, operation) < flip_probability
        return _axis_map(settings, axis, scale, crop, flip, size, dtype)

    return (
        axis_map(0, settings.vertical_flip, _VERTICAL),
        axis_map(1, settings.flip, _FLIP),
    )


def _separable(settings: Augment, maps, x, label, size):
    """Scale, crop and flip by matrix products: (image, label, valid bool[B, h, w])."""

    def matrices(axis, order, dtype):
        def one(start, step, valid):
            return sampling.interpolation_matrix(
                settings.out_size[axis],
                x.shape[1 + axis],
                start=start,
                step=step,
                valid=valid,
                order=order,
                dtype=dtype,
            )

        start, step = maps[axis]
        return jax.vmap(one)(start, step, size[:, axis])

    image = sampling.sample_separable(
        x, matrices(0, 1, x.dtype), matrices(1, 1, x.dtype)
    )
    # Each label is one id times one: exact in any float type, for ids up to 255
    # even in the bfloat16 to which the default precision rounds on TPUs.
    rows, columns = matrices(0, 0, jnp.float32), matrices(1, 0, jnp.float32)
    ids = sampling.sample_separable(
        label[..., None], rows, columns, precision=lax.Precision.DEFAULT
    )
    valid = (rows.sum(-1) > 0)[:, :, None] & (columns.sum(-1) > 0)[:, None, :]
    return image, ids[..., 0].astype(jnp.int32), valid


def _gathered(settings: Augment, maps, image, label, size, dtype):
    """As :func:`_separable`, by gathers from the stored numbers."""
    start, step = (jnp.stack(values) for values in zip(*maps, strict=True))
    rows, columns = sampling.line_samples(
        settings.out_size, image.shape[1:3], start, step, size.T, dtype
    )
    x = sampling.gather_separable(image, rows, columns)
    if jnp.issubdtype(image.dtype, jnp.integer):
        x = x / jnp.iinfo(image.dtype).max
    ids, valid = sampling.gather_nearest(label, rows, columns)
    return x, jnp.where(valid, ids.astype(jnp.int32), 0), valid


def _rotated(settings: Augment, maps, draws, x, label, size):
    """As :func:`_separable`, with a rotation, by gathers."""
    height, width = settings.out_size
    angle = _pick(draws, _ROTATION, -settings.rotation, settings.rotation)
    angle = jnp.deg2rad(angle).astype(x.dtype)
    down = jnp.arange(height, dtype=x.dtype)[:, None] - (height - 1) / 2
    along = jnp.arange(width, dtype=x.dtype)[None, :] - (width - 1) / 2

    def one(angle, row_map, column_map, x, label, size):
        row = jnp.cos(angle) * down - jnp.sin(angle) * along + (height - 1) / 2
        column = jnp.sin(angle) * down + jnp.cos(angle) * along + (width - 1) / 2
        y = row_map[0] + row_map[1] * row
        at = column_map[0] + column_map[1] * column
        image = sampling.sample_at(x, y, at, size, order=1)
        ids = sampling.sample_at(label[..., None], y, at, size, order=0)
        valid = sampling.inside(y, size[0]) & sampling.inside(at, size[1])
        return image, ids[..., 0].astype(jnp.int32), valid

    return jax.vmap(one)(angle, maps[0], maps[1], x, label, size)


def _top_left(settings: Augment, x, label, size):
    """Crop and pad at the top left: static slices."""
    height, width = settings.out_size
    x, label = x[:, :height, :width], label[:, :height, :width]
    pad = ((0, 0), (0, height - x.shape[1]), (0, width - x.shape[2]))
    x = jnp.pad(x, (*pad, (0, 0)))
    label = jnp.pad(label.astype(jnp.int32), pad)
    return x, label, _valid_mask(size, height, width)


def _geometry(settings: Augment, draws, image, label, size, platform):
    """Scale, crop, flip and rotate: (f[B, h, w, C], i32[B, h, w], valid bool)."""
    x = _fraction(image)
    moving = settings.scale != (1.0, 1.0) or settings.crop != "top_left"
    moving |= settings.crop_area is not None or settings.shorter_side is not None
    flipping = settings.flip > 0 or settings.vertical_flip > 0
    if settings.rotation > 0:
        maps = _coordinate_maps(settings, draws, size, x.dtype)
        return _rotated(settings, maps, draws, x, label, size)
    if moving or flipping:
        maps = _coordinate_maps(settings, draws, size, x.dtype)
        if table.sample(platform) == "gather":
            return _gathered(settings, maps, image, label, size, x.dtype)
        return _separable(settings, maps, x, label, size)
    return _top_left(settings, x, label, size)


def _blur(settings: Augment, draws, x, valid):
    """Blur the examples drawn."""
    sigma = _pick(draws, _SIGMA, *settings.blur_sigma).astype(x.dtype)
    return gaussian_blur(x, valid, sigma, _pick(draws, _BLUR) < settings.blur)


def _jitter(settings: Augment, draws, x, valid, limits):
    """Brightness, contrast, saturation, hue, each if it is on."""

    def factor(change, operation):
        value = _pick(draws, operation, max(0.0, 1 - change), 1 + change)
        return value.astype(x.dtype)[:, None, None, None]

    low, high = limits

    def blend(x, other, amount):
        return jnp.clip(amount * x + (1 - amount) * other, low, high)

    if settings.brightness > 0:
        x = jnp.clip(x * factor(settings.brightness, _BRIGHTNESS), low, high)
    if settings.contrast > 0:
        mask = valid[..., None].astype(x.dtype)
        total = (gray(x) * mask).sum((1, 2, 3), keepdims=True)
        mean = total / jnp.maximum(mask.sum((1, 2, 3), keepdims=True), 1)
        x = blend(x, mean, factor(settings.contrast, _CONTRAST))
    if settings.saturation > 0 and x.shape[-1] == 3:
        x = blend(x, gray(x), factor(settings.saturation, _SATURATION))
    if settings.hue > 0 and x.shape[-1] == 3:
        shift = _pick(draws, _HUE, -settings.hue, settings.hue).astype(x.dtype)
        x = shift_hue(x, shift[:, None, None, None])
    return x


def _cutmix(settings: Augment, draws, x, label):
    """Paste a box of the example before into each example drawn."""
    height, width = settings.out_size
    chosen = _pick(draws, _CUTMIX) < settings.cutmix
    # Area 1 - lambda with lambda uniform, so each side is the root of a uniform.
    side = jnp.sqrt(_pick(draws, _BOX_AREA))

    def inside_box(n, operation):
        middle = _pick(draws, operation) * n
        at = jnp.arange(n, dtype=jnp.float32)[None, :] + 0.5
        return jnp.abs(at - middle[:, None]) < (side * n / 2)[:, None]

    mask = inside_box(height, _BOX_ROW)[:, :, None]
    mask = mask & inside_box(width, _BOX_COLUMN)[:, None, :]
    mask = mask & chosen[:, None, None]
    x = jnp.where(mask[..., None], jnp.roll(x, 1, axis=0), x)
    return x, jnp.where(mask, jnp.roll(label, 1, axis=0), label)


def augment_batch(
    settings: Augment,
    key: jax.Array,
    image: jax.Array,
    label: jax.Array,
    size: jax.Array,
    positions: jax.Array | None = None,
    platform: str | None = None,
) -> tuple[jax.Array, jax.Array]:
    """Augment and normalise a batch inside jit.

    ``key`` is folded from (seed, stream, step); ``image`` u8 | u16 | f32[B, Hb, Wb, C]
    and ``label`` u8[B, Hb, Wb] are valid in the top left ``size`` i32[B, 2];
    ``positions`` i32[B] are the examples' places in the global batch (0 to B-1 unless
    given; a microbatch gives its own); ``platform`` chooses the formulation
    (``ops/table.py``; None is the plain one). Returns float32[B, H, W, C] (float64 for
    a float64 image), zero outside the image, and int32[B, H, W] with IGNORE there,
    ``(H, W) = settings.out_size``. A ``label`` of one class per image, int[B], is
    returned as it is.
    """
    if positions is None:
        positions = jnp.arange(image.shape[0])
    draws = _draws(key, positions)
    if label.ndim == 1:
        if settings.cutmix > 0:
            raise ValueError("augment.cutmix mixes label maps, not images' classes")
        # A map that nobody reads is compiled away.
        nothing = jnp.zeros(image.shape[:3], jnp.uint8)
        x, _ = augment_batch(settings, key, image, nothing, size, positions, platform)
        return x, label.astype(jnp.int32)
    x, label, valid = _geometry(settings, draws, image, label, size, platform)
    if settings.blur > 0:
        x = _blur(settings, draws, x, valid)
    x = _jitter(settings, draws, x, valid, value_range(image))
    x = jnp.where(valid[..., None], normalize(x, settings.mean, settings.std), 0)
    label = jnp.where(valid, label, IGNORE)
    if settings.cutmix > 0:
        x, label = _cutmix(settings, draws, x, label)
    return x, label

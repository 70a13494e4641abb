"""Class probabilities of images of any size: whole or by windows, scales and flips.

A *view* of an image is one of its scales, as it is or flipped left-right. The network
sees each view whole, or by overlapping windows whose logits are blended; a view's
logits are brought to the image's own size, and the result is the mean over all views of
their probabilities.

The network is compiled for few shapes, whatever the images' sizes: once where it
sees windows, once per scale with ``fit="resize"``, and with ``fit="pad"`` once per
scale and padded size; the arrays around it once per scale and padded size. Of padded
sizes there are as many as a caller lets there be (:func:`padded_to`); of images whose
sizes are not known before, multiples of ``bucket``.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax.sharding import Mesh

from segjax import setup, sharding, windows
from segjax.augment import prepare_eval
from segjax.config import Config
from segjax.data import pipeline
from segjax.data.padding import Size, padded, padded_sizes, rounded_up
from segjax.ops.sampling import resize_logits
from segjax.preprocessing import pair


@dataclass(frozen=True)
class Recipe:
    """How an image goes through the network.

    ``mode`` "whole" or "slide": by windows of ``window`` (H, W) px that overlap by the
    fraction ``overlap`` at least and of which ``margin`` px at each end do not count
    (but at the image's ends); ``scales`` are factors on the size that a network of the
    run sees, ``flip`` adds the mirror image of each. ``bucket`` px: padded sizes are
    multiples of it, as are windows and where they begin. ``batch_size``: windows in one
    call of the network, over all devices.
    """

    mode: str = "whole"
    window: Size = (512, 512)
    overlap: float = 0.5
    margin: int = 0
    scales: tuple[float, ...] = (1.0,)
    flip: bool = False
    bucket: int = 32
    batch_size: int = 1

    @property
    def plain(self) -> bool:
        """Whether images are seen whole, once."""
        return self.mode == "whole" and self.scales == (1.0,) and not self.flip

    def check(self) -> None:
        """Refuse windows that do not fit their grid.

        Raises:
          ValueError: with what to write instead.
        """
        if self.mode == "slide" and any(n % self.bucket for n in self.window):
            up = tuple(-(-n // self.bucket) * self.bucket for n in self.window)
            raise ValueError(
                f"config.eval.window={self.window} is no multiple of "
                f"config.eval.bucket={self.bucket}; use {up}, or another bucket that "
                "the network's stride divides"
            )


class Views:
    """The function (variables, image [h, w, C]) -> float32[h, w, K] probabilities.

    Args:
      model: takes ``apply(variables, image f[B, H, W, C], train=False)``.
      mesh: where the variables lie; windows (and batches) are split over its devices.
      mean: of values in [0, 1], one per channel (or one for all).
      std: likewise.
      image_size: (H, W) that the network was trained on.
      fit: "resize": every image is brought to ``image_size`` (times the scale);
        "pad": it keeps its own.
      recipe: whole or windows, scales, flip.
      dtype: of the image that enters the network.

    Raises:
      ValueError: the recipe's windows do not fit; fit is unknown; the devices do
        not divide ``recipe.batch_size``.
    """

    def __init__(
        self,
        model: nn.Module,
        mesh: Mesh,
        *,
        mean: tuple[float, ...],
        std: tuple[float, ...],
        image_size: Size,
        fit: str,
        recipe: Recipe,
        dtype: Any = jnp.float32,
    ):
        recipe.check()
        pipeline.fit_size(image_size, image_size, fit)
        if recipe.mode == "slide":
            sharding.check_batch_size("config.eval.batch_size", recipe.batch_size, mesh)
        self.recipe, self.mesh = recipe, mesh
        self.image_size, self.fit = (int(image_size[0]), int(image_size[1])), fit
        self._blend = windows.make_blend(mesh)

        def network(variables, image, size, split):
            image = prepare_eval(image, size, mean, std).astype(dtype)
            if split:
                where = sharding.image_sharding(mesh)
                image = jax.lax.with_sharding_constraint(image, where)
                variables = sharding.gathered(variables, mesh)
            return cast(jax.Array, model.apply(variables, image, train=False))

        def finish(logits, size, out_size, flip, shape, resize):
            if recipe.mode == "slide":
                logits = logits.sum(0, keepdims=True)  # over the devices' canvases
            logits = _mirror(logits, size, flip)
            if resize:
                logits = resize_logits(logits, size, out_size, shape)
            probabilities = jax.nn.softmax(logits[:, : shape[0], : shape[1]])
            return probabilities / (len(recipe.scales) * (1 + recipe.flip))

        # jit keeps one program per shape; the network's are few, and the others small.
        self.network = jax.jit(network, static_argnames="split")
        self._finish = jax.jit(finish, static_argnames=("shape", "resize"))
        self._add = jax.jit(jnp.add, donate_argnums=0)
        self._reduce = jax.jit(
            lambda p: (jnp.argmax(p, -1).astype(jnp.uint8), p.max(-1))
        )

    def __call__(self, variables: Any, image: np.ndarray) -> np.ndarray:
        """float32[h, w, K] of an image u8 | u16 | f32[h, w, C], both on the host.

        Raises:
          ValueError: the image is not [h, w, C].
        """
        if image.ndim != 3:
            raise ValueError(
                f"the image has shape {image.shape}; give [height, width, channels]"
            )
        own = (image.shape[0], image.shape[1])
        found = self.on_devices(variables, [image], self.up(own))
        return np.asarray(jax.device_get(found))[0, : own[0], : own[1]]

    def label(
        self, variables: Any, image: np.ndarray, known: Sequence[Size] = ()
    ) -> tuple[np.ndarray, np.ndarray]:
        """uint8[h, w], float32[h, w]: each pixel's likeliest class, its probability.

        Of an image as in a call; only these leave the device, not K values for each
        pixel. ``known``: padded sizes, of which the least that holds the image is
        taken; else it is rounded up to multiples of the bucket.

        Raises:
          ValueError: the device's memory does not hold the image.
        """
        height, width = image.shape[:2]
        shape = padded((height, width), known, self.recipe.bucket)
        try:
            found = self.on_devices(variables, [image], shape)
            label, confidence = jax.device_get(self._reduce(found))
        except jax.errors.JaxRuntimeError as error:
            if "RESOURCE_EXHAUSTED" not in str(error):
                raise
            told = f"{height}x{width} px do not fit the device's memory"
            if self.fit == "pad" and self.recipe.mode == "whole":
                told += "; add --config.eval.mode=slide, which labels by windows"
            raise ValueError(told) from error
        return label[0, :height, :width], confidence[0, :height, :width]

    def up(self, size: Size) -> Size:
        """A size rounded up to multiples of the bucket."""
        return rounded_up(size, self.recipe.bucket)

    def on_devices(
        self, variables: Any, images: Sequence[np.ndarray], shape: Size
    ) -> jax.Array:
        """float32[B, *shape, K] of images that ``shape`` holds, in whole buckets.

        Image b's own area is the top left; outside it the values mean nothing. What is
        compiled depends on ``shape``, not on the images' sizes. Every process gives all
        the images. Windows take one image at a time.

        Raises:
          ValueError: several images, by windows.
        """
        slide = self.recipe.mode == "slide"
        if slide and len(images) > 1:
            raise ValueError("windows take one image at a time; give one")
        own = np.array([image.shape[:2] for image in images], np.int32)
        total = None
        for scale in self.recipe.scales:
            sizes = [self._size(image.shape[:2], scale) for image in images]
            views = [
                pipeline.resize_image(image, size)
                for image, size in zip(images, sizes, strict=True)
            ]
            resize = self.fit == "resize" or scale != 1
            for flip in (False, True)[: 1 + self.recipe.flip]:
                turned = [view[:, ::-1] if flip else view for view in views]
                buffer = self._shape(shape, scale)
                if slide:
                    logits = self._slide(variables, turned[0], buffer)
                else:
                    logits = self._whole(variables, turned, buffer)
                size = np.array(sizes, np.int32)
                share = self._finish(
                    logits, size, own, flip, shape=shape, resize=resize
                )
                total = share if total is None else self._add(total, share)
        return cast(jax.Array, total)

    def _size(self, own: tuple[int, ...], scale: float) -> Size:
        """Of a view, in pixels."""
        height, width = self.image_size if self.fit == "resize" else own
        return max(1, round(scale * height)), max(1, round(scale * width))

    def _shape(self, shape: Size, scale: float) -> Size:
        """Of the array that holds a whole view: a function of ``shape``, not of own."""
        if self.fit == "resize":
            return self._size((), scale)
        return self.up((int(np.ceil(scale * shape[0])), int(np.ceil(scale * shape[1]))))

    def _put(self, array: np.ndarray, split: bool) -> jax.Array:
        """On the mesh, split over devices or whole on each."""
        mesh = self.mesh
        where = sharding.batch_sharding(mesh) if split else sharding.replicated(mesh)
        return jax.make_array_from_callback(array.shape, where, array.__getitem__)

    def _whole(self, variables, views: Sequence[np.ndarray], buffer: Size) -> jax.Array:
        """Logits f[B, *buffer, K]."""
        image, size = pipeline.stack(views, buffer, 0)
        split = len(views) % sharding.batch_parts(self.mesh) == 0
        arrays = (self._put(x, split) for x in (image, size))
        return self.network(variables, *arrays, split=split)

    def _slide(self, variables, view: np.ndarray, buffer: Size) -> jax.Array:
        """Logits f[D, H, W, K], still to be summed over the devices.

        [H, W] is ``buffer``, or a window where that is larger; zeros lie beyond the
        view.
        """
        recipe = self.recipe
        size = (view.shape[0], view.shape[1])
        plan = windows.layout(
            size,
            recipe.window,
            overlap=recipe.overlap,
            step=recipe.bucket,
            margin=recipe.margin,
        )
        height, width = recipe.window
        canvas = (max(buffer[0], plan.canvas[0]), max(buffer[1], plan.canvas[1]))
        (image,), _ = pipeline.stack([view], plan.canvas, 0)
        total, step = None, recipe.batch_size
        for start in range(0, len(plan.corners), step):
            corners, rows, columns = (
                # What fills the last call up weighs nothing.
                _filled(x[start : start + step], step)
                for x in (plan.corners, plan.rows, plan.columns)
            )
            pieces = np.stack(
                [
                    image[top : top + height, left : left + width]
                    for top, left in corners
                ]
            )
            valid = np.clip(np.array([size], np.int32) - corners, 1, recipe.window)
            logits = self.network(
                variables,
                self._put(pieces, True),
                self._put(valid.astype(np.int32), True),
                split=True,
            )
            if total is None:
                total = self._canvas(canvas, logits)
            weights = (self._put(x, True) for x in (corners, rows, columns))
            total = self._blend(total, logits, *weights)
        return cast(jax.Array, total)

    def _canvas(self, size: Size, logits: jax.Array) -> jax.Array:
        """Zeros f[D, H, W, K], one sum for each device."""
        shape = (sharding.batch_parts(self.mesh), *size, logits.shape[-1])
        where = sharding.batch_sharding(self.mesh)
        return jnp.zeros(shape, logits.dtype, device=where)


def _filled(array: np.ndarray, rows: int) -> np.ndarray:
    """The array with zeros up to so many rows."""
    missing = rows - array.shape[0]
    return np.pad(array, ((0, missing), *((0, 0),) * (array.ndim - 1)))


def _mirror(logits: jax.Array, size: jax.Array, flip: jax.Array) -> jax.Array:
    """Each row's first ``size[b, 1]`` columns in the other order, if ``flip``."""
    place = jnp.arange(logits.shape[2])[None, :]
    other = size[:, 1:] - 1 - place
    place = jnp.where(flip & (other >= 0), other, place)
    return jnp.take_along_axis(logits, place[:, None, :, None], axis=2)


def padded_to(config: Config, sizes: Iterable[Size]) -> tuple[Size, ...]:
    """The padded sizes (h, w) of images of ``sizes``: as many as ``eval.programs``.

    A function of the config and of all the sizes.
    """
    return padded_sizes(sizes, config.eval.bucket, config.eval.programs)


def advice(config: Config, sizes: Sequence[Size], training: bool = False) -> list[str]:
    """A line, where images of ``sizes`` are padded more than to whole buckets.

    ``training``: in its evaluations, which see images whole whatever the mode.
    """
    bucket, known = config.eval.bucket, padded_to(config, sizes)
    usual = [rounded_up(size, bucket) for size in sizes]
    count = len(set(usual))
    if config.data.fit != "pad" or count <= len(known):
        return []
    joined = [padded(size, known, bucket) for size in sizes]
    more, less = (sum(h * w for h, w in found) for found in (joined, usual))
    told = (
        f"{count} padded sizes of images are joined to {len(known)} "
        f"(config.eval.programs), which adds {more / less - 1:.0%} pixels"
    )
    if training or config.eval.mode == "slide":
        return [told]
    return [f"{told}; --config.eval.mode=slide compiles one network, for windows"]


def shrunk(config: Config, sizes: Sequence[Size]) -> list[str]:
    """A line on images that training would shrink, but evaluation sees as they are."""
    data = config.data
    if data.fit != "pad" or data.buffer_size is None:
        return []
    buffer = pair(data.buffer_size)
    count = sum(h > buffer[0] or w > buffer[1] for h, w in sizes)
    if not count:
        return []
    return [
        f"{count} of the {len(sizes)} images to evaluate are larger than "
        f"config.data.buffer_size={data.buffer_size}: training shrinks such images "
        "into it, evaluate and predict do not, and see another scale; raise it"
    ]


def without_effect(config: Config) -> list[str]:
    """A line on windows that hold all that the network gets to see of an image."""
    recipe, size = recipe_of(config), pair(config.data.image_size)
    seen = [max(recipe.scales) * length for length in size]
    if recipe.mode == "whole" or config.data.fit != "resize":
        return []
    if any(n > w for n, w in zip(seen, recipe.window, strict=True)):
        return []
    return [
        "config.eval.mode='slide' changes nothing: config.data.fit='resize' brings "
        f"every image to {size[0]}x{size[1]}, which is one window; train with "
        "data.fit='pad' for windows at the images' own size"
    ]


def recipe_of(config: Config) -> Recipe:
    """The config's ``eval`` knobs; a window that is not given is the training size."""
    options = config.eval
    bucket = options.bucket
    if options.window is None:
        size = pair(config.data.image_size)
        window = rounded_up(size, bucket)
    else:
        window = pair(options.window)
    return Recipe(
        mode=options.mode,
        window=window,
        overlap=options.overlap,
        margin=options.margin,
        scales=tuple(float(scale) for scale in options.scales),
        flip=options.flip,
        bucket=bucket,
        batch_size=options.batch_size or config.data.batch_size,
    )


def views_of(parts: setup.Parts) -> Views:
    """The run's network, seen as its config's ``eval`` knobs say."""
    return Views(
        parts.model,
        parts.mesh,
        mean=parts.pre.mean,
        std=parts.pre.std,
        image_size=parts.pre.image_size,
        fit=parts.pre.fit,
        recipe=recipe_of(parts.config),
        dtype=parts.dtype,
    )

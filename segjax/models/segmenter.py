"""Encoder, decoder and head as one model for images of any size."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from segjax.models.heads import FCNHead
from segjax.models.layers import Layers
from segjax.ops.packed import Packed
from segjax.ops.scores import Rule, Scores, finish


class Segmenter(nn.Module):
    """Image -> logits. Parameters: ``encoder/...``, ``decoder/...``, ``head/...``.

    A decoder module has ``__call__(features, size, train) -> map``, ``any_size``,
    ``head_kernel`` (0: its map is the scores) and ``head_init``. Decoders that want
    sizes in multiples of the stride (``any_size`` False) get the image padded at the
    right and the bottom.

    ``auxiliary`` is an FCN head on the second deepest map, or the encoder's
    ``auxiliary_map``. In training its logits are sown in the collection "auxiliary", at
    the image's size; by :meth:`scores` as unfinished scores, too.
    """

    encoder: nn.Module
    decoder: nn.Module
    num_classes: int
    in_channels: int
    layers: Layers
    align_corners: bool = False
    auxiliary: FCNHead | None = None

    @nn.compact
    def scores(
        self, image: jax.Array, *, train: bool = False, finished: bool = False
    ) -> Scores:
        """Image f[B, H, W, C] -> unfinished scores in the compute dtype.

        ``finished``: those of the auxiliary head are sown as logits.
        """
        if image.ndim != 4 or image.shape[3] != self.in_channels:
            raise ValueError(
                f"image has shape {image.shape}; this model takes "
                f"[B, H, W, {self.in_channels}]"
            )
        crop = size = (image.shape[1], image.shape[2])
        if not self.decoder.any_size:
            stride = max(self.encoder.strides)
            size = (-(-size[0] // stride) * stride, -(-size[1] // stride) * stride)
            extra = ((0, size[0] - crop[0]), (0, size[1] - crop[1]))
            image = jnp.pad(image, ((0, 0), *extra, (0, 0)))
        features = self.encoder(image.astype(self.layers.dtype), train=train)
        array = self.decoder(features, size, train=train)
        if self.decoder.head_kernel:
            array = self.layers.conv(
                self.num_classes,
                self.decoder.head_kernel,
                kernel_init=self.decoder.head_init,
                fill_lanes=True,
                name="head",
            )(array)
        rule = Rule(
            size,
            crop,
            self.align_corners,
            spatial=self.layers.spatial,
            platform=self.layers.platform,
        )
        if self.auxiliary is not None and (train or self.is_initializing()):
            which = getattr(self.encoder, "auxiliary_map", -2)
            scores = self.auxiliary(features.maps[which], train)
            self.sow(
                "auxiliary",
                "logits",
                finish(Scores(scores, rule)) if finished else Scores(scores, rule),
                # Not a growing tuple: the logits of init are not to stay.
                reduce_fn=lambda before, now: now,
                init_fn=lambda: jnp.zeros(()),
            )
        if isinstance(array, Packed):
            rule = rule._replace(packed=array.window, num_classes=self.num_classes)
            return Scores(array.array, rule)
        return Scores(array, rule)

    def __call__(self, image: jax.Array, *, train: bool = False) -> jax.Array:
        """Image f[B, H, W, C] -> logits float32[B, H, W, K] (float64: see build)."""
        return finish(self.scores(image, train=train, finished=True))

"""Encoder and published head as one model that classifies whole images."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from segjax.models.layers import Layers


class Classifier(nn.Module):
    """Image -> logits of the whole image. Parameters: ``encoder/...``, ``head/...``."""

    encoder: nn.Module
    head: nn.Module
    num_classes: int
    in_channels: int
    layers: Layers

    def __call__(self, image: jax.Array, *, train: bool = False) -> jax.Array:
        """Image f[B, H, W, C] -> logits float32[B, K] (float64: see build)."""
        return self.scores(image, train=train)

    @nn.compact
    def scores(self, image: jax.Array, *, train: bool = False) -> jax.Array:
        """The logits: unlike a Segmenter's scores they need no finishing."""
        if image.ndim != 4 or image.shape[3] != self.in_channels:
            raise ValueError(
                f"image has shape {image.shape}; this model takes "
                f"[B, H, W, {self.in_channels}]"
            )
        features = self.encoder(image.astype(self.layers.dtype), train=train)
        logits = self.head(features, train)
        return logits.astype(jnp.promote_types(logits.dtype, jnp.float32))

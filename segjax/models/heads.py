"""Heads: what stands on an encoder or beside a decoder."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp

from segjax.models.dense import Initializer, normal_002
from segjax.models.layers import Features, Layers, torch_uniform
from segjax.models.naming import Name
from segjax.ops.pool import adaptive_avg_pool


class PoolDense(nn.Module):
    """Classify the deepest map: mean over the pixels, dropout, one dense layer.

    ``activation`` comes before all that, where the encoder leaves it to its classifier.
    ``torch`` gives the dense layer's module name in each naming.
    """

    num_classes: int
    layers: Layers
    like: str = "segjax"
    dropout: float = 0.0
    kernel_init: Initializer = normal_002
    torch: Mapping[str, str] | None = None
    activation: Callable[[jax.Array], jax.Array] | None = None

    @nn.compact
    def __call__(self, features: Features, train: bool) -> jax.Array:
        """Features -> logits [B, num_classes]."""
        x = features.maps[-1]
        x = jnp.mean(x if self.activation is None else self.activation(x), (1, 2))
        x = self.layers.dropout(x, self.dropout, train)
        return self.layers.dense(
            self.num_classes, kernel_init=self.kernel_init, name="dense"
        )(x)

    @nn.nowrap
    def torch_name(self, path: tuple[str, ...], naming: str) -> Name:
        """The dense layer's name."""
        return (self.torch or {"torchvision": "fc"}).get(naming)


class PoolNormDense(nn.Module):
    """Classify the deepest map: mean over the pixels, layer norm, one dense layer.

    ``norm_first`` normalises the pixels, before the mean. ``torch`` gives the names of
    "norm" and "dense" in each naming.
    """

    num_classes: int
    layers: Layers
    like: str = "segjax"
    eps: float = 1e-6
    norm_first: bool = False
    torch: Mapping[str, Mapping[str, str]] | None = None

    @nn.compact
    def __call__(self, features: Features, train: bool) -> jax.Array:
        """Features -> logits [B, num_classes]."""
        x, norm = features.maps[-1], self.layers.layer_norm(eps=self.eps, name="norm")
        x = jnp.mean(norm(x), (1, 2)) if self.norm_first else norm(jnp.mean(x, (1, 2)))
        return self.layers.dense(self.num_classes, name="dense")(x)

    @nn.nowrap
    def torch_name(self, path: tuple[str, ...], naming: str) -> Name:
        """The layer's name."""
        return (self.torch or {}).get(naming, {}).get(path[0])


class FCNHead(nn.Module):
    """3x3 convolution, norm, ReLU, dropout, 1x1 convolution: torchvision's FCN head.

    ``channels`` None: a quarter of the input's.
    """

    num_classes: int
    layers: Layers
    channels: int | None = None
    dropout: float = 0.1

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """x[B, h, w, C] -> scores [B, h, w, num_classes]."""
        layers = dataclasses.replace(self.layers, kernel_init=torch_uniform)
        width = self.channels or x.shape[3] // 4
        x = layers.conv_before_norm(width, 3, name="conv")(x)
        x = layers.norm(relu=True, name="norm")(x, train)
        x = layers.dropout(x, self.dropout, train)
        return layers.conv(self.num_classes, 1, name="score")(x)

    TORCH: ClassVar[dict[str, dict[str, str]]] = {
        "torchvision": {"conv": "0", "norm": "1", "score": "4"},
        "transformers": {
            "conv": "convs.0.conv",
            "norm": "convs.0.batch_norm",
            "score": "classifier",
        },
    }

    @nn.nowrap
    def torch_name(self, path: tuple[str, ...], naming: str) -> Name:
        """Torchvision's numbers, transformers' names, else our own."""
        return self.TORCH.get(naming, {}).get(path[0], path[0])


def torch_default(fan_in: int) -> dict[str, Initializer]:
    """PyTorch's own initial values: kernel and bias U(-b, b), b = 1 / sqrt(fan_in)."""
    bound = fan_in**-0.5

    def uniform(key, shape, dtype=jnp.float32):
        return jax.random.uniform(key, shape, dtype, -bound, bound)

    return {"kernel_init": uniform, "bias_init": uniform}


class ThreeDense(nn.Module):
    """AlexNet's and VGG's classifier: pool to ``size``, then three dense layers.

    Dropout stands after the first two (VGG) or before them (``dropout_first``).
    ``initializers`` makes a dense layer's fields from its fan-in; ``torch`` names the
    layers in torchvision.
    """

    num_classes: int
    layers: Layers
    like: str = "segjax"
    size: tuple[int, int] = (7, 7)
    width: int = 4096
    dropout: float = 0.5
    dropout_first: bool = False
    initializers: Callable[[int], Mapping[str, Initializer]] = torch_default
    torch: tuple[str, str, str] = ("classifier.0", "classifier.3", "classifier.6")

    @nn.compact
    def __call__(self, features: Features, train: bool) -> jax.Array:
        """Features -> logits [B, num_classes]."""
        x = adaptive_avg_pool(features.maps[-1], self.size)
        x = x.transpose(0, 3, 1, 2).reshape(x.shape[0], -1)  # torch's order

        def dense(x, features, name):
            options = self.initializers(x.shape[1])
            return self.layers.dense(features, name=name, **options)(x)

        for name in ("dense1", "dense2"):
            if self.dropout_first:
                x = self.layers.dropout(x, self.dropout, train)
            x = nn.relu(dense(x, self.width, name))
            if not self.dropout_first:
                x = self.layers.dropout(x, self.dropout, train)
        return dense(x, self.num_classes, "dense3")

    @nn.nowrap
    def torch_name(self, path: tuple[str, ...], naming: str) -> Name:
        """The dense layers' numbers in torchvision's ``classifier``."""
        number = int(path[0].removeprefix("dense")) - 1
        return self.torch[number] if naming == "torchvision" else None

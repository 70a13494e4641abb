"""Atrous spatial pyramid pooling (Chen et al. 2017, arXiv 1706.05587)."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from segjax.models.decoders.blocks import ConvNorm, layers_of_means
from segjax.models.layers import Layers

# As SMP calls them, of decoders with this block.
ASPP_OPTIONS = ("decoder_channels", "decoder_atrous_rates", "decoder_aspp_dropout")


class ASPP(nn.Module):
    """A 1x1 convolution, 3x3 ones dilated by ``rates`` and the image's mean, joined.

    The mean over the map is a branch like the others, batch norm included. A 1x1
    convolution of all branches and dropout follow.
    """

    features: int = 256
    rates: tuple[int, ...] = (12, 24, 36)
    separable: bool = False
    dropout: float = 0.5
    layers: Layers = Layers()

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """x[B, H, W, C] -> [B, H, W, features]."""
        layers, width = self.layers, self.features
        block = layers.block(ConvNorm)
        branches = [block(width, 1, layers=layers, name="conv0")(x, train)]
        for i, rate in enumerate(self.rates, 1):
            branch = block(
                width,
                dilation=rate,
                separable=self.separable,
                layers=layers,
                name=f"conv{i}",
            )
            branches.append(branch(x, train))
        mean = jnp.mean(x, (1, 2), keepdims=True)
        pooled = block(
            width,
            1,
            layers=layers_of_means(layers),
            name=f"pooled{len(branches)}",
        )
        mean = pooled(mean, train)
        branches.append(jnp.broadcast_to(mean, branches[0].shape))
        x = jnp.concatenate(branches, 3)
        x = block(width, 1, layers=layers, name="project")(x, train)
        return layers.dropout(x, self.dropout, train)


def torch_name_in_aspp(path: tuple[str, ...]) -> str:
    """SMP's and torchvision's name (they agree) of a path in :class:`ASPP`."""
    branch, layer = path
    part = ConvNorm.SEQUENTIAL[layer]
    if branch == "project":
        return f"project.{part}"
    if branch.startswith("pooled"):  # in its nn.Sequential the pooling comes first
        return f"convs.{branch.removeprefix('pooled')}.{int(part) + 1}"
    return f"convs.{branch.removeprefix('conv')}.{part}"

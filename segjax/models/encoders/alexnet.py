"""AlexNet, torchvision's: the one-tower network of Krizhevsky 2014 ("one weird trick").

It differs from Krizhevsky, Sutskever & Hinton 2012 in its widths and has neither two
towers nor local response normalisation.
"""

from functools import partial
from typing import ClassVar

import flax.linen as nn
import jax

from segjax.models.heads import ThreeDense, torch_default
from segjax.models.layers import Features, Layers
from segjax.models.naming import Name

SMALLEST = 63  # pixels of a side that leave one after the last pooling


class AlexNet(nn.Module):
    """Five convolutions; maps after the first, second and fifth, and the last pooling.

    No layer keeps or halves sizes exactly: a side n becomes (n - 7) // 4 + 1, and each
    3x3 pooling makes (n - 1) // 2 of n. 224 pixels give 55, 27, 13 and 6.
    """

    layers: Layers = Layers()
    like: str = "segjax"
    widths: tuple[int, int, int, int, int] = (64, 192, 384, 256, 256)
    strides: ClassVar[tuple[int, ...]] = (4, 8, 16, 32)
    provides: ClassVar[tuple[str, ...]] = ("fully connected layers",)
    namings: ClassVar[tuple[str, ...]] = ("torchvision",)
    classifier_head: ClassVar = staticmethod(
        partial(
            ThreeDense,
            size=(6, 6),
            dropout_first=True,
            initializers=torch_default,
            torch=("classifier.1", "classifier.4", "classifier.6"),
        )
    )
    head_names: ClassVar[tuple[str, ...]] = ("classifier.*",)

    @nn.compact
    def __call__(self, image: jax.Array, *, train: bool) -> Features:
        """image[B, H, W, C] -> Features; see the class for the maps' sizes.

        Raises:
          ValueError: a side is below 63 pixels; nothing is left after the last pooling.
        """
        if min(image.shape[1:3]) < SMALLEST:
            raise ValueError(
                f"alexnet keeps nothing of an image of {image.shape[1]}x"
                f"{image.shape[2]} pixels: a side must have at least {SMALLEST}; "
                "enlarge the images (data.image_size) or take another encoder"
            )

        def conv(number, x, kernel_size, **options):
            layer = self.layers.conv(
                self.widths[number - 1],
                kernel_size,
                name=f"conv{number}",
                **torch_default(kernel_size**2 * x.shape[3]),
                **options,
            )
            return nn.relu(layer(x))

        def pool(x):
            return self.layers.max_pool(x, 3, 2)

        first = conv(1, image, 11, strides=4, padding=2)
        second = conv(2, pool(first), 5)
        x = conv(3, pool(second), 3)
        x = conv(4, x, 3)
        fifth = conv(5, x, 3)
        return Features((first, second, fifth, pool(fifth)))

    @nn.nowrap
    def torch_name(self, path: tuple[str, ...], naming: str) -> Name:
        """``features.N``: torchvision numbers convolutions, ReLUs and pools."""
        number = {"conv1": 0, "conv2": 3, "conv3": 6, "conv4": 8, "conv5": 10}
        return f"features.{number[path[0]]}"


alexnet = partial(AlexNet)

"""What is timed: one network here and in segmentation_models_pytorch, and its data."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import jax.numpy as jnp
import numpy as np

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
LEARNING_RATE, MOMENTUM = 1e-3, 0.9
CLASSES = {
    "unet": "Unet",
    "fpn": "FPN",
    "deeplabv3plus": "DeepLabV3Plus",
    "segformer": "Segformer",
}
"""Decoder -> its class in segmentation_models_pytorch."""

NETWORKS: tuple[str, ...] = (
    "resnet50 unet",
    "resnet18 unet",
    "resnet18 deeplabv3plus",
    "mit_b0 segformer",
    "vgg16_bn unet",
    "mobilenet_v2 fpn",
    "tf_efficientnet_lite0 unet",
)


@dataclass(frozen=True)
class Network:
    """An encoder and a decoder at one batch shape."""

    encoder: str
    decoder: str
    batch: int
    size: int
    classes: int = 21

    @property
    def key(self) -> str:
        """Its row in the record."""
        return f"{self.encoder} {self.decoder} {self.batch}x{self.size}x{self.size}"

    def fields(self) -> dict[str, Any]:
        """Plain values, from which another process makes it again."""
        return asdict(self)

    def segjax(self, **options: Any):
        """The model here, by SMP's rules and the formulations for a CPU."""
        from segjax.models import build

        options = {"like": "smp", "platform": "cpu", **options}
        return build(self.encoder, self.decoder, self.classes, **options)

    def torch(self):
        """SMP's model, initialised as it does it."""
        import segmentation_models_pytorch as smp

        name = self.encoder
        if name.startswith("tf_efficientnet_lite"):
            name = f"timm-{name}"
        kind = getattr(smp, CLASSES[self.decoder])
        return kind(name, encoder_weights=None, classes=self.classes)

    def example(self) -> dict[str, np.ndarray]:
        """A training batch as segjax.batch has it; every tenth pixel is IGNORE."""
        rng = np.random.default_rng(0)
        shape = (self.batch, self.size, self.size)
        label = rng.integers(0, self.classes, shape, np.uint8)
        label[rng.random(shape) < 0.1] = 255
        size = np.full((self.batch, 2), self.size, np.int32)
        image = rng.integers(0, 256, (*shape, 3), np.uint8)
        return {"image": image, "label": label, "size": size}

    def image(self, dtype: Any = np.float32) -> np.ndarray:
        """float[B, H, W, 3], normalised."""
        image = self.example()["image"] / 255
        return ((image - np.array(MEAN)) / np.array(STD)).astype(dtype)


def variables_of(model: Any, state: Any) -> Mapping[str, Any]:
    """Variables of a model here from SMP's state dict or its file, as JAX arrays."""
    import jax

    from segjax.weights import load_torch

    return jax.tree.map(jnp.asarray, load_torch(model, state, naming="smp"))

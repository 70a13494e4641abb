"""Class activation maps: where in an image a classifier sees a class.

For networks that average the deepest map and classify the mean by one linear layer,
CAM (Zhou et al. 2016, "Learning deep features for discriminative localization"): that
layer applied at every position. For other heads on the deepest map Grad-CAM (Selvaraju
et al. 2017): the map's channels, each weighted by the mean gradient of the class's
logit, and what is positive of their sum.

A map is as fine as the network's deepest: an encoder with ``output_stride=8`` gives
finer ones. A vision transformer's head sees a token, no map, and has none of this.
"""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from scipy import ndimage

from segjax.models.classifier import Classifier
from segjax.models.encoders import efficientnet
from segjax.models.encoders.vit import ClassTokenHead
from segjax.models.heads import PoolDense, PoolNormDense
from segjax.models.layers import Features

THRESHOLD = 0.2
"""Of the largest activation: the paper's."""

Variables = Mapping[str, Any]


def is_linear(model: Classifier) -> bool:
    """Whether the head averages the deepest map and is linear after: CAM's case."""
    head = model.head
    if isinstance(head, PoolNormDense):
        return head.norm_first
    return isinstance(head, PoolDense | efficientnet.Head)


def has_maps(model: Classifier) -> bool:
    """Whether the head sees a map; a vision transformer's sees a token."""
    return not isinstance(model.head, ClassTokenHead)


def _apply(module, name: str, variables: Variables, *args, **options) -> Any:
    """A part of the classifier with its part of the variables."""
    own = {kind: tree[name] for kind, tree in variables.items() if name in tree}
    return module.apply(own, *args, **options)


def _features(model: Classifier, variables: Variables, image: jax.Array) -> Features:
    if not has_maps(model):
        raise ValueError(
            "this network's head sees a token, no map: it has no class activation "
            "maps; take another encoder than a vision transformer"
        )
    image = image.astype(model.layers.dtype)
    return _apply(model.encoder, "encoder", variables, image, train=False)


def _logits(model: Classifier, variables: Variables, features: Features) -> jax.Array:
    logits = _apply(model.head, "head", variables, features, False)
    return logits.astype(jnp.promote_types(logits.dtype, jnp.float32))


def class_maps(
    model: Classifier, variables: Variables, image: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """CAM of every class.

    Args:
      model: with a linear head (:func:`is_linear`).
      variables: of the model.
      image: f[B, H, W, C] as the model takes it.

    Returns:
      Logits float32[B, K], and maps float32[B, h, w, K]: their mean over the positions
      and the last layer's bias make the logits.

    Raises:
      ValueError: the head is not linear.
    """
    if not is_linear(model):
        raise ValueError(
            f"{type(model.head).__name__} is not linear in the mean of a map; use "
            "grad_cam"
        )
    features = _features(model, variables, image)
    deepest = features.maps[-1]
    batch, height, width, channels = deepest.shape
    # An image of one position is its own mean.
    single = deepest.reshape(-1, 1, 1, channels)
    each = _logits(model, variables, Features((single,))) - _bias(variables)
    return (
        _logits(model, variables, features),
        each.reshape(batch, height, width, -1),
    )


def _bias(variables: Variables) -> jax.Array:
    """f[1, K] of the last layer, which every linear head calls "dense"."""
    return variables["params"]["head"]["dense"]["bias"][None]


def grad_cam(
    model: Classifier, variables: Variables, image: jax.Array, classes: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Grad-CAM of some classes of each image, on the deepest map.

    Args:
      model: any but a vision transformer.
      variables: of the model.
      image: f[B, H, W, C] as the model takes it.
      classes: int[B, n].

    Returns:
      Logits float32[B, K] and maps float32[B, h, w, n], none negative.

    Raises:
      ValueError: the head sees no map.
    """
    features = _features(model, variables, image)
    deepest = features.maps[-1]

    def logits(deepest):
        maps = (*features.maps[:-1], deepest)
        return _logits(model, variables, features._replace(maps=maps))

    found, backward = jax.vjp(logits, deepest)

    def one(column):  # the n-th class of every image: images do not mix
        (gradient,) = backward(
            jax.nn.one_hot(column, found.shape[1], dtype=found.dtype)
        )
        weight = jnp.mean(gradient, (1, 2), keepdims=True)
        return jax.nn.relu((weight * deepest).sum(-1))

    maps = jax.lax.map(one, classes.T)  # [n, B, h, w]
    return found, maps.transpose(1, 2, 3, 0).astype(jnp.float32)


def activation_maps(
    model: Classifier, variables: Variables, image: jax.Array, top: int
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """The classes with the largest logits, and the map of each: CAM, else Grad-CAM.

    Args:
      model: any but a vision transformer.
      variables: of the model.
      image: f[B, H, W, C] as the model takes it.
      top: how many classes, n.

    Returns:
      Logits float32[B, K], classes int32[B, n] (the largest logit first) and maps
      float32[B, h, w, n].
    """
    if is_linear(model):
        logits, maps = class_maps(model, variables, image)
        classes = jax.lax.top_k(logits, top)[1]
        return logits, classes, jnp.take_along_axis(maps, classes[:, None, None], -1)
    features = _features(model, variables, image)
    logits = _logits(model, variables, features)
    classes = jax.lax.top_k(logits, top)[1]
    return logits, classes, grad_cam(model, variables, image, classes)[1]


def heat(activation: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """A map f[h, w] at ``size`` (H, W), bilinear, as float64 in [0, 1].

    What is negative is 0 and the largest 1; all is 0 where nothing is positive.
    """
    positive = np.maximum(np.asarray(activation, np.float64), 0)
    rows, columns = (
        # Pixel centres, as the network's own resizing has them; edges are repeated.
        np.clip((np.arange(n) + 0.5) * m / n - 0.5, 0, m - 1)
        for n, m in zip(size, positive.shape, strict=True)
    )
    grid = np.meshgrid(rows, columns, indexing="ij")
    full = ndimage.map_coordinates(positive, grid, order=1, mode="nearest")
    highest = full.max()
    return full / highest if highest > 0 else full


def box(heat: np.ndarray, threshold: float = THRESHOLD) -> tuple[int, int, int, int]:
    """(x0, y0, x1, y1) around the largest region above ``threshold``, Zhou et al.

    ``heat`` f[h, w] is in [0, 1]; pixels that share a side are connected; x1 and y1 are
    exclusive. All of the image where nothing is above.
    """
    numbers, count = ndimage.label(heat > threshold)  # type: ignore
    if not count:
        return 0, 0, heat.shape[1], heat.shape[0]
    largest = 1 + int(np.argmax(np.bincount(numbers.reshape(-1))[1:]))
    rows, columns = ndimage.find_objects(numbers)[largest - 1]
    return columns.start, rows.start, columns.stop, rows.stop

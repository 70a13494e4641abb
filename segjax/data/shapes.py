"""Rendered scenes of eight classes: the data of the quick start and of the tests.

A scene is a wall and a floor with objects in front that hide one another. A class shows
in shape and texture; its colours scatter by more than they differ between classes, so
that the colour of a pixel says little (a colour histogram reaches a mIoU of 0.20) and a
network has to look around.
"""

from collections.abc import Callable, Sequence
from functools import lru_cache

import numpy as np

from segjax.batch import IGNORE, ClassSpec, Example, LabelSpec

SPLITS = ("train", "val")

SPEC = LabelSpec(
    names=("wall", "floor", "disk", "square", "triangle", "star", "ring", "pole"),
    palette=(
        (70, 80, 100),
        (128, 100, 70),
        (220, 60, 60),
        (60, 140, 220),
        (240, 200, 50),
        (150, 80, 200),
        (60, 190, 110),
        (250, 250, 250),
    ),
)

# Of whole images: the one object in front of wall and floor.
OBJECTS = ClassSpec(SPEC.names[2:])

# How often an object is of class 2, 3, ...: uneven, as in real data.
_FREQUENCY = np.array([0.2, 0.18, 0.17, 0.17, 0.15, 0.13])
# Colours lean by class, as in real data, but by less than they scatter (+- 0.3).
_LEANING = 0.15
_TINTS = np.array(
    [
        (0, 0, 0),
        (0, 0, 0),
        (1, -1, -1),
        (-1, -1, 1),
        (1, 1, -1),
        (1, -1, 1),
        (-1, 1, -1),
        (1, 1, 1),
    ]
)
_POLE = 7
_STAR_INNER = 0.5  # inner radius of a star over its outer radius
_RING_WIDTH = 0.022  # of the IGNORE ring, over the image's shorter side


class Shapes:
    """One split of rendered scenes; a function of (seed, split, index, size) alone.

    The same index at another size is the same scene, drawn finer: positions and
    lengths are fractions of the image's shorter side. ``image`` is uint8[h, w, 3].

    Raises:
      ValueError: the split is unknown, or a size or a number of examples is not
        positive.
    """

    channels = 3
    spec = SPEC

    def __init__(
        self,
        split: str,
        *,
        image_size: int | Sequence[int] = 64,
        seed: int = 0,
        train_examples: int = 3000,
        val_examples: int = 200,
    ):
        if split not in SPLITS:
            raise ValueError(
                f"'shapes' has no split {split!r}; write {' or '.join(SPLITS)}"
            )
        size = (image_size,) * 2 if isinstance(image_size, int) else tuple(image_size)
        if len(size) != 2 or min(size) < 8:
            raise ValueError(
                f"data.image_size={image_size!r}: 'shapes' draws 8 x 8 pixels or more; "
                "write one int or (height, width)"
            )
        examples = train_examples if split == "train" else val_examples
        if examples < 1:
            raise ValueError(f"the split {split!r} of 'shapes' has {examples} examples")
        self.split, self.seed = split, seed
        self._shape = (int(size[0]), int(size[1]))
        self._examples = examples

    def __len__(self) -> int:
        return self._examples

    def __getitem__(self, index: int) -> Example:
        if not 0 <= index < len(self):
            raise IndexError(f"{self.split} has {len(self)} examples, not {index}")
        image, label = self._draw(index)
        return {"image": image, "label": label, "id": self.ids()[index]}

    def _draw(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        entropy = [self.seed, SPLITS.index(self.split), index]
        return render(np.random.default_rng(entropy), *self._shape)

    def size(self, index: int) -> tuple[int, int]:
        """Height and width: the same for every index."""
        return self._shape

    def ids(self) -> Sequence[str]:
        """``train_00000``, ``train_00001``, ..."""
        return _ids(self.split, len(self))


class ShapeClasses(Shapes):
    """For classification: scenes with one object each; the label is its kind.

    Arguments as of :class:`Shapes`; the scenes are others than there.
    """

    spec = OBJECTS

    def _draw(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        # Three numbers seed a scene of several objects, four one of a single object.
        entropy = [self.seed, SPLITS.index(self.split), index, 1]
        image, label = render(np.random.default_rng(entropy), *self._shape, objects=1)
        kinds = np.bincount(label[label != IGNORE], minlength=SPEC.num_classes)[2:]
        return image, np.asarray(kinds.argmax(), np.int32)


@lru_cache(maxsize=16)
def _ids(split: str, examples: int) -> tuple[str, ...]:
    return tuple(f"{split}_{index:05d}" for index in range(examples))


def render(
    rng: np.random.Generator, height: int, width: int, objects: int | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Draw one scene: (uint8[h, w, 3], uint8[h, w]), the label with IGNORE rings.

    ``objects`` None: two or more, by the image's area.
    """
    unit = min(height, width)
    y = ((np.arange(height, dtype=np.float32) + 0.5) / unit)[:, None]
    x = ((np.arange(width, dtype=np.float32) + 0.5) / unit)[None, :]
    image, label = _backdrop(rng, y, x, unit)
    if objects is None:
        objects = rng.poisson(3.0 * (height * width / unit**2)) + 2
    for _ in range(objects):
        _draw(rng, image, label, y, x, unit)
    image += rng.normal(0.0, 0.02, image.shape).astype(np.float32)
    return np.clip(image * 255.0 + 0.5, 0, 255).astype(np.uint8), label


def _colours(rng: np.random.Generator, kind: int, contrast: float) -> np.ndarray:
    """float32[2, 3]: a darker and a lighter colour for an object of class ``kind``."""
    base = rng.uniform(0.2, 0.8, 3) + _LEANING * _TINTS[kind]
    step = contrast / 2 + rng.normal(0.0, 0.08, 3)
    return np.stack([base - step, base + step]).astype(np.float32)


def _mix(colours: np.ndarray, amount: np.ndarray) -> np.ndarray:
    """[h, w] in [0, 1] to [h, w, 3] between the two colours."""
    return colours[0] + amount[..., None] * (colours[1] - colours[0])


def _backdrop(rng: np.random.Generator, y: np.ndarray, x: np.ndarray, unit: int):
    """A smooth wall above a grainy floor; the edge between them is a slow wave."""
    a, b, c = rng.uniform(-1, 1, 3)
    wall = _mix(
        _colours(rng, 0, 0.2), 0.5 + 0.5 * np.sin(3 * a * x + 3 * b * y + 6 * c)
    )
    # The grain has cells of a fixed part of the scene, so that it scales with it.
    cells = rng.uniform(0, 1, (48, 48)).astype(np.float32)
    rows, columns = (y[:, 0] * 24).astype(int) % 48, (x[0] * 24).astype(int) % 48
    floor = _mix(_colours(rng, 1, 0.4), cells[rows[:, None], columns[None, :]])
    top, tilt, wave, phase = rng.uniform((0.35, -0.2, 0.0, 0.0), (0.8, 0.2, 0.06, 6.3))
    horizon = y[-1, 0] * top + tilt * (x - x.mean()) + wave * np.sin(5 * x + phase)
    below = np.clip((y - horizon) * unit + 0.5, 0, 1)
    image = wall + below[..., None] * (floor - wall)
    return image, (below > 0.5).astype(np.uint8)


def _disk(u, v, r):
    return np.hypot(u, v) - r


def _square(u, v, r):
    return np.maximum(np.abs(u), np.abs(v)) - 0.8 * r


def _triangle(u, v, r):
    side = 0.8660254 * np.abs(u) - 0.5 * v
    return np.maximum(side, v) - 0.55 * r


def _star(u, v, r):
    sector = 2 * np.pi / 5
    angle = np.abs((np.arctan2(u, v) + sector / 2) % sector - sector / 2)
    along, across = np.hypot(u, v) * np.cos(angle), np.hypot(u, v) * np.sin(angle)
    # The edge from the tip (r, 0) to the notch; its normal points out of the star.
    edge = _STAR_INNER * np.array([np.cos(sector / 2), np.sin(sector / 2)]) - (1, 0)
    normal = np.array([edge[1], -edge[0]]) / np.linalg.norm(edge)
    return ((along - r) * normal[0] + across * normal[1]).astype(np.float32)


def _ring(u, v, r):
    return np.abs(np.hypot(u, v) - 0.74 * r) - 0.26 * r


def _pole(u, v, r):
    return np.maximum(np.abs(u + 0.25 * v * v) - 0.024, np.abs(v) - 3.0 * r)


_DISTANCE: tuple[Callable, ...] = (_disk, _square, _triangle, _star, _ring, _pole)


def _texture(kind: int, u: np.ndarray, v: np.ndarray, r: float) -> np.ndarray:
    """[h, w] in [0, 1]: what the surface of class ``kind`` looks like."""
    if kind == 2:  # a ball, lit from one side
        return np.clip(0.5 + 0.5 * (u + v) / r, 0, 1)
    if kind == 3:  # stripes
        return np.clip(0.5 + 1.5 * np.sin(55 * u), 0, 1)
    if kind == 4:  # checks
        return np.clip(0.5 + 2.0 * np.sin(50 * u) * np.sin(50 * v), 0, 1)
    if kind == 5:  # light in the middle
        return np.clip(1.6 - 2.2 * np.hypot(u, v) / r, 0, 1)
    if kind == 6:  # segments
        return np.clip(0.5 + 1.5 * np.sin(6 * np.arctan2(u, v)), 0, 1)
    return 0.8 + 0.2 * np.sin(40 * v)  # a light thing with faint bands


def _draw(rng, image, label, y, x, unit):
    """Put one random object in front of the scene, in place."""
    kind = 2 + int(np.searchsorted(np.cumsum(_FREQUENCY), rng.uniform()))
    kind = min(kind, _POLE)
    radius, row, column = rng.uniform((0.14, 0.0, 0.0), (0.23, y[-1, 0], x[0, -1]))
    angle = rng.uniform(-0.4, 0.4)
    colours = _colours(rng, kind, 0.5)
    reach = 3.2 * radius if kind == _POLE else 1.05 * radius
    reach += 2 * _RING_WIDTH
    rows = slice(*np.searchsorted(y[:, 0], (row - reach, row + reach)))
    columns = slice(*np.searchsorted(x[0], (column - reach, column + reach)))
    down, right = y[rows] - np.float32(row), x[:, columns] - np.float32(column)
    cos, sin = np.float32(np.cos(angle)), np.float32(np.sin(angle))
    u, v = cos * right + sin * down, cos * down - sin * right
    distance = _DISTANCE[kind - 2](u, v, np.float32(radius))
    cover = np.clip(0.5 - distance * unit, 0, 1)[..., None]
    patch = image[rows, columns]
    patch += cover * (_mix(colours, _texture(kind, u, v, radius)) - patch)
    ids = label[rows, columns]
    ids[(distance > 0) & (distance < max(_RING_WIDTH, 1.0 / unit))] = IGNORE
    ids[distance <= 0] = kind

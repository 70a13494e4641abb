"""Losses against NumPy float64 oracles, written from the papers, and PyTorch."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from scipy import ndimage

from segjax.losses import LOSSES, OPTIONS, build_loss, lovasz_softmax
from tests.requirements import require_parity

SHAPE, CLASSES = (3, 5, 6), 4
WEIGHTS = (0.5, 2.0, 0.0, 1.25)
ALL = "+".join(LOSSES)


def batch(seed=0, scale=2.0, classes=CLASSES, ignored=0.2):
    """Logits in float64 and labels; classes come in patches, as in an image."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, classes, (SHAPE[0], 2, 2))
    labels = coarse.repeat(3, 1).repeat(3, 2)[:, : SHAPE[1], : SHAPE[2]].copy()
    noisy = rng.random(SHAPE) < 0.2
    labels[noisy] = rng.integers(0, classes, SHAPE)[noisy]
    labels[rng.random(SHAPE) < ignored] = 255
    return rng.normal(size=(*SHAPE, CLASSES)) * scale, labels


# --- the oracles: (logits float64, labels, options) -> value ------------------------


def softmax(logits):
    e = np.exp(logits - logits.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def valid_rows(logits, labels):
    """Log-probabilities [N, K] and classes [N] of the valid pixels."""
    keep = labels != 255
    x = logits[keep] - logits[keep].max(-1, keepdims=True)
    return x - np.log(np.exp(x).sum(-1, keepdims=True)), labels[keep]


def weighted_mean(loss, y, o):
    weight = np.asarray(o.get("class_weights") or np.ones(CLASSES))[y]
    return (loss * weight).sum() / weight.sum() if weight.sum() else 0.0


def np_cross_entropy(logits, labels, o):
    log_p, y = valid_rows(logits, labels)
    weights = np.asarray(o.get("class_weights") or np.ones(CLASSES))
    smoothing = o.get("label_smoothing", 0.0)
    plain = -log_p[np.arange(len(y)), y] * weights[y]
    even = -(log_p * weights[None]).mean(-1)
    total = weights[y].sum()
    return ((1 - smoothing) * plain + smoothing * even).sum() / total if total else 0


def np_ohem(logits, labels, o):
    log_p, y = valid_rows(logits, labels)
    if not len(y):
        return 0.0
    p = np.exp(log_p[np.arange(len(y)), y])
    at_least = int(np.ceil(o.get("ohem_min_kept", 0.0625) * len(y)))
    keep = p < o.get("ohem_threshold", 0.7)
    if at_least:
        keep |= p <= np.sort(p)[at_least - 1]
    if not keep.any():
        return 0.0
    kept = np.where(keep, y, 255)
    return np_cross_entropy(log_p, kept, o)


def np_focal(logits, labels, o):
    log_p, y = valid_rows(logits, labels)
    log_p = log_p[np.arange(len(y)), y]
    return weighted_mean(
        -((1 - np.exp(log_p)) ** o.get("focal_gamma", 2.0)) * log_p, y, o
    )


def np_tversky(logits, labels, o):
    a, b = o.get("tversky_alpha", 0.3), o.get("tversky_beta", 0.7)
    s = o.get("tversky_smooth", 1.0)
    log_p, y = valid_rows(logits, labels)
    scores = []
    for k in set(y.tolist()):
        p, g = np.exp(log_p[:, k]), (y == k) * 1.0
        hit, false, missed = (p * g).sum(), (p * (1 - g)).sum(), ((1 - p) * g).sum()
        scores.append((hit + s) / (hit + a * false + b * missed + s))
    return 1 - np.mean(scores) if scores else 0.0


def np_dice(logits, labels, o):
    s = o.get("dice_smooth", 1.0) / 2
    return np_tversky(
        logits, labels, dict(tversky_alpha=0.5, tversky_beta=0.5, tversky_smooth=s)
    )


def np_lovasz_flat(p, y):
    """Berman et al., algorithm 1."""
    losses = []
    for k in set(y.tolist()):
        g = (y == k) * 1.0
        error = np.abs(g - p[:, k])
        order = np.argsort(-error)
        g = g[order]
        intersection = g.sum() - g.cumsum()
        union = g.sum() + (1 - g).cumsum()
        jaccard = 1 - intersection / union
        losses.append((error[order] * np.diff(jaccard, prepend=0.0)).sum())
    return np.mean(losses)


def np_lovasz(logits, labels, o):
    p, valid = softmax(logits), labels != 255
    if not valid.any():
        return 0.0
    if not o.get("lovasz_per_image"):
        return np_lovasz_flat(p[valid], labels[valid])
    return np.mean(
        [
            np_lovasz_flat(p[i][valid[i]], labels[i][valid[i]])
            for i in range(len(labels))
            if valid[i].any()
        ]
    )


def np_boundary(logits, labels, o):
    """With SciPy's distance transform, image by image, class by class."""
    width = o.get("boundary_width", 8)
    p, total, pixels = softmax(logits), 0.0, (labels != 255).sum()

    def distance(seeds):
        if not seeds.any():
            return np.full(seeds.shape, float(width))
        return np.minimum(ndimage.distance_transform_edt(~seeds), width)

    for image_p, y in zip(p, labels, strict=True):
        signed = np.zeros(image_p.shape)
        for k in range(CLASSES):
            outside, inside = distance(y == k), distance((y != k) & (y != 255))
            signed[..., k] = np.where(y == k, 0.5 - inside, outside - 0.5)
        for at, k in np.ndenumerate(y):
            if k != 255:
                total += (image_p[at] * (signed[at] - signed[at][k])).sum() / width
    return total / pixels if pixels else 0.0


ORACLES = {
    "cross_entropy": np_cross_entropy,
    "ohem_cross_entropy": np_ohem,
    "focal": np_focal,
    "dice": np_dice,
    "tversky": np_tversky,
    "lovasz_softmax": np_lovasz,
    "boundary": np_boundary,
}

OTHER_OPTIONS = {
    "class_weights": WEIGHTS,
    "label_smoothing": 0.2,
    "ohem_threshold": 0.2,
    "ohem_min_kept": 0.5,
    "focal_gamma": 0.5,
    "dice_smooth": 0.0,
    "tversky_alpha": 1.0,
    "tversky_beta": 0.4,
    "tversky_smooth": 0.0,
    "lovasz_per_image": True,
    "boundary_width": 3,
}
"""A value for every knob that is not its default."""


class Compiled:
    """Every loss at once, so that there are few compilations."""

    def __init__(self, **options):
        loss = build_loss(ALL, **options)

        def terms(logits, labels, counts):
            return jnp.stack(list(loss.terms(logits, labels, counts).values()))

        def run(logits, labels, counts, cotangent):
            values, pullback = jax.vjp(lambda x: terms(x, labels, counts), logits)
            return values, pullback(cotangent)[0]

        def counts(logits, labels):
            pairs = [f(logits, labels) for f in loss.functions]
            return loss.counts(labels), jnp.stack([p.count for p in pairs])

        self.run, self.counts = jax.jit(run), jax.jit(counts)

    def __call__(self, logits, labels, cotangent=None, counts_of=None, x64=True):
        """Values [T] and the gradient [B, H, W, K] of their sum by ``cotangent``."""
        with jax.enable_x64(x64):
            x, y = jnp.asarray(logits, float), jnp.asarray(labels, jnp.int32)
            counted = y if counts_of is None else jnp.asarray(counts_of, jnp.int32)
            counts = self.counts(x, counted)[0]
            c = np.ones(len(LOSSES)) if cotangent is None else cotangent
            values, slope = self.run(x, y, counts, jnp.asarray(c, float))
            return np.asarray(values), np.asarray(slope)


SETTINGS = {"default": {}, "other": OTHER_OPTIONS}
COMPILED = {
    "default": Compiled(platform="cpu"),
    "other": Compiled(**OTHER_OPTIONS),  # the plain formulations
}


def oracles(logits, labels, which):
    return [ORACLES[name](logits, labels, SETTINGS[which]) for name in LOSSES]


@pytest.mark.parametrize("which", SETTINGS)
@settings(max_examples=25, deadline=None, derandomize=True, database=None)
@given(
    seed=st.integers(0, 10**6),
    scale=st.sampled_from([0.1, 2.0, 30.0]),
    classes=st.integers(1, CLASSES),
    ignored=st.sampled_from([0.0, 0.3, 0.97, 1.0]),
)
def test_value(which, seed, scale, classes, ignored):
    logits, labels = batch(seed, scale, classes, ignored)
    values, _ = COMPILED[which](logits, labels)
    expected = oracles(logits, labels, which)
    np.testing.assert_allclose(values, expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("which", SETTINGS)
@settings(max_examples=4, deadline=None, derandomize=True, database=None)
@given(
    seed=st.integers(0, 10**6),
    scale=st.sampled_from([0.1, 2.0]),
    ignored=st.sampled_from([0.0, 0.3, 0.9]),
)
def test_gradient(which, seed, scale, ignored):
    logits, labels = batch(seed, scale, CLASSES, ignored)
    slope = np.stack(
        [COMPILED[which](logits, labels, c)[1] for c in np.eye(len(LOSSES))]
    )
    step, way = 1e-6, np.random.default_rng(4).normal(size=logits.shape)
    up = np.asarray(oracles(logits + step * way, labels, which))
    down = np.asarray(oracles(logits - step * way, labels, which))
    np.testing.assert_allclose(
        (slope * way[None]).sum((1, 2, 3, 4)),
        (up - down) / (2 * step),
        rtol=1e-5,
        atol=1e-8,
    )
    assert not slope[:, labels == 255].any()


@pytest.mark.parametrize("option", OTHER_OPTIONS)
def test_option_acts(option):
    """What test_value compares with depends on the option, in each loss it is for."""
    without = {k: v for k, v in OTHER_OPTIONS.items() if k != option}
    for name in LOSSES:
        if option in OPTIONS[name]:
            differences = [
                ORACLES[name](*batch(5, scale), OTHER_OPTIONS)
                - ORACLES[name](*batch(5, scale), without)
                for scale in (0.1, 30.0)
            ]
            assert max(map(abs, differences)) > 1e-6, name


def test_every_option_is_listed_and_tested():
    assert {o for of_one in OPTIONS.values() for o in of_one} == set(OTHER_OPTIONS)
    assert set(LOSSES) == set(ORACLES)


# --- edges ---------------------------------------------------------------------------


@pytest.mark.parametrize("which", SETTINGS)
@pytest.mark.parametrize("scale", [1.0, 1e4, 1e30])
def test_all_ignored_is_zero_with_zero_gradient(which, scale):
    logits, labels = batch()[0] * scale, np.full(SHAPE, 255)
    values, slope = COMPILED[which](logits, labels, x64=False)
    assert values.dtype == slope.dtype == np.float32
    assert values.tolist() == [0.0] * len(LOSSES)
    assert np.isfinite(slope).all() and not slope.any()


@pytest.mark.parametrize("which", SETTINGS)
@pytest.mark.parametrize("scale", [1e-30, 1e4, 1e30])
def test_huge_and_tiny_logits_stay_finite(which, scale):
    logits, labels = batch()
    for result in COMPILED[which](logits * scale, labels, x64=False):
        assert np.isfinite(result).all()


@pytest.mark.parametrize("which", SETTINGS)
def test_a_perfect_prediction_costs_nothing(which):
    labels = batch()[1]
    logits = 1e4 * (labels[..., None] == np.arange(CLASSES))
    values, _ = COMPILED[which](logits, labels, x64=False)
    values = dict(zip(LOSSES, values.tolist(), strict=True))
    if which == "other":  # smoothing has a price at certainty
        del values["cross_entropy"], values["ohem_cross_entropy"]
    assert max(map(abs, values.values())) < 1e-6


def test_one_class():
    labels = jnp.zeros((2, 3, 4), jnp.int32)
    step = jax.jit(jax.value_and_grad(build_loss(ALL).value))
    value, slope = step(jnp.ones((2, 3, 4, 1)), labels)
    assert abs(float(value)) < 1e-6
    assert not np.asarray(slope).any()


def test_class_weights_of_zero():
    logits, labels = batch()
    loss = build_loss("cross_entropy+ohem_cross_entropy+focal", class_weights=[0] * 4)
    step = jax.jit(jax.value_and_grad(loss.value))
    value, slope = step(jnp.asarray(logits, jnp.float32), jnp.asarray(labels))
    assert float(value) == 0
    assert not np.asarray(slope).any()


@pytest.mark.parametrize("per_image", [False, True])
def test_lovasz_slopes_go_back_by_a_sort_or_a_scatter_alike(per_image):
    """The same bits, in the gradient as well, with ties and ignored pixels."""
    logits, labels = batch(3, 2.0, CLASSES, 0.2)
    logits, labels = (
        jnp.asarray(np.round(logits), jnp.float32),
        jnp.asarray(labels, int),
    )
    found = [
        jax.value_and_grad(
            lambda x, p=platform: (
                lovasz_softmax(x, labels, p, lovasz_per_image=per_image).total
            )
        )(logits)
        for platform in (None, "cpu")
    ]
    assert float(abs(found[0][1]).max()) > 0
    jax.tree.map(np.testing.assert_array_equal, *found)


def test_lovasz_of_hard_predictions_is_the_jaccard_loss():
    rng = np.random.default_rng(6)
    labels = batch(6)[1]
    guess = rng.integers(0, CLASSES, SHAPE)
    logits = 1e3 * (guess[..., None] == np.arange(CLASSES))
    valid, iou = labels != 255, []
    for k in np.unique(labels[valid]):
        both = ((guess == k) & (labels == k))[valid].sum()
        iou.append(both / ((guess == k) | (labels == k))[valid].sum())
    values, _ = COMPILED["default"](logits, labels)
    value = values[list(LOSSES).index("lovasz_softmax")]
    np.testing.assert_allclose(value, 1 - np.mean(iou), rtol=1e-12)


def test_ohem_keeps_ties_and_the_extremes():
    """Equal pixels are all kept; threshold 1 keeps all; nothing asked keeps none."""
    labels = jnp.zeros((1, 1, 4), jnp.int32)
    logits = jnp.asarray([[[[0.0, 1.0]] * 3 + [[9.0, 0.0]]]])

    def value(threshold, at_least):
        loss = build_loss(
            "ohem_cross_entropy", ohem_threshold=threshold, ohem_min_kept=at_least
        )
        return float(jax.jit(loss.value)(logits, labels))

    hard, easy = np.log1p(np.e), np.log1p(np.exp(-9))
    np.testing.assert_allclose(value(0.0, 0.25), hard, rtol=1e-6)
    np.testing.assert_allclose(value(1.0, 0.0), (3 * hard + easy) / 4, rtol=1e-6)
    assert value(0.0, 0.0) == 0


# --- invariances ---------------------------------------------------------------------


@pytest.mark.parametrize("which", SETTINGS)
@settings(max_examples=6, deadline=None, derandomize=True, database=None)
@given(seed=st.integers(0, 10**6), rows=st.integers(0, 3), columns=st.integers(0, 3))
def test_padding_with_ignore_changes_nothing(which, seed, rows, columns):
    """The padded batch costs what the oracles say of the batch without the padding."""
    logits, labels = batch(seed)
    height, width = labels.shape[1] - rows, labels.shape[2] - columns
    labels[:, height:] = 255
    labels[:, :, width:] = 255
    logits[labels == 255] *= 1e3
    values, _ = COMPILED[which](logits, labels)
    expected = oracles(logits[:, :height, :width], labels[:, :height, :width], which)
    np.testing.assert_allclose(values, expected, rtol=1e-9)


@settings(max_examples=6, deadline=None, derandomize=True, database=None)
@given(seed=st.integers(0, 10**6), order=st.permutations(range(CLASSES)))
def test_the_order_of_classes_and_a_shift_change_nothing(seed, order):
    logits, labels = batch(seed)
    renamed = np.append(np.argsort(order), [0] * (255 - CLASSES) + [255])[labels]
    before, slope = COMPILED["default"](logits, labels)
    after, moved = COMPILED["default"](logits[..., order], renamed)
    np.testing.assert_allclose(after, before, rtol=1e-12)
    np.testing.assert_allclose(moved, slope[..., order], rtol=1e-9, atol=1e-15)
    shifted = logits + np.random.default_rng(9).normal(size=(*SHAPE, 1))
    np.testing.assert_allclose(
        COMPILED["default"](shifted, labels)[0], before, rtol=1e-10
    )


@settings(max_examples=6, deadline=None, derandomize=True, database=None)
@given(seed=st.integers(0, 10**6), which=st.sampled_from(list(SETTINGS)))
def test_the_order_of_examples_and_pixels_changes_nothing(seed, which):
    """All but the boundary loss know no neighbours; that one knows images."""
    logits, labels = batch(seed)
    rng = np.random.default_rng(seed)
    before, slope = COMPILED[which](logits, labels)
    examples = rng.permutation(SHAPE[0])
    after, moved = COMPILED[which](logits[examples], labels[examples])
    np.testing.assert_allclose(after, before, rtol=1e-12)
    np.testing.assert_allclose(moved, slope[examples], rtol=1e-9, atol=1e-15)
    pixels = rng.permutation(SHAPE[1] * SHAPE[2])
    flat = [a.reshape(SHAPE[0], -1, *a.shape[3:])[:, pixels] for a in (logits, labels)]
    mixed = [x.reshape(a.shape) for x, a in zip(flat, (logits, labels), strict=True)]
    kept = [i for i, name in enumerate(LOSSES) if name != "boundary"]
    after = COMPILED[which](*mixed)[0]
    np.testing.assert_allclose(after[kept], before[kept], rtol=1e-12)


def test_a_sharded_batch_is_one_batch():
    rng = np.random.default_rng(10)
    logits = rng.normal(size=(8, 4, 6, CLASSES)).astype(np.float32)
    labels = rng.integers(0, CLASSES, (8, 4, 6)).astype(np.int32)
    labels[:5] = 255  # devices with nothing to say
    mesh = Mesh(np.array(jax.devices()[:4]), ("data",))
    rows = NamedSharding(mesh, P("data"))
    step = jax.jit(jax.value_and_grad(build_loss(ALL).value))
    value, slope = step(jnp.asarray(logits), jnp.asarray(labels))
    sharded, sharded_slope = step(
        jax.device_put(logits, rows), jax.device_put(labels, rows)
    )
    np.testing.assert_allclose(sharded, value, rtol=1e-6)
    np.testing.assert_allclose(sharded_slope, slope, rtol=1e-4, atol=1e-7)


# --- mixtures, counts, mistakes ------------------------------------------------------


@pytest.mark.parametrize("which", SETTINGS)
def test_counts_are_those_of_the_losses_and_of_labels_alone(which):
    logits, labels = batch(11)
    labels[1] = 255
    with jax.enable_x64(True):
        counts, of_pairs = COMPILED[which].counts(
            jnp.asarray(logits), jnp.asarray(labels, jnp.int32)
        )
    np.testing.assert_array_equal(counts, of_pairs)
    valid = (labels != 255).sum()
    weight = np.append(WEIGHTS, [0] * 252)[labels].sum()
    expected = {
        "default": [valid] * 7,
        "other": [weight] * 3 + [valid, valid, 2, valid],
    }
    np.testing.assert_allclose(counts, expected[which], rtol=1e-15)


def test_micro_batches_add_up_to_the_batch():
    """Exactly for means over pixels (and images), whatever each part's labels."""
    logits, labels = batch(12)
    labels[0, 1:] = 255
    parts = [labels.copy(), labels.copy()]
    parts[0][1:] = 255
    parts[1][:1] = 255
    whole, _ = COMPILED["other"](logits, labels)
    summed = sum(COMPILED["other"](logits, part, counts_of=labels)[0] for part in parts)
    exact = [
        list(LOSSES).index(name)
        for name in ("cross_entropy", "focal", "boundary", "lovasz_softmax")
    ]
    np.testing.assert_allclose(summed[exact], whole[exact], rtol=1e-12)


def test_a_mixture_is_the_weighted_sum():
    logits, labels = batch(13)
    with jax.enable_x64(True):
        x, y = jnp.asarray(logits), jnp.asarray(labels)
        mixed = build_loss("cross_entropy + dice", (0.25, 3.0), dice_smooth=0.0)
        value = jax.jit(mixed.value)(x, y)
        assert value.dtype == jnp.float64
    expected = 0.25 * np_cross_entropy(logits, labels, {}) + 3 * np_dice(
        logits, labels, {"dice_smooth": 0.0}
    )
    np.testing.assert_allclose(value, expected, rtol=1e-12)


@pytest.mark.parametrize(
    ("arguments", "options", "text"),
    [
        (("cross_entropi",), {}, "unknown loss 'cross_entropi'.*mean 'cross_entropy'"),
        (("dice+",), {}, "unknown loss ''.*known: boundary, cross_entropy, dice"),
        (("dice+dice",), {}, "names a loss twice"),
        (("dice+focal", (1.0,)), {}, "2 terms but 1 weights"),
        (("dice",), {"dice_smoth": 1}, "unknown loss option.*mean 'dice_smooth'"),
        (("dice",), {"dice_smooth": -1}, r"dice_smooth=-1 must lie in \[0.0, inf\]"),
        (("focal",), {"class_weights": (1, float("nan"))}, "finite and >= 0"),
        (
            ("boundary",),
            {"boundary_width": 0},
            r"boundary_width=0 must lie in \[1, 127",
        ),
    ],
)
def test_mistakes(arguments, options, text):
    with pytest.raises(ValueError, match=text):
        build_loss(*arguments, **options)


@pytest.mark.parametrize("weights", [None, WEIGHTS])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_cross_entropy_averages_as_torch(weights, smoothing):
    torch = require_parity("torch")
    logits, labels = batch(14)
    theirs = torch.nn.functional.cross_entropy(
        torch.tensor(logits).permute(0, 3, 1, 2),
        torch.tensor(labels),
        weight=None if weights is None else torch.tensor(weights, dtype=torch.float64),
        label_smoothing=smoothing,
        ignore_index=255,
    )
    with jax.enable_x64(True):
        ours = LOSSES["cross_entropy"](
            jnp.asarray(logits),
            jnp.asarray(labels),
            class_weights=weights,
            label_smoothing=smoothing,
        ).value
    np.testing.assert_allclose(ours, theirs.item(), rtol=1e-12)


def test_dice_tversky_and_lovasz_as_segmentation_models_pytorch():
    torch = require_parity("torch")
    losses = require_parity("segmentation_models_pytorch.losses")
    logits, labels = batch(15)  # every class occurs, which its mean assumes
    assert set(np.unique(labels)) == {0, 1, 2, 3, 255}
    x = torch.tensor(logits, dtype=torch.float32).permute(0, 3, 1, 2)
    y = torch.tensor(labels)
    options = {"mode": "multiclass", "ignore_index": 255}
    theirs = [
        losses.DiceLoss(**options)(x, y),
        losses.TverskyLoss(**options, alpha=0.3, beta=0.7)(x, y),
        losses.LovaszLoss(**options)(x, y),
    ]
    loss = build_loss(
        "dice+tversky+lovasz_softmax", dice_smooth=0.0, tversky_smooth=0.0
    )
    with jax.enable_x64(True):
        ours = jax.jit(loss.terms)(jnp.asarray(logits), jnp.asarray(labels))
    np.testing.assert_allclose(
        [ours[name] for name in loss.names], [t.item() for t in theirs], rtol=1e-6
    )


def test_half_precision_logits_are_reduced_in_float32():
    """A sum over pixels in bfloat16 would stop growing at 256."""
    rng = np.random.default_rng(3)
    logits = rng.normal(size=(1, 40, 50, CLASSES)).astype(jnp.bfloat16)
    labels = rng.integers(0, CLASSES, (1, 40, 50))
    loss = build_loss(ALL)
    terms = jax.jit(loss.terms)(jnp.asarray(logits), jnp.asarray(labels, jnp.int32))
    for name, value in terms.items():
        assert value.dtype == jnp.float32, name
        wanted = ORACLES[name](logits.astype(np.float64), labels, {})
        np.testing.assert_allclose(value, wanted, rtol=2e-5, err_msg=name)

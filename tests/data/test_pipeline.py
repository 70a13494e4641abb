"""Order, sharding, fit and cache of training batches; coverage of evaluation."""

import pkgutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

import segjax.data
from segjax.batch import IGNORE, LabelSpec
from segjax.data import open_source, splits
from segjax.data.evaluation import eval_batches, eval_schedule
from segjax.data.pipeline import (
    _Decoded,
    example_indices,
    fit_example,
    fit_size,
    resize_image,
    resize_label,
    train_batches,
)


class Numbered:
    """Example i: an image full of i + 1 and a label full of i, of mixed sizes."""

    spec = LabelSpec(("a", "b"), ((0, 0, 0), (1, 1, 1)))
    split = "numbered"

    def __init__(self, n, sizes=((6, 8), (8, 6), (5, 5)), dtype=np.uint8, channels=3):
        self.n, self.sizes, self.dtype, self.channels = n, sizes, dtype, channels
        self.reads = []

    def __len__(self):
        return self.n

    def size(self, index):
        return self.sizes[index % len(self.sizes)]

    def ids(self):
        return [f"example_{i}" for i in range(self.n)]

    def __getitem__(self, index):
        self.reads.append(index)
        shape = self.size(index)
        image = np.full((*shape, self.channels), index + 1, self.dtype)
        label = np.full(shape, index, np.uint8)
        return {"image": image, "label": label, "id": f"example_{index}"}


class Broken(Numbered):
    def __getitem__(self, index):
        raise ValueError("images/x.png is truncated")


class ReportsBackend(Numbered):
    """Puts 1 into the label's corner if the reading process has a jax backend."""

    def __getitem__(self, index):
        from jax._src import xla_bridge

        example = super().__getitem__(index)
        example["label"][0, 0] = xla_bridge.backends_are_initialized()
        return example


def batches(source, count, *, start_step=0, batch_size=4, buffer=(8, 8), **options):
    options = {"seed": 3, "fit": "pad", **options}
    stream = train_batches(
        source, start_step=start_step, batch_size=batch_size, buffer=buffer, **options
    )
    found = [next(stream) for _ in range(count)]
    stream.close()  # type: ignore[attr-defined]
    return found


def assert_same(first, second):
    assert len(first) == len(second)
    for one, other in zip(first, second, strict=True):
        assert one.keys() == other.keys()
        for key in one:
            assert one[key].dtype == other[key].dtype
            np.testing.assert_array_equal(one[key], other[key])


# Order


def test_every_epoch_visits_every_example_once_in_a_new_order():
    n, batch_size = 21, 6
    stream = np.concatenate(
        [example_indices(5, step, batch_size, n) for step in range(14)]
    )
    epochs = stream.reshape(4, n)
    for epoch in epochs:
        assert sorted(epoch) == list(range(n))
    assert len({tuple(epoch) for epoch in epochs}) == 4
    assert tuple(epochs[0]) != tuple(range(n))


def test_the_order_is_what_it_always_was():
    # Recorded on 2026-08 with grain 0.2.18: a Grain that shuffles differently would
    # silently change what a resumed run sees.
    first = example_indices(0, 0, 8, 20).tolist()
    later = example_indices(0, 10**9, 4, 20).tolist()
    assert first == [16, 2, 13, 14, 9, 7, 17, 6]
    assert later == [5, 17, 4, 7]
    assert example_indices(1, 0, 8, 20).tolist() != first


@pytest.mark.parametrize("n", [1, 2, 3])
def test_a_split_smaller_than_a_batch_repeats(n):
    indices = example_indices(0, 0, 6 * n, n).reshape(6, n)
    np.testing.assert_array_equal(np.sort(indices, axis=1)[0], np.arange(n))
    assert batches(Numbered(n), 1, batch_size=7)[0]["image"].shape == (7, 8, 8, 3)


def test_batches_hold_the_examples_of_example_indices():
    source = Numbered(10)
    for step, batch in enumerate(batches(source, 6)):
        expected = example_indices(3, step, 4, 10)
        np.testing.assert_array_equal(batch["label"][:, 0, 0], expected)
        np.testing.assert_array_equal(batch["image"][:, 0, 0, 0], expected + 1)
        sizes = [source.size(index) for index in expected]
        np.testing.assert_array_equal(batch["size"], sizes)


def test_starting_at_a_step_gives_the_same_stream_as_running_to_it():
    whole = batches(Numbered(10), 9)
    assert_same(batches(Numbered(10), 4, start_step=5), whole[5:])


@pytest.mark.parametrize("threads", [0, 1, 3])
def test_the_number_of_threads_does_not_matter(threads):
    assert_same(
        batches(Numbered(10), 4, threads=threads, prefetch=1), batches(Numbered(10), 4)
    )


@pytest.mark.parametrize("process_count", [2, 4])
def test_processes_share_the_same_global_batches(process_count):
    whole = batches(Numbered(10), 5)
    parts = [
        batches(Numbered(10), 5, process_index=p, process_count=process_count)
        for p in range(process_count)
    ]
    joined = [
        {key: np.concatenate([part[key] for part in step]) for key in step[0]}
        for step in zip(*parts, strict=True)
    ]
    assert_same(joined, whole)


def test_worker_processes_give_the_same_stream_and_start_no_backend():
    import jax

    jax.devices()  # the parent has a backend, so that inheriting it would show
    plain = batches(Numbered(10), 4, start_step=2)
    for one, other in zip(
        batches(ReportsBackend(10), 4, start_step=2, workers=2), plain, strict=True
    ):
        np.testing.assert_array_equal(one["image"], other["image"])
        np.testing.assert_array_equal(one["size"], other["size"])
        np.testing.assert_array_equal(one["label"][:, 0, 0], 0)


# Bad input


@pytest.mark.parametrize("workers", [0, 1])
def test_a_bad_file_is_reported_as_the_source_says_it(workers):
    stream = train_batches(
        Broken(10),
        seed=0,
        start_step=0,
        batch_size=4,
        buffer=(8, 8),
        fit="pad",
        workers=workers,
    )
    with pytest.raises(ValueError) as training:
        next(stream)
    assert str(training.value) == "images/x.png is truncated"
    schedule = eval_schedule([(8, 8)], batch_size=1, bucket=1, buffer=None, fit="pad")
    with pytest.raises(ValueError) as evaluation:
        next(eval_batches(Broken(1), schedule, batch_size=1))
    assert str(evaluation.value) == "images/x.png is truncated"


def test_wrong_settings_are_reported_before_the_first_batch():
    settings = {"seed": 0, "start_step": 0, "buffer": (8, 8), "fit": "pad"}
    with pytest.raises(ValueError, match="batch_size=6 is not a multiple of the 4 pro"):
        train_batches(Numbered(9), batch_size=6, process_count=4, **settings)
    with pytest.raises(ValueError, match="batch_size=6 is not a multiple of the 4 pro"):
        eval_batches(Numbered(9), [], batch_size=6, process_count=4)
    with pytest.raises(ValueError, match="split 'numbered' of Numbered has no exampl"):
        train_batches(Numbered(0), batch_size=6, **settings)
    with pytest.raises(ValueError, match="split 'numbered' of Numbered has no exampl"):
        eval_batches(Numbered(0), [], batch_size=6)
    with pytest.raises(ValueError, match="data.fit='crop'.*'pad' or 'resize'"):
        train_batches(Numbered(9), batch_size=3, **{**settings, "fit": "crop"})
    with pytest.raises(ValueError, match="needs data.image_size"):
        eval_schedule([(8, 8)], batch_size=1, bucket=1, buffer=None, fit="resize")
    with pytest.raises(ValueError, match="eval.bucket=0"):
        eval_schedule([(8, 8)], batch_size=1, bucket=0, buffer=None, fit="pad")


def test_examples_that_break_the_contract_are_named():
    class Half(Numbered):
        def __getitem__(self, index):
            example = super().__getitem__(index)
            return {**example, "label": example["label"][:2]}

    class Mixed(Numbered):
        def __getitem__(self, index):
            example = super().__getitem__(index)
            image = example["image"].astype([np.uint8, np.uint16][index % 2])
            return {**example, "image": image}

    class Grey(Numbered):
        def __getitem__(self, index):
            example = super().__getitem__(index)
            return {**example, "image": example["image"][..., :1]}

    with pytest.raises(ValueError, match=r"example_\d: the image's shape is"):
        batches(Half(4), 1)
    with pytest.raises(ValueError, match=r"_\d is uint\d+ but the image before it"):
        batches(Mixed(4), 1)
    # Also of two batches: the train step is compiled for one type.
    with pytest.raises(ValueError, match=r"_\d is uint\d+ but the image before it"):
        batches(Mixed(4), 4, batch_size=1)
    with pytest.raises(ValueError, match=r"example_\d: the image has 1 channels"):
        batches(Grey(4), 1)
    mixed = Mixed(4, sizes=((6, 8),))
    schedule = eval_schedule(
        [(6, 8)] * 4, batch_size=2, bucket=8, buffer=None, fit="pad"
    )
    with pytest.raises(ValueError, match="example_1 is uint16 but the image before it"):
        next(eval_batches(mixed, schedule, batch_size=2))


def test_unknown_sources_are_answered_with_the_nearest():
    with pytest.raises(ValueError, match="'camvd'.*shapes, folder, .*mean 'camvid'"):
        open_source("camvd", "train")
    with pytest.raises(ValueError, match="'zzz' is not a dataset; known: shapes"):
        splits("zzz")
    with pytest.raises(ValueError, match="data.root='x'.*reads no files"):
        open_source("shapes", "train", root="x")
    assert splits("shapes") == ("train", "val")


# Fit


def test_pad_puts_the_example_at_the_top_left_unchanged():
    rng = np.random.default_rng(0)
    image = rng.integers(1, 9, (3, 5, 2)).astype(np.uint16)
    label = rng.integers(0, 4, (3, 5)).astype(np.uint8)
    out = fit_example({"image": image, "label": label, "id": "x"}, (4, 7), "pad")
    np.testing.assert_array_equal(out["image"][:3, :5], image)
    np.testing.assert_array_equal(out["label"][:3, :5], label)
    assert out["image"].dtype == np.uint16 and out["image"].shape == (4, 7, 2)
    assert out["image"].sum() == image.sum()
    assert (out["label"] == IGNORE).sum() == 4 * 7 - 3 * 5
    np.testing.assert_array_equal(out["size"], [3, 5])


@pytest.mark.parametrize(
    ("size", "buffer", "expected"),
    [
        ((8, 16), (8, 8), (4, 8)),
        ((16, 8), (8, 8), (8, 4)),
        ((9, 9), (8, 12), (8, 8)),
        ((8, 8), (8, 8), (8, 8)),
        ((1, 1000), (8, 8), (1, 8)),
        ((720, 960), (360, 480), (360, 480)),
    ],
)
def test_pad_shrinks_what_is_larger_and_keeps_the_aspect(size, buffer, expected):
    assert fit_size(size, buffer, "pad") == expected
    assert fit_size(size, buffer, "resize") == buffer
    example = {
        "image": np.full((*size, 3), 200, np.uint8),
        "label": np.ones(size, np.uint8),
        "id": "x",
    }
    out = fit_example(example, buffer, "pad")
    np.testing.assert_array_equal(out["size"], expected)
    h, w = expected
    assert (out["image"][:h, :w] == 200).all() and (out["label"][:h, :w] == 1).all()
    assert (out["label"] != IGNORE).sum() == h * w


# In no size does a target pixel's centre fall between two pixels of the label: there
# Pillow's running sum in floats decides, and ours goes to the right.
SIZES = [((37, 53), (16, 20)), ((20, 31), (48, 64)), ((64, 47), (32, 60))]


@pytest.mark.parametrize(("size", "target"), SIZES)
def test_resizing_is_pillows_for_every_type_and_number_of_channels(size, target):
    rng = np.random.default_rng(1)
    turned = target[::-1]
    small = rng.integers(0, 256, (*size, 3)).astype(np.uint8)
    expected = np.asarray(Image.fromarray(small).resize(turned, Image.Resampling(2)))
    # Pillow rounds to 8 bits between its two passes as well.
    assert np.abs(resize_image(small, target).astype(int) - expected).max() <= 1

    def pillow(plane):
        return np.asarray(Image.fromarray(plane).resize(turned, Image.Resampling(2)))

    many = rng.normal(size=(*size, 5)).astype(np.float32)
    expected = np.stack([pillow(many[..., c]) for c in range(5)], axis=-1)
    np.testing.assert_allclose(resize_image(many, target), expected, atol=2e-6)

    deep = rng.integers(0, 65536, (*size, 1)).astype(np.uint16)
    expected = pillow(deep[..., 0].astype(np.float32))[..., None]
    result = resize_image(deep, target)
    assert result.dtype == np.uint16
    assert np.abs(result - expected.astype(np.float64)).max() <= 0.51

    label = rng.integers(0, 12, size).astype(np.uint8)
    expected = Image.fromarray(label).resize(turned, Image.Resampling.NEAREST)
    np.testing.assert_array_equal(resize_label(label, target), np.asarray(expected))


def test_halving_averages_and_takes_pixel_centres():
    ramp = np.arange(8, dtype=np.float32)[None, :, None]
    # Halving, the triangle covers 4 pixels with weights 1/8, 3/8, 3/8, 1/8; at the
    # border the first is missing and the rest is 3/7, 3/7, 1/7.
    expected = [(0 * 3 + 1 * 3 + 2) / 7, 2.5, 4.5, (7 * 3 + 6 * 3 + 5) / 7]
    np.testing.assert_allclose(resize_image(ramp, (1, 4))[0, :, 0], expected, rtol=1e-6)
    label = np.arange(8, dtype=np.uint8)[None]
    np.testing.assert_array_equal(resize_label(label, (1, 4)), [[1, 3, 5, 7]])
    np.testing.assert_array_equal(
        resize_label(label[:, :2], (1, 6)), [[0] * 3 + [1] * 3]
    )


shape = st.tuples(st.integers(1, 40), st.integers(1, 40))


@settings(max_examples=60, deadline=None)
@given(size=shape, buffer=shape, fit=st.sampled_from(["pad", "resize"]))
def test_no_fit_makes_a_new_label_id_or_leaves_the_range(size, buffer, fit):
    rng = np.random.default_rng(0)
    label = rng.choice(np.array([1, 4, 200, IGNORE], np.uint8), size)
    image = rng.integers(100, 201, (*size, 4)).astype(np.uint8)
    out = fit_example({"image": image, "label": label, "id": "x"}, buffer, fit)
    assert out["image"].shape == (*buffer, 4) and out["label"].shape == buffer
    assert set(np.unique(out["label"])) <= {*np.unique(label), IGNORE}
    h, w = out["size"]
    assert 1 <= h <= buffer[0] and 1 <= w <= buffer[1]
    valid = out["image"][:h, :w]
    assert valid.min() >= image.min() and valid.max() <= image.max()
    assert (out["label"][h:] == IGNORE).all() and (out["label"][:, w:] == IGNORE).all()
    assert not out["image"][h:].any() and not out["image"][:, w:].any()


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
@pytest.mark.parametrize("channels", [1, 3, 7])
def test_batches_keep_type_and_channels(dtype, channels):
    source = Numbered(5, dtype=dtype, channels=channels)
    for fit in ("pad", "resize"):
        batch = batches(source, 1, fit=fit, buffer=(7, 9))[0]
        assert batch["image"].shape == (4, 7, 9, channels)
        assert batch["image"].dtype == dtype
        assert batch["label"].dtype == np.uint8 and batch["size"].dtype == np.int32


# Cache


def test_what_fits_is_decoded_once_and_cannot_be_changed():
    source = Numbered(6)
    first, *others = batches(source, 12, threads=1)
    assert sorted(source.reads) == list(range(6))
    first["image"][:], first["label"][:] = 77, 77
    assert all((batch["image"] != 77).all() for batch in others)

    decoded = _Decoded(source, (8, 8), "pad", 10**6)
    decoded[0]
    image, label = decoded[0]
    assert not image.flags.writeable and not label.flags.writeable


def test_memory_is_bounded_and_a_cache_of_nothing_still_reads():
    one = 5 * 5 * 4
    source = Numbered(10, sizes=((5, 5),))
    decoded = _Decoded(source, (8, 8), "pad", 3 * one)
    for index in [*range(10), *range(10)]:
        assert decoded[index][0][0, 0, 0] == index + 1
    assert len(decoded.kept) == 3 and decoded.bytes == 3 * one
    assert len(source.reads) == 17
    empty = batches(Numbered(10), 3, cache_bytes=0)
    assert_same(empty, batches(Numbered(10), 3))


def test_threads_keep_the_books_of_the_cache_right():
    source = Numbered(40, sizes=((5, 5),))
    decoded = _Decoded(source, (8, 8), "pad", 25 * 100)
    with ThreadPoolExecutor(8) as pool:
        values = list(pool.map(lambda i: decoded[i % 40][0][0, 0, 0], range(800)))
    assert values == [i % 40 + 1 for i in range(800)]
    assert len(decoded.kept) == 25 and decoded.bytes == 25 * 100


# Evaluation


@settings(max_examples=40, deadline=None)
@given(
    n=st.integers(1, 11),
    local=st.integers(1, 3),
    process_count=st.sampled_from([1, 2, 4]),
    bucket=st.sampled_from([1, 4, 32]),
    fit=st.sampled_from(["pad", "resize"]),
    buffer=st.sampled_from([None, (6, 6), (20, 9)]),
)
def test_evaluation_sees_every_example_once(
    n, local, process_count, bucket, fit, buffer
):
    if fit == "resize" and buffer is None:
        buffer = (7, 7)
    source = Numbered(n)
    sizes = [source.size(i) for i in range(n)]
    batch_size = local * process_count
    schedule = eval_schedule(
        sizes, batch_size=batch_size, bucket=bucket, buffer=buffer, fit=fit
    )
    seen = []
    for p in range(process_count):
        stream = list(
            eval_batches(
                source,
                schedule,
                batch_size=batch_size,
                process_index=p,
                process_count=process_count,
                threads=0,
            )
        )
        assert [group for group, _ in stream] == schedule
        for group, batch in stream:
            assert batch["image"].shape == (local, *group.image_shape, 3)
            assert batch["label"].shape == (local, *group.label_shape)
            seen += [row for row in map(_row, *batch.values()) if row]
    expected = [
        (i, *sizes[i], *fit_size(sizes[i], buffer or sizes[i], fit)) for i in range(n)
    ]
    assert sorted(seen) == expected


def _row(image, size, label, label_size):
    """(index, label's size, image's size), or None for a row that only fills up."""
    (h, w), (rows, columns) = label_size, size
    assert min(h, w, rows, columns) >= 1
    if (label == IGNORE).all():
        assert (h, w) == label.shape and (rows, columns) == image.shape[:2]
        return None
    index = int(label[0, 0])
    assert (label[:h, :w] == index).all() and (label != IGNORE).sum() == h * w
    assert (image[:rows, :columns] == index + 1).all()
    assert (image != 0).sum() == rows * columns * 3
    return index, int(h), int(w), int(rows), int(columns)


def test_shapes_are_rounded_up_so_that_few_steps_are_compiled():
    rng = np.random.default_rng(0)
    sizes = [tuple(size) for size in rng.integers(33, 97, (50, 2))]
    schedule = eval_schedule(sizes, batch_size=8, bucket=32, buffer=None, fit="pad")
    shapes = {(group.image_shape, group.label_shape) for group in schedule}
    assert len(shapes) == 4
    assert all(h % 32 == 0 and w % 32 == 0 for (h, w), _ in shapes)


def test_a_label_larger_than_announced_is_named():
    source = Numbered(1)
    schedule = eval_schedule([(4, 4)], batch_size=1, bucket=4, buffer=None, fit="pad")
    with pytest.raises(ValueError, match=r"example_0: the label is \(6, 8\), larger"):
        next(eval_batches(source, schedule, batch_size=1))


# Imports


def test_no_module_of_data_imports_jax():
    modules = [
        f"segjax.data.{m.name}" for m in pkgutil.iter_modules(segjax.data.__path__)
    ]
    code = (
        f"import sys, {', '.join(modules)}\n"
        "heavy = {'jax', 'grain', 'tensorflow', 'tensorflow_datasets'}\n"
        "print(sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"

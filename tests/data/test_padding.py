"""Padded sizes: few, whole buckets, and each image in the least that holds it."""

from hypothesis import given, settings
from hypothesis import strategies as st

from segjax.data.padding import padded, padded_sizes, rounded_up

SIZES = st.lists(st.tuples(st.integers(1, 300), st.integers(1, 300)), max_size=40)


@settings(max_examples=100, deadline=None, derandomize=True, database=None)
@given(SIZES, st.sampled_from([1, 8, 32]), st.integers(1, 9))
def test_every_image_has_one_of_few(sizes, bucket, programs):
    known = padded_sizes(sizes, bucket, programs)
    assert len(known) <= programs and list(known) == sorted(set(known))
    assert known == padded_sizes(sizes[::-1], bucket, programs)
    assert all(n % bucket == 0 for size in known for n in size)
    usual = {rounded_up(size, bucket) for size in sizes}
    if len(usual) <= programs:
        assert set(known) == usual
    for size in sizes:
        found = padded(size, known, bucket)
        assert found in known and found[0] >= size[0] and found[1] >= size[1]
        assert not any(
            h >= size[0] and w >= size[1] and h * w < found[0] * found[1]
            for h, w in known
        )


def test_those_are_joined_that_add_the_fewest_pixels():
    # 10x20 and 20x10 as one: 400 - 200, twice; 40x40 with one of them 1,400.
    sizes = [(10, 20), (20, 10), (40, 40)]
    assert padded_sizes(sizes, 10, 2) == ((20, 20), (40, 40))
    # Nine of one are dearer to move than one of the other.
    assert padded_sizes([(10, 10)] * 9 + [(20, 20), (30, 30)], 10, 2) == (
        (10, 10),
        (30, 30),
    )


def test_many_sizes_are_rounded_more_coarsely_first():
    sizes = [(h, w) for h in range(1, 400, 7) for w in range(1, 400, 7)]
    known = padded_sizes(sizes, 1, 16)
    assert len(known) == 16
    area = sum(h * w for h, w in (padded(size, known, 1) for size in sizes))
    assert area < 1.6 * sum(h * w for h, w in sizes)


def test_an_image_of_no_known_size():
    assert padded((33, 5), [(32, 32)], 32) == (64, 32)
    assert padded((33, 5), [], 8) == (40, 8)

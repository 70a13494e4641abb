"""The decoders of the extra [fast] give what Pillow gives, or leave it to Pillow."""

import io

import numpy as np
import pytest
from PIL import Image

from segjax.data import decoders, files

H, W = 37, 53


@pytest.fixture(scope="module")
def both():
    pytest.importorskip("imagecodecs", reason="extra [fast]")
    pytest.importorskip("simplejpeg", reason="extra [fast]")


def photo(channels):
    """Smooth with noise, so that every filter of PNG and every path of JPEG occurs."""
    rng = np.random.default_rng(0)
    rows, columns = np.mgrid[:H, :W]
    waves = np.stack([rows * 5, columns * 4, rows + columns], axis=-1)
    array = (waves + rng.integers(0, 40, (H, W, 3))).clip(0, 255).astype(np.uint8)
    return array if channels == 3 else array[..., 0]


def stored(array, format, mode=None, **options):
    image = Image.fromarray(array)
    file = io.BytesIO()
    (image.convert(mode) if mode else image).save(file, format, **options)
    return file.getvalue()


def by_decoder(data):
    with Image.open(io.BytesIO(data)) as image:
        return decoders.decode(image, data)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(
    ("format", "options"),
    [
        ("PNG", {}),
        ("PNG", {"compress_level": 1}),
        ("JPEG", {"quality": 90}),
        ("JPEG", {"quality": 60, "subsampling": 0}),
        ("JPEG", {"quality": 75, "subsampling": 1, "progressive": True}),
    ],
)
def test_the_bytes_are_pillows(both, tmp_path, channels, format, options):
    data = stored(photo(channels), format, **options)
    expected = np.asarray(Image.open(io.BytesIO(data)))
    found = by_decoder(data)
    assert found is not None and found.flags.writeable
    np.testing.assert_array_equal(found, expected)
    (tmp_path / "a").write_bytes(data)
    with Image.open(tmp_path / "a") as image:
        np.testing.assert_array_equal(decoders.decode(image, tmp_path / "a"), expected)


def test_the_rest_is_left_to_pillow(both):
    rgb, grey = photo(3), photo(1)
    left = {
        "palette": stored(rgb, "PNG", "P"),
        "bilevel": stored(grey, "PNG", "1"),
        "alpha": stored(rgb, "PNG", "RGBA"),
        "16 bits": stored(grey.astype(np.uint16) * 200, "PNG"),
        "transparent colour": stored(rgb, "PNG", transparency=(1, 2, 3)),
        "CMYK": stored(rgb, "JPEG", "CMYK"),
        "WebP": stored(rgb, "WEBP", lossless=True),
    }
    for name, data in left.items():
        assert by_decoder(data) is None, name
        expected = np.asarray(Image.open(io.BytesIO(data)))
        found = files._load(data, name, indices=True)
        assert found.shape[:2] == expected.shape[:2], name


@pytest.mark.parametrize("format", ["PNG", "JPEG"])
@pytest.mark.parametrize("kept", [0.3, 0.6, 0.95])
def test_a_file_cut_short_is_still_an_error(both, format, kept):
    data = stored(photo(3), format)
    data = data[: int(kept * len(data))]
    with pytest.raises(ValueError, match="^cut: unreadable or truncated"):
        files.read_image(data, name="cut")


def test_without_the_extra_pillow_reads(monkeypatch):
    import sys

    for name in ("imagecodecs", "simplejpeg"):
        monkeypatch.setitem(sys.modules, name, None)
    decoders._decoder.cache_clear()
    try:
        for format in ("PNG", "JPEG"):
            data = stored(photo(3), format)
            assert by_decoder(data) is None
            expected = np.asarray(Image.open(io.BytesIO(data)))
            np.testing.assert_array_equal(files.read_image(data), expected)
    finally:
        decoders._decoder.cache_clear()

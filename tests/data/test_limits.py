"""Decompression bombs are refused before they are decoded."""

import io
import lzma
import struct
import tracemalloc
import zlib

import numpy as np
import pytest
import tifffile
from PIL import Image

from segjax.data import files, limits

MB = 2**20


def lzma_of(data):
    return lzma.compress(data, preset=0)


def write_tiff(path, height, width, strip, *, samples=1, bits=8, compression=1):
    """A TIFF of one strip by its specification (6.0), little-endian."""
    tags = [
        (256, 3, 1, width),
        (257, 3, 1, height),
        (258, 3, 1, bits),
        (259, 3, 1, compression),
        (262, 3, 1, 1),
        (273, 4, 1, 8),
        (277, 3, 1, samples),
        (278, 3, 1, height),
        (279, 4, 1, len(strip)),
        (284, 3, 1, 1),
    ]
    table = struct.pack("<H", len(tags))
    table += b"".join(struct.pack("<HHII", *tag) for tag in tags)
    content = struct.pack("<2sHI", b"II", 42, 8 + len(strip)) + strip
    path.write_bytes(content + table + bytes(4))


def peak_of(function):
    """(peak of traced bytes, the ValueError that the function raised)."""
    tracemalloc.start()
    try:
        with pytest.raises(ValueError) as caught:
            function()
        return tracemalloc.get_traced_memory()[1], caught
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    ("compression", "compress"), [(8, zlib.compress), (34925, lzma_of)]
)
@pytest.mark.parametrize("reader", [files.read_image, files.read_mask])
def test_a_strip_that_hides_gigabytes(tmp_path, compression, compress, reader):
    path = tmp_path / "bomb.tif"
    write_tiff(path, 8, 8, compress(bytes(96 * MB)), compression=compression)
    assert path.stat().st_size < MB
    peak, caught = peak_of(lambda: reader(path))
    assert peak < 16 * MB, f"{peak / MB:.0f} MB"
    assert caught.type is files.TooLarge and "\n" not in str(caught.value)
    assert "bomb.tif: a strip or tile holds more than the 64 bytes" in str(caught.value)


@pytest.mark.parametrize(
    ("compression", "kind"), [(34933, "PNG"), (50001, "WEBP"), (34712, "JPEG2000")]
)
def test_a_strip_that_is_a_file_of_another_size(tmp_path, compression, kind):
    """imagecodecs would decode all of it, and tifffile take the corner."""
    path, stream = tmp_path / "bomb.tif", io.BytesIO()
    Image.fromarray(np.zeros((2000, 3000), np.uint8)).save(stream, kind)
    write_tiff(path, 8, 8, stream.getvalue(), compression=compression)
    peak, caught = peak_of(lambda: files.read_image(path))
    assert peak < 2 * MB and caught.type is files.TooLarge
    assert "bomb.tif: a strip or tile holds more than the 64 bytes" in str(caught.value)


def test_codecs_whose_strips_have_sizes_of_their_own_are_pillows(tmp_path, monkeypatch):
    monkeypatch.delattr(tifffile.TiffPageSeries, "asarray")
    for compression in (50002, 34934, 34887):  # JPEG XL, JPEG XR, LERC
        write_tiff(tmp_path / "a.tif", 8, 8, b"abcd", compression=compression)
        with pytest.raises(ValueError, match="a.tif: unreadable or truncated"):
            files.read_image(tmp_path / "a.tif")


def test_the_same_tiff_without_the_bomb_is_read(tmp_path):
    array = np.random.default_rng(0).integers(0, 255, (400, 500), np.uint8)
    for compression, compress in ((8, zlib.compress), (34925, lzma_of)):
        strip = compress(array.tobytes())
        write_tiff(tmp_path / "a.tif", 400, 500, strip, compression=compression)
        read = files.read_image(tmp_path / "a.tif")
        np.testing.assert_array_equal(read[..., 0], array)


def test_a_tiff_that_claims_many_bands(tmp_path):
    path = tmp_path / "bands.tif"
    write_tiff(path, 9000, 9000, zlib.compress(b""), samples=200, compression=8)
    peak, caught = peak_of(lambda: files.read_image(path))
    assert peak < 16 * MB and caught.type is files.TooLarge
    assert "bands.tif: 9000 x 9000 x 200 values are more than" in str(caught.value)


def test_jpeg_in_tiff_is_read_by_pillow_everywhere(tmp_path, monkeypatch):
    array = np.full((32, 48, 3), (200, 40, 90), np.uint8)
    Image.fromarray(array).save(tmp_path / "a.tif", compression="jpeg", quality=95)
    with tifffile.TiffFile(tmp_path / "a.tif") as tiff:
        assert tiff.pages[0].compression in limits.JPEG
    monkeypatch.setattr(tifffile.TiffPageSeries, "asarray", None)
    read = files.read_image(tmp_path / "a.tif")
    assert read.shape == (32, 48, 3) and np.abs(read.astype(int) - array).max() <= 3


def test_a_png_whose_text_hides_gigabytes(tmp_path):
    def chunk(kind, data):
        body = kind + data
        return struct.pack(">I", len(data)) + body + struct.pack(">I", zlib.crc32(body))

    path = tmp_path / "text.png"
    Image.fromarray(np.zeros((8, 8), np.uint8)).save(path)
    content = path.read_bytes()
    text = chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(96 * MB)))
    path.write_bytes(content[:33] + text + content[33:])
    peak, caught = peak_of(lambda: files.read_image(path))
    assert peak < 16 * MB and "text.png: unreadable" in str(caught.value)


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize("side", [10_000, 60_000])
def test_a_png_that_claims_to_be_huge(tmp_path, side):
    path = tmp_path / "huge.png"
    Image.fromarray(np.zeros((8, 8), np.uint8)).save(path)
    content = bytearray(path.read_bytes())
    content[16:24] = struct.pack(">II", side, side)
    content[29:33] = struct.pack(">I", zlib.crc32(content[12:29]))
    path.write_bytes(content)
    for function in (files.read_image, files.read_mask, files.image_size):
        peak, caught = peak_of(lambda read=function: read(path))
        assert peak < MB and caught.type is files.TooLarge
        assert "huge.png: more than 89478485 pixels" in str(caught.value)


def test_the_limit_in_bytes_can_be_set(tmp_path, monkeypatch):
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(tmp_path / "a.png")
    monkeypatch.setattr(limits, "MAX_BYTES", 8 * 8 * 3)
    assert files.read_image(tmp_path / "a.png").shape == (8, 8, 3)
    monkeypatch.setattr(limits, "MAX_BYTES", 8 * 8 * 3 - 1)
    with pytest.raises(files.TooLarge, match=r"a\.png: 8 x 8 x 3 values"):
        files.read_image(tmp_path / "a.png")


def test_a_tiff_without_pixels(tmp_path):
    """Its width's tag is damaged: tifffile returns an array without columns."""
    path = tmp_path / "a.tif"
    Image.fromarray(np.ones((40, 48), np.uint8)).save(path)
    content = bytearray(path.read_bytes())
    place = content.index(struct.pack("<HHI", 256, 4, 1))
    content[place] = 9
    path.write_bytes(content)
    for read in (files.read_mask, files.read_image, files.image_size):
        with pytest.raises(ValueError, match=r"a\.tif: unreadable .* hold no pixels"):
            read(path)

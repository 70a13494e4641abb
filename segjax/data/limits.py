"""How much a file may decode to: guards against decompression bombs.

A few kilobytes can claim to be an image of terabytes, or hide gigabytes behind a small
header. Sizes are checked before anything is decoded.
"""

from __future__ import annotations

import io
import lzma
import math
import zlib
from typing import Any

from PIL import Image

MAX_BYTES = 2**31
"""Of one decoded image, all bands; pixels are bounded by PIL.Image.MAX_IMAGE_PIXELS."""

JPEG = (6, 7, 33007, 34892)
"""TIFF compressions whose strips are JPEG files."""

_DEFLATE, _LZMA = (8, 32946, 50013), (34925,)
# PNG, WebP and JPEG 2000: files with sizes of their own, in a header that Pillow reads.
_FILES = (34933, 34927, 50001, 33003, 33004, 33005, 34712)
# None, CCITT, LZW, PackBits and Zstandard are decoded into arrays of the size.
DECODED = (1, 2, 3, 4, 5, 32771, 32773, 34926, 50000, *_DEFLATE, *_LZMA, *_FILES)
"""TIFF compressions that tifffile may decode, after :func:`check_segments`; of others,
such as JPEG and JPEG XL, it would trust the size that each strip has of its own."""

# Deflate grows its input by no more than this factor (zlib's technical notes).
_DEFLATE_FACTOR = 1032
_HARMLESS = 2**26
_SLACK = 2**20  # some writers fill their strips up


class Refused(Exception):
    """Larger than the limits; the text says why and what to do."""


def too_many_pixels() -> str:
    """What is wrong with an image beyond Pillow's limit, and what to do."""
    return (
        f"more than {Image.MAX_IMAGE_PIXELS} pixels (Pillow's guard against "
        "decompression bombs); cut the image into tiles"
    )


def check(height: int, width: int, bands: int = 1, itemsize: int = 1) -> None:
    """Refuse an image whose array would be too large.

    Raises:
      Refused: more than ``PIL.Image.MAX_IMAGE_PIXELS`` pixels or ``MAX_BYTES`` bytes.
    """
    limit = Image.MAX_IMAGE_PIXELS
    if limit is not None and height * width > limit:
        raise Refused(too_many_pixels())
    if height * width * bands * itemsize > MAX_BYTES:
        raise Refused(
            f"{height} x {width} x {bands} values are more than {MAX_BYTES} bytes (a "
            "guard against decompression bombs); cut the image into tiles"
        )


def check_segments(series: Any) -> None:
    """Refuse a TIFF with a strip or tile that inflates beyond its own size.

    tifffile's own zlib and LZMA decoders (those it has without imagecodecs) inflate
    all that is there before they look at the size. Little is inflated here beyond it.
    A strip that is a PNG, WebP or JPEG 2000 file has a size of its own.

    Args:
      series: of a ``tifffile.TiffFile``.

    Raises:
      Refused: a strip or tile holds more than its size.
    """
    if series.keyframe.compression not in _DEFLATE + _LZMA + _FILES:
        return
    for page in series.pages:
        if page is None:
            continue
        key = page.keyframe
        size = math.prod(key.chunks) * key.dtype.itemsize
        deflate = key.compression in _DEFLATE
        handle = page.parent.filehandle
        for place, count in zip(page.dataoffsets, page.databytecounts, strict=True):
            # Small ones, which are most, cannot do harm: reading them twice would.
            if deflate and count * _DEFLATE_FACTOR <= _HARMLESS:
                continue
            handle.seek(place)
            if key.compression in _FILES:
                _check_file(handle.read(count), size)
            else:
                _check_segment(handle.read(count), size, deflate)


def _check_segment(data: bytes, size: int, deflate: bool) -> None:
    inflate = zlib.decompressobj() if deflate else lzma.LZMADecompressor()
    try:
        found = len(inflate.decompress(data, size + _SLACK + 1))
    except (zlib.error, lzma.LZMAError):
        return  # damaged: the decoder says it better
    if found > size + _SLACK:
        raise _bomb(size)


def _check_file(data: bytes, size: int) -> None:
    if data:  # a tile that is left out has none
        with Image.open(io.BytesIO(data)) as image:
            if image.width * image.height > size:
                raise _bomb(size)


def _bomb(size: int) -> Refused:
    return Refused(
        f"a strip or tile holds more than the {size} bytes of its size (a "
        "decompression bomb?); write the file anew"
    )

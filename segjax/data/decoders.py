"""Faster decoders than Pillow's for the common files, where they are installed.

The extra ``[fast]``: imagecodecs (libpng, PNG) and simplejpeg (libjpeg-turbo, JPEG).
Both give the very bytes that Pillow gives, so a run is the same with and without; what
they do not take, or complain of, is left to Pillow and its messages.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

_BANDS = {"L": 1, "RGB": 3}


@cache
def _decoder(format: str) -> Callable[[bytes, str], np.ndarray] | None:
    """(content, Pillow's mode) -> uint8 array; None where none is installed."""
    try:
        if format == "JPEG":
            import simplejpeg  # pyright: ignore[reportMissingImports]

            spaces = {"L": "GRAY", "RGB": "RGB"}
            return lambda data, mode: simplejpeg.decode_jpeg(data, spaces[mode])
        if format == "PNG":
            import imagecodecs  # pyright: ignore[reportMissingImports]

            return lambda data, mode: imagecodecs.png_decode(data)
    except ImportError:
        pass
    return None


def decode(image: Any, file: str | Path | bytes) -> np.ndarray | None:
    """The pixels of a file that Pillow has opened but not yet read.

    Returns uint8[h, w] for 8-bit grey and uint8[h, w, 3] for 8-bit RGB, in PNG or JPEG;
    None for every other file, for a damaged one, and without the extra.
    """
    if image.mode not in _BANDS or len(image.tile) != 1:
        return None
    args = image.tile[0].args
    raw = args[0] if isinstance(args, tuple) else args
    # Other raw modes are 16 bits a channel, or fewer than 8.
    if raw != image.mode or (decoder := _decoder(image.format)) is None:
        return None
    data = file if isinstance(file, bytes) else Path(file).read_bytes()
    try:
        array = decoder(data, image.mode)
    except (ValueError, RuntimeError):  # both packages' own errors are of these
        return None
    shape = (image.height, image.width, _BANDS[image.mode])
    # A colour that counts as transparent would have become a fourth channel.
    if array.dtype != np.uint8 or array.size != np.prod(shape):
        return None
    return array.reshape(shape if shape[2] == 3 else shape[:2])

"""What a file's header tells beside the size: format, turning, frames, palette."""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageFile

from segjax.data import limits
from segjax.data.files import File, stored_size

FORMATS = {
    **dict.fromkeys((".jpg", ".jpeg"), ("JPEG", "MPO")),
    **dict.fromkeys((".tif", ".tiff"), ("TIFF",)),
    ".png": ("PNG",),
    ".bmp": ("BMP", "DIB"),
    ".webp": ("WEBP",),
}
"""File name ending -> the formats, as Pillow calls them, that it stands for."""


@dataclass(frozen=True)
class Header:
    """Of one image file; ``format`` and ``mode`` are empty where they are not known.

    ``stored`` are its rows and columns as they lie in the file.
    """

    format: str
    mode: str
    stored: tuple[int, int]
    orientation: int
    lossy: bool
    frames: int
    palette: np.ndarray | None  # uint8[n, 3] of a palette image

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the upright image."""
        height, width = self.stored
        return (width, height) if self.orientation >= 5 else (height, width)


def read_header(file: File) -> Header:
    """Read a header; errors are those of :func:`segjax.data.files.stored_size`.

    Raises:
      ValueError: the file is missing, no image, or too large.
    """
    size, turn = stored_size(file)
    stream = io.BytesIO(file) if isinstance(file, bytes) else file
    try:
        with Image.open(stream) as image:
            several = image.format in ("PNG", "WEBP")
            return Header(
                image.format or "",
                image.mode,
                size,
                turn,
                _lossy(image, file),
                getattr(image, "n_frames", 1) if several else 1,
                _palette(image),
            )
    # A TIFF that tifffile alone knows (many bands, floats), or a file that is damaged
    # behind its header, which whoever decodes it will say.
    except Exception:
        return Header("", "", size, turn, False, 1, None)


def _palette(image: ImageFile.ImageFile) -> np.ndarray | None:
    if image.mode != "P" or image.palette is None:
        return None
    colors = image.getpalette("RGB") or []
    return np.array(colors, np.uint8).reshape(-1, 3)


def _lossy(image: ImageFile.ImageFile, file: File) -> bool:
    if image.format == "TIFF":
        tags = getattr(image, "tag_v2", {})
        return tags.get(259) in limits.JPEG
    if image.format == "WEBP":
        content = file if isinstance(file, bytes) else Path(file).read_bytes()
        return _lossy_webp(content)
    return image.format in ("JPEG", "MPO")


def _lossy_webp(content: bytes) -> bool:
    """Whether the first picture is VP8 and not VP8L (RFC 9649, chapter 2)."""
    place = 12
    while place + 8 <= len(content):
        kind = content[place : place + 4]
        if kind in (b"VP8 ", b"VP8L"):
            return kind == b"VP8 "
        length = int.from_bytes(content[place + 4 : place + 8], "little")
        # The frames of an animation lie inside of an ANMF chunk, after 16 bytes.
        place += 8 + (16 if kind == b"ANMF" else length + length % 2)
    return False

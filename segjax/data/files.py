"""Image and mask files to arrays: PNG, JPEG, TIFF, BMP and WebP.

Images keep their bit depth (8-bit and 16-bit integers, float32) and all their bands.
Masks keep their numbers: palette indices are never turned into colours.

A file that carries an EXIF orientation is turned upright, and its size is reported
upright; a mask is turned only if its own file says so. (In a PNG the orientation has
to stand before the image data, where every writer puts it.)

Every failure is a one-line ValueError that names the file. A small file that would
decode to a huge array is refused before it is decoded (:mod:`segjax.data.limits`).
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from PIL import ExifTags, Image, UnidentifiedImageError

from segjax.data import limits
from segjax.data.decoders import decode

EXTENSIONS = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".webp")
"""The file name endings, in lower case, that count as images."""

UNREAD = tuple(
    f".{ending}"
    for ending in (
        "npy npz heic heif exr hdr ico svg psd dcm nii gz mat dng cr2 nef arw pdf"
    ).split()
)
"""Endings of pictures that are not read: where one lies among images, it is told."""

Color = tuple[int, int, int]
File = str | Path | bytes
"""A path, or the file's content."""


class TooLarge(ValueError):
    """A file that would decode to more than :mod:`segjax.data.limits` allow."""


_TIFF_MAGIC = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
# Pillow keeps 8 of the 16 bits of these PNGs. Reading the big-endian file once as such
# and once as if it were little-endian gives first the high, then the low bytes.
_SIXTEEN_BITS = {"RGB;16B": "RGB;16L", "RGBA;16B": "RGBA;16L"}
# Pillow spreads grey of 2 and 4 bits over 0 to 255, which is no id any more.
_SPREAD = {"L;2": 85, "L;4": 17}


def read_image(
    file: File, channels: int | None = None, *, name: str | None = None
) -> np.ndarray:
    """Read an image file: uint8 | uint16 | float32 [h, w, C].

    Grey has one channel, alpha is a channel, colour palettes and CMYK become RGB.
    Integer TIFFs of other types and float64 become float32.

    Args:
      file: path or content of a PNG, JPEG, TIFF (any number of bands), BMP or WebP.
      channels: how many to return; None returns what the file holds. Grey is repeated
        to 3, and the alpha channel of grey or RGB is dropped where that fits.
      name: what errors call the file, where ``file`` is its content.

    Raises:
      ValueError: the file is missing, unreadable, truncated, larger than the limits
        (``TooLarge``), or does not have that many channels.
    """
    name = _name(file, name)
    array = _load(file, name, indices=False)
    if array.dtype not in (np.uint8, np.uint16, np.float32):
        array = array.astype(np.float32)
    return with_channels(array, channels, name)


def with_channels(array: np.ndarray, channels: int | None, name: str) -> np.ndarray:
    """The array [h, w] or [h, w, C] as [h, w, channels]; None: as many as it has.

    Grey is repeated to 3, and the alpha channel of grey or RGB is dropped where that
    fits.

    Raises:
      ValueError: it has another number; ``name`` goes into the message.
    """
    if array.ndim == 2:
        array = array[:, :, None]
    if channels is None or array.shape[2] == channels:
        return array
    if (array.shape[2], channels) in ((2, 1), (4, 3)):
        return np.ascontiguousarray(array[:, :, :channels])
    if array.shape[2] in (1, 2) and channels == 3:
        return np.repeat(array[:, :, :1], 3, axis=2)
    raise ValueError(
        f"{name}: has {array.shape[2]} channel{'s' * (array.shape[2] != 1)} where "
        f"{channels} are wanted (config.data.channels; None: those of the first image "
        "trained on); convert the file"
    )


def read_mask(
    file: File,
    colors: Mapping[Color, int] | None = None,
    values: str = "auto",
    *,
    name: str | None = None,
) -> np.ndarray:
    """Read a mask file: uint8 [h, w], the ids as they are stored.

    Args:
      file: path or content of an image file of mode 1, L, P (its indices are the ids),
        16-bit grey with ids below 256, or RGB.
      colors: RGB colour -> id, for masks that hold colours. Without it an RGB mask is
        taken only if its three channels are the same, as ids.
      values: what palette and grey masks hold: "auto" and "ids" take the numbers,
        "colors" looks their colours up in ``colors`` (so do RGB masks in any case).
      name: what errors call the file, where ``file`` is its content.

    Raises:
      ValueError: the file is missing, unreadable or truncated, holds an id above 255
        (names the ids), or a colour that ``colors`` lacks (names colour and pixels).
    """
    name = _name(file, name)
    return mask_ids(stored_mask(file, values, name=name), colors, name)


def stored_mask(
    file: File, values: str = "auto", *, name: str | None = None
) -> np.ndarray:
    """What a mask file holds before ids are looked up: [h, w] or [h, w, C], any type.

    Args:
      file, values, name: as in :func:`read_mask`; palettes and 8-bit grey are [h, w]
        numbers, or with ``values="colors"`` colours.

    Raises:
      ValueError: the file is missing, unreadable, truncated or ``TooLarge``.
    """
    if values not in ("auto", "ids", "colors"):
        raise ValueError(f"mask values are 'auto', 'ids' or 'colors', not {values!r}")
    array = _load(file, _name(file, name), indices=values != "colors")
    if values == "colors" and array.ndim == 3 and array.shape[2] <= 2:
        array = array[:, :, 0]  # grey, with an alpha channel
    if values == "colors" and array.ndim == 2 and array.dtype == np.uint8:
        # A file of black, white and grey alone is often saved without its colours.
        return np.stack([array] * 3, axis=-1)
    return array


def mask_ids(
    array: np.ndarray, colors: Mapping[Color, int] | None, name: str
) -> np.ndarray:
    """uint8[h, w], the ids of what :func:`stored_mask` found; errors say ``name``."""
    if array.ndim == 3 and array.shape[2] in (1, 2):
        array = array[:, :, 0]
    if array.ndim == 2:
        return _as_ids(array, name)
    if array.shape[2] not in (3, 4) or array.dtype != np.uint8:
        raise ValueError(
            f"{name}: a mask has one channel or 8-bit RGB, not {array.shape[2]} "
            f"channels of {array.dtype}"
        )
    array = array[:, :, :3]
    if colors:
        return _colors_to_ids(array, colors, name)
    if (array == array[:, :, :1]).all():
        return np.ascontiguousarray(array[:, :, 0])
    raise ValueError(
        f"{name}: an RGB mask needs a colour table: write a color for each class in "
        "classes.json, or save masks with one channel of ids"
    )


def image_size(file: File, *, name: str | None = None) -> tuple[int, int]:
    """Height and width of the upright image in pixels, from the file's header."""
    (height, width), turn = stored_size(file, name=name)
    return (width, height) if turn >= 5 else (height, width)


def stored_size(file: File, *, name: str | None = None) -> tuple[tuple[int, int], int]:
    """Height and width before the image is turned upright, and its EXIF orientation."""
    with _named_errors(_name(file, name)):
        if _is_tiff(file):
            with _tiff(file) as (series, (y, x, _)):
                height, width = series.shape[y], series.shape[x]
                turn = _tiff_orientation(series)
        else:
            with Image.open(_stream(file)) as image:
                (width, height), turn = image.size, _orientation(image)
        limits.check(height, width)
    return (height, width), turn


def _name(file: File, name: str | None) -> str:
    return name or ("<bytes>" if isinstance(file, bytes) else str(file))


def _stream(file: File) -> Any:
    return io.BytesIO(file) if isinstance(file, bytes) else file


@contextmanager
def _named_errors(name: str) -> Iterator[None]:
    """Turn whatever a decoder raises into one ValueError line with the file's name."""
    try:
        yield
    except MemoryError:
        raise
    except FileNotFoundError:
        raise ValueError(f"{name}: no such file") from None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise TooLarge(f"{name}: {limits.too_many_pixels()}") from None
    except limits.Refused as error:
        raise TooLarge(f"{name}: {error}") from None
    # Pillow and tifffile raise a dozen types for a damaged file (OSError, SyntaxError,
    # struct.error, zlib.error, IndexError ...), none of which names it.
    except Exception as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        if isinstance(error, UnidentifiedImageError):
            reason = "not an image of a known format"
        raise ValueError(
            f"{name}: unreadable or truncated ({reason}); restore the file or leave it "
            "out"
        ) from error


def _is_tiff(file: File) -> bool:
    if isinstance(file, bytes):
        return file[:4] in _TIFF_MAGIC
    with open(file, "rb") as stream:
        return stream.read(4) in _TIFF_MAGIC


def _load(file: File, name: str, *, indices: bool) -> np.ndarray:
    """[h, w] or [h, w, C], upright; palettes as indices [h, w] or as colours."""
    with _named_errors(name):
        if _is_tiff(file):
            return _load_tiff(file, indices)
        with Image.open(_stream(file)) as image:
            limits.check(image.height, image.width, len(image.getbands()))
            turn = _orientation(image)
            array = _pixels(image, indices, file)
        return _turn(array, turn)


def _pixels(image: Any, indices: bool, file: File) -> np.ndarray:
    raw = image.tile[0].args if image.tile else None  # how the file packs its pixels
    if image.format == "PNG" and raw in _SIXTEEN_BITS:
        return _sixteen_bits(image, file)
    if (found := decode(image, file)) is not None:
        return found
    if image.mode == "P" and not indices:
        image = image.convert("RGB")
    elif image.mode == "PA":
        image = image.convert("P" if indices else "RGBA")
    elif image.mode in ("CMYK", "YCbCr", "LAB", "HSV", "RGBX"):
        image = image.convert("RGB")
    array = np.asarray(image)
    if array.dtype == bool:
        return _bilevel(array, indices)
    factor = _SPREAD.get(str(raw[0] if isinstance(raw, tuple) and raw else raw))
    if indices and factor is not None:
        array = array // np.uint8(factor)
    return array.astype(array.dtype.newbyteorder("="), copy=False)


def _bilevel(array: np.ndarray, indices: bool) -> np.ndarray:
    """A bilevel image is black and white, a bilevel mask holds the ids 0 and 1."""
    return array.astype(np.uint8) * np.uint8(1 if indices else 255)


def _sixteen_bits(image: Any, file: File) -> np.ndarray:
    swapped = _SIXTEEN_BITS[image.tile[0].args]
    high = np.asarray(image).astype(np.uint16)
    with Image.open(_stream(file)) as image:
        image.tile = [tile._replace(args=swapped) for tile in image.tile]
        return (high << 8) | np.asarray(image)


def _orientation(image: Image.Image) -> int:
    """EXIF orientation 1 to 8, from the header alone."""
    # getexif() on a PNG without EXIF in its header decodes the whole image.
    if image.format == "PNG" and "exif" not in image.info:
        return 1
    turn = image.getexif().get(ExifTags.Base.Orientation, 1)
    return turn if turn in range(1, 9) else 1


def _turn(array: np.ndarray, orientation: int) -> np.ndarray:
    """Turn the stored rows and columns upright (EXIF 2.32, tag 274)."""
    if orientation >= 5:
        array = array.swapaxes(0, 1)
    # After the transposition the eight cases differ by mirroring rows and columns.
    if orientation in (3, 4, 7, 8):
        array = array[::-1]
    if orientation in (2, 3, 6, 7):
        array = array[:, ::-1]
    return np.ascontiguousarray(array)


@contextmanager
def _tiff(file: File) -> Iterator[tuple[Any, tuple[int, int, int]]]:
    """Open a TIFF: its first series and the series' (row, column, band) axes."""
    import tifffile

    with tifffile.TiffFile(_stream(file)) as tiff:
        series = tiff.series[0]
        yield series, _tiff_axes(series.shape, series.axes)


def _tiff_axes(shape: tuple[int, ...], names: str) -> tuple[int, int, int]:
    """Which axes of a TIFF are rows, columns and bands (-1: none)."""
    axes = [i for i, size in enumerate(shape) if size > 1 or names[i] in "YX"]
    if 0 in shape:
        raise ValueError(f"axes {names} of shape {shape} hold no pixels")
    if len(axes) == 2:
        return axes[0], axes[1], -1
    if len(axes) != 3:
        raise ValueError(f"axes {names} of shape {shape} are not rows, columns, bands")
    letters = "".join(names[i] for i in axes)
    if "S" in letters or "C" in letters:
        band = axes[letters.index("S" if "S" in letters else "C")]
    else:
        # Pages without a name: the bands are the shorter end, whichever it is.
        band = axes[0] if shape[axes[0]] <= shape[axes[2]] else axes[2]
    y, x = (i for i in axes if i != band)
    return y, x, band


def _tiff_orientation(series: Any) -> int:
    turn = series.keyframe.tags.valueof(ExifTags.Base.Orientation.value, 1)
    return turn if turn in range(1, 9) else 1


def _load_tiff(file: File, indices: bool) -> np.ndarray:
    import tifffile

    with _tiff(file) as (series, (y, x, band)):
        bands = series.shape[band] if band >= 0 else 1
        limits.check(series.shape[y], series.shape[x], bands, series.dtype.itemsize)
        turn, page = _tiff_orientation(series), series.keyframe
        # With and without imagecodecs, which would trust a strip's own header.
        if page.compression not in limits.DECODED:
            return _compressed_tiff(file, page, indices)
        # CMYK, YCbCr and Lab are no RGB: Pillow knows what they mean.
        colours = tifffile.PHOTOMETRIC
        other = (colours.SEPARATED, colours.YCBCR, colours.CIELAB)
        eight = page.bitspersample == 8 and bands in (3, 4)
        if not indices and eight and page.photometric in other:
            return _compressed_tiff(file, page, indices)
        limits.check_segments(series)
        try:
            array = series.asarray()
        except ValueError as error:
            if "imagecodecs" not in str(error):
                raise
            return _compressed_tiff(file, page, indices)
        if array.shape != series.shape:
            raise ValueError(f"{array.shape} values where {series.shape} should be")
        order = (y, x) if band < 0 else (y, x, band)
        rest = tuple(i for i in range(array.ndim) if i not in order)
        array = array.transpose(*rest, *order)[(0,) * len(rest)]
        if page.photometric == tifffile.PHOTOMETRIC.MINISWHITE and not indices:
            array = ~array
        if array.dtype == bool:
            array = _bilevel(array, indices)
        if page.photometric == tifffile.PHOTOMETRIC.PALETTE and not indices:
            array = (np.asarray(page.colormap) >> 8).astype(np.uint8).T[array]
    return _turn(array, turn)


def _compressed_tiff(file: File, page: Any, indices: bool) -> np.ndarray:
    """LZW, JPEG and other codecs that tifffile lacks: Pillow knows the common ones."""
    bands, bits = page.samplesperpixel, page.bitspersample
    # Pillow would cut 16-bit colours to 8 bits without a word.
    if bands > 4 or (bands > 1 and bits > 8):
        raise ValueError(
            f"{page.compression.name} compression of {bands} bands of {bits} bits "
            "needs `pip install imagecodecs`"
        )
    # Pillow turns a TIFF (and no other format) upright by itself.
    with Image.open(_stream(file)) as image:
        return _pixels(image, indices, file)


def _as_ids(array: np.ndarray, name: str) -> np.ndarray:
    if array.dtype == np.uint8:
        return array
    wrong = (array < 0) | (array > 255)
    if array.dtype.kind == "f":
        wrong |= array != np.round(array)
    if wrong.any():
        ids, counts = np.unique(array[wrong], return_counts=True)
        found = [f"{i} ({n} pixels)" for i, n in zip(ids[:5], counts[:5], strict=True)]
        raise ValueError(
            f"{name}: mask ids are whole numbers from 0 to 255, but it holds "
            f"{', '.join(found)}{' ...' if len(ids) > 5 else ''}; renumber them"
        )
    return array.astype(np.uint8)


def _colors_to_ids(
    array: np.ndarray, colors: Mapping[Color, int], name: str
) -> np.ndarray:
    """uint8[h, w, 3] -> uint8[h, w] by the table."""
    weights = np.array([1 << 16, 1 << 8, 1], np.int32)
    keys = np.array(list(colors), np.int32).reshape(-1, 3) @ weights
    order = np.argsort(keys)
    keys, ids = keys[order], np.array(list(colors.values()), np.uint8)[order]
    packed = array.astype(np.int32) @ weights
    place = np.searchsorted(keys, packed).clip(max=len(keys) - 1)
    wrong = keys[place] != packed
    if wrong.any():
        unknown, counts = np.unique(packed[wrong], return_counts=True)
        most = np.argsort(-counts)[:3]
        found = ", ".join(
            f"({c >> 16}, {c >> 8 & 255}, {c & 255}) ({n} pixels)"
            for c, n in zip(unknown[most], counts[most], strict=True)
        )
        more = f" and {len(unknown) - 3} more colours" if len(unknown) > 3 else ""
        raise ValueError(
            f"{name}: colour {found}{more} not in the colour table; add it to the "
            "classes or to 'ignore' in classes.json (lossy formats change colours: "
            "masks belong in PNG)"
        )
    return ids[place]

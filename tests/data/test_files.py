"""Reading of image and mask files, against the arrays that were written."""

import struct
import zlib

import numpy as np
import pytest
import tifffile
from PIL import Image, ImageOps

from segjax.data.files import image_size, read_image, read_mask

H, W = 13, 17


def noise(*shape, dtype=np.uint8, seed=0):
    top = np.iinfo(dtype).max
    return np.random.default_rng(seed).integers(0, top, shape, dtype, endpoint=True)


def write_png(path, array, color_type, bits=16):
    """A PNG by its specification (filter 0), independent of Pillow."""

    def chunk(kind, data):
        body = kind + data
        return struct.pack(">I", len(data)) + body + struct.pack(">I", zlib.crc32(body))

    h, w = array.shape[:2]
    rows = b"".join(b"\0" + row.astype(f">u{bits // 8}").tobytes() for row in array)
    header = struct.pack(">IIBBBBB", w, h, bits, color_type, 0, 0, 0)
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(rows))
        + chunk(b"IEND", b"")
    )


@pytest.mark.parametrize("name", ["a.png", "a.bmp", "a.tif", "a.webp"])
def test_rgb_round_trip(tmp_path, name):
    array = noise(H, W, 3)
    path = tmp_path / name
    Image.fromarray(array).save(path, **({"lossless": True} if "webp" in name else {}))
    got = read_image(path)
    assert got.dtype == np.uint8
    np.testing.assert_array_equal(got, array)
    assert image_size(path) == (H, W)
    np.testing.assert_array_equal(read_image(path.read_bytes()), array)


def test_jpeg_is_close_and_has_its_size(tmp_path):
    ramp = np.linspace(0, 255, 64 * 48).reshape(48, 64).astype(np.uint8)
    path = tmp_path / "a.JPG"
    Image.fromarray(np.stack([ramp] * 3, -1)).save(path, quality=95)
    got = read_image(path)
    assert got.shape == (48, 64, 3) and image_size(path) == (48, 64)
    assert np.abs(got.astype(int) - ramp[:, :, None]).mean() < 3


def test_grey_and_alpha_and_palette_channels(tmp_path):
    grey, rgba = noise(H, W), noise(H, W, 4)
    Image.fromarray(grey).save(tmp_path / "l.png")
    Image.fromarray(rgba).save(tmp_path / "rgba.png")
    Image.fromarray(noise(H, W, 2), "LA").save(tmp_path / "la.png")
    assert read_image(tmp_path / "l.png").shape == (H, W, 1)
    np.testing.assert_array_equal(
        read_image(tmp_path / "l.png", 3), np.stack([grey] * 3, axis=-1)
    )
    assert read_image(tmp_path / "rgba.png").shape == (H, W, 4)
    np.testing.assert_array_equal(read_image(tmp_path / "rgba.png", 3), rgba[..., :3])
    assert read_image(tmp_path / "la.png").shape == (H, W, 2)
    assert read_image(tmp_path / "la.png", 1).shape == (H, W, 1)
    palette = Image.fromarray(noise(H, W) % 4, "P")
    palette.putpalette([1, 2, 3, 40, 50, 60, 7, 8, 9, 200, 210, 220])
    palette.save(tmp_path / "p.png")
    assert set(map(tuple, read_image(tmp_path / "p.png").reshape(-1, 3))) == {
        (1, 2, 3),
        (40, 50, 60),
        (7, 8, 9),
        (200, 210, 220),
    }
    with pytest.raises(ValueError, match=r"l\.png: has 1 channel where 5 are wanted"):
        read_image(tmp_path / "l.png", 5)


@pytest.mark.parametrize(("channels", "color_type"), [(1, 0), (3, 2), (4, 6)])
def test_sixteen_bit_png_keeps_all_bits(tmp_path, channels, color_type):
    array = noise(H, W, channels, dtype=np.uint16)
    write_png(tmp_path / "a.png", array, color_type)
    got = read_image(tmp_path / "a.png")
    assert got.dtype == np.uint16
    np.testing.assert_array_equal(got, array)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
@pytest.mark.parametrize("layout", ["hwc", "chw planes", "chw pages", "hwc pages"])
def test_multi_band_tiff(tmp_path, dtype, layout):
    array = (noise(H, W, 5) * 3).astype(dtype)
    planes = {"photometric": "minisblack"}
    path = tmp_path / "a.tif"
    if layout == "hwc":
        tifffile.imwrite(path, array, planarconfig="contig", **planes)
    elif layout == "chw planes":
        stored = array.transpose(2, 0, 1)
        tifffile.imwrite(path, stored, planarconfig="separate", **planes)
    elif layout == "chw pages":
        tifffile.imwrite(path, array.transpose(2, 0, 1), compression="zlib")
    else:
        tifffile.imwrite(path, array)
    got = read_image(path)
    assert got.dtype == dtype
    np.testing.assert_array_equal(got, array)
    assert image_size(path) == (H, W)


def test_tiff_of_other_types(tmp_path):
    rgb16 = noise(H, W, 3, dtype=np.uint16)
    tifffile.imwrite(tmp_path / "rgb16.tif", rgb16, compression="zlib")
    np.testing.assert_array_equal(read_image(tmp_path / "rgb16.tif"), rgb16)
    heights = noise(H, W).astype(np.int16) - 100
    tifffile.imwrite(tmp_path / "i16.tif", heights)
    got = read_image(tmp_path / "i16.tif")
    assert got.dtype == np.float32
    np.testing.assert_array_equal(got[..., 0], heights.astype(np.float32))
    lzw = noise(H, W, 3)
    Image.fromarray(lzw).save(tmp_path / "lzw.tif", compression="tiff_lzw")
    np.testing.assert_array_equal(read_image(tmp_path / "lzw.tif"), lzw)
    white0 = noise(H, W)
    tifffile.imwrite(tmp_path / "w.tif", 255 - white0, photometric="miniswhite")
    np.testing.assert_array_equal(read_image(tmp_path / "w.tif")[..., 0], white0)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.tif", "lzw.tif"])
def test_exif_orientation_as_pillow_turns_it(tmp_path, name, orientation):
    array = noise(H, W, 3)
    exif = Image.Exif()
    exif[274] = orientation
    path = tmp_path / name
    options = {
        "a.jpg": {"quality": 100},
        "lzw.tif": {"compression": "tiff_lzw"},
    }
    Image.fromarray(array).save(path, exif=exif, **options.get(name, {}))
    stored = Image.fromarray(array)
    if name == "a.jpg":
        with Image.open(path) as image:
            stored = Image.fromarray(np.asarray(image))
    stored.getexif()[274] = orientation
    want = np.asarray(ImageOps.exif_transpose(stored))
    np.testing.assert_array_equal(read_image(path), want)
    assert image_size(path) == want.shape[:2]


def test_masks_keep_their_numbers(tmp_path):
    ids = noise(H, W) % 7
    Image.fromarray(ids).save(tmp_path / "l.png")
    palette = Image.fromarray(ids, "P")
    # Colours that are not the indices, and two indices with the same colour.
    palette.putpalette([9, 9, 9, 9, 9, 9, *noise(15).tolist()])
    for name in ("p.png", "p.bmp", "p.tif"):
        palette.save(tmp_path / name)
    Image.fromarray(ids.astype(np.uint16)).save(tmp_path / "i16.png")
    tifffile.imwrite(tmp_path / "i32.tif", ids.astype(np.int32))
    tifffile.imwrite(tmp_path / "f32.tif", ids.astype(np.float32))
    Image.fromarray(np.stack([ids] * 3, axis=-1)).save(tmp_path / "grey.png")
    for path in sorted(tmp_path.iterdir()):
        got = read_mask(path)
        assert got.dtype == np.uint8, path
        np.testing.assert_array_equal(got, ids, err_msg=path.name)


def test_bilevel_mask_is_zero_and_one_and_image_black_and_white(tmp_path):
    ids = noise(H, W) % 2
    for name in ("a.png", "a.tif"):
        Image.fromarray(ids * 255).convert("1").save(tmp_path / name)
        np.testing.assert_array_equal(read_mask(tmp_path / name), ids)
        np.testing.assert_array_equal(read_image(tmp_path / name)[..., 0], ids * 255)


@pytest.mark.parametrize("bits", [2, 4])
def test_grey_masks_of_few_bits_keep_their_ids(tmp_path, bits):
    """PNG packs 4 or 2 pixels into a byte; images are spread over 0 to 255."""
    ids, per = noise(H, W) % 2**bits, 8 // bits
    padded = np.pad(ids, ((0, 0), (0, -W % per))).reshape(H, -1, per)
    shifts = np.arange(8 - bits, -1, -bits)
    packed = (padded.astype(int) << shifts).sum(-1).astype(np.uint8)
    write_png(tmp_path / "a.png", packed, 0, 8)
    header = bytearray((tmp_path / "a.png").read_bytes())
    header[16:25] = struct.pack(">IIB", W, H, bits)
    header[29:33] = struct.pack(">I", zlib.crc32(bytes(header[12:29])))
    (tmp_path / "a.png").write_bytes(header)
    np.testing.assert_array_equal(read_mask(tmp_path / "a.png"), ids)
    spread = ids * (255 // (2**bits - 1))
    np.testing.assert_array_equal(read_image(tmp_path / "a.png")[..., 0], spread)


@pytest.mark.parametrize("mode", ["L", "1"])
def test_grey_masks_by_their_colours_on_request(tmp_path, mode):
    """Programs save a mask of black and white alone as grey, one beside it as RGB."""
    white = noise(H, W) % 2
    Image.fromarray(white * 255).convert(mode).save(tmp_path / "a.png")
    table = {(255, 0, 0): 0, (255, 255, 255): 3, (0, 0, 0): 5}
    got = read_mask(tmp_path / "a.png", table, "colors")
    np.testing.assert_array_equal(got, np.where(white == 1, 3, 5))


COLORS = {(0, 0, 0): 0, (255, 0, 0): 1, (0, 0, 255): 7, (1, 2, 3): 200}


def test_rgb_mask_by_colour_table(tmp_path):
    index = noise(H, W) % 4
    rgb = np.array(list(COLORS), np.uint8)[index]
    Image.fromarray(rgb).save(tmp_path / "a.png")
    want = np.array(list(COLORS.values()), np.uint8)[index]
    np.testing.assert_array_equal(read_mask(tmp_path / "a.png", COLORS), want)
    rgba = np.concatenate([rgb, noise(H, W, 1)], axis=-1)
    Image.fromarray(rgba).save(tmp_path / "rgba.png")
    np.testing.assert_array_equal(read_mask(tmp_path / "rgba.png", COLORS), want)
    with pytest.raises(ValueError, match=r"a\.png: an RGB mask needs a colour table"):
        read_mask(tmp_path / "a.png")


def test_palette_mask_by_its_colours_on_request(tmp_path):
    image = Image.fromarray(noise(H, W) % 2, "P")
    image.putpalette([0, 0, 255, 255, 0, 0])
    image.save(tmp_path / "a.png")
    want = np.where(np.asarray(image) == 0, 7, 1)
    np.testing.assert_array_equal(read_mask(tmp_path / "a.png", COLORS, "colors"), want)
    np.testing.assert_array_equal(read_mask(tmp_path / "a.png", COLORS), image)
    with pytest.raises(ValueError, match="'auto', 'ids' or 'colors', not 'rgb'"):
        read_mask(tmp_path / "a.png", COLORS, "rgb")


def test_unknown_colour_names_colour_file_and_pixels(tmp_path):
    rgb = np.zeros((H, W, 3), np.uint8)
    rgb[0, :5] = (10, 20, 30)
    Image.fromarray(rgb).save(tmp_path / "a.png")
    with pytest.raises(ValueError, match=r"a\.png: colour \(10, 20, 30\) \(5 pixels\)"):
        read_mask(tmp_path / "a.png", COLORS)


def test_ids_above_255_are_named(tmp_path):
    ids = np.zeros((H, W), np.uint16)
    ids[2, 3:5] = 300
    Image.fromarray(ids).save(tmp_path / "a.png")
    with pytest.raises(ValueError, match=r"a\.png: mask ids .* 300 \(2 pixels\)"):
        read_mask(tmp_path / "a.png")
    tifffile.imwrite(tmp_path / "f.tif", np.full((4, 4), 0.5, np.float32))
    with pytest.raises(ValueError, match=r"f\.tif: mask ids .* 0\.5 \(16 pixels\)"):
        read_mask(tmp_path / "f.tif")
    tifffile.imwrite(tmp_path / "b.tif", noise(5, H, W), photometric="minisblack")
    with pytest.raises(ValueError, match=r"b\.tif: a mask has one channel .* 5 chan"):
        read_mask(tmp_path / "b.tif")


@pytest.mark.parametrize("reader", [read_image, read_mask])
@pytest.mark.parametrize("ending", ["png", "jpg", "tif", "bmp", "webp"])
def test_truncated_file_is_named_in_one_line(tmp_path, ending, reader):
    path = tmp_path / f"cut.{ending}"
    Image.fromarray(noise(64, 64)).convert("RGB").save(path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 3 // 5])
    with pytest.raises(ValueError, match=rf"cut\.{ending}: unreadable or tr") as error:
        reader(path)
    assert "\n" not in str(error.value)


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_other_bad_files(tmp_path, monkeypatch):
    (tmp_path / "text.png").write_text("not an image")
    (tmp_path / "empty.png").write_bytes(b"")
    for name in ("text.png", "empty.png"):
        with pytest.raises(ValueError, match=f"{name}: .*not an image of a known"):
            read_image(tmp_path / name)
        with pytest.raises(ValueError, match=f"{name}: .*not an image of a known"):
            image_size(tmp_path / name)
    with pytest.raises(ValueError, match=r"gone\.png: no such file"):
        read_image(tmp_path / "gone.png")
    Image.fromarray(noise(H, W)).save(tmp_path / "big.png")
    tifffile.imwrite(tmp_path / "big.tif", noise(H, W))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", H * W - 1)
    for name in ("big.png", "big.tif"):
        with pytest.raises(ValueError, match=f"{name}: more than 220 pixels"):
            read_image(tmp_path / name)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", H * W // 3)
    with pytest.raises(ValueError, match=r"big\.png: more than 73 pixels"):
        read_image(tmp_path / "big.png")


def test_bytes_take_the_given_name():
    with pytest.raises(ValueError, match="record 3: unreadable"):
        read_mask(b"\x89PNG", name="record 3")


@pytest.mark.parametrize("compression", [None, "tiff_lzw"])
def test_cmyk_tiff_becomes_rgb(tmp_path, compression):
    """Whatever decoders are installed; its fourth band is black, no alpha."""
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (9, 11, 3)).astype(np.uint8)
    path = tmp_path / "a.tif"
    Image.fromarray(image).convert("CMYK").save(path, compression=compression)
    np.testing.assert_array_equal(read_image(path, 3), image)
    assert read_image(path).shape == (9, 11, 3)

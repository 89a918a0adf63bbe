"""The codec file, through its public functions, on files made here."""

import os
import struct
import warnings
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from data.images import (
    ImageError,
    Picture,
    read,
    read_mask,
    read_rgb,
    resize,
    write_jpeg,
    write_png,
)

RNG = np.random.default_rng(0)
RGB = RNG.integers(0, 256, (6, 9, 3), np.uint8)
DEEP = RNG.integers(0, 65536, (6, 9, 4), np.uint16)


def png(width: int, height: int, bits: int = 8, colour: int = 2, raw: bytes = b"") -> bytes:
    """A PNG of any header; `raw` are the filtered rows."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        crc = struct.pack(">I", zlib.crc32(kind + body))
        return struct.pack(">I", len(body)) + kind + body + crc

    header = struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0)
    pieces = chunk(b"IHDR", header), chunk(b"IDAT", zlib.compress(raw)), chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + b"".join(pieces)


def fails(path: Path, *words: str, **options: int) -> None:
    """Reading fails in one line that names the file and holds each word."""
    with pytest.raises(ImageError) as caught:
        read(path, **options)
    message = str(caught.value)
    assert "\n" not in message
    for word in (path.name, *words):
        assert word in message, message


# --- what can be read


@pytest.mark.parametrize("suffix", [".png", ".tif", ".bmp", ".webp"])
def test_rgb_round_trip(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"picture{suffix}"
    Image.fromarray(RGB).save(path, lossless=True)  # only WebP looks at the option
    picture = read(path)
    assert picture.pixels.dtype == np.uint8
    assert picture.pixels.flags.writeable
    np.testing.assert_array_equal(picture.pixels, RGB)
    np.testing.assert_array_equal(read_rgb(path), RGB)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["jpg", "png", "tif", "grey16.png", "rgb16.png", "rgb16.tif"])
def test_exif_orientation(tmp_path: Path, orientation: int, kind: str) -> None:
    """The eight orientations, against their definition in the EXIF standard, table 6."""
    upright = np.zeros((16, 32, 3), np.uint16)
    upright[:8, :8] = 65535  # marks the top left corner
    upright[:8, 24:] = 30000
    stored = {
        1: upright,
        2: upright[:, ::-1],
        3: upright[::-1, ::-1],
        4: upright[::-1],
        5: upright.swapaxes(0, 1),
        6: upright.swapaxes(0, 1)[::-1],
        7: upright[::-1, ::-1].swapaxes(0, 1),
        8: upright.swapaxes(0, 1)[:, ::-1],
    }[orientation]
    path = tmp_path / f"turned.{kind}"
    save_oriented(path, np.ascontiguousarray(stored), orientation)
    picture = read(path)
    wanted = upright if picture.pixels.dtype == np.uint16 else upright // 257
    assert ("16" in kind) == (picture.pixels.dtype == np.uint16)
    assert picture.pixels.shape[:2] == (16, 32)
    np.testing.assert_allclose(picture.pixels, wanted[..., : picture.pixels.shape[2]], atol=4)


def save_oriented(path: Path, stored: np.ndarray, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    if path.name.endswith("grey16.png"):
        Image.fromarray(stored[..., 0]).save(path, exif=exif)
    elif path.name.endswith("rgb16.png"):
        encoded = cv2.imencode(".png", stored)[1].tobytes()
        body = exif.tobytes()[6:]  # without the "Exif\0\0" that only JPEG wants
        crc = struct.pack(">I", zlib.crc32(b"eXIf" + body))
        chunk = struct.pack(">I", len(body)) + b"eXIf" + body + crc
        path.write_bytes(encoded[:33] + chunk + encoded[33:])
    elif path.name.endswith("rgb16.tif"):
        path.write_bytes(tiff_rgb16(stored, orientation))
    else:
        Image.fromarray((stored // 257).astype(np.uint8)).save(path, exif=exif, quality=95)


def tiff_rgb16(pixels: np.ndarray, orientation: int = 1) -> bytes:
    height, width = pixels.shape[:2]
    data = pixels.astype("<u2").tobytes()
    tags = [(256, 4, 1, width), (257, 4, 1, height), (258, 3, 3, 8), (259, 3, 1, 1)]
    tags += [(262, 3, 1, 2), (273, 4, 1, 14), (274, 3, 1, orientation), (277, 3, 1, 3)]
    tags += [(278, 4, 1, height), (279, 4, 1, len(data))]
    bits = struct.pack("<HHH", 16, 16, 16)
    start = 14 + len(data)
    entries = b"".join(struct.pack("<HHII", *tag) for tag in tags)
    header = b"II*\0" + struct.pack("<I", start) + bits
    return header + data + struct.pack("<H", len(tags)) + entries + b"\0\0\0\0"


def test_grey_8_and_16_bits(tmp_path: Path) -> None:
    for grey in (RGB[..., 0], DEEP[..., 0]):
        for suffix in ("png", "tif"):
            path = tmp_path / f"grey.{suffix}"
            Image.fromarray(np.ascontiguousarray(grey)).save(path)
            picture = read(path)
            assert picture.pixels.dtype == grey.dtype
            np.testing.assert_array_equal(picture.pixels, grey[..., None])
            assert read_rgb(path).shape == (6, 9, 3)


@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_sixteen_bit_colour_keeps_its_depth_and_channel_order(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"deep{suffix}"
    path.write_bytes(cv2.imencode(suffix, DEEP[..., [2, 1, 0]])[1].tobytes())
    picture = read(path)
    assert picture.pixels.dtype == np.uint16
    np.testing.assert_array_equal(picture.pixels, DEEP[..., :3])
    np.testing.assert_array_equal(picture.rgb8(), np.rint(DEEP[..., :3] / 257).astype(np.uint8))


def test_sixteen_bit_alpha(tmp_path: Path) -> None:
    write_png(tmp_path / "rgba.png", DEEP)
    picture = read(tmp_path / "rgba.png")
    np.testing.assert_array_equal(picture.pixels, DEEP[..., :3])
    np.testing.assert_array_equal(picture.alpha, DEEP[..., 3])
    grey_alpha = b"".join(b"\0" + row.astype(">u2").tobytes() for row in DEEP[..., :2])
    (tmp_path / "la.png").write_bytes(png(9, 6, bits=16, colour=4, raw=grey_alpha))
    picture = read(tmp_path / "la.png")
    np.testing.assert_array_equal(picture.pixels, DEEP[..., :1])
    np.testing.assert_array_equal(picture.alpha, DEEP[..., 1])


def test_float_tiff(tmp_path: Path) -> None:
    values = RNG.random((6, 9)).astype(np.float32)
    Image.fromarray(values).save(tmp_path / "float.tif")
    picture = read(tmp_path / "float.tif")
    assert picture.pixels.dtype == np.float32
    np.testing.assert_array_equal(picture.pixels[..., 0], values)
    np.testing.assert_array_equal(picture.rgb8()[..., 2], np.rint(values * 255).astype(np.uint8))


@pytest.mark.parametrize(("mode", "channels"), [("LA", 1), ("RGBA", 3)])
def test_alpha(tmp_path: Path, mode: str, channels: int) -> None:
    array = RNG.integers(0, 256, (6, 9, channels + 1), np.uint8)
    Image.fromarray(array, mode).save(tmp_path / "alpha.png")
    picture = read(tmp_path / "alpha.png")
    np.testing.assert_array_equal(picture.pixels, array[..., :-1])
    np.testing.assert_array_equal(picture.alpha, array[..., -1])


def test_palette_with_and_without_transparency(tmp_path: Path) -> None:
    indexed = Image.new("P", (4, 2))
    indexed.putpalette([255, 0, 0, 0, 255, 0])
    indexed.putpixel((3, 1), 1)
    indexed.save(tmp_path / "opaque.png")
    indexed.save(tmp_path / "clear.png", transparency=1)
    opaque, clear = read(tmp_path / "opaque.png"), read(tmp_path / "clear.png")
    assert opaque.alpha is None
    for picture in (opaque, clear):
        assert picture.pixels[0, 0].tolist() == [255, 0, 0]
        assert picture.pixels[1, 3].tolist() == [0, 255, 0]
    assert clear.alpha is not None
    assert (clear.alpha[0, 0], clear.alpha[1, 3]) == (255, 0)


def test_one_bit_cmyk_and_gif(tmp_path: Path) -> None:
    one = Image.fromarray(RGB[..., 0] > 128)
    one.save(tmp_path / "one.png")
    np.testing.assert_array_equal(
        read(tmp_path / "one.png").pixels[..., 0], np.where(RGB[..., 0] > 128, 255, 0)
    )
    Image.new("CMYK", (16, 16), (0, 255, 255, 0)).save(tmp_path / "cmyk.jpg", quality=95)
    red = read_rgb(tmp_path / "cmyk.jpg")[8, 8].astype(int)
    assert red[0] > 240
    assert red[1:].max() < 15
    frames = [Image.new("RGB", (5, 4), colour) for colour in ("blue", "red")]
    frames[0].save(tmp_path / "two.gif", save_all=True, append_images=frames[1:])
    assert read_rgb(tmp_path / "two.gif")[0, 0].tolist() == [0, 0, 255]


def test_one_pixel_and_wrong_suffix_are_fine(tmp_path: Path) -> None:
    path = tmp_path / "really_a_png.jpg"
    Image.new("RGB", (1, 1), (7, 8, 9)).save(path, "PNG")
    assert read_rgb(str(path)).tolist() == [[[7, 8, 9]]]
    assert resize(read_rgb(path), 5).shape == (5, 5, 3)


def test_pillow_limit_does_not_leak(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither Pillow's warning nor its error, even from threads; and its setting stays."""
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 4)
    Image.fromarray(RGB).save(tmp_path / "a.png")
    with warnings.catch_warnings(), ThreadPoolExecutor(4) as pool:
        warnings.simplefilter("error")
        for result in pool.map(read_rgb, [tmp_path / "a.png"] * 16):
            np.testing.assert_array_equal(result, RGB)
    assert Image.MAX_IMAGE_PIXELS == 4


# --- what cannot


def test_missing_folder_empty_and_broken_link(tmp_path: Path) -> None:
    fails(tmp_path / "none.png", "does not exist")
    (tmp_path / "folder.png").mkdir()
    fails(tmp_path / "folder.png", "is a folder")
    (tmp_path / "empty.png").touch()
    fails(tmp_path / "empty.png", "0 bytes")
    (tmp_path / "link.png").symlink_to(tmp_path / "gone.png")
    fails(tmp_path / "link.png", "broken link to", "gone.png", "remove the link")
    os.mkfifo(tmp_path / "pipe.png")
    fails(tmp_path / "pipe.png", "not a regular file")


def test_line_break_in_a_name_stays_one_line(tmp_path: Path) -> None:
    with pytest.raises(ImageError) as caught:
        read(tmp_path / "two\nlines.png")
    assert "\n" not in str(caught.value)


def test_no_permission(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "locked.png"
    Image.fromarray(RGB).save(path)

    def refuse(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("builtins.open", refuse)
    fails(path, "permission denied", "right to read")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_no_permission_on_disk(tmp_path: Path) -> None:
    path = tmp_path / "locked.png"
    Image.fromarray(RGB).save(path)
    path.chmod(0)
    fails(path, "permission denied")


@pytest.mark.filterwarnings("ignore:Corrupt EXIF")  # Pillow's remark beside its error
@pytest.mark.parametrize(
    "name", ["a.jpg", "a.png", "grey16.png", "rgb16.png", "rgb16.tif", "a.tif", "a.webp", "a.bmp"]
)
def test_truncated(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    pixels = RNG.integers(0, 65536, (64, 64, 3), np.uint16)
    if name == "rgb16.tif":
        path.write_bytes(tiff_rgb16(pixels))
    elif "16" in name:
        write_png(path, pixels[..., :1] if "grey" in name else pixels)
    else:
        Image.fromarray(pixels.astype(np.uint8)).save(path)
    whole = path.read_bytes()
    for part in (0.3, 0.6, 0.9):
        path.write_bytes(whole[: int(len(whole) * part)])
        fails(path, "again")


def test_tiff_whose_directory_comes_first_and_whose_pixels_are_cut(tmp_path: Path) -> None:
    path = tmp_path / "cut.tif"
    whole = tiff_rgb16(RNG.integers(0, 65536, (64, 64, 3), np.uint16))
    pixels, directory = whole[14:-126], whole[-126:]
    directory = directory.replace(struct.pack("<HHII", 273, 4, 1, 14), b"%s")
    directory = directory % struct.pack("<HHII", 273, 4, 1, 14 + len(directory) + 10)
    start = b"II*\0" + struct.pack("<I", 14) + whole[8:14]
    path.write_bytes(start + directory + pixels[: len(pixels) // 2])
    fails(path, "again")


def test_text_named_png(tmp_path: Path) -> None:
    (tmp_path / "text.png").write_text("This is not a picture.\n")
    fails(tmp_path / "text.png", "is not a picture", "PNG, JPEG")


def test_zero_size_and_header_only(tmp_path: Path) -> None:
    (tmp_path / "zero.png").write_bytes(png(0, 0))
    fails(tmp_path / "zero.png", "size of 0")
    (tmp_path / "header.png").write_bytes(png(8, 8)[:33])
    fails(tmp_path / "header.png")
    (tmp_path / "no_rows.png").write_bytes(png(8, 8, raw=b"\0" * 30))
    fails(tmp_path / "no_rows.png", "cannot be decoded")


@pytest.mark.parametrize("bits", [8, 16])
def test_huge_is_refused_before_decoding(tmp_path: Path, bits: int) -> None:
    (tmp_path / "huge.png").write_bytes(png(20_000, 20_000, bits))
    fails(tmp_path / "huge.png", "20000×20000", "400,000,000", "--max-pixels 400000000", "cut")
    Image.fromarray(RGB).save(tmp_path / "small.png")
    fails(tmp_path / "small.png", "limit of 53", max_pixels=53)
    assert read(tmp_path / "small.png", max_pixels=54).pixels.shape == (6, 9, 3)


def test_not_finite_wrong_scale_and_integers(tmp_path: Path) -> None:
    values = np.zeros((4, 4), np.float32)
    for bad in (np.nan, np.inf):
        values[1, 1] = bad
        Image.fromarray(values).save(tmp_path / "float.tif")
        fails(tmp_path / "float.tif", "NaN or infinite")
    with pytest.raises(ImageError, match="NaN"):
        Picture(values[..., None]).rgb8()
    Image.fromarray(np.full((4, 4), 255, np.float32)).save(tmp_path / "scale.tif")
    with pytest.raises(ImageError, match=r"scale\.tif.*255.*full scale"):
        read_rgb(tmp_path / "scale.tif")
    Image.fromarray(np.full((4, 4), 70000, np.int32)).save(tmp_path / "int.tif")
    fails(tmp_path / "int.tif", "32-bit integers")


@pytest.mark.slow
@settings(max_examples=150, deadline=None)
@given(st.integers(0, 5), st.lists(st.tuples(st.integers(0), st.integers(0, 255)), max_size=6))
def test_damaged_bytes_never_raise_anything_else(
    tmp_path_factory: pytest.TempPathFactory, kind: int, edits: list[tuple[int, int]]
) -> None:
    path = tmp_path_factory.getbasetemp() / "damaged.bin"
    suffix = [".png", ".jpg", ".tif", ".bmp", ".webp", ".gif"][kind]
    with path.open("wb") as file:
        Image.fromarray(RGB).save(file, Image.registered_extensions()[suffix])
    data = bytearray(path.read_bytes())
    for position, value in edits:
        data[position % len(data)] = value
    path.write_bytes(data)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow's remarks on damaged metadata
        outcome: object = None
        try:
            outcome = read_rgb(path, max_pixels=10_000).dtype
        except ImageError as error:
            outcome = str(error)
    assert outcome == np.uint8 or len(str(outcome).splitlines()) == 1


# --- masks


def test_mask_counts_any_channel_above_zero(tmp_path: Path) -> None:
    colour = np.zeros((3, 4, 3), np.uint8)
    colour[0, 1, 2] = 1
    write_png(tmp_path / "m.png", colour)
    mask = read_mask(tmp_path / "m.png")
    assert mask.dtype == np.uint8
    assert mask.tolist() == [[0, 1, 0, 0], [0] * 4, [0] * 4]
    deep = np.zeros((3, 4), np.uint16)
    deep[2, 2] = 1  # would vanish at 8 bits
    write_png(tmp_path / "deep.png", deep)
    assert read_mask(tmp_path / "deep.png").sum() == 1


def test_palette_mask_is_judged_by_colour(tmp_path: Path) -> None:
    indexed = Image.new("P", (3, 1))
    indexed.putpalette([255, 255, 255, 0, 0, 0])  # white comes first
    indexed.putdata([0, 1, 1])
    indexed.save(tmp_path / "m.png")
    assert read_mask(tmp_path / "m.png").tolist() == [[1, 0, 0]]


def test_jpeg_mask_is_refused(tmp_path: Path) -> None:
    Image.fromarray(RGB).save(tmp_path / "m.jpg")
    with pytest.raises(ImageError, match=r"m\.jpg.*save it as PNG"):
        read_mask(tmp_path / "m.jpg")


# --- writing and resizing


@pytest.mark.parametrize("array", [RGB, RGB[..., 0], RGB[..., :1], DEEP[..., :3], DEEP[..., 0]])
def test_write_png_round_trip(tmp_path: Path, array: np.ndarray) -> None:
    write_png(tmp_path / "a.png", array)
    pixels = read(tmp_path / "a.png").pixels
    np.testing.assert_array_equal(pixels, array.reshape(pixels.shape))
    assert pixels.dtype == array.dtype
    assert [p.name for p in tmp_path.iterdir()] == ["a.png"]


def test_write_jpeg_keeps_colours(tmp_path: Path) -> None:
    flat = np.full((32, 32, 3), (200, 100, 50), np.uint8)
    write_jpeg(tmp_path / "a.jpg", flat)
    np.testing.assert_allclose(read_rgb(tmp_path / "a.jpg").astype(int), flat, atol=4)


def test_failed_write_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_png(tmp_path / "a.png", RGB)

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(OSError, match="No space"):
        write_png(tmp_path / "a.png", 255 - RGB)
    np.testing.assert_array_equal(read_rgb(tmp_path / "a.png"), RGB)
    assert len(list(tmp_path.iterdir())) == 1


def test_write_refuses_other_arrays(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="float32"):
        write_png(tmp_path / "a.png", np.zeros((4, 4), np.float32))
    with pytest.raises(ValueError, match="shape"):
        write_png(tmp_path / "a.png", np.zeros((4, 4, 2), np.uint8))
    with pytest.raises(ValueError, match="JPEG holds uint8"):
        write_jpeg(tmp_path / "a.jpg", DEEP)


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 70), st.integers(1, 70), st.integers(1, 70), st.integers(0, 255))
def test_resize_is_square_and_keeps_flat_pictures(h: int, w: int, size: int, value: int) -> None:
    out = resize(np.full((h, w, 3), value, np.uint8), size)
    assert out.shape == (size, size, 3)
    assert (out == value).all()


def test_resize_averages_when_it_shrinks_even_one_axis() -> None:
    stripes = np.zeros((8, 64, 3), np.uint8)
    stripes[:, ::2] = 200
    assert set(np.unique(resize(stripes, 32))) == {100}


def tiff16(path: Path, planes: np.ndarray, photometric: int) -> None:
    """Write uint16 C×H×W as TIFF, a plane after the other, uncompressed."""
    count, height, width = planes.shape
    data = planes.astype("<u2").tobytes()
    size, bits, offsets, sizes = height * width * 2, 8, 8 + 2 * count, 8 + 6 * count
    start = 8 + 10 * count
    arrays = struct.pack(f"<{count}H", *[16] * count)
    arrays += struct.pack(f"<{count}I", *(start + i * size for i in range(count)))
    arrays += struct.pack(f"<{count}I", *[size] * count)
    one = count == 1
    tags = [
        (256, 3, 1, width),
        (257, 3, 1, height),
        (258, 3, count, 16 if one else bits),
        (259, 3, 1, 1),
        (262, 3, 1, photometric),
        (273, 4, count, start if one else offsets),
        (277, 3, 1, count),
        (278, 3, 1, height),
        (279, 4, count, size if one else sizes),
        (284, 3, 1, 1 if one else 2),
    ]
    directory = struct.pack("<H", len(tags)) + b"".join(struct.pack("<HHII", *t) for t in tags)
    body = arrays + data
    path.write_bytes(b"II*\0" + struct.pack("<I", 8 + len(body)) + body + directory + b"\0" * 4)


def test_deep_tiff_with_a_plane_for_each_colour_is_refused(tmp_path: Path) -> None:
    planes = np.random.default_rng(0).integers(0, 65536, (3, 12, 20), np.uint16)
    tiff16(tmp_path / "planar.tif", planes, photometric=2)
    with pytest.raises(ImageError, match="save it with interleaved colours"):
        read(tmp_path / "planar.tif")


def test_tiff_where_white_is_zero(tmp_path: Path) -> None:
    plane = np.random.default_rng(0).integers(0, 65536, (1, 12, 20), np.uint16)
    for photometric in (0, 1):
        tiff16(tmp_path / "grey.tif", plane, photometric)
        wanted = 65535 - plane[0] if photometric == 0 else plane[0]
        np.testing.assert_array_equal(read(tmp_path / "grey.tif").pixels[..., 0], wanted)

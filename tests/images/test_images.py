"""Reading any image a user has, refusing the rest in one sentence, the pixel budget, paths from
datasets, and the store."""

from __future__ import annotations

import hashlib
import io
import os
import re
import signal
import struct
import subprocess
import sys
import threading
import time
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageFile, PngImagePlugin
from qwen_vl_utils import vision_process
from transformers.models.qwen2_vl.image_processing_qwen2_vl import smart_resize

from rrm import images
from rrm.errors import InputError
from rrm.images import (
    FORMATS,
    MAX_PIXELS,
    ImageStore,
    fit,
    image_bytes,
    inside,
    open_image,
    png_bytes,
    read_image,
)
from rrm.images.pixel_budget import PixelBudget
from tests.support import ROOT

RED, GREEN, BLUE, WHITE, BLACK = (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255), (0, 0, 0)
ORIENTATION = 0x0112
NOISE = np.random.default_rng(0).integers(0, 256, (20, 24, 3), dtype=np.uint8)


def encoded(image: Image.Image | np.ndarray, kind: str = "PNG", /, **options) -> bytes:
    buffer = io.BytesIO()
    (Image.fromarray(image) if isinstance(image, np.ndarray) else image).save(
        buffer, kind, **options
    )
    return buffer.getvalue()


def pixels(payload: bytes) -> np.ndarray:
    image = read_image(payload)
    assert (image.mode, image.info) == ("RGB", {})
    return np.asarray(image)


def pixel(payload: bytes) -> tuple[int, ...]:
    return tuple(pixels(payload)[0, 0].tolist())


def refusal(payload: bytes) -> str:
    """The one sentence with which the bytes are refused."""
    with pytest.raises(InputError) as refused:
        read_image(payload, "cat.png")
    sentence = str(refused.value)
    assert sentence.startswith("cat.png ")
    assert sentence.endswith(".")
    assert "\n" not in sentence
    return sentence


def png(width: int, height: int, bits: int, colour: int, rows: bytes, **chunks: bytes) -> bytes:
    """A PNG written by hand; `colour` is 0 for grey and 2 for RGB."""
    parts = {
        "IHDR": struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0),
        **chunks,
        "IDAT": zlib.compress(rows),
        "IEND": b"",
    }
    bodies = [(name.encode() + data, len(data)) for name, data in parts.items()]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", n) + body + struct.pack(">I", zlib.crc32(body)) for body, n in bodies
    )


def tiff(width: int, height: int, bits: int, photometric: int, data: bytes) -> bytes:
    """A little-endian grey TIFF written by hand; `photometric` is 0 where 0 is white and 1 where 0
    is black."""
    tags = {
        256: width,
        257: height,
        258: bits,
        259: 1,
        262: photometric,
        273: 8,
        277: 1,
        278: height,
        279: len(data),
    }
    fields = b"".join(
        struct.pack("<HHII", tag, 4 if tag in (273, 279) else 3, 1, value)
        for tag, value in tags.items()
    )
    return (
        b"II*\0"
        + struct.pack("<I", 8 + len(data))
        + data
        + struct.pack("<H", len(tags))
        + fields
        + bytes(4)
    )


def icc(space: bytes, connection: bytes, tags: dict[bytes, bytes]) -> bytes:
    """A version 2 ICC profile written by hand."""
    table, body, start = b"", b"", 128 + 4 + 12 * len(tags)
    for name, data in tags.items():
        table += name + struct.pack(">II", start + len(body), len(data))
        body += data + bytes(-len(data) % 4)
    d50 = struct.pack(">iii", 63190, 65536, 54061)
    head = (
        b"lcms\x02\x10\0\0"
        + (b"prtr" if space == b"CMYK" else b"mntr")
        + space
        + connection
        + bytes(12)
        + b"acsp"
        + bytes(28)
        + d50
    )
    return (
        struct.pack(">I", start + len(body))
        + head
        + bytes(128 - 4 - len(head))
        + struct.pack(">I", len(tags))
        + table
        + body
    )


def matrix_profile(primaries: str, gamma: bytes) -> bytes:
    """sRGB's primaries in the given order, with the given tone curve in place of sRGB's."""
    xyz = {
        "r": (0.43607, 0.22249, 0.01392),
        "g": (0.38515, 0.71687, 0.09708),
        "b": (0.14307, 0.06061, 0.7141),
    }
    columns = [
        b"XYZ \0\0\0\0" + struct.pack(">iii", *(round(v * 65536) for v in xyz[name]))
        for name in primaries
    ]
    names = (b"rXYZ", b"gXYZ", b"bXYZ")
    return icc(
        b"RGB ",
        b"XYZ ",
        dict(zip(names, columns, strict=True)) | dict.fromkeys((b"rTRC", b"gTRC", b"bTRC"), gamma),
    )


LINEAR = b"curv" + bytes(8)
# sRGB's curve as some vendors write it, by 32 samples: between them a colour can be one level off.
X = np.linspace(0, 1, 32)
SAMPLES = np.rint(65535 * np.where(X <= 0.04045, X / 12.92, ((X + 0.055) / 1.055) ** 2.4)).astype(
    ">u2"
)
SAMPLED_SRGB = b"curv\0\0\0\0" + struct.pack(">I", 32) + SAMPLES.tobytes()


def stored_as(shown: np.ndarray, orientation: int) -> np.ndarray:
    """What a camera writes under an EXIF orientation: its first row and column are the named sides
    of what is shown."""
    last_row, last_column = shown.shape[0] - 1, shown.shape[1] - 1
    if orientation <= 4:
        return shown[:: -1 if orientation in (3, 4) else 1, :: -1 if orientation in (2, 3) else 1]
    stored = np.zeros((shown.shape[1], shown.shape[0], 3), np.uint8)
    for i in range(stored.shape[0]):
        for j in range(stored.shape[1]):
            row = last_row - j if orientation in (7, 8) else j
            column = last_column - i if orientation in (6, 7) else i
            stored[i, j] = shown[row, column]
    return stored


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("PNG", {}),
        ("WEBP", {"lossless": True}),
        ("TIFF", {}),
        ("TIFF", {"compression": "tiff_lzw"}),
    ],
)
def test_every_exif_orientation_is_turned_upright(kind, options, orientation):
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    payload = encoded(
        np.ascontiguousarray(stored_as(NOISE, orientation)), kind, exif=exif, **options
    )
    np.testing.assert_array_equal(pixels(payload), NOISE)


def test_the_red_corner_of_a_jpeg_of_orientation_6_ends_at_the_top_right():
    stored = np.zeros((32, 64, 3), np.uint8)
    stored[:16, :16] = RED  # the camera's top left; the picture is to be turned clockwise
    exif = Image.Exif()
    exif[ORIENTATION] = 6
    shown = pixels(encoded(stored, "JPEG", exif=exif, quality=95))
    assert shown.shape == (64, 32, 3)
    assert shown[4, 28, 0] > 240
    assert shown[4, 4].max() < 15
    assert shown[60, 28].max() < 15


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize(
    "block", [b"Exif\0\0MM\0*\0\0\0\x08\xff\xff\x01", b"Exif\0\0no TIFF header"]
)
def test_a_broken_exif_block_is_ignored(block):
    np.testing.assert_array_equal(pixels(encoded(NOISE, exif=block)), NOISE)


@pytest.mark.parametrize(
    ("mode", "colour", "shown"),
    [
        ("1", 1, WHITE),
        ("L", 77, (77, 77, 77)),
        ("LA", (0, 0), WHITE),
        ("LA", (100, 255), (100, 100, 100)),
        ("RGB", (1, 2, 3), (1, 2, 3)),
        ("RGBA", (255, 0, 0, 255), RED),
        ("RGBA", (255, 0, 0, 0), WHITE),
        ("RGBA", (0, 0, 0, 51), (204, 204, 204)),  # 51 is a fifth: 0.2 of black over 0.8 of white
    ],
)
def test_every_mode_of_a_png_becomes_rgb_over_white(mode, colour, shown):
    assert pixel(encoded(Image.new(mode, (4, 4), colour))) == shown


def test_a_transparent_palette_entry_is_white_and_the_others_keep_their_colour():
    image = Image.new("P", (3, 1))
    image.putpalette([*RED, *GREEN, *BLUE])
    image.putdata([0, 1, 2])
    assert pixels(encoded(image, transparency=1)).tolist() == [[list(RED), list(WHITE), list(BLUE)]]
    assert pixels(encoded(image, transparency=b"\xff\xff\x00")).tolist() == [
        [list(RED), list(GREEN), list(WHITE)]
    ]
    assert pixels(encoded(image, "GIF", transparency=0)).tolist() == [
        [list(WHITE), list(GREEN), list(BLUE)]
    ]


@pytest.mark.parametrize("kind", ["JPEG", "TIFF"])
@pytest.mark.parametrize(
    ("ink", "shown"),
    [
        ((255, 0, 0, 0), (0, 255, 255)),
        ((0, 255, 0, 0), (255, 0, 255)),
        ((0, 0, 0, 255), BLACK),
        ((0, 0, 0, 0), WHITE),
    ],
)
def test_pure_inks_of_cmyk_have_their_colours(kind, ink, shown):
    np.testing.assert_allclose(pixel(encoded(Image.new("CMYK", (8, 8), ink), kind)), shown, atol=2)


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "JPEG2000"])
def test_a_16_bit_ramp_keeps_its_whole_range(kind):
    ramp = np.arange(65536, dtype=np.uint16).reshape(256, 256)
    shown = pixels(encoded(ramp, kind))
    np.testing.assert_array_equal(shown[..., 0], np.rint(ramp / 257))
    assert (shown[0, 0].tolist(), shown[-1, -1].tolist()) == ([0, 0, 0], [255, 255, 255])


def test_other_deep_greys_are_scaled_by_their_range_too():
    assert pixels(encoded(np.array([[0, 32896, 65535]], np.int32), "TIFF"))[0, :, 0].tolist() == [
        0,
        128,
        255,
    ]
    assert pixels(encoded(np.array([[0, 0.2, 1]], np.float32), "TIFF"))[0, :, 0].tolist() == [
        0,
        51,
        255,
    ]
    assert pixels(encoded(np.array([[0, 51, 255]], np.float32), "TIFF"))[0, :, 0].tolist() == [
        0,
        51,
        255,
    ]
    assert pixels(encoded(np.array([[0, 257, 65535]], np.float32), "TIFF"))[0, :, 0].tolist() == [
        0,
        1,
        255,
    ]
    assert pixels(tiff(2, 1, 12, 1, bytes([0xFF, 0xF0, 0x00])))[0, :, 0].tolist() == [255, 0]
    assert pixels(tiff(2, 1, 16, 0, struct.pack("<HH", 0, 65535)))[0, :, 0].tolist() == [255, 0]
    assert "run from" in refusal(encoded(np.array([[np.nan, 1]], np.float32), "TIFF"))
    assert "-1 to 7" in refusal(encoded(np.array([[-1, 7]], np.int32), "TIFF"))


def test_the_transparent_colour_of_a_16_bit_png_is_white():
    grey = png(2, 1, 16, 0, b"\0" + struct.pack(">HH", 300, 25700), tRNS=struct.pack(">H", 300))
    assert pixels(grey)[0, :, 0].tolist() == [255, 100]
    rgb = png(
        2,
        1,
        16,
        2,
        b"\0" + struct.pack(">6H", 0x1234, 0x5678, 0x9ABC, 0x1234, 0, 0),
        tRNS=struct.pack(">3H", 0x1234, 0x5678, 0x9ABC),
    )
    assert pixels(rgb).tolist() == [[list(WHITE), [0x12, 0, 0]]]


@pytest.mark.parametrize(
    ("kind", "options"), [("GIF", {}), ("WEBP", {"lossless": True}), ("PNG", {}), ("TIFF", {})]
)
def test_only_the_first_frame_is_shown(kind, options):
    frames = [Image.new("RGB", (8, 8), colour) for colour in (RED, GREEN, BLUE)]
    assert (
        pixel(encoded(frames[0], kind, save_all=True, append_images=frames[1:], **options)) == RED
    )


def test_an_icc_profile_is_applied():
    grey = Image.new("RGB", (2, 2), (128, 128, 128))
    # Linear 128/255 = 0.502 in sRGB's curve: 1.055 · 0.502^(1/2.4) − 0.055 = 0.737, times 255 =
    # 188.
    np.testing.assert_allclose(
        pixel(encoded(grey, icc_profile=matrix_profile("rgb", LINEAR))), (188, 188, 188), atol=1
    )
    np.testing.assert_allclose(
        pixel(encoded(Image.new("RGB", (2, 2), RED), icc_profile=matrix_profile("bgr", LINEAR))),
        BLUE,
        atol=2,
    )
    grey_profile = icc(
        b"GRAY",
        b"XYZ ",
        {b"wtpt": b"XYZ \0\0\0\0" + struct.pack(">iii", 63190, 65536, 54061), b"kTRC": LINEAR},
    )
    np.testing.assert_allclose(
        pixel(encoded(grey.convert("L"), icc_profile=grey_profile)), (188, 188, 188), atol=1
    )
    np.testing.assert_allclose(
        pixel(encoded(grey.convert("LA"), icc_profile=grey_profile)), (188, 188, 188), atol=1
    )
    clear = Image.new("RGBA", (2, 2), (128, 128, 128, 0))
    assert pixel(encoded(clear, icc_profile=matrix_profile("rgb", LINEAR))) == WHITE


def test_a_cmyk_profile_decides_what_an_ink_looks_like():
    straight = bytes(range(256))
    corners = b"".join(
        bytes([0 if corner else 255, 128, 128]) for corner in range(16)
    )  # any full ink is black, in Lab
    identity = struct.pack(">9i", *(65536 if i % 4 == 0 else 0 for i in range(9)))
    lut = b"mft1\0\0\0\0" + bytes([4, 3, 2, 0]) + identity + straight * 4 + corners + straight * 3
    profile = icc(b"CMYK", b"Lab ", {b"A2B0": lut})
    np.testing.assert_allclose(
        pixel(encoded(Image.new("CMYK", (8, 8), (255, 0, 0, 0)), "JPEG", icc_profile=profile)),
        BLACK,
        atol=3,
    )
    np.testing.assert_allclose(
        pixel(encoded(Image.new("CMYK", (8, 8), (0, 0, 0, 0)), "JPEG", icc_profile=profile)),
        WHITE,
        atol=3,
    )


@pytest.mark.parametrize(
    "profile",
    [
        b"no profile at all" * 20,
        matrix_profile("rgb", LINEAR)[:200],
        icc(b"GRAY", b"XYZ ", {b"kTRC": LINEAR}),
    ],
)
def test_an_icc_profile_that_is_broken_or_for_another_mode_is_ignored(profile):
    np.testing.assert_array_equal(pixels(encoded(NOISE, icc_profile=profile)), NOISE)


def test_bytes_that_are_no_image_are_refused():
    assert "is empty" in refusal(b"")
    assert "cannot be read as an image: it is of another kind" in refusal(
        b"this is a text that somebody named .png"
    )
    assert "cannot be read as an image: it is of another kind" in refusal(
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\n%%EOF\n"
    )


WAYS: dict[str, tuple[str, dict[str, Any]]] = {
    "png": ("PNG", {}),
    "jpeg": ("JPEG", {}),
    "progressive": ("JPEG", {"progressive": True}),
    "gif": ("GIF", {}),
    "webp": ("WEBP", {}),
    "bmp": ("BMP", {}),
    "tiff": ("TIFF", {}),
    "lzw": ("TIFF", {"compression": "tiff_lzw"}),
    "jpeg2000": ("JPEG2000", {"tile_size": (8, 8)}),
    "ppm": ("PPM", {}),
}


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("way", WAYS)
def test_a_file_cut_anywhere_is_refused_or_whole(way):
    payload = encoded(NOISE, WAYS[way][0], **WAYS[way][1])
    whole, refused = pixels(payload), 0
    for end in range(len(payload)):
        try:
            shown = pixels(payload[:end])
        except InputError:
            refused += 1
        else:
            np.testing.assert_array_equal(shown, whole)
    assert refused > 0.9 * len(payload)
    assert not ImageFile.LOAD_TRUNCATED_IMAGES


@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize("way", WAYS)
def test_damaged_bytes_give_an_image_or_a_refusal_and_nothing_else(way):
    rng = np.random.default_rng(sorted(WAYS).index(way))
    payload = np.frombuffer(encoded(NOISE, WAYS[way][0], **WAYS[way][1]), np.uint8)
    outcomes = set()
    for _ in range(300):
        damaged = payload.copy()
        # Headers are a small part of a file, and where damage hurts most.
        reach = len(payload) if rng.random() < 0.5 else 64
        places = rng.integers(0, reach, rng.integers(1, 6))
        damaged[places] ^= rng.integers(1, 256, len(places)).astype(np.uint8)
        try:
            outcomes.add(read_image(damaged.tobytes()).mode)
        except InputError:
            outcomes.add("refused")
    assert outcomes <= {"RGB", "refused"}
    assert "refused" in outcomes


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize("side", [10_001, 60_000])
def test_a_bomb_is_refused_by_its_header(side):
    # There is not one pixel in the file: decoding would find it cut short.
    assert "more than 100 million pixels" in refusal(png(side, side, 8, 2, b""))


def test_an_image_without_pixels_or_too_thin_for_the_model_is_refused():
    assert images.MAX_RATIO == vision_process.MAX_RATIO
    assert pixels(encoded(np.zeros((1, 200, 3), np.uint8))).shape == (1, 200, 3)
    assert "too thin" in refusal(encoded(np.zeros((1, 201, 3), np.uint8)))
    assert "too thin" in refusal(encoded(np.zeros((402, 2, 3), np.uint8)))
    assert "without pixels" in refusal(
        b"BM" + struct.pack("<IIIIiiHHIIiiII", 54, 0, 54, 40, 0, 5, 1, 24, 0, 0, 0, 0, 0, 0)
    )


def test_a_photo_of_12_megapixels_is_scaled_into_the_budget():
    photo = encoded(Image.linear_gradient("L").resize((4000, 3000)), "JPEG")
    # beta = √(12e6 / 1003520) = 3.45803; 4000 / beta = 1156.7 → 41 · 28 = 1148, 3000 / beta = 867.5
    # → 30 · 28 = 840.
    shown = read_image(photo, max_pixels=MAX_PIXELS)
    assert (MAX_PIXELS, shown.size) == (1_003_520, (1148, 840))
    assert fit(read_image(photo)).tobytes() == shown.tobytes()
    column = np.asarray(shown)[:, 500, 0].astype(int)
    np.testing.assert_allclose(column, np.linspace(0, 255, 840), atol=3)


def test_an_image_within_the_budget_is_untouched_and_an_unusable_budget_refused():
    image = Image.new("RGB", (100, 50), RED)
    assert fit(image, 5000) is image
    # beta = √(5000 / 4999): 100 / beta → 84 = 3 · 28, 50 / beta → 28.
    assert fit(image, 4999).size == (84, 28)
    with pytest.raises(InputError, match="784 or more"):
        fit(image, 783)
    with pytest.raises(InputError, match="too thin to be scaled"):
        fit(
            Image.new("RGB", (190 * 60, 60)), 28 * 28 * 40
        )  # beta = 4.67: 60 / beta → no row at all
    with pytest.raises(InputError, match="too thin to be scaled"):
        fit(
            Image.new("RGB", (199 * 80, 80)), 199 * 45 * 45
        )  # beta = 80 / 45: 28 rows and 8932 columns, a ratio of 319
    with pytest.raises(InputError, match="too thin for the model"):
        fit(Image.new("RGB", (201 * 80, 80)))


def test_what_is_fitted_has_the_size_that_the_models_own_processor_would_give_it():
    rng, budget, scaled = np.random.default_rng(3), 50 * 784, 0
    for width, height in rng.integers(30, 900, (60, 2)).tolist():
        image = Image.new("RGB", (width, height))
        expected = smart_resize(height, width, 28, 784, budget)
        if width * height > budget:
            fitted = fit(image, budget)
            assert (
                (fitted.height, fitted.width)
                == expected
                == smart_resize(fitted.height, fitted.width, 28, 784, budget)
            )
            assert fit(fitted, budget) is fitted
            scaled += 1
    assert scaled > 40
    noise = Image.fromarray(NOISE).resize((300, 200), Image.Resampling.NEAREST)
    fetched = vision_process.fetch_image({"image": noise, "min_pixels": 784, "max_pixels": budget})
    assert fit(noise, budget).tobytes() == fetched.tobytes()


def test_a_path_is_named_when_its_image_is_missing_or_refused(tmp_path):
    good, text = tmp_path / "good.tif", tmp_path / "text.png"
    good.write_bytes(encoded(np.full((50, 100, 3), 9, np.uint8), "TIFF", compression="tiff_lzw"))
    text.write_text("not an image")
    assert (open_image(good).size, open_image(good).getpixel((99, 49))) == ((100, 50), (9, 9, 9))
    assert open_image(str(good), max_pixels=4999).size == (84, 28)
    with pytest.raises(
        InputError, match=re.escape(f"{text} cannot be read as an image: it is of another kind")
    ):
        open_image(text)
    for missing in (tmp_path / "no.png", tmp_path, tmp_path / ("x" * 5000), "nul\0.png"):
        with pytest.raises(InputError, match="There is no image at"):
            open_image(missing)


def test_a_datasets_path_stays_inside_its_folder(tmp_path):
    root = tmp_path / "data"
    (root / "images").mkdir(parents=True)
    (root / "images" / "a.png").touch()
    (tmp_path / "secret.png").touch()
    (root / "out.png").symlink_to(tmp_path / "secret.png")
    (root / "up").symlink_to(tmp_path)
    (root / "in.png").symlink_to(root / "images" / "a.png")
    (root / "loop").symlink_to(root / "loop")
    (tmp_path / "link").symlink_to(root)
    real = root.resolve() / "images" / "a.png"
    for name in (
        "images/a.png",
        "images/../images/a.png",
        "in.png",
        str(root / "images" / "a.png"),
    ):
        assert inside(root, name) == inside(tmp_path / "link", name) == real
    assert inside(root, "not/yet.png") == root.resolve() / "not" / "yet.png"
    for name in (
        "../secret.png",
        "out.png",
        "up/secret.png",
        "/etc/passwd",
        "",
        ".",
        "../data",
        "../data-other/a.png",
    ):
        with pytest.raises(InputError, match="leads out of"):
            inside(root, name)
    for name in ("loop", "nul\0.png"):
        with pytest.raises(InputError, match="no path to a file"):
            inside(root, name)


def test_the_bytes_of_a_plain_image_are_pillows_own_and_so_digests_stay(tmp_path):
    for shape in ((16, 16, 3), (700, 600, 3)):
        image = Image.fromarray(np.random.default_rng(1).integers(0, 256, shape, dtype=np.uint8))
        buffer = io.BytesIO()
        image.save(buffer, "PNG")
        assert png_bytes(image) == buffer.getvalue()
        assert ImageStore(tmp_path).add(image) == hashlib.sha256(buffer.getvalue()).hexdigest()


def test_the_same_pixels_have_one_digest_whatever_metadata_came_with_them(tmp_path):
    text, exif = PngImagePlugin.PngInfo(), Image.Exif()
    text.add_text("Comment", "made on a Tuesday")
    exif[0x010F] = "a camera"
    files = [
        encoded(NOISE),
        encoded(NOISE, pnginfo=text, exif=exif, dpi=(300, 300), icc_profile=b"broken"),
        encoded(NOISE, icc_profile=matrix_profile("rgb", SAMPLED_SRGB)),
        encoded(NOISE, "TIFF", compression="tiff_lzw"),
        encoded(NOISE, "WEBP", lossless=True, exif=exif),
    ]
    store = ImageStore(tmp_path)
    raw = [Image.open(io.BytesIO(payload)) for payload in files]
    assert (
        len({store.add(image) for image in [*raw, *(read_image(payload) for payload in files)]})
        == 1
    )


def test_the_store_returns_what_it_was_given_and_notices_damage(tmp_path):
    store = ImageStore(tmp_path)
    digest = store.add(Image.fromarray(NOISE))
    path = store.path(digest)
    assert path == tmp_path / digest[:2] / f"{digest}.png"
    assert hashlib.sha256(path.read_bytes()).hexdigest() == digest
    np.testing.assert_array_equal(np.asarray(store.get(digest)), NOISE)
    path.write_bytes(b"")
    with pytest.raises(InputError, match="is damaged"):
        store.get(digest)
    store.add(Image.fromarray(NOISE))
    np.testing.assert_array_equal(np.asarray(store.get(digest)), NOISE)
    with pytest.raises(InputError, match="There is no image at"):
        store.get("0" * 64)


def add_in_a_process(store: Path, before: str = "") -> subprocess.Popen[bytes]:
    """A process that runs `before`, says that it goes, and adds a hundred images."""
    program = (
        "import resource, signal, sys; import numpy as np; from PIL import Image; from rrm.images import ImageStore\n"
        f"{before}\n"
        "print('going', flush=True)\n"
        "for n in range(100):\n"
        "    ImageStore(sys.argv[1]).add(Image.fromarray(np.random.default_rng(n).integers(0, 256, (64, 64, 3), dtype=np.uint8)))\n"
    )
    command = [sys.executable, "-c", program, str(store)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, cwd=ROOT)


def test_many_processes_may_fill_one_store_and_be_killed(tmp_path):
    for pause in (0.02, 0.05, None):
        writers = [add_in_a_process(tmp_path) for _ in range(3)]
        for writer in writers:
            assert writer.stdout is not None
            writer.stdout.readline()
        if pause is not None:
            time.sleep(pause)
            for writer in writers:
                writer.kill()
        ends = [(writer.communicate(), writer.returncode)[1] for writer in writers]
    assert ends == [0, 0, 0]
    stored = sorted(tmp_path.glob("*/*.png"))
    assert len(stored) == 100
    assert all(hashlib.sha256(path.read_bytes()).hexdigest() == path.stem for path in stored)


def test_a_process_that_dies_in_the_middle_of_a_file_leaves_none_under_its_name(tmp_path):
    # The system kills it at the thousandth byte.
    limit = "signal.signal(signal.SIGXFSZ, signal.SIG_DFL); resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))"
    writer = add_in_a_process(tmp_path, limit)
    writer.communicate()
    assert writer.returncode == -signal.SIGXFSZ
    assert [path.stat().st_size for path in tmp_path.rglob("*") if path.is_file()] == [1000]
    assert not list(tmp_path.rglob("*.png"))


def test_a_write_that_fails_is_said_and_leaves_nothing(tmp_path):
    limit = "signal.signal(signal.SIGXFSZ, signal.SIG_IGN); resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000)); sys.stderr = sys.stdout"
    writer = add_in_a_process(tmp_path, limit)
    said, _ = writer.communicate()
    assert b"OSError" in said
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_a_stored_file_may_be_read_by_whom_the_umask_lets(tmp_path):
    store, before = ImageStore(tmp_path), os.umask(0o022)
    try:
        assert store.path(store.add(Image.fromarray(NOISE))).stat().st_mode & 0o777 == 0o644
    finally:
        os.umask(before)


def test_threads_may_add_one_image_at_once(tmp_path):
    store, image, digests = ImageStore(tmp_path), Image.fromarray(NOISE), []
    threads = [threading.Thread(target=lambda: digests.append(store.add(image))) for _ in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(digests) == 16
    assert len(set(digests)) == 1
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == [f"{digests[0]}.png"]


def test_avif_is_read_where_pillow_can():
    if "AVIF" not in FORMATS:
        pytest.skip("this Pillow has no AVIF")
    np.testing.assert_allclose(
        pixel(encoded(Image.new("RGB", (16, 16), (200, 30, 40)), "AVIF")), (200, 30, 40), atol=6
    )


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


@pytest.mark.parametrize(
    "bulk",
    [
        chunk(b"zTXt", b"Raw profile\0\0" + zlib.compress(bytes(40_000_000))),
        chunk(b"iTXt", b"XML:com.adobe.xmp\0\1\0\0\0" + zlib.compress(b"layer history; " * 2_000_000)),
        chunk(b"iCCP", b"p\0\0" + zlib.compress(bytes(40_000_000))),
        chunk(b"tEXt", b"workflow\0" + b"y" * 3_000_000),
        chunk(b"zTXt", b"k\0\0" + zlib.compress(bytes(10_000_000))) * 8 + chunk(b"iCCP", b"p\0\0" + zlib.compress(bytes(40_000_000))),
        chunk(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0\xff\xfe"),
    ],
)  # fmt: skip
def test_a_sound_png_is_read_however_long_its_text_and_profile_are(bulk):
    payload = encoded(NOISE)
    np.testing.assert_array_equal(pixels(payload[:33] + bulk + payload[33:]), NOISE)
    assert "cut short" in refusal(payload[:33] + bulk + payload[33:-30])


def test_a_profile_of_more_than_a_megabyte_is_applied():
    swapped = matrix_profile("bgr", LINEAR) + bytes(2_000_000)
    np.testing.assert_allclose(
        pixel(encoded(Image.new("RGB", (2, 2), RED), icc_profile=swapped)), BLUE, atol=2
    )


def test_a_file_too_large_for_any_image_is_not_read(tmp_path, monkeypatch):
    monkeypatch.setattr(images, "MAX_FILE_BYTES", 1_000_000)
    assert "more than 1 MB" in refusal(bytes(1_000_001))
    path = tmp_path / "cat.png"
    with path.open("wb") as sparse:
        sparse.truncate(1_000_001)
    for read in (open_image, image_bytes):
        with pytest.raises(
            InputError, match="is a file of more than 1 MB and is not read; save it smaller"
        ):
            read(path)


def test_threads_decode_no_more_pixels_together_than_the_budget_allows_and_each_in_its_turn(
    monkeypatch,
):
    budget, most = PixelBudget(1000), []
    monkeypatch.setattr(images, "DECODING", budget)
    load = ImageFile.ImageFile.load

    def slowly(image):
        most.append(budget.taken)
        time.sleep(0.005)
        return load(image)

    monkeypatch.setattr(ImageFile.ImageFile, "load", slowly)
    payloads = [
        encoded(NOISE[:20, :20]),
        encoded(np.zeros((50, 50, 3), np.uint8)),
    ] * 8  # 400 pixels, and more than all
    with ThreadPoolExecutor(8) as threads:
        assert [image.width for image in threads.map(read_image, payloads)] == [20, 50] * 8
    assert max(most) == 1000
    assert budget.taken == 0


def test_a_store_notices_a_picture_put_in_the_place_of_another_and_restores_it(tmp_path):
    store = ImageStore(tmp_path)
    digest, other = store.add(Image.fromarray(NOISE)), store.add(Image.fromarray(NOISE[::-1]))
    assert store.verified_bytes(digest) == png_bytes(Image.fromarray(NOISE))
    whole = store.path(digest).read_bytes()
    assert len(whole) == len(store.path(other).read_bytes())
    store.path(digest).write_bytes(store.path(other).read_bytes())
    assert not store.holds(digest)
    with pytest.raises(InputError, match="is damaged"):
        store.verified_bytes(digest)
    assert store.add(Image.fromarray(NOISE)) == digest
    assert store.holds(digest)
    assert not store.holds("0" * 64)

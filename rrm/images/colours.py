"""An image of any mode as 8-bit sRGB without transparency: profiles, deep greys, layers."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image, ImageCms, TiffImagePlugin

_TIFF_BITS, _TIFF_PHOTOMETRIC, _TIFF_WHITE_IS_ZERO = 258, 262, 0
_SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB"))
_ROUNDING = 2  # levels by which one and the same sRGB differs between two vendors' profiles


def over_white(image: Image.Image, profile: bytes | None) -> Image.Image:
    """8-bit RGB by `profile`, without metadata, transparency laid over white."""
    colour, alpha = _layers(image)
    rgb = _to_srgb(colour, profile) if profile else colour.convert("RGB")
    rgb.info = {}
    if alpha is None:
        return rgb
    white = Image.new("RGB", image.size, "white")
    white.paste(rgb, mask=alpha)
    return white


def _layers(image: Image.Image) -> tuple[Image.Image, Image.Image | None]:
    """The colours, in 8 bits and a mode that an ICC profile can be for, and the opacity, if there
    is one."""
    mode, transparent = image.mode, image.info.get("transparency")
    if mode in ("I", "F") or mode.startswith("I;"):
        alpha = (
            None
            if transparent is None
            else Image.fromarray(np.asarray(image) != transparent).convert("L")
        )
        return _eight_bits(image), alpha
    if not image.has_transparency_data:
        return (
            image
            if mode in ("L", "RGB", "CMYK", "LAB")
            else image.convert("L" if mode == "1" else "RGB")
        ), None
    if isinstance(transparent, tuple) and max(transparent) > 255:
        # A 16-bit PNG: Pillow keeps the high bytes of its pixels, but the whole of its transparent
        # colour.
        image = image.copy()
        image.info["transparency"] = tuple(value >> 8 for value in transparent)
    grey = mode in ("1", "L", "LA", "La")
    layered = image.convert("LA" if grey else "RGBA")
    return layered.convert("L" if grey else "RGB"), layered.getchannel("A")


def _eight_bits(image: Image.Image) -> Image.Image:
    """A grey image of integers or floats, scaled by its range to 0–255."""
    values = np.asarray(image).astype(np.float32)
    tags = image.tag_v2 if isinstance(image, TiffImagePlugin.TiffImageFile) else {}
    bits = tags.get(_TIFF_BITS, (16,))[0]
    whites = (1, 255, 65535) if image.mode == "F" else (2 ** min(bits, 16) - 1,)
    low, high = values.min(), values.max()
    white = next(
        (white for white in whites if low >= 0 and high <= white), None
    )  # a NaN is within no range
    if white is None:
        raise ValueError(
            f"its values run from {low:g} to {high:g}, where 0 to {whites[-1]} can be shown"
        )
    levels = np.rint(values * np.float32(255 / white)).astype(np.uint8)
    # Pillow inverts such a TIFF at 8 bits, but not at 16.
    inverted = image.mode.startswith("I;") and tags.get(_TIFF_PHOTOMETRIC) == _TIFF_WHITE_IS_ZERO
    return Image.fromarray(255 - levels if inverted else levels)


def _to_srgb(colour: Image.Image, profile: bytes) -> Image.Image:
    """The colours by an ICC profile; as they are where it is broken, for another mode, or but
    another vendor's sRGB."""
    plain = colour.convert("RGB")
    steps = np.linspace(0, 255, 9).astype(np.uint8)
    bands = len(colour.getbands())
    grid = np.stack(np.meshgrid(*[steps] * bands), axis=-1).reshape(1, -1, bands)
    probe = Image.frombytes(colour.mode, (grid.shape[1], 1), grid.tobytes())
    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        transform = ImageCms.ImageCmsTransform(source, _SRGB, colour.mode, "RGB")
        moved = np.asarray(transform.apply(probe), np.int16) - np.asarray(
            probe.convert("RGB"), np.int16
        )
        if np.abs(moved).max() <= _ROUNDING:
            return plain
        return transform.apply(colour)
    except (
        OSError,
        ValueError,
    ):  # what LittleCMS raises for bytes that are no profile, and for a profile of another mode
        return plain

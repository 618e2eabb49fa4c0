"""Images as the models see them: read from any file or refused with a reason, within one pixel budget, stored by their content."""

from __future__ import annotations

import base64
import hashlib
import io
import os
import uuid
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import ExifTags, Image, ImageCms, ImageOps, TiffImagePlugin, UnidentifiedImageError

from rrm.errors import InputError

MAX_DECODED_PIXELS = 100_000_000
"""No image that claims more pixels than this is decoded: a few bytes can claim gigabytes."""

TOKEN_SIDE = 28
"""One image token of Qwen2.5-VL covers 28 × 28 pixels."""

MAX_PIXELS = 1280 * TOKEN_SIDE * TOKEN_SIDE
"""The default pixel budget of one image: 1280 image tokens, about one megapixel."""

MAX_RATIO = 200
"""The largest ratio of an image's sides that qwen-vl-utils and Qwen2.5-VL's processor accept."""

# Only formats that Pillow decodes by itself: EPS, for one, would be handed to an external program. AVIF needs Pillow 11.3; a camera's MPO counts as JPEG.
Image.init()
FORMATS = tuple(name for name in ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "AVIF", "PPM", "JPEG2000") if name in Image.OPEN)

_TIFF_BITS, _TIFF_PHOTOMETRIC, _TIFF_WHITE_IS_ZERO = 258, 262, 0
_SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB"))
_ROUNDING = 2  # levels by which one and the same sRGB differs between two vendors' profiles


def read_image(payload: bytes, name: str = "the image", max_pixels: int | None = None) -> Image.Image:
    """The first frame of an image file's bytes as people see it, in 8-bit sRGB and without metadata; `name` stands in refusals.

    It is turned upright by its EXIF orientation and converted to sRGB by its ICC profile; of either, one that cannot be read
    is ignored, as viewers do. Transparency is laid over white. Deeper greys are scaled by their range: 65535 becomes 255; floats
    count as 0–1 if none exceeds 1, else as 0–255, else as 0–65535. With `max_pixels` the image is made to `fit`.

    Raises InputError for whatever is not a whole image in one of FORMATS, within MAX_DECODED_PIXELS and MAX_RATIO.
    """
    return _read(io.BytesIO(payload), name, max_pixels)


def open_image(path: str | Path, max_pixels: int | None = None) -> Image.Image:
    """The image at `path`, read as `read_image` reads it. Raises InputError where there is none or it is refused."""
    if not os.path.isfile(path):
        raise InputError(f"There is no image at {path}; give the path of an existing image file.")
    try:
        with open(path, "rb") as file:
            return _read(file, str(path), max_pixels)
    except OSError as error:
        raise InputError(f"{path} cannot be opened ({error.strerror}); make the file readable.") from error


def fit(image: Image.Image, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """The image itself if it has at most `max_pixels`, else scaled down (bicubic) to qwen-vl-utils' size for that budget.

    Smaller images stay as they are: the model's processor rounds and enlarges by the same rule.
    Raises InputError for an image that is too thin for a model, before or after scaling.
    """
    return _fit(image, max_pixels, "the image")


def inside(folder: str | Path, name: str | Path) -> Path:
    """Where the file `name`, given by a dataset's row, really lies below `folder`; it need not exist.

    Raises InputError where the path leaves the folder: by '..', as an absolute path or through a symlink.
    """
    try:
        root = Path(folder).resolve()
        path = (root / name).resolve()
    except (OSError, RuntimeError, ValueError) as error:  # a loop of symlinks; a NUL in the name
        raise InputError(f"{str(name)!r} is no path to a file ({error}); give a path relative to {folder}.") from error
    if root not in path.parents:
        raise InputError(f"{str(name)!r} leads out of {folder}; put the file inside that folder and give its relative path.")
    return path


def data_url(encoded: bytes, form: str = "png") -> str:
    """An image file's bytes as a URL that carries them."""
    return f"data:image/{form};base64," + base64.b64encode(encoded).decode()


def png_bytes(image: Image.Image) -> bytes:
    """The image's RGB pixels as PNG and nothing else: the same pixels are the same bytes, whatever metadata came with them."""
    # Every stored image is named by the digest of these bytes: other settings of the encoder would rename them all.
    clean = _over_white(image, None)
    buffer = io.BytesIO()
    clean.save(buffer, "PNG")
    return buffer.getvalue()


def pixel_digest(image: Image.Image) -> str:
    """The SHA-256 of an RGB image's size and pixels."""
    return hashlib.sha256(f"{image.width}x{image.height}:".encode() + image.tobytes()).hexdigest()


class ImageStore:
    """A folder of image files named `<first two hex digits>/<sha256>.png`, which many processes may fill at once."""

    def __init__(self, root: str | Path):
        self.root = Path(root)

    def path(self, digest: str) -> Path:
        """Where the image with this digest lies."""
        return self.root / digest[:2] / f"{digest}.png"

    def add(self, image: Image.Image) -> str:
        """Stores the image unless it is there already, and returns its digest.

        A kill at any moment leaves either the whole file or none under its name, at worst with a hidden `.part` beside it.
        """
        payload = png_bytes(image)
        digest = hashlib.sha256(payload).hexdigest()
        target = self.path(digest)
        # The size is compared because a machine that loses power can leave an empty file under the final name.
        if not target.exists() or target.stat().st_size != len(payload):
            target.parent.mkdir(parents=True, exist_ok=True)
            # Unique over hosts and threads, like a name of tempfile's, but with the permissions that the umask gives.
            partial = target.parent / f".{uuid.uuid4().hex}.part"
            try:
                with partial.open("xb") as file:
                    file.write(payload)
                partial.replace(target)
            finally:
                partial.unlink(missing_ok=True)
        return digest

    def get(self, digest: str) -> Image.Image:
        """The RGB image with this digest. Raises InputError where it is missing or its bytes are not those that were stored."""
        path = self.path(digest)
        if not os.path.isfile(path):
            raise InputError(f"There is no image at {path}; run the stage that stores it again.")
        payload = path.read_bytes()
        if hashlib.sha256(payload).hexdigest() != digest:
            raise InputError(
                f"{path} is damaged: its content does not match its name; delete it and run the stage that stores it again."
            )
        return read_image(payload, str(path))


def _read(file: BinaryIO, name: str, max_pixels: int | None) -> Image.Image:
    """`read_image` for an open file, of which only what the first frame needs is read."""
    if file.seek(0, os.SEEK_END) == 0:
        raise InputError(f"{name} is empty; copy or download it again.")
    file.seek(0)
    try:
        with Image.open(file, formats=FORMATS) as opened:
            # By the declared size, before a pixel is decoded.
            if opened.width * opened.height > MAX_DECODED_PIXELS:
                raise InputError(_too_large(name))
            _check_ratio(opened.width, opened.height, name)
            if opened.format == "JPEG2000":
                _check_codestream(file)
            opened.load()
            image = _upright(_over_white(opened, opened.info.get("icc_profile")), _orientation(opened))
    except InputError:
        raise
    except UnidentifiedImageError as error:
        raise InputError(
            f"{name} cannot be read as an image: it is of another kind, without pixels or damaged at its start; give one of {', '.join(FORMATS)}."
        ) from error
    except Image.DecompressionBombError as error:
        raise InputError(_too_large(name)) from error
    except Exception as error:  # hostile bytes make Pillow raise nearly anything, from struct.error to MemoryError
        reason = " ".join(str(error).split()).rstrip(".") or type(error).__name__
        raise InputError(
            f"{name} cannot be read as an image: it is cut short, damaged or of an unusual kind ({reason}); "
            "copy it again, or save it anew as an 8-bit PNG or JPEG."
        ) from error
    return image if max_pixels is None else _fit(image, max_pixels, name)


def _too_large(name: str) -> str:
    return f"{name} claims more than {MAX_DECODED_PIXELS // 1_000_000} million pixels and is not decoded; scale it down first."


def _check_codestream(file: BinaryIO) -> None:
    """Refuses a JPEG 2000 file that is cut between two tiles, which OpenJPEG would decode with the missing tiles black."""
    position = file.tell()
    file.seek(0)
    payload = file.read()
    file.seek(position)
    # Between these two markers no packet can hold either of them.
    start_of_tile, end_of_codestream = b"\xff\x90", b"\xff\xd9"
    first = payload.find(start_of_tile)
    if first < 0 or payload.find(end_of_codestream, first) < 0:
        raise OSError("its last tiles are missing")


def _check_ratio(width: int, height: int, name: str) -> None:
    if max(width, height) > MAX_RATIO * min(width, height):
        raise InputError(
            f"{name} is too thin for the model ({width}×{height}); crop or pad it to a ratio of its sides of at most {MAX_RATIO}."
        )


def _fit(image: Image.Image, max_pixels: int, name: str) -> Image.Image:
    if max_pixels < TOKEN_SIDE**2:
        raise InputError(f"A budget of {max_pixels} pixels holds no image token; set max_pixels to {TOKEN_SIDE**2} or more.")
    _check_ratio(image.width, image.height, name)
    if image.width * image.height <= max_pixels:
        return image
    from qwen_vl_utils.vision_process import smart_resize  # here, since it takes seconds to import: torch comes with it

    height, width = smart_resize(image.height, image.width, TOKEN_SIDE, min_pixels=TOKEN_SIDE**2, max_pixels=max_pixels)
    # Sides are rounded down to whole tokens: the short one can vanish, or become so short that the processor refuses the result.
    if max(height, width) > MAX_RATIO * min(height, width):
        raise InputError(
            f"{name} is too thin to be scaled down to {max_pixels} pixels ({image.width}×{image.height}); crop it or raise max_pixels."
        )
    return image.resize((width, height), Image.Resampling.BICUBIC)


def _orientation(image: Image.Image) -> int:
    """The EXIF orientation, 1 where it cannot be read: a camera's broken metadata is no reason to refuse its picture."""
    try:
        return image.getexif().get(ExifTags.Base.Orientation, 1)
    except Exception:  # as for pixels, broken metadata make Pillow raise nearly anything
        return 1


def _upright(image: Image.Image, orientation: int) -> Image.Image:
    # The tag is set on a clean image, because Pillow would also write the rest of the EXIF anew, which fails for odd tags.
    image.getexif()[ExifTags.Base.Orientation] = orientation
    return ImageOps.exif_transpose(image)


def _over_white(image: Image.Image, profile: bytes | None) -> Image.Image:
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
    """The colours, in 8 bits and a mode that an ICC profile can be for, and the opacity, if there is one."""
    mode, transparent = image.mode, image.info.get("transparency")
    if mode in ("I", "F") or mode.startswith("I;"):
        alpha = None if transparent is None else Image.fromarray(np.asarray(image) != transparent).convert("L")
        return _eight_bits(image), alpha
    if not image.has_transparency_data:
        return (image if mode in ("L", "RGB", "CMYK", "LAB") else image.convert("L" if mode == "1" else "RGB")), None
    if isinstance(transparent, tuple) and max(transparent) > 255:
        # A 16-bit PNG: Pillow keeps the high bytes of its pixels, but the whole of its transparent colour.
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
    white = next((white for white in whites if low >= 0 and high <= white), None)  # a NaN is within no range
    if white is None:
        raise ValueError(f"its values run from {low:g} to {high:g}, where 0 to {whites[-1]} can be shown")
    levels = np.rint(values * np.float32(255 / white)).astype(np.uint8)
    # Pillow inverts such a TIFF at 8 bits, but not at 16.
    inverted = image.mode.startswith("I;") and tags.get(_TIFF_PHOTOMETRIC) == _TIFF_WHITE_IS_ZERO
    return Image.fromarray(255 - levels if inverted else levels)


def _to_srgb(colour: Image.Image, profile: bytes) -> Image.Image:
    """The colours by an ICC profile; as they are where it is broken, for another mode, or but another vendor's sRGB."""
    plain = colour.convert("RGB")
    steps = np.linspace(0, 255, 9).astype(np.uint8)
    bands = len(colour.getbands())
    grid = np.stack(np.meshgrid(*[steps] * bands), axis=-1).reshape(1, -1, bands)
    probe = Image.frombytes(colour.mode, (grid.shape[1], 1), grid.tobytes())
    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        transform = ImageCms.ImageCmsTransform(source, _SRGB, colour.mode, "RGB")
        moved = np.asarray(transform.apply(probe), np.int16) - np.asarray(probe.convert("RGB"), np.int16)
        if np.abs(moved).max() <= _ROUNDING:
            return plain
        return transform.apply(colour)
    except (OSError, ValueError):  # what LittleCMS raises for bytes that are no profile, and for a profile of another mode
        return plain

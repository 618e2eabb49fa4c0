"""Images as the models see them: read from any file or refused with a reason, within one pixel
budget, stored by their content."""

from __future__ import annotations

import base64
import hashlib
import io
import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import ExifTags, Image, ImageOps, PngImagePlugin, UnidentifiedImageError

from rrm.errors import InputError
from rrm.images.colours import over_white
from rrm.images.pixel_budget import PixelBudget

MAX_DECODED_PIXELS = 100_000_000
"""No image that claims more pixels than this is decoded: a few bytes can claim gigabytes."""

MAX_FILE_BYTES = 4 * MAX_DECODED_PIXELS
"""No larger file is read: an uncompressed image of so many pixels has room in it."""

DECODING = PixelBudget(2 * MAX_DECODED_PIXELS)
"""What this process decodes at once, in all its threads: about 3 GB at most (13 images of 99
million pixels were measured)."""

TOKEN_SIDE = 28
"""One image token of Qwen2.5-VL covers 28 × 28 pixels."""

MAX_PIXELS = 1280 * TOKEN_SIDE * TOKEN_SIDE
"""The default pixel budget of one image: 1280 image tokens, about one megapixel."""

MAX_RATIO = 200
"""The largest ratio of an image's sides that qwen-vl-utils and Qwen2.5-VL's processor accept."""

# Only formats that Pillow decodes by itself: EPS, for one, would be handed to an external program.
# AVIF needs Pillow 11.3; a camera's MPO counts as JPEG.
Image.init()
FORMATS = tuple(
    name
    for name in ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "AVIF", "PPM", "JPEG2000")
    if name in Image.OPEN
)

# Pillow refuses a PNG whose text or ICC chunks are longer. Profiles may be this long; text beyond
# it is left out (`_without`).
PngImagePlugin.MAX_TEXT_CHUNK = 1 << 24
_PNG = b"\x89PNG\r\n\x1a\n"
_TEXT, _PROFILE = frozenset({b"tEXt", b"zTXt", b"iTXt"}), frozenset({b"iCCP"})


def read_image(
    payload: bytes, name: str = "the image", max_pixels: int | None = None
) -> Image.Image:
    """The first frame of an image file's bytes as people see it, in 8-bit sRGB and without
    metadata; `name` stands in refusals.

    It is turned upright by its EXIF orientation and converted to sRGB by its ICC profile; of
    either, one that cannot be read is ignored, as viewers do. Transparency is laid over white.
    Deeper greys are scaled by their range: 65535 becomes 255; floats count as 0–1 if none exceeds
    1, else as 0–255, else as 0–65535. With `max_pixels` the image is made to `fit`.

    Raises InputError for whatever is not a whole image in one of FORMATS, within MAX_FILE_BYTES,
    MAX_DECODED_PIXELS and MAX_RATIO. It waits while other threads decode as much as DECODING
    allows.
    """
    return _read(io.BytesIO(payload), name, max_pixels)


def image_bytes(path: str | Path) -> bytes:
    """The bytes of an image file. Raises InputError where there is none, or it is too large or not
    readable."""
    with _opened(path) as file:
        return file.read()


def open_image(path: str | Path, max_pixels: int | None = None) -> Image.Image:
    """The image at `path`, read as `read_image` reads it. Raises InputError where there is none or
    it is refused."""
    with _opened(path) as file:
        return _read(file, str(path), max_pixels)


ImageLike = Image.Image | str | Path | bytes | np.ndarray
"""An image as PIL, the path or bytes of a file, or an array (height, width, 3) of uint8."""


def as_image(image: ImageLike) -> Image.Image:
    """The image as PIL. Raises InputError where it cannot be read."""
    if isinstance(image, Image.Image):
        return image
    if isinstance(image, bytes):
        return read_image(image)
    if isinstance(image, np.ndarray):
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
            raise InputError(
                f"An image array must be (height, width, 3) of uint8, not {image.shape} of {image.dtype}."
            )
        return Image.fromarray(image)
    return open_image(image)


def fit(image: Image.Image, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """The image itself if it has at most `max_pixels`, else scaled down (bicubic) to qwen-vl-utils'
    size for that budget.

    Smaller images stay as they are: the model's processor rounds and enlarges by the same rule.
    Raises InputError for an image that is too thin for a model, before or after scaling.
    """
    return _fit(image, max_pixels, "the image")


def inside(folder: str | Path, name: str | Path) -> Path:
    """Where the file `name`, given by a dataset's row, really lies below `folder`; it need not
    exist.

    Raises InputError where the path leaves the folder: by '..', as an absolute path or through a
    symlink.
    """
    try:
        root = Path(folder).resolve()
        path = (root / name).resolve()
    except (OSError, RuntimeError, ValueError) as error:  # a loop of symlinks; a NUL in the name
        raise InputError(
            f"{str(name)!r} is no path to a file ({error}); give a path relative to {folder}."
        ) from error
    if root not in path.parents:
        raise InputError(
            f"{str(name)!r} leads out of {folder}; put the file inside that folder and give its relative path."
        )
    return path


def data_url(encoded: bytes, form: str = "png") -> str:
    """An image file's bytes as a URL that carries them."""
    return f"data:image/{form};base64," + base64.b64encode(encoded).decode()


def png_bytes(image: Image.Image) -> bytes:
    """The image's RGB pixels as PNG and nothing else: the same pixels are the same bytes, whatever
    metadata came with them."""
    # Every stored image is named by the digest of these bytes: other settings of the encoder would
    # rename them all.
    clean = over_white(image, None)
    buffer = io.BytesIO()
    clean.save(buffer, "PNG")
    return buffer.getvalue()


def pixel_digest(image: Image.Image) -> str:
    """The SHA-256 of an RGB image's size and pixels."""
    return hashlib.sha256(f"{image.width}x{image.height}:".encode() + image.tobytes()).hexdigest()


class ImageStore:
    """A folder of image files named `<first two hex digits>/<sha256>.png`, which many processes may
    fill at once."""

    def __init__(self, root: str | Path):
        self.root = Path(root)

    def path(self, digest: str) -> Path:
        """Where the image with this digest lies."""
        return self.root / digest[:2] / f"{digest}.png"

    def add(self, image: Image.Image) -> str:
        """Stores the image unless it is there already and undamaged, and returns its digest.

        A kill at any moment leaves either the whole file or none under its name, at worst with a
        hidden `.part` beside it.
        """
        payload = png_bytes(image)
        digest = hashlib.sha256(payload).hexdigest()
        target = self.path(digest)
        if not self.holds(digest):
            target.parent.mkdir(parents=True, exist_ok=True)
            # Unique over hosts and threads, like a name of tempfile's, but with the permissions
            # that the umask gives.
            partial = target.parent / f".{uuid.uuid4().hex}.part"
            try:
                with partial.open("xb") as file:
                    file.write(payload)
                partial.replace(target)
            finally:
                partial.unlink(missing_ok=True)
        return digest

    def holds(self, digest: str) -> bool:
        """Whether the image with this digest is there, and is what was stored."""
        try:
            return hashlib.sha256(self.path(digest).read_bytes()).hexdigest() == digest
        except OSError:
            return False

    def verified_bytes(self, digest: str) -> bytes:
        """The PNG file with this digest. Raises InputError where it is missing or its bytes are not
        those that were stored."""
        path = self.path(digest)
        if not os.path.isfile(path):
            raise InputError(f"There is no image at {path}; run the stage that stores it again.")
        payload = path.read_bytes()
        if hashlib.sha256(payload).hexdigest() != digest:
            raise InputError(
                f"{path} is damaged: its content does not match its name; delete it and run the stage that stores it again."
            )
        return payload

    def get(self, digest: str) -> Image.Image:
        """The RGB image with this digest. Raises InputError where it is missing or its bytes are
        not those that were stored."""
        return read_image(self.verified_bytes(digest), str(self.path(digest)))


@contextmanager
def _opened(path: str | Path) -> Iterator[BinaryIO]:
    if not os.path.isfile(path):
        raise InputError(f"There is no image at {path}; give the path of an existing image file.")
    try:
        with open(path, "rb") as file:
            _check_bytes(os.fstat(file.fileno()).st_size, str(path))
            yield file
    except OSError as error:
        raise InputError(
            f"{path} cannot be opened ({error.strerror}); make the file readable."
        ) from error


def _read(file: BinaryIO, name: str, max_pixels: int | None) -> Image.Image:
    """`read_image` for an open file, of which only what the first frame needs is read."""
    size = file.seek(0, os.SEEK_END)
    file.seek(0)
    if size == 0:
        raise InputError(f"{name} is empty; copy or download it again.")
    _check_bytes(size, name)
    try:
        return _decode(file, name, max_pixels)
    except InputError:
        raise
    except UnidentifiedImageError as error:
        raise InputError(
            f"{name} cannot be read as an image: it is of another kind, without pixels or damaged at its start; give one of {', '.join(FORMATS)}."
        ) from error
    except Image.DecompressionBombError as error:
        raise InputError(_too_large(name)) from error
    except (
        Exception
    ) as error:  # hostile bytes make Pillow raise nearly anything, from struct.error to MemoryError
        reason = " ".join(str(error).split()).rstrip(".") or type(error).__name__
        raise InputError(
            f"{name} cannot be read as an image: it is cut short, damaged or of an unusual kind ({reason}); "
            "copy it again, or save it anew as an 8-bit PNG or JPEG."
        ) from error


def _decode(file: BinaryIO, name: str, max_pixels: int | None) -> Image.Image:
    """The image in an open file; of a PNG also where Pillow would refuse its text or its profile as
    too long."""
    for left_out in (frozenset[bytes](), _TEXT, _TEXT | _PROFILE):
        try:
            return _decode_as_it_is(
                _without(file, left_out) if left_out else file, name, max_pixels
            )
        except ValueError:
            file.seek(0)
            if left_out >= _PROFILE or file.read(len(_PNG)) != _PNG:
                raise
            file.seek(0)
    raise AssertionError


def _decode_as_it_is(file: BinaryIO, name: str, max_pixels: int | None) -> Image.Image:
    with Image.open(file, formats=FORMATS) as opened:
        # By the declared size, before a pixel is decoded.
        if opened.width * opened.height > MAX_DECODED_PIXELS:
            raise InputError(_too_large(name))
        _check_ratio(opened.width, opened.height, name)
        if opened.format == "JPEG2000":
            _check_codestream(file)
        with DECODING.share(opened.width * opened.height):
            opened.load()
            image = _upright(
                over_white(opened, opened.info.get("icc_profile")), _orientation(opened)
            )
            return image if max_pixels is None else _fit(image, max_pixels, name)


def _without(file: BinaryIO, kinds: frozenset[bytes]) -> BinaryIO:
    """A PNG without its chunks of these kinds; what follows a chunk that is not whole stays as it
    is."""
    payload = file.read()
    kept, position = [payload[: len(_PNG)]], len(_PNG)
    while position + 12 <= len(payload):
        end = position + 12 + int.from_bytes(payload[position : position + 4], "big")
        if payload[position + 4 : position + 8] not in kinds:
            kept.append(payload[position:end])
        position = end
    return io.BytesIO(b"".join([*kept, payload[position:]]))


def _check_bytes(size: int, name: str) -> None:
    if size > MAX_FILE_BYTES:
        raise InputError(
            f"{name} is a file of more than {MAX_FILE_BYTES // 1_000_000} MB and is not read; save it smaller."
        )


def _too_large(name: str) -> str:
    return f"{name} claims more than {MAX_DECODED_PIXELS // 1_000_000} million pixels and is not decoded; scale it down first."


def _check_codestream(file: BinaryIO) -> None:
    """Refuses a JPEG 2000 file that is cut between two tiles, which OpenJPEG would decode with the
    missing tiles black."""
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
        raise InputError(
            f"A budget of {max_pixels} pixels holds no image token; set max_pixels to {TOKEN_SIDE**2} or more."
        )
    _check_ratio(image.width, image.height, name)
    if image.width * image.height <= max_pixels:
        return image
    from qwen_vl_utils.vision_process import (
        smart_resize,
    )  # here, since it takes seconds to import: torch comes with it

    height, width = smart_resize(
        image.height, image.width, TOKEN_SIDE, min_pixels=TOKEN_SIDE**2, max_pixels=max_pixels
    )
    # Sides are rounded down to whole tokens: the short one can vanish, or become so short that the
    # processor refuses the result.
    if max(height, width) > MAX_RATIO * min(height, width):
        raise InputError(
            f"{name} is too thin to be scaled down to {max_pixels} pixels ({image.width}×{image.height}); crop it or raise max_pixels."
        )
    return image.resize((width, height), Image.Resampling.BICUBIC)


def _orientation(image: Image.Image) -> int:
    """The EXIF orientation, 1 where it cannot be read: a camera's broken metadata is no reason to
    refuse its picture."""
    try:
        return image.getexif().get(ExifTags.Base.Orientation, 1)
    except Exception:  # as for pixels, broken metadata make Pillow raise nearly anything
        return 1


def _upright(image: Image.Image, orientation: int) -> Image.Image:
    if orientation == 1:
        return image  # a copy of 100 million pixels takes 400 MB
    # The tag is set on a clean image, because Pillow would also write the rest of the EXIF anew,
    # which fails for odd tags.
    image.getexif()[ExifTags.Base.Orientation] = orientation
    return ImageOps.exif_transpose(image)

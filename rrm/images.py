"""Images stored once, named by their content."""

from __future__ import annotations

import hashlib
import io
import os
from pathlib import Path

from PIL import Image, UnidentifiedImageError

from rrm.errors import InputError


def open_image(path: str | Path) -> Image.Image:
    """The RGB image at `path`. Raises InputError where there is none or it cannot be decoded."""
    path = Path(path)
    if not path.is_file():
        raise InputError(f"There is no image at {path}; give the path of an existing image file.")
    try:
        with Image.open(path) as image:
            return image.convert("RGB")
    except (UnidentifiedImageError, OSError, Image.DecompressionBombError) as error:
        raise InputError(f"{path} cannot be read as an image ({error}); give a PNG, JPEG or WebP file.") from error


def png_bytes(image: Image.Image) -> bytes:
    """The image as PNG."""
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


class ImageStore:
    """A folder of image files named `<first two hex digits>/<sha256>.png`."""

    def __init__(self, root: str | Path):
        self.root = Path(root)

    def path(self, digest: str) -> Path:
        """Where the image with this digest lies."""
        return self.root / digest[:2] / f"{digest}.png"

    def add(self, image: Image.Image) -> str:
        """Stores the image unless it is there already, and returns its digest."""
        payload = png_bytes(image.convert("RGB"))
        digest = hashlib.sha256(payload).hexdigest()
        target = self.path(digest)
        if not target.exists():
            target.parent.mkdir(parents=True, exist_ok=True)
            partial = target.with_suffix(f".{os.getpid()}.part")
            partial.write_bytes(payload)
            partial.replace(target)
        return digest

    def get(self, digest: str) -> Image.Image:
        """The RGB image with this digest. Raises InputError where it is missing or damaged."""
        return open_image(self.path(digest))

"""Reading the data stage's output for training: its rows, and a check that stored images are
unchanged."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import TypeVar

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import ValidationError

from rrm.errors import InputError
from rrm.images import ImageStore
from rrm.records import Record

Row = TypeVar("Row", bound=Record)

AGAIN = (
    "make the data again with --retry, which asks for no answer twice that was paid for and read"
)


def read_table(path: Path, kind: type[Row]) -> list[Row]:
    """The rows of a Parquet file. Raises InputError where it is missing, damaged, or of another
    version of this software."""
    if not path.is_file():
        raise InputError(
            f"There is no {path}; run `make data` first, or correct 'data' in the config."
        )
    try:
        return [kind(**row) for row in pq.read_table(path).to_pylist()]
    except (pa.ArrowException, OSError, ValidationError, TypeError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise  # a disk's, not the file's
        reason = " ".join(str(error).split())[:200]
        raise InputError(
            f"{path} is damaged or from another version ({reason}); {AGAIN}."
        ) from error


def check_images(store: ImageStore, digests: Iterable[str]) -> None:
    """Raises InputError where an image is missing or is not the one that was stored. Every file is
    read once, by rank 0."""
    if int(os.environ.get("RANK", "0")) > 0:
        return
    bad = [digest for digest in dict.fromkeys(digests) if not store.holds(digest)]
    if bad:
        raise InputError(
            f"{len(bad)} images are missing or damaged, such as {store.path(bad[0])}; {AGAIN}."
        )

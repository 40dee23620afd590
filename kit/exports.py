"""Writing results beside each other without overwriting anything, whole or not at all."""

import errno
import json
import os
import re
import tempfile
from collections.abc import Mapping
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from loader.errors import AnyhostError


class OutputError(AnyhostError):
    """A result could not be written."""


def safe_stem(name: str) -> str:
    """A file name's stem with nothing in it that a file system or a shell could take amiss."""
    stem = Path(name.replace("\\", "/")).stem
    cleaned = re.sub(r"[^\w.-]+", "_", stem).strip("._")
    return cleaned[:80] or "picture"


def free_path(folder: Path, stem: str, suffix: str) -> Path:
    """``stem + suffix`` in ``folder``, numbered if that exists."""
    path, number = folder / f"{stem}{suffix}", 2
    while path.exists():
        path, number = folder / f"{stem}-{number}{suffix}", number + 1
    return path


def write_bytes(path: Path, data: bytes) -> Path:
    """Write a file whole: under a temporary name first.

    Raises:
        OutputError: the disk is full or the folder cannot be written; nothing is left under the final name.
    """
    temporary = ""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=".writing-")
        with os.fdopen(handle, "wb") as file:
            file.write(data)
        Path(temporary).replace(path)
    except OSError as error:
        if temporary:
            Path(temporary).unlink(missing_ok=True)
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        reason = f"the disk is full ({len(data):,} bytes needed): free some room" if full else str(error)
        raise OutputError(f"{path} could not be written: {reason}") from error
    return path


def write_json(path: Path, value: Any) -> Path:
    """``value`` as indented JSON.

    Raises:
        OutputError: as ``write_bytes``.
    """
    return write_bytes(path, (json.dumps(value, indent=1, ensure_ascii=False) + "\n").encode())


def write_png(path: Path, rgb: NDArray[np.uint8], settings: Mapping[str, Any]) -> Path:
    """A picture [H,W,3] with its settings inside, as PNG text under the key "anyhost".

    Raises:
        OutputError: as ``write_bytes``.
    """
    info = PngInfo()
    info.add_itxt("anyhost", json.dumps(dict(settings), ensure_ascii=False))
    buffer = BytesIO()
    Image.fromarray(rgb).save(buffer, "PNG", pnginfo=info)
    return write_bytes(path, buffer.getvalue())

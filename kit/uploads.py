"""How large a file may be that somebody sends."""

from pathlib import Path

from loader.errors import InputError

MB = 2**20
MAX_PICTURE_BYTES = 50 * MB
MAX_CLIP_BYTES = 600 * MB  # ten minutes of 1080p as phones and cameras write it (8 Mbit a second)
MAX_UPLOAD_BYTES = MAX_CLIP_BYTES  # what the server takes at all: videos, and weights of one's own


def check_picture(path: Path) -> None:
    """Refuse a file that is larger than a picture may be, before anything of it is read.

    Raises:
        InputError: it is; the message says by how much and what to do.
    """
    _check(path, MAX_PICTURE_BYTES, "a picture", "scale it down, or save it as JPEG")


def check_clip(path: Path) -> None:
    """Refuse a file that is larger than a video may be, before anything of it is read.

    Raises:
        InputError: it is; the message says by how much and what to do.
    """
    _check(path, MAX_CLIP_BYTES, "a video", "cut it, or export it at a lower bit rate")


def _check(path: Path, limit: int, kind: str, remedy: str) -> None:
    size = path.stat().st_size if path.is_file() else 0
    if size > limit:
        raise InputError(f"{path.name} has {size / MB:.0f} MB; the limit of {kind} is {limit / MB:.0f} MB: {remedy}")

"""Picture sizes as people write them."""

import re

from loader.errors import InputError
from loader.spec import Size


def read_size(text: str) -> Size:
    """``640x480`` (height × width) or one side for a square.

    Raises:
        InputError: neither.
    """
    match = re.fullmatch(r"(\d{1,5})(?:\s*[x×,*]\s*(\d{1,5}))?", text.strip())
    if match is None:
        raise InputError(f"size {text!r} cannot be read: write HEIGHT×WIDTH, for example 640×640")
    height = int(match[1])
    return height, int(match[2]) if match[2] else height


def write_size(size: Size) -> str:
    """``size`` as ``read_size`` reads it."""
    return f"{size[0]}×{size[1]}"

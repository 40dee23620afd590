"""Pictures on their way to the browser: a file that is being fetched is never written again."""

import os
import tempfile
from pathlib import Path

from gradio import processing_utils
from PIL import Image


def save_once(img: Image.Image, cache_dir: str, name: str = "image", format: str = "webp") -> str:
    """A picture as a file named by what is in it, written whole or not at all; one that is there is left as it is.

    It takes the place of ``gradio.processing_utils.save_pil_to_cache`` (Gradio 6.31), which opens the file for writing
    each time the same picture is shown: a browser that is fetching it then gets less than was announced to it.
    Gradio's ``save_file_to_cache`` stages and renames for the same reason.

    Args:
        img: the picture.
        cache_dir: Gradio's folder of the component.
        name: of the file, without its suffix.
        format: one of Pillow's, and the suffix.

    Returns:
        The file's path.

    Raises:
        OSError: it cannot be written.
    """
    content = processing_utils.encode_pil_to_bytes(img, format)
    folder = Path(cache_dir) / processing_utils.hash_bytes(content)
    folder.mkdir(exist_ok=True, parents=True)
    path = (folder / f"{name}.{format}").resolve()
    if path.exists():
        os.utime(path)  # shown again: its hour begins anew
        return str(path)
    handle, staged = tempfile.mkstemp(dir=folder, prefix=f".{name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
        Path(staged).replace(path)
    except BaseException:
        Path(staged).unlink(missing_ok=True)
        raise
    return str(path)


def write_pictures_once() -> None:
    """Let every component of Gradio save its pictures by ``save_once``."""
    processing_utils.save_pil_to_cache = save_once

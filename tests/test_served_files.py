"""Pictures that the page shows: what a browser is fetching is not written again under it."""

from pathlib import Path

import numpy as np
import pytest
from gradio import processing_utils
from gradio.components import Gallery, Image
from PIL import Image as Pictures

from kit.parts.served_files import save_once, write_pictures_once


def test_a_picture_shown_twice_is_written_once(tmp_path):
    picture = Pictures.new("RGB", (32, 24), "teal")
    first = Path(save_once(picture, str(tmp_path), format="jpeg"))
    inode = first.stat().st_ino
    with first.open("rb") as fetching:
        head = fetching.read(8)
        again = save_once(picture, str(tmp_path), format="jpeg")
        assert head + fetching.read() == first.read_bytes()
    assert again == str(first)
    assert first.stat().st_ino == inode
    with Pictures.open(first) as written:
        assert written.size == (32, 24)


def test_a_failed_write_leaves_nothing_behind(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(OSError, match="No space"):
        save_once(Pictures.new("RGB", (8, 8)), str(tmp_path))
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


def test_the_components_of_the_page_save_so(tmp_path, monkeypatch):
    """Gradio looks the function up in its module at each call; were that to change, this would fail."""
    monkeypatch.setattr(processing_utils, "save_pil_to_cache", processing_utils.save_pil_to_cache)
    write_pictures_once()
    image, gallery = Image(format="png"), Gallery(format="png")
    image.GRADIO_CACHE = gallery.GRADIO_CACHE = str(tmp_path)
    picture = np.full((8, 8, 3), 90, np.uint8)

    def shown() -> list[str]:
        return [image.postprocess(picture).path, gallery.postprocess([picture]).root[0].image.path]

    first = shown()
    for path in first:
        Path(path).write_bytes(b"as it was")
    assert shown() == first
    assert [Path(path).read_bytes() for path in first] == [b"as it was"] * 2

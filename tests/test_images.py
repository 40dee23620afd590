"""Pictures as people have them: turned, CMYK, 16 bit, palette, transparent, broken, tiny, enormous."""

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from kit.exports import OutputError, free_path, safe_stem, write_bytes, write_png
from kit.images import open_picture, picture_from_array
from loader.errors import InputError

GRADIENT = np.stack(
    [
        np.tile(np.arange(60, dtype=np.uint8) * 4, (40, 1)),
        np.full((40, 60), 90, np.uint8),
        np.full((40, 60), 30, np.uint8),
    ],
    axis=2,
)


def saved(image: Image.Image, tmp_path, name: str, **options):
    path = tmp_path / name
    image.save(path, **options)
    return path


def test_a_plain_picture_comes_back_as_it_is(tmp_path):
    picture = open_picture(saved(Image.fromarray(GRADIENT), tmp_path, "a.png"))
    assert np.array_equal(picture.rgb, GRADIENT)
    assert (picture.size, picture.notes) == ((40, 60), ())


@pytest.mark.parametrize("orientation", range(2, 9))
def test_exif_rotation_is_undone(tmp_path, orientation):
    turned = {2: 0, 3: 3, 4: 1, 5: 5, 6: 2, 7: 6, 8: 4}  # the transpose that a camera held so would have stored
    stored = Image.fromarray(GRADIENT).transpose(Image.Transpose(turned[orientation]))
    exif = Image.Exif()
    exif[0x0112] = orientation
    picture = open_picture(saved(stored, tmp_path, "turned.png", exif=exif))
    assert np.array_equal(picture.rgb, GRADIENT)
    assert "rotated" in picture.notes


def test_cmyk_becomes_rgb(tmp_path):
    picture = open_picture(saved(Image.fromarray(GRADIENT).convert("CMYK"), tmp_path, "a.jpg", quality=98))
    assert "cmyk" in picture.notes
    assert np.abs(picture.rgb.astype(int) - GRADIENT).mean() < 6


def test_sixteen_bit_grey_keeps_its_range(tmp_path):
    values = np.linspace(0, 65535, 60).astype(np.uint16)[None].repeat(40, axis=0)
    picture = open_picture(saved(Image.fromarray(values), tmp_path, "a.png"))
    assert "16_bit" in picture.notes
    assert picture.rgb[0, 0].tolist() == [0, 0, 0]
    assert picture.rgb[0, -1].tolist() == [255, 255, 255]
    assert abs(int(picture.rgb[0, 30, 0]) - 130) < 4


def test_palette_and_transparency_land_on_white(tmp_path):
    rgba = np.dstack([GRADIENT, np.full((40, 60), 255, np.uint8)])
    rgba[:10] = 0
    picture = open_picture(saved(Image.fromarray(rgba), tmp_path, "a.png"))
    assert "transparent" in picture.notes
    assert picture.rgb[0, 0].tolist() == [255, 255, 255]
    palette = open_picture(saved(Image.fromarray(GRADIENT).quantize(32), tmp_path, "p.png"))
    assert "palette" in palette.notes


def test_a_text_file_named_jpg_is_refused_by_name(tmp_path):
    path = tmp_path / "holiday.jpg"
    path.write_text("not a picture")
    with pytest.raises(InputError, match=r"holiday\.jpg is not a picture"):
        open_picture(path)


def test_a_picture_cut_short_is_refused(tmp_path):
    path = saved(Image.fromarray(GRADIENT.repeat(8, 0).repeat(8, 1)), tmp_path, "half.jpg")
    path.write_bytes(path.read_bytes()[:900])
    with pytest.raises(InputError, match="damaged"):
        open_picture(path)


def test_one_pixel_is_refused_with_the_limit(tmp_path):
    with pytest.raises(InputError, match="2×2"):
        open_picture(saved(Image.new("RGB", (1, 1)), tmp_path, "dot.png"))


def huge_png(side: int) -> io.BytesIO:
    """The header and a row's worth of data of a PNG of side × side pixels: enough to see its size, a few bytes long."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    body = zlib.compress(b"\0" * (side * 3 + 1))
    return io.BytesIO(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", body) + chunk(b"IEND", b""))


def test_20000_by_20000_is_refused_before_it_is_decoded():
    with pytest.raises(InputError, match=r"400 megapixels|too large"):
        open_picture(huge_png(20_000), name="huge.png")


def test_arrays_have_the_same_limits():
    assert picture_from_array(GRADIENT).size == (40, 60)
    with pytest.raises(InputError, match="uint8"):
        picture_from_array(GRADIENT.astype(np.float32))
    with pytest.raises(InputError, match="2×2"):
        picture_from_array(GRADIENT[:1])


# --- writing ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "stem"),
    [
        ("../../etc/passwd.png", "passwd"),
        ("C:\\Users\\me\\cat.jpg", "cat"),
        ("a b;rm -rf $HOME.png", "a_b_rm_-rf_HOME"),
        ("....png", "picture"),
        ("", "picture"),
        ("猫.png", "猫"),
    ],
)
def test_hostile_file_names_become_harmless_stems(name, stem):
    assert safe_stem(name) == stem


def test_nothing_is_overwritten(tmp_path):
    first = write_bytes(free_path(tmp_path, "a", ".png"), b"1")
    second = write_bytes(free_path(tmp_path, "a", ".png"), b"2")
    assert (first.name, second.name) == ("a.png", "a-2.png")
    assert first.read_bytes() == b"1"


def test_a_full_disk_leaves_nothing_and_says_so(tmp_path, monkeypatch):
    import errno
    import os

    class Full(io.RawIOBase):
        def __init__(self, handle):
            self.handle = handle

        def write(self, data):
            raise OSError(errno.ENOSPC, "No space left on device")

        def close(self):
            os.close(self.handle)

    monkeypatch.setattr("kit.exports.os.fdopen", lambda handle, mode: Full(handle))
    with pytest.raises(OutputError, match="disk is full"):
        write_bytes(tmp_path / "out.bin", b"data")
    monkeypatch.undo()
    assert list(tmp_path.iterdir()) == []


def test_settings_travel_inside_the_picture(tmp_path):
    path = write_png(tmp_path / "a.png", GRADIENT, {"adapter": "damo_yolo", "threshold": 0.5})
    with Image.open(path) as image:
        assert '"threshold": 0.5' in image.text["anyhost"]

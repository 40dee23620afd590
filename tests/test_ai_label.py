"""What was generated says so: on the picture, and in the file."""

import json
import struct

import av
import numpy as np
import pytest
from PIL import Image

from kit.ai_label import (
    DECLARED,
    SOURCE_TYPE,
    declared,
    enabled,
    encode_picture,
    label_clip,
    label_glb,
    mark,
    mark_for,
    read_settings,
)
from kit.consent import read_consent, require_consent
from kit.exports import OutputError
from kit.video import ClipWriter
from loader.errors import InputError

SETTINGS = {"prompt": 'a <b> & "ü" 生成 \ud800', "seed": 7}
GREY = np.full((256, 192, 3), 128, np.uint8)


@pytest.mark.parametrize(
    ("value", "expected"), [(None, True), ("", True), ("on", True), ("0", True), ("off", False), (" OFF ", False)]
)
def test_only_the_host_s_environment_switches_it_off(value, expected):
    assert enabled({} if value is None else {"ANYHOST_AI_LABEL": value}) is expected


# --- on it ---


@pytest.mark.parametrize("language", ["en", "zh"])
@pytest.mark.parametrize("side", [160, 256, 1024, 3000])
def test_the_words_are_in_the_corner_readable_and_small(language, side):
    picture = np.full((side, side, 3), 128, np.uint8)
    marked = mark(picture, language)
    changed = (marked != picture).any(-1)
    rows, columns = np.flatnonzero(changed.any(1)), np.flatnonzero(changed.any(0))
    assert rows[0] > side * 0.75
    assert columns[0] > side * 0.3
    assert columns[-1] < side
    assert changed.mean() < 0.07
    box = marked[rows[0] : rows[-1], columns[0] : columns[-1]]
    assert int(box.max()) - int(np.median(box)) > 100, "light words on dark ground"
    assert (picture == 128).all(), "the picture given is not touched"


def test_light_and_dark_pictures_keep_the_contrast():
    for shade in (0, 255):
        box = mark(np.full((512, 512, 3), shade, np.uint8))[480:512, 400:512].astype(int)
        assert np.percentile(box, 99) - np.percentile(box, 10) > 100


def test_languages_differ_and_unknown_ones_are_english():
    english, chinese = mark(GREY, "en"), mark(GREY, "zh")
    assert (english != chinese).any()
    assert (mark(GREY, "fr") == english).all()


@pytest.mark.parametrize("size", [(2, 2), (5, 300), (300, 5)])
def test_the_smallest_pictures_survive(size):
    assert mark(np.zeros((*size, 3), np.uint8)).shape == (*size, 3)


def test_a_mark_serves_frames_of_its_own_size_only():
    made = mark_for((256, 192))
    assert (made.on(GREY) == mark(GREY)).all()
    with pytest.raises(InputError, match="192×256"):
        made.on(GREY[:100])


# --- in it ---


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".webp"])
def test_a_picture_file_declares_itself_and_gives_its_settings_back(tmp_path, suffix):
    path = tmp_path / f"a{suffix}"
    path.write_bytes(encode_picture(GREY, suffix, SETTINGS))
    assert read_settings(path) == {**SETTINGS, **DECLARED}
    with Image.open(path) as image:
        image.load()
        packet = image.info["xmp"]
        packet = packet.encode() if isinstance(packet, str) else packet
    assert f"<Iptc4xmpExt:DigitalSourceType>{SOURCE_TYPE}<".encode() in packet


def test_a_png_says_it_in_plain_text_too(tmp_path):
    path = tmp_path / "a.png"
    path.write_bytes(encode_picture(GREY, ".png", SETTINGS))
    with Image.open(path) as image:
        assert image.info["AI-generated"] == SOURCE_TYPE
        assert (np.asarray(image) == GREY).all()


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".webp"])
def test_a_host_that_switched_it_off_writes_settings_alone(tmp_path, suffix):
    path = tmp_path / f"a{suffix}"
    path.write_bytes(encode_picture(GREY, suffix, {"seed": 1}, labelled=False))
    assert read_settings(path) == {"seed": 1}
    assert b"trainedAlgorithmicMedia" not in path.read_bytes()


def test_other_kinds_of_picture_are_refused():
    with pytest.raises(InputError, match=r"\.gif"):
        encode_picture(GREY, ".gif", {})


def test_settings_of_a_foreign_or_damaged_picture(tmp_path):
    plain, cut = tmp_path / "plain.png", tmp_path / "cut.png"
    Image.fromarray(GREY).save(plain)
    assert read_settings(plain) == {}
    cut.write_bytes(plain.read_bytes()[:100])
    with pytest.raises(InputError, match=r"cut\.png"):
        read_settings(cut)


def test_a_clip_declares_itself_and_still_plays(tmp_path):
    path = tmp_path / "a.mp4"
    with ClipWriter(path, fps=10, settings=declared({"seed": 7})) as writer:
        for index in range(3):
            writer.write(mark(GREY), index / 10)
    label_clip(path, {"seed": 7})
    data = path.read_bytes()
    start = data.rindex(b"uuid") - 4
    assert start + struct.unpack(">I", data[start : start + 4])[0] == len(data), "a whole box at the end"
    assert SOURCE_TYPE.encode() in data[start:]
    with av.open(str(path)) as container:
        assert json.loads(container.metadata["comment"]) == {"seed": 7, **DECLARED}
        assert sum(1 for _ in container.decode(video=0)) == 3


def test_a_clip_that_cannot_be_written_is_told(tmp_path):
    with pytest.raises(OutputError, match="could not be labelled"):
        label_clip(tmp_path / "none" / "a.mp4", {})


def glb(document: dict, binary: bytes) -> bytes:
    written = json.dumps(document).encode()
    written += b" " * (-len(written) % 4)
    chunks = struct.pack("<I", len(written)) + b"JSON" + written + struct.pack("<I", len(binary)) + b"BIN\0" + binary
    return b"glTF" + struct.pack("<II", 2, 12 + len(chunks)) + chunks


def test_a_model_declares_itself_and_keeps_its_shape():
    before = glb({"asset": {"version": "2.0", "extras": {"own": 1}}, "meshes": [{"name": "a"}]}, b"\1\2\3\4")
    after = label_glb(before, {"seed": 7})
    assert struct.unpack("<I", after[8:12])[0] == len(after)
    length = struct.unpack("<I", after[12:16])[0]
    assert length % 4 == 0
    document = json.loads(after[20 : 20 + length])
    assert document["asset"] == {"version": "2.0", "extras": {"own": 1, "seed": 7, **DECLARED}}
    assert document["meshes"] == [{"name": "a"}]
    assert after[20 + length :] == before[-12:]


def test_what_is_no_model_is_refused():
    with pytest.raises(InputError, match="glTF"):
        label_glb(b"ply\n" * 9, {})


# --- consent ---


@pytest.mark.parametrize("given", [False, None, "yes"])
def test_without_consent_nothing_runs(given):
    with pytest.raises(InputError, match=r"consent=true.*--set consent=yes"):
        require_consent(given)


def test_consent_is_read_from_words():
    assert [read_consent(word) for word in ("yes", " TRUE ", "1", True)] == [True] * 4
    assert [read_consent(word) for word in ("no", "", None, False)] == [False] * 4
    with pytest.raises(InputError, match="consent=maybe: answer yes or no"):
        read_consent("maybe")
    require_consent(given=True)

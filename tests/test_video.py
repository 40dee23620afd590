"""Reading and writing video: colours, turns, times, and files that are not what they announce."""

import json
import struct
import wave
from pathlib import Path

import av
import numpy as np
import pytest

from kit.exports import OutputError
from kit.video import ClipWriter, probe_clip, read_frames
from loader.errors import InputError

RED, GREEN, BLUE = (220, 30, 30), (30, 200, 30), (30, 30, 220)


def plain(colour: tuple[int, int, int], height: int = 48, width: int = 64) -> np.ndarray:
    return np.full((height, width, 3), colour, np.uint8)


def corner(height: int = 48, width: int = 64) -> np.ndarray:
    """Blue with a red top left quarter, so that turns show."""
    rgb = plain(BLUE, height, width)
    rgb[: height // 2, : width // 2] = RED
    return rgb


def write(path: Path, frames: list[np.ndarray], times: list[float] | None = None, **kwargs) -> Path:
    with ClipWriter(path, **kwargs) as writer:
        for index, rgb in enumerate(frames):
            writer.write(rgb, times[index] if times else index / 10)
    return path


def near(rgb: np.ndarray, colour: tuple[int, int, int], tolerance: int = 14) -> bool:
    return bool((np.abs(rgb.astype(int) - colour) <= tolerance).all())


def test_colours_come_back_in_the_order_red_green_blue(tmp_path):
    path = write(tmp_path / "a.mp4", [plain(RED), plain(GREEN), plain(BLUE)], quality=4)
    frames = list(read_frames(path))
    assert [f.index for f in frames] == [0, 1, 2]
    for frame, colour in zip(frames, (RED, GREEN, BLUE), strict=True):
        assert frame.rgb.shape == (48, 64, 3)
        assert frame.rgb.dtype == np.uint8
        assert near(frame.rgb[24, 32], colour)


def test_settings_are_in_the_file_and_nothing_is_left_beside_it(tmp_path):
    path = write(tmp_path / "a.mp4", [plain(RED)], settings={"weights": "preview"})
    with av.open(str(path)) as container:
        assert json.loads(container.metadata["comment"]) == {"weights": "preview"}
        assert container.streams.video[0].codec_context.name == "h264"
        assert container.streams.video[0].codec_context.pix_fmt == "yuv420p"
    assert [file.name for file in tmp_path.iterdir()] == ["a.mp4"]


def test_a_varying_rate_keeps_its_times(tmp_path):
    times = [0.0, 0.04, 0.3, 0.31, 1.2]
    path = write(tmp_path / "a.mp4", [plain(RED)] * 5, times)
    assert [f.seconds for f in read_frames(path)] == pytest.approx(times, abs=1e-3)


def test_frames_are_taken_at_even_distances_and_no_more_than_wanted(tmp_path):
    path = write(tmp_path / "a.mp4", [plain(RED)] * 30, [i / 30 for i in range(30)], fps=30)
    taken = [f.index for f in read_frames(path, fps=10)]
    assert taken == [0, 3, 6, 9, 12, 15, 18, 21, 24, 27]
    assert [f.index for f in read_frames(path, fps=10, max_frames=4)] == [0, 3, 6, 9]
    assert len(list(read_frames(path, fps=1000))) == 30


def turned_file(path: Path, matrix: tuple[int, ...]) -> Path:
    """``path`` with another display matrix in its track header, as phones write it."""
    data = bytearray(path.read_bytes())
    start = data.index(b"tkhd") + 4 + 4 + 20 + 8 + 8
    data[start : start + 36] = struct.pack(">9i", *(n << 16 if i % 3 < 2 else n << 30 for i, n in enumerate(matrix)))
    path.write_bytes(data)
    return path


@pytest.mark.parametrize(
    ("matrix", "turned", "size", "red"),
    [
        ((1, 0, 0, 0, 1, 0, 0, 0, 1), 0, (48, 64), (0, 0)),
        ((0, 1, 0, -1, 0, 0, 0, 0, 1), 90, (64, 48), (0, 1)),
        ((-1, 0, 0, 0, -1, 0, 0, 0, 1), 180, (48, 64), (1, 1)),
        ((0, -1, 0, 1, 0, 0, 0, 0, 1), 270, (64, 48), (1, 0)),
    ],
)
def test_what_a_phone_held_upright_records_is_upright(tmp_path, matrix, turned, size, red):
    path = turned_file(write(tmp_path / "a.mp4", [corner()], quality=4), matrix)
    clip = probe_clip(path)
    assert (clip.turned, clip.size) == (turned, size)
    (frame,) = read_frames(path)
    height, width = size
    assert frame.rgb.shape == (height, width, 3)
    for row in (0, 1):
        for column in (0, 1):
            pixel = frame.rgb[height // 4 + row * height // 2, width // 4 + column * width // 2]
            assert near(pixel, RED if (row, column) == red else BLUE)


def test_what_a_file_announces(tmp_path):
    path = write(tmp_path / "a.mp4", [plain(RED)] * 20, [i / 10 for i in range(20)], fps=10)
    clip = probe_clip(path)
    assert clip.frames == 20
    assert clip.seconds == pytest.approx(2.0, abs=0.15)
    assert clip.fps == pytest.approx(10, rel=0.1)
    assert clip.name == "a.mp4"


# --- files that cannot be used ------------------------------------------------------------------------------------


def test_a_change_of_size_names_the_frame_and_both_sizes(tmp_path):
    path = tmp_path / "a.ts"
    parts = []
    for number, (height, width) in enumerate(((48, 64), (64, 96))):
        part = tmp_path / f"{number}.h264"
        with av.open(str(part), "w", format="h264") as container:
            stream = container.add_stream("libx264", rate=10)
            stream.height, stream.width, stream.pix_fmt = height, width, "yuv420p"
            for _ in range(5):
                for packet in stream.encode(av.VideoFrame.from_ndarray(plain(RED, height, width), format="rgb24")):
                    container.mux(packet)
            for packet in stream.encode(None):
                container.mux(packet)
        parts.append(part.read_bytes())
    path.write_bytes(b"".join(parts))
    given = []
    with pytest.raises(InputError, match=r"changes its size at frame 6, from 64×48 to 96×64"):
        given.extend(read_frames(path))
    assert len(given) == 5


def test_a_file_cut_short_says_after_how_many_frames_and_what_to_do(tmp_path):
    rng = np.random.default_rng(0)
    frames = [rng.integers(0, 255, (96, 128, 3), np.uint8) for _ in range(40)]
    path = write(tmp_path / "a.mp4", frames)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) * 6 // 10])
    given = []
    with pytest.raises(InputError, match=r"(ends|damaged) after (frame )?\d+ .*cut it before \d+\.\d s"):
        given.extend(read_frames(path))
    assert 5 < len(given) < 36


def test_sound_alone(tmp_path):
    path = tmp_path / "a.mp4"
    with wave.open(str(path), "wb") as sound:
        sound.setparams((1, 2, 16000, 0, "NONE", ""))
        sound.writeframes(bytes(3200))
    for function in (probe_clip, lambda p: list(read_frames(p))):
        with pytest.raises(InputError, match=r"a\.mp4 has no picture track"):
            function(path)


@pytest.mark.parametrize("content", [b"", b"not a video at all, only words", b"\x00" * 4096])
def test_a_file_that_is_no_video(tmp_path, content):
    path = tmp_path / "a.mp4"
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"a\.mp4 is not a video"):
        probe_clip(path)
    with pytest.raises(InputError, match=r"missing\.mp4 is not there"):
        probe_clip(tmp_path / "missing.mp4")


def test_frames_too_small_to_show_anything(tmp_path):
    path = write(tmp_path / "a.mp4", [plain(RED, 8, 8)])
    with pytest.raises(InputError, match=r"8×8 pixels; the limits are 16"):
        probe_clip(path)


# --- writing ------------------------------------------------------------------------------------------------------


def test_an_odd_row_and_column_are_left_out(tmp_path):
    path = write(tmp_path / "a.mp4", [plain(RED, 49, 65)])
    assert probe_clip(path).size == (48, 64)


def test_wrong_frames_are_refused_and_leave_no_file(tmp_path):
    path = tmp_path / "a.mp4"
    for frames, times, words in (
        ([plain(RED), plain(RED, 64, 64)], None, "one size"),
        ([plain(RED), plain(RED)], [0.1, 0.1], "in order"),
        ([plain(RED).astype(np.float32)], None, "uint8"),
    ):
        with pytest.raises(InputError, match=words):
            write(path, frames, times)
        assert list(tmp_path.iterdir()) == []
    with pytest.raises(InputError, match="0 to 51"):
        ClipWriter(path, quality=60)


def test_a_folder_that_cannot_be_written(tmp_path):
    blocker = tmp_path / "file"
    blocker.write_text("")
    with pytest.raises(OutputError, match=r"a\.mp4 could not be written"):
        write(blocker / "a.mp4", [plain(RED)])

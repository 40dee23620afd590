"""Sound in and out: formats, channels, rates, faults, and the track of a clip."""

from pathlib import Path

import av
import numpy as np
import pytest
import soundfile

from kit.audio import Sound, add_sound, has_sound, read_sound, write_wav
from kit.exports import OutputError
from kit.video import ClipWriter, probe_clip
from loader.errors import InputError


def tone(rate: int, seconds: float, hertz: float = 440.0) -> np.ndarray:
    t = np.arange(round(rate * seconds)) / rate
    return (0.5 * np.sin(2 * np.pi * hertz * t)).astype(np.float32)


def strongest(sound: Sound) -> float:
    spectrum = np.abs(np.fft.rfft(sound.samples * np.hanning(len(sound.samples))))
    return float(np.fft.rfftfreq(len(sound.samples), 1 / sound.rate)[spectrum.argmax()])


def encoded(path: Path, codec: str, samples: np.ndarray, rate: int) -> Path:
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=rate, layout="mono")
        frame = av.AudioFrame.from_ndarray(samples[None], format="fltp", layout="mono")
        frame.sample_rate = rate
        resampler = av.AudioResampler(
            format=stream.codec_context.format, layout="mono", rate=rate, frame_size=stream.codec_context.frame_size
        )
        for part in [*resampler.resample(frame), *resampler.resample(None)]:
            container.mux(stream.encode(part))
        container.mux(stream.encode(None))
    return path


def test_stereo_is_averaged_and_rates_are_changed_without_folding(tmp_path):
    left, right = tone(44_100, 1.0), tone(44_100, 1.0, 880)
    soundfile.write(tmp_path / "stereo.wav", np.stack((left, right), axis=1), 44_100, subtype="FLOAT")
    sound = read_sound(tmp_path / "stereo.wav")
    assert (sound.rate, sound.channels, sound.name) == (44_100, 2, "stereo.wav")
    np.testing.assert_allclose(sound.samples, (left + right) / 2, atol=1e-6)
    speech = sound.at(16_000)
    assert len(speech.samples) == 16_000
    assert speech.samples.dtype == np.float32
    # A tone above the new limit vanishes instead of coming back as a lower one.
    assert np.abs(Sound(tone(44_100, 1.0, 15_000), 44_100).at(16_000).samples[500:-500]).max() < 0.01
    assert strongest(Sound(tone(44_100, 1.0), 44_100).at(16_000)) == pytest.approx(440, abs=2)


@pytest.mark.parametrize(
    ("name", "codec"), [("a.mp3", "mp3"), ("a.m4a", "aac"), ("a.webm", "libopus"), ("a.flac", "flac")]
)
def test_formats_people_have(tmp_path, name, codec):
    rate = 48_000 if codec == "libopus" else 44_100
    sound = read_sound(encoded(tmp_path / name, codec, tone(rate, 2.0), rate))
    assert sound.seconds == pytest.approx(2.0, abs=0.1)
    assert strongest(sound) == pytest.approx(440, abs=3)
    assert np.sqrt((sound.samples**2).mean()) == pytest.approx(0.5 / np.sqrt(2), rel=0.1)


def test_length_is_bounded_and_short_silent_and_broken_sounds_are_said(tmp_path):
    soundfile.write(tmp_path / "long.wav", np.zeros(16_000 * 20, np.float32), 16_000)
    sound = read_sound(tmp_path / "long.wav", max_seconds=3)
    assert sound.seconds == 3
    assert sound.silent
    assert not Sound(tone(8000, 0.2), 8000).silent
    soundfile.write(tmp_path / "short.wav", tone(16_000, 0.05), 16_000)
    with pytest.raises(InputError, match=r"short\.wav holds 0\.05 s of sound; at least 0\.1 s"):
        read_sound(tmp_path / "short.wav")
    (tmp_path / "text.mp3").write_text("this is no sound")
    with pytest.raises(InputError, match=r"text\.mp3 is not a sound this program reads"):
        read_sound(tmp_path / "text.mp3")
    with pytest.raises(InputError, match="is not there"):
        read_sound(tmp_path / "nothing.wav")
    samples = tone(16_000, 0.5)
    samples[100] = np.nan
    soundfile.write(tmp_path / "nan.wav", samples, 16_000, subtype="FLOAT")
    with pytest.raises(InputError, match="no numbers"):
        read_sound(tmp_path / "nan.wav")


def clip(path: Path, frames: int = 30) -> Path:
    with ClipWriter(path, fps=30, settings={"seed": 1}) as writer:
        for index in range(frames):
            writer.write(np.full((64, 48, 3), 5 * index, np.uint8), index / 30)
    return path


def test_a_clip_gets_its_sound_cut_to_its_length(tmp_path):
    path = clip(tmp_path / "clip.mp4")
    assert not has_sound(path)
    with pytest.raises(InputError, match="no sound track"):
        read_sound(path)
    before = probe_clip(path)
    assert add_sound(path, Sound(tone(16_000, 5.0), 16_000)) == path
    assert has_sound(path)
    after = probe_clip(path)
    assert (after.size, after.frames) == (before.size, before.frames)
    heard = read_sound(path)
    assert heard.seconds == pytest.approx(1.0, abs=0.1)
    assert strongest(heard) == pytest.approx(440, abs=3)
    with av.open(str(path)) as container:
        assert '"seed": 1' in container.metadata["comment"]
    assert [entry.name for entry in tmp_path.iterdir()] == ["clip.mp4"]


def test_a_disk_that_fills_up_leaves_the_clip_without_sound(tmp_path, monkeypatch):
    path = clip(tmp_path / "clip.mp4")
    whole = path.read_bytes()

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("av.container.output.OutputContainer.mux", full, raising=False)
    monkeypatch.setattr("kit.audio._frames", full)
    with pytest.raises(OutputError, match="could not be given its sound"):
        add_sound(path, Sound(tone(16_000, 1.0), 16_000))
    assert path.read_bytes() == whole
    assert [entry.name for entry in tmp_path.iterdir()] == ["clip.mp4"]


def test_wav_files_come_back(tmp_path):
    sound = Sound(tone(16_000, 0.3), 16_000)
    back = read_sound(write_wav(tmp_path / "new" / "a.wav", sound))
    np.testing.assert_allclose(back.samples, sound.samples, atol=1e-4)
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError):
        write_wav(tmp_path / "file" / "a.wav", sound)

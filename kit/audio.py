"""Sound as people really have it, as one channel of floats, and back into a clip.

libsndfile reads WAV, FLAC, OGG and MP3; what it does not know (a phone's M4A, a browser's WebM, the sound track of a
video) goes through PyAV. Nothing needs an ``ffmpeg`` program.
"""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from math import gcd
from pathlib import Path

import av
import numpy as np
from numpy.typing import NDArray

from kit.exports import OutputError
from loader.errors import InputError

Samples = NDArray[np.float32]
MIN_SECONDS, MAX_SECONDS = 0.1, 1800.0
SILENT = 1e-4  # largest amplitude of what counts as silence: -80 dB
WIDEST_BLOCK = 1 << 16
CLIP_RATE = 48_000


@dataclass(frozen=True, eq=False)
class Sound:
    """One channel of sound.

    Attributes:
        samples: ``[N]``, mostly -1..1.
        rate: samples a second.
        name: file name.
        channels: how many the file had; they were averaged.
    """

    samples: Samples
    rate: int
    name: str = "sound"
    channels: int = 1

    @property
    def seconds(self) -> float:
        return len(self.samples) / self.rate

    @property
    def silent(self) -> bool:
        """Nothing in it is louder than -80 dB."""
        return bool(np.abs(self.samples).max(initial=0.0) < SILENT)

    def first(self, seconds: float) -> "Sound":
        """Its beginning; all of it if it is no longer."""
        return Sound(self.samples[: max(1, round(seconds * self.rate))], self.rate, self.name, self.channels)

    def at(self, rate: int) -> "Sound":
        """The same at another rate, by a polyphase filter that lets no higher tones fold back."""
        if rate == self.rate:
            return self
        # Imported at use: it costs a third of a second.
        from scipy.signal import resample_poly

        common = gcd(rate, self.rate)
        samples = resample_poly(self.samples.astype(np.float64), rate // common, self.rate // common)
        return Sound(samples.astype(np.float32), rate, self.name, self.channels)


def read_sound(path: str | Path, *, max_seconds: float = MAX_SECONDS) -> Sound:
    """The sound of a file, its channels averaged, no further than ``max_seconds``.

    Raises:
        InputError: no sound in it, shorter than 0.1 s, or damaged from its first sample on.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"{path.name} is not there")
    sound = _by_libsndfile(path, max_seconds) or _by_ffmpeg(path, max_seconds)
    if sound.seconds < MIN_SECONDS:
        raise InputError(
            f"{path.name} holds {sound.seconds:.2f} s of sound; at least {MIN_SECONDS} s are needed: send a longer one"
        )
    if not np.isfinite(sound.samples).all():
        raise InputError(f"{path.name} holds samples that are no numbers: export it again")
    return sound


def has_sound(path: str | Path) -> bool:
    """Whether a media file has a sound track."""
    try:
        with av.open(str(path)) as container:
            return bool(container.streams.audio)
    except (OSError, ValueError):
        return False


def _by_libsndfile(path: Path, max_seconds: float) -> Sound | None:
    import soundfile

    try:
        with soundfile.SoundFile(path) as file:
            frames = int(min(file.frames, max_seconds * file.samplerate))
            blocks = [
                block.mean(axis=1)
                for block in file.blocks(WIDEST_BLOCK, frames=frames, dtype="float32", always_2d=True)
            ]
            samples = np.concatenate(blocks) if blocks else np.zeros(0, np.float32)
            return Sound(samples, file.samplerate, path.name, file.channels)
    except (soundfile.LibsndfileError, RuntimeError):
        return None  # not one of its formats


def _by_ffmpeg(path: Path, max_seconds: float) -> Sound:
    blocks: list[Samples] = []
    rate, channels, count = 0, 1, 0
    try:
        with av.open(str(path)) as container:
            if not container.streams.audio:
                raise InputError(
                    f"{path.name} has no sound track: send WAV, MP3, FLAC, OGG, M4A, or a video with sound"
                )
            stream = container.streams.audio[0]
            rate, channels = stream.codec_context.sample_rate, stream.codec_context.channels
            for block in _decoded(container, stream, rate):
                blocks.append(block)
                count += len(block)
                if count >= max_seconds * rate:
                    break
    except (OSError, ValueError) as error:
        # What was decoded up to the damage is used, as players do.
        if not blocks:
            raise InputError(
                f"{path.name} is not a sound this program reads (WAV, MP3, FLAC, OGG, M4A, or a video): {error}"
            ) from error
    samples = np.concatenate(blocks) if blocks else np.zeros(0, np.float32)
    return Sound(samples[: int(max_seconds * rate)], max(1, rate), path.name, channels)


def _decoded(container: "av.container.InputContainer", stream: "av.AudioStream", rate: int) -> Iterator[Samples]:
    resampler = av.AudioResampler(format="fltp", rate=rate)
    for frame in container.decode(stream):
        for same in resampler.resample(frame):
            yield same.to_ndarray().mean(axis=0).astype(np.float32)


def write_wav(path: Path, sound: Sound) -> Path:
    """A 16-bit WAV file.

    Raises:
        OutputError: the folder cannot be written, or the disk is full.
    """
    import soundfile

    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(path, sound.samples, sound.rate, subtype="PCM_16", format="WAV")
    except (OSError, RuntimeError) as error:
        with contextlib.suppress(OSError):
            path.unlink(missing_ok=True)
        raise OutputError(f"{path} could not be written: {error}") from error
    return path


def add_sound(clip: Path, sound: Sound) -> Path:
    """Put a sound track (AAC) into a finished MP4, cut to the clip's length; its pictures are copied as they are.

    Raises:
        InputError: the file is no video.
        OutputError: the disk is full; the clip stays as it was, without sound.
    """
    part = clip.with_name(f".sounding-{clip.name}")
    try:
        with av.open(str(clip)) as source, av.open(str(part), "w", format="mp4", options=_FAST) as target:
            if not source.streams.video:
                raise InputError(f"{clip.name} has no pictures to put a sound to")
            pictures = source.streams.video[0]
            length = float(source.duration or 0) / av.time_base or sound.seconds
            target.metadata.update(source.metadata)
            copied = target.add_stream_from_template(pictures)
            track = target.add_stream("aac", rate=CLIP_RATE, layout="mono")
            for frame in _frames(sound.first(length).at(CLIP_RATE)):
                target.mux(track.encode(frame))
            target.mux(track.encode(None))
            for packet in source.demux(pictures):
                if packet.dts is not None:  # the last, empty one
                    packet.stream = copied
                    target.mux(packet)
        part.replace(clip)
    except OSError as error:
        raise OutputError(f"{clip} could not be given its sound: {error}") from error
    finally:
        with contextlib.suppress(OSError):
            part.unlink(missing_ok=True)
    return clip


_FAST = {"movflags": "+faststart"}


def _frames(sound: Sound) -> Iterator["av.AudioFrame"]:
    for start in range(0, len(sound.samples), WIDEST_BLOCK):
        block = np.clip(sound.samples[start : start + WIDEST_BLOCK], -1, 1)
        frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(block[None]), format="fltp", layout="mono")
        frame.sample_rate, frame.time_base, frame.pts = sound.rate, Fraction(1, sound.rate), start
        yield frame

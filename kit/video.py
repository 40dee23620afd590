"""Reading and writing video as people really have it: turned, of varying frame rate, cut short or broken.

Frames are upright RGB with the second they belong to, so that nothing downstream needs a frame rate. PyAV (FFmpeg)
gives frames as stored; the rotation a phone writes into the file is applied here.
"""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import av
import numpy as np
from av.container import InputContainer
from av.video.frame import VideoFrame
from av.video.stream import VideoStream
from numpy.typing import NDArray

from kit.exports import OutputError
from loader.errors import InputError

Rgb = NDArray[np.uint8]
MAX_FRAME_PIXELS = 3840 * 2160  # a frame of 4K: 25 MB as RGB
MIN_FRAME_SIDE = 16
TICKS = 90_000  # of a second: the clock MPEG uses, exact for all common frame rates
MISSING_SHARE = 0.1  # of the announced frames that may be missing before a file counts as cut short
MOST_QUALITY, LEAST_QUALITY = 0, 51


@dataclass(frozen=True)
class Clip:
    """What a video file announces of itself.

    Attributes:
        name: file name.
        size: height and width in pixels, upright.
        frames: number of frames as announced or estimated from duration and rate, 0 if neither is known.
        fps: mean frames in a second.
        seconds: duration, 0 if unknown.
        turned: degrees it has to be turned by to be upright, clockwise: 0, 90, 180 or 270.
    """

    name: str
    size: tuple[int, int]
    frames: int
    fps: float
    seconds: float
    turned: int


@dataclass(frozen=True)
class Frame:
    """One frame.

    Attributes:
        rgb: ``[H, W, 3]`` uint8, upright.
        seconds: when it is shown, from the first frame on.
        index: its number in the file, from 0.
    """

    rgb: Rgb
    seconds: float
    index: int


def probe_clip(path: str | Path) -> Clip:
    """What ``path`` announces; the first frame is decoded, since some facts stand only there.

    Raises:
        InputError: no video, no frame in it, or frames larger than 3840×2160 or smaller than 16 pixels.
    """
    with _opened(path) as (container, stream, name):
        first = next(_decoded(container, stream, name), None)
        if first is None:
            raise InputError(f"{name} holds no frame that can be decoded: record or export it again")
        _check_size(name, first)
        turned = _turned(first)
        rate = float(stream.average_rate or stream.guessed_rate or 0)
        seconds = _duration(container, stream)
        size = (first.width, first.height) if turned in (90, 270) else (first.height, first.width)
        return Clip(name, size, stream.frames or round(seconds * rate), rate, seconds, turned)


def read_frames(path: str | Path, *, fps: float | None = None, max_frames: int = 0) -> Iterator[Frame]:
    """Frames of a video in the order they are shown.

    Args:
        path: the file.
        fps: at most so many in a second, taken at even distances; None takes all.
        max_frames: stop after so many, 0 for none.

    Raises:
        InputError: as ``probe_clip``; a frame of another size than the first; or the file ends, or breaks off, before
            the frames it announces. Frames up to there were given.
    """
    with _opened(path) as (container, stream, name):
        given, seen, start, last = 0, 0, 0.0, -1.0
        size: tuple[int, int] | None = None
        step = 1 / fps if fps else 0.0
        for index, raw in enumerate(_decoded(container, stream, name)):
            if size is None:
                _check_size(name, raw)
                size, start = (raw.height, raw.width), raw.time or 0.0
            elif (raw.height, raw.width) != size:
                raise InputError(
                    f"{name} changes its size at frame {index + 1}, from {size[1]}×{size[0]} to "
                    f"{raw.width}×{raw.height} pixels; one size a clip is read: cut it there, or export it at one size"
                )
            seen = index + 1
            seconds = (raw.time - start) if raw.time is not None else index / float(stream.average_rate or 25)
            # Half a tick of tolerance: times are rounded to the file's clock.
            if seconds + 0.5 / TICKS < given * step:
                continue
            # Times that stand still or go back are in files too; a writer takes none of them.
            last = max(seconds, last + 1 / TICKS) if given else seconds
            yield Frame(_upright(raw), last, index)
            given += 1
            if max_frames and given >= max_frames:
                return
        _check_complete(name, container, stream, seen)


class ClipWriter:
    """Writes frames as an H.264 MP4 that browsers play; a ``with`` block finishes the file.

    Frames keep their own times, so a varying rate stays varying. Nothing is left under the final name if it fails.

    ```python
    with ClipWriter(Path("depth.mp4"), settings={"weights": "published"}) as writer:
        writer.write(rgb, seconds=0.0)
    ```
    """

    def __init__(
        self, path: Path, *, fps: float = 30.0, quality: int = 18, settings: Mapping[str, Any] | None = None
    ) -> None:
        """Begin a file.

        Args:
            path: where to; an existing file is replaced when this one is complete.
            fps: rate the encoder plans for; times decide when frames are shown.
            quality: H.264's constant rate factor, 0 (lossless) to 51.
            settings: written into the file's "comment".

        Raises:
            InputError: a rate or quality out of range.
            OutputError: the folder cannot be written.
        """
        if not (0 < fps <= 1000 and MOST_QUALITY <= quality <= LEAST_QUALITY):
            raise InputError(f"a clip takes 0 to 1000 frames a second and quality 0 to 51, got {fps:g} and {quality}")
        self.path, self._fps, self._quality = path, fps, quality
        self._part = path.with_name(f".writing-{path.name}")
        self._stream: VideoStream | None = None
        self._last = -1
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._container = av.open(str(self._part), "w", format="mp4", options={"movflags": "+faststart"})
        except OSError as error:
            raise OutputError(f"{path} could not be written: {error}") from error
        self._container.metadata["comment"] = json.dumps(dict(settings or {}), ensure_ascii=False)

    def write(self, rgb: Rgb, seconds: float) -> None:
        """Add a frame ``[H, W, 3]`` uint8 RGB; an odd last row or column is left out, which H.264 cannot hold.

        Raises:
            InputError: no such frame, of another size than the first, or not later than the one before.
            OutputError: the disk is full.
        """
        if rgb.dtype != np.uint8 or rgb.ndim != 3 or rgb.shape[2] != 3 or min(rgb.shape[:2]) < 2:
            raise InputError(f"a frame must be [height, width, 3] of uint8, got {list(rgb.shape)} of {rgb.dtype}")
        height, width = rgb.shape[0] // 2 * 2, rgb.shape[1] // 2 * 2
        stream = self._stream = self._stream or self._begin(height, width)
        if (stream.height, stream.width) != (height, width):
            raise InputError(f"frames of one clip have one size: {stream.width}×{stream.height}, not {width}×{height}")
        ticks = round(seconds * TICKS)
        if ticks <= self._last:
            raise InputError(f"frames come in order: {seconds:.3f} s is not after {self._last / TICKS:.3f} s")
        self._last = ticks
        frame = VideoFrame.from_ndarray(np.ascontiguousarray(rgb[:height, :width]), format="rgb24")
        frame.pts, frame.time_base = ticks, Fraction(1, TICKS)
        self._mux(frame)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if kind is None and self._stream is not None:
                self._mux(None)
            self._container.close()
            if kind is None and self._stream is not None:
                self._part.replace(self.path)
        except OSError as problem:
            raise OutputError(f"{self.path} could not be written: {problem}") from problem
        finally:
            self._part.unlink(missing_ok=True)

    def _begin(self, height: int, width: int) -> VideoStream:
        rate = Fraction(self._fps).limit_denominator(1001)
        stream = self._container.add_stream("libx264", rate=rate, options={"crf": str(self._quality)})
        stream.height, stream.width, stream.pix_fmt = height, width, "yuv420p"
        stream.codec_context.time_base = Fraction(1, TICKS)
        return stream

    def _mux(self, frame: VideoFrame | None) -> None:
        assert self._stream is not None, "a frame begins the stream"
        try:
            for packet in self._stream.encode(frame):
                self._container.mux(packet)
        except OSError as error:
            raise OutputError(f"{self.path} could not be written: {error}") from error


# --- reading ----------------------------------------------------------------------------------------------------


@contextmanager
def _opened(path: str | Path) -> Iterator[tuple[InputContainer, VideoStream, str]]:
    name = Path(path).name
    try:
        container = av.open(str(path))
    except FileNotFoundError as error:
        raise InputError(f"{name} is not there") from error
    except (OSError, ValueError) as error:
        raise InputError(
            f"{name} is not a video this program reads (MP4, MOV, WebM, MKV, AVI): {_reason(error)}"
        ) from error
    with container:
        if not container.streams.video:
            raise InputError(f"{name} has no picture track, {len(container.streams)} others only: send a video")
        stream = container.streams.video[0]
        stream.thread_type = "AUTO"
        yield container, stream, name


def _reason(error: Exception) -> str:
    """What FFmpeg says, without the path that it adds: whoever reads this sent the file and knows its name."""
    return getattr(error, "strerror", None) or type(error).__name__


def _decoded(container: InputContainer, stream: VideoStream, name: str) -> Iterator[VideoFrame]:
    count, last = 0, 0.0
    try:
        for frame in container.decode(stream):
            yield frame
            count, last = count + 1, frame.time or last
    except (OSError, ValueError) as error:
        what = f"after frame {count} ({last:.1f} s)" if count else "from its first frame on"
        remedy = f"cut it before {last:.1f} s" if count else "record or export it again"
        raise InputError(f"{name} is damaged {what}: {_reason(error)}; {remedy}") from error


def _check_size(name: str, frame: VideoFrame) -> None:
    if frame.width * frame.height > MAX_FRAME_PIXELS or min(frame.width, frame.height) < MIN_FRAME_SIDE:
        raise InputError(
            f"{name} has frames of {frame.width}×{frame.height} pixels; the limits are {MIN_FRAME_SIDE} a side and "
            "3840×2160 in all: scale it first"
        )


def _check_complete(name: str, container: InputContainer, stream: VideoStream, seen: int) -> None:
    if not seen:
        raise InputError(f"{name} holds no frame that can be decoded: record or export it again")
    announced = stream.frames
    if announced and seen < announced * (1 - MISSING_SHARE):
        length = _duration(container, stream) * seen / announced
        raise InputError(
            f"{name} announces {announced} frames and ends after {seen} (about {length:.1f} s): it was cut short; "
            f"copy it again, or cut it before {length:.1f} s"
        )


def _duration(container: InputContainer, stream: VideoStream) -> float:
    if stream.duration and stream.time_base:
        return float(stream.duration * stream.time_base)
    return float(container.duration or 0) / av.time_base


def _turned(frame: VideoFrame) -> int:
    # PyAV gives the counter-clockwise angle of the stored picture against the upright one.
    return round(-frame.rotation / 90) * 90 % 360


def _upright(frame: VideoFrame) -> Rgb:
    rgb = np.asarray(frame.to_ndarray(format="rgb24"), dtype=np.uint8)
    # rot90 turns counter-clockwise.
    return np.ascontiguousarray(np.rot90(rgb, -_turned(frame) // 90))

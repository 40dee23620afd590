"""Detection through a video: batch after batch, written frame by frame, so that memory does not grow with length."""

import csv
import json
import time
from collections import Counter
from collections.abc import Generator, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from math import ceil
from pathlib import Path
from typing import Any, TextIO

from adapters.damo_yolo.capacity import capacity, capacity_text
from adapters.damo_yolo.draw import annotate
from adapters.damo_yolo.exports import PREVIEW_NOTE, detections_record, harmless, settings_by
from adapters.damo_yolo.pipeline import Detecting, Seen
from adapters.damo_yolo.postprocess import Suppression
from kit.exports import OutputError, safe_stem
from kit.images import Picture
from kit.video import Clip, ClipWriter, Frame, probe_clip, read_frames
from loader.errors import InputError
from loader.outcome import Step, Unit
from loader.pipeline import Parts, Work

VIDEO_KINDS = (
    *(".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".mpg", ".mpeg", ".ts", ".m2ts", ".mts", ".wmv", ".flv"),
    *(".ogv", ".3gp", ".y4m"),
)
QUALITY = 21  # of H.264: boxes and names stay sharp at about half the bytes of the writer's own choice
FALLBACK_FPS = 25.0
VIDEO_COLUMNS = ("frame", "seconds", "label", "score", "left", "top", "right", "bottom", "weights")


@dataclass(frozen=True)
class VideoSeen:
    """A video that was worked through.

    Attributes:
        name: of the input.
        size: height and width of a frame, in pixels.
        clip: annotated MP4, with the frames looked at at their own times, without sound.
        data: JSON lines: a head, a line for each frame looked at, an end.
        frames: frames looked at.
        most: by label, how many were seen at most in one frame.
        seconds: what reading, detecting, drawing and writing took together, 0 for a run that was stopped.
        detect_seconds: what detecting alone took, 0 as well.
        problem: why the file could not be read to its end, "" if it could.
    """

    name: str
    size: tuple[int, int]
    clip: Path
    data: Path
    frames: int
    most: Mapping[str, int]
    seconds: float
    detect_seconds: float
    problem: str


@dataclass(frozen=True)
class VideoRequest:
    """A video and what to keep of what is seen in it. Make it with ``video_request``, which looks into the file.

    Attributes:
        clip: what the file announces.
        settings: thresholds and limits.
        every: look at each how-manieth frame.
        out: folder for the annotated clip and its data.
        classes: the only ones wanted, all if empty.
        names: what an own checkpoint's classes are called, in order; empty for what the file says.
    """

    path: Path
    clip: Clip
    settings: Suppression
    every: int = 1
    out: Path = Path("out")
    classes: tuple[str, ...] = ()
    names: tuple[str, ...] = ()
    teaches = False  # its seconds are those of reading, drawing and writing as well

    @property
    def items(self) -> int:
        """How many frames will be looked at as far as the file tells, for predictions."""
        return ceil(self.clip.frames / self.every)

    def work(self, parts: Parts) -> Work:
        """See ``loader.pipeline.Pipeline.run``; gives one ``VideoSeen``."""
        return _work(parts, self)


def is_video(path: Path) -> bool:
    """Whether a file's name is that of a video."""
    return path.suffix.lower() in VIDEO_KINDS


def video_request(
    path: Path,
    settings: Suppression,
    *,
    every: int = 1,
    out: Path = Path("out"),
    classes: tuple[str, ...] = (),
    names: tuple[str, ...] = (),
) -> VideoRequest:
    """A request for the video at ``path``.

    Raises:
        InputError: no video, one without frames, or ``every`` below 1.
    """
    if every < 1:
        raise InputError(f"every has to be at least 1 (all frames), not {every}")
    return VideoRequest(path, probe_clip(path), settings, every, out, classes, names)


class _Account:
    """What a run through a video amounts to so far."""

    def __init__(self) -> None:
        self.frames, self.detect_seconds, self.started = 0, 0.0, time.perf_counter()
        self.most: Counter[str] = Counter()

    def add(self, seen: Seen) -> None:
        self.frames += 1
        self.most |= Counter(found.label for found in seen.detections)

    @property
    def seconds(self) -> float:
        return time.perf_counter() - self.started

    def seconds_left(self, total: int) -> float | None:
        if not total or not self.frames:
            return None
        return self.seconds / self.frames * max(0, total - self.frames)


class _Frames:
    """Frames of a request up to where the file can be read. ``problem`` says why not to its end."""

    def __init__(self, request: VideoRequest) -> None:
        self.problem = ""
        self._request, self._given = request, 0

    def __iter__(self) -> Iterator[Frame]:
        try:
            for frame in read_frames(self._request.path):
                if frame.index % self._request.every == 0:
                    yield frame
                    self._given += 1
        except InputError as error:
            # Nothing at all is an error; a broken end is a shorter video.
            if not self._given:
                raise
            self.problem = str(error)


def _work(parts: Parts, request: VideoRequest) -> Work:
    weights = f"own file {parts.checkpoint.name}" if parts.checkpoint else parts.plan.provenance
    settings = settings_by(parts.plan, weights, request.settings, request.classes)
    settings |= {"every": request.every, "options": settings["options"] | {"every": request.every}}
    frames, account = _Frames(request), _Account()
    detecting = Detecting(parts, request.settings, request.classes, names=request.names)
    note = PREVIEW_NOTE if weights == "preview" else ""
    with _outputs(request, settings) as (writer, data):
        incoming = iter(frames)
        while chunk := list(islice(incoming, parts.plan.batch)):
            seen = yield from _timed(detecting, chunk, request.clip.name, account)
            for frame, found in zip(chunk, seen, strict=True):
                drawn = annotate(frame.rgb, found.detections, note=note)
                writer.write(drawn, frame.seconds)
                _line(data, {"frame": frame.index, "seconds": round(frame.seconds, 4)} | _found(found))
                account.add(found)
            total = max(request.items, account.frames)
            yield Step("detecting", account.frames, total, account.seconds_left(total), preview=drawn)
        _line(data, {"end": {"frames": account.frames, "problem": frames.problem}})
    return (
        VideoSeen(
            name=request.clip.name,
            size=request.clip.size,
            clip=writer.path,
            data=writer.path.with_suffix(".jsonl"),
            frames=account.frames,
            most=dict(account.most.most_common()),
            seconds=account.seconds,
            detect_seconds=account.detect_seconds,
            problem=frames.problem,
        ),
    )


def _timed(
    detecting: Detecting, chunk: list[Frame], name: str, account: _Account
) -> Generator[Unit, Any, tuple[Seen, ...]]:
    began = time.perf_counter()
    last = chunk[-1].index + 1
    pictures = [Picture(frame.rgb, name) for frame in chunk]
    seen = yield from detecting.see(pictures, f"frames {chunk[0].index + 1} to {last}")
    account.detect_seconds += time.perf_counter() - began
    return seen


def _found(seen: Seen) -> dict[str, Any]:
    return {"detections": detections_record(seen)}


# --- files ------------------------------------------------------------------------------------------------------


@contextmanager
def _outputs(request: VideoRequest, settings: Mapping[str, Any]) -> Iterator[tuple[ClipWriter, TextIO]]:
    """The annotated clip and its data. Whatever ends the run, Stop included, what was done is kept and can be played.

    Raises:
        OutputError: the disk is full or the folder cannot be written.
    """
    path = _free_pair(request.out, f"{safe_stem(request.clip.name)}-detections")
    lines = path.with_suffix(".jsonl")
    fps = (request.clip.fps or FALLBACK_FPS) / request.every
    writer = ClipWriter(path, fps=min(fps, 1000.0), quality=QUALITY, settings=settings)
    try:
        with lines.open("w", encoding="utf-8") as data:
            head = {"video": request.clip.name, "size": list(request.clip.size), "fps": request.clip.fps}
            _line(data, {**head, "settings": dict(settings)})
            yield writer, data
    except OSError as error:
        raise OutputError(f"{lines} could not be written: {error}") from error
    finally:
        writer.__exit__(None, None, None)
        if not path.exists():
            lines.unlink(missing_ok=True)


def _free_pair(folder: Path, stem: str) -> Path:
    """A name for the clip that neither a clip nor data have."""
    path, number = folder / f"{stem}.mp4", 2
    while path.exists() or path.with_suffix(".jsonl").exists():
        path, number = folder / f"{stem}-{number}.mp4", number + 1
    return path


def _line(data: TextIO, record: Mapping[str, Any]) -> None:
    data.write(json.dumps(record, ensure_ascii=False) + "\n")


def read_data(lines: Iterable[str]) -> tuple[dict[str, Any], list[dict[str, Any]], dict[str, Any] | None]:
    """The head, the frames and the end of a file of data; no end if the run was stopped."""
    records = [json.loads(line) for line in lines]
    ended = records[-1].get("end") if records else None
    frames = [record for record in records if "frame" in record]
    return (records[0] if records else {}), frames, ended


def kept_of(out: Path, name: str) -> VideoSeen | None:
    """What a run that did not come to its end has left in ``out``, its only user; None if nothing can be played."""
    clip = next(iter(sorted(out.glob("*.mp4"))), None)
    if clip is None or not clip.with_suffix(".jsonl").is_file():
        return None
    most: Counter[str] = Counter()
    frames, size = 0, (0, 0)
    with clip.with_suffix(".jsonl").open(encoding="utf-8") as lines:
        for line in lines:
            record = json.loads(line)
            size = tuple(record.get("size", size))
            if "frame" in record:
                frames += 1
                most |= Counter(found["label"] for found in record["detections"])
    return VideoSeen(name, size, clip, clip.with_suffix(".jsonl"), frames, dict(most.most_common()), 0.0, 0.0, "")


def head_of(data: Path) -> dict[str, Any]:
    """The first line of a video's data: what it is of, and the settings."""
    with data.open(encoding="utf-8") as lines:
        head: dict[str, Any] = json.loads(next(lines))
    return head


def write_video_csv(data: Path, path: Path) -> Path:
    """The detections of a video's data as CSV at ``path``, a row for each, line by line: of any length.

    Raises:
        OutputError: the disk is full or the folder cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with data.open(encoding="utf-8") as lines, path.open("w", encoding="utf-8", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(VIDEO_COLUMNS)
            weights = ""
            for line in lines:
                record = json.loads(line)
                weights = harmless(record["settings"]["weights"]) if "settings" in record else weights
                for found in record.get("detections", ()):
                    named = (record["frame"], record["seconds"], harmless(found["label"]), found["score"])
                    writer.writerow((*named, *found["box"], weights))
    except OSError as error:
        raise OutputError(f"{path} could not be written: {error}") from error
    return path


# --- for people -------------------------------------------------------------------------------------------------


def video_record(seen: VideoSeen) -> dict[str, Any]:
    """A video as the command line reports it, with what the machine keeps up with."""
    held, alone = capacity(seen.seconds, seen.frames), capacity(seen.detect_seconds, seen.frames)
    return {
        "input": seen.name,
        "files": [str(seen.clip), str(seen.data)],
        "frames": seen.frames,
        "most": dict(seen.most),
        "problem": seen.problem,
        "pictures_per_second": {"all": held.rate, "detecting": alone.rate},
        "streams": {"all": held.streams, "detecting": alone.streams, "fps": held.fps},
        "summary": video_summary(seen),
    }


def video_summary(seen: VideoSeen, language: str = "en") -> list[str]:
    """What was seen and, if it ran to its end, how fast, line by line."""
    words = SUMMARY[language]
    counts = ", ".join(f"{count} {label}" for label, count in seen.most.items())
    lines = [(words["seen"] if counts else words["nothing"]).format(name=seen.name, frames=seen.frames, counts=counts)]
    if seen.seconds:
        held, alone = capacity(seen.seconds, seen.frames), capacity(seen.detect_seconds, seen.frames)
        lines.append(words["all"].format(capacity=capacity_text(held, language)))
        lines.append(words["detecting"].format(capacity=capacity_text(alone, language)))
    return lines + ([words["problem"].format(problem=seen.problem)] if seen.problem else [])


SUMMARY: Mapping[str, Mapping[str, str]] = {
    "en": {
        "seen": "{name}: {frames} frames, at most {counts} in one of them",
        "nothing": "{name}: {frames} frames, nothing above the threshold",
        "all": "reading, detecting, drawing and writing: {capacity}",
        "detecting": "detecting alone: {capacity}",
        "problem": "not to its end: {problem}",
    },
    "zh": {
        "seen": "{name}：共 {frames} 帧，单帧最多 {counts}",
        "nothing": "{name}：共 {frames} 帧，没有超过阈值的目标",
        "all": "读取、检测、绘制和写入合计：{capacity}",
        "detecting": "仅检测：{capacity}",
        "problem": "未能读到结尾：{problem}",
    },
}

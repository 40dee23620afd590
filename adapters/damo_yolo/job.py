"""A detection job from files to files: what the command line and folder runs use."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from adapters.damo_yolo.exports import (
    DEFAULT_FORMATS,
    FORMATS,
    PREVIEW_NOTE,
    Shot,
    detections_record,
    note_of,
    read_formats,
    settings_of,
    write_shot,
    write_tables,
)
from adapters.damo_yolo.pipeline import DetectRequest
from adapters.damo_yolo.postprocess import Suppression
from adapters.damo_yolo.video import VideoRequest, is_video, video_record, video_request
from kit.images import open_picture
from loader.errors import InputError
from loader.outcome import Result

__all__ = [
    "DEFAULT_THRESHOLD",
    "OPTIONS",
    "PREVIEW_NOTE",
    "PictureJob",
    "detections_record",
    "note_of",
    "request",
    "settings_of",
    "write",
]

DEFAULT_THRESHOLD = 0.5
OPTIONS: Mapping[str, tuple[type, Any, str]] = {
    "threshold": (float, DEFAULT_THRESHOLD, "show objects at least this sure, 0..1"),
    "iou": (float, 0.7, "of two boxes of one class overlapping by more than this, keep the surer, 0..1"),
    "classes": (str, "", "only these, separated by commas; empty for all"),
    "formats": (str, ",".join(DEFAULT_FORMATS), f"for pictures, separated by commas: {', '.join(FORMATS)}"),
    "names": (str, "", "with --checkpoint: what its classes are called, in order, separated by commas"),
    "every": (int, 1, "of a video, look at each how-manieth frame"),
}


@dataclass(frozen=True)
class PictureJob(DetectRequest):
    """Pictures, and the formats to write what is seen in."""

    formats: tuple[str, ...] = DEFAULT_FORMATS


def request(inputs: Sequence[Path], options: Mapping[str, Any]) -> PictureJob | VideoRequest:
    """A request for picture files, or for one video.

    Args:
        inputs: pictures, or one video alone.
        options: by the names of ``OPTIONS``; besides, ``out`` is the folder a video is written to while it runs.

    Raises:
        InputError: a file that is neither, a video beside other files, or an option out of range.
    """
    settings = Suppression(score_threshold=options["threshold"], iou_threshold=options["iou"])
    classes, names = (
        tuple(word.strip() for word in options[option].split(",") if word.strip()) for option in ("classes", "names")
    )
    formats = read_formats(options["formats"])
    if any(is_video(path) for path in inputs):
        if len(inputs) > 1:
            raise InputError(f"a video is worked through alone, and {len(inputs)} files were given: run it by itself")
        out = Path(options.get("out", "out"))
        return video_request(inputs[0], settings, every=options["every"], out=out, classes=classes, names=names)
    return PictureJob(tuple(open_picture(path) for path in inputs), settings, classes, names, formats=formats)


def write(result: Result, asked: PictureJob | VideoRequest, folder: Path) -> list[dict[str, Any]]:
    """The wanted formats of each picture and of all together; returns the output records.

    A video was written while it ran, to the folder of its request.

    Raises:
        OutputError: the disk is full or the folder cannot be written.
    """
    if isinstance(asked, VideoRequest):
        return [video_record(seen) for seen in result.outputs]
    settings = settings_of(result, asked.settings, asked.classes)
    records: list[dict[str, Any]] = []
    for seen, picture in zip(result.outputs, asked.pictures, strict=True):
        files = [str(file) for file in write_shot(Shot(picture, seen), folder, asked.formats, settings)]
        records.append({"input": picture.name, "files": files, "detections": detections_record(seen)})
    tables = write_tables(result.outputs, folder, asked.formats, settings)
    if tables:
        records.append({"input": "all pictures", "files": [str(file) for file in tables]})
    return records

"""A detection job from files to files: what the command line and folder runs use."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from adapters.damo_yolo.draw import annotate
from adapters.damo_yolo.pipeline import DetectRequest, Seen
from adapters.damo_yolo.postprocess import Suppression
from kit.exports import free_path, safe_stem, write_json, write_png
from kit.images import open_picture
from loader.outcome import Result

DEFAULT_THRESHOLD = 0.5
OPTIONS: Mapping[str, tuple[type, Any, str]] = {
    "threshold": (float, DEFAULT_THRESHOLD, "show objects at least this sure, 0..1"),
    "iou": (float, 0.7, "of two boxes of one class overlapping by more than this, keep the surer, 0..1"),
}
PREVIEW_NOTE = "preview weights, trained on rendered scenes"


def request(inputs: Sequence[Path], options: Mapping[str, Any]) -> DetectRequest:
    """A request for picture files.

    Raises:
        InputError: a file that is no picture, or a threshold out of range.
    """
    settings = Suppression(score_threshold=options["threshold"], iou_threshold=options["iou"])
    return DetectRequest(tuple(open_picture(path) for path in inputs), settings)


def detections_record(seen: Seen) -> list[dict[str, Any]]:
    """``[{label, score, box}]`` with xyxy in pixels of the original picture."""
    return [
        {"label": d.label, "score": round(d.score, 4), "box": [round(edge, 2) for edge in d.box]}
        for d in seen.detections
    ]


def note_of(result: Result) -> str:
    """The label every export of preview weights carries, "" for others."""
    return PREVIEW_NOTE if result.weights == "preview" else ""


def settings_of(result: Result, settings: Suppression) -> dict[str, Any]:
    """What would give this result again."""
    plan = result.plan
    return {
        "adapter": plan.adapter,
        "variant": plan.variant,
        "weights": note_of(result) or result.weights,
        "size": list(plan.size),
        "dtype": plan.component("detector").compute_dtype,
        "threshold": settings.score_threshold,
        "iou": settings.iou_threshold,
    }


def write(result: Result, asked: DetectRequest, folder: Path) -> list[dict[str, Any]]:
    """An annotated PNG and a JSON for each picture; returns the output records.

    Raises:
        OutputError: the disk is full or the folder cannot be written.
    """
    settings = settings_of(result, asked.settings)
    records = []
    for seen, picture in zip(result.outputs, asked.pictures, strict=True):
        found = detections_record(seen)
        stem = f"{safe_stem(picture.name)}-detections"
        image = free_path(folder, stem, ".png")
        write_png(image, annotate(picture.rgb, seen.detections, note=note_of(result)), settings)
        data = write_json(
            image.with_suffix(".json"), {"picture": picture.name, "detections": found, "settings": settings}
        )
        records.append({"input": picture.name, "files": [str(image), str(data)], "detections": found})
    return records

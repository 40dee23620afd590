"""What was detected, in the formats other programs read. Every one of them says which weights it came from."""

import csv
import io
import json
import re
import zipfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import ceil, floor
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from adapters.damo_yolo.draw import annotate
from adapters.damo_yolo.labels import COCO_LABELS
from adapters.damo_yolo.onnx_file import SUFFIX as ONNX_SUFFIX
from adapters.damo_yolo.pipeline import Seen
from adapters.damo_yolo.postprocess import Detection, Suppression
from kit.exports import safe_stem, write_bytes, write_json, write_png
from kit.images import Picture
from kit.settings import restorable
from loader.errors import InputError
from loader.outcome import Result
from loader.plan import Plan

PREVIEW_NOTE = "preview weights, trained on rendered scenes"
FORMATS = ("png", "json", "csv", "coco", "crops")
DEFAULT_FORMATS = ("png", "json")
OF_FILE = "as in the file"  # variant and dtype of an own .onnx, which the plan does not decide
CSV_COLUMNS = ("picture", "label", "class_id", "score", "left", "top", "right", "bottom", "weights")
# COCO numbers its 80 classes from 1 to 90; these numbers were never given out (cocodataset.org, 2017 annotations).
COCO_UNUSED = frozenset({12, 26, 29, 30, 45, 66, 68, 69, 71, 83})
# A spreadsheet takes a cell that begins with one of these for a formula.
FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r")


@dataclass(frozen=True)
class Shot:
    """A picture and what was seen in it."""

    picture: Picture
    seen: Seen


def read_formats(text: str) -> tuple[str, ...]:
    """``"png,json"`` as names of formats, in the order of ``FORMATS``.

    Raises:
        InputError: one that does not exist, or none.
    """
    named = [word.strip().lower() for word in text.split(",") if word.strip()]
    unknown = [word for word in named if word not in FORMATS]
    if unknown or not named:
        what = f"format {', '.join(unknown)} is not known" if unknown else "no format was named"
        raise InputError(f"{what}: choose from {', '.join(FORMATS)}")
    return tuple(name for name in FORMATS if name in named)


# --- what the exports say of themselves -------------------------------------------------------------------------


def note_of(result: Result) -> str:
    """The label every export of preview weights carries, "" for others."""
    return PREVIEW_NOTE if result.weights == "preview" else ""


def settings_of(result: Result, settings: Suppression, classes: Sequence[str] = ()) -> dict[str, Any]:
    """What would give this result again."""
    return settings_by(result.plan, result.weights, settings, classes)


def settings_by(plan: Plan, weights: str, settings: Suppression, classes: Sequence[str] = ()) -> dict[str, Any]:
    """As ``settings_of``, while a run is still going on; ``weights`` as in a ``Result``."""
    own_graph = weights.endswith(ONNX_SUFFIX)
    named = {
        "adapter": plan.adapter,
        "variant": OF_FILE if own_graph else plan.variant,
        "weights": PREVIEW_NOTE if weights == "preview" else weights,
        "size": list(plan.size),
        "dtype": OF_FILE if own_graph else plan.component("detector").compute_dtype,
        "threshold": settings.score_threshold,
        "iou": settings.iou_threshold,
    }
    options = {"threshold": settings.score_threshold, "iou": settings.iou_threshold, "classes": list(classes)}
    return named | ({"classes": list(classes)} if classes else {}) | restorable(plan, options)


# --- data -------------------------------------------------------------------------------------------------------


def detections_record(seen: Seen) -> list[dict[str, Any]]:
    """``[{label, score, box}]`` with xyxy in pixels of the original picture."""
    return [detection_record(found) for found in seen.detections]


def detection_record(found: Detection) -> dict[str, Any]:
    """``{label, score, box}``."""
    return {"label": found.label, "score": round(found.score, 4), "box": [round(edge, 2) for edge in found.box]}


def picture_record(seen: Seen, settings: Mapping[str, Any]) -> dict[str, Any]:
    """One picture as JSON: ``{picture, detections, settings}``."""
    return {"picture": seen.name, "detections": detections_record(seen), "settings": dict(settings)}


def csv_text(pictures: Iterable[Seen], settings: Mapping[str, Any]) -> str:
    """A row for each detection (RFC 4180), with the weights in a column of their own: a comment line is in no standard.

    Pictures without detections have no row.
    """
    buffer = io.StringIO()
    writer = csv.writer(buffer)
    writer.writerow(CSV_COLUMNS)
    weights = harmless(str(settings["weights"]))
    for seen in pictures:
        for found in seen.detections:
            named = (harmless(seen.name), harmless(found.label), found.class_id, f"{found.score:.4f}")
            writer.writerow((*named, *(f"{edge:.2f}" for edge in found.box), weights))
    return buffer.getvalue()


def harmless(text: str) -> str:
    """``text`` as a cell that no spreadsheet takes for a formula."""
    return f"'{text}" if text.startswith(FORMULA_STARTS) else text


def coco_record(pictures: Sequence[Seen], settings: Mapping[str, Any]) -> dict[str, Any]:
    """A COCO data set (cocodataset.org, "Data format"): info, licenses, images, annotations, categories.

    Boxes are ``[x, y, width, height]`` in pixels of the original. The 80 COCO classes have COCO's own ids, others are
    numbered from 1. Each annotation also has the ``score`` of COCO's results format.
    """
    labels = pictures[0].labels if pictures else ()
    ids = category_ids(labels)
    annotations: list[dict[str, Any]] = []
    for image_id, seen in enumerate(pictures, start=1):
        for found in seen.detections:
            left, top, right, bottom = found.box
            width, height = right - left, bottom - top
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": image_id,
                    "category_id": ids[found.class_id],
                    "bbox": [round(value, 2) for value in (left, top, width, height)],
                    "area": round(width * height, 2),
                    "iscrowd": 0,
                    "segmentation": [],
                    "score": round(found.score, 4),
                }
            )
    return {
        "info": {"description": f"Detections of {settings['adapter']}: {settings['weights']}"} | dict(settings),
        "licenses": [],
        "images": [
            {"id": number, "file_name": seen.name, "height": seen.size[0], "width": seen.size[1]}
            for number, seen in enumerate(pictures, start=1)
        ],
        "annotations": annotations,
        "categories": [{"id": i, "name": name, "supercategory": ""} for i, name in zip(ids, labels, strict=True)],
    }


def category_ids(labels: Sequence[str]) -> tuple[int, ...]:
    """COCO's numbers for COCO's labels, else 1, 2, …"""
    if tuple(labels) != COCO_LABELS:
        return tuple(range(1, len(labels) + 1))
    return tuple(number for number in range(1, 91) if number not in COCO_UNUSED)


# --- pictures ---------------------------------------------------------------------------------------------------


def crops(shot: Shot) -> Iterator[tuple[str, Detection, NDArray[np.uint8]]]:
    """Each detection cut out of its picture, best first: file name, detection, [h,w,3] uint8 of at least one pixel."""
    stem = safe_stem(shot.picture.name)
    for number, found in enumerate(shot.seen.detections, start=1):
        yield f"{stem}-{number:03d}-{safe_label(found.label)}.png", found, cut_out(shot.picture.rgb, found.box)


def cut_out(rgb: NDArray[np.uint8], box: tuple[float, float, float, float]) -> NDArray[np.uint8]:
    """The part of a picture [H,W,3] within a box in its pixels (xyxy): [h,w,3], at least one pixel."""
    (height, width), (left, top, right, bottom) = rgb.shape[:2], box
    x, y = min(floor(left), width - 1), min(floor(top), height - 1)
    return rgb[y : max(y + 1, ceil(bottom)), x : max(x + 1, ceil(right))]


def safe_label(label: str) -> str:
    """A class name as a part of a file name. Own checkpoints name classes as they like."""
    return re.sub(r"[^\w-]+", "_", label).strip("_")[:40] or "object"


def write_crops(shot: Shot, folder: Path, settings: Mapping[str, Any]) -> list[Path]:
    """A PNG of each detection in ``folder``, with its own figures and the settings inside.

    Raises:
        OutputError: the disk is full or the folder cannot be written.
    """
    return [write_png(folder / name, rgb, _of_crop(shot.picture, found, settings)) for name, found, rgb in crops(shot)]


def crops_zip(shots: Iterable[Shot], settings: Mapping[str, Any]) -> bytes:
    """As ``write_crops``, all in one zip, numbered where two pictures have one name."""
    buffer = io.BytesIO()
    taken: set[str] = set()
    with zipfile.ZipFile(buffer, "w") as archive:
        for shot in shots:
            for name, found, rgb in crops(shot):
                unique, number = name, 2
                while unique in taken:
                    unique, number = f"{name.removesuffix('.png')}-{number}.png", number + 1
                taken.add(unique)
                archive.writestr(unique, _png(rgb, _of_crop(shot.picture, found, settings)))
    return buffer.getvalue()


def _of_crop(picture: Picture, found: Detection, settings: Mapping[str, Any]) -> dict[str, Any]:
    return {"picture": picture.name, **detection_record(found), **settings}


def _png(rgb: NDArray[np.uint8], settings: Mapping[str, Any]) -> bytes:
    info = PngInfo()
    info.add_itxt("anyhost", json.dumps(dict(settings), ensure_ascii=False))
    buffer = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(rgb)).save(buffer, "PNG", pnginfo=info)
    return buffer.getvalue()


# --- files ------------------------------------------------------------------------------------------------------


def write_shot(shot: Shot, folder: Path, formats: Sequence[str], settings: Mapping[str, Any]) -> list[Path]:
    """The formats that have files for each picture: annotated PNG, JSON, and crops in a folder of their own.

    Nothing is overwritten.

    Raises:
        OutputError: the disk is full or the folder cannot be written.
    """
    stem = _free_stem(folder, f"{safe_stem(shot.picture.name)}-detections", (".png", ".json", "-crops"))
    files: list[Path] = []
    if "png" in formats:
        note = settings["weights"] if settings["weights"] == PREVIEW_NOTE else ""
        rgb = annotate(shot.picture.rgb, shot.seen.detections, note=note)
        files.append(write_png(folder / f"{stem}.png", rgb, settings))
    if "json" in formats:
        files.append(write_json(folder / f"{stem}.json", picture_record(shot.seen, settings)))
    if "crops" in formats:
        files += write_crops(shot, folder / f"{stem}-crops", settings)
    return files


def write_tables(
    pictures: Sequence[Seen], folder: Path, formats: Sequence[str], settings: Mapping[str, Any]
) -> list[Path]:
    """The formats that have one file for all pictures: CSV and COCO. Nothing is overwritten.

    Raises:
        OutputError: the disk is full or the folder cannot be written.
    """
    stem = _free_stem(folder, "detections", (".csv", "-coco.json"))
    files: list[Path] = []
    if "csv" in formats:
        files.append(write_bytes(folder / f"{stem}.csv", csv_text(pictures, settings).encode()))
    if "coco" in formats:
        files.append(write_json(folder / f"{stem}-coco.json", coco_record(pictures, settings)))
    return files


def _free_stem(folder: Path, stem: str, endings: Sequence[str]) -> str:
    """``stem``, numbered if a file of one of these endings exists: what belongs together has one name."""
    free, number = stem, 2
    while any((folder / f"{free}{ending}").exists() for ending in endings):
        free, number = f"{stem}-{number}", number + 1
    return free

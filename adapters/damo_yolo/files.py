"""What the tab saves of a detection run, as filtered: pictures, crops, JSON, CSV, COCO."""

import json
import zipfile
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

from adapters.damo_yolo import exports
from adapters.damo_yolo.draw import annotate
from adapters.damo_yolo.exports import coco_record, crops_zip, csv_text, detections_record, note_of, settings_of
from adapters.damo_yolo.view import Filter, Shot, Shown
from kit.exports import free_path, safe_stem, write_bytes, write_json, write_png
from kit.images import open_picture
from loader.errors import InputError


def annotated_files(view: Shown, passing: Filter, folder: Path) -> list[Path]:
    """A PNG of each picture at full size, with its boxes, and the settings inside.

    Raises:
        InputError: a picture is no longer there.
        OutputError: the disk is full or the folder cannot be written.
    """
    settings, files = _settings(view, passing), []
    for shot in _full(view, passing):
        rgb = annotate(shot.picture.rgb, shot.seen.detections, note=note_of(view.result))
        stem = safe_stem(shot.picture.name)
        files.append(write_png(free_path(folder, f"{stem}-detections", ".png"), rgb, settings))
    return files


def save_pictures(view: Shown, passing: Filter, folder: Path) -> Path:
    """The annotated picture at full size as PNG with its settings inside; of several, a ZIP of them.

    Raises:
        InputError: a picture is no longer there.
        OutputError: the disk is full or the folder cannot be written.
    """
    files = annotated_files(view, passing, folder)
    if len(files) == 1:
        return files[0]
    buffer = BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for file in files:
            archive.write(file, file.name)
            file.unlink()
        archive.writestr("detections.json", json.dumps(record(view, passing), indent=1, ensure_ascii=False))
    return write_bytes(folder / "detections.zip", buffer.getvalue())


def save_crops(view: Shown, passing: Filter, folder: Path) -> Path:
    """Every object shown, cut out at full size, as a ZIP of PNGs with their settings inside.

    Raises:
        InputError: a picture is no longer there.
        OutputError: the disk is full or the folder cannot be written.
    """
    data = crops_zip(_full(view, passing), _settings(view, passing))
    return write_bytes(folder / f"{_stem(view)}crops.zip", data)


def save_crop(view: Shown, index: int, number: int, passing: Filter, folder: Path) -> Path:
    """One object of one picture, cut out at full size: the ``number``-th surest from 0.

    Raises:
        InputError: the picture is no longer there, or it has no such object.
        OutputError: the disk is full or the folder cannot be written.
    """
    shot = _opened(view.shots[index], passing)
    for place, (name, found, rgb) in enumerate(exports.crops(shot)):
        if place == number:
            of_crop = {"picture": shot.picture.name, **exports.detection_record(found)}
            return write_png(folder / name, rgb, of_crop | _settings(view, passing))
    raise InputError(f"{shot.picture.name} shows {len(shot.seen.detections)} objects, none of number {number + 1}")


def save_data(view: Shown, passing: Filter, folder: Path) -> Path:
    """What is shown as JSON.

    Raises:
        OutputError: the disk is full or the folder cannot be written.
    """
    return write_json(folder / f"{_stem(view)}detections.json", record(view, passing))


def save_csv(view: Shown, passing: Filter, folder: Path) -> Path:
    """What is shown as CSV, a row for each object.

    Raises:
        OutputError: the disk is full or the folder cannot be written.
    """
    text = csv_text([passing.of(shot.seen) for shot in view.shots], _settings(view, passing))
    return write_bytes(folder / f"{_stem(view)}detections.csv", text.encode())


def save_coco(view: Shown, passing: Filter, folder: Path) -> Path:
    """What is shown as a COCO data set.

    Raises:
        OutputError: the disk is full or the folder cannot be written.
    """
    data = coco_record([passing.of(shot.seen) for shot in view.shots], _settings(view, passing))
    return write_json(folder / f"{_stem(view)}detections-coco.json", data)


def record(view: Shown, passing: Filter) -> dict[str, Any]:
    """``{pictures[{picture, detections[{label, score, box}]}], settings}``, boxes xyxy in pixels of the original."""
    pictures = [
        {"picture": shot.seen.name, "detections": detections_record(passing.of(shot.seen))} for shot in view.shots
    ]
    return {"pictures": pictures, "settings": _settings(view, passing)}


def _settings(view: Shown, passing: Filter) -> dict[str, Any]:
    return settings_of(view.result, passing.settings, passing.classes)


def _stem(view: Shown) -> str:
    return safe_stem(view.shots[0].seen.name) + "-" if len(view.shots) == 1 else ""


def _full(view: Shown, passing: Filter) -> Iterator[exports.Shot]:
    """Picture after picture at full size, with what is shown of it; one in memory at a time."""
    for shot in view.shots:
        yield _opened(shot, passing)


def _opened(shot: Shot, passing: Filter) -> exports.Shot:
    name = shot.seen.name
    if not shot.path.is_file():
        raise InputError(f"{name} is no longer kept here (pictures are deleted after an hour): run it again")
    return exports.Shot(open_picture(shot.path, name=name), passing.of(shot.seen))

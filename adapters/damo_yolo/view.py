"""What the tab shows and saves of a detection run: pure functions over what was seen, no forward pass."""

import json
import zipfile
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from adapters.damo_yolo.draw import annotate, colour_of
from adapters.damo_yolo.job import detections_record, note_of, settings_of
from adapters.damo_yolo.pipeline import Seen
from adapters.damo_yolo.postprocess import Detection, Suppression
from kit.exports import free_path, safe_stem, write_bytes, write_json, write_png
from kit.images import PREVIEW_SIDE, Picture, open_picture
from kit.parts.markup import div, element, para, table, text
from kit.texts.labels import label
from loader.errors import InputError
from loader.outcome import Result

SCORE_FLOOR = 0.05  # what is run at; the threshold of the page only filters what was seen above it
MAX_ROWS = 200
SMALL_SIDE, THUMB_SIDE = 1000, 240


@dataclass(frozen=True)
class Shot:
    """One picture of a run. ``preview`` is a JPEG with a longer side of 1,000 to 1,600 pixels, without boxes."""

    path: Path
    seen: Seen
    preview: bytes


@dataclass(frozen=True)
class Shown:
    """A finished run as a tab keeps it."""

    shots: tuple[Shot, ...]
    result: Result

    @property
    def labels(self) -> list[str]:
        """Names of all that was seen, surest first."""
        best: dict[str, float] = {}
        for shot in self.shots:
            for found in shot.seen.detections:
                best[found.label] = max(found.score, best.get(found.label, 0.0))
        return sorted(best, key=lambda name: -best[name])


@dataclass(frozen=True)
class Filter:
    """What of the seen is shown: at least ``threshold``, and of ``classes`` unless that is empty."""

    threshold: float
    classes: tuple[str, ...] = ()

    def of(self, seen: Seen) -> Seen:
        """``seen`` with what passes only.

        Suppression never lets a surer box go for a less sure one, so this equals a run at this threshold.
        """
        passing = tuple(
            d for d in seen.detections if d.score >= self.threshold and (not self.classes or d.label in self.classes)
        )
        return replace(seen, detections=passing)


def shown(result: Result, opened: Sequence[tuple[Path, Picture]]) -> Shown:
    """A finished run with a preview of each picture."""
    pairs = zip(opened, result.outputs, strict=True)
    return Shown(tuple(Shot(path, seen, _preview(picture)) for (path, picture), seen in pairs), result)


def _preview(picture: Picture) -> bytes:
    image = Image.fromarray(picture.rgb)
    image.thumbnail((PREVIEW_SIDE, PREVIEW_SIDE))
    if max(image.size) < SMALL_SIDE:
        # The page shows it larger than it is; enlarged here, its boxes and names stay sharp.
        factor = SMALL_SIDE / max(image.size)
        image = image.resize((round(image.width * factor), round(image.height * factor)), Image.Resampling.BICUBIC)
    buffer = BytesIO()
    image.save(buffer, "JPEG", quality=90)
    return buffer.getvalue()


def drawn(view: Shown, index: int, passing: Filter) -> NDArray[np.uint8]:
    """The preview of one picture [H,W,3] uint8 with boxes."""
    shot = view.shots[index]
    rgb = np.array(Image.open(BytesIO(shot.preview)).convert("RGB"))
    scale = rgb.shape[1] / shot.seen.size[1], rgb.shape[0] / shot.seen.size[0]
    boxes = [_scaled(found, scale) for found in passing.of(shot.seen).detections]
    return annotate(rgb, boxes, note=note_of(view.result))


def thumbnail(shot: Shot) -> NDArray[np.uint8]:
    """A small picture [H,W,3] uint8 to choose it by."""
    image = Image.open(BytesIO(shot.preview))
    image.draft("RGB", (THUMB_SIDE, THUMB_SIDE))
    image.thumbnail((THUMB_SIDE, THUMB_SIDE))
    return np.array(image.convert("RGB"))


def _scaled(found: Detection, scale: tuple[float, float]) -> Detection:
    left, top, right, bottom = found.box
    return replace(found, box=(left * scale[0], top * scale[1], right * scale[0], bottom * scale[1]))


# --- words ------------------------------------------------------------------------------------------------------


def spoken(seen: Seen, language: str) -> str:
    """What a picture shows, as text: "3 coin, 1 ball"."""
    counts = Counter(found.label for found in seen.detections)
    return ", ".join(f"{count} {name}" for name, count in counts.most_common()) or label("detect.none", language)


def counts_markup(seen: Seen, language: str) -> str:
    """How many of each class, in the colours of their boxes."""
    counts = Counter((found.label, found.class_id) for found in seen.detections)
    if not counts:
        return para("ah-dim", label("detect.none_long", language))
    chips = [
        element(
            "li",
            element("span", classes="ah-swatch", style=f"background:rgb{colour_of(class_id)}"),
            element("strong", str(count)),
            " ",
            text(name),
        )
        for (name, class_id), count in counts.most_common()
    ]
    return element("ul", *chips, classes="ah-chips", aria_label=label("detect.counts", language))


def table_markup(seen: Seen, language: str) -> str:
    """Label, score and box of everything shown."""
    if not seen.detections:
        return ""
    head = [label(f"detect.{c}", language) for c in ("label", "score", "left", "top", "right", "bottom")]
    rows = [
        (text(found.label), f"{found.score:.2f}", *(f"{edge:.0f}" for edge in found.box))
        for found in seen.detections[:MAX_ROWS]
    ]
    more = len(seen.detections) - MAX_ROWS
    rest = para("ah-dim", label("detect.more_rows", language, count=more)) if more > 0 else ""
    return table(head, rows, caption=label("detect.table", language), classes="ah-numbers") + rest


def weights_markup(view: Shown, language: str) -> str:
    """The note that goes with everything preview weights gave."""
    note = note_of(view.result)
    if not note:
        return ""
    known = view.shots[0].seen.labels
    words = label("detect.preview", language, note=note, count=len(known), names=", ".join(known))
    return div("ah-note", element("p", text(words)), role="note")


# --- files ------------------------------------------------------------------------------------------------------


def annotated_files(view: Shown, passing: Filter, folder: Path) -> list[Path]:
    """A PNG of each picture at full size, with its boxes, and the settings inside.

    Raises:
        InputError: a picture is no longer there.
        OutputError: the disk is full or the folder cannot be written.
    """
    settings = _settings(view, passing)
    files = []
    for shot in view.shots:
        name = shot.seen.name
        if not shot.path.is_file():
            raise InputError(f"{name} is no longer kept here (pictures are deleted after an hour): run it again")
        rgb = annotate(open_picture(shot.path).rgb, passing.of(shot.seen).detections, note=note_of(view.result))
        files.append(write_png(free_path(folder, f"{safe_stem(name)}-detections", ".png"), rgb, settings))
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


def save_data(view: Shown, passing: Filter, folder: Path) -> Path:
    """What is shown as JSON.

    Raises:
        OutputError: the disk is full or the folder cannot be written.
    """
    stem = safe_stem(view.shots[0].seen.name) + "-" if len(view.shots) == 1 else ""
    return write_json(folder / f"{stem}detections.json", record(view, passing))


def record(view: Shown, passing: Filter) -> dict[str, Any]:
    """``{pictures[{picture, detections[{label, score, box}]}], settings}``, boxes xyxy in pixels of the original."""
    pictures = [
        {"picture": shot.seen.name, "detections": detections_record(passing.of(shot.seen))} for shot in view.shots
    ]
    return {"pictures": pictures, "settings": _settings(view, passing)}


def _settings(view: Shown, passing: Filter) -> dict[str, Any]:
    settings = settings_of(view.result, Suppression(score_threshold=passing.threshold))
    return settings | ({"classes": list(passing.classes)} if passing.classes else {})

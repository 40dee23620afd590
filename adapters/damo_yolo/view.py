"""What the tab shows of a detection run: pure functions over what was seen, no forward pass."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from io import BytesIO
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from adapters.damo_yolo.capacity import capacity, capacity_text
from adapters.damo_yolo.draw import annotate, colour_of
from adapters.damo_yolo.exports import cut_out, note_of
from adapters.damo_yolo.pipeline import Seen
from adapters.damo_yolo.postprocess import Detection, Suppression, suppressed
from kit.images import PREVIEW_SIDE, Picture
from kit.parts.markup import div, element, para, table, text
from kit.texts.labels import label
from loader.outcome import Result

SCORE_FLOOR = 0.05  # what is run at; the threshold of the page only filters what was seen above it
DEFAULT_IOU = Suppression().iou_threshold
MAX_ROWS = 200
MAX_CUTS = 24
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
    """What of the seen is shown.

    Attributes:
        threshold: at least this sure, 0..1; below ``SCORE_FLOOR`` nothing more comes.
        classes: the only names shown, all if empty.
        iou: of two boxes of one class overlapping by more than this the surer is shown.
    """

    threshold: float
    classes: tuple[str, ...] = ()
    iou: float = DEFAULT_IOU

    @property
    def settings(self) -> Suppression:
        """Thresholds and limits of a run that would give the same."""
        return Suppression(score_threshold=self.threshold, iou_threshold=self.iou)

    def of(self, seen: Seen) -> Seen:
        """``seen`` as a run with these settings would have it, without one: candidates are suppressed anew.

        Where none were kept, what was seen is filtered: a surer box never goes for a less sure one.
        """
        if seen.candidates is None:
            passing = tuple(d for d in seen.detections if d.score > self.threshold and self._shows(d.label))
            return replace(seen, detections=passing)
        wanted = [i for i, name in enumerate(seen.labels) if self._shows(name)]
        found = suppressed(seen.candidates, labels=seen.labels, settings=self.settings, wanted=wanted)
        return replace(seen, detections=found)

    def _shows(self, name: str) -> bool:
        return not self.classes or name in self.classes


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


def drawn(view: Shown, index: int, seen: Seen) -> NDArray[np.uint8]:
    """The preview of one picture [H,W,3] uint8 with the boxes of ``seen``, which is the picture's as filtered."""
    rgb, scale = _preview_of(view.shots[index])
    boxes = [_scaled(found, scale) for found in seen.detections]
    return annotate(rgb, boxes, note=note_of(view.result))


def _preview_of(shot: Shot) -> tuple[NDArray[np.uint8], tuple[float, float]]:
    """The preview [H,W,3] and its pixels to one of the picture, across and down."""
    rgb = np.array(Image.open(BytesIO(shot.preview)).convert("RGB"))
    return rgb, (rgb.shape[1] / shot.seen.size[1], rgb.shape[0] / shot.seen.size[0])


def thumbnail(shot: Shot) -> NDArray[np.uint8]:
    """A small picture [H,W,3] uint8 to choose it by."""
    image = Image.open(BytesIO(shot.preview))
    image.draft("RGB", (THUMB_SIDE, THUMB_SIDE))
    image.thumbnail((THUMB_SIDE, THUMB_SIDE))
    return np.array(image.convert("RGB"))


def cuts(view: Shown, index: int, seen: Seen) -> list[tuple[NDArray[np.uint8], str]]:
    """The surest objects of ``seen`` cut out of the picture's preview, small, each with its name and score."""
    rgb, scale = _preview_of(view.shots[index])
    return [
        (_small(cut_out(rgb, _scaled(found, scale).box)), f"{found.label} {found.score:.2f}")
        for found in seen.detections[:MAX_CUTS]
    ]


def _small(rgb: NDArray[np.uint8]) -> NDArray[np.uint8]:
    image = Image.fromarray(np.ascontiguousarray(rgb))
    image.thumbnail((THUMB_SIDE, THUMB_SIDE))
    return np.array(image)


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
    return note_markup(label("detect.preview", language, note=note, count=len(known), names=", ".join(known)))


def note_markup(words: str) -> str:
    """Something to know about everything shown below it."""
    return div("ah-note", element("p", text(words)), role="note")


def streams_markup(seconds: float, pictures: int, language: str) -> str:
    """What the machine keeps up with, from a measured run."""
    held = capacity_text(capacity(seconds, pictures), language)
    return para("ah-dim ah-streams", label("detect.streams", language, capacity=held))

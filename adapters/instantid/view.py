"""What the tab shows of a drawing: pictures with their label, facts, settings, faces to choose from. No gradio here."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from zipfile import ZIP_STORED, ZipFile

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from adapters.instantid.drawn import Drawn, FoundFaces
from adapters.instantid.saving import encoded, record_of, stem_of
from kit.exports import free_path, write_bytes
from kit.images import Picture
from kit.parts.markup import div, element, text
from kit.texts.labels import label, name_of
from loader.errors import InputError
from loader.outcome import Result

LIVE_SIDE = 512  # a preview of latents is enlarged so far
FACE_SIDE = 160
FACE_MARGIN = 0.35  # of a face's box, around it


@dataclass(frozen=True, eq=False)
class Drawings:
    """A finished run, or the pictures one had finished that ended early."""

    result: Result

    @property
    def drawn(self) -> tuple[Drawn, ...]:
        return self.result.outputs

    def one(self, index: int) -> Drawn:
        """The picture at a place of the gallery; the last one where there is none there."""
        return self.drawn[min(max(0, index), len(self.drawn) - 1)]


def picture_files(drawings: Drawings, folder: Path, *, kind: str = "png", language: str = "en") -> list[Path]:
    """Every picture as a labelled file with its settings inside.

    Raises:
        OutputError: the disk is full or the folder cannot be written.
    """
    return [picture_file(drawings, index, folder, kind=kind, language=language) for index in range(len(drawings.drawn))]


def picture_file(drawings: Drawings, index: int, folder: Path, *, kind: str = "png", language: str = "en") -> Path:
    """One picture as a labelled file with its settings inside.

    Raises:
        InputError: another kind of file.
        OutputError: as ``picture_files``.
    """
    drawn = drawings.one(index)
    path = free_path(folder, stem_of(drawn), f".{kind}")
    return write_bytes(path, encoded(drawn, drawings.result, kind, language))


def archive(drawings: Drawings, folder: Path, *, kind: str = "png", language: str = "en") -> Path:
    """All pictures in one zip.

    Raises:
        OutputError: as ``picture_files``.
    """
    buffer = BytesIO()
    with ZipFile(buffer, "w", ZIP_STORED) as file:
        for drawn in drawings.drawn:
            file.writestr(f"{stem_of(drawn)}.{kind}", encoded(drawn, drawings.result, kind, language))
    return write_bytes(free_path(folder, "identity", ".zip"), buffer.getvalue())


def facts(drawings: Drawings, index: int, language: str) -> str:
    """What one picture is, as a line of markup, with the warning a dry run needs."""
    drawn = drawings.one(index)
    height, width = drawn.size
    words = [
        label("identity.fact_size", language, width=width, height=height),
        label("identity.fact_seed", language, seed=drawn.seed),
        label(
            "identity.fact_steps",
            language,
            steps=drawn.steps,
            scheduler=name_of("scheduler", drawn.scheduler, language),
            guidance=f"{drawn.guidance:g}",
        ),
    ]
    lines = [element("p", text(" · ".join(words)), classes="ah-dim")]
    if drawn.prompt:
        lines.insert(0, element("p", text(drawn.prompt), classes="ah-breaks"))
    if drawn.faces.stand_in:
        lines.insert(0, element("p", text(label("identity.dry_run", language)), classes="ah-warn"))
    return div("identity-facts", *lines)


def settings_text(drawings: Drawings, index: int) -> str:
    """The settings of one picture as JSON, to be copied."""
    return json.dumps(record_of(drawings.one(index), drawings.result), indent=1, ensure_ascii=False)


def live_picture(preview: NDArray[np.uint8] | Drawn) -> Image.Image:
    """What a step shows, large enough to be looked at."""
    if isinstance(preview, Drawn):
        return Image.fromarray(preview.rgb)
    image = Image.fromarray(preview)
    enlarge = max(1, round(LIVE_SIDE / max(image.size)))
    return image.resize((image.width * enlarge, image.height * enlarge), Image.Resampling.BICUBIC)


def face_pictures(photo: Picture, found: FoundFaces) -> list[Image.Image]:
    """Every face of a photo, cut out with some of what is around it, most certain first."""
    return [_cut(photo.rgb, box) for box in found.faces.boxes]


def _cut(rgb: NDArray[np.uint8], box: Sequence[float] | NDArray[np.float32]) -> Image.Image:
    left, top, right, bottom = (float(side) for side in box)
    side = max(right - left, bottom - top) * (1 + 2 * FACE_MARGIN)
    x, y = (left + right) / 2, (top + bottom) / 2
    columns = slice(max(0, int(x - side / 2)), max(1, int(x + side / 2)))
    rows = slice(max(0, int(y - side / 2)), max(1, int(y + side / 2)))
    cut = rgb[rows, columns]
    if not cut.size:
        raise InputError("this face lies outside the picture; choose another photo")
    scale = FACE_SIDE / max(cut.shape[:2])
    size = (max(1, round(cut.shape[1] * scale)), max(1, round(cut.shape[0] * scale)))
    return Image.fromarray(np.asarray(cv2.resize(cut, size, interpolation=cv2.INTER_AREA), np.uint8))

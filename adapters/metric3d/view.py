"""What the tab shows and saves of a depth run: pure functions over what was measured, no forward pass."""

import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from io import BytesIO
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from adapters.metric3d.cloud import SURFACE_POINTS, grid_of, point_cloud, surface
from adapters.metric3d.colours import Scale, gradient_css, metres, paint, paint_confidence, scale_of
from adapters.metric3d.geometry import Floats, Intrinsics
from adapters.metric3d.measuring import Point, calibration, length, point_at
from adapters.metric3d.pipeline import Measured, MeasuredClip, Shot
from adapters.metric3d.saving import KINDS, Scaled, camera_words, note_of, place_for, save_picture, settings_of
from adapters.metric3d.visuals import normal_colours
from kit.exports import safe_stem, write_bytes
from kit.images import open_picture
from kit.parts.markup import div, element, para, text
from kit.texts.labels import label
from loader.errors import InputError
from loader.outcome import Result

Rgb = NDArray[np.uint8]
PREVIEW_SIDE = 1280
SMALL_SIDE = 960
LAYERS = ("depth", "normals", "confidence")
MARK_COLOUR, MARK_EDGE = (255, 255, 255), (20, 20, 18)


@dataclass(frozen=True)
class Kept:
    """One picture of a run. ``preview`` is a JPEG of it with a longer side of 960 to 1,280 pixels."""

    path: Path
    measured: Measured
    preview: bytes

    @property
    def rgb(self) -> Rgb:
        """The preview, ``[H, W, 3]``."""
        return np.array(Image.open(BytesIO(self.preview)).convert("RGB"))


@dataclass(frozen=True)
class Shown:
    """A finished run of pictures as a tab keeps it."""

    result: Result
    kept: tuple[Kept, ...]

    @property
    def layers(self) -> list[str]:
        """What can be looked at of its pictures."""
        has_normals = all(kept.measured.directions is not None for kept in self.kept)
        return [layer for layer in LAYERS if layer != "normals" or has_normals]


@dataclass(frozen=True)
class Look:
    """What of a run is looked at.

    Attributes:
        index: of the picture.
        layer: "depth", "normals" or "confidence".
        points: columns and rows clicked in the preview, two at most.
        factors: by picture, what a known length multiplied its depths by.
    """

    index: int = 0
    layer: str = "depth"
    points: tuple[tuple[int, int], ...] = ()
    factors: Mapping[int, float] = field(default_factory=dict)

    @property
    def factor(self) -> float:
        return self.factors.get(self.index, 1.0)

    def at(self, index: int) -> "Look":
        """Another picture, nothing clicked yet."""
        return replace(self, index=index, points=())

    def clicked(self, column: int, row: int) -> "Look":
        """One point more; a third click begins anew."""
        before = self.points if len(self.points) < 2 else ()
        return replace(self, points=(*before, (column, row)))

    def scaled(self, factor: float) -> "Look":
        """Everything in this picture longer by ``factor``."""
        return replace(self, factors={**self.factors, self.index: self.factor * factor})


def shown(result: Result, opened: Sequence[tuple[Path, Shot]]) -> Shown:
    """A finished run with a preview of each picture."""
    pairs = zip(opened, result.outputs, strict=True)
    return Shown(result, tuple(Kept(path, measured, _preview(shot.picture.rgb)) for (path, shot), measured in pairs))


def _preview(rgb: Rgb) -> bytes:
    image = Image.fromarray(rgb)
    longer = max(image.size)
    factor = min(PREVIEW_SIDE, max(SMALL_SIDE, longer)) / longer
    width, height = (max(1, round(side * factor)) for side in image.size)
    buffer = BytesIO()
    image.resize((width, height), Image.Resampling.BICUBIC).save(buffer, "JPEG", quality=90)
    return buffer.getvalue()


# --- pictures ---------------------------------------------------------------------------------------------------


def compared(view: Shown, look: Look) -> tuple[Rgb, Rgb]:
    """The picture, and the layer looked at, of the same size."""
    kept = view.kept[look.index]
    rgb = kept.rgb
    return rgb, _layer(kept.measured, look, (rgb.shape[0], rgb.shape[1]))


def _layer(measured: Measured, look: Look, size: tuple[int, int]) -> Rgb:
    normals = measured.normals(size) if look.layer == "normals" else None
    if normals is not None:
        return normal_colours(normals)
    if look.layer == "confidence":
        return paint_confidence(measured.confidence(size))
    depth = measured.depth(look.factor, size)
    return paint(depth, scale_of(depth))


def thumbnail(kept: Kept) -> Rgb:
    """Depth in colours, small."""
    height, width = kept.rgb.shape[:2]
    depth = kept.measured.depth(size=(max(1, height // 4), max(1, width // 4)))
    return paint(depth, scale_of(depth))


def marked(view: Shown, look: Look) -> Rgb:
    """The picture with the points clicked, the line between two and its length on it."""
    image = Image.fromarray(view.kept[look.index].rgb)
    draw = ImageDraw.Draw(image)
    unit = max(image.size) / 160
    if len(look.points) == 2:
        draw.line(look.points, fill=MARK_EDGE, width=round(unit * 0.9))
        draw.line(look.points, fill=MARK_COLOUR, width=max(2, round(unit * 0.45)))
    for column, row in look.points:
        for radius, colour in ((unit * 1.1, MARK_EDGE), (unit * 0.8, MARK_COLOUR), (unit * 0.35, MARK_EDGE)):
            draw.ellipse((column - radius, row - radius, column + radius, row + radius), fill=colour)
    points = measured_points(view, look)
    if len(points) == 2:
        _written(draw, metres(length(*points)), look.points, unit)
    return np.array(image)


def _written(draw: ImageDraw.ImageDraw, words: str, points: Sequence[tuple[int, int]], unit: float) -> None:
    font = ImageFont.load_default(round(unit * 3.2))
    box = draw.textbbox((0, 0), words, font=font, anchor="mm")
    width, height = draw.im.size
    x = min(max(sum(p[0] for p in points) / 2, box[2] + unit), width - box[2] - unit)
    y = min(max(sum(p[1] for p in points) / 2 - unit * 3.4, box[3] + unit), height - box[3] - unit)
    draw.rounded_rectangle(
        (x + box[0] - unit, y + box[1] - unit * 0.6, x + box[2] + unit, y + box[3] + unit * 0.6), unit, fill=MARK_EDGE
    )
    draw.text((x, y), words, fill=MARK_COLOUR, font=font, anchor="mm")


# --- measuring --------------------------------------------------------------------------------------------------


def measured_points(view: Shown, look: Look) -> list[Point]:
    """Where the points clicked lie."""
    if not look.points:
        return []
    kept = view.kept[look.index]
    height, width = kept.rgb.shape[:2]
    depth = kept.measured.depth(look.factor, (height, width))
    camera = _camera_of_preview(kept.measured, width)
    return [point_at(depth, camera, column, row) for column, row in look.points]


def _camera_of_preview(measured: Measured, width: int) -> Intrinsics:
    known, share = measured.camera.intrinsics, width / measured.size[1]
    return Intrinsics(known.fx * share, known.fy * share, known.cx * share, known.cy * share)


def calibrated(view: Shown, look: Look, known_m: float | None) -> Look:
    """``look`` with depths such that the line clicked is ``known_m`` metres long.

    Raises:
        InputError: there is no line, or no factor that could be right.
    """
    points = measured_points(view, look)
    if len(points) != 2:
        raise InputError(f"a known length needs two points, {len(points)} clicked: click both its ends")
    return look.scaled(calibration(length(*points), known_m if known_m is not None else float("nan")))


# --- words ------------------------------------------------------------------------------------------------------


def facts_markup(view: Shown, look: Look, language: str) -> str:
    """Distances of the picture looked at and the camera they rest on."""
    measured = view.kept[look.index].measured
    depth = measured.depth(look.factor)
    return _facts(
        (
            (label("depth.near", language), metres(float(depth.min()))),
            (label("depth.middle", language), metres(float(np.median(depth)))),
            (label("depth.far", language), metres(float(depth.max()))),
            (label("depth.focal", language), f"{measured.camera.focal_px:.0f} px"),
        ),
        label("depth.camera_words", language, words=camera_words(measured.camera, language))
        + (" " + label("depth.scaled", language, factor=f"{look.factor:.3g}") if look.factor != 1 else ""),
    )


def clip_markup(clip: MeasuredClip, scale: Scale, language: str) -> str:
    """Distances over a whole clip, its legend and its camera."""
    whole = np.stack([depth.astype(np.float32) for depth in clip.depths])
    facts = _facts(
        (
            (label("depth.near", language), metres(float(whole.min()))),
            (label("depth.middle", language), metres(float(np.median(whole)))),
            (label("depth.far", language), metres(float(whole.max()))),
            (label("depth.frames", language), str(len(clip.depths))),
        ),
        label("depth.camera_words", language, words=camera_words(clip.camera, language)),
    )
    return legend(scale, language) + facts


def _facts(facts: Sequence[tuple[str, str]], below: str) -> str:
    items = [div("ah-fact", element("dt", text(name)), element("dd", element("strong", text(v)))) for name, v in facts]
    return element("dl", *items, classes="ah-facts") + para("ah-dim depth-camera", below)


def legend_markup(view: Shown, look: Look, language: str) -> str:
    """What the colours of the layer looked at mean."""
    if look.layer == "normals":
        return para("ah-dim", label("depth.legend_normals", language))
    if look.layer == "confidence":
        return para("ah-dim", label("depth.legend_confidence", language))
    measured = view.kept[look.index].measured
    return legend(scale_of(measured.depth(look.factor)), language)


def legend(scale: Scale, language: str) -> str:
    """The colours from near to far with their metres."""
    ticks = [
        element("li", text(metres(tick)), style=f"left:{float(scale.position(np.array(tick))) * 100:.2f}%")
        for tick in scale.ticks()
    ]
    words = label("depth.legend", language, near=metres(scale.near), far=metres(scale.far))
    bar = div("depth-legend-bar", style=f"background:{gradient_css()}", role="img", aria_label=words)
    return div("depth-legend", bar, element("ul", *ticks))


def readout_markup(view: Shown, look: Look, language: str) -> str:
    """What the clicks say."""
    points = measured_points(view, look)
    if not points:
        return para("ah-dim", label("depth.click", language))
    lines = [
        label("depth.point", language, number=n, distance=metres(p.distance), depth=metres(p.xyz[2]))
        for n, p in enumerate(points, 1)
    ]
    head = label("depth.click_second", language)
    if len(points) == 2:
        head = label("depth.length", language, length=metres(length(*points)))
    told = element("p", element("strong", text(head)), data_say=" ".join([head, *lines]))
    return told + "".join(para("ah-dim", line) for line in lines)


def weights_markup(result: Result, language: str) -> str:
    """The note that goes with everything preview weights gave."""
    note = note_of(result)
    return div("ah-note", element("p", text(label("depth.preview", language, note=note))), role="note") if note else ""


# --- files ------------------------------------------------------------------------------------------------------


def _full(view: Shown, look: Look) -> tuple[Scaled, Rgb]:
    kept = view.kept[look.index]
    if not kept.path.is_file():
        raise InputError(
            f"{kept.measured.name} is no longer kept here (pictures are deleted after an hour): run it again"
        )
    return Scaled(kept.measured, look.factor), open_picture(kept.path).rgb


def picture_files(view: Shown, look: Look, folder: Path, *, cloud: bool = False) -> list[Path]:
    """Everything about every picture at full size: colours, 16-bit PNG, array, normals, confidence, figures.

    Raises:
        InputError: a picture is no longer there.
        OutputError: the disk is full or the folder cannot be written.
    """
    kinds = [kind for kind in KINDS if cloud or kind != "cloud"]
    files: list[Path] = []
    for index in range(len(view.kept)):
        scaled, rgb = _full(view, look.at(index))
        files += save_picture(scaled, rgb, view.result, place_for(folder, scaled.measured.name), kinds)
    return files


def save_all(view: Shown, look: Look, folder: Path) -> Path:
    """``picture_files`` as one ZIP.

    Raises:
        InputError: a picture is no longer there.
        OutputError: the disk is full or the folder cannot be written.
    """
    files = picture_files(view, look, folder)
    buffer = BytesIO()
    # PNG and arrays of depths hardly shrink; storing is quick.
    with zipfile.ZipFile(buffer, "w") as archive:
        for file in files:
            archive.write(file, file.name)
            file.unlink()
    stem = f"{safe_stem(view.kept[0].measured.name)}-" if len(view.kept) == 1 else ""
    return write_bytes(folder / f"{stem}depth.zip", buffer.getvalue())


def save_points(view: Shown, look: Look, folder: Path) -> Path:
    """The points of the picture looked at, as PLY.

    Raises:
        InputError: the picture is no longer there.
        OutputError: the disk is full or the folder cannot be written.
    """
    scaled, rgb = _full(view, look)
    grid = grid_of(scaled.depth(), rgb, scaled.measured.camera.intrinsics, blur=1 / scaled.measured.framing.scale)
    data = point_cloud(grid, settings_of(view.result, scaled.measured.camera, look.factor))
    return write_bytes(folder / f"{safe_stem(scaled.measured.name)}-cloud.ply", data)


def save_surface(view: Shown, look: Look, folder: Path) -> Path:
    """The surface of the picture looked at, as GLB, from its preview.

    Raises:
        InputError: nothing but edges.
        OutputError: the disk is full or the folder cannot be written.
    """
    kept = view.kept[look.index]
    rgb, measured = kept.rgb, kept.measured
    height, width = rgb.shape[:2]
    depth: Floats = measured.depth(look.factor, (height, width))
    blur = width / measured.framing.resized[1]
    grid = grid_of(depth, rgb, _camera_of_preview(measured, width), most=SURFACE_POINTS, blur=blur)
    data = surface(grid, settings_of(view.result, measured.camera, look.factor))
    return write_bytes(folder / f"{safe_stem(measured.name)}-cloud.glb", data)

"""A measured picture or clip as files, each with its settings."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from adapters.metric3d.camera import Camera
from adapters.metric3d.cloud import SURFACE_POINTS, grid_of, point_cloud, surface
from adapters.metric3d.colours import Scale, paint, paint_confidence, scale_of, with_legend
from adapters.metric3d.geometry import Floats
from adapters.metric3d.pipeline import Measured, MeasuredClip
from adapters.metric3d.visuals import normal_colours
from kit.exports import free_path, safe_stem, write_bytes, write_json, write_png
from kit.settings import restorable
from kit.texts.labels import label
from kit.video import ClipWriter
from loader.outcome import Result

PREVIEW_NOTE = "preview weights, trained on rendered scenes"
FINE_UNIT_M, COARSE_UNIT_M = 0.001, 0.005  # of a 16-bit picture: up to 65.5 m, and up to 327 m
KINDS = ("depth", "depth16", "array", "normals", "confidence", "cloud")


@dataclass(frozen=True)
class Scaled:
    """A measured picture with the factor a known length gave; 1 without one."""

    measured: Measured
    factor: float = 1.0

    def depth(self) -> Floats:
        """``[H, W]`` metres."""
        return self.measured.depth(self.factor)


def note_of(result: Result) -> str:
    """The label every export of preview weights carries, "" for others."""
    return PREVIEW_NOTE if result.weights == "preview" else ""


def camera_record(camera: Camera) -> dict[str, Any]:
    """The camera and where it is from, in words."""
    known = camera.intrinsics
    numbers = {name: round(float(getattr(known, name)), 3) for name in ("fx", "fy", "cx", "cy")}
    return {**numbers, "source": camera.source, "why": camera_words(camera)}


def camera_words(camera: Camera, language: str = "en") -> str:
    """Where the focal length is from, and why EXIF was not believed."""
    words = label(f"camera.{camera.source}", language, **camera.figures)
    doubt = label(f"camera.doubt_{camera.doubt}", language, **camera.figures) if camera.doubt else ""
    return f"{words}; {doubt}" if doubt else words


def settings_of(result: Result, camera: Camera, factor: float = 1.0) -> dict[str, Any]:
    """What would give this result again."""
    plan = result.plan
    known = {"scale_from_known_length": round(factor, 5)} if factor != 1.0 else {}
    return {
        "adapter": plan.adapter,
        "variant": plan.variant,
        "weights": note_of(result) or result.weights,
        "size": list(plan.size),
        "dtype": plan.component("depth_model").compute_dtype,
        "camera": camera_record(camera),
        **known,
        **restorable(plan, camera_options(camera)),
    }


def camera_options(camera: Camera) -> dict[str, Any]:
    """What was said of the camera, by the names of the controls that say it; of a file, the numbers in it."""
    if camera.source == "typed":
        known = camera.intrinsics
        return {"camera": "typed", **{n: round(float(getattr(known, n)), 3) for n in ("fx", "fy", "cx", "cy")}}
    if camera.source == "fov":
        return {"camera": "fov", "fov": camera.figures["fov"]}
    if camera.source == "film":
        return {"camera": "film", "film_mm": camera.figures["mm"]}
    return {"camera": "auto"}


def depth_m(depth: NDArray[np.floating]) -> dict[str, float]:
    """Nearest, farthest and middle distance in metres."""
    values = {"min": depth.min(), "max": depth.max(), "median": np.median(depth)}
    return {name: round(float(value), 4) for name, value in values.items()}


def record(scaled: Scaled) -> dict[str, Any]:
    """``{depth_m{min, max, median}, focal_px, camera}`` of a picture."""
    camera = scaled.measured.camera
    return {
        "depth_m": depth_m(scaled.depth()),
        "focal_px": round(camera.focal_px, 3),
        "camera": camera_record(camera),
    }


@dataclass(frozen=True)
class Place:
    """Where the files of one picture go: ``folder / base + ending``."""

    folder: Path
    base: str

    def path(self, ending: str) -> Path:
        return self.folder / f"{self.base}{ending}"


def place_for(folder: Path, name: str) -> Place:
    """A name nothing in ``folder`` has yet."""
    return Place(folder, free_path(folder, f"{safe_stem(name)}-depth", ".png").stem)


def save_picture(
    scaled: Scaled, rgb: NDArray[np.uint8], result: Result, place: Place, kinds: Sequence[str] = KINDS
) -> list[Path]:
    """The files of one picture.

    Args:
        scaled: the picture's depth.
        rgb: ``[H, W, 3]`` uint8, the picture.
        result: of the run.
        place: where to.
        kinds: which of "depth" (colours and legend), "depth16" (16-bit PNG), "array" (.npy), "normals", "confidence"
            and "cloud" (.ply and .glb); normals only where the network gives them.

    Raises:
        OutputError: the disk is full or the folder cannot be written.
    """
    measured, depth = scaled.measured, scaled.depth()
    settings, note = settings_of(result, measured.camera, scaled.factor), note_of(result)
    files: list[Path] = []
    if "depth" in kinds:
        scale = scale_of(depth)
        settled = settings | {"legend_m": [round(scale.near, 4), round(scale.far, 4)]}
        files.append(write_png(place.path(".png"), with_legend(paint(depth, scale), scale, note=note), settled))
    if "depth16" in kinds:
        files.append(write_bytes(place.path("-16bit.png"), depth_png(depth, settings)))
    if "array" in kinds:
        files.append(write_bytes(place.path(".npy"), _npy(depth)))
    normals = measured.normals() if "normals" in kinds else None
    if normals is not None:
        files.append(write_png(place.path("-normals.png"), normal_colours(normals), settings))
    if "confidence" in kinds:
        files.append(write_png(place.path("-confidence.png"), paint_confidence(measured.confidence()), settings))
    if "cloud" in kinds:
        files += save_cloud(scaled, rgb, settings, place)
    files.append(write_json(place.path(".json"), {"picture": measured.name, **record(scaled), "settings": settings}))
    return files


def save_cloud(scaled: Scaled, rgb: NDArray[np.uint8], settings: Mapping[str, Any], place: Place) -> tuple[Path, Path]:
    """The picture's points as PLY, and as a surface in GLB.

    Raises:
        InputError: nothing but edges.
        OutputError: as ``save_picture``.
    """
    camera, blur = scaled.measured.camera.intrinsics, 1 / scaled.measured.framing.scale
    depth = scaled.depth()
    points = point_cloud(grid_of(depth, rgb, camera, blur=blur), settings)
    joined = surface(grid_of(depth, rgb, camera, most=SURFACE_POINTS, blur=blur), settings)
    return write_bytes(place.path("-cloud.ply"), points), write_bytes(place.path("-cloud.glb"), joined)


def depth_png(depth: Floats, settings: Mapping[str, Any]) -> bytes:
    """``[H, W]`` metres as a 16-bit grey PNG; 0 is unknown.

    One step is a millimetre, or 5 mm where something is farther than 65.5 m: "metres_per_unit" in the settings inside.
    """
    unit = FINE_UNIT_M if float(depth.max()) <= FINE_UNIT_M * 65535 else COARSE_UNIT_M
    info = PngInfo()
    info.add_itxt("anyhost", json.dumps({**settings, "metres_per_unit": unit}, ensure_ascii=False))
    buffer = BytesIO()
    Image.fromarray(np.round(depth / unit).clip(0, 65535).astype(np.uint16)).save(buffer, "PNG", pnginfo=info)
    return buffer.getvalue()


def _npy(array: Floats) -> bytes:
    buffer = BytesIO()
    np.save(buffer, np.ascontiguousarray(array, np.float32), allow_pickle=False)
    return buffer.getvalue()


# --- clips ------------------------------------------------------------------------------------------------------


def clip_scale(clip: MeasuredClip) -> Scale:
    """One scale for all frames, so that a colour means the same distance throughout."""
    return scale_of(*(depth.astype(np.float32) for depth in clip.depths))


def save_clip(clip: MeasuredClip, result: Result, folder: Path) -> list[Path]:
    """The depth of a clip as a video with a legend, and its figures as JSON.

    Raises:
        OutputError: the disk is full or the folder cannot be written.
    """
    place = Place(folder, free_path(folder, f"{safe_stem(clip.name)}-depth", ".mp4").stem)
    scale, note = clip_scale(clip), note_of(result)
    settings = settings_of(result, clip.camera) | {"legend_m": [round(scale.near, 4), round(scale.far, 4)]}
    rate = (len(clip.seconds) - 1) / (clip.seconds[-1] - clip.seconds[0]) if len(clip.seconds) > 1 else 1.0
    with ClipWriter(place.path(".mp4"), fps=min(max(rate, 1.0), 120.0), settings=settings) as writer:
        for depth, seconds in zip(clip.depths, clip.seconds, strict=True):
            coloured = paint(depth.astype(np.float32), scale)
            large = cv2.resize(coloured, None, fx=_enlarged(clip), fy=_enlarged(clip), interpolation=cv2.INTER_LINEAR)
            writer.write(with_legend(np.asarray(large, np.uint8), scale, note=note), seconds)
    data = write_json(place.path(".json"), {"clip": clip.name, **clip_record(clip), "settings": settings})
    return [place.path(".mp4"), data]


def _enlarged(clip: MeasuredClip) -> float:
    """Legends of tiny clips could not be read."""
    return max(1.0, 320 / max(clip.depths[0].shape))


def clip_record(clip: MeasuredClip) -> dict[str, Any]:
    """``{depth_m, focal_px, camera, frames[{seconds, median}]}`` of a clip."""
    whole = np.stack([depth.astype(np.float32) for depth in clip.depths])
    medians = [round(float(np.median(depth)), 4) for depth in whole]
    return {
        "depth_m": depth_m(whole),
        "focal_px": round(clip.camera.focal_px, 3),
        "camera": camera_record(clip.camera),
        "frames": [{"seconds": round(s, 4), "median_m": m} for s, m in zip(clip.seconds, medians, strict=True)],
    }

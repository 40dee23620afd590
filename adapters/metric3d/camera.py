"""Which camera took a picture: typed, from EXIF, from a field of view, or assumed and said so.

Metres depend on the focal length in pixels: twice as long a lens, twice as far a scene.
"""

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from adapters.metric3d.geometry import Intrinsics
from kit.exif import CameraTags
from loader.errors import InputError

FILM_DIAGONAL_MM = math.hypot(36.0, 24.0)
ASSUMED_FOV = 60.0  # degrees along the longer side, between a phone's main camera (67) and a compact zoomed in (45)
FOV_LIMITS = (3.0, 150.0)  # degrees along the diagonal: from an 800 mm telephoto lens to a fisheye
FILM_LIMITS_MM = (5.0, 900.0)
CROPPED_ABOVE = 0.03  # of the aspect ratio

# Main cameras by their 35 mm equivalent, as their makers state it.
PRESETS: Mapping[str, float] = {
    "phone_main": 26.0,
    "phone_main_wide": 24.0,
    "phone_ultrawide": 13.0,
    "phone_tele_2x": 52.0,
    "phone_tele_3x": 77.0,
    "webcam": 28.0,
    "action": 16.0,
}
# Longer side of the sensor in mm, for cameras that write a focal length and no 35 mm equivalent. First match counts.
SENSORS: tuple[tuple[str, float], ...] = (
    (r"canon eos (1ds|1d x|5d|6d|r(p|[13568](m\d)?)?$)", 36.0),
    (r"canon eos 1d", 27.9),
    (r"canon (eos|powershot g1 x mark iii)", 22.3),
    (r"canon powershot (g[579] x|g1 x)", 13.2),
    (r"nikon.* (d[3-6][sx]?$|d[678]\d0[ae]?$|df$|z ?([5-9](_\d)?|f)$)", 35.9),
    (r"nikon.* (d\d{2,4}|z ?(fc|30|50))", 23.5),
    (r"sony.*(ilce-[179]|dsc-rx1\b|ilca-99)", 35.8),
    (r"sony.*(ilce|ilca|nex)", 23.5),
    (r"sony.*dsc-rx100", 13.2),
    (r"fujifilm.*gfx", 43.8),
    (r"fujifilm.*x-", 23.5),
    (r"(olympus|om digital).*(e-|om-)", 17.3),
    (r"panasonic.*dmc-g|panasonic.*dc-g", 17.3),
    (r"panasonic.*dc-s", 35.6),
    (r"leica.*(m1[01]|sl|q[23]?)", 36.0),
    (r"dji.*(fc6310|fc6510|l1d)", 13.2),
    (r"dji.*(fc220|fc330|fc300)", 6.17),
    (r"gopro.*hero", 6.17),
)


@dataclass(frozen=True)
class CameraWish:
    """What the user says of the camera; nothing said means: read the file, else assume.

    Attributes:
        fx: focal length across in pixels of the picture; ``fy`` is the one down, the same if not given.
        cx: column of the principal point; ``cy`` its row; the middle if not given.
        fov: degrees along the longer side.
        film_mm: 35 mm equivalent, compared along the diagonal.
        calibrated_size: height and width the pixels of ``fx`` to ``cy`` refer to; None for the picture's own.
    """

    fx: float | None = None
    fy: float | None = None
    cx: float | None = None
    cy: float | None = None
    fov: float | None = None
    film_mm: float | None = None
    calibrated_size: tuple[int, int] | None = None

    def __post_init__(self) -> None:
        given = {n: v for n, v in vars(self).items() if n != "calibrated_size" and v is not None}
        for name, value in given.items():
            if not math.isfinite(value):
                raise InputError(f"{name} is {value}: write a finite number, or leave it out")
        if sum(name in given for name in ("fx", "fov", "film_mm")) > 1:
            raise InputError("focal length, field of view and 35 mm equivalent say the same thing: give one of them")
        if not given.keys() & {"fx"} and given.keys() & {"fy", "cx", "cy"}:
            raise InputError("fy, cx and cy need fx beside them: the focal length across, in pixels")
        if self.film_mm is not None and not FILM_LIMITS_MM[0] <= self.film_mm <= FILM_LIMITS_MM[1]:
            raise InputError(f"a 35 mm equivalent lies between 5 and 900 mm, got {self.film_mm:g}")
        if self.fov is not None and not FOV_LIMITS[0] <= self.fov <= FOV_LIMITS[1]:
            raise InputError(f"a field of view lies between 3 and 150 degrees, got {self.fov:g}")


@dataclass(frozen=True)
class Camera:
    """The camera a picture is measured with.

    Attributes:
        intrinsics: in pixels of the picture.
        source: where it is from: "typed", "fov", "film", "exif_film", "exif_plane", "exif_sensor" or "assumed".
        figures: for the words about the source.
        doubt: why EXIF was not used: "", "none", "implausible" or "cropped".
    """

    intrinsics: Intrinsics
    source: str
    figures: Mapping[str, float | str] = field(default_factory=dict)
    doubt: str = ""

    @property
    def focal_px(self) -> float:
        """The mean of both focal lengths."""
        return self.intrinsics.focal_px


def camera_of(picture_size: tuple[int, int], wish: CameraWish, tags: CameraTags | None = None) -> Camera:
    """The camera of a picture.

    Args:
        picture_size: height and width, upright.
        wish: what the user says; it goes before everything else.
        tags: of the picture's file, None for one that can have none (a video).

    Raises:
        InputError: a focal length or principal point no camera of such pictures has; with the limits.
    """
    if wish.fx is not None:
        return Camera(_typed(picture_size, wish, wish.fx), "typed")
    if wish.fov is not None:
        focal = max(picture_size) / 2 / math.tan(math.radians(wish.fov) / 2)
        return Camera(_centred(picture_size, focal), "fov", {"fov": wish.fov})
    if wish.film_mm is not None:
        return Camera(_centred(picture_size, _of_film(picture_size, wish.film_mm)), "film", {"mm": wish.film_mm})
    found = _from_tags(picture_size, tags)
    if isinstance(found, Camera):
        return found
    doubt, figures = found
    focal = max(picture_size) / 2 / math.tan(math.radians(ASSUMED_FOV) / 2)
    return Camera(_centred(picture_size, focal), "assumed", {"fov": ASSUMED_FOV, **figures}, doubt)


def field_of_view(picture_size: tuple[int, int], focal_px: float) -> float:
    """Degrees along the longer side."""
    return math.degrees(2 * math.atan(max(picture_size) / 2 / focal_px))


def read_intrinsics(path: Path) -> CameraWish:
    """A camera from a JSON file: ``{"fx", "fy", "cx", "cy"}``, or a 3×3 matrix as "K" or "camera_matrix".

    "width" and "height" beside it are the size it was calibrated at; pictures of another size are scaled for.

    Raises:
        InputError: no such file; the message shows what one looks like.
    """
    example = 'write {"fx": 1000, "fy": 1000, "cx": 640, "cy": 360}, or {"K": [[fx, 0, cx], [0, fy, cy], [0, 0, 1]]}'
    try:
        read = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{path.name} cannot be read as JSON ({error}): {example}") from error
    if not isinstance(read, dict):
        raise InputError(f"{path.name} holds no camera: {example}")
    matrix = read.get("K", read.get("camera_matrix"))
    try:
        numbers = _of_matrix(matrix) if matrix is not None else {n: float(read[n]) for n in ("fx", "fy", "cx", "cy")}
        size = (int(read["height"]), int(read["width"])) if {"width", "height"} <= read.keys() else None
    except (KeyError, TypeError, ValueError, IndexError) as error:
        raise InputError(f"{path.name} lacks a number of a camera ({error}): {example}") from error
    return CameraWish(**numbers, calibrated_size=size)


def _of_matrix(matrix: Any) -> dict[str, float]:
    rows: Any = matrix.get("data") if isinstance(matrix, dict) else matrix
    flat = [float(n) for row in rows for n in (row if isinstance(row, list) else [row])]
    if len(flat) != 9:
        raise ValueError(f"a matrix of 9 numbers is needed, got {len(flat)}")
    return {"fx": flat[0], "fy": flat[4], "cx": flat[2], "cy": flat[5]}


# --- focal lengths ----------------------------------------------------------------------------------------------


def _typed(size: tuple[int, int], wish: CameraWish, fx: float) -> Intrinsics:
    height, width = size
    scale = _scale_from(size, wish.calibrated_size)
    fy = wish.fy if wish.fy is not None else fx
    for name, value, side in (("fx", fx * scale, width), ("fy", fy * scale, height)):
        low, high = (max(size) / 2 / math.tan(math.radians(fov) / 2) for fov in (FOV_LIMITS[1], FOV_LIMITS[0]))
        if not low <= value <= high:
            raise InputError(
                f"{name} {value:g} px is no focal length of a picture {width}×{height}: {side} pixels would lie within "
                f"{_degrees(side, value)}. Between {low:.0f} and {high:.0f} px are possible; a phone has about "
                f"{_of_film(size, 26):.0f}"
            )
    cx = wish.cx * scale if wish.cx is not None else width / 2
    cy = wish.cy * scale if wish.cy is not None else height / 2
    for name, value, side in (("cx", cx, width), ("cy", cy, height)):
        if not 0 <= value <= side:
            raise InputError(
                f"{name} {value:g} lies outside the picture: between 0 and {side}, usually about {side / 2:g}"
            )
    return Intrinsics(fx * scale, fy * scale, cx, cy)


def _degrees(side: int, focal: float) -> str:
    return f"{math.degrees(2 * math.atan(side / 2 / focal)):.1f} degrees" if focal > 0 else "no angle at all"


def _scale_from(size: tuple[int, int], calibrated: tuple[int, int] | None) -> float:
    if calibrated is None or calibrated == size:
        return 1.0
    scales = (size[0] / max(calibrated[0], 1), size[1] / max(calibrated[1], 1))
    if min(calibrated) < 1 or abs(scales[0] / scales[1] - 1) > CROPPED_ABOVE:
        raise InputError(
            f"the camera was calibrated at {calibrated[1]}×{calibrated[0]} pixels and the picture has "
            f"{size[1]}×{size[0]}, another shape: calibrate at this size, or send the uncropped picture"
        )
    return scales[1]


def _centred(size: tuple[int, int], focal: float) -> Intrinsics:
    return Intrinsics(focal, focal, size[1] / 2, size[0] / 2)


def _of_film(size: tuple[int, int], film_mm: float) -> float:
    return film_mm * math.hypot(*size) / FILM_DIAGONAL_MM


def _from_tags(size: tuple[int, int], tags: CameraTags | None) -> Camera | tuple[str, dict[str, float | str]]:
    """The camera EXIF tells of, or why it is not believed."""
    if tags is None:
        return "", {}
    focal, source, figures = _tagged_focal(size, tags)
    if focal is None:
        return "none", {}
    if tags.recorded_size and abs(_aspect(tags.recorded_size) / _aspect(size) - 1) > CROPPED_ABOVE:
        height, width = tags.recorded_size
        return "cropped", {"recorded": f"{width}×{height}"}
    seen = math.degrees(2 * math.atan(math.hypot(*size) / 2 / focal))
    if not FOV_LIMITS[0] <= seen <= FOV_LIMITS[1]:
        return "implausible", {"seen": f"{seen:.1f}"}
    return Camera(_centred(size, focal), source, figures)


def _tagged_focal(size: tuple[int, int], tags: CameraTags) -> tuple[float | None, str, dict[str, float | str]]:
    """Focal length in pixels by the most telling tags, with the source and its figures."""
    if tags.focal_35mm:
        return _of_film(size, tags.focal_35mm), "exif_film", {"mm": tags.focal_35mm}
    if tags.focal_mm and tags.plane_px_per_mm and tags.recorded_size:
        scale = max(size) / max(tags.recorded_size)
        return tags.focal_mm * tags.plane_px_per_mm * scale, "exif_plane", {"mm": tags.focal_mm}
    sensor = _sensor_mm(tags.maker)
    if tags.focal_mm and sensor:
        figures: dict[str, float | str] = {"mm": tags.focal_mm, "sensor": sensor, "camera": tags.maker}
        return tags.focal_mm * max(size) / sensor, "exif_sensor", figures
    return None, "", {}


def _sensor_mm(maker: str) -> float | None:
    return next((width for pattern, width in SENSORS if re.search(pattern, maker.lower())), None)


def _aspect(size: tuple[int, int]) -> float:
    return max(size) / min(size)

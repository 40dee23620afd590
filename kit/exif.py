"""What a picture file says about the camera that took it."""

import math
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

# Exif 2.32 (CIPA DC-008), section 4.6.
MAKE, MODEL = 0x010F, 0x0110
EXIF_IFD = 0x8769
FOCAL_LENGTH, FOCAL_LENGTH_35MM = 0x920A, 0xA405
PIXEL_WIDTH, PIXEL_HEIGHT = 0xA002, 0xA003
PLANE_X_RESOLUTION, PLANE_UNIT = 0xA20E, 0xA210
# Millimetres in the unit of the focal plane's resolution; 4 and 5 are not in the standard but in files.
UNIT_MM = {2: 25.4, 3: 10.0, 4: 1.0, 5: 0.001}


@dataclass(frozen=True)
class CameraTags:
    """Numbers are greater than 0 and finite; None where the file has none or nonsense.

    Attributes:
        maker: company and model as written, "" if not.
        focal_mm: focal length of the lens.
        focal_35mm: the one of the same field of view on 36×24 mm film, compared along the diagonal.
        plane_px_per_mm: pixels of the recorded picture in a millimetre of the sensor.
        recorded_size: height and width the camera recorded, before anyone resized or cropped.
    """

    maker: str = ""
    focal_mm: float | None = None
    focal_35mm: float | None = None
    plane_px_per_mm: float | None = None
    recorded_size: tuple[int, int] | None = None


def camera_tags(path: str | Path) -> CameraTags:
    """The camera's part of a file's EXIF data; empty where there is none or it cannot be read."""
    try:
        with warnings.catch_warnings():
            # Pillow warns of damaged tags; what is left of them is judged below.
            warnings.simplefilter("ignore")
            with Image.open(path) as image:
                exif = image.getexif()
                return _tags(dict(exif), dict(exif.get_ifd(EXIF_IFD)))
    except (OSError, ValueError, SyntaxError, TypeError, KeyError):
        return CameraTags()


def _tags(main: dict[int, Any], shot: dict[int, Any]) -> CameraTags:
    resolution, unit = _positive(shot.get(PLANE_X_RESOLUTION)), UNIT_MM.get(shot.get(PLANE_UNIT, 2))
    height, width = _positive(shot.get(PIXEL_HEIGHT)), _positive(shot.get(PIXEL_WIDTH))
    return CameraTags(
        maker=" ".join(_text(main.get(tag)) for tag in (MAKE, MODEL)).strip(),
        focal_mm=_positive(shot.get(FOCAL_LENGTH)),
        focal_35mm=_positive(shot.get(FOCAL_LENGTH_35MM)),
        plane_px_per_mm=resolution / unit if resolution and unit else None,
        recorded_size=(round(height), round(width)) if height and width else None,
    )


def _positive(value: object) -> float | None:
    try:
        number = float(value)  # type: ignore[arg-type]  # whatever it is, it is a number or it is not
    except (TypeError, ValueError, ZeroDivisionError):
        return None
    return number if math.isfinite(number) and number > 0 else None


def _text(value: object) -> str:
    return value.replace("\0", "").strip() if isinstance(value, str) else ""

"""Distances between points of a measured picture."""

import math
from dataclasses import dataclass

import numpy as np

from adapters.metric3d.geometry import Floats, Intrinsics
from loader.errors import InputError

AROUND = 2  # pixels to each side whose median is taken: a click meets the thing, not one pixel of it
SCALE_LIMITS = (0.05, 20.0)


@dataclass(frozen=True)
class Point:
    """A pixel and where it lies.

    Attributes:
        column: of the picture.
        row: of the picture.
        xyz: metres from the camera: right, down, forward.
    """

    column: int
    row: int
    xyz: tuple[float, float, float]

    @property
    def distance(self) -> float:
        """Metres from the camera, along the ray."""
        return math.hypot(*self.xyz)


def point_at(depth: Floats, camera: Intrinsics, column: int, row: int) -> Point:
    """The point seen at a pixel of ``depth`` ``[H, W]`` in metres.

    Raises:
        InputError: the pixel lies outside the picture.
    """
    height, width = depth.shape
    if not (0 <= column < width and 0 <= row < height):
        raise InputError(f"pixel ({column}, {row}) lies outside the picture of {width}×{height}: click inside it")
    around = depth[max(0, row - AROUND) : row + AROUND + 1, max(0, column - AROUND) : column + AROUND + 1]
    z = float(np.median(around))
    return Point(column, row, ((column - camera.cx) / camera.fx * z, (row - camera.cy) / camera.fy * z, z))


def length(first: Point, second: Point) -> float:
    """Metres between two points, in a straight line."""
    return math.dist(first.xyz, second.xyz)


def calibration(measured: float, known: float) -> float:
    """The factor by which every depth is multiplied so that a length of ``measured`` metres becomes ``known``.

    It acts as a focal length so many times as long would where canonical metres become real ones; the angles between
    rays stay the camera's, so that every length in the picture, across as well as away, grows by the same factor.

    Raises:
        InputError: a length of nothing, or a factor that says the camera is another one altogether.
    """
    if not (math.isfinite(known) and known > 0):
        raise InputError(f"a known length is a number of metres greater than 0, got {known}")
    if not measured > 0:
        raise InputError("both points lie at the same place: click two that are apart")
    factor = known / measured
    if not SCALE_LIMITS[0] <= factor <= SCALE_LIMITS[1]:
        raise InputError(
            f"{known:g} m instead of {measured:.3g} m would multiply everything by {factor:.3g}; between "
            f"{SCALE_LIMITS[0]:g} and {SCALE_LIMITS[1]:g} is possible: check points, unit (metres) and camera"
        )
    return factor

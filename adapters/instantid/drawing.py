"""The pictures InstantID is told about a face with: its five keypoints, and the rectangle it may act in.

Source: InstantID/InstantID @ 2145b67.
"""

import math

import cv2
import numpy as np
from numpy.typing import ArrayLike, NDArray
from PIL import Image

from loader.errors import InputError

# Left eye, right eye, nose, left and right corner of the mouth, as seen in the picture.
COLOURS = ((255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 0), (255, 0, 255))
LIMBS = ((0, 2), (1, 2), (3, 2), (4, 2))
LIMB_HALF_WIDTH = 4
LIMB_BRIGHTNESS = 0.6
POINT_RADIUS = 10


def draw_kps(size: tuple[int, int], kps: ArrayLike) -> Image.Image:
    """Draw the five keypoints as IdentityNet was trained to read them.

    Args:
        size: width and height in pixels, of the picture they were found in.
        kps: ``[5, 2]`` x and y in pixels; left eye, right eye, nose, left and right corner of the mouth. They may lie
            outside the picture.

    Returns:
        RGB picture: a dimmed line from each outer point to the nose, a bright disc on each point, on black.

    Raises:
        InputError: not five finite points.
    """
    points = np.asarray(kps)
    if points.shape != (5, 2) or not np.isfinite(points).all():
        raise InputError(f"a face is drawn from 5 finite keypoints (x, y), got an array of shape {points.shape}")
    width, height = size
    canvas = np.zeros((height, width, 3))
    for start, end in LIMBS:
        cv2.fillConvexPoly(canvas, _limb(points[[start, end]]), COLOURS[start])
    picture = (canvas * LIMB_BRIGHTNESS).astype(np.uint8)
    for (x, y), colour in zip(points, COLOURS, strict=True):
        cv2.circle(picture, (int(x), int(y)), POINT_RADIUS, colour, cv2.FILLED)
    return Image.fromarray(picture)


def _limb(ends: NDArray[np.floating]) -> NDArray[np.int32]:
    """An ellipse along the line between two points; whole numbers by truncation, as the training pictures had."""
    x, y = ends.T
    length = ((x[0] - x[1]) ** 2 + (y[0] - y[1]) ** 2) ** 0.5
    angle = math.degrees(math.atan2(y[0] - y[1], x[0] - x[1]))
    centre = (int(np.mean(x)), int(np.mean(y)))
    return np.asarray(cv2.ellipse2Poly(centre, (int(length / 2), LIMB_HALF_WIDTH), int(angle), 0, 360, 1), np.int32)


def face_region(size: tuple[int, int], box: ArrayLike) -> NDArray[np.float32]:
    """The rectangle of a face, 1 inside and 0 outside; outside it the prompt alone decides.

    Args:
        size: width and height in pixels.
        box: x and y of two corners in pixels; clamped to the picture (upstream lets negative ones empty the mask).

    Returns:
        ``[height, width]``.

    Raises:
        InputError: no pixel of the box lies in the picture.
    """
    width, height = size
    left, top, right, bottom = (int(side) for side in np.asarray(box))
    left, right = max(left, 0), min(right, width)
    top, bottom = max(top, 0), min(bottom, height)
    if left >= right or top >= bottom:
        raise InputError(f"the face lies outside the {width}x{height} picture; choose a face within it")
    region = np.zeros((height, width), np.float32)
    region[top:bottom, left:right] = 1
    return region

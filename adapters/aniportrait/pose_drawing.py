"""Pose pictures: the contours of a face mesh as coloured lines on black, which the pose guider reads.

Implements ``src/utils/draw_util.py`` of Zejun-Yang/AniPortrait (commit 7f6593f): 114 lines two pixels thick on a square
of 512 pixels, then scaled to the clip's size, in the byte order BGR. Vertex numbers are MediaPipe's.
"""

from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

CANVAS, THICKNESS = 512, 2
Bytes = NDArray[np.uint8]
Colour = tuple[int, int, int]


class Contour(NamedTuple):
    """Lines along paths of vertices, in one colour (blue, green, red)."""

    colour: Colour
    paths: tuple[tuple[int, ...], ...]


# The jaw from temple to temple; the forehead is left out. "Left" is the person's own.
JAW = (251, 389, 356, 454, 323, 361, 288, 397, 365, 379, 378, 400, 377, 152, 148, 176, 149, 150, 136, 172, 58, 132, 93)
CONTOURS = (
    Contour((10, 200, 10), ((*JAW, 234, 127, 162, 21),)),
    Contour(
        (180, 200, 10),
        ((263, 249, 390, 373, 374, 380, 381, 382, 362), (263, 466, 388, 387, 386, 385, 384, 398, 362)),
    ),
    Contour((180, 220, 10), ((276, 283, 282, 295, 285), (300, 293, 334, 296, 336))),
    Contour((10, 200, 180), ((33, 7, 163, 144, 145, 153, 154, 155, 133), (33, 246, 161, 160, 159, 158, 157, 173, 133))),
    Contour((10, 220, 180), ((46, 53, 52, 65, 55), (70, 63, 105, 66, 107))),
    Contour((10, 180, 20), ((61, 146, 91, 181, 84, 17),)),
    Contour((20, 10, 180), ((17, 314, 405, 321, 375, 291),)),
    Contour((100, 100, 30), ((78, 95, 88, 178, 87, 14),)),
    Contour((100, 150, 50), ((14, 317, 402, 318, 324, 308),)),
    Contour((20, 80, 100), ((61, 185, 40, 39, 37, 0),)),
    Contour((80, 100, 20), ((0, 267, 269, 270, 409, 291),)),
    Contour((120, 100, 200), ((78, 191, 80, 81, 82, 13),)),
    Contour((150, 120, 100), ((13, 312, 311, 310, 415, 308),)),
)


def lines() -> list[tuple[int, int, Colour]]:
    """Start, end and colour of each line, in the order drawn."""
    return [
        (start, end, contour.colour) for contour in CONTOURS for path in contour.paths for start, end in pairwise(path)
    ]


def draw_pose(points: NDArray[np.floating], size: tuple[int, int]) -> Bytes:
    """The pose picture of one face.

    Args:
        points: ``[>= 468, 2 or more]``: x and y as shares of width and height. Lines to points outside are left out.
        size: height and width of the picture; another shape than a square distorts the face, as upstream does.

    Returns:
        ``[H, W, 3]`` BGR.
    """
    shares = points[:, :2].astype(np.float32)
    inside = np.asarray(_inside(shares).all(axis=1))
    pixels = np.minimum(np.floor(shares * np.float32(CANVAS)), CANVAS - 1)
    canvas = np.zeros((CANVAS, CANVAS, 3), np.uint8)
    for start, end, colour in lines():
        if inside[start] and inside[end]:
            first, last = (tuple(int(value) for value in pixels[place]) for place in (start, end))
            cv2.line(canvas, first, last, colour, THICKNESS)
    if size == (CANVAS, CANVAS):
        return canvas
    return np.asarray(cv2.resize(canvas, (size[1], size[0])), np.uint8)


def _inside(shares: NDArray[np.float32]) -> NDArray[np.bool_]:
    """Between 0 and 1, either reached within what Python's ``math.isclose`` grants."""
    tolerant = np.abs(shares - 1) <= 1e-9 * np.maximum(np.abs(shares), 1)
    return ((shares >= 0) & (shares <= 1)) | tolerant


def overlay(picture: Bytes, points: NDArray[np.floating]) -> Bytes:
    """A picture ``[H, W, 3]`` RGB with the face's contours drawn over it, to see whether they fit."""
    height, width = picture.shape[:2]
    drawn = picture.copy()
    scale = np.array([width, height])
    thickness = max(1, round(max(height, width) / 300))
    for start, end, colour in lines():
        first, last = (tuple(int(v) for v in np.round(points[place, :2] * scale)) for place in (start, end))
        cv2.line(drawn, first, last, colour[::-1], thickness, cv2.LINE_AA)
    return drawn


def draw_poses(tracks: Sequence[NDArray[np.floating]], size: tuple[int, int]) -> Bytes:
    """Pose pictures ``[F, H, W, 3]`` BGR of faces, see ``draw_pose``."""
    return np.stack([draw_pose(points, size) for points in tracks])

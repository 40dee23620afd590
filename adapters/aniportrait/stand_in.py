"""A stand-in for the face landmarker where its file is not to be had: it looks for no face.

A head of our own making, of as many vertices as the landmarker's and with the contours in their places, is laid over
whatever stands out from the picture's border. Whoever uses it has to say so.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from torch import nn

from adapters.aniportrait.face_geometry import HALF_VIEW, VERTICES, Floats, Head, pose_matrix, project
from adapters.aniportrait.landmarker import EXPRESSIONS, POINTS, Face
from adapters.aniportrait.pose_drawing import CONTOURS, JAW

HALF_WIDTH, HALF_HEIGHT, HALF_DEPTH = 7.2, 9.2, 6.0  # centimetres
STANDS_OUT = 24.0  # of 255: difference from the border's colour
LEAST_SHARE = 0.01  # of the picture that has to stand out
HEAD_SHARE = 0.8  # how much of what stands out the head takes
LOOK_SIDE = 128  # longer side of what is looked at
FOREHEAD = (21, 54, 103, 67, 109, 10, 338, 297, 332, 284, 251)


def stand_in_mesh() -> Floats:
    """A head ``[468, 3]`` in centimetres: x right, y up, z out of the face."""
    flat = _scattered()
    jaw = np.radians(np.linspace(35, -215, len(JAW) + 4))
    _put(flat, (*JAW, 234, 127, 162, 21), HALF_WIDTH * np.cos(jaw), HALF_HEIGHT * np.sin(jaw))
    top = np.radians(np.linspace(145, 35, len(FOREHEAD)))
    _put(flat, FOREHEAD, HALF_WIDTH * np.cos(top), HALF_HEIGHT * np.sin(top))
    for contour, side in ((CONTOURS[1], 1.0), (CONTOURS[3], -1.0)):
        for path, sign in zip(contour.paths, (-1.0, 1.0), strict=True):
            _arc(flat, path, (side * 4.6, 1.9), (side * 1.7, 1.9), sign * 0.55)
    for contour, side in ((CONTOURS[2], 1.0), (CONTOURS[4], -1.0)):
        for path, height in zip(contour.paths, (3.6, 4.2), strict=True):
            _arc(flat, path, (side * 5.2, height - 0.3), (side * 1.2, height), 0.5)
    lips = {5: (-2.4, 0.0, -0.9), 6: (0.0, 2.4, -0.9), 7: (-1.9, 0.0, -0.25), 8: (0.0, 1.9, -0.25)}
    lips |= {9: (-2.4, 0.0, 0.7), 10: (0.0, 2.4, 0.7), 11: (-1.9, 0.0, 0.2), 12: (0.0, 1.9, 0.2)}
    for index, (start, end, bulge) in lips.items():
        width = max(abs(start), abs(end))
        x = np.linspace(start, end, len(CONTOURS[index].paths[0]))
        _put(flat, CONTOURS[index].paths[0], x, -4.4 + bulge * (1 - (x / width) ** 2))
    depth = np.sqrt(np.clip(1 - (flat[:, 0] / 8.5) ** 2 - (flat[:, 1] / 11) ** 2, 0.02, 1))
    return np.concatenate((flat, HALF_DEPTH * depth[:, None]), axis=1)


def _scattered() -> Floats:
    """Vertices no contour names, evenly over the face: a sunflower's seeds."""
    number = np.arange(VERTICES)
    radius, angle = np.sqrt((number + 0.5) / VERTICES) * 0.95, number * np.pi * (3 - np.sqrt(5))
    return np.stack((HALF_WIDTH * radius * np.cos(angle), HALF_HEIGHT * radius * np.sin(angle)), axis=1)


def _put(flat: Floats, path: Sequence[int], x: Floats, y: Floats) -> None:
    flat[list(path), 0], flat[list(path), 1] = x, y


def _arc(flat: Floats, path: Sequence[int], start: tuple[float, float], end: tuple[float, float], bulge: float) -> None:
    share = np.linspace(0, 1, len(path))
    along = np.outer(1 - share, start) + np.outer(share, end)
    _put(flat, path, along[:, 0], along[:, 1] + bulge * 4 * share * (1 - share))


class StandInFace(nn.Module):
    """Called as the landmarker is; without parameters."""

    def forward(self, picture: NDArray[np.uint8], near: tuple[float, float] | None = None) -> Face | None:
        """The stand-in head over what stands out of ``picture [H, W, 3]``; None where nothing does."""
        del near
        box = standing_out(picture)
        return None if box is None else stand_in_face((picture.shape[0], picture.shape[1]), box)


def stand_in_face(size: tuple[int, int], box: tuple[float, float, float, float]) -> Face:
    """The stand-in head in a box (left, top, right, bottom in pixels) of a picture of ``size``."""
    height, width = size
    mesh = stand_in_mesh()
    extent = max((box[3] - box[1]) * HEAD_SHARE, 1.0)
    # Far enough that its height fills the box, and moved to its middle.
    away = 2 * HALF_HEIGHT / np.tan(HALF_VIEW) * height / (2 * extent)
    centre = np.array([(box[0] + box[2]) / width - 1, 1 - (box[1] + box[3]) / height])
    place = centre * np.tan(HALF_VIEW) * away * np.array([width / height, 1.0])
    pose = pose_matrix(np.array([0.0, 0.0, 0.0, *place, -away]))
    points = np.zeros((POINTS, 3), np.float32)
    points[:VERTICES, :2] = project(mesh, pose, size) / np.array([width, height])
    points[VERTICES:] = points[0]
    return Face(points, np.zeros(EXPRESSIONS - 1, np.float32), Head(mesh, pose), size, 1.0)


def standing_out(picture: NDArray[np.uint8]) -> tuple[float, float, float, float] | None:
    """Left, top, right and bottom of what differs from the picture's upper corners, None if next to nothing does."""
    step = max(1, max(picture.shape[:2]) // LOOK_SIDE)
    small = picture[::step, ::step].astype(np.float64)
    edge = max(1, min(small.shape[:2]) // 12)
    ground = np.median(np.concatenate((small[:edge, :edge], small[:edge, -edge:])).reshape(-1, 3), axis=0)
    differs = np.abs(small - ground).max(axis=2) > STANDS_OUT
    if differs.mean() < LEAST_SHARE:
        return None
    rows, columns = np.nonzero(differs)
    low, high = np.percentile(columns, (5, 95)), np.percentile(rows, (5, 95))
    return float(low[0] * step), float(high[0] * step), float((low[1] + 1) * step), float((high[1] + 1) * step)

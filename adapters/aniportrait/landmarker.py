"""Finding a face and its 478 points: MediaPipe's Face Landmarker on torch.

Implements the graphs ``face_detector`` and ``face_landmarker`` of google-ai-edge/mediapipe (Apache-2.0) for single
pictures: BlazeFace (arXiv 1907.05047) finds faces in the whole picture at 128 x 128, the landmark network (arXiv
1907.06724) looks at a turned square around one of them at 256 x 256, a third network turns points into 52 weights of
facial expressions. ``face_landmarker.task`` holds all three and the canonical head.
"""

import zipfile
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from adapters.aniportrait.face_geometry import Head, HeadModel, head_of, read_head_model
from adapters.aniportrait.tflite import TfliteNetwork, read_graph
from loader.errors import WeightsCorruptError

Rgb = NDArray[np.uint8]
Points = NDArray[np.float32]
MEMBERS = ("face_detector.tflite", "face_landmarks_detector.tflite", "face_blendshapes.tflite")
GEOMETRY = "geometry_pipeline_metadata_landmarks.binarypb"
DETECTOR_SIDE, MESH_SIDE = 128, 256
SURE, SAME_FACE = 0.5, 0.3
ROOM = 1.5  # side of the square that is looked at, in sides of the detected box
POINTS, KEYPOINTS, EXPRESSIONS = 478, 6, 52
# Points the expression network reads.
EXPRESSIVE = (
    *(0, 1, 4, 5, 6, 7, 8, 10, 13, 14, 17, 21, 33, 37, 39, 40, 46, 52, 53, 54, 55, 58, 61, 63, 65, 66, 67, 70, 78, 80),
    *(81, 82, 84, 87, 88, 91, 93, 95, 103, 105, 107, 109, 127, 132, 133, 136, 144, 145, 146, 148, 149, 150, 152, 153),
    *(154, 155, 157, 158, 159, 160, 161, 162, 163, 168, 172, 173, 176, 178, 181, 185, 191, 195, 197, 234, 246, 249),
    *(251, 263, 267, 269, 270, 276, 282, 283, 284, 285, 288, 291, 293, 295, 296, 297, 300, 308, 310, 311, 312, 314),
    *(317, 318, 321, 323, 324, 332, 334, 336, 338, 356, 361, 362, 365, 373, 374, 375, 377, 378, 379, 380, 381, 382),
    *(384, 385, 386, 387, 388, 389, 390, 397, 398, 400, 402, 405, 409, 415, 454, 466),
    *range(468, 478),
)


@dataclass(frozen=True, eq=False)
class Face:
    """A face as found.

    Attributes:
        points: ``[478, 3]``: x and y as shares of width and height, z as x, smaller is nearer.
        expression: ``[51]`` weights 0..1 of how far the face is from a neutral one.
        head: its mesh and pose.
        size: height and width of the picture.
        score: how sure the detector is, 0..1.
        others: how many further faces there are in the picture.
    """

    points: Points
    expression: Points
    head: Head
    size: tuple[int, int]
    score: float
    others: int = 0

    @property
    def box(self) -> tuple[float, float, float, float]:
        """Left, top, right and bottom of its points, in pixels."""
        scale = np.array([self.size[1], self.size[0]])
        low, high = self.points[:, :2].min(axis=0) * scale, self.points[:, :2].max(axis=0) * scale
        return float(low[0]), float(low[1]), float(high[0]), float(high[1])


class Detection(NamedTuple):
    """A box as shares of the picture, the eyes as such, and how sure."""

    centre: NDArray[np.float64]
    extent: NDArray[np.float64]
    eyes: NDArray[np.float64]
    score: float


class FaceLandmarker(nn.Module):
    """All of it as one component. Buffers only, so that it costs nothing to place; fp32.

    Args:
        detector: ``[1, 128, 128, 3]`` in -1..1 to boxes ``[1, 896, 16]`` and scores ``[1, 896, 1]``.
        mesh: ``[1, 256, 256, 3]`` in 0..1 to points ``[1, 1, 1, 1434]`` and a score.
        expressions: ``[1, 146, 2]`` pixels to ``[52]`` weights.
        model: the canonical head.
    """

    def __init__(self, detector: nn.Module, mesh: nn.Module, expressions: nn.Module, model: HeadModel) -> None:
        super().__init__()
        self.detector, self.mesh, self.expressions = detector, mesh, expressions
        self._model, self._anchors = model, anchors()

    def forward(self, picture: Rgb, near: tuple[float, float] | None = None) -> Face | None:
        """The face of a picture, None if there is none.

        Args:
            picture: ``[H, W, 3]`` RGB.
            near: x and y as shares; of several faces the nearest to it is taken, without it the largest.
        """
        found = self.detect(picture)
        if not found:
            return None
        if near is None:
            chosen = max(found, key=lambda d: float(d.extent.prod()))
        else:
            chosen = min(found, key=lambda d: float(np.linalg.norm(d.centre - np.asarray(near))))
        points = self._points(picture, chosen)
        if points is None:
            return None
        size = (picture.shape[0], picture.shape[1])
        pixels = torch.from_numpy(points[list(EXPRESSIVE), :2] * np.array([size[1], size[0]], np.float32))
        (weights,) = self.expressions(pixels[None])
        head = head_of(points.astype(np.float64), size, self._model)
        return Face(points, weights.numpy()[1:].copy(), head, size, chosen.score, len(found) - 1)

    def detect(self, picture: Rgb) -> list[Detection]:
        """Faces in a picture, the surest first."""
        height, width = picture.shape[:2]
        side = max(height, width)
        patch, into = _patch(picture, (width / 2, height / 2), (side, side), 0.0, DETECTOR_SIDE)
        boxes, scores = self.detector(torch.from_numpy(patch[None] * 2 - 1))
        values = boxes[0].numpy().astype(np.float64)
        chances = 1 / (1 + np.exp(-scores[0, :, 0].numpy().astype(np.float64).clip(-100, 100)))
        sure = chances >= SURE
        values, chances, at = values[sure], chances[sure], self._anchors[sure]
        found = np.concatenate(
            (
                values[:, 0:2] / DETECTOR_SIDE + at,
                values[:, 2:4] / DETECTOR_SIDE,
                (values[:, 4:].reshape(-1, KEYPOINTS, 2) / DETECTOR_SIDE + at[:, None]).reshape(-1, 2 * KEYPOINTS),
            ),
            axis=1,
        )
        return [_in_picture(row, score, into, (height, width)) for row, score in _merged(found, chances)]

    def _points(self, picture: Rgb, found: Detection) -> Points | None:
        """Points of the face in a picture, None if the network sees none there."""
        height, width = picture.shape[:2]
        scale = np.array([width, height])
        across = (found.eyes[1] - found.eyes[0]) * scale
        angle = float(np.arctan2(across[1], across[0]))
        extent = found.extent * scale * ROOM
        patch, into = _patch(picture, tuple(found.centre * scale), tuple(extent), angle, MESH_SIDE)
        points, presence = self.mesh(torch.from_numpy(patch[None]))[:2]
        if float(torch.sigmoid(presence.flatten()[0])) < SURE:
            return None
        raw = points.reshape(POINTS, 3).numpy().astype(np.float64)
        flat = np.concatenate((raw[:, :2], np.ones((POINTS, 1))), axis=1) @ into.T
        # The patch's width as it appears in shares of the picture: turned in a picture that is no square, not its own.
        depth = raw[:, 2:] / MESH_SIDE * np.linalg.norm(into[:, 0] * MESH_SIDE / scale)
        return np.concatenate((flat / scale, depth), axis=1).astype(np.float32)


def open_landmarker(path: Path) -> FaceLandmarker:
    """The landmarker of a ``.task`` file, a zip of its networks.

    Raises:
        WeightsCorruptError: not such a file, or a damaged one.
        WeightsError: networks that are not the published ones.
    """
    try:
        with zipfile.ZipFile(BytesIO(path.read_bytes())) as archive:
            detector, mesh, expressions = (TfliteNetwork(read_graph(archive.read(name), name)) for name in MEMBERS)
            model = read_head_model(archive.read(GEOMETRY))
    except (zipfile.BadZipFile, KeyError, OSError) as error:
        raise WeightsCorruptError(
            f"{path.name} is no face landmarker (a zip with {', '.join((*MEMBERS, GEOMETRY))}): {error}; fetch it again"
        ) from error
    return FaceLandmarker(detector, mesh, expressions, model)


def anchors() -> NDArray[np.float64]:
    """Centres ``[896, 2]`` of the detector's boxes as shares: two for each of 16 x 16 places, six for each of 8 x 8."""
    centres = []
    for count, repeats in ((16, 2), (8, 6)):
        places = (np.arange(count) + 0.5) / count
        down, along = np.meshgrid(places, places, indexing="ij")
        centres.append(np.repeat(np.stack((along, down), axis=-1).reshape(-1, 2), repeats, axis=0))
    return np.concatenate(centres)


def _patch(
    picture: Rgb, centre: tuple[float, ...], extent: tuple[float, ...], angle: float, side: int
) -> tuple[NDArray[np.float32], NDArray[np.float64]]:
    """A turned rectangle of a picture as ``[side, side, 3]`` 0..1, black outside, and ``[2, 3]`` from there back."""
    cosine, sine = np.cos(angle), np.sin(angle)
    along = np.array([cosine, sine]) * extent[0] / side
    down = np.array([-sine, cosine]) * extent[1] / side
    corner = np.asarray(centre) - (along + down) * side / 2
    into = np.stack((along, down, corner), axis=1)
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    patch = cv2.warpAffine(picture, into, (side, side), flags=flags, borderMode=cv2.BORDER_CONSTANT)
    return np.asarray(patch, np.float32) / np.float32(255), into


def _merged(found: NDArray[np.float64], chances: NDArray[np.float64]) -> list[tuple[NDArray[np.float64], float]]:
    """Boxes of one face as their mean weighted by score, the surest first."""
    left = list(np.argsort(-chances, kind="stable"))
    merged = []
    while left:
        best = left[0]
        same = [place for place in left if _overlap(found[best], found[place]) > SAME_FACE]
        weights = chances[same][:, None]
        merged.append(((found[same] * weights).sum(axis=0) / weights.sum(), float(chances[best])))
        left = [place for place in left if place not in set(same) | {best}]
    return merged


def _overlap(first: NDArray[np.float64], second: NDArray[np.float64]) -> float:
    low = np.maximum(first[:2] - first[2:4] / 2, second[:2] - second[2:4] / 2)
    high = np.minimum(first[:2] + first[2:4] / 2, second[:2] + second[2:4] / 2)
    shared = float((high - low).clip(min=0).prod())
    return shared / float(first[2:4].prod() + second[2:4].prod() - shared)


def _in_picture(row: NDArray[np.float64], score: float, into: NDArray[np.float64], size: tuple[int, int]) -> Detection:
    scale = np.array([size[1], size[0]])
    points = np.concatenate((row[None, :2], row[4:].reshape(KEYPOINTS, 2))) * DETECTOR_SIDE
    placed = (np.concatenate((points, np.ones((len(points), 1))), axis=1) @ into.T) / scale
    extent = row[2:4] * DETECTOR_SIDE * into[0, 0] / scale
    return Detection(placed[0], extent, placed[1:3], score)

"""From 478 points in a picture to a head in space: its mesh in centimetres and where it stands before a camera.

Implements MediaPipe's face geometry (google-ai-edge/mediapipe, ``modules/face_geometry``, Apache-2.0): a camera of 63
degrees from top to bottom, a canonical mesh, and the weighted similarity that lays it over what was seen. The mesh and
its weights come with the landmark networks, in ``geometry_pipeline_metadata_landmarks.binarypb``. All arithmetic is
fp64; the axes are x right, y up, z towards the camera.
"""

import struct
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from loader.errors import WeightsCorruptError

Floats = NDArray[np.float64]
VERTICES = 468  # of the mesh; a landmarker's ten further points are irises
HALF_VIEW = np.radians(63.0 / 2)
NEAR, FAR = 1.0, 10_000.0
VERTEX_VALUES = 5  # x, y, z and two texture coordinates


@dataclass(frozen=True, eq=False)
class HeadModel:
    """The canonical head.

    Attributes:
        mesh: ``[468, 3]`` centimetres.
        weights: ``[468]``, how much each vertex counts when the head is laid over landmarks; 0 for most.
    """

    mesh: Floats
    weights: Floats


@dataclass(frozen=True, eq=False)
class Head:
    """A head as seen.

    Attributes:
        mesh: ``[468, 3]`` centimetres, where the canonical head stands.
        pose: ``[4, 4]``, from there to the camera.
    """

    mesh: Floats
    pose: Floats


def read_head_model(data: bytes) -> HeadModel:
    """The canonical head of a geometry file (a protobuf message ``GeometryPipelineMetadata``).

    Raises:
        WeightsCorruptError: not such a file.
    """
    try:
        fields = list(_fields(data))
        mesh = next(value for number, value in fields if number == 1)
        values = [value for number, value in _fields(mesh) if number == 3]
        buffer = np.frombuffer(b"".join(values), "<f4").astype(np.float64).reshape(-1, VERTEX_VALUES)
        weights = np.zeros(VERTICES)
        for entry in (value for number, value in fields if number == 2):
            basis = dict(_fields(entry))
            weights[int.from_bytes(basis.get(1, b"\0"), "little")] = struct.unpack("<f", basis[2])[0]
    except (StopIteration, IndexError, KeyError, ValueError, struct.error) as error:
        raise WeightsCorruptError(
            f"the face geometry ({len(data):,} bytes) cannot be read ({error}): fetch face_landmarker.task again"
        ) from error
    if len(buffer) != VERTICES or not weights.any():
        raise WeightsCorruptError(
            f"the face geometry has {len(buffer)} vertices and {int((weights > 0).sum())} weights, {VERTICES} and some "
            "were expected: fetch face_landmarker.task again"
        )
    return HeadModel(buffer[:, :3].copy(), weights)


def _fields(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Fields of a protobuf message as (number, bytes); whole numbers as little-endian bytes, floats as their four."""
    place = 0
    while place < len(data):
        key, place = _varint(data, place)
        kind = key & 7
        if kind == 0:
            value, place = _varint(data, place)
            yield key >> 3, value.to_bytes(8, "little")
            continue
        size = {1: 8, 5: 4}.get(kind)
        if kind == 2:
            size, place = _varint(data, place)
        if size is None or place + size > len(data):
            raise ValueError(f"field {key >> 3} of kind {kind} at byte {place}")
        yield key >> 3, data[place : place + size]
        place += size


def _varint(data: bytes, place: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[place]
        value |= (byte & 127) << shift
        place, shift = place + 1, shift + 7
        if byte < 128:
            return value, place


# --- from landmarks to a head -----------------------------------------------------------------------------------


def similarity(source: Floats, target: Floats, weights: Floats) -> Floats:
    """The rotation, uniform scale and translation that bring weighted points onto others with the least squares.

    Args:
        source: ``[N, 3]``.
        target: ``[N, 3]``.
        weights: ``[N]``, at least 0.

    Returns:
        ``[4, 4]``; its first column is as long as the scale.
    """
    share = (weights / weights.sum())[:, None]
    centred = source - (share * source).sum(axis=0)
    turned = (share * target).T @ centred
    left, _, right = np.linalg.svd(turned)
    # A mirrored head is never what was seen.
    handed = np.diag([1.0, 1.0, np.sign(np.linalg.det(left @ right))])
    rotation = left @ handed @ right
    scale = np.trace(turned.T @ rotation) / (share * centred**2).sum()
    matrix = np.eye(4)
    matrix[:3, :3] = scale * rotation
    matrix[:3, 3] = (share * (target - source @ matrix[:3, :3].T)).sum(axis=0)
    return matrix


def head_of(landmarks: Floats, size: tuple[int, int], model: HeadModel) -> Head:
    """The head behind landmarks of a picture.

    Landmarks have depth only up to a scale; it is found twice, first flat, then with what that gives as distance.

    Args:
        landmarks: ``[>= 468, 3]``: x and y as shares of width and height from the upper left corner, z as x.
        size: height and width of the picture.
        model: the canonical head.
    """
    height, width = 2 * np.tan(HALF_VIEW), 2 * np.tan(HALF_VIEW) * size[1] / size[0]
    points = landmarks[:VERTICES].astype(np.float64)
    x = points[:, 0] * width - width / 2
    y = (1 - points[:, 1]) * height - height / 2
    z = points[:, 2] * width
    offset = z.mean()

    def scale_of(seen: Floats) -> float:
        return float(np.linalg.norm(similarity(model.mesh, seen, model.weights)[:3, 0]))

    def in_space(scale: float) -> Floats:
        depth = (z - offset + NEAR) / scale
        return np.stack((x * depth, y * depth, -depth), axis=1)

    first = scale_of(np.stack((x, y, -z), axis=1))
    seen = in_space(first * scale_of(in_space(first)))
    pose = similarity(model.mesh, seen, model.weights)
    return Head(transform(np.asarray(np.linalg.inv(pose), np.float64), seen), pose)


def transform(matrix: Floats, points: Floats) -> Floats:
    """``[N, 3]`` points by a ``[4, 4]`` matrix."""
    return np.asarray(points @ matrix[:3, :3].T + matrix[:3, 3])


# --- back into a picture ----------------------------------------------------------------------------------------


def project(mesh: Floats, pose: Floats, size: tuple[int, int]) -> Floats:
    """Where vertices appear in a picture.

    Upstream multiplies by its perspective matrix from the wrong side; what comes of it is the depth times
    far * near / (near - far), -1.0001, as divisor instead of -1. The networks were trained on such pictures.

    Args:
        mesh: ``[468, 3]`` centimetres.
        pose: ``[4, 4]`` to the camera.
        size: height and width of the picture.

    Returns:
        ``[468, 2]`` pixels, x and y from the upper left corner; they may lie outside.
    """
    height, width = size
    seen = transform(pose, mesh)
    divisor = seen[:, 2] * FAR * NEAR / (NEAR - FAR)
    focal = 1 / np.tan(HALF_VIEW)
    x = (focal * height / width * seen[:, 0] / divisor + 1) / 2 * width
    y = (-focal * seen[:, 1] / divisor + 1) / 2 * height
    return np.stack((x, y), axis=1)


def pose_matrix(vector: Floats) -> Floats:
    """``[6]`` Euler angles x, y, z about fixed axes in degrees, then a translation, as ``[4, 4]``."""
    matrix = np.eye(4)
    matrix[:3, :3] = _rotations(vector[None, :3])[0]
    matrix[:3, 3] = vector[3:]
    return matrix


def pose_vector(matrix: Floats) -> Floats:
    """``[4, 4]`` as ``[6]``: the reverse of ``pose_matrix``; a uniform scale is dropped."""
    from scipy.spatial.transform import Rotation

    # scipy takes the nearest rotation, but refuses a scaled one that is far from it.
    scale = np.cbrt(np.linalg.det(matrix[:3, :3]))
    angles = Rotation.from_matrix(matrix[:3, :3] / scale).as_euler("xyz", degrees=True)
    return np.concatenate((angles, matrix[:3, 3]))


def _rotations(degrees: Floats) -> Floats:
    from scipy.spatial.transform import Rotation

    return np.asarray(Rotation.from_euler("xyz", degrees, degrees=True).as_matrix())


def smooth(track: Floats, window: int) -> Floats:
    """Mean of each row of ``[F, D]`` with its neighbours, ``window // 2`` at either side as far as there are."""
    reach = window // 2
    return np.stack([track[max(0, i - reach) : i + reach + 1].mean(axis=0) for i in range(len(track))])

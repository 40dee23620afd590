"""Balls, boxes, cylinders and the room around them, and where rays meet them: all convex, all in closed form."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float32]
EPS = 1e-4


@dataclass(frozen=True)
class Solid:
    """A body, or a room seen from within.

    Attributes:
        shape: "ball", "box", "cylinder" (axis along its own y) or "room" (a box seen from inside).
        centre: ``[3]`` metres.
        half: ``[3]`` half extents along its own axes; of a ball and a cylinder the first is the radius.
        turn: ``[3, 3]``, columns are its own axes.
        material: number of the material; a room has four: floor, ceiling and two pairs of walls.
    """

    shape: str
    centre: Array
    half: Array
    turn: Array
    material: int

    @property
    def reach(self) -> float:
        """Radius of a ball around it."""
        if self.shape == "ball":
            return float(self.half[0])
        if self.shape == "cylinder":
            return float(np.hypot(self.half[0], self.half[1]))
        return float(np.linalg.norm(self.half))

    def inside(self, vectors: Array) -> Array:
        """``[3]`` or ``[N, 3]`` directions in its own axes."""
        return vectors @ self.turn


def _slab(origin: Array, direction: Array, half: float) -> tuple[Array, Array]:
    with np.errstate(divide="ignore", invalid="ignore"):
        first, second = (-half - origin) / direction, (half - origin) / direction
    return np.fmin(first, second), np.fmax(first, second)


def _box(origin: Array, direction: Array, half: Array) -> tuple[Array, Array]:
    near, far = _slab(origin[..., 0], direction[..., 0], half[0])
    for axis in (1, 2):
        low, high = _slab(origin[..., axis], direction[..., axis], half[axis])
        near, far = np.fmax(near, low), np.fmin(far, high)
    return near, far


def _dot(first: Array, second: Array, axes: tuple[int, ...]) -> Array:
    total: Array = first[..., axes[0]] * second[..., axes[0]]
    for axis in axes[1:]:
        total = total + first[..., axis] * second[..., axis]
    return total


def _round(origin: Array, direction: Array, radius: float, axes: tuple[int, ...]) -> tuple[Array, Array]:
    """Both crossings of a ball (three axes) or an endless cylinder (two); NaN where there are none."""
    # Never 0, or a ray along an endless cylinder's axis would meet nothing.
    a = np.maximum(_dot(direction, direction, axes), np.float32(1e-12))
    b = _dot(origin, direction, axes)
    c = _dot(origin, origin, axes) - np.float32(radius**2)
    with np.errstate(divide="ignore", invalid="ignore"):
        root = np.sqrt(b * b - a * c)
        return (-b - root) / a, (-b + root) / a


def crossings(solid: Solid, origins: Array, directions: Array) -> tuple[Array, Array]:
    """Where rays enter and leave.

    Args:
        solid: any.
        origins: ``[3]`` or ``[N, 3]``.
        directions: ``[N, 3]``, of any length.

    Returns:
        ``[N]`` each, in lengths of the direction; the ray meets the solid where the first is below the second (false
        for the NaN of rays that miss).
    """
    origin, direction = solid.inside(origins - solid.centre), solid.inside(directions)
    if solid.shape == "ball":
        return _round(origin, direction, float(solid.half[0]), (0, 1, 2))
    if solid.shape == "cylinder":
        near, far = _round(origin, direction, float(solid.half[0]), (0, 2))
        low, high = _slab(origin[..., 1], direction[..., 1], float(solid.half[1]))
        return np.maximum(near, low), np.minimum(far, high)
    return _box(origin, direction, solid.half)


def first_hit(solid: Solid, directions: Array) -> Array:
    """``[N]`` distances from the camera along ``directions`` ``[N, 3]``; infinite where there is no hit."""
    near, far = crossings(solid, np.zeros(3, np.float32), directions)
    if solid.shape == "room":
        return far
    with np.errstate(invalid="ignore"):
        return np.where((near < far) & (near > EPS), near, np.float32(np.inf))


def shadowed(solid: Solid, points: Array, towards: Array) -> NDArray[np.bool_]:
    """Whether ``solid`` stands between ``points`` ``[N, 3]`` and the light at ``points + towards``."""
    with np.errstate(divide="ignore", invalid="ignore"):
        along = np.clip(((solid.centre - points) * towards).sum(1) / (towards * towards).sum(1), 0, 1)
    miss = points + along[:, None] * towards - solid.centre
    near_line = np.flatnonzero((miss * miss).sum(1) < solid.reach**2)
    dark = np.zeros(len(points), bool)
    if len(near_line):
        near, far = crossings(solid, points[near_line], towards[near_line])
        with np.errstate(invalid="ignore"):
            dark[near_line] = (near < far) & (far > 1e-2) & (near < 1) & (np.maximum(near, 0) < far - 1e-3)
    return dark


@dataclass(frozen=True)
class Surface:
    """Where rays end on one solid: ``normal`` ``[N, 3]``, ``face`` ``[N]`` (axis 0..2), ``uv`` ``[N, 2]`` metres."""

    normal: Array
    face: NDArray[np.intp]
    uv: Array


def surface(solid: Solid, points: Array) -> Surface:
    """The surface of ``solid`` at ``points`` ``[N, 3]`` on it; of a room the inner one."""
    p = solid.inside(points - solid.centre)
    rows = np.arange(len(p))
    normal = np.zeros_like(p)
    if solid.shape == "ball":
        normal = p / solid.half[0]
        uv = solid.half[0] * np.stack([np.arctan2(p[:, 2], p[:, 0]), np.arcsin(np.clip(normal[:, 1], -1, 1))], 1)
        return Surface(normal @ solid.turn.T, np.zeros(len(p), np.intp), uv.astype(np.float32))
    if solid.shape == "cylinder":
        radius, height = solid.half[0], solid.half[1]
        cap = np.abs(p[:, 1]) / height > np.hypot(p[:, 0], p[:, 2]) / radius
        normal[:, 1] = np.sign(p[:, 1]) * cap
        normal[:, ::2] = p[:, ::2] / radius * ~cap[:, None]
        wound = np.stack([np.arctan2(p[:, 2], p[:, 0]) * radius, p[:, 1]], 1)
        return Surface(normal @ solid.turn.T, cap.astype(np.intp), np.where(cap[:, None], p[:, ::2], wound))
    face = np.argmax(np.abs(p) / solid.half, axis=1)
    sign = np.sign(p[rows, face])
    normal[rows, face] = -sign if solid.shape == "room" else sign
    flat = np.array([[2, 1], [0, 2], [0, 1]])[face]
    uv = np.take_along_axis(p, flat, axis=1)
    return Surface(normal @ solid.turn.T, face, uv)

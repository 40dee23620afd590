"""A small rasteriser in numpy: which triangle covers each pixel, and where inside it.

Enough for texture atlases and for turntable pictures of a mesh. Triangles are expanded into the pixels of their
bounding boxes, a chunk at a time; edge functions say which pixels are inside and a depth buffer which triangle is in
front (Pineda, "A Parallel Algorithm for Polygon Rasterization", 1988). Coordinates are OpenGL's.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.floating]
Ints = npt.NDArray[np.int64]
CANDIDATES_PER_CHUNK = 2**20


@dataclass(frozen=True)
class Raster:
    """What covers the pixels; row 0 is y = −1.

    Attributes:
        face: ``[H, W]`` index of the triangle in front, −1 where there is none.
        barycentric: ``[H, W, 3]`` perspective-correct weights of its corners, zero where there is none.
        depth: ``[H, W]`` its z / w, infinite where there is none.
    """

    face: Ints
    barycentric: Floats
    depth: Floats

    @property
    def covered(self) -> npt.NDArray[np.bool_]:
        """``[H, W]``."""
        return self.face >= 0

    def interpolate(self, values: Floats, faces: Ints) -> Floats:
        """Vertex ``values [V, C]`` at every pixel, ``[H, W, C]``; zero where nothing covers it.

        ``faces [F, 3]`` index ``values``; they may differ from the faces rasterised, as those of an atlas do.
        """
        out = np.zeros((*self.face.shape, values.shape[1]))
        covered = self.covered
        corners = values[faces[self.face[covered]]]
        out[covered] = np.einsum("pk,pkc->pc", self.barycentric[covered], corners)
        return out


def rasterise(positions: Floats, faces: Ints, height: int, width: int) -> Raster:
    """Draw triangles.

    Args:
        positions: ``[V, 4]`` clip coordinates x, y, z, w. Triangles with a corner at w ≤ 0 (behind the camera) are left
            out; there is no clipping. Of two triangles at a pixel the one of smaller z / w is seen.
        faces: ``[F, 3]``, of either winding.
        height: rows of pixels; row r has its centre at y = (r + 0.5) / height · 2 − 1.
        width: columns, likewise.
    """
    face = np.full(height * width, -1, np.int64)
    barycentric = np.zeros((height * width, 3))
    depth = np.full(height * width, np.inf)
    number = np.flatnonzero((positions[faces, 3] > 0).all(axis=1))
    corners = positions[faces[number]].astype(np.float64)
    screen = (corners[..., :2] / corners[..., 3:] + 1) / 2 * (width, height)
    low, high = _boxes(screen, height, width)
    for chunk in _chunks((high - low).prod(axis=1)):
        triangle, column, row = _candidates(low[chunk], high[chunk])
        triangle += chunk.start
        weights = _edge_weights(screen[triangle], np.stack((column, row), axis=1) + 0.5)
        inside = (weights >= 0).all(axis=1)
        triangle, weights = triangle[inside], weights[inside]
        pixel = row[inside] * width + column[inside]
        z = (weights * corners[triangle, :, 2] / corners[triangle, :, 3]).sum(axis=1)
        np.minimum.at(depth, pixel, z)
        front = z <= depth[pixel]
        triangle, weights, pixel = triangle[front], weights[front], pixel[front]
        weights = weights / corners[triangle, :, 3]
        face[pixel] = number[triangle]
        barycentric[pixel] = weights / weights.sum(axis=1, keepdims=True)
    shape = (height, width)
    return Raster(face.reshape(shape), barycentric.reshape(*shape, 3), depth.reshape(shape))


def _boxes(screen: Floats, height: int, width: int) -> tuple[Ints, Ints]:
    """First pixel, and the one after the last, whose centre can lie in each triangle ``[F, 3, 2]``; each ``[F, 2]``."""
    size = (width, height)
    low = np.clip(np.ceil(screen.min(axis=1) - 0.5), 0, size).astype(np.int64)
    high = np.clip(np.floor(screen.max(axis=1) - 0.5) + 1, 0, size).astype(np.int64)
    return low, np.maximum(low, high)


def _chunks(costs: Ints) -> list[slice]:
    """Consecutive triangles whose boxes together hold about a fixed number of pixels."""
    boundaries = np.searchsorted(
        np.cumsum(costs), np.arange(CANDIDATES_PER_CHUNK, costs.sum() + CANDIDATES_PER_CHUNK, CANDIDATES_PER_CHUNK)
    )
    stops = np.unique(np.append(boundaries + 1, len(costs)).clip(max=len(costs)))
    return [slice(int(start), int(stop)) for start, stop in zip([0, *stops[:-1]], stops, strict=True) if stop > start]


def _candidates(low: Ints, high: Ints) -> tuple[Ints, Ints, Ints]:
    """Every pixel of every box: number of the box, column, row."""
    width, height = (high - low).T
    count = width * height
    box = np.repeat(np.arange(len(count)), count)
    within = np.arange(len(box)) - np.repeat(np.cumsum(count) - count, count)
    return box, low[box, 0] + within % width[box], low[box, 1] + within // width[box]


def _edge_weights(corners: Floats, points: Floats) -> Floats:
    """Barycentric weights ``[N, 3]`` of ``points [N, 2]`` in triangles ``[N, 3, 2]``; negative for flat triangles."""
    offset = corners - points[:, None]
    after, before = np.roll(offset, -1, axis=1), np.roll(offset, 1, axis=1)
    areas = after[..., 0] * before[..., 1] - after[..., 1] * before[..., 0]
    total = areas.sum(axis=1, keepdims=True)
    return np.divide(areas, total, out=np.full_like(areas, -1.0), where=total != 0)

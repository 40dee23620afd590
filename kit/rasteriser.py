"""A small rasteriser in numpy: which triangle covers each pixel, and where inside it.

Enough for texture atlases and for turntable pictures of a mesh. Edge functions are linear in a pixel's place (Pineda,
"A Parallel Algorithm for Polygon Rasterization", 1988), so the pixels of a triangle in one row are an interval: rows of
triangles are expanded into exactly the pixels they cover, a chunk at a time, and a depth buffer says which triangle is
in front. Coordinates are OpenGL's.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.floating]
Ints = npt.NDArray[np.int64]
PIXELS_PER_CHUNK = 2**20
ON_EDGE = 1e-9
"""A pixel so little outside counts as inside, so that none between two triangles is lost to rounding."""


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


def rasterise(positions: Floats, faces: Ints, height: int, width: int, *, cull: bool = False) -> Raster:
    """Draw triangles.

    Args:
        positions: ``[V, 4]`` clip coordinates x, y, z, w. Triangles with a corner at w ≤ 0 (behind the camera) are left
            out; there is no clipping. Of two triangles at a pixel the one of smaller z / w is seen.
        faces: ``[F, 3]``, of either winding.
        height: rows of pixels; row r has its centre at y = (r + 0.5) / height · 2 − 1.
        width: columns, likewise.
        cull: leave out triangles whose corners run clockwise, the far side of a closed surface: half the work.
    """
    face = np.full(height * width, -1, np.int64)
    depth = np.full(height * width, np.inf)
    triangles = _Triangles.of(positions, faces, (width, height), cull=cull)
    spans = _spans(triangles, height, width)
    for chunk in _chunks(spans.count):
        span, column = _expanded(spans, chunk)
        triangle, row = spans.triangle[span], spans.row[span]
        pixel = row * width + column
        z = _plane(triangles.depth, triangle, column, row)
        np.minimum.at(depth, pixel, z)
        front = z <= depth[pixel]
        face[pixel[front]] = triangle[front]
    barycentric = np.zeros((height * width, 3))
    seen = np.flatnonzero(face >= 0)
    triangle = face[seen]
    weights = np.stack([_plane(edge, triangle, seen % width, seen // width) for edge in triangles.edges], axis=1).clip(
        min=0
    )
    weights /= triangles.w[triangle]
    barycentric[seen] = weights / weights.sum(axis=1, keepdims=True)
    face[seen] = triangles.number[triangle]
    shape = (height, width)
    return Raster(face.reshape(shape), barycentric.reshape(*shape, 3), depth.reshape(shape))


@dataclass(frozen=True)
class _Triangles:
    """Triangles that can be seen, in pixels.

    Attributes:
        number: ``[T]`` of each in the faces given.
        screen: ``[T, 3, 2]`` corners; pixel r, c has its centre at (c + 0.5, r + 0.5).
        w: ``[T, 3]``.
        edges: for each corner, the coefficients ``[3, T]`` of x, y and 1 of its barycentric weight.
        depth: those of z / w.
    """

    number: Ints
    screen: Floats
    w: Floats
    edges: tuple[Floats, Floats, Floats]
    depth: Floats

    @classmethod
    def of(cls, positions: Floats, faces: Ints, size: tuple[int, int], *, cull: bool) -> "_Triangles":
        number = np.flatnonzero((positions[faces, 3] > 0).all(axis=1))
        corners = positions[faces[number]].astype(np.float64)
        screen = (corners[..., :2] / corners[..., 3:] + 1) / 2 * size
        x, y = screen[..., 0], screen[..., 1]
        area = (x[:, 1] - x[:, 0]) * (y[:, 2] - y[:, 0]) - (y[:, 1] - y[:, 0]) * (x[:, 2] - x[:, 0])
        kept = area > 0 if cull else area != 0
        number, corners, screen, area = number[kept], corners[kept], screen[kept], area[kept]
        x, y = screen[..., 0], screen[..., 1]
        edges = []
        for corner in range(3):
            first, second = (corner + 1) % 3, (corner + 2) % 3
            across = (y[:, first] - y[:, second]) / area
            down = (x[:, second] - x[:, first]) / area
            edges.append(np.stack((across, down, -(across * x[:, first] + down * y[:, first]))))
        z = corners[..., 2] / corners[..., 3]
        depth = sum(edge * z[:, corner] for corner, edge in enumerate(edges))
        return cls(number, screen, corners[..., 3], (edges[0], edges[1], edges[2]), np.asarray(depth))


@dataclass(frozen=True)
class _Spans:
    """Rows of triangles: from ``first``, ``count`` columns of ``triangle`` in ``row``, each ``[S]``."""

    triangle: Ints
    row: Ints
    first: Ints
    count: Ints


def _plane(coefficients: Floats, triangle: Ints, column: Ints, row: Ints) -> Floats:
    """The linear function of each triangle at the centre of a pixel, ``[N]``."""
    across, down, constant = coefficients
    return np.asarray(across[triangle] * (column + 0.5) + (down[triangle] * (row + 0.5) + constant[triangle]))


def _spans(triangles: _Triangles, height: int, width: int) -> _Spans:
    """The rows of every triangle that cover a pixel's centre."""
    y = triangles.screen[..., 1]
    low = np.ceil(y.min(axis=1, initial=np.inf) - 0.5 - ON_EDGE).clip(0, height).astype(np.int64)
    high = (np.floor(y.max(axis=1, initial=-np.inf) - 0.5 + ON_EDGE) + 1).clip(0, height).astype(np.int64)
    rows = np.maximum(high - low, 0)
    triangle = np.repeat(np.arange(len(rows)), rows)
    row = low[triangle] + np.arange(len(triangle)) - np.repeat(np.cumsum(rows) - rows, rows)
    left = np.full(len(triangle), 0.5)
    right = np.full(len(triangle), width - 0.5)
    for edge in triangles.edges:
        across, constant = edge[0, triangle], edge[1, triangle] * (row + 0.5) + edge[2, triangle] + ON_EDGE
        bound = np.divide(-constant, across, out=np.zeros_like(across), where=across != 0)
        left = np.where(across > 0, np.maximum(left, bound), left)
        right = np.where(across < 0, np.minimum(right, bound), right)
        right = np.where((across == 0) & (constant < 0), -1.0, right)
    first = np.ceil(left - 0.5).astype(np.int64)
    count = np.floor(right - 0.5).astype(np.int64) + 1 - first
    kept = count > 0
    return _Spans(triangle[kept], row[kept], first[kept], count[kept])


def _chunks(costs: Ints) -> list[slice]:
    """Consecutive spans that together hold about a fixed number of pixels."""
    boundaries = np.searchsorted(
        np.cumsum(costs), np.arange(PIXELS_PER_CHUNK, costs.sum() + PIXELS_PER_CHUNK, PIXELS_PER_CHUNK)
    )
    stops = np.unique(np.append(boundaries + 1, len(costs)).clip(max=len(costs)))
    return [slice(int(start), int(stop)) for start, stop in zip([0, *stops[:-1]], stops, strict=True) if stop > start]


def _expanded(spans: _Spans, chunk: slice) -> tuple[Ints, Ints]:
    """Every pixel of the spans in ``chunk``: number of the span, column."""
    count = spans.count[chunk]
    within = np.repeat(np.arange(len(count)), count)
    offset = np.arange(len(within)) - np.repeat(np.cumsum(count) - count, count)
    return within + chunk.start, spans.first[chunk][within] + offset

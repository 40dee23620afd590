"""From a grid of signed distances to a clean, small mesh with vertex colours.

Follows ``svrm/ldm/models/svrm.py`` of Tencent/Hunyuan3D-1 (commit af913e6). Its PyMCubes is replaced by scikit-image's
marching cubes (Lorensen and Cline, 1987), its Open3D clustering and smoothing by the same steps in numpy and scipy, its
quadric decimation (Garland and Heckbert, 1997) by fast-simplification.
"""

from dataclasses import dataclass
from pathlib import Path

import fast_simplification
import numpy as np
import numpy.typing as npt
from scipy import sparse
from skimage import measure

from loader.errors import InputError

Floats = npt.NDArray[np.floating]
Faces = npt.NDArray[np.int64]
CLUSTER_CELL = 0.007
"""Side of the cells whose vertices become one; the object is 1.2 across."""
SMOOTHING_PASSES = 2
OBJ_AXES = [1, 2, 0]
"""Axes of the written files: their (x, y, z) is the world's (y, z, x), which makes y point up."""


@dataclass(frozen=True)
class Mesh:
    """A triangle mesh.

    Attributes:
        vertices: ``[V, 3]`` in world units.
        faces: ``[F, 3]`` vertex indices, counter-clockwise seen from outside.
    """

    vertices: Floats
    faces: Faces

    @property
    def volume(self) -> float:
        """Signed volume; positive if a closed mesh winds outwards."""
        corners = self.vertices[self.faces].astype(np.float64)
        return float(np.einsum("ij,ij->", corners[:, 0], np.cross(corners[:, 1], corners[:, 2])) / 6)


def extract(sdf: Floats) -> Mesh:
    """The surface where ``sdf [X, Y, Z]`` (positive outside) is zero, vertices in units of grid cells.

    Raises:
        InputError: no surface crosses the grid.
    """
    if not sdf.min() < 0 < sdf.max():
        raise InputError(
            f"no surface: distances run from {sdf.min():.3g} to {sdf.max():.3g} and must change sign; "
            "try another seed or a clearer picture"
        )
    # With the original table, on the volume with its axes reversed, scikit-image gives PyMCubes' very triangles. The
    # reversal mirrors the mesh; naming the descent an ascent turns its faces outwards again.
    vertices, faces, _, _ = measure.marching_cubes(sdf.T, 0.0, gradient_direction="ascent", method="lorensen")
    return Mesh(vertices[:, ::-1].astype(np.float64), faces.astype(np.int64))


def to_world(mesh: Mesh, size: int, extent: float) -> Mesh:
    """From grid cells to world units, for a grid of ``size`` points over ±``extent`` an axis."""
    return Mesh(mesh.vertices / (size - 1) * (2 * extent) - extent, mesh.faces)


def _without_repeats(faces: Faces) -> Faces:
    """Faces of three different vertices, each once; the same corners in the same cyclic order are one face."""
    distinct = (faces != np.roll(faces, 1, axis=1)).all(axis=1)
    faces = faces[distinct]
    start = faces.argmin(axis=1)[:, None]
    canonical = np.take_along_axis(faces, (start + np.arange(3)) % 3, axis=1)
    _, first = np.unique(canonical, axis=0, return_index=True)
    return faces[np.sort(first)]


def _merged(mesh: Mesh, label: npt.NDArray[np.int64]) -> Mesh:
    """Vertices of equal label replaced by their mean, in the order the labels first occur; collapsed faces dropped."""
    _, first, inverse = np.unique(label, return_index=True, return_inverse=True)
    rank = np.empty(len(first), np.int64)
    rank[np.argsort(first)] = np.arange(len(first))
    index = rank[inverse.reshape(-1)]
    count = np.bincount(index)
    means = [np.bincount(index, weights=axis) / count for axis in mesh.vertices.T.astype(np.float64)]
    return Mesh(np.stack(means, axis=1), _without_repeats(index[mesh.faces]))


def drop_unused(mesh: Mesh) -> Mesh:
    """Without vertices that no face uses."""
    used, inverse = np.unique(mesh.faces, return_inverse=True)
    return Mesh(mesh.vertices[used], inverse.reshape(-1, 3).astype(np.int64))


def drop_duplicates(mesh: Mesh) -> Mesh:
    """With vertices at exactly one place made one, and without faces that repeat another."""
    _, label = np.unique(mesh.vertices, axis=0, return_inverse=True)
    return _merged(mesh, label.reshape(-1))


def drop_folded(mesh: Mesh) -> Mesh:
    """Without pairs of faces on the same three corners back to back, which clustering leaves where it closes a gap.

    Upstream keeps them; a closed surface stays closed without.
    """
    _, same, count = np.unique(np.sort(mesh.faces, axis=1), axis=0, return_inverse=True, return_counts=True)
    return drop_unused(Mesh(mesh.vertices, mesh.faces[count[same.reshape(-1)] != 2]))


def cluster(mesh: Mesh, cell: float = CLUSTER_CELL) -> Mesh:
    """One vertex, the mean, for each occupied cell of a grid that starts half a cell below the least coordinates."""
    cells = np.floor((mesh.vertices - (mesh.vertices.min(axis=0) - cell / 2)) / cell).astype(np.int64)
    extent = cells.max(axis=0) + 1
    return _merged(mesh, np.ravel_multi_index(tuple(cells.T), tuple(extent)))


def smooth(mesh: Mesh, passes: int = SMOOTHING_PASSES) -> Mesh:
    """Each vertex to the mean of itself and its neighbours, all at once, ``passes`` times."""
    count = len(mesh.vertices)
    ends = mesh.faces[:, [0, 1, 1, 2, 2, 0]].reshape(-1, 2)
    ends = np.unique(np.concatenate((ends, ends[:, ::-1])), axis=0)
    adjacency = sparse.csr_array((np.ones(len(ends)), (ends[:, 0], ends[:, 1])), shape=(count, count))
    neighbours = adjacency.sum(axis=1)[:, None]
    vertices = mesh.vertices
    for _ in range(passes):
        vertices = (vertices + adjacency @ vertices) / (1 + neighbours)
    return Mesh(vertices, mesh.faces)


def refine(mesh: Mesh) -> Mesh:
    """The raw surface in world units, cleaned, clustered and smoothed; vertices in fp32."""
    mesh = smooth(cluster(drop_duplicates(drop_unused(mesh))))
    return Mesh(mesh.vertices.astype(np.float32), mesh.faces)


def decimate(mesh: Mesh, target_faces: int) -> Mesh:
    """With at most ``target_faces`` faces where quadric decimation gets there; unchanged if it has no more already."""
    if len(mesh.faces) <= target_faces:
        return mesh
    vertices, faces = fast_simplification.simplify(
        mesh.vertices.astype(np.float32), mesh.faces.astype(np.int32), target_count=target_faces
    )[:2]
    return drop_unused(Mesh(vertices.astype(np.float32), _without_repeats(faces.astype(np.int64))))


def outward(mesh: Mesh) -> Mesh:
    """Wound so that the signed volume is not negative."""
    return mesh if mesh.volume >= 0 else Mesh(mesh.vertices, mesh.faces[:, ::-1].copy())


def from_sdf(sdf: Floats, extent: float, target_faces: int) -> Mesh:
    """The whole way from ``sdf [n, n, n]`` over ±``extent`` to a mesh of at most ``target_faces`` faces.

    Raises:
        InputError: no surface crosses the grid.
    """
    return outward(decimate(refine(to_world(extract(sdf), len(sdf), extent)), target_faces))


def write_coloured_obj(path: Path, mesh: Mesh, colours: Floats) -> None:
    """Wavefront OBJ with a colour after each vertex; ``colours [V, 3]`` in 0 .. 1."""
    rows = np.concatenate((mesh.vertices[:, OBJ_AXES], colours), axis=1)
    with path.open("w") as file:
        np.savetxt(file, rows, fmt="v %f %f %f %f %f %f")
        np.savetxt(file, mesh.faces + 1, fmt="f %d %d %d")

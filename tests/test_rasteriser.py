"""The rasteriser: coverage, depth, perspective, and meshes drawn whole."""

import time

import numpy as np
import pytest

from adapters.hunyuan3d import mesh
from kit.rasteriser import rasterise
from tests.hunyuan3d_cases import analytic_sdf

EXTENT = 0.6


def clip(*points):
    return np.array([[x, y, z, 1.0] for x, y, z in points])


def test_a_square_of_two_triangles_covers_each_pixel_once():
    raster = rasterise(clip((-1, -1, 0), (1, -1, 0), (1, 1, 0), (-1, 1, 0)), np.array([[0, 1, 2], [0, 2, 3]]), 6, 8)
    assert raster.covered.all()
    values = raster.interpolate(np.array([[-1.0, -1], [1, -1], [1, 1], [-1, 1]]), np.array([[0, 1, 2], [0, 2, 3]]))
    np.testing.assert_allclose(values[0, 0], [-1 + 1 / 8, -1 + 1 / 6])
    np.testing.assert_allclose(values[5, 7], [1 - 1 / 8, 1 - 1 / 6])
    assert (raster.face[0, 1:] == 0).all()
    assert (raster.face[-1, :-1] == 1).all()


def test_the_nearer_triangle_is_seen_whatever_the_order_or_winding():
    near, far = [(-1, -1, -0.5), (3, -1, -0.5), (-1, 3, -0.5)], [(-1, -1, 0.5), (-1, 3, 0.5), (3, -1, 0.5)]
    for points, front in ((near + far, 0), (far + near, 1)):
        raster = rasterise(clip(*points), np.array([[0, 1, 2], [3, 4, 5]]), 4, 4)
        assert (raster.face == front).all()
        np.testing.assert_allclose(raster.depth, -0.5)


def test_interpolation_is_correct_in_perspective():
    corners = np.array([[-1, -1, 2], [1, -1, 6], [1, 1, 6], [-1, 1, 2]], float)
    projected = np.concatenate((corners[:, :2] * 2, corners[:, 2:] - 1, corners[:, 2:]), axis=1)
    faces = np.array([[0, 1, 2], [0, 2, 3]])
    raster = rasterise(projected, faces, 40, 40)
    seen = raster.interpolate(corners, faces)[raster.covered]
    rows, columns = np.nonzero(raster.covered)
    np.testing.assert_allclose(seen[:, 0] * 2 / seen[:, 2], (columns + 0.5) / 20 - 1, atol=1e-9)
    np.testing.assert_allclose(seen[:, 1] * 2 / seen[:, 2], (rows + 0.5) / 20 - 1, atol=1e-9)
    assert (raster.interpolate(corners, faces)[~raster.covered] == 0).all()


def test_triangles_behind_flat_or_outside_leave_no_trace():
    points = clip((-1, -1, 0), (1, -1, 0), (0, 1, 0), (0, 0, 0), (5, 5, 0), (6, 5, 0), (5, 6, 0))
    points[0, 3] = -1.0
    raster = rasterise(points, np.array([[0, 1, 2], [1, 2, 2], [4, 5, 6]]), 5, 5)
    assert not raster.covered.any()
    assert np.isinf(raster.depth).all()
    assert not rasterise(points, np.zeros((0, 3), np.int64), 5, 5).covered.any()


def test_chunks_do_not_show(monkeypatch):
    ball = mesh.from_sdf(analytic_sdf("sphere", 24), EXTENT, 10**6)
    positions = np.concatenate((ball.vertices, np.ones((len(ball.vertices), 1))), axis=1)
    whole = rasterise(positions, ball.faces, 50, 60)
    monkeypatch.setattr("kit.rasteriser.PIXELS_PER_CHUNK", 7)
    pieces = rasterise(positions, ball.faces, 50, 60)
    np.testing.assert_array_equal(whole.depth, pieces.depth)
    np.testing.assert_allclose(
        whole.interpolate(ball.vertices, ball.faces), pieces.interpolate(ball.vertices, ball.faces), atol=1e-6
    )
    front = whole.interpolate(ball.vertices, ball.faces)[25, 30]
    assert front[2] == pytest.approx(-0.3755, abs=0.02)


def covered_by(points, faces, **kwargs):
    return rasterise(points, np.array(faces), 24, 24, **kwargs).covered


def test_neighbours_share_an_edge_without_gap_or_overlap():
    """A fan of triangles with corners on pixel centres: every pixel of the square is covered, by one of them."""
    ring = [(-0.75, -0.75), (0.0, -0.75), (0.75, -0.75), (0.75, 0.25), (0.75, 0.75), (-0.25, 0.75), (-0.75, 0.75)]
    points = clip((0.04166667, -0.04166667, 0), *((x, y, 0) for x, y in ring))
    faces = [[0, k, k % len(ring) + 1] for k in range(1, len(ring) + 1)]
    whole = covered_by(
        clip((-0.75, -0.75, 0), (0.75, -0.75, 0), (0.75, 0.75, 0), (-0.75, 0.75, 0)), [[0, 1, 2], [0, 2, 3]]
    )
    np.testing.assert_array_equal(covered_by(points, faces), whole)
    assert whole.sum() == 18 * 18


def test_culling_leaves_out_what_turns_away():
    ball = mesh.from_sdf(analytic_sdf("sphere", 32), EXTENT, 10**6)
    # Seen along +z, with the depth growing away from the eye.
    positions = np.concatenate((ball.vertices * (1, 1, -1), np.ones((len(ball.vertices), 1))), axis=1)
    both, near = (rasterise(positions, ball.faces, 60, 60, cull=cull) for cull in (False, True))
    np.testing.assert_allclose(both.depth, near.depth)
    away = rasterise(positions, ball.faces[:, ::-1], 60, 60, cull=True)
    inside = both.covered & away.covered
    assert (away.depth[inside] >= both.depth[inside] - 1e-9).all()
    assert away.depth[30, 30] > both.depth[30, 30] + 0.5


def test_weights_are_a_partition_of_one():
    ball = mesh.from_sdf(analytic_sdf("torus", 40), EXTENT, 3000)
    positions = np.concatenate((ball.vertices, np.ones((len(ball.vertices), 1))), axis=1)
    raster = rasterise(positions, ball.faces, 90, 110)
    np.testing.assert_allclose(raster.barycentric[raster.covered].sum(axis=1), 1)
    assert (raster.barycentric >= 0).all()


def test_drawing_grows_with_the_pixels_covered_and_not_with_the_boxes():
    """Thin triangles across the picture: their boxes hold a hundred times the pixels that they cover."""
    count = 400
    spread = np.linspace(-1, 1, count)
    points = np.zeros((3 * count, 4))
    points[:, 3] = 1
    points[0::3, :2] = np.stack((spread, np.full(count, -1.0)), axis=1)
    points[1::3, :2] = np.stack((-spread, np.full(count, 1.0)), axis=1)
    points[2::3, :2] = np.stack((-spread + 0.004, np.full(count, 1.0)), axis=1)
    started = time.process_time()
    rasterise(points, np.arange(3 * count).reshape(-1, 3), 512, 512)
    assert time.process_time() - started < 2.0

"""From planes to files: the grid, the mesh, the texture, and the rasteriser under it."""

import numpy as np
import pytest
import torch
import trimesh
from scipy.spatial import cKDTree

from adapters.hunyuan3d import cameras, grid, mesh, prepare, texture
from adapters.hunyuan3d.mesh import Mesh
from adapters.hunyuan3d.networks import build
from loader.errors import InputError
from loader.measure import PeakMeter
from tests.hunyuan3d_cases import analytic_sdf, assert_case, network, normal, seven_views, svrm_tiny
from tests.parity.case import case

EXTENT = float(np.float32(0.6))


def as_trimesh(surface):
    return trimesh.Trimesh(surface.vertices, surface.faces, process=False)


def assert_like(surface, stats, *, rtol):
    """Same counts; bounds, area and mean within ``rtol``."""
    shown = as_trimesh(surface)
    assert (len(surface.vertices), len(surface.faces)) == (stats["n_vertices"], stats["n_faces"])
    assert shown.area == pytest.approx(stats["area"], rel=rtol)
    scale = np.ptp(stats["bounds"])
    np.testing.assert_allclose(shown.bounds, stats["bounds"], atol=rtol * scale)
    np.testing.assert_allclose(shown.vertices.mean(axis=0), stats["vertex_mean"], atol=rtol * scale)


# The grid


def test_tables_equal_queries():
    decoder = network("triplane_decoder", "svrm", triplane_dim=8)
    planes = normal(1, 3, 8, 16, 24, seed=41) * 2
    for extent in (0.6, 0.60009765625):
        ticks = torch.linspace(-extent, extent, 13)
        points = torch.stack(torch.meshgrid(ticks, ticks, ticks, indexing="ij"), dim=-1).reshape(1, -1, 3)
        queried = grid.decode_points(decoder, planes, points).sdf.view(13, 13, 13)
        for chunk in (1, 50, 10**6):
            tabled = grid.sdf_grid(decoder, planes, 13, extent=extent, cells_per_chunk=chunk)
            torch.testing.assert_close(tabled, queried, atol=2e-6, rtol=1e-5)


def test_grid_case():
    description, tensors = case("hunyuan3d", "triplane_decode_tiny")
    decoder = network("triplane_decoder", "svrm", **description["config"])
    planes = (normal(2, 3, 8, 16, 16, seed=41) * 2)[:1]
    assert_case(grid.sdf_grid(decoder, planes, 12)[None, ..., None], tensors, "grid_sdf", atol=1e-5, rtol=1e-4)
    ticks = torch.linspace(-0.6, 0.6, 12)
    points = torch.stack(torch.meshgrid(ticks, ticks, ticks, indexing="ij"), dim=-1).reshape(1, -1, 3)
    rgb = grid.decode_points(decoder, planes, points, points_per_chunk=100).rgb
    assert_case(rgb.view(1, 12, 12, 12, 3), tensors, "grid_rgb", atol=1e-5, rtol=1e-4)


def test_grid_takes_one_object():
    with pytest.raises(ValueError, match="1 object"):
        grid.sdf_grid(build("triplane_decoder", "svrm", triplane_dim=2), torch.zeros(2, 3, 2, 4, 4), 8)


def test_the_grid_takes_little_more_memory_than_itself():
    decoder = build("triplane_decoder", "svrm")
    planes = torch.zeros(1, 3, 120, 256, 256)
    with PeakMeter("cpu", interval=0.001) as meter:
        sdf = grid.sdf_grid(decoder, planes, 128)
    tables = 4 * 64 * 128**2 * 4 + 128**2 * 120 * 4
    assert sdf.shape == (128, 128, 128)
    assert meter.bytes["host"] < 3 * (sdf.numel() * 4 + tables)


def test_slabs_are_parts_of_the_grid():
    decoder = network("triplane_decoder", "svrm", triplane_dim=8)
    planes = normal(1, 3, 8, 16, 16, seed=41)
    whole = grid.sdf_grid(decoder, planes, 20)
    slabs = [grid.sdf_slab(decoder, planes, 20, rows, extent=0.6) for rows in ((0, 7), (7, 19), (19, 20))]
    torch.testing.assert_close(torch.cat(slabs), whole, atol=1e-6, rtol=0)
    with pytest.raises(ValueError, match="rows 5 to 21 are not within a grid of 20"):
        grid.sdf_slab(decoder, planes, 20, (5, 21))


# The mesh


@pytest.mark.parametrize(
    ("name", "shape", "size", "target"),
    [("mesh_sphere_96_10000", "sphere", 96, 10000), ("mesh_torus_128_120000", "torus", 128, 120000)],
)
def test_mesh_of_analytic_shapes(name, shape, size, target, tmp_path):
    description, tensors = case("hunyuan3d", name)
    stats = description["stats"]
    raw = mesh.extract(analytic_sdf(shape, size))
    world = mesh.to_world(raw, size, EXTENT)
    refined = mesh.refine(world)
    final = mesh.from_sdf(analytic_sdf(shape, size), EXTENT, target)
    for surface, key in ((raw, "marching_cubes_index_space"), (world, "marching_cubes_world"), (refined, "refined")):
        assert_like(surface, stats[key], rtol=2e-6)
        assert surface.volume == pytest.approx(stats[key]["volume"], rel=1e-6)
    assert cKDTree(raw.vertices).query(tensors["mc_vertices"].numpy())[0].max() < 5e-5
    # The same triangles as PyMCubes: else smoothing would move vertices by a thousandth and more.
    assert cKDTree(refined.vertices).query(tensors["refined_sorted_vertices"].numpy())[0].max() < 1e-6
    assert len(final.faces) <= target
    assert final.volume == pytest.approx(stats["obj"]["volume"], rel=5e-3)
    assert final.volume > 0
    mesh.write_coloured_obj(tmp_path / "mesh.obj", final, final.vertices / 1.2 + 0.5)
    rows = np.loadtxt(tmp_path / "mesh.obj", dtype=str, max_rows=len(final.vertices))
    assert rows.shape == (len(final.vertices), 7)
    np.testing.assert_allclose(rows[:, 1:4].astype(float), final.vertices[:, [1, 2, 0]], atol=1e-6)
    if len(refined.faces) <= target:
        written = cKDTree(rows[:, 1:].astype(float))
        assert written.query(tensors["obj_first_rows"].numpy())[0].max() < 3e-6
    loaded = trimesh.load_mesh(tmp_path / "mesh.obj", process=False)
    assert loaded.volume == pytest.approx(final.volume, rel=1e-4)


def test_mesh_of_a_network():
    description, tensors = case("hunyuan3d", "svrm_e2e_mesh_tiny")
    stats, svrm = description["stats"], svrm_tiny()
    with torch.no_grad():
        planes = svrm(prepare.svrm_pixels(seven_views(), edge=56), cameras.camera_vectors())
    sdf = grid.sdf_grid(svrm.render, planes, 48)
    assert_case(-sdf, tensors, "volume_neg_sdf", atol=5e-5, rtol=1e-3)
    raw = mesh.extract(sdf.numpy())
    assert_like(raw, stats["marching_cubes_index_space"], rtol=1e-4)
    assert cKDTree(raw.vertices).query(tensors["mc_vertices"].numpy())[0].max() < 1e-3
    refined = mesh.refine(mesh.to_world(raw, 48, EXTENT))
    expected = stats["refined"]
    assert len(refined.vertices) == pytest.approx(expected["n_vertices"], rel=1e-3)
    assert len(refined.faces) == pytest.approx(expected["n_faces"], rel=1e-3)
    assert as_trimesh(refined).area == pytest.approx(expected["area"], rel=1e-2)


def test_no_surface_is_refused_with_the_range():
    with pytest.raises(InputError, match=r"no surface: distances run from 1 to 1"):
        mesh.extract(np.ones((4, 4, 4), np.float32))


def test_clustering_and_smoothing_against_plain_loops():
    generator = np.random.default_rng(3)
    vertices, faces = generator.random((60, 3)) * 0.03, generator.integers(0, 60, (120, 3))
    clustered = mesh.cluster(Mesh(vertices, faces))
    low = vertices.min(axis=0) - 0.0035
    cells = [tuple(np.floor((vertex - low) / 0.007).astype(int)) for vertex in vertices]
    order = list(dict.fromkeys(cells))
    means = [np.mean([v for v, c in zip(vertices, cells, strict=True) if c == cell], axis=0) for cell in order]
    np.testing.assert_allclose(clustered.vertices, means, atol=1e-12)
    moved = [tuple(order.index(cells[corner]) for corner in face) for face in faces]

    def turned(face):
        return min(face[i:] + face[:i] for i in range(3))

    kept = {turned(face) for face in moved if len(set(face)) == 3}
    assert {turned(tuple(face)) for face in clustered.faces.tolist()} == kept
    assert len(clustered.faces) == len(kept)
    assert len(kept) < len(set(moved))

    smoothed, expected = mesh.smooth(clustered, passes=2), clustered.vertices
    neighbours = [{int(j) for face in clustered.faces if i in face for j in face} - {i} for i in range(len(order))]
    for _ in range(2):
        expected = np.stack(
            [np.mean([v, *expected[sorted(n)]], axis=0) for v, n in zip(expected, neighbours, strict=True)]
        )
    np.testing.assert_allclose(smoothed.vertices, expected, atol=1e-12)


def test_duplicates_and_unused_vertices_go():
    vertices = np.array([[0, 0, 0], [9, 9, 9], [1, 0, 0], [0, 1, 0], [0, 0, 0], [1, 1, 0]], float)
    faces = np.array([[0, 2, 3], [2, 3, 4], [4, 3, 2], [2, 5, 3], [0, 4, 2]])
    clean = mesh.drop_duplicates(mesh.drop_unused(Mesh(vertices, faces)))
    assert len(clean.vertices) == 4
    assert len(clean.faces) == 3


def test_winding_is_turned_outwards():
    ball = mesh.from_sdf(analytic_sdf("sphere", 32), EXTENT, 10**6)
    inside_out = Mesh(ball.vertices, ball.faces[:, ::-1])
    assert inside_out.volume == pytest.approx(-ball.volume)
    assert mesh.outward(inside_out).volume == pytest.approx(ball.volume)
    assert mesh.outward(ball) is ball


# The texture


def test_texture_shows_the_colour_of_the_surface(tmp_path):
    description, tensors = case("hunyuan3d", "texture_sphere_64_1500")
    stats, side = description["stats"], description["config"]["texture_res"]
    ball = mesh.from_sdf(analytic_sdf("sphere", 64), EXTENT, 1500)
    assert len(ball.faces) == stats["obj"]["n_faces"]
    assert ball.volume == pytest.approx(stats["refined"]["volume"], rel=5e-3)
    atlas = texture.unwrap(ball)
    pixels = texture.bake(ball, atlas, lambda points: points / 1.2 + 0.5, side)
    assert (pixels.shape, pixels.dtype) == ((side, side, 3), np.uint8)
    np.testing.assert_allclose(pixels.mean(axis=(0, 1)), description["texture_mean"], atol=8)
    obj, glb = texture.write(tmp_path, ball, atlas, pixels)

    lines = obj.read_text().splitlines()
    assert lines[0] == description["obj_head"][0]
    assert (tmp_path / "texture.mtl").read_text() == description["mtl"]
    positions = np.array([line.split()[1:] for line in lines if line.startswith("v ")], float)
    uv = np.array([line.split()[1:] for line in lines if line.startswith("vt ")], float)
    corners = np.array([[pair.split("/") for pair in line.split()[1:]] for line in lines if line[:2] == "f "], int) - 1
    # Files hold (y, z, x), and v from the bottom of the picture.
    surface = positions[corners[..., 0]].mean(axis=1)[:, [2, 0, 1]]
    at = uv[corners[..., 1]].mean(axis=1) * (1, -1) + (0, 1)
    shown = pixels[(at[:, 1] * side).astype(int), (at[:, 0] * side).astype(int)]
    error = np.abs(shown - (surface / 1.2 + 0.5).clip(0, 1) ** 0.8 * 255)
    assert error.mean() < 3
    assert error.max() < 8

    scene = trimesh.load(glb)
    (shape,) = scene.geometry.values()
    assert len(shape.faces) == len(ball.faces)
    assert shape.visual.material.baseColorTexture.size == (side, side)
    assert shape.volume == pytest.approx(ball.volume, rel=1e-4)
    assert len(tensors["vt"]) == pytest.approx(len(uv), rel=0.1)

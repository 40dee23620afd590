"""Depth jobs from files to files: what is written, what stands in it, and the command line."""

import json
import os
import subprocess
import sys
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
import trimesh
from PIL import Image

from adapters.metric3d import job
from adapters.metric3d.cloud import edges, grid_of, point_cloud, surface
from adapters.metric3d.colours import Scale, paint, scale_of, with_legend
from adapters.metric3d.geometry import Intrinsics
from adapters.metric3d.saving import depth_png
from kit.video import ClipWriter, probe_clip, read_frames
from loader.errors import InputError
from loader.wishes import Wishes
from tests.machines import ROOT, host_with
from tests.metric3d_preview import FILE, engine_with, tiny_spec, write_tiny

WOOD = ROOT / "assets" / "examples" / "scene_wood.jpg"
COINS = ROOT / "assets" / "examples" / "coins.png"
DEFAULTS = {name: default for name, (_, default, _) in job.OPTIONS.items()}
FP32 = Wishes(variant="preview", size=(84, 112), dtype="fp32")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Inputs and options to output records, on a tiny network."""
    folder = tmp_path_factory.mktemp("job")
    weights = write_tiny(folder / FILE)
    engine = engine_with(host_with(), folder, weights)

    def done(inputs, out, **options):
        asked = job.request(inputs, DEFAULTS | options)
        *_, result = engine.run(tiny_spec(weights), asked, FP32)
        return job.write(result, asked, out), result

    yield done
    engine.close()


# --- pictures -----------------------------------------------------------------------------------------------------


def test_the_files_of_a_picture_hold_the_same_depths(run, tmp_path):
    (output,), result = run([WOOD], tmp_path, f35mm=26.0, cloud=True)
    (measured,) = result.outputs
    depth = measured.depth()
    files = {Path(file).name.removeprefix("scene_wood-depth"): Path(file) for file in output["files"]}
    assert set(files) == {
        *(".png", "-16bit.png", ".npy", "-normals.png", "-confidence.png", "-cloud.ply", "-cloud.glb", ".json")
    }
    np.testing.assert_array_equal(np.load(files[".npy"]), depth)
    with Image.open(files["-16bit.png"]) as grey:
        settings = json.loads(grey.info["anyhost"])
        np.testing.assert_allclose(np.asarray(grey) * settings["metres_per_unit"], depth, atol=0.00051)
    for ending in (".png", "-normals.png", "-confidence.png", "-16bit.png"):
        with Image.open(files[ending]) as image:
            told = json.loads(image.info["anyhost"])
            assert told["weights"] == "preview weights, trained on rendered scenes"
            assert told["camera"]["source"] == "film"
            assert image.size[0] == 960
    assert output["depth_m"] == {
        "min": pytest.approx(depth.min(), abs=1e-4),
        "max": pytest.approx(depth.max(), abs=1e-4),
        "median": pytest.approx(np.median(depth), abs=1e-4),
    }
    assert output["focal_px"] == pytest.approx(26 * 1200 / np.hypot(36, 24), abs=1e-3)
    saved = json.loads(files[".json"].read_text())
    assert saved["settings"]["weights"].startswith("preview weights")
    assert saved["depth_m"] == output["depth_m"]
    assert "26 mm" in output["summary"][0]


def test_several_pictures_and_runs_never_overwrite(run, tmp_path):
    outputs, _ = run([WOOD, COINS, WOOD], tmp_path)
    again, _ = run([WOOD], tmp_path)
    files = [file for output in (*outputs, *again) for file in output["files"]]
    assert len(files) == len(set(files)) == 4 * 6
    assert all(Path(file).is_file() for file in files)
    assert [output["input"] for output in outputs] == ["scene_wood.jpg", "coins.png", "scene_wood.jpg"]
    assert "assumed" in outputs[1]["summary"][0]


def test_far_things_take_a_coarser_unit_and_it_is_stated():
    far = np.array([[0.0, 70.0], [300.0, 12.345]], np.float32)
    with Image.open(BytesIO(depth_png(far, {}))) as image:
        unit = json.loads(image.info["anyhost"])["metres_per_unit"]
        assert unit == 0.005
        np.testing.assert_allclose(np.asarray(image) * unit, far, atol=0.0026)


@pytest.mark.parametrize(
    ("inputs", "options", "words"),
    [
        ([WOOD], {"focal_px": float("nan")}, "finite"),
        ([WOOD], {"focal_px": 1.0}, "no focal length"),
        ([WOOD], {"fov": 60.0, "f35mm": 26.0}, "give one of them"),
        ([WOOD], {"intrinsics": "missing.json"}, r"missing\.json"),
        ([WOOD], {"intrinsics": "missing.json", "fov": 60.0}, "give one of them"),
        ([Path("clip.mp4"), WOOD], {}, "one at a time"),
        ([Path("clip.mp4")], {}, "not there"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_loads(inputs, options, words):
    with pytest.raises(InputError, match=words):
        job.request(inputs, DEFAULTS | options)


def test_yes_and_no_are_read():
    assert job.yes_no("Yes")
    assert not job.yes_no("no")
    with pytest.raises(ValueError, match="neither"):
        job.yes_no("maybe")


# --- colours ------------------------------------------------------------------------------------------------------


def test_the_legend_s_colours_are_the_picture_s():
    depth = np.geomspace(1, 16, 200, dtype=np.float32)[None].repeat(100, axis=0)
    scale = scale_of(depth)
    assert (scale.near, scale.far) == (pytest.approx(1, rel=0.05), pytest.approx(16, rel=0.05))
    coloured = paint(depth, scale)
    drawn = with_legend(coloured, scale, note="preview weights")
    np.testing.assert_array_equal(drawn[:100], coloured)
    # The bar goes through the same colours as the picture, which runs from near to far.
    bar = next(row for row in drawn[100:] if (row[len(row) // 2] == coloured[0, 100]).all(axis=-1) or row.std() > 40)
    assert np.abs(bar[100].astype(int) - coloured[0, 100]).max() < 12
    assert (np.diff(drawn[100:].reshape(-1, 3).max(axis=1).reshape(len(drawn) - 100, -1).max(axis=1)) != 0).any()


def test_equal_ratios_are_equal_steps_and_ticks_are_apart():
    scale = Scale(1.0, 16.0)
    np.testing.assert_allclose(scale.position(np.array([0.1, 1, 2, 4, 16, 99])), [0, 0, 0.25, 0.5, 1, 1])
    for near, far in ((0.4, 0.6), (1, 2), (2, 80), (0.05, 300)):
        ticks = Scale(near, far).ticks()
        assert (ticks[0], ticks[-1]) == (near, far)
        assert list(ticks) == sorted(set(ticks))
        assert len(ticks) <= 7
    flat = scale_of(np.full((8, 8), 3.0, np.float32))
    assert flat.far > flat.near


# --- clouds -------------------------------------------------------------------------------------------------------

CAMERA = Intrinsics(100, 100, 50, 40)


def step_scene():
    """A wall at 6 m behind a box at 2 m, its left half."""
    depth = np.full((80, 100), 6.0, np.float32)
    depth[:, :50] = 2.0
    rgb = np.zeros((80, 100, 3), np.uint8)
    rgb[:, :50, 0] = 255
    return depth, rgb


def test_nothing_is_left_between_a_thing_and_what_is_behind_it():
    depth, rgb = step_scene()
    depth[:, 49:51] = 4.0  # what a network says at an edge
    points = trimesh.load(BytesIO(point_cloud(grid_of(depth, rgb, CAMERA), {"weights": "x"})), file_type="ply")
    z = np.asarray(points.vertices)[:, 2]
    assert set(np.round(z, 3)) == {2.0, 6.0}
    assert 0.9 < len(z) / depth.size < 1
    slanted = np.linspace(2, 6, 80, dtype=np.float32)[:, None].repeat(100, axis=1)
    assert not edges(slanted).any()


def test_points_lie_on_their_rays_in_their_colours():
    depth, rgb = step_scene()
    cloud = trimesh.load(BytesIO(point_cloud(grid_of(depth, rgb, CAMERA), {"a": 1})), file_type="ply")
    vertices, colours = np.asarray(cloud.vertices), np.asarray(cloud.colors)
    assert (colours[vertices[:, 2] == 2, 0] == 255).all()
    assert (colours[vertices[:, 2] == 6, 0] == 0).all()
    np.testing.assert_allclose(vertices[0], [-50 / 100 * 2, -40 / 100 * 2, 2], rtol=1e-5)


def test_the_surface_has_a_gap_at_the_edge_and_faces_the_camera():
    depth, rgb = step_scene()
    rgb[:, 50:] = 188
    data = surface(grid_of(depth, rgb, CAMERA), {"weights": "preview weights"})
    scene = trimesh.load(BytesIO(data), file_type="glb")
    (mesh,) = scene.geometry.values()
    corners = np.asarray(mesh.vertices)[np.asarray(mesh.faces)]
    assert np.abs(np.diff(corners[..., 2], axis=1)).max() == 0, "a triangle spans the edge"
    assert set(np.round(corners[..., 2].ravel(), 3)) == {-2.0, -6.0}
    assert (np.asarray(mesh.face_normals)[:, 2] > 0.99).all(), "y is up and the camera looks along -z"
    # Half the light of white is byte 188 in a picture and 128 in glTF.
    behind = np.asarray(mesh.visual.vertex_attributes["color"])[mesh.vertices[:, 2] == -6]
    assert np.abs(behind[:, :3].astype(int) - 128).max() <= 1
    top = mesh.vertices[mesh.vertices[:, 2] == -2]
    assert top[:, 1].max() == pytest.approx(0.8)
    length = int.from_bytes(data[12:16], "little")
    tree = json.loads(data[20 : 20 + length])
    assert tree["asset"]["extras"] == {"weights": "preview weights"}
    assert tree["extensionsUsed"] == ["KHR_materials_unlit"]


def test_large_pictures_are_thinned_and_pure_edges_refused():
    depth, rgb = np.full((300, 400), 3.0, np.float32), np.zeros((300, 400, 3), np.uint8)
    grid = grid_of(depth, rgb, CAMERA, most=10_000)
    assert grid.points.shape == (75, 100, 3)
    np.testing.assert_allclose(grid.points[0, 1, 0] - grid.points[0, 0, 0], 3 * 4 / 100, rtol=1e-5)
    steep = np.geomspace(1, 250, 12, dtype=np.float32)[:, None].repeat(80, axis=1)
    with pytest.raises(InputError, match="no four neighbouring points"):
        surface(grid_of(steep, rgb[:12, :80], CAMERA), {})


# --- clips --------------------------------------------------------------------------------------------------------


def test_a_clip_becomes_a_video_whose_colours_mean_the_same_throughout(run, tmp_path):
    path, times = tmp_path / "walk.mp4", [0.0, 0.1, 0.25, 0.3]
    rgb = np.array(Image.open(WOOD).resize((160, 120)))
    with ClipWriter(path) as writer:
        for seconds in times:
            writer.write(rgb, seconds)
    (output,), result = run([path], tmp_path / "out", frames=4, fps=60.0)
    video = Path(output["files"][0])
    assert probe_clip(video).frames == 4
    shown = list(read_frames(video))
    assert [f.seconds for f in shown] == pytest.approx(times, abs=2e-3)
    # The same picture four times: if every frame had its own scale they would still agree, so move one.
    depths = result.outputs[0].depths
    moved = type(result.outputs[0])(**(vars(result.outputs[0]) | {"depths": (*depths[:3], depths[3] * 2)}))
    from dataclasses import replace

    from adapters.metric3d.saving import save_clip

    again, _ = save_clip(moved, replace(result, outputs=(moved,)), tmp_path / "moved")
    first, *_, last = (
        frame.rgb[: shown[0].rgb.shape[0] * 3 // 4].astype(int).mean(axis=(0, 1)) for frame in read_frames(again)
    )
    assert np.abs(first - last).max() > 15, "twice as far away has another colour"
    assert output["depth_m"]["min"] <= output["depth_m"]["median"] <= output["depth_m"]["max"]
    assert len(output["frames"]) == 4
    assert json.loads(Path(output["files"][1]).read_text())["settings"]["weights"].startswith("preview weights")


# --- command line, on the weights that ship ------------------------------------------------------------------------


def test_the_command_line_measures_a_picture(tmp_path):
    environ = {**os.environ, "ANYHOST_CACHE": str(tmp_path), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    words = ["run", "metric3d", str(WOOD), "--out", str(tmp_path / "out"), "--set", "fov=60", "--json"]
    done = subprocess.run(
        [sys.executable, "app.py", *words], cwd=ROOT, env=environ, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    record = json.loads(done.stdout)
    assert record["variant"] == "preview"
    assert "rendered scenes" in record["weights"]
    (output,) = record["outputs"]
    reach = output["depth_m"]
    assert 0 < reach["min"] < reach["median"] < reach["max"] <= 300
    assert output["focal_px"] == pytest.approx(480 / np.tan(np.pi / 6), rel=1e-4)
    assert all(Path(file).is_file() for file in output["files"])


@pytest.mark.parametrize(
    ("option", "says"),
    [("fov=wide", "float"), ("cloud=maybe", "yes_no"), ("focal_px=nan", "finite"), ("colour=1", "fov")],
)
def test_wrong_options_are_one_line(option, says, tmp_path, capsys):
    import app

    code = app.main(["run", "metric3d", str(WOOD), "--set", option])
    assert code == 2
    assert says in capsys.readouterr().err

"""What the Metric3D tab shows, measures and saves, and its endpoint through a real server."""

import json
import zipfile
from pathlib import Path

import gradio as gr
import numpy as np
import pytest
from gradio_client import Client, handle_file
from gradio_client.exceptions import AppError
from PIL import Image

from adapters.metric3d import view
from adapters.metric3d.camera import CameraWish
from adapters.metric3d.camera_panel import CameraPanel
from adapters.metric3d.colours import metres
from adapters.metric3d.endpoint import Endpoint
from adapters.metric3d.pipeline import DepthRequest, clip_of
from adapters.metric3d.result_part import ResultPart
from adapters.metric3d.running import MAX_PICTURES, open_shots
from adapters.metric3d.view import Look
from kit.parts.context import PageContext
from kit.video import ClipWriter, probe_clip
from loader.errors import InputError
from loader.wishes import Wishes
from tests.machines import ROOT, host_with
from tests.metric3d_preview import FILE, engine_with, in_loop, tiny_spec, write_tiny

WOOD = ROOT / "assets" / "examples" / "scene_wood.jpg"
COINS = ROOT / "assets" / "examples" / "coins.png"
FP32 = Wishes(variant="preview", size=(84, 112), dtype="fp32")


@pytest.fixture(scope="module")
def machine(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tab")
    weights = write_tiny(folder / FILE)
    engine = engine_with(host_with(), folder, weights)
    yield engine, tiny_spec(weights)
    engine.close()


@pytest.fixture(scope="module")
def shown(machine):
    """A run of two pictures."""
    engine, spec = machine
    opened, problems = open_shots([WOOD, COINS], CameraWish(fov=60))
    assert problems == ()
    *_, result = engine.run(spec, DepthRequest(tuple(shot for _, shot in opened)), FP32)
    return view.shown(result, opened)


def inside(make, *, give_page=False):
    """What ``make`` builds inside a page, or the page itself."""
    with gr.Blocks(analytics_enabled=False) as page:
        made = make()
    return page if give_page else made


# --- looking ------------------------------------------------------------------------------------------------------


def test_every_layer_has_the_picture_s_size(shown):
    assert shown.layers == ["depth", "normals", "confidence"]
    seen = []
    for layer in shown.layers:
        picture, other = view.compared(shown, Look(layer=layer))
        assert picture.shape == other.shape == (720, 960, 3)
        seen.append(other)
        assert view.legend_markup(shown, Look(layer=layer), "en")
    assert not np.array_equal(seen[0], seen[1])
    assert not np.array_equal(seen[0], seen[2])
    assert view.compared(shown, Look(index=1))[0].shape[0] == round(303 * 960 / 384)


def test_facts_say_distances_and_the_camera(shown):
    words = view.facts_markup(shown, Look(), "en")
    assert "831 px" in words
    assert "field of view of 60°" in words
    assert "× 2" in view.facts_markup(shown, Look(factors={0: 2.0}), "en")
    assert "preview weights, trained on rendered scenes" in view.weights_markup(shown.result, "en")


# --- measuring ----------------------------------------------------------------------------------------------------


def test_clicks_measure_what_the_depths_say(shown):
    depth = shown.kept[0].measured.depth()
    camera = shown.kept[0].measured.camera.intrinsics
    look = Look().clicked(100, 200)
    (point,) = view.measured_points(shown, look)
    around = np.median(depth[198:203, 98:103])
    assert point.xyz[2] == pytest.approx(around, rel=1e-3)
    assert point.xyz[0] == pytest.approx((100 - camera.cx) / camera.fx * around, rel=1e-3)
    assert f"{metres(point.distance)} from the camera" in view.readout_markup(shown, look, "en")
    both = look.clicked(700, 500)
    first, second = view.measured_points(shown, both)
    expected = np.linalg.norm(np.subtract(first.xyz, second.xyz))
    assert f"{metres(float(expected))} between" in view.readout_markup(shown, both, "en")
    plain, drawn = view.marked(shown, Look()), view.marked(shown, both)
    changed = np.argwhere((plain != drawn).any(axis=-1))
    assert changed[:, 1].min() == pytest.approx(100, abs=12)
    assert changed[:, 1].max() == pytest.approx(700, abs=12)
    assert both.clicked(5, 5).points == ((5, 5),), "a third click begins anew"


def test_a_click_in_a_small_picture_is_scaled_to_it(shown):
    look = Look(index=1).clicked(480, 379)
    (point,) = view.measured_points(shown, look)
    depth = shown.kept[1].measured.depth()
    assert point.xyz[2] == pytest.approx(float(np.median(depth[150:154, 190:195])), rel=0.02)
    assert abs(point.xyz[0]) < 0.01 * point.xyz[2]


def test_a_known_length_scales_this_picture_and_no_other(shown):
    look = Look().clicked(100, 200).clicked(700, 500)
    with pytest.raises(InputError, match="two points, 0 clicked"):
        view.calibrated(shown, Look(), 1.0)
    with pytest.raises(InputError, match="greater than 0"):
        view.calibrated(shown, look, None)
    scaled = view.calibrated(shown, look, 3.21)
    assert "3.21 m between" in view.readout_markup(shown, scaled, "en")
    assert scaled.at(1).factor == 1.0
    # A second calibration builds on the first.
    assert "1.5 m between" in view.readout_markup(shown, view.calibrated(shown, scaled, 1.5), "en")


# --- files --------------------------------------------------------------------------------------------------------


def test_the_zip_holds_everything_of_every_picture(shown, tmp_path):
    path = view.save_all(shown, Look(factors={0: 2.0}), tmp_path)
    with zipfile.ZipFile(path) as archive:
        names = archive.namelist()
        assert len(names) == 12
        told = json.loads(archive.read("scene_wood-depth.json"))
        assert told["settings"]["scale_from_known_length"] == 2.0
        median = float(np.median(shown.kept[0].measured.depth()))
        assert told["depth_m"]["median"] == pytest.approx(2 * median, rel=1e-3)
        assert "scale_from_known_length" not in json.loads(archive.read("coins-depth.json"))["settings"]
    assert [file.name for file in tmp_path.iterdir()] == [path.name]


def test_clouds_are_saved_and_a_picture_that_is_gone_is_named(shown, tmp_path):
    assert view.save_points(shown, Look(), tmp_path).read_bytes().startswith(b"ply")
    assert view.save_surface(shown, Look(index=1), tmp_path).read_bytes().startswith(b"glTF")
    from dataclasses import replace

    gone = replace(shown, kept=(replace(shown.kept[0], path=tmp_path / "gone.jpg"),))
    with pytest.raises(InputError, match="no longer kept"):
        view.save_points(gone, Look(), tmp_path)


def test_a_clip_is_shown_as_a_video(machine, tmp_path):
    engine, spec = machine
    with ClipWriter(tmp_path / "a.mp4") as writer:
        for index in range(3):
            writer.write(np.asarray(Image.open(WOOD).resize((96, 64))), index / 10)
    *_, result = engine.run(spec, clip_of(tmp_path / "a.mp4", CameraWish(), fps=30, max_frames=9), FP32)
    part = in_loop(lambda: inside(lambda: ResultPart("en", gr.HTML())))
    updates = part.of_clip(result)
    assert probe_clip(updates[part.clip]["value"]).frames == 3
    assert "assumed" in updates[part.facts]
    assert set(updates) <= set(part.outputs)


# --- inputs -------------------------------------------------------------------------------------------------------


def test_bad_files_among_good_ones_are_told_and_none_or_too_many_refused(tmp_path):
    text = tmp_path / "notes.txt"
    text.write_text("no picture")
    opened, problems = open_shots([text, WOOD], CameraWish())
    assert [path for path, _ in opened] == [WOOD]
    assert "notes.txt" in str(problems[0])
    for paths, words in (([], "no picture"), ([text], "notes.txt"), ([WOOD] * (MAX_PICTURES + 1), "33 pictures")):
        with pytest.raises(InputError, match=words):
            open_shots(paths, CameraWish())


def test_the_camera_panel_reads_its_controls(tmp_path):
    panel = in_loop(lambda: inside(lambda: CameraPanel("en")))
    file = tmp_path / "camera.json"
    file.write_text('{"fx": 700, "fy": 710, "cx": 5, "cy": 6}')
    values = {"film": 26.0, "fov": 70.0, "fx": 800.0, "fy": None, "cx": 0, "cy": None, "file": str(file)}

    def read(source, **changed):
        return panel.read([source, *(values | changed).values()])

    assert read("auto") == CameraWish()
    assert read("film") == CameraWish(film_mm=26.0)
    assert read("fov") == CameraWish(fov=70.0)
    assert read("typed") == CameraWish(fx=800.0)
    assert read("file") == CameraWish(fx=700, fy=710, cx=5, cy=6)
    for source, changed in (("typed", {"fx": None}), ("file", {"file": None}), ("film", {"film": None})):
        with pytest.raises(InputError):
            read(source, **changed)
    said = panel._say([(str(WOOD), None)], "fov", *values.values())
    assert "686 px" in said
    assert "ah-bad" in panel._say([(str(WOOD), None)], "typed", *(values | {"fx": 1.0}).values())


# --- the endpoint -------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def client(machine):
    engine, spec = machine
    patch = pytest.MonkeyPatch()
    patch.setattr("adapters.metric3d.running.SPEC", spec)
    page = in_loop(lambda: inside(lambda: Endpoint(PageContext(engine)), give_page=True))
    options = {"prevent_thread_lock": True, "quiet": True, "server_name": "127.0.0.1", "ssr_mode": False}
    _, address, _ = in_loop(lambda: page.launch(**options))
    try:
        yield Client(address, verbose=False, analytics_enabled=False)
    finally:
        page.close(verbose=False)
        patch.undo()


def test_programs_get_metres_and_files(client):
    report, files = client.predict(
        [handle_file(str(WOOD)), handle_file(str(COINS))],
        focal_px=800.0,
        cloud=True,
        variant="preview",
        size="84×112",
        api_name="/depth",
    )
    assert [p["focal_px"] for p in report["pictures"]] == [800.0, 800.0]
    assert all(0 < p["depth_m"]["min"] <= p["depth_m"]["median"] <= p["depth_m"]["max"] for p in report["pictures"])
    assert report["weights"] == "preview"
    assert report["size"] == [84, 112]
    assert sorted(Path(file).suffix for file in files) == sorted([".png"] * 8 + [".npy", ".json", ".ply", ".glb"] * 2)


def test_programs_get_words_for_what_cannot_be(client):
    for settings, words in (
        ({"focal_px": 1.0}, "no focal length"),
        ({"fov": 60.0, "f35mm": 26.0}, "give one of them"),
        ({"size": "big"}, "HEIGHT"),
    ):
        with pytest.raises(AppError, match=words):
            client.predict([handle_file(str(WOOD))], api_name="/depth", **settings)


def test_the_endpoint_is_typed_and_described(client):
    described = client.view_api(return_format="dict", print_info=False)["named_endpoints"]["/depth"]
    named = {p["parameter_name"]: p["python_type"]["type"] for p in described["parameters"]}
    assert {"focal_px", "fov", "f35mm", "cloud", "variant", "device", "dtype", "size"} <= named.keys()
    assert named["focal_px"] == "float"
    assert named["cloud"] == "bool"

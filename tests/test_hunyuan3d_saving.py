"""Files of a mesh: what other programs read in them, that they say they are AI-generated, and the turntable."""

import io
import json
import struct
import zipfile
from pathlib import Path

import numpy as np
import pytest
import trimesh
from PIL import Image

from adapters.hunyuan3d import mesh, saving, texture, turntable
from adapters.hunyuan3d.mesh import OBJ_AXES
from adapters.hunyuan3d.products import Products
from adapters.hunyuan3d.turntable import Skin, Turntable
from kit import ai_label
from kit.video import probe_clip
from loader.errors import InputError
from tests.hunyuan3d_cases import analytic_sdf

SETTINGS = {"adapter": "hunyuan3d", "seed": 3}


@pytest.fixture(scope="module")
def ball() -> Products:
    """A sphere coloured by place, with a texture, 0.05, −0.03, 0.02 from the middle."""
    shape = mesh.from_sdf(analytic_sdf("sphere", 40), 0.6, 900)
    colours = (shape.vertices / 1.2 + 0.5).clip(0, 1)
    atlas = texture.unwrap(shape)
    pixels = texture.bake(shape, atlas, lambda points: (points / 1.2 + 0.5).clip(0, 1), 128)
    return Products(surface=shape, grid=40, shape=shape, colours=colours, atlas=atlas, texture=pixels)


def json_of(glb: bytes) -> dict:
    length = struct.unpack("<I", glb[12:16])[0]
    return json.loads(glb[20 : 20 + length])


def loaded(data: bytes, kind: str) -> trimesh.Trimesh:
    whole = trimesh.load(io.BytesIO(data), file_type=kind, force="mesh", process=False)
    assert isinstance(whole, trimesh.Trimesh)
    return whole


@pytest.mark.parametrize("plain", [False, True])
def test_glb_holds_the_shape_its_colours_and_the_declaration(ball, plain):
    data = saving.glb_bytes(ball, SETTINGS, plain=plain)
    assert data == saving.glb_bytes(ball, SETTINGS, plain=plain)
    extras = json_of(data)["asset"]["extras"]
    assert extras == {**SETTINGS, "ai_generated": True, "digital_source_type": ai_label.SOURCE_TYPE}
    whole = loaded(data, "glb")
    assert len(whole.faces) == len(ball.shape.faces)
    assert whole.volume == pytest.approx(ball.shape.volume, rel=1e-4)
    np.testing.assert_allclose(whole.bounds, np.sort(ball.shape.vertices[:, OBJ_AXES], axis=0)[[0, -1]], atol=1e-6)
    if plain:
        seen = whole.visual.vertex_colors[:, :3] / 255
        # What a viewer shows of linear light is the colour that was meant.
        shown = np.where(seen <= 0.0031308, seen * 12.92, 1.055 * seen ** (1 / 2.4) - 0.055)
        np.testing.assert_allclose(shown, ball.colours, atol=0.03)
    else:
        assert whole.visual.material.baseColorTexture.size == (128, 128)
    assert "NORMAL" in json_of(data)["meshes"][0]["primitives"][0]["attributes"]


def test_ply_and_stl_and_obj_hold_the_same_shape(ball):
    for data, kind in ((saving.ply_bytes(ball), "ply"), (saving.stl_bytes(ball), "stl")):
        assert b"AI-generated" in data[:400]
        whole = loaded(data, kind)
        assert len(whole.faces) == len(ball.shape.faces)
        assert whole.volume == pytest.approx(ball.shape.volume, rel=1e-4)
    np.testing.assert_allclose(
        loaded(saving.ply_bytes(ball), "ply").visual.vertex_colors[:, :3] / 255, ball.colours, atol=0.003
    )
    files = saving.obj_files(ball)
    assert sorted(files) == ["mesh.obj", "texture.mtl", "texture.png"]
    assert files["mesh.obj"].startswith(b"# AI-generated")
    bare = saving.obj_files(Products(shape=ball.shape, colours=ball.colours))
    assert loaded(bare["mesh.obj"], "obj").volume == pytest.approx(ball.shape.volume, rel=1e-4)


def test_the_host_can_switch_the_label_off_and_no_request_can(ball, monkeypatch):
    monkeypatch.setenv(ai_label.VARIABLE, "off")
    assert "ai_generated" not in json_of(saving.glb_bytes(ball, SETTINGS))["asset"]["extras"]
    for data in (saving.ply_bytes(ball), saving.stl_bytes(ball), saving.obj_files(ball)["mesh.obj"]):
        assert b"AI-generated" not in data[:400]


def test_every_kind_is_written_and_others_are_refused(ball, tmp_path):
    written = {kind: saving.write_kind(kind, ball, SETTINGS, tmp_path) for kind in ("glb", "obj", "ply", "stl")}
    with zipfile.ZipFile(written["obj"]) as archive:
        assert sorted(archive.namelist()) == ["mesh.obj", "texture.mtl", "texture.png"]
    with pytest.raises(InputError, match="glb, obj, ply, stl, mp4, gif, not 'fbx'"):
        saving.write_kind("fbx", ball, SETTINGS, tmp_path)


def test_the_turntable_becomes_a_clip_and_a_gif_with_the_label(ball, tmp_path, monkeypatch):
    monkeypatch.setattr(turntable, "SIDE", 128)
    monkeypatch.setattr(turntable, "GIF_SIDE", 96)
    spun = Turntable(ball.shape, Skin(ball.colours, ball.atlas, ball.texture), 128)
    clip = turntable.write_mp4(tmp_path / "turn.mp4", spun, ai_label.mark_for((128, 128)), views=6)
    found = probe_clip(clip)
    assert (found.size, found.frames) == ((128, 128), 6)
    gif = turntable.write_gif(tmp_path / "turn.gif", spun, None, views=5)
    with Image.open(gif) as image:
        assert (image.n_frames, image.size, image.info["loop"]) == (5, (128, 128), 0)


@pytest.mark.parametrize("textured", [False, True])
def test_the_turntable_shows_the_side_that_faces_the_camera(ball, textured):
    skin = Skin(ball.colours, ball.atlas, ball.texture) if textured else Skin(ball.colours)
    spun = Turntable(ball.shape, skin, 200)
    frames = {azimuth: spun.picture(azimuth) for azimuth in (0.0, 90.0, 180.0)}
    for azimuth, frame in frames.items():
        assert (frame[:4] == 255).all()
        # The colour is the place: a camera at azimuth a sees the point at 0.4 (cos a, sin a, 0) from the middle.
        towards = np.array([np.cos(np.radians(azimuth)), np.sin(np.radians(azimuth)), 0])
        place = np.array([0.05, -0.03, 0.02]) + 0.4 * towards
        expected = (place / 1.2 + 0.5) ** (0.8 if textured else 1.0) * 255
        middle = frame[94:106, 94:106].reshape(-1, 3).mean(axis=0)
        np.testing.assert_allclose(middle, expected, atol=14)
    # Upwards in the picture is up in the world: bluer.
    column = frames[0.0][:, 100]
    inside = column[(column != 255).any(axis=1)]
    assert inside[5, 2] > inside[-5, 2] + 60


def test_figures_of_the_ball(ball):
    found = saving.figures_of(ball)
    assert found.watertight
    assert found.faces == len(ball.shape.faces)
    record = found.record()
    # Files have y up: the world's z, whose middle is 0.02.
    assert record["bounds"]["max"][1] == pytest.approx(0.42, abs=0.01)
    assert record["grid"] == 40


def test_pictures_on_the_way_are_written_with_their_settings(tmp_path):
    view = Image.new("RGB", (16, 16), (9, 80, 200))
    products = Products(cut=Image.new("RGBA", (20, 20), (1, 2, 3, 4)), views=(view,) * 7)
    files = saving.picture_files(products, SETTINGS)
    assert sorted(files) == ["cut-out.png", "views.png"]
    path = Path(tmp_path / "views.png")
    path.write_bytes(files["views.png"])
    assert ai_label.read_settings(path)["seed"] == 3
    with Image.open(path) as image:
        assert image.size == (48, 32)

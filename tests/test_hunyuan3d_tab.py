"""The tab without a browser: requests made of its values, what it shows, and the endpoint for programs."""

import asyncio
import json
from dataclasses import replace
from pathlib import Path

import gradio as gr
import numpy as np
import pytest
from PIL import Image

from adapters.hunyuan3d import job, view
from adapters.hunyuan3d import tab as tabs
from adapters.hunyuan3d.endpoint import Endpoint
from adapters.hunyuan3d.mesh import Mesh
from adapters.hunyuan3d.products import Made, MeshRequest, Products
from adapters.hunyuan3d.saving import KINDS, glb_bytes, settings_of
from adapters.hunyuan3d.spec import SPEC
from adapters.hunyuan3d.tab import GO_ON, REDRAW, REFACE, REVIEW, MeshTab, _again, _kind_with
from adapters.hunyuan3d.view import Kept
from kit.parts.context import PageContext
from kit.parts.settings_drop import restored
from kit.settings import read_settings
from loader.errors import InputError
from loader.outcome import Result
from loader.plan import plan
from loader.wishes import Wishes
from tests.machines import ROOT, engine_on, host_with

MUG = ROOT / "assets" / "examples" / "mesh_mug.png"


@pytest.fixture(scope="module")
def context(tmp_path_factory):
    engine = engine_on(host_with(), tmp_path_factory.mktemp("engine"))
    yield PageContext(engine)
    engine.close()


@pytest.fixture(scope="module")
def built(context):
    return in_loop(lambda: MeshTab(context), lambda made: made.build())


def in_loop(make, then=lambda _: None):
    """What ``make`` makes inside a page, and the page. Gradio opens event loops and leaves them, unless in one."""

    async def made():
        with gr.Blocks(analytics_enabled=False) as page:
            part = make()
            then(part)
        return part, page

    return asyncio.run(made())


def whole() -> Products:
    tetrahedron = Mesh(np.eye(4, 3), np.array([[0, 2, 1], [0, 1, 3], [1, 2, 3], [0, 3, 2]]))
    return Products(
        drawn=Image.new("RGB", (9, 9)),
        cut=Image.new("RGBA", (9, 9), (200, 0, 0, 255)),
        views=tuple(Image.new("RGB", (9, 9), (30 * k, 0, 0)) for k in range(7)),
        surface=tetrahedron,
        grid=64,
        shape=tetrahedron,
        colours=np.full((4, 3), 0.5),
    )


def test_every_input_of_a_run_reaches_its_request(built):
    made, _ = built
    values = ["", None, 5000, "picture", [(str(MUG), None)], True, "", 3.0, 4, 20, 192, 9000, False]
    request = made._request(values)
    assert (request.seed, request.draw_seed, request.draw_steps) == (3, 4, 20)
    assert (request.grid, request.faces, request.texture, request.keep_alpha) == (192, 9000, False, True)
    assert request.name == "mesh_mug.png"
    assert request.picture.size == (512, 512)
    words = made._request(["", None, 5000, "words", [(str(MUG), None)], False, "an owl", None, 0, 25, 384, 9000, True])
    assert (words.words, words.picture, words.seed) == ("an owl", None, 0)
    with pytest.raises(InputError, match="2 pictures were given"):
        made._request(["", None, 5, "picture", [(str(MUG), None)] * 2, False, "", 0, 0, 25, 384, 9000, True])


def test_a_run_can_begin_again_at_every_stage():
    kept = Kept(MeshRequest(words="an owl", seed=3, draw_seed=8), whole())
    assert _again(GO_ON, kept, 900).finished is kept.products
    redrawn = _again(REDRAW, kept, 900)
    assert (redrawn.draw_seed, redrawn.seed, redrawn.finished.picture) == (9, 3, None)
    reviewed = _again(REVIEW, kept, 900)
    assert (reviewed.draw_seed, reviewed.seed) == (8, 4)
    assert reviewed.finished.cut is kept.products.cut
    assert not reviewed.finished.has("views")
    refaced = _again(REFACE, kept, 900)
    assert refaced.faces == 900
    assert refaced.finished.surface is kept.products.surface
    assert refaced.finished.shape is None


def test_what_is_lacking_is_said(built):
    made, _ = built
    nothing = ["", None, 5000, "picture", None, False, "", 0, 0, 25, 384, 9000, True]
    assert "Nothing to work on yet" in made.lacking(nothing)
    assert made.lacking(["", None, 5000, "words", None, False, " an owl ", *nothing[7:]]) == ""
    assert "Nothing" in made.lacking([GO_ON, None, *nothing[2:]])


@pytest.mark.parametrize("language", ["en", "zh"])
def test_stages_and_numbers_are_shown(language):
    kept = Kept(MeshRequest(words="an owl"), whole())
    pictures = view.stage_pictures(kept.products, language)
    assert len(pictures) == 8
    assert "300°" in pictures[-1][1]
    facts = view.facts_markup(kept, language)
    for words in ("4", "64³", "1.00 × 1.00 × 1.00"):
        assert words in facts
    assert kept.unfinished
    assert kept.begun
    assert not Kept(MeshRequest(words="an owl"), Products()).begun


def test_words_choose_a_variant_that_draws_and_presets_their_steps(built):
    made, _ = built
    defaults = made.panel.defaults
    names = list(made.panel.names)
    chosen = made._for_kind("words", "standard", *defaults)
    assert chosen[names.index("variant")] == "text_lite"
    back = made._for_kind("picture", "standard", *chosen)
    assert back[names.index("variant")] == "lite"
    grid, faces, texture, *controls = made._preset("picture", "best", *defaults)
    assert (grid, faces, texture) == (384, 90_000, True)
    assert (controls[names.index("variant")], controls[names.index("steps")]) == ("std", "75")
    assert made._for_variant("miniature", 384, 40_000) == [96, 4000]
    assert made._for_variant("std", 384, 40_000) == [384, 40_000]


def test_a_saved_model_brings_every_setting_back(context, built, tmp_path):
    made, _ = built
    assert {"words", *made.settings()} == {"words", *job.OPTIONS} - {"kinds"}
    request = MeshRequest(Image.new("RGB", (32, 32)), seed=9, grid=96, faces=700, texture=False, keep_alpha=True)
    wishes = Wishes(variant="miniature", steps=7)
    planned = plan(SPEC, context.host, wishes)
    ended = Result((), planned, weights="miniature")
    record = settings_of(ended, Made(request, replace(whole(), grid=64)))
    path = tmp_path / "mesh.glb"
    path.write_bytes(glb_bytes(whole(), record))
    found = read_settings(path, "hunyuan3d")
    brought = restored(found, made.panel, made.settings())
    assert brought.options == {"seed": 9, "keep_alpha": True, "grid": 96, "faces": 700, "texture": False}
    assert made.panel.read(brought.wishes) == wishes
    # What was found on a coarser grid says so, and is asked for as before.
    assert record["grid"] == 64
    drawn = settings_of(ended, Made(replace(request, picture=None, words="an owl", draw_seed=3), whole()))
    assert drawn["options"]["words"] == "an owl"
    assert drawn["options"]["draw_seed"] == 3


@pytest.mark.parametrize("data", [b"", b"glTF", b"glTF" + bytes(16), b"glTF" + bytes(8) + b"\xff\xff\xff\x7fJSON{}"])
def test_a_model_without_settings_is_refused_in_words(tmp_path, data):
    path = tmp_path / "other.glb"
    path.write_bytes(data)
    with pytest.raises(InputError, match="carries no settings"):
        read_settings(path, "hunyuan3d")


def test_words_that_come_back_open_their_tab():
    assert _kind_with("an owl", "picture") == [gr.update(selected="words"), "words"]
    assert _kind_with("an owl", "words") == _kind_with(" ", "picture") == [gr.skip(), gr.skip()]


def test_the_examples_are_single_objects_that_ship():
    assert [path.stem for path in tabs.example_files()] == ["mesh_mug", "mesh_rocket", "mesh_stool"]


def test_the_endpoint_makes_a_mesh_and_refuses_what_the_page_refuses(context, built, tmp_path, monkeypatch):
    _, page = built
    named = page.get_api_info()["named_endpoints"]["/mesh"]
    assert [p["parameter_name"] for p in named["parameters"]][:4] == ["picture", "words", "keep_alpha", "seed"]
    endpoint, _ = in_loop(lambda: Endpoint(context))
    monkeypatch.setattr(endpoint.files, "GRADIO_CACHE", str(tmp_path))
    *progress, (report, files) = endpoint.run(
        str(MUG), steps=2, grid=40, faces=500, kinds="glb,stl", variant="miniature", texture=False
    )
    assert {"stage", "done", "total"} == set(progress[0][0])
    assert report["faces"] <= 500
    assert report["weights"] == "miniature"
    assert report["settings"]["steps"] == 2
    assert {Path(f).name for f in files} == {"cut-out.png", "views.png", "mesh.glb", "mesh.stl", "mesh.json"}
    record = json.loads(next(Path(f) for f in files if f.endswith(".json")).read_text(encoding="utf-8"))
    assert record["settings"]["ai_generated"] is True
    with pytest.raises(gr.Error, match="one of the two"):
        list(endpoint.run(None, variant="miniature"))
    with pytest.raises(gr.Error, match=", ".join(KINDS)):
        list(endpoint.run(str(MUG), kinds="fbx", variant="miniature"))
    with pytest.raises(gr.Error, match="Tencent Hunyuan 3D"):
        list(endpoint.run(str(MUG), variant="lite"))

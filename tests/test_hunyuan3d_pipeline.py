"""The whole path in miniature: stages kept and run again, seeds, Stop everywhere, memory, unusable pictures."""

import threading
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from adapters.hunyuan3d import grid, mesh, prepare, shaping, stages
from adapters.hunyuan3d.job import OPTIONS, request, write
from adapters.hunyuan3d.mesh import Mesh
from adapters.hunyuan3d.modules import BorderSaliency
from adapters.hunyuan3d.products import STAGES, MeshRequest, Products, open_rgba
from adapters.hunyuan3d.saving import figures_of, glb_bytes, settings_of
from adapters.hunyuan3d.spec import SPEC
from loader.errors import Cancelled, InputError
from loader.outcome import Cancel, Result, Step
from loader.wishes import Wishes
from tests.fake_accelerator import fake_accelerator, fake_card
from tests.machines import ROOT, engine_on, host_with

MIB = 2**20
SMALL = Wishes(variant="miniature", steps=2)
EXAMPLE = ROOT / "assets" / "examples" / "mesh_mug.png"


def ball(side: int = 120) -> Image.Image:
    y, x = np.mgrid[0:side, 0:side]
    rgb = np.full((side, side, 3), 235, np.uint8)
    rgb[np.hypot(x - side / 2, y - side / 2) < side / 3] = (180, 60, 40)
    return Image.fromarray(rgb)


def asked(**changes) -> MeshRequest:
    picture = None if changes.get("words") else ball()
    return MeshRequest(picture=picture, **{"grid": 40, "faces": 600, **changes})


def run(engine, wanted: MeshRequest, wishes: Wishes = SMALL, cancel: Cancel | None = None):
    """The result, and the last products shown on the way."""
    result, shown = None, Products()
    for item in engine.run(SPEC, wanted, wishes, cancel=cancel):
        if isinstance(item, Result):
            result = item
        elif isinstance(item.preview, Products):
            shown = item.preview
    assert result is not None
    return result, shown


def made_by(result: Result):
    return result.outputs[0]


def file_of(result: Result) -> bytes:
    return glb_bytes(made_by(result).products, settings_of(result, made_by(result)))


@pytest.fixture(scope="module")
def engine(tmp_path_factory):
    made = engine_on(host_with(), tmp_path_factory.mktemp("engine"))
    yield made
    made.close()


@pytest.fixture(scope="module")
def first(engine):
    """A whole run, with a texture."""
    return run(engine, asked())


# The path, and what is kept


def test_a_picture_becomes_a_textured_mesh_and_every_stage_is_shown(engine, first):
    result, shown = first
    products = made_by(result).products
    assert [stage for stage in STAGES if products.has(stage)] == [*STAGES[1:]]
    assert shown is products
    assert products.cut.size == (512, 512)
    assert products.cut_by == "border"
    assert [view.size for view in products.views] == [(32, 32)] * 6 + [(512, 512)]
    assert products.planes.shape == (1, 3, 12, 64, 64)
    assert len(products.shape.faces) <= 600 < len(products.surface.faces)
    assert products.shape.volume > 0
    assert products.texture.shape == (256, 256, 3)
    assert ((products.colours >= 0) & (products.colours <= 1)).all()
    assert result.weights == "miniature"
    stages_told = [s.stage for s in engine.run(SPEC, asked(), SMALL) if isinstance(s, Step)]
    order = [f"mesh_{stage}_done" for stage in STAGES[1:]]
    assert [s for s in stages_told if s in order] == order


def test_words_become_a_picture_first_and_another_seed_another_one(engine):
    result, _ = run(engine, asked(words="一只猫", draw_steps=2, texture=False))
    products = made_by(result).products
    assert products.drawn.size == (64, 64)
    assert products.has("simplify")
    assert not products.has("texture")
    again, _ = run(engine, asked(words="一只猫", draw_steps=2, texture=False, draw_seed=1))
    assert made_by(again).products.drawn.tobytes() != products.drawn.tobytes()
    other, _ = run(engine, asked(words="a dog", draw_steps=2, texture=False))
    assert made_by(other).products.drawn.tobytes() != products.drawn.tobytes()


def test_words_need_a_variant_that_draws(engine):
    with pytest.raises(InputError, match="choose variant text_lite"):
        list(stages_of_lite(engine))


def stages_of_lite(engine):
    lite = replace(SPEC.variant("miniature"), name="lite", config={**SPEC.variant("miniature").config, "draw_side": 0})
    spec = replace(SPEC, variants=(lite,), default="lite", smaller=("lite",))
    return engine.run(spec, asked(words="a cat"), Wishes(variant="lite", steps=2))


def test_the_same_seed_gives_the_same_file_and_another_one_another(engine, first):
    again, _ = run(engine, asked())
    assert file_of(again) == file_of(first[0])
    # Now everything is loaded, and nothing draws from what all share.
    state = torch.get_rng_state()
    other, _ = run(engine, asked(seed=1))
    assert file_of(other) != file_of(first[0])
    assert torch.equal(torch.get_rng_state(), state)


def test_two_requests_at_once_do_not_disturb_each_other(engine, first):
    files: dict[int, bytes] = {}

    def work(seed: int) -> None:
        result, _ = run(engine, asked(seed=seed))
        files[seed] = file_of(result)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in (0, 5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    alone, _ = run(engine, asked(seed=5))
    assert files == {0: file_of(first[0]), 5: file_of(alone)}


# Running a stage again


class Counted:
    """How often a function was called."""

    def __init__(self, monkeypatch, module, name):
        self.calls = 0
        original = getattr(module, name)

        def counted(*args, **kwargs):
            self.calls += 1
            return original(*args, **kwargs)

        monkeypatch.setattr(module, name, counted)


def test_another_number_of_faces_leaves_the_field_alone(engine, first, monkeypatch):
    made = made_by(first[0])
    slabs, steps = Counted(monkeypatch, shaping, "_slab"), Counted(monkeypatch, stages, "_step")
    result, _ = run(engine, replace(asked(faces=300), finished=made.products.before("simplify")))
    products = made_by(result).products
    assert (slabs.calls, steps.calls) == (0, 0)
    assert products.surface is made.products.surface
    assert len(products.shape.faces) <= 300
    assert products.texture is not None
    assert not first[0].outputs[0].request.finished.has("cut_out")


def test_new_views_keep_the_cut_out(engine, first):
    made = made_by(first[0])
    result, _ = run(engine, replace(made.request, seed=9).again_from("views", made.products))
    products = made_by(result).products
    assert products.cut is made.products.cut
    assert products.views[0].tobytes() != made.products.views[0].tobytes()
    fresh, _ = run(engine, asked(seed=9))
    assert file_of(result) == file_of(fresh)


@pytest.mark.parametrize(
    ("stage", "kept"),
    [
        ("mesh_words", ()),
        ("mesh_draw", ()),
        ("mesh_cut_out", ("draw",)),
        ("mesh_looking", ("draw", "cut_out")),
        ("mesh_views", ("draw", "cut_out")),
        ("mesh_reconstruct", ("draw", "cut_out", "views")),
        ("mesh_field", ("draw", "cut_out", "views", "reconstruct")),
        ("mesh_surface", ("draw", "cut_out", "views", "reconstruct")),
        ("mesh_simplify", ("draw", "cut_out", "views", "reconstruct", "surface")),
        ("mesh_texture", ("draw", "cut_out", "views", "reconstruct", "surface", "simplify")),
    ],
)
def test_stop_in_each_stage_keeps_those_before_and_the_run_goes_on_from_there(engine, spoken, stage, kept):
    wanted, whole = spoken
    cancel = Cancel()
    products = Products()
    with pytest.raises(Cancelled) as caught:  # noqa: PT012 - the run is stopped while it is watched
        for item in engine.run(SPEC, wanted, SMALL, cancel=cancel):
            if isinstance(item, Step) and isinstance(item.preview, Products):
                products = item.preview
            if isinstance(item, Step) and item.stage == stage:
                cancel.request()
    assert tuple(name for name in STAGES if products.has(name)) == kept
    assert [k.value for k in caught.value.kept] == ([products] if kept else [])
    result, _ = run(engine, replace(wanted, finished=products))
    assert file_of(result) == whole


@pytest.fixture(scope="module")
def spoken(engine):
    """A request in words and the file it gives."""
    wanted = asked(words="a cat", draw_steps=2)
    return wanted, file_of(run(engine, wanted)[0])


# Memory


def test_out_of_memory_at_the_grid_means_a_coarser_one_and_says_so(tmp_path, first):
    products = made_by(first[0]).products.before("surface")
    wanted = asked(grid=96, texture=False, finished=products)
    # The plan is made for a card much larger than the one that is there.
    with fake_accelerator(10 * MIB) as memory:
        engine = engine_on(host_with(fake_card(8 * 2**30)), tmp_path)
        result, _ = run(engine, wanted)
        assert memory.peak <= 10 * MIB
        engine.close()
    assert made_by(result).products.grid == 64
    assert made_by(result).notes == ("coarse_grid",)
    assert result.trace[0].event == "out_of_memory"
    assert any("coarse_grid" in t.plan_change for t in result.trace)
    with fake_accelerator(2**30):
        engine = engine_on(host_with(fake_card(8 * 2**30)), tmp_path / "roomy")
        assert made_by(run(engine, wanted)[0]).products.grid == 96
        engine.close()


@pytest.mark.parametrize("residency", ["resident", "offload"])
def test_memory_of_the_stages_is_as_predicted(tmp_path, residency):
    wishes = replace(SMALL, residency=residency, dtype="fp32")
    with fake_accelerator(2**30) as memory:
        engine = engine_on(host_with(fake_card(8 * 2**30)), tmp_path)
        result, _ = run(engine, asked(words="a cat", draw_steps=1, grid=96, texture=False), wishes)
        engine.close()
        measured = memory.peak
    assert result.trace == ()
    # The libraries' workspace is a constant of real devices.
    predicted = result.plan.peak_bytes["device"] - 256 * MIB
    assert measured == pytest.approx(predicted, rel=0.15)


# Pictures that cannot be used


def saliency(picture: Image.Image) -> np.ndarray:
    return BorderSaliency()(torch.from_numpy(prepare.u2net_input(picture))).numpy()


def test_the_stand_in_cuts_out_what_differs_from_the_border():
    cut = np.array(prepare.cut_out(ball(), saliency(ball())))
    assert cut[60, 60].tolist() == [180, 60, 40, 255]
    assert cut[2, 2, 3] == 0


@pytest.mark.parametrize(
    ("picture", "keep_alpha", "words"),
    [
        (Image.new("RGBA", (40, 30), (200, 10, 10, 0)), True, "shows no object: 0 opaque pixels"),
        (Image.new("RGB", (40, 30), (90, 90, 90)), False, "no background was found: nothing"),
        (Image.new("RGBA", (40, 30), (90, 90, 90, 255)), True, "no background was found: nothing"),
    ],
)
def test_pictures_without_an_object_or_a_background_are_refused(engine, picture, keep_alpha, words):
    with pytest.raises(InputError, match=words):
        run(engine, MeshRequest(picture, keep_alpha=keep_alpha))


def test_a_subject_of_one_pixel_is_refused(engine):
    alpha = np.zeros((40, 40, 4), np.uint8)
    alpha[20, 20] = (200, 30, 30, 255)
    with pytest.raises(InputError, match="1 opaque pixels"):
        run(engine, MeshRequest(Image.fromarray(alpha), keep_alpha=True))


def test_a_picture_that_is_all_object_is_refused(engine, monkeypatch):
    monkeypatch.setattr(
        stages, "_saliency", lambda parts, picture, plan: np.linspace(0, 1, 320 * 320).reshape(320, 320)
    )
    monkeypatch.setattr(prepare, "cut_out", lambda image, saliency: image.convert("RGBA"))
    with pytest.raises(InputError, match=r"no background was found: 100\.0% of the picture"):
        run(engine, asked())


def test_alpha_is_respected_when_asked(engine):
    picture = ball().convert("RGBA")
    alpha = np.zeros((120, 120), np.uint8)
    alpha[30:50, 30:90] = 255
    picture.putalpha(Image.fromarray(alpha))
    kept, _ = run(engine, MeshRequest(picture, keep_alpha=True, grid=40, texture=False))
    assert made_by(kept).products.cut_by == "alpha"
    assert np.asarray(made_by(kept).products.cut)[..., 3].mean() < 110
    dropped, _ = run(engine, MeshRequest(picture, grid=40, texture=False))
    assert made_by(dropped).products.cut_by == "border"


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"words": "both", "picture": ball()}, "one of the two"),
        ({}, "one of the two"),
        ({"picture": ball(), "faces": 3}, "faces 3 is out of its limits: 200 to 300,000"),
        ({"picture": ball(), "grid": 2000}, "grid 2,000 is out of its limits"),
        ({"picture": ball(), "seed": -1}, "seed -1"),
        ({"words": "x" * 301}, "301 characters; the limit is 300"),
    ],
)
def test_requests_out_of_their_limits_are_refused(changes, words):
    with pytest.raises(InputError, match=words):
        MeshRequest(**changes)


# Degenerate fields


@pytest.mark.parametrize("bias", [50.0, -50.0])
def test_a_field_without_a_surface_is_said(engine, first, monkeypatch, bias):
    original = shaping._slab

    def shifted(*args):
        size, slab = original(*args)
        return size, slab + bias

    monkeypatch.setattr(shaping, "_slab", shifted)
    with pytest.raises(InputError, match=r"no surface: distances run from .*try another seed"):
        run(engine, replace(asked(), finished=made_by(first[0]).products.before("surface")))


def test_crumbs_of_a_surface_are_no_mesh():
    sdf = np.ones((200, 200, 200), np.float32)
    sdf[100, 100, 100] = -1e-3
    with pytest.raises(InputError, match="no surface worth the name"):
        shaping._surface(sdf, None)


# Analytic solids, from the grid to the texture


def solid(kind: str, size: int) -> np.ndarray:
    ticks = np.linspace(-grid.EXTENT, grid.EXTENT, size)
    x, y, z = np.meshgrid(ticks, ticks, ticks, indexing="ij")
    if kind == "sphere":
        return (np.sqrt(x**2 + y**2 + z**2) - 0.4).astype(np.float32)
    if kind == "torus":
        return (np.hypot(np.hypot(x, y) - 0.35, z) - 0.13).astype(np.float32)
    edges = np.stack((np.abs(x) - 0.4, np.abs(y) - 0.3, np.abs(z) - 0.35))
    return (np.minimum(edges.max(axis=0), 0) + np.linalg.norm(edges.clip(min=0), axis=0)).astype(np.float32)


VOLUMES = {"sphere": 4 / 3 * np.pi * 0.4**3, "box": 8 * 0.4 * 0.3 * 0.35, "torus": 2 * np.pi**2 * 0.35 * 0.13**2}


@pytest.mark.parametrize("kind", VOLUMES)
def test_solids_keep_volume_and_stay_closed_and_their_texture_shows_them(kind):
    from adapters.hunyuan3d import texture

    found = shaping._surface(solid(kind, 96), None)
    assert figures_of(Products(shape=found, colours=found.vertices)).watertight
    assert found.volume == pytest.approx(VOLUMES[kind], rel=0.02)
    shape = mesh.outward(mesh.decimate(found, 3000))
    assert figures_of(Products(shape=shape, colours=shape.vertices)).watertight
    assert shape.volume == pytest.approx(VOLUMES[kind], rel=0.025)
    assert len(shape.faces) <= 3000
    atlas = texture.unwrap(shape)
    pixels = texture.bake(shape, atlas, lambda points: points / 1.2 + 0.5, 512)
    at = (atlas.uv[atlas.faces].mean(axis=1) * 512).astype(int)
    middles = shape.vertices[shape.faces].mean(axis=1)
    error = np.abs(pixels[at[:, 1], at[:, 0]] - (middles / 1.2 + 0.5).clip(0, 1) ** 0.8 * 255)
    assert error.mean() < 2
    assert np.percentile(error, 99) < 8


# The command line's job


def test_files_of_a_job(engine, tmp_path):
    options = {name: default for name, (_, default, _) in OPTIONS.items()}
    wanted = request([EXAMPLE], {**options, "grid": 40, "faces": 600, "kinds": ("glb", "obj", "ply", "stl")})
    result, _ = run(engine, wanted)
    (record,) = write(result, wanted, tmp_path)
    assert record["faces"] <= 600
    assert isinstance(record["watertight"], bool)
    assert record["vertices"] == len(made_by(result).products.shape.vertices)
    names = [path.rpartition("/")[2] for path in record["files"]]
    assert names == [
        "cut-out.png",
        "views.png",
        "mesh.glb",
        "mesh.obj",
        "texture.mtl",
        "texture.png",
        "mesh.ply",
        "mesh.stl",
        "mesh.json",
    ]
    (second,) = write(result, wanted, tmp_path)
    assert second["files"][0].startswith(str(tmp_path / "mesh_mug-mesh-2"))


def test_words_come_from_a_text_file(tmp_path):
    options = {name: default for name, (_, default, _) in OPTIONS.items()}
    words = tmp_path / "cat.txt"
    words.write_text("一只猫\n", encoding="utf-8")
    assert request([words], options).words == "一只猫"
    words.write_text("  ", encoding="utf-8")
    with pytest.raises(InputError, match="is empty"):
        request([words], options)
    with pytest.raises(InputError, match="2 were given"):
        request([words, words], options)


def test_enormous_pictures_are_scaled_down_and_alpha_survives(tmp_path):
    path = tmp_path / "large.png"
    Image.new("RGBA", (4000, 1000), (10, 20, 30, 128)).save(path)
    opened = open_rgba(path)
    assert (opened.mode, opened.size) == ("RGBA", (2048, 512))


def test_a_mesh_of_nothing_has_no_figures():
    with pytest.raises(InputError, match="no mesh yet"):
        figures_of(Products())
    assert Mesh(np.zeros((3, 3)), np.array([[0, 1, 2]])).volume == 0

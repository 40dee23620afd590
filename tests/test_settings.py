"""What a result was made with: into every output, and back onto the controls."""

import asyncio
import tomllib
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import gradio as gr
import numpy as np
import pytest
from PIL import Image

from adapters import adapter
from adapters.damo_yolo.exports import settings_by
from adapters.damo_yolo.postprocess import Suppression
from adapters.metric3d.camera import CameraWish, camera_of
from adapters.metric3d.camera_panel import CameraPanel
from adapters.metric3d.saving import camera_options
from kit.exports import OutputError, write_json, write_png
from kit.parts.context import PageContext
from kit.parts.settings_drop import SettingsDrop, checked, controls_of, restored
from kit.parts.wishes_panel import WishesPanel
from kit.settings import (
    FORMAT,
    MAX_JSON_BYTES,
    VERSION,
    Settings,
    embed,
    read_settings,
    restorable,
    settings_record,
    write_settings,
)
from kit.video import ClipWriter
from loader.engine import Engine
from loader.errors import InputError
from loader.host import load_host
from loader.plan import plan
from loader.wishes import Wishes
from page.build import build
from tests.machines import ROOT, engine_on, host_with

T = TypeVar("T")
DAMO = adapter("damo_yolo")
ASKED = Wishes(
    dtype="fp32", variant="preview", size=(320, 480), batch=4, residency="dropped", precision_first=True, force=True
)
OPTIONS = {"threshold": 0.35, "iou": 0.6, "classes": ["硬币", "ball"]}
GREY = np.full((40, 60, 3), 127, np.uint8)


def record(wishes: Wishes = ASKED, **changed: Any) -> dict[str, Any]:
    made = plan(DAMO, load_host("cpu-bf16"), wishes)
    return settings_record(made, "preview", OPTIONS) | changed


def in_loop(make: Callable[[], T]) -> T:
    """Build Gradio blocks inside a running event loop: without one they open some and never close them."""

    async def made() -> T:
        return make()

    return asyncio.run(made())


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    made = engine_on(host_with(), tmp_path_factory.mktemp("settings"))
    yield made
    made.close()


@pytest.fixture(scope="module")
def panel(engine: Engine) -> WishesPanel:
    def make() -> WishesPanel:
        with gr.Blocks():
            return WishesPanel(PageContext(engine), DAMO)

    return in_loop(make)


@pytest.fixture(scope="module")
def controls() -> dict[str, Any]:
    def make() -> dict[str, Any]:
        with gr.Blocks():
            return {
                "threshold": (gr.Slider(0.05, 1.0), gr.Slider(0.05, 1.0)),
                "iou": gr.Slider(0.05, 1.0),
                "classes": gr.Dropdown([], multiselect=True),
                "camera": gr.Radio(["auto", "fov"]),
                "fx": gr.Number(None, minimum=1),
                "words": gr.Textbox(""),
                "cloud": gr.Checkbox(False),
            }

    return in_loop(make)


# --- files ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".webp"])
def test_a_picture_carries_its_settings(tmp_path, suffix):
    file = tmp_path / f"saved{suffix}"
    file.write_bytes(embed(GREY, suffix, record()))
    found = read_settings(file, "damo_yolo")
    assert found.wishes == ASKED
    assert found.options == OPTIONS
    assert (found.adapter, found.variant, found.weights) == ("damo_yolo", "preview", "preview")
    assert (found.program, found.source) == (VERSION, file.name)
    with Image.open(file) as image:
        assert image.size == (60, 40)


def test_data_files_carry_them_too(tmp_path):
    own = write_settings(tmp_path / "own.json", record())
    data = write_json(tmp_path / "data.json", {"pictures": [], "settings": record()})
    coco = write_json(tmp_path / "coco.json", {"info": record(), "images": []})
    bare = write_json(tmp_path / "bare.json", record())
    for file in (own, data, coco, bare):
        assert read_settings(file).options == OPTIONS, file.name


def test_a_video_carries_them_and_other_files_have_them_beside(tmp_path):
    with ClipWriter(tmp_path / "clip.mp4", settings=record()) as writer:
        writer.write(np.full((48, 64, 3), 90, np.uint8), 0.0)
    assert read_settings(tmp_path / "clip.mp4").wishes == ASKED
    (tmp_path / "table.csv").write_text("a,b")
    with pytest.raises(InputError, match="carries no settings"):
        read_settings(tmp_path / "table.csv")
    write_settings(tmp_path / "table.json", record())
    assert read_settings(tmp_path / "table.csv").options == OPTIONS
    # A picture that lost its text on the way has them beside it as well.
    Image.fromarray(GREY).save(tmp_path / "table.png")
    assert read_settings(tmp_path / "table.png").options == OPTIONS


def test_what_the_models_write_can_be_read(tmp_path):
    made = plan(DAMO, load_host("cpu-bf16"), ASKED)
    of_detector = settings_by(made, "preview", Suppression(0.35, 0.6), ("coin",))
    found = read_settings(write_png(tmp_path / "a.png", GREY, of_detector), "damo_yolo")
    assert found.options == {"threshold": 0.35, "iou": 0.6, "classes": ["coin"]}
    assert found.wishes == ASKED
    assert "rendered scenes" in found.weights


@pytest.mark.parametrize(
    ("wish", "options"),
    [
        (CameraWish(), {"camera": "auto"}),
        (CameraWish(fov=62.5), {"camera": "fov", "fov": 62.5}),
        (CameraWish(film_mm=26.0), {"camera": "film", "film_mm": 26.0}),
        (CameraWish(fx=900.0, cx=310.0), {"camera": "typed", "fx": 900.0, "fy": 900.0, "cx": 310.0, "cy": 240.0}),
    ],
    ids=["auto", "fov", "film", "typed"],
)
def test_what_was_said_of_the_camera_comes_back_the_same(wish, options):
    camera = camera_of((480, 640), wish)
    assert camera_options(camera) == options

    def make() -> CameraPanel:
        with gr.Blocks():
            return CameraPanel("en")

    controls = in_loop(make)
    named = controls.settings()
    values = [options.get(name) for name in ("camera", "film_mm", "fov", "fx", "fy", "cx", "cy")]
    assert all(checked(name, named[name], value) == value for name, value in options.items())
    again = camera_of((480, 640), controls.read([*values, None]))
    assert again.intrinsics == camera.intrinsics


def test_no_folder_of_the_users_travels_along():
    made = plan(DAMO, load_host("cpu-bf16"))
    with pytest.raises(TypeError, match=r"options\.file is a path"):
        restorable(made, {"file": Path("/home/somebody/secret.png")})
    with pytest.raises(TypeError, match=r"options\.rgb is ndarray"):
        restorable(made, {"rgb": GREY})
    assert restorable(made, {}) == {"format": FORMAT, "program": VERSION, "wishes": {}, "options": {}}


def test_the_version_is_the_project_s():
    with (ROOT / "pyproject.toml").open("rb") as file:
        assert tomllib.load(file)["project"]["version"] == VERSION


# --- files that cannot be used ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        (
            {"format": FORMAT + 1, "program": "9.0"},
            r"newer version \(9.0, settings of format 2\).*reads up to format 1",
        ),
        ({"format": "new"}, "format 'new' is not one"),
        ({"format": True}, "format True is not one"),
        ({"adapter": "metric3d"}, "settings of metric3d, and these are the controls of damo_yolo"),
        ({"weights": 7}, "weights in the settings must be text"),
        ({"options": []}, "options in the settings must be an object"),
        ({"wishes": {"colour": "red"}}, "a wish cannot be read: Wishes: unknown field colour"),
        ({"wishes": {"dtype": "fp8"}}, "'fp8' is not one of 'fp32'"),
        ({"wishes": {"batch": "four"}}, r"Wishes\.batch: expected int, got 'four'"),
    ],
    ids=str,
)
def test_settings_that_cannot_be_brought_back_are_refused_by_name(tmp_path, changed, says):
    file = write_settings(tmp_path / "a.json", record() | changed)
    with pytest.raises(InputError, match=says) as caught:
        read_settings(file, "damo_yolo")
    assert "a.json" in str(caught.value)


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("a.json", b"{", "is not JSON"),
        ("a.json", b"\xff\xfe", "is not JSON"),
        ("a.json", b"[" * 100_000, "is not JSON"),
        ("a.json", b"[1, 2]", "carries no settings"),
        ("a.json", b'{"format": 1}', "carries no settings"),
        ("a.png", b"no picture", "is not a picture"),
        ("a.jpg", b"", "is not a picture"),
        ("a.mp4", b"no video", "is not a video"),
        ("a.txt", b"words", "carries no settings"),
    ],
)
def test_foreign_files_are_told_apart(tmp_path, name, content, says):
    file = tmp_path / name
    file.write_bytes(content)
    with pytest.raises(InputError, match=says) as caught:
        read_settings(file)
    assert name in str(caught.value)


def test_pictures_of_others_carry_no_settings(tmp_path):
    from PIL.PngImagePlugin import PngInfo

    info = PngInfo()
    info.add_text("anyhost", '{"seed": 7}')
    Image.fromarray(GREY).save(tmp_path / "a.png", pnginfo=info)
    Image.fromarray(GREY).save(tmp_path / "b.jpg", comment=b'{"format": 1}')
    for name in ("a.png", "b.jpg"):
        with pytest.raises(InputError, match="messenger or an editor"):
            read_settings(tmp_path / name)
    with pytest.raises(InputError, match=r"is not a picture"):
        read_settings(tmp_path / "gone.png")


def test_sizes_are_limited_both_ways(tmp_path):
    large = tmp_path / "large.json"
    with large.open("wb") as file:
        file.truncate(MAX_JSON_BYTES + 1)
    with pytest.raises(InputError, match="33,554,433 bytes, a file with settings at most 33,554,432"):
        read_settings(large)
    long = record(options={"words": "x" * 70_000})
    with pytest.raises(OutputError, match=r"save it as \.png"):
        embed(GREY, ".jpg", long)
    file = tmp_path / "long.png"
    file.write_bytes(embed(GREY, ".png", long))
    assert len(read_settings(file).options["words"]) == 70_000


# --- controls ---------------------------------------------------------------------------------------------------


def settings(wishes: Wishes = ASKED, **options: Any) -> Settings:
    return Settings("damo_yolo", "T", "published", wishes, options, VERSION, "saved.png")


def test_wishes_come_back_as_they_were(panel, controls):
    asked = replace(ASKED, device="cpu", compile="default", allow_smaller=True)
    found = restored(settings(asked), panel, controls)
    assert panel.read(found.wishes) == asked
    assert found.left_out == ()
    assert panel.read(restored(settings(Wishes()), panel, controls).wishes) == Wishes()


def test_wishes_of_another_machine_are_left_out_and_named(panel, controls):
    asked = Wishes(device="cuda:0", dtype="fp32", max_drift=0.2, component_dtype={"detector": "bf16"})
    found = restored(settings(asked), panel, controls)
    assert panel.read(found.wishes) == Wishes(dtype="fp32")
    assert sorted(found.left_out) == ["component_dtype detector bf16", "device cuda:0", "max_drift 0.2"]


@pytest.mark.parametrize(
    ("asked", "says"),
    [
        (Wishes(variant="XXL"), "variant 'XXL' is not offered here: choose T, S"),
        (Wishes(dtype="fp8"), "dtype 'fp8' is not offered here: choose fp32, bf16, fp16, int8"),  # of a later version
    ],
    ids=["variant", "dtype"],
)
def test_wishes_for_what_the_model_has_not_are_refused(panel, controls, asked, says):
    with pytest.raises(InputError, match=says):
        restored(settings(asked), panel, controls)


def test_options_reach_every_control_of_their_name(controls):
    assert [name for name, _ in controls_of(controls)][:3] == ["threshold", "threshold", "iou"]


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"colour": 1}, "saved.png: colour is not known here; there is threshold, iou, classes"),
        ({"threshold": 7}, "threshold 7 is out of range: it lies between 0.05 and 1"),
        ({"threshold": 0}, "threshold 0 is out of range"),
        ({"threshold": "high"}, "threshold is 'high': it must be a number from 0.05 to 1"),
        ({"threshold": True}, "threshold is True: it must be a number"),
        ({"threshold": None}, "threshold is None: it must be a number"),
        ({"fx": float("nan")}, "fx is nan: it must be a number from 1 to inf"),
        ({"camera": "pinhole"}, "camera 'pinhole' is not offered here: choose auto, fov"),
        ({"camera": ["auto"]}, "is not offered here"),
        ({"classes": "coin"}, "classes must be a list of at most 1,000 names"),
        ({"classes": [1]}, "classes must be a list"),
        ({"cloud": "yes"}, "cloud is 'yes': it must be true or false"),
        ({"words": 3}, "words must be text of at most 10,000 characters"),
    ],
    ids=str,
)
def test_values_out_of_range_are_refused_by_name(panel, controls, options, says):
    with pytest.raises(InputError) as caught:
        restored(settings(Wishes(), **options), panel, controls)
    assert says in str(caught.value)


def test_the_drop_sets_everything_or_nothing_and_says_so(engine, panel, controls, tmp_path):
    def make(language: str) -> SettingsDrop:
        with gr.Blocks():
            return SettingsDrop(PageContext(engine, language), DAMO)

    drop = in_loop(lambda: make("en"))
    own = {name: controls[name] for name in ("threshold", "iou", "classes")}
    file = tmp_path / "saved.png"
    file.write_bytes(embed(GREY, ".png", record(replace(ASKED, device="cuda:7"), adapter="damo_yolo")))
    *values, said = drop._bring_back(str(file), panel, own)
    wishes, updates = values[: len(panel.controls)], values[len(panel.controls) :]
    assert panel.read(wishes) == ASKED
    assert [u["value"] for u in updates] == [0.35, 0.35, 0.6, OPTIONS["classes"]]
    # Names are known only after a run: until then those brought back are the choices.
    assert updates[-1]["choices"] == OPTIONS["classes"]
    for words in ("saved.png", "device cuda:7", "threshold 0.35", "Precision fp32", "preview weights"):
        assert words in said
    bad = write_settings(tmp_path / "bad.json", record(options={"threshold": 5}))
    *nothing, refused = drop._bring_back(str(bad), panel, own)
    assert all(value == gr.skip() for value in nothing)
    assert "threshold 5 is out of range" in refused
    assert 'role="alert"' in refused
    chinese = in_loop(lambda: make("zh"))._bring_back(str(file), panel, own)[-1]
    assert "已从 saved.png 恢复设置" in chinese
    assert "预览权重" in chinese


# --- languages --------------------------------------------------------------------------------------------------


def test_every_language_is_a_page_and_endpoints_stay_single(engine):
    page = in_loop(lambda: build(engine, language="zh"))
    assert [path for path, *_ in page.pages] == ["", "en"]
    names = list(page.get_api_info()["named_endpoints"])
    assert "/detect" in names
    assert len(names) == len(set(names))
    assert not [name for name in names if name.endswith(("_1", "_2"))]
    described = page.get_api_info()["named_endpoints"]["/detect"]["parameters"]
    assert "模型" in {p["label"] for p in described}


def test_links_lead_from_each_page_to_the_other(engine):
    from page.languages import language_links

    assert '<a href="zh"' in language_links("en", "en")
    assert '<a href="./"' in language_links("zh", "en")
    assert '<a href="./"' in language_links("en", "zh")
    assert 'aria-current="page"' in language_links("zh", "en")
    assert 'lang="zh-Hans"' in language_links("en", "en")

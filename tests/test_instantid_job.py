"""InstantID from files to files and through the tab's own functions: labels, settings brought back, what is kept."""

import asyncio
import json
from dataclasses import replace
from pathlib import Path
from zipfile import ZipFile

import gradio as gr
import numpy as np
import pytest
from PIL import Image

from adapters.instantid import job, view
from adapters.instantid.endpoint import Endpoint, report, typed_settings
from adapters.instantid.mask_part import canvas_of, mask_of
from adapters.instantid.options import SETTING_OPTIONS, settings_of
from adapters.instantid.saving import MINIATURE_NOTE, record_of, save
from adapters.instantid.tab import IdentityTab
from adapters.instantid.view import Drawings
from kit.ai_label import SOURCE_TYPE
from kit.parts.context import PageContext
from kit.running import Asked
from kit.settings import read_settings
from loader.errors import Cancelled, InputError
from loader.outcome import Cancel, Step, TraceEntry
from tests.instantid_runs import TINY, photo, request, result_of
from tests.machines import ROOT, engine_on, host_with

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy:DeprecationWarning")
PORTRAIT = ROOT / "assets" / "examples" / "portrait_rendered.png"


@pytest.fixture(scope="module")
def engine(tmp_path_factory):
    made = engine_on(host_with(), tmp_path_factory.mktemp("engine"))
    yield made
    made.close()


@pytest.fixture(scope="module")
def result(engine):
    return result_of(engine, request(prompts=("a man", "a cat"), style="neon", seed=7))


def options(**changes):
    defaults = {name: default for name, (_, default, _) in job.OPTIONS.items()}
    return {**defaults, "consent": True, **changes}


def test_a_job_reads_pictures_and_options(tmp_path):
    mask = tmp_path / "mask.png"
    Image.fromarray(np.full((8, 8, 3), 255, np.uint8)).save(mask)
    asked = job.request(
        [PORTRAIT],
        options(prompt="a || b", pose=0.5, skeleton=str(mask), mask=str(mask), region="mask", base=str(PORTRAIT)),
    )
    assert asked.settings.prompts == ("a", "b")
    assert asked.control_pictures.keys() == {"pose"}
    assert asked.mask.size == (8, 8)
    assert asked.base.name == PORTRAIT.name
    assert not job.request([PORTRAIT], {}).consent
    with pytest.raises(InputError, match="is not a picture"):
        job.request([Path(__file__)], options())
    with pytest.raises(ValueError, match="none of png, jpg, webp"):
        job.picture_kind("gif")


@pytest.mark.parametrize("kind", ["png", "jpg", "webp"])
def test_files_are_labelled_and_give_their_own_picture_again(engine, result, tmp_path, kind):
    asked = request(file_kind=kind)
    outputs = job.write(result, asked, tmp_path)
    assert [output["seed"] for output in outputs] == [7, 8]
    assert {"seed", "size", "frames", "files", "face", "weights"} <= outputs[0].keys()
    assert outputs[0]["weights"] == MINIATURE_NOTE
    second = Path(outputs[1]["files"][0])
    assert second.name == f"photo-identity-8.{kind}"
    assert SOURCE_TYPE.encode() in second.read_bytes()
    brought = read_settings(second, "instantid")
    assert (brought.options["prompt"], brought.options["seed"], brought.options["style"]) == ("a cat", 8, "neon")
    assert brought.options.keys() == SETTING_OPTIONS.keys()
    again = result_of(engine, request(settings=settings_of(brought.options)), brought.wishes)
    assert np.abs(again.outputs[0].rgb.astype(int) - result.outputs[1].rgb).max() <= 1
    beside = json.loads(Path(outputs[1]["files"][1]).read_text(encoding="utf-8"))
    assert beside["settings"]["digital_source_type"] == SOURCE_TYPE


def test_the_label_is_on_the_picture_unless_the_host_says_off(result, tmp_path, monkeypatch):
    (first, _), *_ = save(result.outputs[:1], result, tmp_path)
    with Image.open(first) as image:
        labelled = np.asarray(image)
    assert (labelled != result.outputs[0].rgb).any()
    monkeypatch.setenv("ANYHOST_AI_LABEL", "off")
    (second, data), *_ = save(result.outputs[:1], result, tmp_path)
    with Image.open(second) as image:
        assert (np.asarray(image) == result.outputs[0].rgb).all()
    assert SOURCE_TYPE.encode() not in second.read_bytes() + data.read_bytes()


def test_no_request_can_switch_the_label_off():
    assert not any("label" in name for name in job.OPTIONS)
    with pytest.raises(InputError, match="unknown setting label"):
        typed_settings({"label": "off"})


# --- the tab ---


async def built(make):
    """Gradio blocks made inside a running event loop: without one they open some and never close them."""
    with gr.Blocks():
        return make()


@pytest.fixture(scope="module")
def tab(engine):
    def make() -> IdentityTab:
        made = IdentityTab(PageContext(engine))
        made.build()
        return made

    return asyncio.run(built(make))


@pytest.fixture(scope="module")
def endpoint(engine):
    return asyncio.run(built(lambda: Endpoint(PageContext(engine))))


def values(tab, consent=True, **changes):
    options_ = {name: component.value for name, component in tab.controls.named.items()} | changes
    pictures = [options_.get(name) for name in tab.controls.pictures]
    return [[(str(PORTRAIT), None)], consent, *pictures, *(options_[name] for name in tab.controls.named)]


def test_the_tab_has_every_setting_under_its_own_name(tab):
    assert tab.settings().keys() == SETTING_OPTIONS.keys()
    given = tab.controls.options(values(tab)[2:])
    assert {name: given[name] for name in SETTING_OPTIONS} == {n: d for n, (_, d, _) in SETTING_OPTIONS.items()}


def test_a_run_of_the_tab_shows_previews_and_then_the_pictures(tab):
    items = list(tab.job(values(tab, prompt="a\nb"), Asked(TINY)))
    shown = [tab.step_shown(item) for item in items if isinstance(item, Step)]
    live = [updates[tab.result.live]["value"] for updates in shown if updates]
    assert live
    assert max(max(picture.shape[:2]) for picture in live) >= 128
    updates = tab.finished(items[-1], values(tab))
    files = [Path(path) for path, _ in updates[tab.result.gallery]["value"]]
    assert [read_settings(path).options["seed"] for path in files] == [42, 43]
    assert "Untrained miniature" in updates[tab.result.facts]
    assert json.loads(updates[tab.result.record])["options"]["prompt"] == "a"
    assert set(updates) <= {tab.status, tab.figures, *tab.report.outputs, *tab.outputs()}


def test_what_is_missing_is_said_before_anything_runs(tab):
    assert "No photo yet" in tab.lacking([None, True])
    assert "One tick is missing" in tab.lacking([[("a.png", None)], False])
    assert tab.lacking(values(tab)) == ""


def test_a_stopped_run_keeps_the_pictures_that_were_finished(tab):
    cancel, given = Cancel(), values(tab, pictures=2)

    def run() -> None:
        for item in tab.job(given, Asked(TINY, cancel)):
            if item.stage == "decoding_pictures":
                cancel.request()

    with pytest.raises(Cancelled) as stopped:
        run()
    words, updates = tab._finished_part(stopped.value, given)
    assert words == "1 of 2 pictures, shown below"
    kept = updates[tab.result.drawings]
    assert isinstance(kept, Drawings)
    assert len(kept.drawn) == 1
    assert record_of(kept.drawn[0], kept.result)["options"]["seed"] == 42
    assert updates[tab.result.box]["visible"] is True


def test_a_run_stopped_early_has_nothing_to_keep(tab):
    cancel = Cancel()
    cancel.request()
    with pytest.raises(Cancelled) as stopped:
        list(tab.job(values(tab), Asked(TINY, cancel)))
    assert tab._finished_part(stopped.value, values(tab)) == ("", {})


def test_controls_choose_the_variant_that_has_them(tab):
    wished = list(tab.panel.defaults)
    index = tab.panel.names.index("variant")
    assert tab._for_nets(0.0, 0.0, 0.0, *wished)[index] == ""
    assert tab._for_nets(0.0, 0.4, 0.0, *wished)[index] == "lcm_controls"
    dry = tab._preset("dry", 0.0, 0.0, 0.0, *wished)
    assert dry[index] == "miniature"
    assert tab._for_nets(0.5, 0.0, 0.0, *dry)[index] == "miniature"
    best = tab._preset("best", 0.0, 0.4, 0.0, *wished)
    assert best[index] == "sdxl_canny"
    assert best[tab.panel.names.index("steps")] == "20"
    assert all(tab.panel.read(values_).variant is not None for values_ in (dry, best))


def test_all_pictures_go_into_one_archive_and_faces_are_cut_out(result, tmp_path):
    path = view.archive(Drawings(result), tmp_path, kind="jpg")
    with ZipFile(path) as file:
        assert file.namelist() == ["photo-identity-7.jpg", "photo-identity-8.jpg"]
    crops = view.face_pictures(photo(), result.outputs[0].faces)
    assert [max(crop.size) for crop in crops] == [160]


# --- programs ---


def test_the_endpoint_draws_and_reports(endpoint):
    *steps, (said, files) = endpoint.run(
        [str(PORTRAIT)], consent=True, prompt="a", settings={"seed": 5}, variant="miniature", size="64", steps=1
    )
    assert all(not paths for _, paths in steps)
    assert said["pictures"][0]["seed"] == 5
    assert said["pictures"][0]["face"]["stand_in"]
    assert said["weights"] == MINIATURE_NOTE
    assert json.loads(json.dumps(said)) == said
    assert read_settings(Path(files[0])).options["prompt"] == "a"


def test_the_endpoint_refuses_with_words(endpoint):
    with pytest.raises(gr.Error, match="confirm that you may use"):
        list(endpoint.run([str(PORTRAIT)], variant="miniature"))
    with pytest.raises(gr.Error, match="setting seed is 'x': it must be a int"):
        list(endpoint.run([str(PORTRAIT)], consent=True, settings={"seed": "x"}))
    with pytest.raises(gr.Error, match="InstantID research terms"):
        list(endpoint.run([str(PORTRAIT)], consent=True))
    assert typed_settings({"identity": 1}) == {"identity": 1.0}


def test_a_report_says_what_failed_on_the_way(result):
    entry = TraceEntry("step 2 of 2", "out_of_memory", "too much", "batch 4 → 2")
    said = report(replace(result, trace=(entry,)))["trace"][0]
    assert (said["unit"], said["plan_change"]) == ("step 2 of 2", "batch 4 → 2")
    assert said["what"] != "out_of_memory"


# --- a painted mask ---


def layer(*strokes: tuple[slice, slice]) -> np.ndarray:
    """What the canvas gives for a layer: white where it was painted, transparent elsewhere."""
    made = np.zeros((40, 60, 4), np.uint8)
    for rows, columns in strokes:
        made[rows, columns] = 255
    return made


def test_strokes_become_a_mask_white_on_black():
    painted = {"background": None, "layers": [layer((slice(0, 10), slice(0, 10))), layer((slice(20, 30), slice(5, 9)))]}
    mask = mask_of(painted)
    assert mask.shape == (40, 60, 3)
    assert set(np.unique(mask)) == {0, 255}
    assert (mask[..., 0] > 0).sum() == 100 + 40
    for nothing in (None, {"layers": []}, {"layers": [layer()]}, {"layers": [None]}):
        with pytest.raises(InputError, match="nothing is painted yet"):
            mask_of(nothing)


def test_painting_is_done_on_what_gives_the_shape(tmp_path):
    pose = tmp_path / "pose.png"
    Image.new("RGB", (1600, 800), "blue").save(pose)
    photos = [(str(PORTRAIT), None)]
    assert canvas_of(str(pose), photos).shape == (384, 768, 3)
    assert canvas_of(None, photos).shape[0] == canvas_of(None, photos).shape[1]
    with pytest.raises(InputError, match="nothing to paint on"):
        canvas_of(None, None)


def test_what_was_painted_is_taken_as_the_mask(tab):
    part = tab.controls.paint
    said, *rest = part._taken(None)
    assert "nothing is painted yet" in said
    assert rest == [gr.skip()] * 5
    _, mask, region, *hidden = part._taken({"layers": [layer((slice(0, 40), slice(0, 60)))]})
    assert (mask.mean(), region) == (255, "mask")
    assert all(update["visible"] is False for update in hidden)

"""The page without a server: what is built, what its cards say, what it saves."""

import ast
import asyncio
import json
import math
import socket
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import gradio as gr
import numpy as np
import pytest
from PIL import Image

from adapters import ADAPTERS, adapter
from adapters.damo_yolo.camera_part import CAMERAS
from adapters.damo_yolo.detecting import MAX_PICTURES, detect, open_pictures
from adapters.damo_yolo.files import record, save_data, save_pictures
from adapters.damo_yolo.postprocess import Suppression, detections
from adapters.damo_yolo.tab import example_files
from adapters.damo_yolo.view import Filter, Shown, counts_markup, drawn, table_markup, weights_markup
from app import main
from kit.pace import Pace
from kit.parts import states
from kit.parts.context import AT_ONCE, LANE, THREADS, PageContext
from kit.parts.figures import figures
from kit.parts.host_bar import host_bar
from kit.parts.markup import element, link, sentence, text
from kit.parts.plan_card import download_of, grouped, plan_card, plan_line
from kit.parts.planning import Planning
from kit.parts.wishes_panel import WishesPanel
from kit.running import Asked
from kit.sizes import read_size
from kit.texts import LANGUAGES, why
from kit.texts.labels import label
from kit.texts.report import seconds_text
from loader.engine import Engine
from loader.errors import Cancelled, DoesNotFitError, InputError, RunError
from loader.host import load_host
from loader.lanes import MAX_WAITING
from loader.measure import Cost
from loader.memory import gib
from loader.outcome import Step, TraceEntry
from loader.plan import Plan, applied_correction, correction_keys
from loader.wishes import Wishes
from page.build import TABS, build, launch_options
from tests.machines import ROOT, engine_on, host_with

T = TypeVar("T")
DAMO = adapter("damo_yolo")
COINS = ROOT / "assets" / "examples" / "coins.png"


def in_loop(make: Callable[[], T]) -> T:
    """Build Gradio blocks inside a running event loop: without one they open some and never close them."""

    async def made() -> T:
        return make()

    return asyncio.run(made())


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    made = engine_on(host_with(), tmp_path_factory.mktemp("page"))
    yield made
    made.close()


@pytest.fixture(scope="module")
def context(engine: Engine) -> PageContext:
    return PageContext(engine)


@pytest.fixture(scope="module")
def page(engine: Engine) -> gr.Blocks:
    return in_loop(lambda: build(engine))


@pytest.fixture(scope="module")
def shown(engine: Engine, tmp_path_factory: pytest.TempPathFactory) -> Shown:
    """The coins and a grey picture, seen by the preview network; the second's file name is an attack."""
    grey = tmp_path_factory.mktemp("pictures") / "a<b>&.png"
    Image.fromarray(np.full((300, 400, 3), 127, np.uint8)).save(grey)
    wishes = Wishes(variant="preview", dtype="fp32")
    *_, last = detect(engine, [COINS, grey], Suppression(0.05), Asked(wishes))
    assert not isinstance(last, Step)
    return last.shown


# --- the blocks -------------------------------------------------------------------------------------------------


def test_tabs_stand_in_the_order_of_the_adapters(page: gr.Blocks) -> None:
    outer = next(block for block in page.blocks.values() if isinstance(block, gr.Tabs))
    tabs = [tab.label for tab in outer.children if isinstance(tab, gr.Tab)]
    assert tabs[: len(ADAPTERS)] == [spec.title for spec in ADAPTERS]


def test_the_page_is_built_in_every_language(engine: Engine) -> None:
    for language in LANGUAGES:
        page = in_loop(partial(build, engine, language=language))
        buttons = {block.value for block in page.blocks.values() if isinstance(block, gr.Button)}
        assert label("detect.run", language) in buttons
        assert label("wish.reset", language) in buttons


def test_one_endpoint_a_task_is_public_and_all_runs_share_one_lane(page: gr.Blocks) -> None:
    endpoints = [spec.endpoint for spec in ADAPTERS if spec.name in TABS]
    assert list(page.get_api_info()["named_endpoints"]) == endpoints
    queued = [fn for fn in page.fns.values() if fn.queue and fn.fn is not None]
    lanes = Counter((fn.concurrency_id, fn.concurrency_limit) for fn in queued)
    # A run a tab and language and an endpoint a task at least; a camera takes the engine's lane frame by frame.
    assert set(lanes) == {(LANE, AT_ONCE), ("camera", CAMERAS)}
    assert lanes[LANE, AT_ONCE] >= (len(LANGUAGES) + 1) * len(endpoints)
    assert lanes["camera", CAMERAS] == len(LANGUAGES)
    # The engine's lane is full before Gradio holds anybody back, and threads are left for those who plan meanwhile.
    assert page._queue.max_size >= AT_ONCE > MAX_WAITING + 1
    assert launch_options()["max_threads"] == THREADS > AT_ONCE + CAMERAS


def test_endpoint_is_typed(page: gr.Blocks) -> None:
    described = page.get_api_info()["named_endpoints"]["/detect"]
    parameters = {p["parameter_name"]: p for p in described["parameters"]}
    assert list(parameters) == ["pictures", "threshold", "variant", "device", "dtype", "size", "iou"]
    assert parameters["threshold"]["parameter_default"] == 0.5
    assert "preview" in parameters["variant"]["type"]["enum"]
    assert "cpu" in parameters["device"]["type"]["enum"]


def test_nothing_is_kept_or_sent_beyond_need(page: gr.Blocks) -> None:
    options = launch_options()
    assert options["run_history"] is False
    assert options["enable_monitoring"] is False
    assert options["max_file_size"] == 600 * 2**20
    assert "allowed_paths" not in options
    assert page.analytics_enabled is False
    assert page.delete_cache == (600, 3600)
    style = Path(options["css_paths"][0]).read_text(encoding="utf-8")
    assert "http" not in style
    assert "@import" not in style
    assert options["theme"]._stylesheets == []


def test_what_is_remembered_of_a_visitor_has_an_end(page: gr.Blocks) -> None:
    states = [block for block in page.blocks.values() if isinstance(block, gr.State)]
    endless = [state for state in states if state.time_to_live == math.inf and state.value is None]
    # Of each language: where an own checkpoint lies, which goes with the session, and the times of a camera's frames.
    assert len(endless) == 2 * len(LANGUAGES)
    assert all(state.time_to_live <= 3600 for state in states if state.value is None and state not in endless)


def test_coins_come_first_among_the_examples() -> None:
    names = [path.stem for path in example_files()]
    assert names[0] == "coins"
    assert all(name.startswith("scene") for name in names[1:])
    assert example_files(ROOT / "nowhere") == []


# --- cards ------------------------------------------------------------------------------------------------------


def test_plan_card_says_where_why_and_at_what_cost(engine: Engine, context: PageContext) -> None:
    made = engine.plan(DAMO, Wishes())
    card = plan_card(made, context)
    assert len(made.decisions) >= 5
    for words in ("DAMO-YOLO T on the CPU in bf16", "35.9 MB", "huggingface.co/Cwhgn/DAMO-YOLO-T", "Apache-2.0"):
        assert words in card
    for decision in made.decisions:
        assert text(sentence(why(decision))) in card
    assert "Not taken: fp32: " in card
    assert "Would change with the wish “precision first”" in card
    assert "preview weights" in card
    line = plan_line(made, context)
    assert "Downloads 35.9 MB first (Apache-2.0)" in line


def test_plan_card_says_what_measurements_made_of_the_prediction(tmp_path: Path) -> None:
    engine = engine_on(host_with(), tmp_path)
    context, wishes = PageContext(engine), Wishes(size=(640, 640))
    before = engine.plan(DAMO, wishes)
    assert "estimated from this machine" in plan_card(before, context)

    def ran(seconds: float, share: float) -> Plan:
        now = engine.plan(DAMO, wishes)
        predicted = Cost(now.predicted_seconds, now.peak_bytes["host"])
        measured = Cost(seconds, int(before.peak_bytes["host"] * share))
        applied = applied_correction(now)
        engine.store.record_run(correction_keys(now), predicted=predicted, measured=measured, applied=applied)
        return engine.plan(DAMO, wishes)

    after = ran(5.0, 40.0)
    was, now = seconds_text(before.predicted_seconds), seconds_text(after.predicted_seconds)
    assert f"predicted {was}; one run here says {now}" in plan_card(after, context)
    memory = [f"{gib(made.peak_bytes['host'])} GiB" for made in (before, after)]
    assert f"predicted {memory[0]}; one run here says {memory[1]}" in plan_card(after, context)
    ran(5.0, 40.0)
    after = ran(5.0, 40.0)
    assert "predicted" in plan_card(after, context)
    assert f"3 runs here say {seconds_text(after.predicted_seconds)}" in plan_card(after, context)
    assert f"原预计 {was}；按本机 3 次运行修正为" in plan_card(after, PageContext(engine, "zh"))
    engine.close()


def test_a_prediction_that_held_is_said_to_be_confirmed(tmp_path: Path) -> None:
    engine = engine_on(host_with(), tmp_path)
    made = engine.plan(DAMO, Wishes())
    cost = Cost(made.predicted_seconds, made.peak_bytes["host"])
    engine.store.record_run(correction_keys(made), predicted=cost, measured=cost)
    card = plan_card(engine.plan(DAMO, Wishes()), PageContext(engine))
    assert "confirmed by one run here" in card
    assert "here says" not in card
    engine.close()


def test_refused_wish_names_reason_and_remedy(engine: Engine, context: PageContext) -> None:
    made = engine.plan(DAMO, Wishes(dtype="fp16"))
    card = plan_card(made, context)
    assert "detector fp16 is refused" in card.replace("Detector", "detector")
    assert "Nearest that works: bf16" in card
    assert "refused" in card
    assert "35.9 MB" in card
    assert "ah-bad" in plan_line(made, context)


def test_consequence_of_a_wish_is_told_before_the_run(engine: Engine, context: PageContext) -> None:
    card = plan_card(engine.plan(DAMO, Wishes(dtype="fp32")), context, baseline=engine.plan(DAMO, Wishes()))
    assert "Computes in: bf16 → fp32 (detector)" in card
    same = plan_card(engine.plan(DAMO, Wishes(device="cpu")), context, baseline=engine.plan(DAMO, Wishes()))
    assert "change nothing" in same


def test_what_lies_on_the_disk_is_not_announced_as_a_download(context: PageContext) -> None:
    folders = context.engine.folders
    assert download_of(DAMO.variant("preview"), folders).bytes == 0
    assert download_of(DAMO.variant("T"), folders).bytes == DAMO.variant("T").download_bytes
    kept = folders.kept(DAMO.variant("S").weights[0])
    kept.parent.mkdir(parents=True)
    kept.write_bytes(b"\0" * (DAMO.variant("S").download_bytes // 2))
    try:
        assert download_of(DAMO.variant("S"), folders).bytes == 0
    finally:
        kept.unlink()


def test_non_commercial_weights_say_so(engine: Engine, context: PageContext) -> None:
    hunyuan = next(spec for spec in ADAPTERS if spec.name == "hunyuan3d")
    card = plan_card(engine.plan(hunyuan, Wishes()), context, runnable=False)
    assert "no commercial use" in card
    assert "has to be accepted before the download" in card
    assert "not yet runnable" in card


def test_the_same_reason_for_several_parts_is_given_once(engine: Engine) -> None:
    instantid = adapter("instantid")
    decisions = engine.plan(instantid, Wishes()).decisions
    groups = grouped(decisions)
    assert len(groups) < len(decisions)
    assert sorted(d.subject for group in groups for d in group) == sorted(d.subject for d in decisions)
    assert all(replace(d, subject="") == replace(group[0], subject="") for group in groups for d in group)


def test_every_named_host_gets_a_card_for_every_model(tmp_path: Path) -> None:
    for name in ("t4-16g", "m2-16g", "jetson-nano-4g", "gtx1060-6g", "h200-141g", "cpu-basic"):
        engine = engine_on(load_host(name), tmp_path / name)
        for spec in ADAPTERS:
            made = engine.plan(spec, Wishes())
            card = plan_card(made, PageContext(engine), baseline=made)
            assert ("Nearest" in card or "free" in card) if made.refusal else made.components[0].name in card
        assert engine.host.cpu.name in host_bar(engine.host, "en")


def test_wishes_panel_reads_what_it_shows(context: PageContext) -> None:
    def make() -> WishesPanel:
        with gr.Blocks():
            return WishesPanel(context, DAMO)

    panel = in_loop(make)
    assert panel.read(panel.defaults) == Wishes()
    values = dict(zip(panel.names, panel.defaults, strict=True))
    values |= {"dtype": "fp32", "size": "320x480", "batch": "4", "force": True, "residency": "offload"}
    assert panel.read(list(values.values())) == Wishes(
        dtype="fp32", size=(320, 480), batch=4, force=True, residency="offload"
    )
    values["size"] = "huge"
    card = Planning(context, DAMO).show_values(panel, list(values.values()))
    assert "size &#x27;huge&#x27; cannot be read" in card.card
    assert not card.fits


@pytest.mark.parametrize(("words", "size"), [("640", (640, 640)), (" 320 × 480 ", (320, 480)), ("320x480", (320, 480))])
def test_sizes_are_read_as_people_write_them(words: str, size: tuple[int, int]) -> None:
    assert read_size(words) == size


# --- states -----------------------------------------------------------------------------------------------------


def test_progress_counts_and_names_the_stage() -> None:
    words = states.progress(Step("detecting", 3, 8, seconds_left=2.0), "en")
    assert "Detecting" in words
    assert "3 of 8" in words
    assert "width:37.50%" in words
    assert "about 2.0 s left" in words
    assert "1.05 MB of 35.9 MB" in states.progress(
        Step("downloading", 1_048_576, 35_900_000, detail={"file": "a"}), "en"
    )
    assert "Stopping" in states.progress(Step("detecting", 3, 8), "en", stopping=True)


def test_every_error_has_words_of_its_own(engine: Engine) -> None:
    refused = engine.plan(DAMO, Wishes(variant="none"))
    cases: list[tuple[Exception, str]] = [
        (InputError("a.jpg is no picture"), "a.jpg is no picture"),
        (DoesNotFitError(refused.refusal), "there is no variant none"),
        (RunError("no rung is left"), "No rung is left."),
        (ValueError("<script>"), "ValueError: &lt;script&gt;"),
        (Cancelled("stopped"), "Nothing is running any more"),
    ]
    for error, words in cases:
        assert words in states.failed(error, "en")


def test_time_left_follows_the_pace_of_the_stage() -> None:
    now = [0.0]
    pace = Pace(lambda: now[0])
    assert pace.of(Step("loading", 0, 1)).seconds_left is None
    assert pace.of(Step("detecting", 1, 9)).seconds_left is None
    now[0] = 4.0
    assert pace.of(Step("detecting", 5, 9)).seconds_left == 4.0
    assert pace.of(Step("detecting", 9, 9)).seconds_left is None
    assert pace.of(Step("detecting", 5, 9, seconds_left=1.0)).seconds_left == 1.0


def test_a_taken_port_is_said_before_anything_is_loaded(capsys: pytest.CaptureFixture[str]) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        assert main(["serve", "--port", str(taken.getsockname()[1])]) == 2
    assert "choose another with --port" in capsys.readouterr().err
    assert main(["--port", "70000"]) == 2
    assert "70000" in capsys.readouterr().err


def test_strangers_words_stay_words() -> None:
    assert element("p", "", title='"><script>') == '<p title="&quot;&gt;&lt;script&gt;"></p>'
    assert "<a" not in link("javascript:alert(1)", "here")
    assert sentence("bf16 is fast") == "bf16 is fast."
    assert sentence("you chose fp32") == "You chose fp32."


def test_every_word_of_the_page_exists_in_every_language() -> None:
    keys = set(LANGUAGES["en"].PAGE)
    assert all(set(words.PAGE) == keys for words in LANGUAGES.values())
    files = [*(ROOT / "page").rglob("*.py"), *(ROOT / "kit" / "parts").rglob("*.py"), *ROOT.glob("adapters/*/*.py")]
    # A key has its subject before the dot; parts of keys, which a tab puts together itself, have none.
    used = {key for file in files for key in _keys(ast.parse(file.read_text(encoding="utf-8"))) if "." in key}
    assert len(used) > 60
    assert used <= keys
    with pytest.raises(KeyError):
        label("no.such.key")


def _keys(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant):
            name = node.func.id if isinstance(node.func, ast.Name) else getattr(node.func, "attr", "")
            if name in ("label", "_"):
                yield str(node.args[0].value)


# --- a detection as shown ---------------------------------------------------------------------------------------


def test_the_filter_equals_a_run_at_that_threshold() -> None:
    generator = np.random.default_rng(7)
    import torch

    corners = torch.from_numpy(generator.uniform(0, 300, (200, 2)).astype(np.float32))
    boxes = torch.cat([corners, corners + torch.from_numpy(generator.uniform(20, 120, (200, 2)).astype(np.float32))], 1)
    scores = torch.from_numpy(generator.uniform(0, 1, (200, 3)).astype(np.float32)) ** 2

    def run(threshold: float) -> tuple[Any, ...]:
        return detections(
            scores,
            boxes,
            network_size=(416, 416),
            picture_size=(416, 416),
            labels=("a", "b", "c"),
            settings=Suppression(threshold),
        )

    whole = run(0.05)
    for threshold in (0.2, 0.5, 0.8):
        expected = run(threshold)
        assert expected
        assert tuple(d for d in whole if d.score >= threshold) == expected


def test_preview_weights_are_named_wherever_they_were_used(shown: Shown, tmp_path: Path) -> None:
    note = "preview weights, trained on rendered scenes"
    assert note in weights_markup(shown, "en")
    assert note in figures(shown.result, "en")
    assert record(shown, Filter(0.5))["settings"]["weights"] == note
    nothing = Filter(1.0).of(shown.shots[0].seen)
    with_strip, without = drawn(shown, 0, nothing), np.array(Image.open(COINS).convert("RGB"))
    assert with_strip[-3:].mean() < 60 < without.mean()
    archive = save_pictures(shown, Filter(0.5), tmp_path)
    with zipfile.ZipFile(archive) as files:
        assert sorted(files.namelist()) == ["a_b-detections.png", "coins-detections.png", "detections.json"]
        with files.open("coins-detections.png") as file, Image.open(file) as image:
            assert json.loads(image.info["anyhost"])["weights"] == note
            assert image.size == (384, 303)


def test_filter_by_class_and_threshold_changes_table_counts_and_files(shown: Shown, tmp_path: Path) -> None:
    seen = shown.shots[0].seen
    loose, strict = Filter(0.05), Filter(0.8, ("coin",))
    kept = strict.of(seen).detections
    assert 0 < len(kept) < len(loose.of(seen).detections)
    assert {d.label for d in kept} == {"coin"}
    assert table_markup(strict.of(seen), "en").count("<tr>") == len(kept) + 1
    assert f"<strong>{len(kept)}</strong> coin" in counts_markup(strict.of(seen), "en")
    assert "Lower the threshold" in counts_markup(Filter(1.0).of(seen), "en")
    data = json.loads(save_data(shown, strict, tmp_path).read_text(encoding="utf-8"))
    assert [len(p["detections"]) for p in data["pictures"]] == [len(kept), 0]
    assert data["settings"]["classes"] == ["coin"]
    assert shown.labels[0] == "coin"
    assert not np.array_equal(drawn(shown, 0, loose.of(seen)), drawn(shown, 0, strict.of(seen)))


def test_account_compares_prediction_with_measurement(shown: Shown) -> None:
    entry = TraceEntry("pictures 1 to 2", "out_of_memory", "<asked for 3 GiB>", "batch 2 → 1")
    words = figures(replace(shown.result, trace=(entry,), seconds=1.5, load_seconds=3.0), "en")
    for expected in ("Out of memory.", "&lt;asked for 3 GiB&gt;", "batch 2 → 1", "1.5 s", "took 3.0 s before that"):
        assert expected in words
    assert "the first plan held" in figures(shown.result, "en")


def test_files_that_are_no_pictures_do_not_cost_the_others(tmp_path: Path) -> None:
    broken = tmp_path / "broken.jpg"
    broken.write_text("no picture")
    opened, problems = open_pictures([broken, COINS])
    assert [path for path, _ in opened] == [COINS]
    assert "broken.jpg" in str(problems[0])
    for paths, words in (([], "no picture"), ([broken], "broken.jpg"), ([COINS] * (MAX_PICTURES + 1), "65 pictures")):
        with pytest.raises(InputError, match=words):
            open_pictures(paths)


def test_pictures_gone_from_the_cache_are_asked_for_again(shown: Shown, tmp_path: Path) -> None:
    gone = replace(shown, shots=(replace(shown.shots[0], path=tmp_path / "gone.png"),))
    with pytest.raises(InputError, match="run it again"):
        save_pictures(gone, Filter(0.5), tmp_path)

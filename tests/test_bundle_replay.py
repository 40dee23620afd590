"""A report bundle saved from the page or the command line, and replayed: the plan as it was beside the one of now."""

import asyncio
import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import gradio as gr
import pytest

from adapters import ADAPTERS
from adapters.damo_yolo.tab import DetectTab
from app import main
from kit.parts.context import PageContext
from loader.bundle import Bundle, bundle_of, read_bundle, replayed, write_bundle
from loader.errors import InputError, RunError
from loader.host import load_host
from loader.outcome import Cancel, Result, TraceEntry
from loader.plan import plan
from loader.wishes import Wishes
from page.build import TABS
from tests.machines import ROOT, engine_on, host_with

COINS = ROOT / "assets" / "examples" / "coins.png"
VISITOR = SimpleNamespace(session_hash="visitor")


@pytest.fixture(scope="module")
def engine(tmp_path_factory):
    made = engine_on(host_with(), tmp_path_factory.mktemp("bundle"))
    yield made
    made.close()


def inside(make):
    async def made():
        with gr.Blocks(analytics_enabled=False):
            return make()

    return asyncio.run(made())


@pytest.fixture(scope="module")
def tab(engine):
    def make():
        built = DetectTab(PageContext(engine))
        built.build()
        save = next(
            fn.fn
            for fn in gr.context.Context.root_block.fns.values()
            if (built.report.button._id, "click") in fn.targets
        )
        return built, save

    return inside(make)


def ran(tab, pictures, **wished):
    """What a run of the tab shows last."""
    own = [pictures if part is tab.input.pictures else part.value for part in tab.inputs()]
    panel = dict(zip(tab.panel.names, tab.panel.defaults, strict=True)) | wished
    *_, last = tab._work(VISITOR, Cancel(), *own, *panel.values())
    return last


def saved(save, bundle) -> Path:
    return Path(save(gr.EventData(None, {}), bundle)[0])


# --- from the page ------------------------------------------------------------------------------------------------


def test_what_the_page_saves_is_replayed_to_the_same_plan(tab, capsys):
    page, save = tab
    last = ran(page, [(str(COINS), None)], variant="preview", size="320x320", dtype="fp32")
    assert last[page.report.box]["visible"] is True
    file = saved(save, last[page.report.bundle])
    assert file.name == "damo_yolo-preview-report.json"
    bundle = read_bundle(file)
    assert bundle.plan.situation.wishes.size == (320, 320)
    assert bundle.seconds > 0
    assert bundle.peak_host_bytes > 0
    assert bundle.error == ""
    assert replayed(bundle).was == replayed(bundle).now
    for word in ("coins", str(ROOT), "visitor"):
        assert word not in file.read_text(encoding="utf-8")
    assert main(["plan", "--bundle", str(file)]) == 0
    said = capsys.readouterr().out
    assert "It reproduces: the plan is the same to the last figure." in said
    assert "it took" in said


def test_a_failure_can_be_reported_too_and_names_nobody_s_things(tab, tmp_path):
    page, save = tab
    broken = tmp_path / "anna at home.png"
    broken.write_text("no picture")
    last = ran(page, [(str(broken), None)], variant="preview")
    assert "anna at home.png" in last[page.status]
    file = saved(save, last[page.report.bundle])
    text = file.read_text(encoding="utf-8")
    assert "anna" not in text
    assert "home" not in text
    bundle = read_bundle(file)
    assert bundle.error.startswith("InputError at adapters.damo_yolo.detecting:")
    assert replayed(bundle).reproduces


def test_a_refused_wish_is_reported_and_replayed_as_a_refusal(tab):
    page, save = tab
    last = ran(page, [(str(COINS), None)], device="cuda:7")
    bundle = read_bundle(saved(save, last[page.report.bundle]))
    assert not bundle.plan.fits
    assert bundle.error.startswith("DoesNotFitError: ")
    assert replayed(bundle).reproduces


def test_nothing_is_saved_before_anything_ran(tab):
    page, save = tab
    assert save(gr.EventData(None, {}), None)[0] is None
    begun = page._begin()
    assert begun[page.report.box]["visible"] is False
    assert begun[page.report.bundle] is None


def test_every_tab_has_the_button(engine):
    def make():
        for spec in ADAPTERS:
            TABS[spec.name](PageContext(engine, endpoints=False))
        return {
            block.elem_id for block in gr.context.Context.root_block.blocks.values() if isinstance(block, gr.Button)
        }

    names = inside(make)
    assert {f"{spec.endpoint.strip('/')}-report-save" for spec in ADAPTERS} <= names


# --- what ended it ------------------------------------------------------------------------------------------------


def test_words_of_errors_are_kept_without_paths_and_strangers_words_are_not():
    made = plan(ADAPTERS[0], load_host("cpu-basic"))
    ended = bundle_of(made, RunError("decode: no room in /home/anna/w.pth, and no smaller plan is left"))
    assert ended.error == "RunError: decode: no room in (path), and no smaller plan is left"
    assert bundle_of(made, KeyError("a secret prompt")).error == "KeyError"
    entry = TraceEntry("find faces in me and anna.jpg", "out_of_memory", "asked for 3 GiB", "batch 2 → 1")
    (kept,) = bundle_of(Result((), made, (entry,))).trace
    assert kept.unit == "(file)"
    assert kept.why == "asked for 3 GiB"


# --- on the command line ------------------------------------------------------------------------------------------


@pytest.fixture
def kept() -> Bundle:
    return bundle_of(plan(ADAPTERS[0], load_host("t4-16g"), Wishes(variant="T")))


def test_another_plan_is_marked_and_said(kept, tmp_path, capsys):
    first = kept.plan.components[0]
    other = "bf16" if first.compute_dtype != "bf16" else "fp32"
    before = replace(first, compute_dtype=other, storage_dtype=other)
    changed = replace(kept.plan, components=(before, *kept.plan.components[1:]))
    write_bundle(tmp_path / "old.json", replace(kept, plan=changed))
    assert main(["plan", "--bundle", str(tmp_path / "old.json")]) == 1
    said = capsys.readouterr().out
    (line,) = (line for line in said.splitlines() if "Computes in" in line and "≠" in line)
    assert line.split() == ["≠", "Computes", "in", first.compute_dtype, other]
    assert f"{other} → {first.compute_dtype} ({first.name})" in said
    assert "It no longer reproduces" in said
    assert main(["plan", "--bundle", str(tmp_path / "old.json"), "--json"]) == 1
    record = json.loads(capsys.readouterr().out)
    assert record["reproduces"] is False
    assert {"what": "compute_dtype", "subject": first.name, "was": other, "now": first.compute_dtype} in record[
        "differences"
    ]


def test_better_predictions_still_reproduce(kept, tmp_path, capsys):
    write_bundle(tmp_path / "old.json", replace(kept, plan=replace(kept.plan, predicted_seconds=99.0)))
    assert main(["plan", "--bundle", str(tmp_path / "old.json"), "--language", "zh"]) == 0
    said = capsys.readouterr().out
    assert "只有预测或理由不同" in said
    assert "≠" in said


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{", "is no bundle: it is not JSON"),
        ('{"format": "anyhost-bundle-9"}', "is no bundle of this version"),
        ('{"format": "anyhost-bundle-1"}', "missing field plan"),
    ],
)
def test_what_is_no_bundle_is_wrong_use_and_says_so(text, words, tmp_path, capsys):
    (tmp_path / "b.json").write_text(text)
    assert main(["plan", "--bundle", str(tmp_path / "b.json")]) == 2
    assert words in capsys.readouterr().err
    assert main(["plan", "--bundle", str(tmp_path / "b.json"), "--adapter", "damo_yolo"]) == 2
    assert "leave out the other options" in capsys.readouterr().err


def test_a_run_writes_one_also_when_it_fails(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("ANYHOST_CACHE", str(tmp_path / "cache"))
    words = ["run", "damo_yolo", str(COINS), "--out", str(tmp_path / "out"), "--bundle", str(tmp_path / "b.json")]
    assert main([*words, "--variant", "preview", "--size", "320x320"]) == 0
    assert read_bundle(tmp_path / "b.json").seconds > 0
    assert main([*words, "--variant", "none"]) == 3
    assert read_bundle(tmp_path / "b.json").error.startswith("DoesNotFitError: ")
    assert main([*words[:-1], str(tmp_path / "nowhere" / "b.json")]) == 2
    assert "there is no folder" in capsys.readouterr().err


def test_a_bundle_that_asks_for_the_impossible_is_refused_in_words(kept, tmp_path):
    write_bundle(tmp_path / "b.json", kept)
    data = json.loads((tmp_path / "b.json").read_text(encoding="utf-8"))
    data["plan"]["situation"]["spec"]["variants"] = []
    (tmp_path / "b.json").write_text(json.dumps(data))
    with pytest.raises(InputError, match="cannot be replayed"):
        replayed(read_bundle(tmp_path / "b.json"))

"""What a run had finished when it was stopped or failed is said and shown: no picture is measured twice for nothing."""

import asyncio
from types import SimpleNamespace

import gradio as gr
import pytest

from adapters.aniportrait.tab import AnimateTab
from adapters.damo_yolo.tab import DetectTab
from adapters.hunyuan3d.tab import MeshTab
from adapters.metric3d.tab import DepthTab
from kit.parts import states
from kit.parts.context import PageContext
from loader.errors import DoesNotFitError, RunError
from loader.outcome import Cancel, Step, Unit
from loader.wishes import Wishes
from tests.machines import ROOT, engine_on, host_with
from tests.staged_adapter import Asked, spec_named

EXAMPLES = ROOT / "assets" / "examples"
THREE = [(str(EXAMPLES / name), None) for name in ("coins.png", "scene_wood.jpg", "scene_tiles.jpg")]
VISITOR = SimpleNamespace(session_hash="visitor")
SMALL = {"variant": "preview", "dtype": "fp32"}


@pytest.fixture(autouse=True)
def every_step_is_told(monkeypatch):
    monkeypatch.setattr("kit.running.TELL_EVERY", 0.0)


@pytest.fixture(scope="module")
def engine(tmp_path_factory):
    made = engine_on(host_with(), tmp_path_factory.mktemp("kept"))
    yield made
    made.close()


def built(kind, engine):
    async def made():
        with gr.Blocks(analytics_enabled=False):
            tab = kind(PageContext(engine))
            tab.build()
        return tab

    return asyncio.run(made())


def stopped_after(tab, own, stage, count, **wished):
    """What a run shows last that is stopped as soon as ``count`` of ``stage`` are done."""
    panel = dict(zip(tab.panel.names, tab.panel.defaults, strict=True)) | wished
    cancel, plain = Cancel(), tab.step_shown
    ticks = [part.value for part in tab._ticks()]

    def watching(step: Step):
        if step.stage == stage and step.index >= count:
            cancel.request()
        return plain(step)

    tab.step_shown = watching
    *_, last = tab._work(VISITOR, cancel, *ticks, *own, *panel.values())
    assert cancel.requested, "it never came so far"
    return last


def given(tab, pictures):
    """Values of the tab's inputs: as built, with these pictures."""
    return [pictures if part is tab.input.pictures else part.value for part in tab.inputs()]


def test_pictures_that_were_seen_are_shown(engine):
    tab = built(DetectTab, engine)
    last = stopped_after(tab, given(tab, THREE), "detecting", 1, size="320x320", batch="1", **SMALL)
    assert "Stopped" in last[tab.status]
    assert "Finished before that: 1 of 3 pictures, shown below." in last[tab.status]
    assert [shot.seen.name for shot in last[tab.pictures.view].shots] == ["coins.png"]
    assert last[tab.pictures.box]["visible"] is True
    assert last[tab.run]["visible"] is True


def test_pictures_that_were_measured_are_shown(engine):
    tab = built(DepthTab, engine)
    last = stopped_after(tab, given(tab, THREE), "measuring", 2, size="84x112", batch="1", **SMALL)
    assert "2 of 3 pictures, shown below" in last[tab.status]
    assert [kept.measured.name for kept in last[tab.result.view].kept] == ["coins.png", "scene_wood.jpg"]
    assert last[tab.result.box]["visible"] is True


def test_stages_of_a_mesh_are_named_and_can_be_gone_on_from(engine):
    tab = built(MeshTab, engine)
    own = given(tab, [(str(EXAMPLES / "mesh_mug.png"), None)])
    last = stopped_after(tab, own, "mesh_cut_out_done", 1, variant="miniature", steps="2")
    assert "Finished before that: the cut-out." in last[tab.status]
    assert last[tab.result.kept].products.cut is not None
    assert last[tab.result.go_on]["visible"] is True


def test_a_clip_that_was_stopped_can_be_gone_on_with_and_reported(engine):
    tab = built(AnimateTab, engine)
    named = {
        tab.consent: True,
        tab.given.portrait: str(EXAMPLES / "portrait_rendered.png"),
        tab.given.sound: str(EXAMPLES / "speech_synthesised.wav"),
    }
    own = [named.get(part, part.value) for part in tab.inputs()]
    wished = {"variant": "miniature", "size": "64x64", "steps": "4", "frames": "4", "dtype": "fp32"}
    last = stopped_after(tab, own, "denoising_clip", 2, **wished)
    assert last[tab.result.held].unfinished.step >= 1
    assert last[tab.result.held_box]["visible"] is True
    assert last[tab.report.bundle].error.startswith("Cancelled")
    assert last[tab.report.bundle].plan.steps == 4


# --- errors carry it ----------------------------------------------------------------------------------------------


def test_an_error_carries_plan_and_trace_of_the_run_it_ended(engine, monkeypatch):
    """Out of memory twice in a unit that no smaller plan helps: the trace says what was tried."""
    from tests import staged_adapter

    run = staged_adapter.Staged.run

    def starved(self, parts, request):
        yield from run(self, parts, request)

        def full(plan):
            raise MemoryError("no room for 3 GiB")

        yield Unit("last", "decoder", full)

    monkeypatch.setattr(staged_adapter.Staged, "run", starved)
    with pytest.raises(RunError) as failed:
        list(engine.run(spec_named(only_fp32=True), Asked(("text", "decoder")), Wishes(dtype="fp32")))
    ended = failed.value.ended
    assert ended.outputs == ()
    assert ended.plan.adapter == spec_named().name
    assert [entry.event for entry in ended.trace][:1] == ["out_of_memory"]
    assert ended.trace[-1].plan_change == "nothing left"
    assert failed.value.kept


def test_what_was_refused_before_it_began_has_nothing_to_carry(engine):
    with pytest.raises(DoesNotFitError) as refused:
        list(engine.run(spec_named(), Asked(), Wishes(variant="none")))
    assert refused.value.kept == ()
    assert refused.value.ended is None
    assert "Finished" not in states.failed(refused.value, "en")

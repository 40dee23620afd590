"""The button that tunes: where it is offered, who may press it, what it shows."""

import asyncio
from types import SimpleNamespace

import gradio as gr
import pytest

from adapters import adapter
from kit.parts import tune_button
from kit.parts.context import PageContext
from kit.parts.wishes_panel import WishesPanel
from loader import candidates
from loader.candidates import Trial
from loader.knowledge import Way
from loader.outcome import Step
from loader.plan import plan
from loader.tuning import Tuning
from loader.wishes import Wishes
from tests.machines import engine_on, host_with

SPEC = adapter("damo_yolo")


@pytest.fixture
def engine(tmp_path):
    made = engine_on(host_with(base="cpu-amx"), tmp_path)
    yield made
    made.close()


def panel_on(context) -> WishesPanel:
    async def made() -> WishesPanel:  # without a running loop Gradio opens some and never closes them
        with gr.Blocks():
            return WishesPanel(context, SPEC)

    return asyncio.run(made())


def found_on(host) -> Tuning:
    base = plan(SPEC, host, Wishes(variant="preview"))
    slow, fast = Trial(candidates.way_of(base), (0.1, 0.1)), Trial(Way("bf16"), (0.05, 0.05))
    return Tuning(base, (slow, fast), fast.way, 2, 2, 3.0)


def on_page(engine, admin="everybody"):
    return PageContext(engine, "en", admin)


def test_the_page_offers_it_where_a_run_takes_seconds_and_somebody_may(engine):
    assert tune_button.offered(on_page(engine), SPEC)
    assert not tune_button.offered(on_page(engine, "nobody"), SPEC)
    assert not tune_button.offered(on_page(engine), adapter("aniportrait"))


def test_the_page_shows_what_won_and_refuses_strangers(engine, monkeypatch):
    found = found_on(engine.host)
    shown = tune_button.tuned_card(found, "en")
    assert "bf16 is used from now on: 50 ms an item" in shown
    assert shown.count("<tr>") == 1 + len(found.trials)
    panel = panel_on(on_page(engine, "local"))
    assert panel.tune is not None
    stranger = SimpleNamespace(client=SimpleNamespace(host="10.0.0.9"), headers={}, session_hash="x")
    (refused,) = panel.tune._work(stranger, panel, panel.defaults)
    assert "administers" in refused[panel.tune.told]
    steps = iter([Step("tuning", 1, 3, detail={"disturbed": 0}), found])
    monkeypatch.setattr(engine, "tune", lambda *_, **__: (step for step in steps))
    here = SimpleNamespace(client=SimpleNamespace(host="127.0.0.1"), headers={}, session_hash="x")
    progress, last = panel.tune._work(here, panel, panel.defaults)
    assert "timing in turn" in progress[panel.tune.told]
    assert "bf16 is used" in last[panel.tune.told]
    assert last[panel.tune.button]["interactive"] is True

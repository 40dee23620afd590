"""Everything of a visitor is gone an hour later: files of requests, files Gradio knows, and what a page remembers."""

import asyncio
import datetime
import time
from pathlib import Path
from types import SimpleNamespace

import gradio as gr
import pytest
from gradio.route_utils import delete_files_created_by_app
from gradio.state_holder import SessionState, StateHolder

from adapters.damo_yolo.tab import DetectTab
from kit.parts.context import PageContext
from loader.bundle import Bundle
from loader.outcome import Cancel
from page.build import CLEAN_EVERY, KEEP, launch_options
from page.cleaning import Cleaner, clean, kept_always
from tests.machines import ROOT, engine_on, host_with

COINS = ROOT / "assets" / "examples" / "coins.png"
HOUR = 3600


@pytest.fixture
def served(tmp_path, monkeypatch):
    """A detector's page whose folder is ``tmp_path/files``."""
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path / "files"))
    engine = engine_on(host_with(), tmp_path)

    async def made():
        with gr.Blocks(analytics_enabled=False) as page:
            tab = DetectTab(PageContext(engine))
            tab.build()
        return page, tab

    page, tab = asyncio.run(made())
    yield page, tab, tmp_path / "files"
    engine.close()


def tree(folder: Path) -> set[str]:
    return {str(p.relative_to(folder)) for p in folder.rglob("*")}


def test_files_that_no_component_knows_go_too_and_the_page_s_own_stay(served):
    page, tab, folder = served
    before = tree(folder)
    request = tab.saving.folder()
    request.mkdir(parents=True)
    (request / "clip-detections.jsonl").write_text("{}")
    (request / ".writing-half").write_text("{")
    (folder / "upload").mkdir()
    (folder / "upload" / "portrait.png").write_text("somebody")
    keep = kept_always(page)
    assert len(keep) >= 5, "its examples"

    now = time.time()
    assert clean(folder, HOUR, keep, now=now + HOUR - 60) == 0
    assert clean(folder, HOUR, keep, now=now + HOUR + 60) == 3
    assert clean(folder, HOUR, keep, now=now + 2 * HOUR + 60) == 0, "folders that became empty, an hour after"
    assert tree(folder) == before
    assert all(Path(file).exists() for file in keep)


def test_it_is_cleaned_every_now_and_then_until_it_is_closed(tmp_path):
    waited: list[float] = []

    def wait(seconds: float) -> bool:
        waited.append(seconds)
        (tmp_path / f"{len(waited)}.png").write_text("somebody")
        return len(waited) > 3

    cleaner = Cleaner(tmp_path, every=CLEAN_EVERY, age=-1, wait=wait)
    cleaner.start()
    cleaner._thread.join(10)
    assert not cleaner._thread.is_alive()
    assert waited == [CLEAN_EVERY] * 4
    assert [p.name for p in tmp_path.iterdir()] == ["4.png"]
    assert KEEP == HOUR


def test_what_gradio_was_given_to_show_goes_by_its_own_clock(served, monkeypatch):
    page, tab, _ = served
    shown = Path(tab.saving.file.GRADIO_CACHE) / "x" / "coins-detections.json"
    shown.parent.mkdir(parents=True)
    shown.write_text("{}")
    tab.saving.file.temp_files.add(str(shown))
    assert page.delete_cache is None, "that is set on the whole page, see test_page"
    delete_files_created_by_app(page, KEEP)
    assert shown.exists()

    class Later(datetime.datetime):
        @classmethod
        def now(cls, tz=None):
            return super().now(tz) + datetime.timedelta(seconds=HOUR + 60)

    monkeypatch.setattr("gradio.route_utils.datetime", Later)
    delete_files_created_by_app(page, KEEP)
    assert not shown.exists()


def test_what_a_page_remembers_of_its_visitor_is_let_go(served):
    page, tab, _ = served
    panel = dict(zip(tab.panel.names, tab.panel.defaults, strict=True))
    panel |= {"variant": "preview", "size": "320x320", "dtype": "fp32"}
    own = [[(str(COINS), None)] if part is tab.input.pictures else part.value for part in tab.inputs()]
    *_, last = tab._work(SimpleNamespace(session_hash="visitor"), Cancel(), *own, *panel.values())

    holder = StateHolder()
    holder.set_blocks(page)
    session = holder["visitor"]
    for part, value in last.items():
        if isinstance(part, gr.State):
            session[part._id] = value
    remembered = [type(value).__name__ for value in session.state_data.values()]
    assert {"Shown", "Bundle"} <= set(remembered)
    holder.delete_all_expired_state()
    assert len(session.state_data) == len(remembered), "not before"
    an_hour = datetime.timedelta(seconds=HOUR + 60)
    session._state_ttl = {key: (ttl, at - an_hour) for key, (ttl, at) in session._state_ttl.items()}
    holder.delete_all_expired_state()
    left = list(session.state_data.values())
    assert [value for value in left if isinstance(value, Bundle) or hasattr(value, "shots")] == []
    assert all(isinstance(value, (int, str)) for value in left), left


def test_no_more_visitors_are_remembered_than_memory_is_for(served):
    page, _, _ = served
    page.state_session_capacity = launch_options()["state_session_capacity"]
    holder = StateHolder()
    holder.set_blocks(page)
    assert holder.capacity == 128
    holder.capacity = 2
    for name in ("a", "b", "c"):
        assert isinstance(holder[name], SessionState)
    assert list(holder.session_data) == ["b", "c"]

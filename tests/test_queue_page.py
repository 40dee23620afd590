"""Waiting as visitors and programs meet it: Gradio lets requests through, and the engine's lane is the one queue."""

import asyncio
import json
import time
from collections import Counter
from contextlib import closing

import gradio as gr
import httpx
import pytest
from gradio_client import Client, handle_file
from gradio_client.exceptions import AppError

from adapters.damo_yolo.tab import DetectTab
from kit.parts import states
from kit.parts.context import PageContext
from kit.parts.endpoint import ModelEndpoint
from kit.running import TELL_WAITING_EVERY, Asked, told
from kit.texts import error_text
from loader.errors import QueueFullError
from loader.lanes import Lanes
from loader.outcome import Result, Step
from loader.wishes import Wishes
from page.build import launch_options
from tests import staged_adapter
from tests.machines import ROOT, engine_on, host_with

COINS = ROOT / "assets" / "examples" / "coins.png"
MAY_WAIT = 3
# Gradio counts what has ended with an option that pandas has given up.
pytestmark = pytest.mark.filterwarnings("ignore:.*no_silent_downcasting")
PREVIEW = {"variant": "preview", "dtype": "fp32", "size": "160"}


def in_loop(make):
    async def made():
        return make()

    return asyncio.run(made())


@pytest.fixture(scope="module")
def engine(tmp_path_factory):
    made = engine_on(host_with(), tmp_path_factory.mktemp("queue"))
    made._lane = Lanes(MAY_WAIT)
    yield made
    made.close()


@pytest.fixture(scope="module")
def address(engine):
    def build():
        with gr.Blocks(analytics_enabled=False) as page:
            DetectTab(PageContext(engine)).build()
        return page

    page = in_loop(build)
    options = {**launch_options(), "css_paths": [], "js": None, "theme": None}
    _, url, _ = in_loop(lambda: page.launch(server_name="127.0.0.1", prevent_thread_lock=True, **options))
    yield url
    page.close(verbose=False)


@pytest.fixture
def held(engine):
    """Somebody else's request has the lane; ``close`` ends it."""
    running = engine.run(staged_adapter.spec_named(), staged_adapter.Asked(), Wishes(dtype="fp32"), session="other")
    with closing(running):
        next(running)
        yield running
    until(lambda: not engine._lane.locked() and engine._lane.of("cpu").waiting == 0)


def until(condition, seconds=30.0):
    end = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < end, "it never came"
        time.sleep(0.02)
    return found


def submitted(address, engine, number):
    """A request of a client of its own, once it waits."""
    client = Client(address, verbose=False, analytics_enabled=False)
    job = client.submit([handle_file(str(COINS))], api_name="/detect", **PREVIEW)
    until(lambda: engine._lane.of("cpu").waiting >= number)
    return job


def progress(job):
    """What a job was told last."""
    return job.outputs()[-1][0] if job.outputs() else {}


def test_programs_wait_in_the_engine_s_lane_and_are_told_where(engine, address, held):
    jobs = [submitted(address, engine, number) for number in (1, 2, 3)]
    for number, job in enumerate(jobs, start=1):
        said = until(lambda job=job: progress(job).get("stage") == "waiting" and progress(job))
        assert said["place"] == number
        assert said["waiting"] >= number
        assert said["seconds"] >= 0
    sessions = {ticket.session for ticket in engine._lane.of("cpu")._waiting}
    assert len(sessions) == 3, "each client is somebody"
    assert "" not in sessions

    other = Client(address, verbose=False, analytics_enabled=False)
    with pytest.raises(AppError, match=r"3 requests are waiting and 3 may: try again in about \d+ s"):
        other.predict([handle_file(str(COINS))], api_name="/detect", **PREVIEW)

    began = time.monotonic()
    jobs[1].cancel()
    until(lambda: engine._lane.of("cpu").waiting == 2)
    assert time.monotonic() - began < 3
    until(lambda: progress(jobs[2])["place"] == 2, seconds=3)

    held.close()
    for job in (jobs[0], jobs[2]):
        report, files = job.result(timeout=60)
        assert len(report["pictures"]) == len(files) == 1
        assert report["device"] == "cpu"


def test_who_leaves_while_waiting_gives_up_the_place(engine, address, held):
    """As a browser does whose page is closed: the stream of what it is told ends."""
    with httpx.Client(base_url=address, timeout=30) as browser:
        with COINS.open("rb") as file:
            path = browser.post("gradio_api/upload", files={"files": ("coins.png", file)}).json()[0]
        picture = {"path": path, "meta": {"_type": "gradio.FileData"}}
        data = [[picture], 0.5, "preview", "", "fp32", "160", 0.7]
        number = next(d["id"] for d in browser.get("config").json()["dependencies"] if d["api_name"] == "detect")
        join = {"data": data, "fn_index": number, "session_hash": "leaving"}
        assert browser.post("gradio_api/queue/join", json=join).status_code == 200
        with browser.stream("GET", "gradio_api/queue/data", params={"session_hash": "leaving"}) as stream:
            for line in stream.iter_lines():
                if '"waiting"' in line:
                    assert json.loads(line.removeprefix("data: "))["output"]["data"][0]["place"] == 1
                    break
        assert engine._lane.of("cpu").waiting == 1
    until(lambda: engine._lane.of("cpu").waiting == 0, seconds=10)


# --- what is told -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("step", "language", "words"),
    [
        (Step("waiting", 3, 5, 41.2), "en", "3rd in line, about 40 s"),
        (Step("waiting", 1, 5, 0.2), "en", "1st in line, about 1 s"),
        (Step("waiting", 12, 22, 600.0), "en", "12th in line, about 10 min"),
        (Step("waiting", 22, 22, 7.4), "en", "22nd in line, about 7 s"),
        (Step("waiting", 3, 5, 41.2), "zh", "排队第 3 位，约 40 s 后开始"),
    ],
)
def test_place_and_time_are_said(step, language, words):
    told_ = states.progress(step, language)
    assert f">{words}</strong>" in told_
    assert "5 waiting" in told_ if (step.total, language) == (5, "en") else True


def test_a_wait_longer_than_predicted_is_not_given_a_figure():
    said = states.progress(Step("waiting", 1, 1, 0.0), "en")
    assert ">1st in line</strong>" in said
    assert "takes longer than predicted" in said
    assert "about" not in said


def test_stop_pressed_while_waiting_is_what_is_said():
    assert "Stopping" in states.progress(Step("waiting", 1, 1, 4.0), "en", stopping=True)


def test_a_full_queue_is_said_in_the_reader_s_language():
    error = QueueFullError(32, 32, 75.0)
    assert "32 requests are waiting and 32 may: try again in about 75 s" in states.failed(error, "en")
    assert "上限为 32 个：请约 75 s 后再试" in error_text(error, "zh")


class Waiting:
    """An engine whose lane is busy for a while: a step every fifth of a second."""

    def __init__(self, places):
        self.now, self.places = 0.0, places

    def run(self, *_, **__):
        for place in self.places:
            self.now += 0.2
            yield Step("waiting", place, 9, 50.0 - self.now)
        yield Result(("done",), plan=None)


def test_while_waiting_a_change_of_place_is_told_at_once_and_else_each_second():
    engine = Waiting([3] * 20 + [2] * 20 + [1] * 2)
    *heard, _ = told(engine, "spec", "request", Asked(), clock=lambda: engine.now)
    assert Counter(step.index for step in heard) == {3: 4, 2: 4, 1: 1}
    assert TELL_WAITING_EVERY == 1.0


def test_the_api_tells_the_place_and_else_what_is_done():
    items = iter([Step("waiting", 2, 4, 12.345), Step("waiting", 1, 1), Step("detecting", 1, 3)])
    answers = [answer for answer, _ in ModelEndpoint.told(None, items, lambda _: ({}, []))]
    assert answers == [
        {"stage": "waiting", "place": 2, "waiting": 4, "seconds": 12.3},
        {"stage": "waiting", "place": 1, "waiting": 1, "seconds": None},
        {"stage": "detecting", "done": 1, "total": 3},
    ]

"""What all model tabs share: a run told step by step, Stop, errors in words, files saved, uploads bounded."""

import asyncio
from types import SimpleNamespace

import gradio as gr
import numpy as np
import pytest
from PIL import Image

from adapters import adapter
from kit import uploads
from kit.parts.context import PageContext
from kit.parts.model_tab import ModelTab
from kit.parts.picture_input import PictureInput
from kit.parts.saving import Saving
from kit.parts.upload_limit import upload_limit
from kit.running import Asked, told
from loader.errors import InputError
from loader.outcome import Cancel, Kept, Result, Step
from loader.wishes import Wishes
from tests.machines import engine_on, host_with

VISITOR = SimpleNamespace(session_hash="visitor")


class Shouting(ModelTab[str]):
    """Makes words loud; "quiet" fails in words, "crash" without."""

    spec = adapter("damo_yolo")

    def build_input(self):
        self.words = gr.Textbox()

    def build_result(self):
        self.box = gr.Column(visible=False)
        self.loud = gr.Textbox()
        self.glimpse = gr.Textbox(visible=False)

    def inputs(self):
        return [self.words]

    def outputs(self):
        return [self.box, self.loud]

    def result_boxes(self):
        return [self.box]

    def running_boxes(self):
        return [self.glimpse]

    def lacking(self, values):
        return "" if values[0] else self.empty(alert=True)

    def job(self, values, asked):
        yield Step("detecting", 1, 2, preview=values[0])
        if values[0] == "quiet":
            raise InputError("quiet is 0 dB; say something louder")
        if values[0] == "crash":
            raise ZeroDivisionError("crash")
        asked.cancel.check()
        yield f"{values[0].upper()} {asked.session} {asked.wishes.batch}"

    def step_shown(self, step):
        return {self.glimpse: gr.update(value=step.preview, visible=True)}

    def finished(self, outcome, values):
        return {self.loud: f"{outcome} ({values[0]})", self.box: gr.update(visible=True)}


@pytest.fixture(scope="module")
def engine(tmp_path_factory):
    made = engine_on(host_with(), tmp_path_factory.mktemp("tab"))
    yield made
    made.close()


def inside(make):
    """What ``make`` builds inside a page, in a running loop as Gradio wants one."""

    async def made():
        with gr.Blocks(analytics_enabled=False):
            return make()

    return asyncio.run(made())


@pytest.fixture(scope="module")
def tab(engine):
    def make():
        built = Shouting(PageContext(engine))
        built.build()
        return built

    return inside(make)


def run(tab, words, cancel=None, **wished):
    panel = dict(zip(tab.panel.names, tab.panel.defaults, strict=True)) | wished
    return list(tab._work(VISITOR, cancel or Cancel(), words, *panel.values()))


def test_a_run_is_told_shown_and_ends_with_the_buttons_back(tab):
    first, step, last = run(tab, "hello", batch="2")
    assert "ah-progress" in first[tab.status]
    assert "1 of 2" in step[tab.status]
    assert step[tab.glimpse]["value"] == "hello"
    assert last[tab.loud] == "HELLO visitor 2 (hello)"
    assert last[tab.status] == ""
    assert last[tab.run]["visible"] is True
    assert last[tab.stop]["visible"] is False
    assert last[tab.glimpse]["visible"] is False


@pytest.mark.parametrize(
    ("words", "said"),
    [("quiet", "quiet is 0 dB; say something louder"), ("crash", "ZeroDivisionError: crash"), ("", "No picture yet")],
)
def test_whatever_goes_wrong_is_said_and_the_buttons_are_back(tab, words, said, caplog):
    last = run(tab, words)[-1]
    assert said in last[tab.status]
    assert 'role="alert"' in last[tab.status]
    assert last[tab.run]["visible"] is True
    assert last[tab.glimpse]["visible"] is False
    # What nobody foresaw is in the log with its trace; what is the user's to mend is not.
    assert [record.levelname for record in caplog.records] == (["ERROR"] if words == "crash" else [])


def test_stop_ends_the_run_in_words(tab):
    cancel = Cancel()
    assert tab._request_stop(cancel)["interactive"] is False
    assert cancel.requested
    *_, last = run(tab, "hello", cancel)
    assert "Nothing is running any more" in last[tab.status]


@pytest.mark.parametrize("broken", [False, True])
def test_what_was_finished_before_an_error_is_said_and_whatever_happens_the_error_is(tab, caplog, broken):
    class Keeping(Shouting):
        def job(self, values, asked):
            error = InputError("the second half is missing")
            error.kept = (Kept("finding_faces", "HALF"),)
            error.ended = Result((), self.planning.plan(Wishes()))
            raise error
            yield

        def finished_part(self, kept, values, ended):
            words, _ = super().finished_part(kept, values, ended)
            return words, {self.loud: 1 / 0 if broken else kept[-1].value}

    def make():
        built = Keeping(tab.context)
        built.build()
        return built

    keeping = inside(make)
    last = run(keeping, "hello")[-1]
    assert "the second half is missing" in last[keeping.status]
    assert ("Finished before that: the face was found." in last[keeping.status]) is not broken
    assert last.get(keeping.loud) == (None if broken else "HALF")
    assert last[keeping.run]["visible"] is True
    assert len(caplog.records) == broken


def test_a_page_that_is_left_closes_the_job(tab):
    closed = []

    class Leaving(Shouting):
        def job(self, values, asked):
            try:
                yield Step("detecting", 1, 2, preview="")
                yield "never"
            finally:
                closed.append(values[0])

    def make():
        built = Leaving(tab.context)
        built.build()
        return built

    left = inside(make)
    work = left._work(VISITOR, Cancel(), "bye", *left.panel.defaults)
    next(work)
    next(work)
    work.close()
    assert closed == ["bye"]


# --- told ---------------------------------------------------------------------------------------------------------


class Steps:
    """An engine that gives a step every hundredth of a second."""

    def __init__(self, steps):
        self.now, self.steps, self.given, self.closed = 0.0, steps, None, False

    def run(self, spec, request, wishes, **settings):
        self.given = (spec, request, wishes, settings)
        try:
            for step in self.steps:
                self.now += 0.01
                yield step
        finally:
            self.closed = True


def test_no_more_is_told_than_can_be_read_and_no_stage_is_missed():
    last = Step("drawing", 1, 1, preview="picture")
    steps = [Step("loading", 0, 1), *(Step("denoising", i, 50) for i in range(50)), last]
    engine, asked = (
        Steps([*steps, Result(("done",), plan=None)]),
        Asked(Wishes(batch=3), session="visitor", accepted=frozenset({"x"})),
    )
    *heard, result = told(engine, "spec", "request", asked, clock=lambda: engine.now)
    assert result.outputs == ("done",)
    assert [s.stage for s in heard] == ["loading", *["denoising"] * (len(heard) - 2), "drawing"]
    assert 4 <= len(heard) <= 7
    assert engine.given[:3] == ("spec", "request", Wishes(batch=3))
    assert engine.given[3]["accepted"] == {"x"}
    assert engine.given[3]["session"] == "visitor"
    assert engine.given[3]["cancel"] is asked.cancel


def test_closing_what_is_told_ends_the_run():
    engine = Steps([Step("loading", 0, 1)] * 5)
    heard = told(engine, "spec", "request", Asked(), clock=lambda: engine.now)
    next(heard)
    heard.close()
    assert engine.closed


# --- files --------------------------------------------------------------------------------------------------------


def test_a_press_writes_a_file_of_its_own_and_errors_are_said(tmp_path):
    def make():
        saving, button, words = Saving("en", gr.HTML()), gr.Button(), gr.Textbox()

        def save(folder, said):
            if not said:
                return None
            if said == "full":
                raise InputError("the disk is full")
            folder.mkdir(parents=True)
            (folder / "said.txt").write_text(said)
            return folder / "said.txt"

        saving.on(button, save, [words])
        return gr.context.Context.root_block.fns[0].fn

    saved = inside(make)
    event = gr.EventData(None, {})
    paths = [saved(event, "hello")[0] for _ in range(2)]
    assert len(set(paths)) == 2
    assert saved(event, "")[0] is None
    path, status = saved(event, "full")
    assert path is None
    assert "the disk is full" in status


# --- uploads ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("check", "limit", "words"),
    [
        (uploads.check_picture, uploads.MAX_PICTURE_BYTES, "the limit of a picture is 50 MB: scale it down"),
        (uploads.check_clip, uploads.MAX_CLIP_BYTES, "the limit of a video is 600 MB: cut it"),
    ],
)
def test_files_above_the_limit_are_refused_with_it_and_a_remedy(tmp_path, check, limit, words):
    file = tmp_path / "file.bin"
    for size, refused in ((limit, False), (limit + 2**20, True)):
        with file.open("wb") as written:
            written.truncate(size)
        if refused:
            with pytest.raises(InputError, match=words):
                check(file)
        else:
            check(file)


def test_a_picture_that_got_past_the_browser_is_left_out_and_the_others_stay(tmp_path):
    part = inside(lambda: PictureInput("en", "x", []))
    small, large = tmp_path / "a.png", tmp_path / "b.png"
    Image.fromarray(np.zeros((9, 9, 3), np.uint8)).save(small)
    with large.open("wb") as written:
        written.truncate(300 * 2**20)
    kept, said = part._uploaded([(str(small), None), (str(large), None)])
    assert kept == [(str(small), "a.png")]
    assert "b.png has 300 MB; the limit of a picture is 50 MB" in said


def test_the_limit_is_in_the_page_for_the_browser_to_keep():
    markup = inside(lambda: upload_limit("en", "video", 600 * 2**20, of="x-clip")).value
    assert f'data-limit="{600 * 2**20}"' in markup
    assert 'data-of="x-clip"' in markup
    assert "{name} has {size} MB; the limit of a video is 600 MB" in markup

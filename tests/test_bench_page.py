"""The page of benchmarks: a bench in a process of its own, in turn with visitors, and figures while serving."""

import asyncio
import json
import re
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import gradio as gr
import pytest

from bench import lines as bench_lines
from bench import session
from bench.rows import Asked, Machine, Milliseconds, Progress, Report, Row, report_file, report_to_json
from bench.session import Benches, Snapshot, words_of
from commands.bench import _asked, add
from kit.parts.context import PageContext
from kit.texts import LANGUAGES
from kit.texts.labels import label
from loader.codec import to_plain
from loader.engine import Engine
from loader.errors import Cancelled, RunError
from loader.host import load_host
from loader.live import KEPT, Live
from loader.outcome import Result, Step, TraceEntry
from page import bench_view as view
from page.bench import BenchTab, Seen, benches_of
from tests.machines import ROOT, engine_on, host_with

MIB = 2**20
ASKED = Asked("damo_yolo", "preview", (1,), 5, compiled=False, size=(96, 96), peaks=False, limits=False)
LIMIT = 20.0


def a_row(config: str = "planned", kind: str = "planned", seconds: float = 0.02, **changes: Any) -> Row:
    ms = Milliseconds.of([seconds, seconds * 1.1, seconds * 1.2])
    row = Row("damo_yolo", "preview", "preview", config, kind, (96, 96), 1, 3, ms, 1 / seconds, 2.5)
    return replace(row, **changes)


def a_report(*rows: Row) -> Report:
    return Report(Machine.of(load_host("cpu-amx"), "2026-01-31"), rows or (a_row(),))


def until(what: Callable[[], bool]) -> None:
    end = time.monotonic() + LIMIT
    while not what():
        assert time.monotonic() < end, "it never came"
        time.sleep(0.01)


# --- the process --------------------------------------------------------------------------------------------------

# Stands in for app.py: three pieces of work, each begun only when somebody answers; a line in a file for each.
SCRIPT = """
import json, sys, time
log = open({log!r}, "a")
print(" ".join(sys.argv[1:]), file=log, flush=True)
for piece in range(3):
    now = dict(stage="rounds", done=piece, total=3, config="", rows={rows})
    print(json.dumps(dict(progress=now)), flush=True)
    if not sys.stdin.readline():
        sys.exit(1)
    print(f"piece {{piece}}", file=log, flush=True)
    time.sleep({pause})
print(json.dumps({last}), flush=True)
"""


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[Engine]:
    made = engine_on(host_with(), tmp_path)
    yield made
    made.close()


@pytest.fixture
def log(tmp_path: Path) -> Path:
    return tmp_path / "pieces.log"


def benches(engine: Engine, log: Path, pause: float = 0.0, last: dict[str, Any] | None = None) -> Benches:
    said = last or {"report": to_plain(a_report())}
    rows = [to_plain(a_row())]
    script = SCRIPT.format(log=str(log), pause=pause, last=repr(said), rows=repr(rows))
    return Benches(engine, ("-c", script))


@contextmanager
def visitor(engine: Engine) -> Iterator[Any]:
    """Somebody in the lane of the processor."""
    ticket = engine.lane("cpu").join("anne", 1.0)
    try:
        yield ticket
    finally:
        ticket.leave()


def pieces(log: Path) -> int:
    return log.read_text(encoding="utf-8").count("piece") if log.is_file() else 0


def test_a_bench_runs_to_its_end_and_gives_the_lane_back(engine, log):
    made = benches(engine, log)
    assert made.start(ASKED, "cpu") == ""
    until(lambda: not made.snapshot().going_on)
    shot = made.snapshot()
    assert (shot.state, shot.error) == ("done", "")
    assert shot.report == a_report() == made.report_of("damo_yolo")
    assert made.report_of("metric3d") is None
    assert pieces(log) == 3
    assert f"{' '.join(words_of(ASKED))} --lines" in log.read_text(encoding="utf-8")
    until(lambda: not engine.lane("cpu").locked())


def test_a_second_one_and_one_beside_a_visitor_are_refused(engine, log):
    made = benches(engine, log, pause=5.0)
    with visitor(engine) as ticket:
        assert made.start(ASKED, "cpu") == "busy", "somebody waits"
        assert ticket.taken(1.0)
        assert made.start(ASKED, "cpu") == "busy", "somebody computes"
    assert made.start(ASKED, "cpu") == ""
    assert made.start(ASKED, "cpu") == "running"
    until(lambda: pieces(log) == 1)
    assert engine.lane("cpu").locked(), "it has the lane while it works"
    made.stop()


def test_visitors_go_first_between_two_pieces_of_work(engine, log):
    made = benches(engine, log, pause=0.3)
    made.start(ASKED, "cpu")
    until(lambda: pieces(log) == 1)
    with visitor(engine) as ticket:
        until(lambda: ticket.taken(0.1))
        until(lambda: made.snapshot().state == "waiting")
        seen = pieces(log)
        time.sleep(0.6)
        assert pieces(log) == seen < 3, "nothing is measured while a visitor computes"
    until(lambda: made.snapshot().state == "done")
    assert pieces(log) == 3


def test_stop_ends_it_at_once(engine, log):
    made = benches(engine, log, pause=60.0)
    made.start(ASKED, "cpu")
    until(lambda: pieces(log) == 1)
    before = time.monotonic()
    made.stop()
    assert time.monotonic() - before < session.STOP_S
    assert made.snapshot().state == "stopped"
    assert not engine.lane("cpu").locked()
    assert made.start(ASKED, "cpu") == "", "and another may begin"
    made.stop()


@pytest.mark.parametrize(("last", "says"), [({"error": "no room"}, "no room"), ({"other": 1}, "KeyError")])
def test_a_failure_is_told(engine, log, last, says):
    made = benches(engine, log, last=last)
    made.start(ASKED, "cpu")
    until(lambda: not made.snapshot().going_on)
    assert made.snapshot().state == "failed"
    assert says in made.snapshot().error


def test_the_command_is_asked_for_what_the_page_asked_for():
    import argparse

    parser = argparse.ArgumentParser()
    add(parser.add_subparsers())
    for asked in (
        ASKED,
        replace(ASKED, batches=(1, 4), compiled=True, peers=True, peaks=True, variant=None, size=None),
    ):
        args = parser.parse_args(words_of(asked))
        assert _asked("damo_yolo", args) == asked


class Pipe:
    """One end of a pipe that answers each line said with one of its own."""

    def __init__(self) -> None:
        self.said: list[dict[str, Any]] = []
        self._turn = threading.Semaphore(0)
        self.left = True

    def write(self, line: str) -> None:
        self.said.append(json.loads(line))
        self._turn.release()

    def flush(self) -> None:
        """Nothing is held back."""

    def __iter__(self) -> Iterator[str]:
        while True:
            self._turn.acquire()
            yield "\n"


def test_the_process_says_how_it_goes_and_waits_for_an_answer():
    def work(tell: Any) -> Report:
        for done in range(2):
            tell(Progress("rounds", done, 2, "", (a_row(),)))
        return a_report()

    pipe = Pipe()
    assert bench_lines.speaking(work, pipe, pipe) == 0
    assert [next(iter(line)) for line in pipe.said] == ["progress", "progress", "report"]

    def fails(tell: Any) -> Report:
        raise RunError("killed for want of memory")

    pipe = Pipe()
    assert bench_lines.speaking(fails, pipe, pipe) == 1
    assert pipe.said == [{"error": "killed for want of memory"}]


def test_a_bench_ends_when_nobody_listens_any_more(tmp_path):
    """As when the server is killed: the pipe closes, and the process with whatever it started is gone."""
    import subprocess

    code = (
        "import time; from bench.lines import speaking; from bench.rows import Progress\n"
        "speaking(lambda tell: [tell(Progress('peak', 0, 1)), time.sleep(60)])"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True
    )
    with process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdout.readline()
        process.stdin.close()
        try:
            assert process.wait(LIMIT) != 0
        finally:
            process.kill()


# --- the page -----------------------------------------------------------------------------------------------------


class Person:
    """What Gradio tells about who sends a request."""

    def __init__(self, host: str = "127.0.0.1", **headers: str) -> None:
        self.client, self.headers = SimpleNamespace(host=host), headers


ADMIN, STRANGER = Person(), Person("203.0.113.7")


class Tab:
    """The tab with what its events answer by name."""

    def __init__(self, engine: Engine, made: Benches | None, stored: Path, language: str = "en") -> None:
        async def built() -> BenchTab:
            with gr.Blocks(), gr.Tabs() as tabs, gr.Tab("bench") as outer:
                part = BenchTab(PageContext(engine, language, admin="local"), made, stored)
                part.build(outer, tabs)
            return part

        self.part = asyncio.run(built())

    def does(self, event: str, *given: Any) -> dict[str, Any]:
        answer = getattr(self.part, event)(*given)
        names = {id(value): name for name, value in vars(self.part).items()}
        return {names[id(part)]: value for part, value in answer.items()}

    def runs(self, person: Person = ADMIN, size: str = "96x96", batches: tuple[int, ...] = (1,)) -> dict[str, Any]:
        return self.does("_run", "damo_yolo", "preview", size, batches, 5, ["peaks"], person)


@pytest.mark.parametrize("language", LANGUAGES)
def test_rows_are_shown_while_it_runs_and_the_report_at_its_end(engine, log, tmp_path, language):
    made = benches(engine, log, pause=0.2)
    tab = Tab(engine, made, tmp_path, language)
    shown = tab.does("_look", "damo_yolo", ADMIN)
    assert shown["controls"]["visible"]
    assert shown["timer"].active
    assert label("bench.none", language) in shown["results"]
    assert not shown["saves"]["visible"]
    tab.runs()
    until(lambda: made.snapshot().progress is not None)
    shown = tab.does("_tick", "damo_yolo", Seen(), ADMIN)
    assert label("bench.stage.rounds", language) in shown["status"]
    assert label("bench.so_far", language, rounds=3) in shown["results"]
    assert shown["stop"]["visible"]
    assert not tab.does("_tick", "damo_yolo", Seen(), STRANGER)["stop"]["visible"]
    until(lambda: not made.snapshot().going_on)
    shown = tab.does("_tick", "damo_yolo", Seen(), ADMIN)
    assert shown["status"] == ""
    assert label("bench.config.planned", language) in shown["results"]
    assert "<svg" in shown["results"]
    assert "45.2 ms" in shown["reference"]
    assert shown["saves"]["visible"]
    assert shown["run"]["interactive"]
    assert list(tab.does("_tick", "damo_yolo", shown["seen"], ADMIN)) == ["seen"], "nothing is sent twice"
    for suffix in (".json", ".csv", ".md"):
        saved = tab.part._saver(suffix)(tmp_path / "saved", "damo_yolo")
        assert saved.name == f"bench-damo_yolo{suffix}"
        assert "planned" in saved.read_text(encoding="utf-8")
    assert tab.part._saver(".csv")(tmp_path / "saved", "metric3d") is None


def test_only_whoever_administers_may_run_and_stop(engine, log, tmp_path):
    made = benches(engine, log, pause=60)
    tab = Tab(engine, made, tmp_path)
    shown = tab.does("_look", "damo_yolo", STRANGER)
    assert not shown["controls"]["visible"]
    assert label("bench.rights") in shown["rights"]
    assert label("bench.rights") in tab.runs(STRANGER)["status"]
    assert made.snapshot().state == "idle"
    tab.runs()
    assert label("bench.rights") in tab.does("_stop", "damo_yolo", STRANGER)["status"]
    assert made.snapshot().going_on
    assert "A bench is under way" in tab.runs()["status"]
    assert label("state.stopped") in tab.does("_stop", "damo_yolo", ADMIN)["status"]


def test_what_cannot_be_measured_is_said_before_it_begins(engine, log, tmp_path):
    tab = Tab(engine, benches(engine, log), tmp_path)
    assert "HEIGHT" in tab.runs(size="wide")["status"].upper()
    assert "at least one size" in tab.runs(batches=())["status"].lower()
    with visitor(engine):
        assert label("bench.busy") in tab.runs()["status"]
    assert not log.exists()


def test_a_stored_report_is_shown_to_everybody(engine, log, tmp_path):
    (tmp_path / "damo_yolo.json").write_text(report_to_json(a_report()), encoding="utf-8")
    shown = Tab(engine, benches(engine, log), tmp_path).does("_look", "damo_yolo", STRANGER)
    assert label("bench.stored") in shown["results"]
    assert "measured 2026-01-31" in shown["results"]


def test_where_requests_are_computed_elsewhere_there_is_nothing_to_run(engine, tmp_path):
    assert benches_of(SimpleNamespace(host=engine.host)) is None
    assert benches_of(engine) is not None
    engine.host = replace(engine.host, platform="zerogpu")
    assert benches_of(engine) is None
    shown = Tab(engine, None, tmp_path).does("_look", "damo_yolo", ADMIN)
    assert label("bench.elsewhere") in shown["rights"]
    assert not shown["controls"]["visible"]


def test_the_tab_asks_for_figures_only_while_it_is_looked_at(engine, tmp_path):
    part = Tab(engine, None, tmp_path).part
    assert part._away(SimpleNamespace(value="Weights")).active is False
    assert part._away(SimpleNamespace(value=label("bench.tab"))) == gr.skip()


def test_larger_batches_are_folded_away():
    kept = report_file(ROOT / "assets" / "benchmarks" / "damo_yolo.json")
    batches = sorted({row.batch for row in kept.rows})
    shown = view.results(kept, "en")
    opened, *folded = shown.split("<details")
    assert batches == [1, 2, 4, 8, 16]
    assert [part.count("<svg") for part in (opened, *folded)] == [3] * len(batches)
    for batch, part in zip(batches[1:], folded, strict=True):
        assert f"<summary>{batch} at once</summary>" in part
    one = replace(kept, rows=tuple(row for row in kept.rows if row.batch == 1))
    assert "<details" not in view.results(one, "en")


def test_published_figures_stand_beside_the_rows_that_are_alike():
    found = a_report(
        a_row("as published", "published", 0.1), a_row("merged bf16", "adapted", 0.05), a_row(seconds=0.02)
    )
    shown = view.reference(found, "en")
    rows = [cells.split("</td><td>") for cells in shown.split("<tr><td>")[1:]]
    assert [row[1] for row in rows[:4]] == ["45.2 ms", "32.1 ms (−29.0 %)", "28.7 ms (−36.5 %)", "21.5 ms (−52.4 %)"]
    assert [row[2].split("<")[0] for row in rows] == ["110.0 ms", "55.0 ms (−50.0 %)", "–", "–", "22.0 ms (−80.0 %)"]


def test_regions_of_a_card_have_names_of_their_own():
    shown = view.results(a_report(), "en") + view.reference(a_report(), "en")
    names = re.findall(r'<(?:section|div)[^>]*aria-label="([^"]*)"', shown)
    assert len(names) == 4
    assert len(set(names)) == 4
    assert all(re.findall(r"<th[^>]*>([^<]*)</th>", shown)), "every column is named"


def test_a_row_without_a_time_says_why_and_names_are_text():
    failed = a_row("merged fp32, compiled", "adapted", ms=None, images_per_second=None, error="no <g++> here")
    shown = view.results(a_report(failed, a_row(quiet=False)), "en")
    assert "no &lt;g++&gt; here" in shown
    assert "merged, fp32, compiled" in shown
    assert label("bench.disturbed") in shown
    assert label("bench.disturbed") not in view.results(a_report(), "en")
    assert view.progress(Snapshot(), "en") == ""


# --- figures while serving ------------------------------------------------------------------------------------------


def a_result(
    engine: Engine, seconds: float, items: int = 2, peak: int = MIB, trace: tuple[TraceEntry, ...] = ()
) -> Result:
    from adapters import adapter
    from loader.wishes import Wishes

    plan = engine.plan(adapter("damo_yolo"), Wishes(variant="preview"))
    return Result((), plan, trace, seconds, peak_bytes={"device": 0, "host": peak}, items=items)


def work(*given: Any) -> Iterator[Any]:
    for item in given:
        if isinstance(item, Exception):
            raise item
        yield item


def test_runs_stops_and_errors_are_counted_and_only_the_last_figures_kept(engine):
    now = [0.0]
    live = Live(clock=lambda: now[0])
    trace = (TraceEntry("picture 1", "out_of_memory", "why", "batch 1"),)
    now[0] = 30.0
    assert len(list(live.watching("damo_yolo", work(Step("a", 0, 1), a_result(engine, 4.0, trace=trace))))) == 2
    for error in (RunError("x"), RunError("y"), ValueError("z")):
        with pytest.raises(type(error)):
            list(live.watching("damo_yolo", work(Step("a", 0, 1), error)))
    with pytest.raises(Cancelled):
        list(live.watching("damo_yolo", work(Cancelled("stopped"))))
    closed = live.watching("damo_yolo", work(Step("a", 0, 1), Step("a", 1, 1)))
    next(closed)
    closed.close()
    (figures,) = live.figures()
    assert (figures.runs, figures.items, figures.stopped) == (1, 2, 2)
    assert figures.errors == {"RunError": 2, "ValueError": 1}
    assert figures.events == {"out_of_memory": 1}
    assert figures.average == 2.0, "seconds for one of two"
    assert figures.per_minute == 4.0, "two in the half minute since it began"
    for _ in range(KEPT + 5):
        list(live.watching("damo_yolo", work(a_result(engine, 1.0))))
    (figures,) = live.figures()
    assert figures.seconds == (0.5,) * KEPT
    assert 0.5 <= figures.average < 0.51
    now[0] = 1000.0
    assert live.figures()[0].per_minute == 0, "nothing in the last five minutes"


def test_the_engine_counts_every_request(engine):
    from adapters import adapter
    from adapters.damo_yolo.pipeline import DamoYolo
    from loader.errors import DoesNotFitError
    from loader.wishes import Wishes

    spec = adapter("damo_yolo")
    request = DamoYolo().sample(engine.plan(spec, Wishes(variant="preview")))
    *_, last = engine.run(spec, request, Wishes(variant="preview", size=(96, 96)))
    assert isinstance(last, Result)
    with pytest.raises(DoesNotFitError):
        list(engine.run(spec, request, Wishes(device="cuda:7")))
    (figures,) = engine.live.figures()
    assert (figures.adapter, figures.runs, dict(figures.errors)) == ("damo_yolo", 1, {"DoesNotFitError": 1})
    assert figures.seconds == (last.seconds,)


@pytest.mark.parametrize("language", LANGUAGES)
def test_figures_are_numbers_with_small_charts(engine, tmp_path, language):
    tab = Tab(engine, None, tmp_path, language)
    assert label("live.none", language) in tab.does("_look", "damo_yolo", STRANGER)["live"]
    trace = (TraceEntry("picture 1", "out_of_memory", "why", "batch 1"),)
    for seconds in (4.0, 2.0):
        list(engine.live.watching("damo_yolo", work(a_result(engine, seconds, peak=3 * MIB, trace=trace))))
    with pytest.raises(RunError):
        list(engine.live.watching("damo_yolo", work(RunError("secret"))))
    shown = tab.does("_tick", "damo_yolo", Seen(), STRANGER)["live"]
    assert "DAMO-YOLO" in shown
    assert "3.15 MB" in shown
    assert shown.count("<polyline") == 2
    assert 'points="0.0,2.0 100.0,12.5"' in shown, "half as long, half as high"
    assert LANGUAGES[language].EVENTS["out_of_memory"].capitalize() in shown
    assert f"{label('error.run', language)}" in shown
    assert "secret" not in shown

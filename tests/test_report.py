"""Reports for programs."""

from adapters import adapter
from kit.texts import EVENTS_OF
from kit.texts.report import run_record
from loader.host import load_host
from loader.outcome import Result, TraceEntry
from loader.plan import plan
from loader.wishes import Wishes


def test_what_was_predicted_for_a_request_is_for_all_of_it():
    """A plan's seconds are those of one batch; a report of five pictures sets them beside the time of five."""
    made = plan(adapter("damo_yolo"), load_host("cpu-basic"), Wishes(batch=2))
    assert made.batch == 2
    record = run_record(Result((), made, seconds=4.0, peak_bytes={"host": 5}, items=5))
    assert record["predicted_seconds"] == made.predicted_seconds * 3
    assert record["seconds"] == 4.0
    assert record["peak_bytes"] == {"host": 5}
    assert record["predicted_peak_bytes"] == dict(made.peak_bytes)


def test_a_trace_says_what_an_event_is_and_why():
    made = plan(adapter("metric3d"), load_host("cpu-basic"))
    entry = TraceEntry(unit="picture 1", event="out_of_memory", why="too large", plan_change="size 1064 → 798")
    (told,) = run_record(Result((), made, trace=(entry,)))["trace"]
    assert told == {
        "unit": "picture 1",
        "event": "out_of_memory",
        "what": EVENTS_OF["out_of_memory"],
        "why": "too large",
        "plan_change": "size 1064 → 798",
    }
    assert told["what"] != "out_of_memory"

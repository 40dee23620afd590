"""Tuning while nobody asks: opt-in, after a quiet while, given up at once when a request comes."""

import threading
import time

import pytest

from adapters import adapter
from adapters.damo_yolo.pipeline import DetectRequest
from kit.images import open_picture
from loader.idle import GivesWay, IdleTuner, wanted
from loader.outcome import Result
from loader.tuning import Lap, Trials
from loader.wishes import Wishes
from tests.machines import ROOT, engine_on, host_with

SPEC = adapter("damo_yolo")
COINS = open_picture(ROOT / "assets" / "examples" / "coins.png")
PREVIEW = Wishes(variant="preview", size=(320, 320))


@pytest.fixture
def engine(tmp_path):
    made = engine_on(host_with(base="cpu-amx"), tmp_path)
    yield made
    made.close()


def quick(call) -> Lap:
    return Lap(0.1, quiet=True, value=call())


def until(true, seconds: float = 60.0) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "it never came"
        time.sleep(0.02)


def test_it_is_asked_for_by_name():
    assert wanted({"ANYHOST_TUNE": " Idle "})
    assert not wanted({"ANYHOST_TUNE": "1"})
    assert not wanted({})


def test_what_lies_on_this_disk_is_tuned_once_while_idle(engine):
    tuner = IdleTuner(engine, [SPEC], idle_s=0.05, look_s=0.01, trials=Trials(rounds=1, timer=quick))
    tuner.start()
    until(lambda: engine.store.load().tuned)
    tuner.close()
    (entry,) = engine.store.load().tuned
    assert entry.variant == "preview", "the published weights are not here"
    assert not tuner.once(), "nothing is tried twice"


def test_it_waits_until_nobody_computes_and_leaves_at_once_when_somebody_comes(engine):
    begun, laps = threading.Event(), []

    def slow(call) -> Lap:
        begun.set()
        laps.append(time.sleep(0.05))
        return Lap(0.1, quiet=True, value=call())

    tuner = IdleTuner(engine, [SPEC], idle_s=0.05, look_s=0.01, trials=Trials(rounds=400, timer=slow))
    tuner.start()
    assert begun.wait(60)
    *_, result = engine.run(SPEC, DetectRequest((COINS,)), PREVIEW)
    assert isinstance(result, Result), "served while a trial of hundreds of rounds was under way"
    assert len(laps) < 400
    tuner.close()
    assert engine.store.load().tuned == (), "nothing is kept of half a trial"
    assert engine.requests == 0


def test_a_stop_that_presses_itself_stays_pressed():
    others = [False]
    stop = GivesWay(lambda: others[0])
    assert not stop.requested
    others[0] = True
    assert stop.requested
    others[0] = False
    assert stop.requested

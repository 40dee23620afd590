"""A process that has served for long: memory as flat as at the start, and a crash is nobody else's business."""

import json
import os
import subprocess
import sys
from collections import Counter

import pytest

from loader.engine import Engine
from tests.machines import ROOT, engine_on, host_with
from tests.mixed import Kind, real
from tests.soak import CRASHED, LEFT, LIMIT, PLAIN, STOPPED, WARM, Sample, Soak, check_free, compared, table

# diffusers' schedulers still use what numpy 2 deprecates.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy:DeprecationWarning")
KINDS = {kind.name: kind for kind in real()}


@pytest.fixture(scope="module")
def soak(tmp_path_factory: pytest.TempPathFactory):
    folder = tmp_path_factory.mktemp("soak")
    engine = engine_on(host_with(), folder)
    yield Soak(engine, folder)
    engine.close()


@pytest.mark.alone
def test_memory_files_and_threads_stay_as_they_were_over_many_mixed_requests():
    """In a process of its own, whose memory nothing else has had. ``make soak`` runs the long version."""
    environ = {**os.environ, "OMP_NUM_THREADS": "1", "ANYHOST_PROBE_SECONDS": "0"}
    command = [sys.executable, "-m", "tests.soak", "--requests", "75"]
    run = subprocess.run(command, cwd=ROOT, env=environ, capture_output=True, text=True, timeout=300)
    assert run.returncode == 0, run.stderr[-2000:]
    told = json.loads(run.stdout)
    assert len(told["models"]) == 7
    assert {CRASHED, LEFT, PLAIN, STOPPED} == set(told["ended"])
    assert told["watched"]["resident"]["ratio"] <= LIMIT
    assert told["watched"]["files"]["ratio"] <= 1
    assert told["watched"]["threads"]["ratio"] <= 1


@pytest.mark.parametrize("name", KINDS)
def test_after_a_crash_in_the_middle_the_same_request_is_answered_as_before(soak: Soak, name: str):
    kind = KINDS[name]
    before = Counter(soak.ended)
    good = [soak.one(kind, 0, kind.wishes[0]) for _ in range(2)]  # the first warms up, which is calls as well
    assert soak.one(kind, 0, kind.wishes[0], end=CRASHED) == ""
    assert {soak.one(kind, 0, kind.wishes[0]), *good} == {good[0]}
    assert soak.ended - before == Counter({PLAIN: 3, CRASHED: 1})


@pytest.mark.parametrize("name", KINDS)
def test_answers_tell_requests_apart(soak: Soak, name: str):
    """Otherwise nothing above would notice that one was given another's."""
    kind: Kind = KINDS[name]
    assert soak.one(kind, 0, kind.wishes[0]) != soak.one(kind, 1, kind.wishes[0])


def test_what_is_not_given_back_is_noticed(soak: Soak):
    engine: Engine = soak.engine
    ticket = engine._lane.of("cpu").join("somebody", 1.0)
    with pytest.raises(AssertionError, match="still waits"):
        check_free(engine)
    assert ticket.taken(1.0)
    with pytest.raises(AssertionError, match="lane is still taken"):
        check_free(engine)
    ticket.leave()
    check_free(engine)


def test_a_leak_shows_in_the_figures():
    samples = [Sample(n, 100 + n, 6, 2 + n // 50, Counter()) for n in range(1, 101)]
    watched = compared(samples)
    assert watched["resident"] == {"first": 100 + WARM + 10.5, "last": 190.5, "ratio": 1.4598}
    assert watched["files"]["ratio"] == 1
    assert watched["threads"]["ratio"] > 1
    told = {"watched": watched, "ended": {"done": 100}, "requests": 100, "models": ["a"]}
    assert "| resident |" in table(told)

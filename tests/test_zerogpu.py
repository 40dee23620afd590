"""ZeroGPU rehearsed: workers are forked, arguments pickled, and the main process computes nothing on the card."""

import json
import os
import subprocess
import sys

import pytest

from commands.engines import on_zerogpu, replicas_from, spaces_package
from loader.errors import InputError
from tests.machines import ROOT


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    environ = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(ROOT / "tests" / "fake_spaces"), str(ROOT)]),
        "OMP_NUM_THREADS": "1",
        "HF_HUB_OFFLINE": "1",
    }
    folder = tmp_path_factory.mktemp("zero")
    command = [sys.executable, "-m", "tests.zerogpu_rehearsal", str(folder)]
    done = subprocess.run(command, cwd=ROOT, env=environ, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_models_are_placed_before_the_first_request(found):
    assert found["placed_bytes"] > 2_500_000


def test_a_request_is_computed_in_a_worker_and_its_results_come_back(found):
    first = found["first"]
    assert (first["pictures"], first["objects"], first["device"]) == (2, 24, "fake:0")
    assert "asking_for_card" in first["stages"]
    assert "detecting" in first["stages"]
    assert found["computed_in_main"] == 0


def test_the_seconds_asked_for_come_from_the_plan(found):
    assert found["asked"][0] == found["wanted"]
    assert 15 <= found["wanted"] < 60


def test_what_is_refused_or_runs_on_the_cpu_asks_for_no_card(found):
    assert found["refused"]["error"] == "DoesNotFitError"
    assert (found["on_cpu"]["objects"], found["on_cpu"]["device"]) == (24, "cpu")
    assert "asking_for_card" not in found["on_cpu"]["stages"]
    assert len(found["asked"]) == 2  # the first request and the stopped one


def test_stop_reaches_the_worker(found):
    assert found["stopped"]["error"] == "Cancelled"
    assert found["stopped"]["pictures"] == 0


def test_what_a_worker_writes_outlives_it(found):
    assert found["log"] == 2  # the run in a worker and the one on the CPU


def test_the_engine_itself_is_never_pickled(found):
    assert not found["engine_pickles"]


@pytest.mark.parametrize(("value", "expected"), [("", False), ("0", False), ("1", True), ("true", True)])
def test_the_place_is_told_by_environment(value, expected):
    assert on_zerogpu({"SPACES_ZERO_GPU": value}) is expected


def test_without_its_package_the_remedy_is_said():
    with pytest.raises(InputError, match=r"requirements\.txt"):
        spaces_package()


@pytest.mark.parametrize(("words", "expected"), [("2", (2, 2)), ("2-8", (2, 8))])
def test_replicas(words, expected):
    assert replicas_from(words) == expected


@pytest.mark.parametrize("words", ["", "two", "2-", "-3", "2-x"])
def test_replicas_that_cannot_be(words):
    if words == "2-":
        assert replicas_from(words) == (2, 2)
        return
    with pytest.raises(InputError, match="--replicas"):
        replicas_from(words)

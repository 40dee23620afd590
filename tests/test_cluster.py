"""Two replicas on this machine that plan as two different ones; one of them dies."""

import json
import os
import pickle
import shutil
import signal
import subprocess
import sys
import threading
import time
import warnings
from pathlib import Path

import psutil
import pytest

from adapters import adapter
from adapters.damo_yolo.job import OPTIONS, request
from cluster.board import SILENT_SECONDS, Board, Standing
from cluster.gate import AT_A_REPLICA, Gate
from cluster.rate import PlainProcess, compare, kept, kept_of_processor
from kit.folder_run import LEDGER, Ledger
from loader.errors import (
    Cancelled,
    CheckpointMismatchError,
    DoesNotFitError,
    InputError,
    LicenceNotAcceptedError,
    QueueFullError,
    RunError,
)
from loader.host import load_host
from loader.outcome import Cancel, Result, Step
from loader.plan import plan
from loader.spec import Licence
from loader.wishes import Wishes
from tests.machines import ROOT

SPEC = adapter("damo_yolo")
HOSTS = ("cpu-amx", "cpu-avx2")


def picture_request(count: int = 1):
    pictures = [ROOT / "assets/examples/coins.png"] * count
    return request(pictures, {name: default for name, (_, default, _) in OPTIONS.items()})


def ray_address() -> str:
    import ray

    return ray.get_runtime_context().gcs_address


def collected(items) -> tuple[list[Step], Result]:
    *steps, result = list(items)
    assert isinstance(result, Result)
    return steps, result


def test_errors_travel_between_processes_whole():
    refused = plan(SPEC, load_host("t4-16g"), Wishes(dtype="bf16")).refusal
    for error in (
        DoesNotFitError(refused),
        DoesNotFitError(None),
        LicenceNotAcceptedError([Licence("terms", "https://example.org", accept=True)]),
        CheckpointMismatchError("x.pth", missing=("a",), wrong_shape=("b: 1, 2",)),
        InputError("no"),
        RunError("no"),
    ):
        again = pickle.loads(pickle.dumps(error))
        assert type(again) is type(error)
        assert str(again) == str(error)
        assert vars(again) == vars(error)


def test_a_replica_asks_for_the_share_of_a_card_that_the_largest_plan_needs():
    from cluster.scale import gpu_share, scale_for

    host = load_host("rtx4090-24g")
    share = gpu_share([plan(SPEC, host), plan(adapter("metric3d"), host)])
    assert 0 < share < 0.5
    assert round(share / 0.05, 6) == round(share / 0.05)
    assert gpu_share([plan(SPEC, load_host("cpu-amx"))]) == 0
    made = scale_for(load_host("cpu-amx"), least=2, most=2)
    assert (made.cores, made.gpus) == (1, 0.0)


def test_a_scale_that_cannot_be_is_refused():
    from cluster.scale import Scale

    for wrong in ({"least": 0}, {"least": 3, "most": 2}, {"cores": 0}):
        with pytest.raises(InputError):
            Scale(**{"least": 1, "most": 1, **wrong})


class TestGate:
    def test_as_many_go_through_as_replicas_can_use_and_the_rest_wait_in_turn(self):
        gate = Gate(lambda: 1, clock=lambda: 0.0)
        for _ in range(AT_A_REPLICA):
            assert list(gate.enter("a", no_seconds, Cancel())) == []
        waiting = [gate.enter(session, lambda: 6.0, Cancel()) for session in ("a", "a", "a", "b")]
        for one in waiting:
            next(one)
        places = [next(one) for one in waiting]
        assert [(p.index, p.total) for p in places] == [
            (1, 4),
            (2, 4),
            (4, 4),
            (3, 4),
        ]  # b is not kept waiting by all of a's
        assert [p.seconds_left for p in places] == [6.0, 6.0, 18.0, 12.0]
        gate.leave()
        assert list(waiting[0]) == []
        assert next(waiting[1]).index == 1

    def test_a_replica_more_makes_room(self):
        now, count = [0.0], [1]
        gate = Gate(lambda: count[0], clock=lambda: now[0])
        assert gate.places() == AT_A_REPLICA
        count[0] = 3
        assert gate.places() == AT_A_REPLICA  # counted a moment ago
        now[0] = 2.0
        assert gate.places() == 3 * AT_A_REPLICA
        now[0], count[0] = 4.0, 0
        assert gate.places() == 1

    def test_who_stops_or_goes_away_leaves_the_queue(self):
        gate = Gate(lambda: 1, limit=1)
        for _ in range(AT_A_REPLICA):
            list(gate.enter("a", no_seconds, Cancel()))
        cancel = Cancel()
        stopped = gate.enter("a", lambda: 1.0, cancel)
        next(stopped)
        cancel.request()
        with pytest.raises(Cancelled):
            next(stopped)
        left = gate.enter("a", lambda: 1.0, Cancel())
        next(left)
        left.close()
        gate.leave()
        assert list(gate.enter("b", no_seconds, Cancel())) == []

    def test_more_than_may_wait_are_refused(self):
        gate = Gate(lambda: 1, limit=1)
        for _ in range(AT_A_REPLICA):
            list(gate.enter("a", no_seconds, Cancel()))
        first, second = (gate.enter("a", lambda: 1.0, Cancel()) for _ in range(2))
        next(first)
        next(second)
        with pytest.raises(QueueFullError):
            next(gate.enter("a", lambda: 1.0, Cancel()))


def test_steps_that_follow_too_closely_stay_where_they_are():
    from cluster.replica import thinned

    now = iter([0.0, 0.01, 0.02, 0.15, 0.16, 0.17, 0.18, 0.19])
    shown = Step("drawing", 3, 3, preview=object())
    steps = [Step("detecting", index, 4) for index in range(1, 5)]
    given = [*steps, Step("drawing", 1, 3), Step("drawing", 2, 3), shown]
    assert list(thinned(given, lambda: next(now))) == [steps[0], steps[2], given[4], shown]


def no_seconds() -> float:
    raise AssertionError("asked for seconds that nobody needs")


def test_the_board_forgets_who_is_silent():
    now = [0.0]
    board = Board(HOSTS, clock=lambda: now[0])
    assert [board.plan_as() for _ in range(3)] == ["cpu-amx", "cpu-avx2", "cpu-amx"]
    first, second = (Standing(name, load_host(name), 1) for name in HOSTS)
    board.register(first)
    board.register(second)
    now[0] = SILENT_SECONDS - 1
    board.register(second)
    assert board.standing() == (first, second)
    now[0] = SILENT_SECONDS
    assert board.standing() == (second,)


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Ray's own settings classes are declared the old way
        from cluster.deploy import Cluster
    from cluster.scale import Scale

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ANYHOST_CACHE", str(tmp_path_factory.mktemp("cache")))
        patch.setenv("ANYHOST_PROBE_SECONDS", "0")
        patch.setenv("HF_HUB_OFFLINE", "1")
        patch.setenv("PYTHONPATH", str(ROOT))
        patch.setenv("RAY_AUTH_MODE", "disabled")
        patch.chdir(ROOT)
        with Cluster(lambda: Scale(2, 2, cores=1, as_hosts=HOSTS)) as running:
            yield running


def two_up(engine) -> dict[str, int]:
    """Processes by replica, when both are up and none that died is still counted."""
    deadline = time.monotonic() + 90
    while time.monotonic() < deadline:
        found = {s.replica: s.process for s in engine.standing()}
        if len(found) == 2 and all(psutil.pid_exists(process) for process in found.values()):
            return found
        time.sleep(0.5)
    raise AssertionError(f"replicas up: {found}")


class BatchOfTwelve:
    """``app.py batch`` over the replicas of a cluster that is up: twelve pictures, the sixth is none."""

    def __init__(self, folder: Path, address: str) -> None:
        self.inputs, self.out = folder / "in", folder / "out"
        self.inputs.mkdir()
        for number in range(12):
            shutil.copy(ROOT / "assets/examples/scene_wood.jpg", self.inputs / f"{number:02d}.jpg")
        (self.inputs / "05.jpg").write_bytes(b"no picture")
        slow = ["--variant", "preview", "--size", "1280x1280", "--dtype", "fp32"]  # enough to be interrupted
        words = ["batch", "damo_yolo", str(self.inputs), "--out", str(self.out), "--json", *slow]
        self.command = [sys.executable, "app.py", *words, "--ray", "--address", address]

    def start(self) -> subprocess.Popen[str]:
        return subprocess.Popen(self.command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


@pytest.mark.alone
@pytest.mark.filterwarnings("default")
class TestTwoReplicas:
    def test_plans_differ_by_node_and_results_agree(self, cluster):
        engine = cluster.engine
        assert sorted(s.host.name for s in engine.standing()) == sorted(HOSTS)
        assert engine.host.title.startswith("2 × ")
        seen: dict[str, Result] = {}
        for _ in range(20):
            _, result = collected(engine.run(SPEC, picture_request(), Wishes()))
            seen[result.plan.host] = result
            if len(seen) == 2:
                break
        dtypes = {name: result.plan.components[0].compute_dtype for name, result in seen.items()}
        assert dtypes == {"cpu-amx": "bf16", "cpu-avx2": "fp32"}
        counts = {len([d for d in r.outputs[0].detections if d.score > 0.5]) for r in seen.values()}
        assert counts == {24}
        assert engine.plan(SPEC, Wishes()).host in HOSTS

    def test_errors_of_a_replica_are_raised_here(self, cluster):
        with pytest.raises(DoesNotFitError) as caught:
            list(cluster.engine.run(SPEC, picture_request(), Wishes(device="cuda:0")))
        assert caught.value.decision is not None
        with pytest.raises(InputError, match="without --ray"):
            list(cluster.engine.run(SPEC, picture_request(), checkpoint=Path("x.pth")))

    def test_stop_reaches_the_replica(self, cluster):
        cancel = Cancel()
        items = cluster.engine.run(SPEC, picture_request(400), Wishes(batch=1), cancel=cancel)
        next(items)
        cancel.request()
        with pytest.raises(Cancelled):
            list(items)

    def test_many_at_once_get_their_own_results(self, cluster):
        found: dict[int, int] = {}

        def one(count: int) -> None:
            _, result = collected(cluster.engine.run(SPEC, picture_request(count), Wishes()))
            found[count] = len(result.outputs)

        threads = [threading.Thread(target=one, args=(count,)) for count in range(1, 7)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(120)
        assert found == {count: count for count in range(1, 7)}

    def test_a_replica_keeps_a_single_process_s_throughput(self, cluster):
        """One thread each, in turn: at least nine tenths, in the best of three tries.

        By the clock, or where something else has the cores, by what a request takes of them.
        """
        two_up(cluster.engine)
        tries: list[float] = []
        with PlainProcess() as first, PlainProcess() as second:
            while len(tries) < 6 and max(tries, default=0.0) < 0.9:
                rounds = compare(cluster.engine, (first, second))
                tries += [kept(rounds), kept_of_processor(rounds)]
        assert max(tries) >= 0.9, tries

    def test_a_folder_is_spread_over_the_replicas_interrupted_resumed_and_loses_one(self, cluster, tmp_path):
        """Killed itself after two files, and a replica is killed while it goes on: each file's outputs exactly once."""
        processes = two_up(cluster.engine)
        batch = BatchOfTwelve(tmp_path, ray_address())
        with batch.start() as first:
            before = [json.loads(first.stdout.readline())["input"] for _ in range(2)]
            first.kill()
        with batch.start() as second:
            lines = [json.loads(second.stdout.readline())]
            os.kill(next(iter(processes.values())), signal.SIGKILL)
            out, err = second.communicate(timeout=120)
        lines += [json.loads(line) for line in out.splitlines()]
        assert second.returncode == 1, err
        assert not set(before) & {line["input"] for line in lines[:-1]}
        # Whether the one killed was computing just then is chance; that a lost request is told, the next test shows.
        entries = Ledger(batch.out).entries
        states = {name: entry.state for name, entry in entries.items()}
        assert states == {f"{n:02d}.jpg": "failed" if n == 5 else "done" for n in range(12)}
        assert "05.jpg" in entries["05.jpg"].error
        assert len((batch.out / LEDGER).read_text().splitlines()) == 12
        assert len(list(batch.out.rglob("*-detections.json"))) == 11

    def test_a_request_whose_replica_is_killed_ends_on_the_other(self, cluster):
        engine = cluster.engine
        processes = two_up(engine)
        killed, result = "", None
        for item in engine.run(SPEC, picture_request(60), Wishes(batch=1)):
            if isinstance(item, Result):
                result = item
            elif not killed and item.stage == "detecting" and item.index >= 3:
                killed = str(item.detail["replica"])
                os.kill(processes[killed], signal.SIGKILL)
        assert killed
        assert result is not None
        assert len(result.outputs) == 60
        lost, *others = [t.event for t in result.trace]
        assert lost == "replica_lost"
        assert set(others) <= {"weights_unavailable"}  # the other replica may be a new one
        assert killed not in {s.replica for s in engine.standing()}

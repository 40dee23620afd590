"""Two replicas on this machine that plan as two different ones; one of them dies."""

import os
import pickle
import signal
import threading
import warnings
from pathlib import Path

import pytest

from adapters import adapter
from adapters.damo_yolo.job import OPTIONS, request
from loader.errors import (
    Cancelled,
    CheckpointMismatchError,
    DoesNotFitError,
    InputError,
    LicenceNotAcceptedError,
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
        with Cluster(Scale(2, 2, cores=1, as_hosts=HOSTS)) as running:
            yield running


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

    def test_a_request_whose_replica_is_killed_ends_on_the_other(self, cluster):
        engine = cluster.engine
        processes = {s.replica: s.process for s in engine.standing()}
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
        assert [t.event for t in result.trace] == ["replica_lost"]
        assert killed not in {s.replica for s in engine.standing()}

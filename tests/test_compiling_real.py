"""torch.compile itself, on this processor, through the engine: beside the requests, swapped in, with equal results."""

import json
import os
import subprocess
import sys
import threading
import time

import pytest
import torch
from torch._dynamo.utils import counters

from loader.compiling import Desk
from loader.compiling.overlay import Lap
from loader.compiling.twin import compiled, twin_of
from loader.outcome import Result
from loader.plan import plan
from loader.probe import find_compiler
from loader.wishes import Wishes
from tests.compiled_adapter import BLOCKS, SPEC, Asked, expected, network, rows_of
from tests.machines import ROOT, engine_on, host_with

# Beside each other two compilers take longer than the patience of both.
# The compiler warns of what torch itself still uses.
pytestmark = [pytest.mark.alone, pytest.mark.filterwarnings("ignore")]
WISH = Wishes(compile="default")
PATIENCE_S = 300.0


def favour(call, device):
    """A clock by which compiled wins: what is timed is not the matter here."""
    before = sum(counters["stats"].values())
    value = call()
    favour.turn = not getattr(favour, "turn", False)
    assert sum(counters["stats"].values()) == before, "nothing is compiled in a request"
    return Lap(value, 1.0 if favour.turn else 0.5, quiet=True)


# Both batches go to one graph where batches are padded: of four items.
@pytest.mark.parametrize(("spec", "batches"), [(SPEC, (3, 4)), (BLOCKS, (4, 4))], ids=["whole", "blocks"])
def test_it_is_compiled_beside_the_requests_and_swapped_in(tmp_path, spec, batches):
    assert find_compiler(os.environ), "these tests need a C++ compiler: apt-get install g++ python3-dev"
    engine = engine_on(host_with(), tmp_path)
    engine.desk = Desk(engine.host, engine.store, tmp_path / "compiled", timer=favour)
    favour.turn = False
    served, longest, errors = 0, 0.0, []

    def serve(batch: int) -> None:
        nonlocal served, longest
        ends, asked = time.monotonic() + PATIENCE_S, Asked(seed=batch, items=batch, batch=batch)
        wanted = expected(asked)
        try:
            while time.monotonic() < ends:
                started = time.monotonic()
                *_, result = engine.run(spec, asked, WISH)
                assert isinstance(result, Result)
                torch.testing.assert_close(list(result.outputs), wanted)
                served, longest = served + 1, max(longest, time.monotonic() - started)
                if engine._opened[spec.name]._overlays["net"].standing.state in ("compiled", "reverted"):
                    return
                time.sleep(0.1)
        except BaseException as error:  # noqa: BLE001
            errors.append(error)

    threads = [threading.Thread(target=serve, args=(batch,)) for batch in batches]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    now = engine._opened[spec.name]._overlays["net"].standing
    assert now.state == "compiled", now
    assert served > 2
    assert longest < max(1.0, now.seconds / 2), "a request has waited for the compiler"
    *_, result = engine.run(spec, Asked(seed=9, items=4, batch=4), WISH)
    torch.testing.assert_close(list(result.outputs), expected(Asked(seed=9, items=4, batch=4)))
    engine.close()


def test_a_call_no_graph_fits_is_never_compiled_in_a_request(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    placed = plan(SPEC, host_with(), WISH).component("net")
    compiling, functions = [], []
    module = network().eval().requires_grad_(False)

    def work() -> None:
        function = compiled(twin_of(module), placed)
        with torch.inference_mode():
            function(rows_of(Asked(items=2)))
        functions.append(function)

    monkeypatch.setattr(
        "torch._inductor.compile_fx.compile_fx",
        lambda graph, inputs, **_: compiling.append(threading.get_ident()) or graph.forward,
    )
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert len(compiling) == 1
    with torch.inference_mode():
        other = rows_of(Asked(items=7))
        torch.testing.assert_close(functions[0](other), module(other))
    assert len(compiling) == 1


SECOND = """
import json, sys, time
from pathlib import Path
import torch
from loader.wishes import Wishes
from tests.compiled_adapter import SPEC, Asked, expected
from tests.machines import engine_on, host_with

engine = engine_on(host_with(), Path(sys.argv[1]))
*_, result = engine.run(SPEC, Asked(items=2, batch=2), Wishes(compile="default"))
engine.desk.background.wait(300)
now = engine._opened[SPEC.name]._overlays["net"].standing
from torch._dynamo.utils import counters
hits = counters["inductor"]["fxgraph_cache_hit"] + counters["aot_autograd"]["autograd_cache_hit"]
print(json.dumps({"state": now.state, "warm": now.warm, "seconds": now.seconds, "hits": hits, "detail": now.detail}))
engine.close()
"""


def test_the_second_start_finds_what_the_first_one_compiled(tmp_path):
    starts = []
    for _ in range(2):
        done = subprocess.run(
            [sys.executable, "-W", "ignore", "-c", SECOND, str(tmp_path)],
            cwd=ROOT,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            capture_output=True,
            text=True,
            check=True,
        )
        starts.append(json.loads(done.stdout.splitlines()[-1]))
    first, second = starts
    assert (first["state"], first["warm"], first["hits"]) == ("trial", False, 0), first
    assert (second["state"], second["warm"]) == ("trial", True), second
    assert second["hits"] >= 1
    assert second["seconds"] < first["seconds"]

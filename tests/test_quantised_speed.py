"""What int8 is worth on processors with VNNI and no bf16: DAMO-YOLO-T at 640, against what is planned there."""

import os
from pathlib import Path

import pytest

from adapters import adapter
from bench.apart import apart
from bench.detector import Detector
from bench.limited import probed_here
from bench.timing import interleaved, ratio
from loader.folders import Folders
from loader.plan import plan
from loader.rules import INT8_ISA
from loader.wishes import Wishes
from tests.machines import ROOT

pytestmark = pytest.mark.alone
ASKED = Wishes(variant="T", size=(640, 640), compile="none")
ROUNDS, TRIES, TIMES = 9, 3, 1.5  # measured on a quiet machine: 2.3 and 2.6
LIMITS = {
    "AVX-512 with VNNI": {"ONEDNN_MAX_CPU_ISA": "AVX512_CORE_VNNI"},
    "AVX2 with VNNI": {"ONEDNN_MAX_CPU_ISA": "AVX2_VNNI", "ATEN_CPU_CAPABILITY": "avx2"},
}


def times_of_int8() -> tuple[str, float | None, frozenset[str]]:
    """What is planned, how many times as long it takes as int8 (None where that is not offered), and the ISA."""
    host = probed_here()
    made = plan(adapter("damo_yolo"), host, ASKED)
    detector = Detector(made, Folders(cache=Path("/nowhere"), own=(), assets=ROOT))
    rows = detector.placements(compiled=False)
    planned, isa = rows["planned"], frozenset(host.cpu.effective_isa)
    if "merged int8" not in rows:
        return planned.compute_dtype, None, isa
    calls = {name: detector.call(rows[name], 1) for name in ("planned", "merged int8")}
    times = interleaved(calls, ROUNDS)
    return planned.compute_dtype, ratio(times["planned"], times["merged int8"]), isa


@pytest.mark.parametrize("name", LIMITS)
def test_int8_is_faster_than_what_is_planned_without_bf16(name):
    found: list[float] = []
    for _ in range(TRIES):
        planned, times, isa = apart(times_of_int8, {"ANYHOST_PROBE_SECONDS": "0", **LIMITS[name]})
        assert (times is None) == (not INT8_ISA & isa)
        if times is None:
            return
        assert planned == "fp32"
        found.append(times)
        if times >= TIMES:
            break
    assert max(found) >= TIMES, found


def test_the_limits_reach_the_process():
    _, _, isa = apart(times_of_int8, {"ANYHOST_PROBE_SECONDS": "0", "ONEDNN_MAX_CPU_ISA": "AVX2"})
    assert not INT8_ISA & isa
    assert "ONEDNN_MAX_CPU_ISA" not in os.environ

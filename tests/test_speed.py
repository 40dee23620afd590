"""What adapting brings, as ratios of runs timed in turn. Nothing else may run beside these.

A disturbed round is not believed: the bench says which were, and is asked again.
"""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from adapters.damo_yolo.postprocess import class_aware_nms
from loader.isa import read_cpuinfo
from tests.machines import ROOT

pytestmark = pytest.mark.alone
AVX2 = {"ONEDNN_MAX_CPU_ISA": "AVX2", "ATEN_CPU_CAPABILITY": "avx2"}
TRIES = 3


def planned(limits: dict[str, str], cache, at_least: float) -> tuple[dict, dict]:
    """The bench's row of the plan, from the first undisturbed try that reaches ``at_least`` or else the best one, and
    the machine.
    """
    rows = []
    for _ in range(TRIES):
        environ = {**os.environ, "ANYHOST_PROBE_SECONDS": "3", **limits, "ANYHOST_CACHE": str(cache)}
        words = ["bench", "damo_yolo", "--variant", "T", "--json", "--quick", "--repeats", "5"]
        done = subprocess.run(
            [sys.executable, "app.py", *words], cwd=ROOT, env=environ, capture_output=True, text=True, check=True
        )
        report = json.loads(done.stdout)
        rows.append(next(row for row in report["rows"] if row["config"] == "planned"))
        if all(row["quiet"] for row in report["rows"]) and rows[-1]["speed_up"] >= at_least:
            break
    return max(rows, key=lambda row: row["speed_up"]), report["machine"]


def test_planned_on_this_cpu_against_the_network_as_published(tmp_path):
    native = {"avx512_bf16", "amx_bf16", "arm_bf16"} & set(
        read_cpuinfo(Path("/proc/cpuinfo").read_text(encoding="utf-8"))[1]
    )
    at_least = 2.2 if native else 1.2
    row, machine = planned({}, tmp_path, at_least)
    assert row["speed_up"] >= at_least, (row, machine)


def test_planned_under_avx2_against_the_network_as_published(tmp_path):
    """What is left there is products at the CPU's limit. The published path was 1.4 to 1.9 times as slow while glibc
    gave its blocks back in the middle of it; told to keep them, as every process of ours is, it comes to 1.1 to 1.2
    (docs/benchmarks/detector.md), and what the plan does besides must not cost that.
    """
    row, machine = planned(AVX2, tmp_path, 1.05)
    assert machine["limits"]
    assert row["speed_up"] >= 1.05, (row, machine)


def test_suppressing_a_thousand_candidates_costs_less_than_a_forward_of_the_smallest_network():
    """It is under 30 ms on two quiet cores; here, against the cheapest network it could follow."""
    from adapters.damo_yolo.networks import build

    generator = torch.Generator().manual_seed(0)
    corners = torch.rand(1000, 2, generator=generator) * 600
    boxes = torch.cat([corners, corners + 10 + torch.rand(1000, 2, generator=generator) * 60], dim=1)
    scores, classes = torch.rand(1000, generator=generator), torch.randint(0, 80, (1000,), generator=generator)
    network = build("detector", "Ns").merge()
    images = torch.zeros(1, 3, 640, 640)

    def best(call) -> float:
        times = []
        for _ in range(7):
            start = time.perf_counter()
            call()
            times.append(time.perf_counter() - start)
        return min(times)

    with torch.inference_mode():
        forward = best(lambda: network(images))
        suppression = best(lambda: class_aware_nms(boxes, scores, classes, 0.7))
    assert suppression < forward

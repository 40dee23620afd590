"""The same machine made to behave like one without native bf16: the plan changes, says why, and the run agrees.

Each case is a process of its own, because oneDNN and ATen read their limits once.
"""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from loader.host import load_host
from loader.isa import effective_isa
from loader.rules import NATIVE_BF16_ISA
from tests.machines import ROOT

COINS = ROOT / "assets" / "examples" / "coins.png"
LIMITS = {
    "AVX-512 without bf16": {"ONEDNN_MAX_CPU_ISA": "AVX512_CORE"},
    "AVX2": {"ONEDNN_MAX_CPU_ISA": "AVX2", "ATEN_CPU_CAPABILITY": "avx2"},
}


def app(words: list[str], limits: dict[str, str], cache: Path) -> Any:
    environ = {**os.environ, **limits, "ANYHOST_CACHE": str(cache), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "app.py", *words], cwd=ROOT, env=environ, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def reference(tmp_path_factory):
    folder = tmp_path_factory.mktemp("fp32")
    words = ["run", "damo_yolo", str(COINS), "--variant", "preview", "--dtype", "fp32", "--out", str(folder), "--json"]
    return app(words, {}, folder)["outputs"][0]["detections"]


@pytest.mark.parametrize("limits", LIMITS.values(), ids=LIMITS)
def test_without_native_bf16_the_run_is_fp32_says_why_and_agrees(limits, reference, tmp_path):
    words = ["run", "damo_yolo", str(COINS), "--variant", "preview", "--out", str(tmp_path), "--json"]
    record = app(words, limits, tmp_path)
    (component,) = record["plan"]["components"]
    assert component["compute_dtype"] == "fp32"
    (decision,) = [d for d in record["plan"]["decisions"] if d["rule"] == "bf16_cpu_without_isa"]
    assert decision["rejected"][0]["number"] > 1
    assert decision["flips_when"]
    found = record["outputs"][0]["detections"]
    sure = [d for d in reference if d["score"] > 0.55]
    assert len(sure) >= 20
    for d in sure:
        assert any(
            other["label"] == d["label"] and max(abs(a - b) for a, b in zip(d["box"], other["box"], strict=True)) < 1
            for other in found
        )


@pytest.mark.parametrize("limits", LIMITS.values(), ids=LIMITS)
def test_the_static_plan_without_torch_sees_the_limits_too(limits, tmp_path):
    (record,) = app(["plan", "--adapter", "damo_yolo", "--json"], limits, tmp_path)
    assert record["components"][0]["compute_dtype"] == "fp32"


def test_every_limit_on_a_cpu_with_everything_takes_away_what_it_should():
    everything = load_host("cpu-amx").cpu.isa
    for limits in LIMITS.values():
        left, named = effective_isa(everything, limits)
        assert not NATIVE_BF16_ISA & set(left)
        assert named
    assert set(effective_isa(everything, {})[0]) & NATIVE_BF16_ISA

"""The probe: timing that is refused when disturbed, where it runs, and this very machine."""

import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from loader import probe as probing
from loader import speed
from loader.host import GIB, host_from_json, load_host
from loader.isa import estimated_rates
from loader.measure import Timing
from loader.probe import find_compiler, platform_of, probe
from loader.speed import measure_cpu
from tests.fake_torch import FakeTorch
from tests.fake_tree import V2, write

NO_ENV: dict[str, str] = {}

# --- timing -----------------------------------------------------------------------------------------------------


def test_a_disturbed_measurement_is_refused_and_says_so(tmp_path: Path, monkeypatch):
    monkeypatch.setattr(speed, "timed", lambda *_, **__: Timing(0.001, 0.001, 3.2, quiet=False))
    host = probe(cache_dir=tmp_path, environ=NO_ENV)
    assert {r.source for r in host.cpu.rates.values()} == {"estimated"}
    assert host.cpu.rates == estimated_rates(host.cpu.effective_isa, host.cpu.cores)
    assert host.cpu.bf16_convolution_ratio == 0
    assert host.sources["cpu.rates"].startswith("estimated")
    assert "disturbed: wall time 3.2 times" in host.sources["cpu.rates"]
    assert "not confirmed" in host.sources["cpu.effective_isa"]


@pytest.mark.parametrize(
    ("disturbed", "measured"), [("bf16", {"fp32", "fp16", "int8"}), ("fp32", set())], ids=["bf16", "fp32"]
)
def test_only_what_was_disturbed_is_estimated(monkeypatch, disturbed: str, measured: set[str]):
    """But a disturbed fp32 spoils the rest: it is what everything else is compared with."""
    products = speed._Clock.product

    def product(clock, dtype: str, side: int):
        monkeypatch.setattr(speed, "timed", lambda *_, **__: Timing(0.001, 0.002, 1.0, quiet=dtype != disturbed))
        return products(clock, dtype, side)

    monkeypatch.setattr(speed._Clock, "product", product)
    monkeypatch.setattr(speed._Clock, "large_enough", lambda *_, **__: 16)
    with torch.inference_mode():
        speeds = speed._measure_cpu(speed._Clock(torch, "cpu", 1, 5.0))
    assert set(speeds.rates) == measured
    assert f"{disturbed} (disturbed: repeats disagree)" in speeds.note
    assert speeds.note.startswith("measured here" if measured else "estimated")


def test_a_product_this_torch_does_not_have_is_left_to_the_estimate(monkeypatch):
    monkeypatch.setattr(speed, "timed", lambda *_, **__: Timing(0.001, 0.001, 1.0, quiet=True))
    monkeypatch.setattr(speed._Clock, "large_enough", lambda *_, **__: 16)
    old = FakeTorch(_int_mm=lambda *_: (_ for _ in ()).throw(NotImplementedError("no int8 here")))
    with torch.inference_mode():
        speeds = speed._measure_cpu(speed._Clock(old, "cpu", 1, 5.0))
    assert set(speeds.rates) == {"fp32", "bf16", "fp16"}
    assert "int8 (not supported)" in speeds.note


def test_it_uses_no_more_threads_than_cores_and_leaves_them_as_they_were(monkeypatch):
    before = torch.get_num_threads()
    seen = []
    monkeypatch.setattr(speed, "_measure_cpu", lambda clock: seen.append((clock.threads, torch.get_num_threads())))
    try:
        torch.set_num_threads(2)
        measure_cpu(torch, 1)
        assert seen == [(1, 1)]
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


# --- where it runs ----------------------------------------------------------------------------------------------


def test_zerogpu_is_never_asked_about_its_imitation(tmp_path: Path):
    class Untouchable(FakeTorch):
        def __getattr__(self, name: str):
            if name in ("cuda", "xpu", "mps", "accelerator"):
                pytest.fail(f"torch.{name} was touched")
            return super().__getattr__(name)

    environ = {"SPACES_ZERO_GPU": "true", "SPACE_ID": "someone/space", "SYSTEM": "spaces", "PATH": os.environ["PATH"]}
    host = probe(cache_dir=tmp_path, environ=environ, torch=Untouchable(), timing=False)
    named = load_host("zerogpu-48g")
    assert host.platform == "zerogpu"
    assert (host.accelerators, host.wheel_archs) == (named.accelerators, named.wheel_archs)
    assert not host.compiler
    assert host.name == "this machine"
    assert host.probed


@pytest.mark.parametrize(
    ("environ", "platform"),
    [({}, "local"), ({"SPACE_ID": "a/b"}, "spaces"), ({"SYSTEM": "spaces"}, "spaces"), ({"SYSTEM": "Darwin"}, "local"),
     ({"SPACES_ZERO_GPU": "1"}, "zerogpu"), ({"SPACES_ZERO_GPU": "false", "SPACE_ID": "a/b"}, "spaces")],
)  # fmt: skip
def test_the_platform_by_environment(environ: dict[str, str], platform: str):
    assert platform_of(environ) == platform


def test_a_space_says_what_it_has_where_no_control_group_does(tmp_path: Path, monkeypatch):
    monkeypatch.setattr(probing, "_affinity", lambda: 64)
    monkeypatch.setattr(probing.psutil, "virtual_memory", lambda: SimpleNamespace(total=256 * GIB, available=200 * GIB))
    environ = {"SPACE_ID": "a/b", "CPU_CORES": "2", "MEMORY": "16Gi"}
    host = probe(cache_dir=tmp_path, environ=environ, root=tmp_path, timing=False)
    assert (host.cpu.cores, host.ram_bytes, host.free_ram_bytes) == (2, 16 * GIB, 16 * GIB)
    plain = probe(cache_dir=tmp_path, environ={"CPU_CORES": "2", "MEMORY": "16Gi"}, root=tmp_path, timing=False)
    assert (plain.cpu.cores, plain.ram_bytes) == (64, 256 * GIB)


def test_a_compiler_needs_pythons_headers(tmp_path: Path, monkeypatch):
    compiler = tmp_path / "bin" / "clang++"
    compiler.parent.mkdir()
    compiler.write_text("#!/bin/sh\n", encoding="utf-8")
    compiler.chmod(0o755)
    monkeypatch.setattr(probing.sysconfig, "get_paths", lambda: {"include": str(tmp_path)})
    environ = {"PATH": str(compiler.parent)}
    assert find_compiler(environ) == ""
    (tmp_path / "Python.h").touch()
    assert find_compiler(environ) == str(compiler)
    assert find_compiler({"PATH": str(tmp_path)}) == ""
    assert find_compiler({"PATH": str(tmp_path), "CXX": f"{compiler} -O2"}) == str(compiler)


def test_the_probe_takes_the_containers_memory_and_processors(tmp_path: Path, monkeypatch):
    monkeypatch.setattr(probing, "_affinity", lambda: 16)
    root = write(
        tmp_path,
        {
            "proc/cpuinfo": "model name : Some Xeon\nflags : avx avx2 avx512f avx512bw avx512vl avx512dq amx_bf16\n",
            "proc/self/cgroup": "0::/\n",
            "proc/self/mountinfo": V2.format(top="/"),
            "sys/fs/cgroup/memory.max": f"{GIB}\n",
            "sys/fs/cgroup/memory.current": f"{GIB // 4}\n",
            "sys/fs/cgroup/cpu.max": "350000 100000\n",
        },
    )
    environ = {"ONEDNN_MAX_CPU_ISA": "AVX2"}
    host = probe(cache_dir=tmp_path, environ=environ, root=root, timing=False)
    assert (host.ram_bytes, host.free_ram_bytes) == (GIB, GIB - GIB // 4)
    assert (host.cpu.name, host.cpu.cores, host.cpu.isa) == ("Some Xeon", 3, ("avx", "avx2", "avx512", "amx_bf16"))
    assert (host.cpu.effective_isa, host.cpu.limits) == (("avx", "avx2"), ("ONEDNN_MAX_CPU_ISA=AVX2",))
    assert "control group" in host.sources["ram_bytes"]
    assert "3.5" in host.sources["cpu.cores"]


# --- this very machine ------------------------------------------------------------------------------------------

PROBE = """
import json, time, torch
from pathlib import Path
from loader.host import host_to_json
from loader.probe import probe
wall, cpu = time.perf_counter(), time.process_time()
host = probe(cache_dir=Path("nowhere/yet"))
wall, cpu = time.perf_counter() - wall, (time.process_time() - cpu) / torch.get_num_threads()
print(json.dumps({"host": host_to_json(host), "seconds": min(wall, cpu)}))
"""


def probed_with(**environ: str):
    base = {k: v for k, v in os.environ.items() if "MAX_CPU_ISA" not in k and k != "ATEN_CPU_CAPABILITY"}
    answer = subprocess.run(
        [sys.executable, "-c", PROBE], env=base | environ, check=True, capture_output=True, text=True, timeout=120
    )
    told = json.loads(answer.stdout.splitlines()[-1])
    return host_from_json(told["host"]), told["seconds"]


def ratio(host) -> float | None:
    """Speed of bf16 products relative to fp32, None when the machine was disturbed and the probe says so."""
    if host.cpu.rates["bf16"].source == "measured":
        return host.cpu.rates["bf16"].gflops / host.cpu.rates["fp32"].gflops
    assert any(reason in host.sources["cpu.rates"] for reason in ("disturbed", "no time left"))
    return None


def test_this_machine_within_its_time():
    host, seconds = probed_with()
    assert seconds < 1.5
    assert host.probed
    assert host.torch == torch.__version__
    assert host.disk_free_bytes > 0
    assert 0 < host.free_ram_bytes <= host.ram_bytes
    if "amx_bf16" in host.cpu.effective_isa and (times := ratio(host)):
        assert times > 1.5
        assert "confirmed" in host.sources["cpu.effective_isa"]


@pytest.mark.parametrize(
    "environ",
    [{"ONEDNN_MAX_CPU_ISA": "AVX512_CORE"}, {"ONEDNN_MAX_CPU_ISA": "AVX2", "ATEN_CPU_CAPABILITY": "avx2"}],
    ids=["avx512_core", "avx2"],
)
def test_this_machine_with_its_instruction_sets_limited(environ: dict[str, str]):
    host, _ = probed_with(**environ)
    assert not {"avx512_bf16", "amx_bf16", "amx_int8"} & set(host.cpu.effective_isa)
    assert ("avx512" in host.cpu.effective_isa) == ("avx512" in host.cpu.isa and "ATEN_CPU_CAPABILITY" not in environ)
    if {"avx512_bf16", "amx_bf16"} & set(host.cpu.isa):
        assert host.cpu.limits == tuple(f"{k}={v}" for k, v in environ.items())
    if "neon" not in host.cpu.isa and (times := ratio(host)):
        assert times < 1, "bf16 without instructions for it is slower than fp32"
        assert "confirmed" in host.sources["cpu.effective_isa"]

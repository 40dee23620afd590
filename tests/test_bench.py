"""The bench: contracted rows, peaks in processes of their own, limited instruction sets, one table."""

import json
import os
from dataclasses import replace

import pytest
import torch

from bench import report as bench_report
from bench.apart import apart, peak_of
from bench.limited import LIMITS, limits_of
from bench.report import Asked, peak_apart, report, rows, show, table
from bench.timing import Times, interleaved, ratio
from loader.errors import InputError, RunError
from loader.folders import Folders
from loader.host import load_host
from tests.machines import ROOT

MIB = 2**20
COLUMNS = {"adapter", "variant", "config", "batch", "ms", "images_per_second", "peak_bytes", "drift", "limits", "size"}


@pytest.fixture
def folders(tmp_path) -> Folders:
    return Folders(cache=tmp_path / "cache", own=(), assets=ROOT)


def asked(**changes) -> Asked:
    plain = Asked("metric3d", "preview", (1,), 1, compiled=False, size=(56, 56), quick=True)
    return replace(plain, **changes)


# --- processes ----------------------------------------------------------------------------------------------------


def environment(name: str) -> tuple[str | None, int]:
    return os.environ.get(name), os.getpid()


def gone() -> None:
    os._exit(9)


def test_a_process_has_the_environment_it_is_given_and_this_one_does_not():
    value, pid = apart(environment, {"ONEDNN_MAX_CPU_ISA": "AVX2"}, "ONEDNN_MAX_CPU_ISA")
    assert value == "AVX2"
    assert pid != os.getpid()
    assert "ONEDNN_MAX_CPU_ISA" not in os.environ


def test_a_process_that_is_killed_is_an_error_with_a_remedy():
    with pytest.raises(RunError, match="choose a smaller --size"):
        apart(gone)


def test_a_peak_holds_weights_and_what_is_alive_at_once():
    kept: list[torch.Tensor] = []

    def make():
        kept.append(torch.ones(24 * MIB // 4))

        def call() -> float:
            first = torch.ones(32 * MIB // 4)
            second = first + 1
            return float(second.sum())

        return call

    peak = peak_of(make, "cpu")
    assert peak["device"] == 0
    assert 80 * MIB <= peak["host"] <= 110 * MIB


# --- limits -------------------------------------------------------------------------------------------------------


def test_a_limit_is_measured_only_where_it_takes_something_away():
    names = {host: [limit.name for limit in limits_of(load_host(host))] for host in ("cpu-amx", "cpu-avx2", "t4-16g")}
    assert names == {"cpu-amx": ["AVX-512 without bf16", "AVX2"], "cpu-avx2": [], "t4-16g": []}
    amx = load_host("cpu-amx")
    assert limits_of(replace(amx, cpu=replace(amx.cpu, limits=("ONEDNN_MAX_CPU_ISA=AVX2",)))) == ()


def test_limits_are_what_the_loader_reads_as_less():
    from loader.isa import effective_isa

    have = ("sse41", "avx", "avx2", "avx512", "avx512_vnni", "avx512_bf16", "amx_int8", "amx_bf16")
    left = [set(effective_isa(have, limit.environ)[0]) for limit in LIMITS]
    assert "avx512" in left[0]
    assert not left[0] & {"avx512_bf16", "amx_bf16"}
    assert "avx2" in left[1]
    assert "avx512" not in left[1]


# --- rows ---------------------------------------------------------------------------------------------------------


def test_rows_are_as_contracted_and_the_first_is_the_network_as_published(folders):
    made = rows(asked(), load_host("cpu-bf16"), folders)
    assert [row["config"] for row in made] == ["as published", "SDPA fp32", "bf16", "planned"]
    assert all(row.keys() >= COLUMNS for row in made)
    assert made[0]["speed_up"] == 1
    assert made[0]["drift"] == 0
    assert 0 < made[-1]["drift"] < 0.05
    assert all(row["peak_bytes"] is None for row in made), "quick measures no memory"


def test_the_whole_bench_has_peaks_and_every_limit(folders, monkeypatch):
    """Processes are stood in for: what each would do is tested above and below."""
    monkeypatch.setenv("ANYHOST_PROBE_SECONDS", "0.2")
    called = []

    def here(function, environ=None, /, *args):
        called.append((function.__name__, dict(environ or {})))
        if function is peak_apart:
            return {"device": 0, "host": 400 * MIB if args[3].attention == "eager" else 100 * MIB}
        return [{"config": f"planned, {args[-1]}"}]

    monkeypatch.setattr(bench_report, "apart", here)
    made = rows(asked(quick=False), load_host("cpu-amx"), folders)
    assert [row["memory_ratio"] for row in made[:4]] == [1, 0.25, 0.25, 0.25]
    assert [row["config"] for row in made[4:]] == ["planned, AVX-512 without bf16", "planned, AVX2"]
    assert [name for name, _ in called] == ["peak_apart"] * 4 + ["limited_rows"] * 2
    assert called[-1][1] == {"ONEDNN_MAX_CPU_ISA": "AVX2", "ATEN_CPU_CAPABILITY": "avx2"}


def test_less_memory_is_measured_in_real_processes(folders):
    """A small picture, so that what attention keeps is what differs: all its weights at once, or a block of them."""
    planned, subject = bench_report.subject_of(asked(size=(224, 308), quick=False), load_host("cpu-bf16"), folders, 1)
    placements = subject.placements(compiled=False)
    first, last = (
        apart(peak_apart, None, "metric3d", planned, folders, placements[name], 1)["host"]
        for name in ("as published", "planned")
    )
    assert 9 * MIB < last < first


def test_an_adapter_without_a_bench_is_told_which_have_one(folders):
    with pytest.raises(InputError, match="damo_yolo"):
        rows(asked(adapter="hunyuan3d", variant=None, size=None), load_host("h200-141g"), folders)


def test_the_table_and_the_json_say_the_same(folders, capsys):
    found = report([asked()], load_host("cpu-bf16"), folders)
    found["rows"][0] |= {"peak_bytes": {"device": 0, "host": 300 * MIB}, "memory_ratio": 1.0}
    found["rows"][-1] |= {"peak_bytes": {"device": 0, "host": 120 * MIB}, "memory_ratio": 0.4}
    lines = table(found).splitlines()
    assert "| peak MiB | of the first |" in lines[2]
    assert len({line.count("|") for line in lines if line.startswith("|")}) == 1
    assert "| 120 | 0.40 |" in lines[-3]
    assert "56×56" in lines[-3]
    show(found, as_json=True)
    assert json.loads(capsys.readouterr().out)["rows"][-1]["memory_ratio"] == 0.4


# --- timing -------------------------------------------------------------------------------------------------------


def test_rounds_are_taken_in_turn_and_pairs_make_the_ratio():
    order: list[str] = []
    times = interleaved({name: lambda name=name: order.append(name) for name in "ab"}, 3, warm_up=1)
    assert "".join(order) == "ab" + "ababab", "once to warm up, then three rounds"
    assert len(times["a"].seconds) == 3
    slow, fast = Times((2.0, 40.0, 2.0), quiet=True), Times((1.0, 20.0, 1.0), quiet=True)
    assert ratio(slow, fast) == 2

"""Which instruction sets are left after the environment, and what is estimated from them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loader.host import load_host
from loader.isa import ATEN_CAPS, ONEDNN_CAPS, effective_isa, estimated_rates, features, read_cpuinfo

AMX = load_host("cpu-amx").cpu.isa


def left(**environ: str) -> set[str]:
    return set(effective_isa(AMX, environ)[0])


@pytest.mark.parametrize(
    ("value", "gone", "kept"),
    [
        ("AVX512_CORE_AMX", set(), "amx_bf16"),
        ("avx512_core_fp16", {"amx_bf16", "amx_int8"}, "avx512_fp16"),
        ("AVX512_CORE_BF16", {"amx_bf16", "amx_int8", "avx512_fp16", "avx_vnni"}, "avx512_bf16"),
        ("AVX512_CORE_VNNI", {"amx_bf16", "amx_int8", "avx512_fp16", "avx512_bf16", "avx_vnni"}, "avx512_vnni"),
        ("AVX512_CORE", {"amx_bf16", "amx_int8", "avx512_fp16", "avx512_bf16", "avx_vnni", "avx512_vnni"}, "avx512"),
        ("AVX2_VNNI_2", {f for f in AMX if f.startswith(("avx512", "amx"))}, "avx_vnni"),
        ("AVX2_VNNI", {f for f in AMX if f.startswith(("avx512", "amx"))}, "avx_vnni"),
        ("AVX2", {f for f in AMX if f.startswith(("avx512", "amx", "avx_"))}, "avx2"),
        ("AVX", set(AMX) - {"avx", "sse41"}, "avx"),
        ("sse41", set(AMX) - {"sse41"}, "sse41"),
        ("ALL", set(), "amx_bf16"),
        ("Default", set(), "amx_bf16"),
        ("AVX1024", set(), "amx_bf16"),
    ],
)
def test_onednn_takes_away_what_is_above_its_limit(value: str, gone: set[str], kept: str):
    assert set(AMX) - left(ONEDNN_MAX_CPU_ISA=value) == gone
    assert kept in left(ONEDNN_MAX_CPU_ISA=value)


def test_a_limit_is_named_only_when_it_takes_something():
    assert effective_isa(AMX, {"ONEDNN_MAX_CPU_ISA": "avx2"})[1] == ("ONEDNN_MAX_CPU_ISA=avx2",)
    assert effective_isa(("avx2",), {"ONEDNN_MAX_CPU_ISA": "AVX2"}) == (("avx2",), ())
    both = {"ATEN_CPU_CAPABILITY": "avx2", "ONEDNN_MAX_CPU_ISA": "AVX2"}
    assert effective_isa(AMX, both)[1] == ("ONEDNN_MAX_CPU_ISA=AVX2", "ATEN_CPU_CAPABILITY=avx2")


def test_the_old_name_counts_only_without_the_new_one():
    assert "avx512" not in left(DNNL_MAX_CPU_ISA="AVX2")
    assert "avx512" in left(DNNL_MAX_CPU_ISA="AVX2", ONEDNN_MAX_CPU_ISA="ALL")


def test_aten_limits_what_onednn_does_not():
    assert "avx512_bf16" not in left(ATEN_CPU_CAPABILITY="avx2")
    assert "avx512" not in left(ATEN_CPU_CAPABILITY="Avx2")
    assert left(ATEN_CPU_CAPABILITY="default") == {"sse41"}
    assert left(ATEN_CPU_CAPABILITY="avx512") == set(AMX)


@given(st.sampled_from(["", "ALL", *ONEDNN_CAPS]), st.sampled_from(["", "avx512", *ATEN_CAPS]))
def test_the_least_of_all_three_counts(onednn: str, aten: str):
    both = left(ONEDNN_MAX_CPU_ISA=onednn, ATEN_CPU_CAPABILITY=aten)
    assert both == left(ONEDNN_MAX_CPU_ISA=onednn) & left(ATEN_CPU_CAPABILITY=aten)


def test_arm_is_not_limited_by_x86_names():
    arm = ("neon", "arm_bf16")
    assert effective_isa(arm, {"ONEDNN_MAX_CPU_ISA": "AVX2"}) == (arm, ())


def test_cpuinfo_of_x86_and_arm():
    text = "processor : 0\nmodel name\t: EPYC\nflags\t\t: avx avx2 avx512f avx512bw avx512vl avx512dq\n"
    name, flags = read_cpuinfo(text + text.replace("EPYC", "second"))
    assert name == "EPYC"
    assert features(flags) == ("avx", "avx2", "avx512")
    assert features(["avx2", "avx512f"]) == ("avx2",), "not what oneDNN calls AVX512_CORE"
    name, flags = read_cpuinfo("processor : 0\nFeatures : fp asimd asimdhp i8mm bf16\nCPU part : 0xd40\n")
    assert name == ""
    assert features(flags) == ("neon", "arm_fp16", "arm_i8mm", "arm_bf16")


def test_estimates_follow_the_instruction_set():
    slow, fast = estimated_rates(("avx2", "avx512"), 2), estimated_rates(AMX, 2)
    assert slow["bf16"].gflops < slow["fp32"].gflops < fast["bf16"].gflops
    assert estimated_rates(AMX, 4)["fp32"].gflops == 2 * fast["fp32"].gflops
    assert estimated_rates(AMX, 2, fp32=100.0)["bf16"].gflops == pytest.approx(410)
    assert {r.source for r in fast.values()} == {"estimated"}

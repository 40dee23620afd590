"""Which instruction sets products on a CPU really use, from CPUID and the environment. Pure; asks no machine.

Sources: oneDNN's "CPU dispatcher control" for ``ONEDNN_MAX_CPU_ISA`` (and its older name ``DNNL_MAX_CPU_ISA``), ATen's
``native/DispatchStub.cpp`` for ``ATEN_CPU_CAPABILITY``. Neither variable is seen by the other library's queries: under
``ONEDNN_MAX_CPU_ISA=AVX512_CORE`` torch still answers that bf16 products are supported, which is why the least of
CPUID and both variables is taken.
"""

from collections.abc import Iterable, Mapping

from loader.host import Rate

# Kernel flag names (Linux /proc/cpuinfo, x86 then Arm) to ours, in the order they are listed in.
_X86_FLAGS: Mapping[str, str] = {
    "sse4_1": "sse41",
    "avx": "avx",
    "avx2": "avx2",
    "avx_vnni": "avx_vnni",
    "avx_vnni_int8": "avx_vnni_int8",
    "avx512f": "avx512",
    "avx512_vnni": "avx512_vnni",
    "avx512_bf16": "avx512_bf16",
    "avx512_fp16": "avx512_fp16",
    "amx_int8": "amx_int8",
    "amx_bf16": "amx_bf16",
    "amx_fp16": "amx_fp16",
}
_ARM_FLAGS: Mapping[str, str] = {
    "asimd": "neon",
    "neon": "neon",
    "asimdhp": "arm_fp16",
    "asimddp": "arm_dot",
    "i8mm": "arm_i8mm",
    "bf16": "arm_bf16",
    "sve": "sve",
}
# What oneDNN calls AVX512_CORE needs these beside avx512f; a chip without them (Knights Landing) counts as AVX2.
_AVX512_CORE = ("avx512f", "avx512bw", "avx512vl", "avx512dq")

_SSE = ("sse41",)
_AVX = (*_SSE, "avx")
_AVX2 = (*_AVX, "avx2")
_AVX512 = (*_AVX2, "avx512")
_VNNI = (*_AVX512, "avx512_vnni")
_BF16 = (*_VNNI, "avx512_bf16")
_FP16 = (*_BF16, "avx512_fp16", "avx_vnni")
_AMX = (*_FP16, "amx_int8", "amx_bf16")
_AMX_FP16 = (*_AMX, "amx_fp16")
_AVX2_VNNI = (*_AVX2, "avx_vnni")
_AVX2_VNNI_2 = (*_AVX2_VNNI, "avx_vnni_int8")

ONEDNN_CAPS: Mapping[str, frozenset[str]] = {
    name: frozenset(features)
    for name, features in {
        "SSE41": _SSE,
        "AVX": _AVX,
        "AVX2": _AVX2,
        "AVX2_VNNI": _AVX2_VNNI,
        "AVX2_VNNI_2": _AVX2_VNNI_2,
        "AVX512_CORE": _AVX512,
        "AVX512_CORE_VNNI": _VNNI,
        "AVX512_CORE_BF16": _BF16,
        "AVX512_CORE_FP16": _FP16,
        "AVX10_1_512": _FP16,
        "AVX512_CORE_AMX": _AMX,
        "AVX10_1_512_AMX": _AMX,
        "AVX512_CORE_AMX_FP16": _AMX_FP16,
        "AVX10_1_512_AMX_FP16": _AMX_FP16,
        "AVX10_2_512": (*_FP16, "avx_vnni_int8"),
        "AVX10_2_512_AMX_2": (*_AMX_FP16, "avx_vnni_int8"),
    }.items()
}
_NO_CAP = ("", "ALL", "DEFAULT")

# ATen compiles its kernels for three levels; its AVX-512 kernels are not told apart by VNNI, bf16 or AMX.
ATEN_CAPS: Mapping[str, frozenset[str]] = {
    "DEFAULT": frozenset(_SSE),
    "AVX2": frozenset(_AVX2_VNNI_2),
}
_ATEN_NO_CAP = ("", "AVX512")

# GFLOP/s in fp32 of one core: what a large product reaches, well below the arithmetic peak.
_FP32_PER_CORE: tuple[tuple[str, float], ...] = (
    ("avx512", 90.0),
    ("avx2", 55.0),
    ("avx", 25.0),
    ("sse41", 12.0),
    ("arm_bf16", 40.0),
    ("neon", 15.0),
)
# Speed relative to fp32, the first feature present counts. bf16 and fp16: medians of what was measured with torch 2.13
# on an AMX Xeon (also with its instruction sets limited by environment) and an AVX512-BF16 EPYC; Arm: assumed.
_RELATIVE: Mapping[str, tuple[tuple[str, float], ...]] = {
    "bf16": (
        ("amx_bf16", 4.1),
        ("avx512_bf16", 2.3),
        ("arm_bf16", 2.0),
        ("avx512", 0.22),
        ("avx2", 0.1),
        ("", 0.1),
    ),
    "fp16": (("amx_fp16", 4.1), ("avx512_fp16", 1.0), ("", 0.28)),
    "int8": (
        ("amx_int8", 8.0),
        ("avx512_vnni", 4.4),
        ("avx_vnni", 2.0),
        ("arm_i8mm", 3.0),
        ("arm_dot", 1.5),
        ("avx512", 1.7),
        ("", 1.0),
    ),
}


def features(flags: Iterable[str]) -> tuple[str, ...]:
    """The instruction sets that matter here, in the loader's names, out of the kernel's flags.

    Args:
        flags: words of the ``flags`` (x86) or ``Features`` (Arm) line of ``/proc/cpuinfo``.
    """
    present = {flag.lower() for flag in flags}
    names = [ours for kernel, ours in {**_X86_FLAGS, **_ARM_FLAGS}.items() if kernel in present]
    if not present.issuperset(_AVX512_CORE):
        names = [name for name in names if not name.startswith("avx512")]
    return tuple(dict.fromkeys(names))


def read_cpuinfo(text: str) -> tuple[str, tuple[str, ...]]:
    """Model name ("" where the kernel gives none, as on Arm) and flags of the first processor in ``/proc/cpuinfo``."""
    name, flags = "", ""
    for line in text.splitlines():
        key, _, value = line.partition(":")
        key = key.strip().lower()
        if key == "model name" and not name:
            name = value.strip()
        elif key in ("flags", "features") and not flags:
            flags = value
    return name, tuple(flags.split())


def effective_isa(isa: Iterable[str], environ: Mapping[str, str]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """What products may use of ``isa``, and each setting in ``environ`` that by itself takes something away.

    Values are read without regard to case. A value neither library knows limits nothing, as in the libraries
    themselves. Arm instruction sets are not limited by either variable's x86 values.

    Returns:
        The effective instruction sets, in the order of ``isa``, and e.g. ``("ONEDNN_MAX_CPU_ISA=AVX2",)``.
    """
    present = tuple(isa)
    remaining = present
    limits: list[str] = []
    for name, cap in _caps(environ):
        lost = {f for f in present if f in _X86_FLAGS.values() and f not in cap}
        if lost:
            limits.append(name)
        remaining = tuple(f for f in remaining if f not in lost)
    return remaining, tuple(limits)


def _caps(environ: Mapping[str, str]) -> list[tuple[str, frozenset[str]]]:
    caps: list[tuple[str, frozenset[str]]] = []
    # oneDNN looks at the old name only when the new one is absent.
    onednn = next((n for n in ("ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA") if environ.get(n)), "ONEDNN_MAX_CPU_ISA")
    for variable, known, free in ((onednn, ONEDNN_CAPS, _NO_CAP), ("ATEN_CPU_CAPABILITY", ATEN_CAPS, _ATEN_NO_CAP)):
        value = environ.get(variable, "").strip().upper()
        if value not in free and value in known:
            caps.append((f"{variable}={environ[variable].strip()}", known[value]))
    return caps


def relative_speed(isa: Iterable[str], dtype: str) -> float:
    """Speed of products of ``dtype`` relative to fp32 on a CPU with ``isa``, when nothing was measured."""
    present = {*isa, ""}
    return next(times for feature, times in _RELATIVE[dtype] if feature in present)


def estimated_rates(isa: Iterable[str], cores: int, fp32: float = 0.0) -> dict[str, Rate]:
    """Rates of matrix products by instruction set, ``source="estimated"``.

    Args:
        isa: effective instruction sets.
        cores: usable cores.
        fp32: GFLOP/s where that much is known; then only the other dtypes are estimated relative to it.
    """
    present = tuple(isa)
    if not fp32:
        fp32 = cores * next((rate for feature, rate in _FP32_PER_CORE if feature in present), 8.0)
    rates = {"fp32": Rate(fp32, "estimated")}
    for dtype in _RELATIVE:
        rates[dtype] = Rate(round(fp32 * relative_speed(present, dtype), 1), "estimated")
    return rates

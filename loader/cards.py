"""What is known of accelerators by architecture: dtypes in hardware, cards that fail, estimated rates. Pure.

``torch.cuda.is_bf16_supported()`` is not asked: it counts emulation and answers True on a T4, and under ROCm always.
Where projects disagree on CUDA (compute capability 7.0 or 8.0 for bf16), the arithmetic decides: tensor cores and ALUs
take bf16 from 8.0 on (CUDA C++ Programming Guide, throughput of native arithmetic instructions).
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass

from loader.host import Dtype, Rate

_FP32: tuple[Dtype, ...] = ("fp32",)
_AMD_BF16 = re.compile(r"gfx90a|gfx94\w|gfx95\w|gfx11\w\w|gfx12\w\w")
# Turing without tensor cores: products in fp16 come out as NaN. ComfyUI and Ultralytics arrived at the list by reports.
_BROKEN_FP16 = re.compile(r"\b(GTX 16[356]0|T5[05]0|T600|T1[02]00|T2000|MX[45]50|CMP 30HX)\b", re.IGNORECASE)

# How much slower than fp32 a dtype is that the card only emulates (bf16: GTX 1080, kubeedge/ianvs issue 888).
_EMULATED_BF16 = 1 / 1.85


@dataclass(frozen=True)
class _PerClock:
    """Operations one multiprocessor completes each clock in fp32, fp16, bf16 and int8 (0: not in hardware)."""

    fp32: int
    fp16: int
    bf16: int
    int8: int
    gigahertz: float
    bandwidth_gbs: float


# From the vendors' architecture whitepapers: dense, accumulating in fp32, fp32 without TF32. Clock and bandwidth are
# those of a middling card of the family, for drivers that do not say.
_PER_CLOCK: Mapping[str, _PerClock] = {
    "sm_50": _PerClock(256, 0, 0, 0, 1.1, 110),
    "sm_52": _PerClock(256, 0, 0, 0, 1.1, 220),
    "sm_53": _PerClock(256, 512, 0, 0, 0.92, 25.6),
    "sm_60": _PerClock(128, 256, 0, 0, 1.3, 700),
    "sm_61": _PerClock(256, 4, 0, 1024, 1.7, 250),
    "sm_62": _PerClock(256, 512, 0, 0, 1.3, 58),
    "sm_70": _PerClock(128, 1024, 0, 512, 1.5, 900),
    "sm_72": _PerClock(128, 1024, 0, 2048, 1.3, 130),
    "sm_75": _PerClock(128, 1024, 0, 2048, 1.6, 400),
    "sm_80": _PerClock(128, 2048, 2048, 4096, 1.41, 1555),
    "sm_86": _PerClock(256, 512, 512, 2048, 1.7, 450),
    "sm_87": _PerClock(256, 1024, 1024, 2048, 1.0, 150),
    "sm_89": _PerClock(256, 512, 512, 2048, 2.4, 500),
    "sm_90": _PerClock(256, 4096, 4096, 8192, 1.75, 3350),
    "sm_100": _PerClock(256, 8192, 8192, 16384, 1.85, 7000),
    "sm_120": _PerClock(256, 512, 512, 2048, 2.4, 700),
    "gfx906": _PerClock(128, 256, 0, 512, 1.7, 1000),
    "gfx908": _PerClock(256, 1024, 0, 1024, 1.5, 1200),
    "gfx90a": _PerClock(256, 1024, 1024, 1024, 1.7, 1600),
    "gfx942": _PerClock(256, 2048, 2048, 4096, 2.1, 5300),
    "gfx950": _PerClock(256, 4096, 4096, 8192, 2.4, 8000),
    "gfx1030": _PerClock(128, 256, 0, 512, 2.2, 450),
    "gfx1100": _PerClock(256, 512, 512, 512, 2.3, 700),
    "gfx1201": _PerClock(256, 1024, 1024, 2048, 2.7, 600),
    "apple": _PerClock(256, 256, 256, 0, 1.4, 100),
    "xe": _PerClock(256, 2048, 2048, 4096, 2.1, 300),
}
_TURING_WITHOUT_TENSOR_CORES = _PerClock(128, 256, 0, 512, 1.7, 190)
_UNKNOWN = _PerClock(128, 128, 128, 128, 1.3, 200)


def cuda_native(capability: tuple[int, int]) -> tuple[Dtype, ...]:
    """Dtypes a CUDA device of this compute capability has in hardware, at a rate worth using.

    Pascal except 6.0 and 6.2 computes fp16 at 1/64 of its fp32 rate: that does not count.
    """
    native = _FP32
    if capability >= (7, 0) or capability in ((5, 3), (6, 0), (6, 2)):
        native = (*native, "fp16")
    if capability >= (8, 0):
        native = (*native, "bf16")
    return (*native, "int8") if capability >= (7, 2) else native


def amd_native(arch: str) -> tuple[Dtype, ...]:
    """Dtypes an AMD device has in hardware, by its architecture without suffix ("gfx942")."""
    native: tuple[Dtype, ...] = (*_FP32, "fp16")
    return (*native, "bf16", "int8") if _AMD_BF16.fullmatch(arch) else native


def broken_dtypes(name: str) -> tuple[Dtype, ...]:
    """Dtypes known to give NaN on the card called ``name``."""
    return ("fp16",) if _BROKEN_FP16.search(name) else ()


def estimated_card_rates(arch: str, multiprocessors: int, gigahertz: float = 0.0, *, name: str = "") -> dict[str, Rate]:
    """Peak rates by architecture, multiprocessors and clock, ``source="estimated"``.

    ``gigahertz`` is the boost clock, 0 when not known. ``name`` tells the Turing cards without tensor cores apart.
    """
    per_clock = _TURING_WITHOUT_TENSOR_CORES if broken_dtypes(name) else _known(arch)
    scale = max(multiprocessors, 1) * (gigahertz or per_clock.gigahertz)
    fp32 = per_clock.fp32 * scale
    rates = {
        "fp32": fp32,
        "fp16": per_clock.fp16 * scale or fp32,  # kept in fp16, computed in fp32
        "bf16": per_clock.bf16 * scale or fp32 * _EMULATED_BF16,
        "int8": per_clock.int8 * scale or fp32,
    }
    return {dtype: Rate(round(rate, 1), "estimated") for dtype, rate in rates.items()}


def typical_bandwidth_gbs(arch: str) -> float:
    """Memory bandwidth of a middling card of the family, GB/s."""
    return _known(arch).bandwidth_gbs


def _known(arch: str) -> _PerClock:
    """The entry of ``arch``, else of the nearest older one of its family, else a modest stand-in."""
    if arch in _PER_CLOCK:
        return _PER_CLOCK[arch]
    family = re.match(r"sm_|gfx(?=\w{3}$)|gfx1|apple|xe", arch)
    if family is None:
        return _UNKNOWN
    older = [a for a in _PER_CLOCK if a.startswith(family[0]) and _order(a) <= _order(arch)]
    return _PER_CLOCK[max(older, key=_order)] if older else _UNKNOWN


def _order(arch: str) -> int:
    digits = re.search(r"\d[0-9a-f]*$", arch)
    return int(digits[0], 16) if digits else 0

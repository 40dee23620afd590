"""The one place that asks torch, psutil, control groups and the environment what this machine is.

Everything asked can be replaced: the environment, the directory that holds ``proc`` and ``sys``, and torch itself, so
that a T4, a container or a ZeroGPU Space is tested without one.
"""

import os
import platform
import shutil
import sysconfig
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import psutil

from loader import cgroup
from loader.host import GIB, Accelerator, Cpu, Host, Platform, load_host
from loader.isa import effective_isa, estimated_rates, features, read_cpuinfo
from loader.probe_cards import find_accelerators, wheel_archs
from loader.rules import wheel_has_code
from loader.speed import Speeds, measure_cpu

ZEROGPU_HOST = "zerogpu-48g"
_COMPILERS = ("g++", "clang++", "c++", "cl")
_BF16_ISA = frozenset({"avx512_bf16", "amx_bf16", "arm_bf16"})
# torch.cpu.get_capabilities() uses these names where Linux uses others.
_TORCH_FLAGS: Mapping[str, str] = {
    "avx512_f": "avx512f",
    "avx512_bw": "avx512bw",
    "avx512_vl": "avx512vl",
    "avx512_dq": "avx512dq",
    "fp16_arith": "asimdhp",
    "dot": "asimddp",
}


def probe(
    *,
    cache_dir: Path,
    environ: Mapping[str, str] | None = None,
    root: Path = Path("/"),
    torch: Any = None,
    timing: bool = True,
    extra: Sequence[Accelerator] = (),
) -> Host:
    """What this machine is, named "this machine". Takes under 1.5 s beyond importing torch on a host without a card.

    In the main process of a ZeroGPU Space ``torch.cuda`` is an imitation and is not touched: the accelerator is then
    that of the named host ``zerogpu-48g``, everything else is this machine's.

    Args:
        cache_dir: where weights will be kept; its file system's free space counts. Need not exist yet.
        environ: environment variables, by default the process's own.
        root: directory that holds ``proc`` and ``sys``.
        torch: the module to ask, by default the installed torch.
        timing: False leaves every rate to the estimate.
        extra: further accelerators, put behind those found.
    """
    environ = os.environ if environ is None else environ
    if torch is None:
        import torch
    place = platform_of(environ)
    cpu, sources = _cpu(torch, environ, root, timing=timing)
    ram, free_ram, ram_source = _ram(environ, root)
    sources |= {"ram_bytes": ram_source, "free_ram_bytes": ram_source, "disk_gbs": "assumed"}
    if place == "zerogpu":
        named = load_host(ZEROGPU_HOST)
        accelerators, archs, compiler = named.accelerators, named.wheel_archs, ""
        sources |= {"accelerators": f"the named host {ZEROGPU_HOST}: only forked workers see the card"}
        sources |= {name: text for name, text in named.sources.items() if name.startswith("cuda:0.")}
        sources |= {"wheel_archs": named.sources["wheel_archs"], "compiler": named.sources["compiler"]}
    else:
        accelerators, known = find_accelerators(torch, free_ram=free_ram, timing=timing)
        archs, compiler = wheel_archs(torch), find_compiler(environ)
        # A card newer than all of them can still run what the driver compiles from the wheel's PTX: it answered.
        by_driver = tuple(a.arch for a in accelerators if a.runs_code and not wheel_has_code(a, archs))
        archs += by_driver
        sources |= known | {"wheel_archs": f"torch{', and by PTX ' + ', '.join(by_driver) if by_driver else ''}"}
        sources |= {"compiler": compiler or "none of " + ", ".join(_COMPILERS) + " found with Python's headers"}
    return Host(
        name="this machine",
        title=_title(cpu, (*accelerators, *extra), place),
        cpu=cpu,
        ram_bytes=ram,
        free_ram_bytes=free_ram,
        accelerators=(*accelerators, *extra),
        disk_free_bytes=_disk_free(cache_dir),
        wheel_archs=archs,
        compiler=bool(compiler),
        platform=place,
        system=platform.system().lower(),
        torch=str(torch.__version__),
        python=platform.python_version(),
        probed=True,
        sources=sources,
    )


def platform_of(environ: Mapping[str, str]) -> Platform:
    """Where this runs, by environment alone: on ZeroGPU asking torch would answer for a card that is not there."""
    if environ.get("SPACES_ZERO_GPU", "").strip().lower() not in ("", "0", "false", "no"):
        return "zerogpu"
    return "spaces" if environ.get("SPACE_ID") or environ.get("SYSTEM", "").lower() == "spaces" else "local"


def find_compiler(environ: Mapping[str, str]) -> str:
    """Path of a C++ compiler torch.compile can use, "" when there is none.

    Inductor takes ``CXX`` or looks for one, and what it compiles for a CPU includes Python's own header.
    """
    headers = sysconfig.get_paths().get("include", "")
    if not (Path(headers) / "Python.h").is_file():
        return ""
    wanted = environ.get("CXX", "").split()
    for name in (*wanted[:1], *_COMPILERS):
        found = shutil.which(name, path=environ.get("PATH"))
        if found:
            return found
    return ""


# --- processor --------------------------------------------------------------------------------------------------


def _cpu(torch: Any, environ: Mapping[str, str], root: Path, *, timing: bool) -> tuple[Cpu, dict[str, str]]:
    name, flags, isa_source = _flags(torch, root)
    isa = features(flags)
    effective, limits = effective_isa(isa, environ)
    cores, cores_source = _cores(environ, root)
    speeds = measure_cpu(torch, cores) if timing else Speeds(note="estimated by instruction set, not timed")
    measured = speeds.rates.get("fp32")
    rates = estimated_rates(effective, cores, measured.gflops if measured else 0.0)
    cpu = Cpu(
        name=name or platform.processor() or platform.machine(),
        cores=cores,
        isa=isa,
        effective_isa=effective,
        rates={**rates, **speeds.rates},
        limits=limits,
        arch=platform.machine() or "x86_64",
        bandwidth_gbs=speeds.bandwidth_gbs or 20.0,
        bf16_convolution_ratio=speeds.convolution,
    )
    return cpu, {
        "cpu.cores": cores_source,
        "cpu.isa": isa_source,
        "cpu.effective_isa": _confirmation(effective, limits, speeds),
        "cpu.rates": speeds.note,
        "cpu.bandwidth_gbs": "measured: copies of 64 MiB" if speeds.bandwidth_gbs else "assumed",
    }


def _flags(torch: Any, root: Path) -> tuple[str, tuple[str, ...], str]:
    """Model name, CPU flags in Linux' names, and who said so."""
    try:
        text = (root / "proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        text = ""
    name, flags = read_cpuinfo(text)
    if flags:
        return name, flags, "/proc/cpuinfo"
    ask = getattr(torch.cpu, "get_capabilities", None)
    if ask is not None:
        told = ask()
        present = tuple(_TORCH_FLAGS.get(flag, flag) for flag, value in told.items() if value is True)
        return str(told.get("cpu_name", name)), present, "torch.cpu.get_capabilities"
    return name, _flags_of_older_torch(torch), "torch.cpu"


def _flags_of_older_torch(torch: Any) -> tuple[str, ...]:
    if platform.machine().lower() in ("arm64", "aarch64"):
        return ("asimd",)
    answers = {
        "_is_avx2_supported": ("sse4_1", "avx", "avx2"),
        "_is_avx512_supported": ("avx512f", "avx512bw", "avx512vl", "avx512dq"),
        "_is_vnni_supported": ("avx512_vnni",),
        "_is_avx512_bf16_supported": ("avx512_bf16",),
        "_is_amx_tile_supported": ("amx_int8", "amx_bf16"),
        "_is_amx_fp16_supported": ("amx_fp16",),
    }
    return tuple(f for query, flags in answers.items() if getattr(torch.cpu, query, lambda: False)() for f in flags)


def _confirmation(effective: Sequence[str], limits: Sequence[str], speeds: Speeds) -> str:
    """Where the effective instruction sets come from, and what the timed bf16 product says to them."""
    source = "CPUID and the environment" if limits else "CPUID, nothing in the environment limits it"
    if "bf16" not in speeds.rates or "fp32" not in speeds.rates:
        return f"{source}; not confirmed by timing"
    product = speeds.rates["bf16"].gflops / speeds.rates["fp32"].gflops
    fast = max(product, speeds.convolution) > 1
    verdict = "confirmed" if fast == bool(_BF16_ISA & set(effective)) else "contradicted"
    convolution = f", a convolution {speeds.convolution:.2f} times" if speeds.convolution else ""
    return f"{source}; {verdict}: a bf16 product has {product:.2f} times the speed of fp32{convolution}"


def _cores(environ: Mapping[str, str], root: Path) -> tuple[int, str]:
    """Cores this process may use: affinity, then quota. Part of a core more is not worth another thread."""
    cores, source = _affinity(), "affinity of the process"
    quota = cgroup.cpu_quota(root)
    if quota is not None and quota < cores:
        cores, source = max(1, int(quota)), f"control group quota of {quota:g} processors"
    told = environ.get("CPU_CORES", "") if platform_of(environ) != "local" else ""
    if told.isdecimal() and 0 < int(told) < cores:
        cores, source = int(told), "CPU_CORES of the Space"
    return cores, source


def _affinity() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


# --- memory and disk --------------------------------------------------------------------------------------------


def _ram(environ: Mapping[str, str], root: Path) -> tuple[int, int, str]:
    """Bytes of RAM this process may use in all and now, and what set the limit."""
    memory = psutil.virtual_memory()
    total, free, source = int(memory.total), int(memory.available), "the machine's memory"
    limit = cgroup.memory_limit(root)
    if limit is not None:
        free = min(free, limit.free)
        if limit.limit < total:
            total, source = limit.limit, "control group limit"
    told = _space_memory(environ)
    if told and told < total:
        total, free, source = told, min(free, told), "MEMORY of the Space"
    return total, free, source


def _space_memory(environ: Mapping[str, str]) -> int:
    """Bytes out of a Space's ``MEMORY`` ("16Gi"), 0 when it is not there or not understood."""
    text = environ.get("MEMORY", "").strip() if platform_of(environ) != "local" else ""
    number, unit = text[:-2], text[-2:]
    return int(float(number) * GIB) if unit == "Gi" and number.replace(".", "", 1).isdecimal() else 0


def _disk_free(folder: Path) -> int:
    existing = next((p for p in (folder, *folder.absolute().parents) if p.exists()), Path("/"))
    return int(shutil.disk_usage(existing).free)


def _title(cpu: Cpu, accelerators: Sequence[Accelerator], place: Platform) -> str:
    where = {"local": "", "spaces": "Hugging Face Space, ", "zerogpu": "Hugging Face Space, ZeroGPU, "}[place]
    return where + " + ".join([f"{cpu.name}, {cpu.cores} cores", *(a.name for a in accelerators)])

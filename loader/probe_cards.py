"""The accelerators torch knows of, each asked what it is. Part of ``loader.probe``, which hands torch in.

Free memory is what the driver reports plus what torch's allocator keeps for itself unused; a limit set by
``set_per_process_memory_fraction`` counts as the size of the card. A card torch can see may still be one its wheel has
no code for: each is given one small kernel to run.
"""

import platform
import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

from loader.cards import amd_native, broken_dtypes, cuda_native, estimated_card_rates, typical_bandwidth_gbs
from loader.host import Accelerator, Dtype, Kind
from loader.speed import measure_card

Found = tuple[Accelerator, dict[str, str]]
# macOS 14 is the first with bf16 in Metal.
_MACOS_BF16 = 14


def find_accelerators(torch: Any, *, free_ram: int, timing: bool) -> tuple[tuple[Accelerator, ...], dict[str, str]]:
    """Every accelerator of every kind torch knows, and where the figures come from.

    A device that cannot even be asked is left out; the sources say why under its name.

    Args:
        torch: the module, or one that answers like it.
        free_ram: bytes of RAM free; what an accelerator that shares it can have at most.
        timing: whether products may be timed on it.
    """
    accelerators: list[Accelerator] = []
    sources: dict[str, str] = {}
    for device, ask in _devices(torch, free_ram):
        try:
            accelerator, known = ask()
        except (RuntimeError, AssertionError, AttributeError) as error:
            sources[device] = f"could not be asked: {_first_line(error)}"
            continue
        if timing and accelerator.runs_code and accelerator.kind != "fake":
            accelerator, measured = _measured(torch, accelerator)
            known |= measured
        accelerators.append(accelerator)
        sources |= {f"{device}.{name}": text for name, text in known.items()}
    return tuple(accelerators), sources


def wheel_archs(torch: Any) -> tuple[str, ...]:
    """Architectures the installed torch carries binary code for, as it lists them; empty where it does not say."""
    try:
        listed = torch.cuda.get_arch_list()
    except (RuntimeError, AssertionError, AttributeError):
        return ()
    return tuple(arch for arch in listed if re.match(r"sm_|gfx", arch))


def _devices(torch: Any, free_ram: int) -> Iterator[tuple[str, Callable[[], Found]]]:
    for index in range(_count(torch, "cuda")):
        yield f"cuda:{index}", lambda index=index: _cuda(torch, index)  # type: ignore[misc]
    for kind in ("xpu", "fake"):
        for index in range(_count(torch, kind)):
            yield f"{kind}:{index}", lambda index=index, kind=kind: _other(torch, kind, index)  # type: ignore[misc]
    if _available(getattr(getattr(torch, "backends", None), "mps", None)):
        yield "mps", lambda: _mps(torch, free_ram)


def _available(module: Any) -> bool:
    try:
        return module is not None and bool(getattr(module, "is_available", lambda: True)())
    except (RuntimeError, AssertionError):
        return False


def _count(torch: Any, kind: str) -> int:
    module: Any = getattr(torch, kind, None)
    if not _available(module):
        return 0
    try:
        return int(module.device_count())
    except (RuntimeError, AssertionError, AttributeError):
        return 0


def _cuda(torch: Any, index: int) -> Found:
    """A card of CUDA or ROCm, which torch both calls ``cuda``."""
    device = f"cuda:{index}"
    props = torch.cuda.get_device_properties(index)
    amd = bool(getattr(torch.version, "hip", None))
    arch = props.gcnArchName.partition(":")[0] if amd else f"sm_{props.major}{props.minor}"
    runs = _launches(torch, device)
    memory, free = _memory(torch.cuda, index)
    gigahertz = getattr(props, "clock_rate", 0) / 1e6
    accelerator = Accelerator(
        device=device,
        kind="rocm" if amd else "cuda",
        name=props.name,
        arch=arch,
        memory_bytes=memory,
        free_bytes=free,
        native=amd_native(arch) if amd else cuda_native((props.major, props.minor)),
        rates=estimated_card_rates(arch, props.multi_processor_count, gigahertz, name=props.name),
        bandwidth_gbs=_bandwidth(props) or typical_bandwidth_gbs(arch),
        unified=bool(getattr(props, "is_integrated", False)),
        broken=broken_dtypes(props.name),
        multiprocessors=props.multi_processor_count,
        runs_code=runs,
    )
    return accelerator, {
        "native": f"by architecture {arch}",
        "rates": "estimated by architecture, multiprocessors and clock",
        "bandwidth_gbs": "clock and width of its memory" if _bandwidth(props) else "typical of its family",
        "link_gbs": "assumed",
        "free_bytes": "driver, and what torch's allocator holds unused",
        "runs_code": "one kernel launched" if runs else "one kernel launched: it failed",
    }


def _other(torch: Any, kind: Kind, index: int) -> Found:
    """A device behind torch's common interface: Intel's, and the imitation that tests register."""
    module, device = getattr(torch, kind), f"{kind}:{index}"
    ask = getattr(module, "get_device_properties", None)
    props = ask(index) if ask is not None else None
    runs = _launches(torch, device)
    memory, free = _memory(module, index)
    native: tuple[Dtype, ...] = ("fp32", "fp16") if getattr(props, "has_fp16", True) else ("fp32",)
    if getattr(props, "has_bfloat16_conversions", True):
        native = (*native, "bf16")
    if kind == "xpu":
        native = (*native, "int8")
    units = int(getattr(props, "gpu_subslice_count", 0) or getattr(props, "multi_processor_count", 0))
    arch = "xe" if kind == "xpu" else kind
    accelerator = Accelerator(
        device=device,
        kind=kind,
        name=str(getattr(props, "name", kind)),
        arch=arch,
        memory_bytes=memory,
        free_bytes=free,
        native=native,
        rates=estimated_card_rates(arch, units),
        bandwidth_gbs=_bandwidth(props) or typical_bandwidth_gbs(arch),
        unified=bool(getattr(props, "is_integrated_gpu", False)),
        multiprocessors=units,
        runs_code=runs,
    )
    return accelerator, {
        "native": "as the driver reports it",
        "rates": "estimated by architecture and cores",
        "link_gbs": "assumed",
        "free_bytes": "driver, and what torch's allocator holds unused",
        "runs_code": "one kernel launched" if runs else "one kernel launched: it failed",
    }


def _mps(torch: Any, free_ram: int) -> Found:
    """Apple's graphics processor, whose memory is the machine's."""
    backend = torch.backends.mps
    name = str(getattr(backend, "get_name", lambda: "Apple GPU")())
    cores = int(getattr(backend, "get_core_count", lambda: 8)())
    size, allocated = int(torch.mps.recommended_max_memory()), int(torch.mps.current_allocated_memory())
    cached = max(0, int(torch.mps.driver_allocated_memory()) - allocated)
    native: tuple[Dtype, ...] = ("fp32", "fp16")
    release = platform.mac_ver()[0].partition(".")[0]
    if release.isdecimal() and int(release) >= _MACOS_BF16 and _finite_in_bf16(torch, "mps"):
        native = (*native, "bf16")
    accelerator = Accelerator(
        device="mps",
        kind="mps",
        name=name,
        arch=name.lower().replace(" ", "-"),
        memory_bytes=size,
        free_bytes=max(0, min(size - allocated, free_ram + cached)),
        native=native,
        rates=estimated_card_rates("apple", cores),
        bandwidth_gbs=typical_bandwidth_gbs("apple"),
        unified=True,
        multiprocessors=cores,
        runs_code=_launches(torch, "mps"),
    )
    return accelerator, {
        "native": "bf16 by the macOS version and one product",
        "rates": "estimated by number of cores",
        "memory_bytes": "what macOS recommends one process use",
        "free_bytes": "at most what is free of the machine's memory",
    }


def _memory(module: Any, index: int) -> tuple[int, int]:
    """Size and free bytes of a device: a set fraction is its size, the allocator's unused cache is free."""
    free, total = module.mem_get_info(index)
    reserved = int(getattr(module, "memory_reserved", lambda _: 0)(index))
    allocated = int(getattr(module, "memory_allocated", lambda _: 0)(index))
    # Older torch can set the fraction but not tell it.
    ask = getattr(module, "get_per_process_memory_fraction", lambda _: 1.0)
    size = int(total * min(1.0, ask(index)))
    return size, max(0, min(int(free) + reserved - allocated, size - allocated))


def _launches(torch: Any, device: str) -> bool:
    """Whether a kernel runs there and gives the right answer; a missing kernel image shows at the first launch only."""
    try:
        return float((torch.ones(8, device=device) * 2).sum().item()) == 16.0
    except RuntimeError:  # torch.AcceleratorError is one
        return False


def _finite_in_bf16(torch: Any, device: str) -> bool:
    try:
        ones = torch.ones((8, 8), dtype=torch.bfloat16, device=device)
        return float((ones @ ones).float().sum().item()) == 512.0
    except (RuntimeError, TypeError):
        return False


def _measured(torch: Any, accelerator: Accelerator) -> Found:
    """``accelerator`` with what timing and a look at its results added."""
    speeds = measure_card(
        torch, accelerator.device, accelerator.native, accelerator.free_bytes, unified=accelerator.unified
    )
    module = getattr(torch, accelerator.kind.replace("rocm", "cuda"))
    module.empty_cache()
    broken = tuple(dict.fromkeys((*accelerator.broken, *speeds.not_finite)))
    sources = {"rates": speeds.note} if speeds.note else {}
    if set(broken) - set(accelerator.broken):
        sources["broken"] = "NaN or Inf in a product or convolution of harmless numbers"
    for figure, value in (("bandwidth_gbs", speeds.bandwidth_gbs), ("link_gbs", speeds.link_gbs)):
        if value > 0:
            sources[figure] = "measured: copies of 64 MiB"
    return replace(
        accelerator,
        rates={**accelerator.rates, **speeds.rates},
        broken=broken,
        bandwidth_gbs=speeds.bandwidth_gbs or accelerator.bandwidth_gbs,
        link_gbs=speeds.link_gbs or (speeds.bandwidth_gbs if accelerator.unified else 0) or accelerator.link_gbs,
    ), sources


def _bandwidth(props: Any) -> float:
    """GB/s from the memory's clock (kHz, two transfers each) and bus width (bits), 0 when the driver does not say."""
    clock, width = getattr(props, "memory_clock_rate", 0) or 0, getattr(props, "memory_bus_width", 0) or 0
    return round(2 * clock * 1e3 * width / 8 / 1e9, 1)


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]

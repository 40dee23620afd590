"""What a machine is, as facts: probed once, or one of the named hosts, or a JSON file.

Nothing here asks the machine; ``loader.probe`` does. Bytes are bytes, rates are GFLOP/s, bandwidths GB/s.
"""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from loader.codec import from_plain, to_plain
from loader.errors import InputError

GIB = 2**30
Dtype = Literal["fp32", "fp16", "bf16", "int8"]
Kind = Literal["cuda", "rocm", "mps", "xpu", "fake"]
Platform = Literal["local", "spaces", "zerogpu"]
RateSource = Literal["measured", "vendor", "estimated"]

MAX_FILE_BYTES = 2**18  # the longest named host has 3 KB
PROBED = "this machine"  # what a probed host is called
NAMED_HOSTS = Path(__file__).with_name("hosts")


@dataclass(frozen=True)
class Rate:
    """How fast products of one dtype run, in GFLOP/s (GOP/s for int8), and where the figure comes from."""

    gflops: float
    source: RateSource = "vendor"


Operation = Literal["convolution", "linear", "attention", "normalisation", "interpolation"]


@dataclass(frozen=True)
class OpTime:
    """How long one small operation of a network took on a device (see ``loader.microprobe``).

    Attributes:
        layout: "contiguous" or "channels_last" for convolutions, else "".
        kernel: "sdpa" or "blocks" for attention; "packed" for a convolution or linear layer whose weights were laid
            out beforehand (``loader.packing``); else "".
        length: keys of an attention, else 0.
        seconds: of the fastest call.
        finite: whether harmless inputs gave finite results.
    """

    operation: Operation
    dtype: Dtype
    seconds: float
    layout: str = ""
    kernel: str = ""
    length: int = 0
    finite: bool = True


@dataclass(frozen=True)
class Cpu:
    """The processor this process may really use.

    Attributes:
        cores: usable cores (affinity and cgroup quota applied).
        isa: instruction sets by CPUID: avx2, avx512, avx512_bf16, avx512_fp16, avx_vnni, amx_bf16, amx_int8,
            neon, arm_bf16, …
        limits: what the environment imposes ("ONEDNN_MAX_CPU_ISA=AVX2"), empty when nothing does.
        effective_isa: ``isa`` after ``limits``: what products really use.
        rates: per dtype, matrix products on all usable cores.
        bf16_convolution_ratio: fp32 time over bf16 time of a timed convolution, 0 when not timed.
        micro: single operations as timed here, empty when they were not.
    """

    name: str
    cores: int
    isa: tuple[str, ...]
    effective_isa: tuple[str, ...]
    rates: Mapping[str, Rate]
    limits: tuple[str, ...] = ()
    arch: str = "x86_64"
    bandwidth_gbs: float = 20.0
    bf16_convolution_ratio: float = 0.0
    micro: tuple[OpTime, ...] = ()


@dataclass(frozen=True)
class Accelerator:
    """One device beside the CPU.

    Attributes:
        device: how torch calls it ("cuda:0").
        arch: "sm_75", "gfx942", "apple-m2", "xe-hpg"; what the wheel must carry code for.
        memory_bytes: the device's size (a cap set for the process counts as the size).
        free_bytes: what a new allocation may take, the allocator's own cache included.
        unified: device memory is host memory (Apple, Jetson, integrated): counted once.
        native: dtypes its arithmetic has in hardware; emulation does not count.
        broken: dtypes known to give NaN on this card (GTX 16xx in fp16).
        link_gbs: host to device copy bandwidth.
        runs_code: a kernel was launched and answered; None when it could not be tried.
        micro: single operations as timed here, empty when they were not.
    """

    device: str
    kind: Kind
    name: str
    arch: str
    memory_bytes: int
    free_bytes: int
    native: tuple[Dtype, ...]
    rates: Mapping[str, Rate]
    bandwidth_gbs: float
    link_gbs: float = 12.0
    unified: bool = False
    broken: tuple[Dtype, ...] = ()
    multiprocessors: int = 0
    runs_code: bool | None = None
    micro: tuple[OpTime, ...] = ()


@dataclass(frozen=True)
class Host:
    """One machine.

    Attributes:
        name: "this machine" when probed, else the named host's file name.
        ram_bytes: memory the process may use in all (cgroup limits applied); free_ram_bytes of it now.
        wheel_archs: architectures the installed torch carries code for; empty means not known.
        compiler: a C++ compiler that torch.compile can use is present.
        platform: where it runs; zerogpu means emulated CUDA in this process and a real card in forked workers.
        sources: where each figure comes from, by field.
    """

    name: str
    title: str
    cpu: Cpu
    ram_bytes: int
    free_ram_bytes: int
    accelerators: tuple[Accelerator, ...] = ()
    disk_free_bytes: int = 50 * GIB
    disk_gbs: float = 1.0
    wheel_archs: tuple[str, ...] = ()
    compiler: bool = False
    platform: Platform = "local"
    system: str = "linux"
    torch: str = ""
    python: str = ""
    probed: bool = False
    sources: Mapping[str, str] = field(default_factory=dict)

    def accelerator(self, device: str) -> Accelerator | None:
        """The accelerator called ``device``, or None (also for "cpu")."""
        return next((a for a in self.accelerators if a.device == device), None)


def host_names() -> tuple[str, ...]:
    """Names of the hosts that ship with the loader, in alphabetical order."""
    return tuple(sorted(path.stem for path in NAMED_HOSTS.glob("*.json")))


def load_host(name_or_file: str) -> Host:
    """A named host, or one described by a JSON file.

    Raises:
        InputError: no such host or file, or the file does not describe a host.
    """
    path = Path(name_or_file) if name_or_file.endswith(".json") else NAMED_HOSTS / f"{Path(name_or_file).name}.json"
    if not path.is_file():
        raise InputError(f"no host {name_or_file!r}: give a .json file or one of {', '.join(host_names())}")
    return host_file(path)


def host_file(path: Path) -> Host:
    """The host described by a file, as ``app.py host --json`` writes one.

    Raises:
        InputError: the file cannot be read, is larger than any description, or does not describe a host.
    """
    try:
        size = path.stat().st_size
        if size > MAX_FILE_BYTES:
            raise InputError(
                f"{path.name} has {size:,} bytes, and a description of a host at most {MAX_FILE_BYTES:,}: "
                "send what `python app.py host --json` writes"
            )
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise InputError(
            f"{path.name} does not describe a host: it is not JSON in UTF-8 as `python app.py host --json` writes it"
        ) from error
    except OSError as error:
        raise InputError(f"{path.name} cannot be read: {error.strerror or error}") from error
    host = host_from_json(text, where=path.name)
    # Where it was probed it was "this machine"; here it is another one.
    return replace(host, name=path.stem) if host.name == PROBED else host


def host_from_json(text: str, *, where: str = "host") -> Host:
    """The host described by ``text``.

    Raises:
        InputError: the text is not JSON or not a host; the message names the field.
    """
    try:
        host = from_plain(Host, json.loads(text))
    except (ValueError, RecursionError) as error:
        raise InputError(f"{where} does not describe a host: {error}") from error
    _check(host, where)
    return host


def host_to_json(host: Host) -> str:
    """``host`` as a JSON text that ``host_from_json`` reads back."""
    return json.dumps(to_plain(host), indent=1, ensure_ascii=False) + "\n"


def with_memory(host: Host, device_bytes: int) -> Host:
    """``host`` with its first accelerator's memory (or, without one, its RAM) set and wholly free."""
    if not host.accelerators:
        return replace(host, ram_bytes=device_bytes, free_ram_bytes=device_bytes)
    first = replace(host.accelerators[0], memory_bytes=device_bytes, free_bytes=device_bytes)
    return replace(host, accelerators=(first, *host.accelerators[1:]))


def _check(host: Host, where: str) -> None:
    figures: dict[str, float] = {
        "ram_bytes": host.ram_bytes,
        "disk_gbs": host.disk_gbs,
        "cpu.cores": host.cpu.cores,
        "cpu.bandwidth_gbs": host.cpu.bandwidth_gbs,
        **_rate_figures("cpu", host.cpu.rates),
    }
    for a in host.accelerators:
        figures |= {
            f"{a.device}.memory_bytes": a.memory_bytes,
            f"{a.device}.bandwidth_gbs": a.bandwidth_gbs,
            f"{a.device}.link_gbs": a.link_gbs,
            **_rate_figures(a.device, a.rates),
        }
    wrong = [f"{name}={value}" for name, value in figures.items() if not 0 < value < math.inf]
    wrong += [f"{name}={value}" for name, value in _amounts(host).items() if not value >= 0]
    devices = [a.device for a in host.accelerators]
    wrong += [f"{device} is named twice" for device in sorted({d for d in devices if devices.count(d) > 1})]
    owners = [("cpu", host.cpu.rates), *((a.device, a.rates) for a in host.accelerators)]
    wrong += [f"{owner}.rates.fp32 is missing" for owner, rates in owners if "fp32" not in rates]
    if wrong:
        raise InputError(
            f"{where} does not describe a host: {', '.join(wrong)} (amounts are not negative, rates above zero)"
        )


def _amounts(host: Host) -> dict[str, float]:
    """Figures of which there may be none left, but not less."""
    free = {f"{a.device}.free_bytes": a.free_bytes for a in host.accelerators}
    return {"free_ram_bytes": host.free_ram_bytes, "disk_free_bytes": host.disk_free_bytes, **free}


def _rate_figures(owner: str, rates: Mapping[str, Rate]) -> dict[str, float]:
    return {f"{owner}.rates.{dtype}": rate.gflops for dtype, rate in rates.items()}

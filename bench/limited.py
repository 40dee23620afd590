"""The same processor as if it had fewer instructions: what a plan is worth on older ones, the silicon being equal."""

import os
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from loader.host import Host


@dataclass(frozen=True)
class Limit:
    """An instruction set to stop at.

    Attributes:
        name: as rows call it.
        beyond: features one of which a processor must have for the limit to take anything away.
        environ: what tells oneDNN and ATen.
    """

    name: str
    beyond: frozenset[str]
    environ: Mapping[str, str]


LIMITS = (
    Limit(
        "AVX-512 without bf16",
        frozenset({"avx512_vnni", "avx512_bf16", "amx_bf16"}),
        {"ONEDNN_MAX_CPU_ISA": "AVX512_CORE", "ATEN_CPU_CAPABILITY": "avx512"},
    ),
    Limit("AVX2", frozenset({"avx512"}), {"ONEDNN_MAX_CPU_ISA": "AVX2", "ATEN_CPU_CAPABILITY": "avx2"}),
)


def limits_of(host: Host) -> tuple[Limit, ...]:
    """Those that take something from ``host``: none where there is an accelerator or the user set a limit already."""
    if host.accelerators or host.cpu.limits:
        return ()
    return tuple(limit for limit in LIMITS if limit.beyond & set(host.cpu.effective_isa))


def probed_here() -> Host:
    """This process's machine, limits included, with nothing learned under others."""
    from loader.microprobe import with_micro
    from loader.probe import probe
    from loader.process import limit_threads

    with tempfile.TemporaryDirectory() as folder:
        host = with_micro(probe(cache_dir=Path(folder), environ=os.environ), Path(folder))
    limit_threads(host.cpu.cores)
    return host

"""This machine as the commands see it: its facts, its folders and what was learned on it."""

import os
import platform
from collections.abc import Mapping
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING

from loader.allocator import settle as settle_allocator
from loader.errors import InputError
from loader.folders import Folders
from loader.host import Host, host_from_json, host_to_json
from loader.measure import Store
from loader.microprobe import with_micro
from loader.probe import probe

if TYPE_CHECKING:
    from loader.engine import Engine

# Where the kernel shows an accelerator without being asked through torch.
DRIVERS = ("proc/driver/nvidia/version", "dev/kfd", "dev/dri/renderD128")


@dataclass(frozen=True)
class Machine:
    host: Host
    folders: Folders
    store: Store

    def engine(self) -> "Engine":
        """A new engine on this machine, with its run log in the cache folder."""
        from loader.acceptance import by_deployer
        from loader.engine import Engine
        from loader.process import limit_threads
        from loader.runlog import RunLog

        limit_threads(self.host.cpu.cores)
        settle_allocator(self.host.ram_bytes, accelerated=bool(self.host.accelerators))
        log = RunLog(self.folders.cache / "runs.log")
        return Engine(self.host, self.folders, self.store, log, accepted=by_deployer(os.environ))


def this_machine() -> Machine:
    """Probe with torch, and keep what was found for commands that must not wait for torch."""
    folders = Folders.from_environ(os.environ)
    host = with_micro(probe(cache_dir=folders.cache, environ=os.environ), folders.cache)
    _keep(host, folders.cache / "host.json")
    return _machine(host, folders)


def known_machine() -> Machine:
    """This machine without importing torch where that is possible: from the last probe, else by reading the system.

    Free memory and disk are read now either way. With a driver of an accelerator present and no earlier probe, torch is
    imported after all: nothing else can tell what the card is.
    """
    folders = Folders.from_environ(os.environ)
    unasked = SimpleNamespace(__version__=version("torch"))
    now = probe(cache_dir=folders.cache, environ=os.environ, torch=unasked, timing=False)
    kept = _kept(folders.cache / "host.json", now)
    if kept is not None:
        host = replace(
            kept, free_ram_bytes=now.free_ram_bytes, ram_bytes=now.ram_bytes, disk_free_bytes=now.disk_free_bytes
        )
        return _machine(host, folders)
    if _has_driver():
        return this_machine()
    return _machine(now, folders)


def _machine(host: Host, folders: Folders) -> Machine:
    return Machine(host, folders, Store(folders.cache / "learned.json", host))


def _keep(host: Host, path: Path) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_suffix(f".{os.getpid()}")
        temporary.write_text(host_to_json(host), encoding="utf-8")
        temporary.replace(path)
    except OSError:
        # A cache that cannot be written costs the next `plan` an estimate, not this command its result.
        return


def _kept(path: Path, now: Host) -> Host | None:
    """The last probe, if the same processor, limits, torch and platform were seen then."""
    try:
        kept = host_from_json(path.read_text(encoding="utf-8"), where=str(path))
    except (OSError, InputError):
        return None
    same = _identity(kept) == _identity(now)
    return kept if same else None


def _identity(host: Host) -> tuple[object, ...]:
    cpu = host.cpu
    return (cpu.name, cpu.cores, cpu.isa, cpu.effective_isa, cpu.limits, host.torch, host.python, host.platform)


def _has_driver(root: Path = Path("/"), environ: Mapping[str, str] = os.environ) -> bool:
    if environ.get("SPACES_ZERO_GPU"):
        return False
    return platform.system() != "Linux" or any((root / path).exists() for path in DRIVERS)

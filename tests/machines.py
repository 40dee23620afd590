"""Engines for tests: this machine's CPU or the fake accelerator, on temporary folders, never on the network."""

from dataclasses import replace
from pathlib import Path

from loader.engine import Engine
from loader.folders import Folders
from loader.host import Accelerator, Host, load_host
from loader.measure import Store
from loader.runlog import RunLog

ROOT = Path(__file__).parents[1]


def host_with(*accelerators: Accelerator, base: str = "cpu-bf16") -> Host:
    """A named host as if it were this machine, with these accelerators."""
    return replace(load_host(base), name="this machine", accelerators=accelerators, torch="test", probed=True)


def engine_on(host: Host, folder: Path) -> Engine:
    """An engine whose cache, log and store lie in ``folder``."""
    folders = Folders(cache=folder / "cache", own=(), assets=ROOT)
    return Engine(host, folders, Store(folder / "learned.json", host), RunLog(folder / "runs.log"))

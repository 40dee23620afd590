"""How long and how much memory something really took, and the store of what that taught.

``timed`` says with each figure whether the machine was quiet enough for it to mean anything: with another process on
the same two cores one network took 25 times as long. ``PeakMeter`` measures what ``loader.memory`` predicts.
``Store`` keeps the difference.
"""

import json
import logging
import os
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from loader.codec import from_plain, to_plain
from loader.host import Host
from loader.knowledge import EMPTY, Compiled, Correction, Counted, Knowledge, Quarantine, Tuned

_log = logging.getLogger(__name__)

# --- time -------------------------------------------------------------------------------------------------------

MAX_WALL_OVER_CPU = 1.4
MAX_SPREAD = 1.3
# Windows counts processor time in steps of its scheduler's clock; shorter spans say nothing about other processes.
_CPU_CLOCK_STEP = 1 / 64 if sys.platform == "win32" else 1e-6


@dataclass(frozen=True)
class Timing:
    """Seconds of several calls of one function.

    Attributes:
        min: the fastest call.
        median: the middle one.
        wall_over_cpu: elapsed time over processor time per thread, 1 when nothing else wanted the processor;
            0 when it was not looked at.
        quiet: neither the processor was shared nor did the calls disagree; else the figures say nothing.
    """

    min: float
    median: float
    wall_over_cpu: float
    quiet: bool


def timed(fn: Callable[[], object], repeats: int, *, threads: int = 1, waits: bool = False) -> Timing:
    """Time ``repeats`` calls of ``fn``. Call it once before, where a first call differs from the rest.

    Args:
        fn: what to time; its result is dropped.
        repeats: number of calls, at least 1.
        threads: how many threads of this process compute in ``fn``.
        waits: ``fn`` waits for an accelerator, so that processor time means nothing and is not compared.

    Raises:
        ValueError: fewer than one repeat.
    """
    if repeats < 1:
        raise ValueError(f"timed needs at least 1 repeat, got {repeats}")
    walls = []
    cpu_start, start = time.process_time(), time.perf_counter()
    for _ in range(repeats):
        before = time.perf_counter()
        fn()
        walls.append(time.perf_counter() - before)
    wall, cpu = time.perf_counter() - start, time.process_time() - cpu_start
    fastest, median = min(walls), statistics.median(walls)
    share = 0.0 if waits or wall < _CPU_CLOCK_STEP else wall * threads / max(cpu, _CPU_CLOCK_STEP)
    return Timing(fastest, median, share, quiet=share <= MAX_WALL_OVER_CPU and median <= MAX_SPREAD * fastest)


# --- memory -----------------------------------------------------------------------------------------------------


_STATUS = Path("/proc/self/status")


def anonymous_bytes() -> int:
    """Resident memory of this process that no file backs; elsewhere than on Linux what only this process holds.

    Memory-mapped weights do not count: the kernel drops those pages whenever it needs them.
    """
    try:
        status = _STATUS.read_bytes()
        return int(status.split(b"RssAnon:", 1)[1].split(None, 1)[0]) * 1024
    except (OSError, IndexError, ValueError):
        import psutil

        return int(psutil.Process().memory_full_info().uss)


class PeakMeter:
    """Context manager that finds the peak of memory of what runs inside it.

    ``bytes`` afterwards (and, so far, inside) holds ``host``, the growth of anonymous resident memory since entry, and
    ``device``, the most bytes the accelerator's allocator held at once, what was there before included; 0 without one.
    """

    def __init__(
        self,
        device: str = "cpu",
        *,
        interval: float = 0.005,
        resident: Callable[[], int] = anonymous_bytes,
        torch: Any = None,
    ) -> None:
        """Args: ``device`` as torch calls it; ``interval`` between samples in seconds; the rest is for tests."""
        self._interval, self._resident = interval, resident
        self._device = _DeviceMemory(device, torch)
        self._start = self._host_peak = self._device_peak = 0
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    @property
    def bytes(self) -> dict[str, int]:
        """Peaks in bytes, by pool: ``device`` and ``host``."""
        return {"device": self._device_peak, "host": max(0, self._host_peak - self._start)}

    def __enter__(self) -> Self:
        self._device.reset()
        self._start = self._host_peak = self._resident()
        self._stop.clear()
        self._thread = threading.Thread(target=self._watch, name="peak-meter", daemon=True)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        if self._thread is not None:
            self._thread.join()
        self._sample()

    def _watch(self) -> None:
        while not self._stop.wait(self._interval):
            self._sample()

    def _sample(self) -> None:
        self._host_peak = max(self._host_peak, self._resident())
        self._device_peak = max(self._device_peak, self._device.peak())


class _DeviceMemory:
    """Bytes reserved on one accelerator, through whichever counters its torch module has."""

    def __init__(self, device: str, torch: Any) -> None:
        kind, _, index = device.partition(":")
        self._module: Any = None
        self._args: tuple[int, ...] = (int(index),) if index else ()
        if kind != "cpu":
            if torch is None:
                import torch
            self._module = getattr(torch, kind, None)

    def reset(self) -> None:
        call = getattr(self._module, "reset_peak_memory_stats", None)
        if call is not None:
            call(*self._args)

    def peak(self) -> int:
        # Metal has no record of its peak: there the sampling thread sees what the driver holds at each moment.
        for name in ("max_memory_reserved", "driver_allocated_memory"):
            call = getattr(self._module, name, None)
            if call is not None:
                return int(call(*self._args))
        return 0


# --- what was learned -------------------------------------------------------------------------------------------

_FORMAT = "anyhost-learned-1"
_STALE_S = 3600.0
_MAX_CORRECTIONS = 500  # sizes of requests are as many as users think of
_MAX_TUNED = 100
_MAX_COMPILED = 200
_WINDOW = 20  # runs an average reaches back: new drivers and versions must be able to change it
_RATIO_RANGE = (0.05, 20.0)  # one absurd run (a laptop that slept) must not spoil twenty good ones


@dataclass(frozen=True)
class Cost:
    """What a run takes: seconds, and peak bytes in the pool that limits it."""

    seconds: float
    bytes: int


@dataclass(frozen=True)
class _File:
    """The stored file: format, what the machine was then, and what was learned on it."""

    format: str
    torch: str
    devices: Mapping[str, str] = field(default_factory=dict)
    knowledge: Knowledge = EMPTY


class Store:
    """Knowledge kept in one JSON file of the cache directory.

    No lock is taken: every change reads the file again, applies itself and replaces the file in one step, so a reader
    sees a whole file always, and of two processes that write at one instant one change may be lost, never the file.
    A cache that cannot be written is reported in the log and otherwise ignored: nothing here is worth failing a run.
    """

    def __init__(self, path: Path, host: Host | None = None) -> None:
        """``host`` is the machine as probed now; what was learned with another torch or card is forgotten by it."""
        self.path = path
        self._torch = host.torch if host else ""
        self._devices = {"cpu": host.cpu.name, **{a.device: a.name for a in host.accelerators}} if host else {}
        self._lock = threading.Lock()

    def load(self) -> Knowledge:
        """What was learned and still holds. A file that is not ours or is damaged is set aside as ``*.corrupt``."""
        return self._current(self._read())

    def record_run(
        self,
        keys: str | Sequence[str],
        *,
        predicted: Cost,
        measured: Cost,
        applied: Correction | None = None,
        quiet: bool = True,
    ) -> None:
        """Let one finished run correct the predictions of its kind.

        Args:
            keys: from ``plan.correction_keys`` or ``knowledge.correction_key``: each kind of run it teaches about.
            predicted: as planned.
            measured: as it came.
            applied: the correction already in ``predicted``, so that corrections do not eat themselves up; None when
                there was none.
            quiet: False when the machine was disturbed; then nothing is learned.
        """
        if not quiet or predicted.seconds <= 0 or predicted.bytes <= 0 or measured.seconds <= 0 or measured.bytes <= 0:
            return
        before = applied or Correction()
        seconds = _ratio(measured.seconds, predicted.seconds / before.seconds)
        size = _ratio(measured.bytes, predicted.bytes / before.bytes)

        def learn(known: Knowledge) -> Knowledge:
            taught = [keys] if isinstance(keys, str) else keys
            new = {key: _average(known.corrections.get(key, Correction()), seconds, size) for key in taught}
            # The last learned stand last; of too many the oldest go, the general ones come back with every run.
            kept = {key: value for key, value in known.corrections.items() if key not in new} | new
            return replace(known, corrections=dict(list(kept.items())[-_MAX_CORRECTIONS:]))

        self._change(learn)

    def record_speed(self, device: str, speed: Mapping[str, float]) -> None:
        """Keep measured speeds of a device relative to fp32 there, by dtype."""
        if speed:
            self._change(
                lambda known: replace(known, speed={**known.speed, device: {**known.speed.get(device, {}), **speed}})
            )

    def add_quarantine(self, entry: Quarantine) -> None:
        """Remember that something failed here; once is enough."""
        self._change(
            lambda known: known if entry in known.quarantine else replace(known, quarantine=(*known.quarantine, entry))
        )

    def record_tuned(self, entry: Tuned) -> None:
        """Keep the way that won on sample input, in place of an earlier one for the same."""

        def learn(known: Knowledge) -> Knowledge:
            others = [tuned for tuned in known.tuned if tuned.key != entry.key]
            return replace(known, tuned=(*others, entry)[-_MAX_TUNED:])

        self._change(learn)

    def record_compiled(self, entry: Compiled) -> None:
        """Keep what compiling something came to, in place of an earlier one for the same; a cold compile's seconds."""

        def learn(known: Knowledge) -> Knowledge:
            before = next((c for c in known.compiled if c.key == entry.key and not c.warm), None)
            kept = replace(entry, seconds=before.seconds, warm=False) if before and entry.warm else entry
            others = [compiled for compiled in known.compiled if compiled.key != entry.key]
            return replace(known, compiled=(*others, kept)[-_MAX_COMPILED:])

        self._change(learn)

    def record_calls(self, calls: Mapping[str, int], now: float) -> None:
        """Count calls of components, seen ``now`` (seconds since 1970)."""

        def learn(known: Knowledge) -> Knowledge:
            new = {key: known.counted.get(key, Counted(0.0, now)).plus(count, now) for key, count in calls.items()}
            return replace(known, counted={**known.counted, **new})

        self._change(learn)

    def _current(self, stored: _File) -> Knowledge:
        """What of ``stored`` holds for the torch and the devices of now."""
        known = replace(stored.knowledge, held_bytes={}, unavailable=())  # these hold for one session
        if not self._devices:
            return known
        changed = {d for d, name in self._devices.items() if stored.devices.get(d, name) != name}
        same_torch = stored.torch in ("", self._torch)
        return replace(
            known,
            speed={d: s for d, s in known.speed.items() if same_torch and d not in changed},
            corrections={k: c for k, c in known.corrections.items() if changed.isdisjoint(k.split("/"))},
            quarantine=tuple(q for q in known.quarantine if q.torch == self._torch and self._same_device(q, changed)),
            tuned=tuple(t for t in known.tuned if t.torch == self._torch and t.device not in changed),
            compiled=tuple(c for c in known.compiled if c.torch == self._torch and c.device not in changed),
        )

    def _same_device(self, entry: Quarantine, changed: set[str]) -> bool:
        # The entry may name the device ("cuda:0") or the card ("Tesla T4").
        if entry.device in self._devices:
            return entry.device not in changed
        return entry.device in self._devices.values()

    def _read(self) -> _File:
        try:
            text = self.path.read_text(encoding="utf-8")
        except FileNotFoundError:
            return _File(_FORMAT, self._torch)
        except (OSError, UnicodeDecodeError) as error:
            return self._set_aside(error)
        try:
            stored = from_plain(_File, json.loads(text))
        except (ValueError, RecursionError) as error:
            return self._set_aside(error)
        if stored.format != _FORMAT:
            return self._set_aside(ValueError(f"format {stored.format!r}, expected {_FORMAT!r}"))
        return stored

    def _set_aside(self, error: Exception) -> _File:
        aside = self.path.with_name(self.path.name + ".corrupt")
        _log.warning("%s cannot be used and is set aside as %s: %s", self.path, aside.name, error)
        try:
            self.path.replace(aside)
        except OSError as failure:
            _log.warning("%s could not be renamed: %s", self.path, failure)
        return _File(_FORMAT, self._torch)

    def _change(self, change: Callable[[Knowledge], Knowledge]) -> None:
        with self._lock:
            stored = self._read()
            devices = {**stored.devices, **self._devices}
            self._write(_File(_FORMAT, self._torch or stored.torch, devices, change(self._current(stored))))

    def _write(self, content: _File) -> None:
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            handle, name = tempfile.mkstemp(prefix=self.path.name, suffix=".tmp", dir=self.path.parent)
            temporary = Path(name)
            try:
                with os.fdopen(handle, "w", encoding="utf-8") as file:
                    json.dump(to_plain(content), file, indent=1, ensure_ascii=False)
                temporary.replace(self.path)
                self._clear()
            finally:
                temporary.unlink(missing_ok=True)
        except OSError as error:
            _log.warning("what was learned could not be kept in %s: %s", self.path, error)

    def _clear(self) -> None:
        """Remove what processes that were killed left half written; what is young another may be writing now."""
        for left in self.path.parent.glob(f"{self.path.name}*.tmp"):
            if time.time() - left.stat().st_mtime > _STALE_S:
                left.unlink(missing_ok=True)


def _ratio(measured: float, predicted: float) -> float:
    low, high = _RATIO_RANGE
    return min(max(measured / predicted, low), high)


def _average(old: Correction, seconds: float, size: float) -> Correction:
    runs = old.runs + 1
    weight = 1 / min(runs, _WINDOW)
    return Correction(
        seconds=old.seconds + weight * (seconds - old.seconds),
        bytes=old.bytes + weight * (size - old.bytes),
        runs=runs,
    )

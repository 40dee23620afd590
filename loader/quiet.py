"""Whether a run had the processor to itself. A figure from a disturbed run teaches the wrong thing."""

import time
from pathlib import Path
from types import TracebackType
from typing import Self

# Threads of a run may wait this share of it for a processor before its time says more about others than about it.
MAX_WAITING = 0.1
TASKS = Path("/proc/self/task")


class Quiet:
    """Context manager: elapsed ``seconds`` and whether quiet ``held``.

    Linux counts, for every thread, how long it was ready to run and not running (second figure of
    ``/proc/self/task/*/schedstat``). Elsewhere the processor time of the calling thread stands in: it is less than the
    elapsed time when another process took its place.
    """

    def __init__(self, tasks: Path = TASKS) -> None:
        self._tasks = tasks
        self.seconds = 0.0
        self.held = True

    def __enter__(self) -> Self:
        self._start, self._cpu, self._waited = time.perf_counter(), time.thread_time(), waited_seconds(self._tasks)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.seconds = time.perf_counter() - self._start
        waited = waited_seconds(self._tasks)
        if waited is None or self._waited is None:
            self.held = time.thread_time() - self._cpu >= (1 - MAX_WAITING) * self.seconds
        else:
            self.held = waited - self._waited <= MAX_WAITING * self.seconds


def waited_seconds(tasks: Path = TASKS) -> float | None:
    """Seconds that threads of this process alive now have waited for a processor; None where nobody counts it."""
    try:
        delays = [int((task / "schedstat").read_text().split()[1]) for task in tasks.iterdir()]
    except (OSError, IndexError, ValueError):
        return None
    return sum(delays) / 1e9 if delays else None

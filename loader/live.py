"""What an engine did lately, model by model: counts and the last figures. Nothing about who asked, or for what."""

import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Generator, Mapping
from contextlib import closing
from dataclasses import dataclass
from typing import TypeVar

from loader.errors import Cancelled
from loader.outcome import Result, Step

T = TypeVar("T", bound=Step | Result)
KEPT = 60  # runs of which figures are kept
WINDOW_S = 300.0  # over which the rate is counted
WEIGHT = 0.2  # of the newest run in the moving average


@dataclass(frozen=True)
class Figures:
    """One model since the engine began.

    Attributes:
        adapter: its name.
        runs: that gave a result; ``items`` is how many pictures or frames they worked on.
        items: see ``runs``.
        stopped: runs that were stopped.
        errors: how many runs failed, by kind of error.
        events: what did not go as first planned ("out_of_memory", …) and how often.
        average: moving average of the seconds an item took.
        per_minute: items finished in a minute, over the last five.
        seconds: an item took, of the last runs, oldest first.
        peaks: bytes of memory at the peak of the last runs, where they computed, oldest first.
    """

    adapter: str
    runs: int
    items: int
    stopped: int
    errors: Mapping[str, int]
    events: Mapping[str, int]
    average: float
    per_minute: float
    seconds: tuple[float, ...]
    peaks: tuple[int, ...]


class _Counts:
    def __init__(self) -> None:
        self.runs = self.items = self.stopped = 0
        self.errors: Counter[str] = Counter()
        self.events: Counter[str] = Counter()
        self.average = 0.0
        self.seconds: deque[float] = deque(maxlen=KEPT)
        self.peaks: deque[int] = deque(maxlen=KEPT)
        self.ends: deque[tuple[float, int]] = deque()


class Live:
    """Counts the runs of an engine; any thread may ask."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._counts: dict[str, _Counts] = {}
        self._begun = clock()
        self._number = 0

    @property
    def number(self) -> int:
        """Goes up with everything that is counted."""
        return self._number

    def watching(self, adapter: str, work: Generator[T, None, None]) -> Generator[T, None, None]:
        """``work`` itself, counted: a result, a stop or an error."""
        ended = False
        with closing(work) as items:
            try:
                for item in items:
                    if isinstance(item, Result):
                        ended = True
                        self._ran(adapter, item)
                    yield item
            except (Cancelled, GeneratorExit):
                if not ended:
                    self._stopped(adapter)
                raise
            except Exception as error:
                self._failed(adapter, type(error).__name__)
                raise

    def figures(self) -> tuple[Figures, ...]:
        """Of every model that ran, was stopped or failed, by name."""
        with self._lock:
            return tuple(self._figures(name, counts) for name, counts in sorted(self._counts.items()))

    # --- counting

    def _ran(self, adapter: str, result: Result) -> None:
        each = result.seconds / max(1, result.items)
        pool = "host" if result.plan.device == "cpu" else "device"
        with self._lock:
            counts = self._of(adapter)
            counts.average = each if not counts.runs else counts.average + WEIGHT * (each - counts.average)
            counts.runs += 1
            counts.items += result.items
            counts.seconds.append(each)
            counts.peaks.append(result.peak_bytes.get(pool, 0))
            counts.events.update(entry.event for entry in result.trace)
            counts.ends.append((self._clock(), result.items))
            self._forget(counts)

    def _stopped(self, adapter: str) -> None:
        with self._lock:
            self._of(adapter).stopped += 1

    def _failed(self, adapter: str, kind: str) -> None:
        with self._lock:
            self._of(adapter).errors[kind] += 1

    def _of(self, adapter: str) -> _Counts:
        self._number += 1
        return self._counts.setdefault(adapter, _Counts())

    def _forget(self, counts: _Counts) -> None:
        while counts.ends and counts.ends[0][0] < self._clock() - WINDOW_S:
            counts.ends.popleft()

    def _figures(self, name: str, counts: _Counts) -> Figures:
        self._forget(counts)
        span = max(1.0, min(WINDOW_S, self._clock() - self._begun))
        return Figures(
            name,
            counts.runs,
            counts.items,
            counts.stopped,
            dict(counts.errors),
            dict(counts.events),
            counts.average,
            sum(items for _, items in counts.ends) / span * 60,
            tuple(counts.seconds),
            tuple(counts.peaks),
        )

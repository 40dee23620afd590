"""Timing several things in turn, so that whatever else the machine does falls on all of them alike."""

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from loader.quiet import Quiet


@dataclass(frozen=True)
class Times:
    """Seconds of one configuration over all rounds; ``quiet`` says whether the machine was undisturbed."""

    seconds: tuple[float, ...]
    quiet: bool

    @property
    def min(self) -> float:
        return min(self.seconds)

    @property
    def median(self) -> float:
        return statistics.median(self.seconds)


class Rounds:
    """Calls that are timed in turn, one round at a time: A B C, A B C, …"""

    def __init__(self, calls: Mapping[str, Callable[[], object]], *, rest: float = 0.0) -> None:
        """``rest``: seconds before each call, for threads of the one before to go to sleep."""
        self._calls, self._rest = calls, rest
        self._seconds: dict[str, list[float]] = {name: [] for name in calls}
        self._quiet = dict.fromkeys(calls, True)

    def go(self) -> None:
        """One more round."""
        for name, call in self._calls.items():
            time.sleep(self._rest)
            with Quiet() as undisturbed:
                started = time.perf_counter()
                call()
                self._seconds[name].append(time.perf_counter() - started)
            self._quiet[name] &= undisturbed.held

    @property
    def times(self) -> dict[str, Times]:
        """What was measured so far; empty before the first round."""
        return {name: Times(tuple(found), self._quiet[name]) for name, found in self._seconds.items() if found}


def interleaved(calls: Mapping[str, Callable[[], object]], rounds: int, *, warm_up: int = 2) -> dict[str, Times]:
    """Call each in turn, ``rounds`` times.

    Args:
        calls: what to time, by name.
        rounds: counted calls of each.
        warm_up: calls of each that are not counted: weights are packed and kernels chosen in the first.
    """
    for call in calls.values():
        for _ in range(warm_up):
            call()
    timed = Rounds(calls)
    for _ in range(rounds):
        timed.go()
    return timed.times


def ratio(slow: Times, fast: Times) -> float:
    """How many times faster ``fast`` is: the median of the pairs of one round, which share what disturbed them."""
    return statistics.median(a / b for a, b in zip(slow.seconds, fast.seconds, strict=True))

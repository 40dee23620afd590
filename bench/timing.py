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


def interleaved(calls: Mapping[str, Callable[[], object]], rounds: int, *, warm_up: int = 2) -> dict[str, Times]:
    """Call each in turn, ``rounds`` times: A B C A B C …

    Args:
        calls: what to time, by name.
        rounds: counted calls of each.
        warm_up: calls of each that are not counted: weights are packed and kernels chosen in the first.
    """
    for call in calls.values():
        for _ in range(warm_up):
            call()
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    quiet = dict.fromkeys(calls, True)
    for _ in range(rounds):
        for name, call in calls.items():
            with Quiet() as undisturbed:
                started = time.perf_counter()
                call()
                seconds[name].append(time.perf_counter() - started)
            quiet[name] &= undisturbed.held
    return {name: Times(tuple(values), quiet[name]) for name, values in seconds.items()}


def ratio(slow: Times, fast: Times) -> float:
    """How many times faster ``fast`` is: the median of the pairs of one round, which share what disturbed them."""
    return statistics.median(a / b for a, b in zip(slow.seconds, fast.seconds, strict=True))

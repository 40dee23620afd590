"""How long a run still takes, from how it went so far."""

import time
from collections.abc import Callable
from dataclasses import replace

from loader.outcome import Step

SETTLED = 1.0  # seconds of a stage before its pace says anything


class Pace:
    """Adds ``seconds_left`` to steps that lack it, stage by stage."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._stage, self._began, self._first = "", 0.0, 0

    def of(self, step: Step) -> Step:
        """``step`` with the seconds its stage still takes, once its pace is known."""
        now = self._clock()
        if step.stage != self._stage or step.index < self._first:
            self._stage, self._began, self._first = step.stage, now, step.index
        spent, done = now - self._began, step.index - self._first
        if step.seconds_left is not None or spent < SETTLED or done < 1 or step.index >= step.total:
            return step
        return replace(step, seconds_left=spent / done * (step.total - step.index))

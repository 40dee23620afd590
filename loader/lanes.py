"""Who computes next: one lane an accelerator, everybody in turn.

Rounds: a session's first waiting request belongs to the next round, its second to the one after. Within a round the
order is that of arrival. So a request waits for at most one of every other session, however many those have sent, and
nobody who comes later can keep it waiting for ever.
"""

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from loader.errors import QueueFullError

MAX_WAITING = 32
ABSENT_S = 5.0  # who has not asked for so long has left, or looks away: the next one goes first


@dataclass(frozen=True)
class Place:
    """Where a request stands: ``position`` of ``total`` that wait, 1 for the next, and about how long still."""

    position: int
    total: int
    seconds_left: float


class Ticket:
    """One request in a lane, from when it joins until it leaves.

    Attributes:
        computing: its work goes on right now, in whatever thread asked for its next step.
    """

    def __init__(self, lane: "Lane", session: str, seconds: float, round_: int, number: int) -> None:
        self._lane = lane
        self.session, self.seconds, self.round, self.number = session, seconds, round_, number
        self.asked_at = 0.0
        self.computing = False

    def taken(self, timeout: float) -> bool:
        """Wait for its turn at most ``timeout`` seconds; whether the lane is its own now."""
        return self._lane.wait_for(self, timeout)

    def place(self) -> Place:
        return self._lane.place(self)

    def leave(self) -> None:
        """Give the lane free, or stop waiting for it."""
        self.computing = False
        self._lane.leave(self)


class Lane:
    """One request computes, others wait for it in turn.

    Args:
        limit: how many may wait.
    """

    def __init__(self, limit: int = MAX_WAITING, clock: Callable[[], float] = time.monotonic) -> None:
        self._limit, self._clock = limit, clock
        self._changed = threading.Condition()
        self._waiting: list[Ticket] = []
        self._running: Ticket | None = None
        self._since = 0.0
        self._round = self._number = 0

    def join(self, session: str, seconds: float) -> Ticket:
        """Queue a request that is expected to take ``seconds``.

        Raises:
            QueueFullError: as many wait as may.
        """
        with self._changed:
            if len(self._waiting) >= self._limit:
                raise QueueFullError(len(self._waiting), self._limit, self._running_left())
            last = max((t.round for t in self._waiting if t.session == session), default=self._round)
            self._number += 1
            ticket = Ticket(self, session, seconds, last + 1, self._number)
            ticket.asked_at = self._clock()
            self._waiting.append(ticket)
            return ticket

    def wait_for(self, ticket: Ticket, timeout: float) -> bool:
        """See ``Ticket.taken``."""
        with self._changed:
            ticket.asked_at = self._clock()
            if self._running is not ticket and self._changed.wait_for(lambda: self._turn_of(ticket), timeout):
                self._waiting.remove(ticket)
                self._running, self._since, self._round = ticket, self._clock(), max(self._round, ticket.round)
            ticket.asked_at = self._clock()
            return self._running is ticket

    def place(self, ticket: Ticket) -> Place:
        """See ``Ticket.place``."""
        with self._changed:
            order = self._order()
            index = order.index(ticket) if ticket in order else 0
            left = self._running_left() + sum(t.seconds for t in order[:index])
            return Place(index + 1, max(1, len(order)), left)

    def leave(self, ticket: Ticket) -> None:
        """See ``Ticket.leave``."""
        with self._changed:
            if self._running is ticket:
                self._running = None
            elif ticket in self._waiting:
                self._waiting.remove(ticket)
            self._changed.notify_all()

    def locked(self) -> bool:
        """Whether a request has the lane."""
        return self._running is not None

    def computing(self) -> bool:
        """Whether its work goes on right now; between two steps it does not."""
        running = self._running
        return running is not None and running.computing

    @property
    def waiting(self) -> int:
        """How many wait."""
        return len(self._waiting)

    def _turn_of(self, ticket: Ticket) -> bool:
        if self._running is not None:
            return False
        now = self._clock()
        ticket.asked_at = now
        return next((t for t in self._order() if now - t.asked_at < ABSENT_S), None) is ticket

    def _order(self) -> list[Ticket]:
        return sorted(self._waiting, key=lambda t: (t.round, t.number))

    def _running_left(self) -> float:
        return 0.0 if self._running is None else max(0.0, self._running.seconds - (self._clock() - self._since))


class Lanes:
    """A lane for each device, made when it is first asked for."""

    def __init__(self, limit: int = MAX_WAITING) -> None:
        self._limit = limit
        self._lanes: dict[str, Lane] = {}
        self._lock = threading.Lock()

    def of(self, device: str) -> Lane:
        """The lane of a device."""
        with self._lock:
            return self._lanes.setdefault(device, Lane(self._limit))

    def locked(self) -> bool:
        """Whether any lane is taken."""
        return any(lane.locked() for lane in list(self._lanes.values()))

    def busy(self, besides: str) -> bool:
        """Whether another lane than the one of ``besides`` is taken."""
        return any(lane.locked() for device, lane in list(self._lanes.items()) if device != besides)

    def computing(self) -> bool:
        """Whether work goes on in any lane right now."""
        return any(lane.computing() for lane in list(self._lanes.values()))

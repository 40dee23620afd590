"""Who goes to a replica next: in turn, and no more at once than replicas can use.

Requests wait here rather than at a replica, where one that frees up could not take them over, and where planning for
the page would have to wait behind them.
"""

import threading
import time
from collections.abc import Callable, Generator

from loader.lanes import MAX_WAITING, Lane
from loader.outcome import Cancel, Step

ASK_SECONDS = 0.1
COUNTED_SECONDS = 1.0  # for so long the number of replicas is taken as it was

AT_A_REPLICA = 2  # one that computes, and one whose input is already there when it ends


class Gate:
    """Lets requests through in fair order.

    Args:
        replicas: how many there are now.
        limit: how many may wait.
    """

    def __init__(
        self, replicas: Callable[[], int], limit: int = MAX_WAITING, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._replicas, self._clock = replicas, clock
        self._lane = Lane(limit, clock)
        self._lock = threading.Lock()
        self._inside = 0
        self._counted = (1, float("-inf"))

    def places(self) -> int:
        """How many requests may be at the replicas together; one even while none is up, so that it says so."""
        count, at = self._counted
        if self._clock() - at > COUNTED_SECONDS:
            count = self._replicas()
            self._counted = count, self._clock()
        return max(1, AT_A_REPLICA * count)

    def enter(self, session: str, seconds: Callable[[], float], cancel: Cancel) -> Generator[Step, None, None]:
        """Wait until it may go; then it is inside, until ``leave``.

        Args:
            session: whose request it is: those who wait go in turn, session by session.
            seconds: what the request is expected to take; only asked if it has to wait.
            cancel: its Stop.

        Yields:
            "waiting" steps, with the place in the queue and the seconds it may take.

        Raises:
            QueueFullError: as many wait as may.
            Cancelled: Stop was pressed.
        """
        if not self._lane.waiting and not self._lane.locked() and self._take():
            return
        ticket = self._lane.join(session, seconds() * AT_A_REPLICA / self.places())
        try:
            while not ((first := ticket.taken(ASK_SECONDS)) and self._take()):
                cancel.check()
                place, behind = ticket.place(), self._lane.waiting
                # The next to go has the lane until there is a place for it; the lane counts those behind it.
                position, total = (1, behind + 1) if first else (place.position + 1, place.total + 1)
                yield Step("waiting", position, total, place.seconds_left)
                if first:
                    time.sleep(ASK_SECONDS)
        finally:
            ticket.leave()

    def leave(self) -> None:
        """A request is done, however it ended."""
        with self._lock:
            self._inside -= 1

    def _take(self) -> bool:
        places = self.places()
        with self._lock:
            if self._inside >= places:
                return False
            self._inside += 1
            return True

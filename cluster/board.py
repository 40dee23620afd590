"""What the replicas of a cluster tell each other: which machines there are, and which requests were stopped."""

import time
from dataclasses import dataclass

from loader.host import Host

KEPT_SECONDS = 3600.0
NAME, NAMESPACE = "anyhost-board", "anyhost"


@dataclass(frozen=True)
class Standing:
    """A replica, the machine it plans for, and the process it is."""

    replica: str
    host: Host
    process: int


class Board:
    """Kept by one small actor. A stop is remembered for an hour: its request may not have begun yet.

    Args:
        as_hosts: named hosts that replicas are to plan as, in the order they register; for rehearsals.
    """

    def __init__(self, as_hosts: tuple[str, ...] = ()) -> None:
        self._as_hosts = list(as_hosts)
        self._standing: dict[str, Standing] = {}
        self._stopped: dict[str, float] = {}

    def plan_as(self) -> str:
        """The named host the next replica is to plan as, "" for its own."""
        if not self._as_hosts:
            return ""
        first = self._as_hosts.pop(0)
        self._as_hosts.append(first)
        return first

    def register(self, standing: Standing) -> None:
        """A replica is up."""
        self._standing[standing.replica] = standing

    def forget(self, replica: str) -> None:
        """A replica is gone."""
        self._standing.pop(replica, None)

    def standing(self) -> tuple[Standing, ...]:
        """Replicas that are up, as far as is known, in the order they came."""
        return tuple(self._standing.values())

    def stop(self, request: str) -> None:
        """The user of ``request`` pressed Stop."""
        now = time.monotonic()
        self._stopped = {one: at for one, at in self._stopped.items() if now - at < KEPT_SECONDS}
        self._stopped[request] = now

    def stopped(self, request: str) -> bool:
        return request in self._stopped

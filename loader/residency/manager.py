"""One owner of all loaded components of all adapters: what may be awake, and who makes room for whom.

``Book`` decides by bytes and cost, ``Holding`` moves tensors, a ``Tenant`` is one loaded plan's view. Only moves that
the plans of the owners permit are made on their behalf; for others' sake anything that is not in use may be put away.
"""

import logging
import threading
import time
from collections.abc import Callable, Iterable, Mapping

from torch import nn

from loader.errors import NoRoomError
from loader.host import Host
from loader.process import return_freed_memory
from loader.residency.book import Book, Item, Move, State, budgets_of, sum_of
from loader.residency.carry import Carrier
from loader.residency.holding import Holding, Source
from loader.wishes import ResidencyName

_log = logging.getLogger(__name__)


class Residency:
    """All components in memory.

    Args:
        host: its budgets are what ``loader.memory`` allows to plans.
        carrier: makes what copies to a device; for tests.
    """

    def __init__(self, host: Host, carrier: Callable[[str], Carrier] = Carrier) -> None:
        self.book = Book(budgets_of(host))
        self._host, self._make_carrier = host, carrier
        self._carriers: dict[str, Carrier] = {}
        self._holdings: dict[str, Holding] = {}
        self._lock = threading.RLock()
        self._owners = 0

    # --- who holds what

    def new_owner(self, adapter: str) -> str:
        """A name for one loaded plan of an adapter."""
        with self._lock:
            self._owners += 1
            return f"{adapter}#{self._owners}"

    def hold(self, key: str, owner: str, source: Source) -> None:
        """Enter a component for an owner; nothing is loaded. One that is here already is shared."""
        with self._lock:
            if key not in self._holdings:
                self._holdings[key] = Holding(key, source, self._carrier(source.placement.device))
            # The newest owner's way of loading it outlives those that leave.
            self._holdings[key].source = source
            self.book.add(key, owner, self._holdings[key].needs(), self._estimated(source))

    def let_go(self, key: str, owner: str) -> None:
        """The owner does not call it any more; what nobody calls leaves memory."""
        with self._lock:
            if self.book.release(key, owner):
                self._move(Move(key, "dropped"))
                self.book.remove(key)
                del self._holdings[key]

    # Figures are read without the lock: it may be held for as long as a network loads, and who plans must not wait.

    def held_bytes(self, adapter: str, *, others: bool) -> dict[str, int]:
        """Bytes by place that an adapter's plans hold, or that only others hold."""
        items = self.book.all_items()
        mine = [i for i in items if _belongs(i, adapter)]
        chosen = [i for i in items if not _belongs(i, adapter)] if others else mine
        return _without_pins(sum_of(i.bytes() for i in chosen))

    def locked_bytes(self, adapter: str) -> dict[str, int]:
        """Bytes by place that are in use by other adapters now and cannot be had."""
        chosen = [i for i in self.book.all_items() if i.locks and not _belongs(i, adapter)]
        return _without_pins(sum_of(i.bytes() for i in chosen))

    def held_by(self, owner: str) -> dict[str, int]:
        """Bytes by place that one loaded plan holds."""
        return _without_pins(self.book.held((owner,)))

    def holding(self, key: str) -> Holding:
        return self._holdings[key]

    # --- moving

    def begin(self, owner: str, peak: Mapping[str, int]) -> None:
        """A run begins: others make room for what its plan was predicted to need, by place."""
        with self._lock:
            self._carry_out(self.book.reserve(owner, peak))

    def end(self, owner: str) -> None:
        with self._lock:
            self.book.unreserve(owner)

    def wake(self, key: str, mode: ResidencyName, *, force: bool = False) -> nn.Module:
        """The component, awake on its device and locked once more; ``unlock`` it when its stage is over.

        Raises:
            NoRoomError: what is locked leaves no room; ``force`` exceeds the budget instead.
            Exception: whatever loading and moving raise; then the component is where it was, or dropped.
        """
        with self._lock:
            holding = self._holdings[key]
            if self.book.items[key].state == "awake" and holding.mode != mode and not self.book.items[key].locks:
                self._move(Move(key, "asleep" if "asleep" in holding.needs() else "dropped"))
            if self.book.items[key].state != "awake":
                self._wake(holding, mode, force=force)
            holding.arrive()
            self.book.touch(key)
            self.book.lock(key)
            assert holding.module is not None, f"{key} is awake"
            return holding.module

    def wake_ahead(self, key: str, mode: ResidencyName) -> bool:
        """Bring a component that sleeps into what is free on its device while something else computes; if it did."""
        with self._lock:
            holding = self._holdings[key]
            if self.book.items[key].state != "asleep" or not self._carrier(holding.device).streams:
                return False
            holding.mode = mode
            try:
                self.book.room(key, evict=False)
                holding.wake(ahead=True)
            except Exception as error:  # noqa: BLE001 - it comes later, when it is called
                _log.debug("%s was not brought ahead: %s", key, error)
                return False
            self.book.moved(key, "awake")
            return True

    def unlock(self, key: str) -> None:
        with self._lock:
            self.book.unlock(key)

    def put_away(self, key: str, mode: ResidencyName) -> None:
        """After its stage: where a component rests whose residency is ``mode``. In use elsewhere, it stays."""
        with self._lock:
            item = self.book.items[key]
            if mode == "resident" or item.locks or item.state == "dropped":
                return
            if mode == "dropped":
                self._move(Move(key, "dropped"))
            elif item.state == "awake" and "asleep" in item.needs:
                self._carry_out(self.book.room(key, "asleep", force=True))

    def evict(self, keep: Iterable[str] = ()) -> None:
        """Drop all that is not locked, except what the owners in ``keep`` hold: memory is shorter than it seems."""
        with self._lock:
            kept = set(keep)
            for key, item in self.book.items.items():
                if not item.locks and not item.owners & kept and item.state != "dropped":
                    self._move(Move(key, "dropped"))

    # --- inside

    def _wake(self, holding: Holding, mode: ResidencyName, *, force: bool) -> None:
        holding.mode = mode
        key, before = holding.key, self.book.items[holding.key].state
        started = time.perf_counter()
        self._carry_out(self.book.resize(key, holding.needs()))
        self._carry_out(self.book.room(key, force=force)[:-1])
        try:
            if holding.module is None:
                self._load(holding, force=force)
            holding.wake()
        except BaseException:
            if before == "dropped":
                self._leave_behind(holding)
            raise
        self.book.moved(key, "awake")
        self.book.measured(key, before, time.perf_counter() - started)

    def _leave_behind(self, holding: Holding) -> None:
        """After it could not be woken: what was read stays in host memory if it may, for the next plan down."""
        if holding.module is not None and "asleep" in holding.needs():
            try:
                self._carry_out(self.book.room(holding.key, "asleep", evict=False)[:-1])
            except NoRoomError:
                _log.debug("%s is read again when it is called", holding.key)
            else:
                holding.state = "asleep"
                self.book.moved(holding.key, "asleep")
                return
        holding.drop()
        return_freed_memory()

    def _load(self, holding: Holding, *, force: bool) -> None:
        holding.load()
        # Its size is known now, and whether there is room for it in pinned pages.
        self._carry_out(self._resized(holding, force=force))
        pinned = holding.pinned_bytes()
        if pinned and self._pins_fit(holding, pinned) and holding.pin():
            self._carry_out(self._resized(holding, force=force))

    def _resized(self, holding: Holding, *, force: bool) -> tuple[Move, ...]:
        self.book.resize(holding.key, holding.needs())
        return self.book.room(holding.key, force=force)[:-1]

    def _pins_fit(self, holding: Holding, pinned: int) -> bool:
        """Whether pinned pages are free, and the host has room for them without anyone's leaving."""
        more = {"host": pinned - holding.bytes, "pinned": pinned}
        needed = {**self.book.items[holding.key].needs.get("awake", {})}
        return all(
            self.book.taken(b) + sum(needed.get(p, 0) + more.get(p, 0) for p in b.places) <= b.limit
            for b in self.book.budgets
            if b.places & more.keys()
        )

    def _carry_out(self, moves: Iterable[Move]) -> None:
        for move in moves:
            self._move(move)

    def _move(self, move: Move) -> None:
        """Down: asleep or dropped."""
        holding, before = self._holdings[move.key], self.book.items[move.key].state
        if before == move.after:
            return
        if move.after == "asleep":
            holding.sleep()
        else:
            holding.drop()
        self.book.moved(move.key, move.after)
        if move.after == "dropped":
            return_freed_memory()

    def _carrier(self, device: str) -> Carrier:
        if device not in self._carriers:
            self._carriers[device] = self._make_carrier(device)
        return self._carriers[device]

    def _estimated(self, source: Source) -> dict[State, float]:
        """Seconds to be awake again before they were measured: from the disk's speed and the link's."""
        size = source.placement.bytes
        accelerator = self._host.accelerator(source.placement.device)
        from_disk = size / (self._host.disk_gbs * 1e9)
        over_link = 0.0 if accelerator is None else size / (accelerator.link_gbs * 1e9)
        return {"dropped": from_disk + over_link, "asleep": over_link}


def _belongs(item: Item, adapter: str) -> bool:
    return any(owner.partition("#")[0] == adapter for owner in item.owners)


def _without_pins(held: Mapping[str, int]) -> dict[str, int]:
    return {place: count for place, count in held.items() if place != "pinned" and count}

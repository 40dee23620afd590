"""Who is where and what has to move for whom: the bookkeeping of memory, as values, without torch.

An item takes bytes in one or more places ("host", "pinned", "cuda:0") according to its state. Budgets limit the sum
over some places. Besides what items take, a running owner may set aside what its plan was predicted to need at most;
what it holds counts towards that. Nobody else moves into it.

Eviction is greedy by cost: the seconds it takes to have the item back, times how recently it was used, over the bytes
it frees. Every step lowers the state of one item, so it ends; at its end all that is not locked would be dropped, so it
fails only where locked items alone are too much.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Literal

from loader.errors import NoRoomError
from loader.host import Host
from loader.memory import device_budget, gib, host_budget

State = Literal["awake", "asleep", "dropped"]
Bytes = Mapping[str, int]
HEIGHT: Mapping[State, int] = {"awake": 2, "asleep": 1, "dropped": 0}
PINNED_SHARE = 0.5  # of the host's budget: pages the kernel may not move must leave it room to breathe


@dataclass(frozen=True)
class Budget:
    """At most ``limit`` bytes in ``places`` together."""

    places: frozenset[str]
    limit: int


@dataclass(frozen=True)
class Item:
    """One component.

    Attributes:
        needs: bytes by place in each state it may be in; dropped takes nothing.
        seconds: what it takes to be awake again, by the state it is woken from.
        owners: who may call it.
        used: when it was last called, in calls of anything.
    """

    needs: Mapping[State, Bytes]
    seconds: Mapping[State, float]
    owners: frozenset[str] = frozenset()
    state: State = "dropped"
    locks: int = 0
    used: int = 0

    def bytes(self, state: State | None = None) -> Bytes:
        """Bytes by place, now or in ``state``."""
        return self.needs.get(state or self.state, {})


@dataclass(frozen=True)
class Move:
    key: str
    after: State


Items = dict[str, Item]


class Book:
    """The state of all items. ``room`` says what must move; ``moved`` writes down that it has.

    Args:
        budgets: none is ever exceeded, except by what is forced.
    """

    def __init__(self, budgets: Iterable[Budget]) -> None:
        self.budgets = tuple(budgets)
        self.items: Items = {}
        self.reserved: dict[str, Bytes] = {}
        self._clock = 0

    # --- entries

    def add(self, key: str, owner: str, needs: Mapping[State, Bytes], seconds: Mapping[State, float]) -> None:
        """Enter an item, dropped as yet, or another owner of one that is here."""
        known = self.items.get(key) or Item(needs, seconds)
        self.items[key] = replace(known, owners=known.owners | {owner})

    def release(self, key: str, owner: str) -> bool:
        """Take an owner off; True when nobody is left to call the item."""
        item = self.items[key]
        self.items[key] = replace(item, owners=item.owners - {owner})
        if owner in self.reserved:
            self._clip(owner, self.items)  # what others still hold of it is not its own any more
        return not self.items[key].owners

    def remove(self, key: str) -> None:
        """Forget a dropped item."""
        del self.items[key]

    def measured(self, key: str, state: State, seconds: float) -> None:
        """Waking from ``state`` took ``seconds``."""
        item = self.items[key]
        self.items[key] = replace(item, seconds={**item.seconds, state: seconds})

    def lock(self, key: str) -> None:
        """It is in use: nothing moves it until every lock is taken off."""
        self.items[key] = replace(self.items[key], locks=self.items[key].locks + 1)

    def unlock(self, key: str) -> None:
        self.items[key] = replace(self.items[key], locks=self.items[key].locks - 1)

    def touch(self, key: str) -> None:
        """It was called."""
        self._clock += 1
        self.items[key] = replace(self.items[key], used=self._clock)

    def moved(self, key: str, after: State) -> None:
        self.items[key] = replace(self.items[key], state=after)

    # --- figures

    def all_items(self) -> list[Item]:
        """Every item as it is now; may be asked while another thread moves something."""
        return list(self.items.values())

    def held(self, owners: Iterable[str] | None = None) -> dict[str, int]:
        """Bytes by place of what ``owners`` hold, everyone by default; what several hold counts once."""
        wanted = None if owners is None else set(owners)
        chosen = (i for i in self.all_items() if wanted is None or wanted & i.owners)
        return sum_of(item.bytes() for item in chosen)

    def taken(self, budget: Budget, items: Items | None = None) -> int:
        """Bytes of a budget that are gone: held, or set aside for who runs."""
        items = self.items if items is None else items
        total = sum(item.bytes().get(place, 0) for item in items.values() for place in budget.places)
        for owner, need in self.reserved.items():
            own = sum_of(item.bytes() for item in items.values() if owner in item.owners)
            total += sum(max(0, need.get(place, 0) - own.get(place, 0)) for place in budget.places)
        return total

    # --- what has to move

    def room(self, key: str, after: State = "awake", *, evict: bool = True, force: bool = False) -> tuple[Move, ...]:
        """The moves that bring an item into a state, those that make room for it first; nothing is moved here.

        With ``evict`` others may be moved for it, else it comes only into what is free. With ``force`` what is locked
        may be too much: then the budget is exceeded.

        Raises:
            NoRoomError: not without moving something locked, or anything at all.
        """
        trial = {**self.items, key: replace(self.items[key], state=after)}
        moves = self._settle(trial, fixed=key, evict=evict, force=force)
        return (*moves, Move(key, after))

    def resize(self, key: str, needs: Mapping[State, Bytes]) -> tuple[Move, ...]:
        """What the item takes is known better; the moves of others that this costs.

        Raises:
            NoRoomError: it is too much; the old figures stay.
        """
        trial = {**self.items, key: replace(self.items[key], needs=needs)}
        moves = self._settle(trial, fixed=key)
        self.items[key] = replace(self.items[key], needs=needs)
        return moves

    def reserve(self, owner: str, need: Bytes) -> tuple[Move, ...]:
        """Set bytes aside for a running owner, as far as they are to be had; the moves of others that this costs."""
        self.reserved[owner] = dict(need)
        trial = dict(self.items)
        moves = self._settle(trial, force=True)
        self._clip(owner, trial)
        return moves

    def _clip(self, owner: str, items: Items) -> None:
        """Take back what cannot be promised, since others have it locked."""
        for budget in self.budgets:
            excess = self.taken(budget, items) - budget.limit
            for place in budget.places & self.reserved[owner].keys():
                cut = min(max(0, excess), self.reserved[owner][place])
                self.reserved[owner] = {**self.reserved[owner], place: self.reserved[owner][place] - cut}
                excess -= cut

    def unreserve(self, owner: str) -> None:
        self.reserved.pop(owner, None)

    def _settle(self, trial: Items, *, fixed: str = "", evict: bool = True, force: bool = False) -> tuple[Move, ...]:
        """Lower items of ``trial`` until every budget holds."""
        hopeless: set[Budget] = set()
        while over := next((b for b in self.budgets if b not in hopeless and self.taken(b, trial) > b.limit), None):
            best = self._cheapest(trial, over, fixed) if evict else None
            if best is not None:
                trial[best.key] = replace(trial[best.key], state=best.after)
            elif force:
                hopeless.add(over)
            else:
                raise self._no_room(over, trial, fixed)
        changed = [Move(k, i.state) for k, i in trial.items() if k != fixed and i.state != self.items[k].state]
        # What only frees goes first, so that no budget is exceeded on the way either.
        return tuple(sorted(changed, key=lambda move: HEIGHT[move.after]))

    def _cheapest(self, trial: Items, over: Budget, fixed: str) -> Move | None:
        """The step down that costs least for what it frees in ``over``."""
        taken = self.taken(over, trial)
        best: tuple[float, Move] | None = None
        for key, item in trial.items():
            if key == fixed or item.locks:
                continue
            for after in _below(item):
                freed = taken - self.taken(over, {**trial, key: replace(item, state=after)})
                if freed > 0:
                    price = item.seconds.get(after, 0.0) / (1 + self._clock - item.used) / freed
                    if best is None or price < best[0]:
                        best = price, Move(key, after)
        return None if best is None else best[1]

    def _no_room(self, over: Budget, trial: Items, key: str) -> NoRoomError:
        need = sum(trial[key].bytes().get(place, 0) for place in over.places) if key else 0
        locked = self.taken(over, trial) - need
        where = " + ".join(sorted(over.places))
        return NoRoomError(
            f"not enough memory in {where}: {key} takes {gib(need)} GiB beside {gib(locked)} GiB in use, "
            f"and the limit is {gib(over.limit)} GiB: choose a smaller request, or save more memory"
        )


def budgets_of(host: Host) -> tuple[Budget, ...]:
    """A budget for each device and one for RAM, as ``loader.memory`` counts them; memory for both is counted once."""
    ram = host_budget(host)
    unified = [device_budget(a) for a in host.accelerators if a.unified]
    budgets = [
        Budget(frozenset({"host"}), max(ram, *unified) if unified else ram),
        Budget(frozenset({"pinned"}), int(ram * PINNED_SHARE)),
    ]
    for accelerator in host.accelerators:
        card = device_budget(accelerator)
        budgets.append(Budget(frozenset({accelerator.device}), card))
        if accelerator.unified:
            budgets.append(Budget(frozenset({accelerator.device, "host"}), max(ram, card)))
    return tuple(budgets)


def _below(item: Item) -> list[State]:
    """The states lower than its own that an item may be in."""
    states: tuple[State, ...] = ("asleep", "dropped")
    return [s for s in states if HEIGHT[s] < HEIGHT[item.state] and (s == "dropped" or s in item.needs)]


def sum_of(parts: Iterable[Bytes]) -> dict[str, int]:
    """Bytes by place of all ``parts`` together."""
    total: dict[str, int] = {}
    for part in parts:
        for place, count in part.items():
            total[place] = total.get(place, 0) + count
    return total

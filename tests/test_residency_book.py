"""The bookkeeping of memory, driven as a state machine: no budget exceeded, no lock ignored, always an end."""

from dataclasses import replace

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from loader.errors import NoRoomError
from loader.host import GIB, load_host, with_memory
from loader.memory import device_budget, host_budget
from loader.residency.book import HEIGHT, Book, Budget, Move, budgets_of

CARD, HOST = "fake:0", "host"
SECONDS = {"asleep": 1.0, "dropped": 10.0}


def offloaded(size: int) -> dict:
    return {"awake": {CARD: size, HOST: size}, "asleep": {HOST: size}}


def resident(size: int) -> dict:
    return {"awake": {CARD: size}, "asleep": {HOST: size}}


def on_cpu(size: int) -> dict:
    return {"awake": {HOST: size}}


def book(card: int = 100, host: int = 100) -> Book:
    return Book((Budget(frozenset({CARD}), card), Budget(frozenset({HOST}), host)))


def wake(of: Book, key: str, **how: bool) -> list[Move]:
    moves = of.room(key, **how)
    for move in moves:
        of.moved(move.key, move.after)
    of.touch(key)
    return list(moves)


# --- single decisions -----------------------------------------------------------------------------------------------


def test_what_fits_beside_moves_nobody():
    of = book()
    of.add("a", "one", resident(60), SECONDS)
    of.add("b", "two", resident(40), SECONDS)
    assert wake(of, "a") == [Move("a", "awake")]
    assert wake(of, "b") == [Move("b", "awake")]
    assert of.held() == {CARD: 100}


def test_others_go_to_sleep_first_and_are_dropped_where_the_host_is_full():
    of = book(card=100, host=50)
    of.add("a", "one", resident(60), SECONDS)
    of.add("b", "two", resident(60), SECONDS)
    wake(of, "a")
    assert wake(of, "b")[0] == Move("a", "dropped"), "60 bytes do not fit into 50 of the host"
    roomy = book(card=100, host=100)
    roomy.add("a", "one", resident(60), SECONDS)
    roomy.add("b", "two", resident(60), SECONDS)
    wake(roomy, "a")
    assert wake(roomy, "b")[0] == Move("a", "asleep")


def test_the_host_is_cleared_of_what_costs_least_before_a_dear_one_goes_to_sleep_there():
    of = book(card=100, host=60)
    of.add("old", "one", resident(50), {"asleep": 0.1, "dropped": 0.2})
    of.add("dear", "two", resident(60), {"asleep": 1.0, "dropped": 60.0})
    of.add("new", "three", resident(90), SECONDS)
    wake(of, "old")
    of.moved("old", "asleep")
    wake(of, "dear")
    assert wake(of, "new") == [Move("old", "dropped"), Move("dear", "asleep"), Move("new", "awake")]


def test_of_two_the_one_that_is_cheaper_to_have_back_goes():
    of = book()
    of.add("quick", "one", resident(50), {"asleep": 0.1, "dropped": 1.0})
    of.add("slow", "two", resident(50), {"asleep": 5.0, "dropped": 50.0})
    of.add("next", "three", resident(50), SECONDS)
    wake(of, "quick")
    wake(of, "slow")
    assert wake(of, "next")[0].key == "quick"


def test_of_two_alike_the_one_not_used_for_longest_goes():
    of = book()
    for key in ("a", "b", "next"):
        of.add(key, key, resident(50), SECONDS)
    wake(of, "a")
    wake(of, "b")
    of.touch("a")
    assert wake(of, "next")[0].key == "b"


def test_measured_seconds_change_the_order():
    of = book()
    for key in ("a", "b", "next"):
        of.add(key, key, resident(50), SECONDS)
    wake(of, "a")
    wake(of, "b")
    of.measured("a", "asleep", 100.0)
    of.measured("a", "dropped", 1000.0)
    assert wake(of, "next")[0].key == "b"


def test_what_is_locked_stays_and_the_error_has_the_figures():
    of = book(card=2 * GIB)
    of.add("busy", "one", resident(GIB), SECONDS)
    of.add("next", "two", resident(2 * GIB), SECONDS)
    wake(of, "busy")
    of.lock("busy")
    with pytest.raises(NoRoomError, match=r"fake:0: next takes 2.0 GiB beside 1.0 GiB in use.*limit is 2.0 GiB"):
        of.room("next")
    assert of.items["busy"].state == "awake"
    assert wake(of, "next", force=True)[-1] == Move("next", "awake")


def test_without_eviction_only_what_is_free_is_taken():
    of = book()
    of.add("a", "one", resident(60), SECONDS)
    of.add("b", "two", resident(60), SECONDS)
    wake(of, "a")
    with pytest.raises(NoRoomError):
        of.room("b", evict=False)
    assert of.room("b") != ()


def test_what_is_set_aside_for_a_run_is_nobody_else_s():
    of = book()
    of.add("idle", "other", resident(60), SECONDS)
    of.add("mine", "run", resident(30), SECONDS)
    wake(of, "idle")
    assert of.reserve("run", {CARD: 70}) == (Move("idle", "asleep"),)
    of.moved("idle", "asleep")
    assert wake(of, "mine") == [Move("mine", "awake")], "it is part of what was set aside"
    with pytest.raises(NoRoomError):
        of.room("idle", evict=False)
    of.unreserve("run")
    assert of.room("idle", evict=False)


def test_as_much_is_set_aside_as_others_leave():
    of = book()
    of.add("busy", "other", resident(60), SECONDS)
    wake(of, "busy")
    of.lock("busy")
    of.add("idle", "other", resident(30), SECONDS)
    wake(of, "idle")
    assert of.reserve("run", {CARD: 70}) == (Move("idle", "asleep"),)
    assert of.reserved["run"] == {CARD: 40}


def test_an_item_of_two_owners_counts_once_and_lives_until_the_last_leaves():
    of = book()
    of.add("vae", "one", resident(30), SECONDS)
    of.add("vae", "two", resident(30), SECONDS)
    wake(of, "vae")
    assert of.held() == {CARD: 30}
    assert of.held(("two",)) == {CARD: 30}
    assert not of.release("vae", "one")
    assert of.release("vae", "two")


def test_growing_beyond_the_announced_size_moves_others_or_is_refused():
    of = book()
    of.add("idle", "one", resident(40), SECONDS)
    of.add("grows", "two", resident(50), SECONDS)
    wake(of, "idle")
    wake(of, "grows")
    assert of.resize("grows", resident(70)) == (Move("idle", "asleep"),)
    of.moved("idle", "asleep")
    with pytest.raises(NoRoomError):
        of.resize("grows", resident(101))
    assert of.held()[CARD] == 70


def test_budgets_are_those_of_plans_and_shared_memory_counts_once():
    t4 = load_host("t4-16g")
    limits = {tuple(sorted(b.places)): b.limit for b in budgets_of(t4)}
    assert limits["host",] == host_budget(t4)
    assert limits["cuda:0",] == device_budget(t4.accelerators[0])
    assert limits["pinned",] <= limits["host",] / 2
    apple = with_memory(load_host("m2-16g"), 16 * GIB)
    both = next(b for b in budgets_of(apple) if b.places == {"mps", "host"})
    assert both.limit < apple.ram_bytes


# --- any order of everything --------------------------------------------------------------------------------------

KINDS = {"resident": resident, "offloaded": offloaded, "cpu": on_cpu}
KEYS = [f"k{i}" for i in range(6)]
OWNERS = ["one", "two"]


class Memory(RuleBasedStateMachine):
    """Components come, are woken, locked, resized and leave in any order; two runs set memory aside."""

    def __init__(self) -> None:
        super().__init__()
        self.book = book()
        self.kind: dict[str, str] = {}

    @initialize(card=st.integers(0, 150), host=st.integers(0, 150))
    def begin(self, card: int, host: int) -> None:
        self.book = book(card, host)

    def carry_out(self, moves) -> None:
        for move in moves:
            before = self.book.items[move.key]
            assert not before.locks, "a lock was ignored"
            assert HEIGHT[move.after] < HEIGHT[before.state], "what makes room only ever goes down"
            assert move.after == "dropped" or move.after in before.needs
            self.book.moved(move.key, move.after)
            self.within_budgets()

    @rule(
        key=st.sampled_from(KEYS),
        owner=st.sampled_from(OWNERS),
        kind=st.sampled_from(sorted(KINDS)),
        size=st.integers(1, 80),
        seconds=st.floats(0, 100),
    )
    def hold(self, key: str, owner: str, kind: str, size: int, seconds: float) -> None:
        if key not in self.book.items:
            self.kind[key] = kind
        self.book.add(key, owner, KINDS[kind](size), {"asleep": seconds / 10, "dropped": seconds})

    @rule(key=st.sampled_from(KEYS), evict=st.booleans())
    def wake(self, key: str, evict: bool) -> None:
        if key not in self.book.items or self.book.items[key].state == "awake":
            return
        before = dict(self.book.items)
        try:
            *moves, last = self.book.room(key, evict=evict)
        except NoRoomError:
            assert self.book.items == before, "a refusal moves nothing"
            assert not evict or self.hopeless(key), "there was room without moving anything locked"
            return
        assert evict or not moves
        self.carry_out(moves)
        assert last == Move(key, "awake")
        self.book.moved(key, "awake")
        self.book.touch(key)

    def hopeless(self, key: str) -> bool:
        """Whether ``key`` does not fit even with all that is not locked dropped."""
        bare = {
            k: replace(i, state="awake" if k == key else i.state if i.locks else "dropped")
            for k, i in self.book.items.items()
        }
        return any(self.book.taken(b, bare) > b.limit for b in self.book.budgets)

    @rule(key=st.sampled_from(KEYS))
    def lock(self, key: str) -> None:
        if key in self.book.items and self.book.items[key].state == "awake":
            self.book.lock(key)

    @rule(key=st.sampled_from(KEYS))
    def unlock(self, key: str) -> None:
        if key in self.book.items and self.book.items[key].locks:
            self.book.unlock(key)

    @rule(key=st.sampled_from(KEYS), size=st.integers(1, 120))
    def resize(self, key: str, size: int) -> None:
        if key not in self.book.items:
            return
        try:
            self.carry_out(self.book.resize(key, KINDS[self.kind[key]](size)))
        except NoRoomError:
            return

    @rule(owner=st.sampled_from(OWNERS), card=st.integers(0, 200), host=st.integers(0, 200))
    def reserve(self, owner: str, card: int, host: int) -> None:
        self.carry_out_late(self.book.reserve(owner, {CARD: card, HOST: host}))

    def carry_out_late(self, moves) -> None:
        # What is set aside is set aside at once; the moves bring the sums back within the budgets.
        for move in moves:
            assert not self.book.items[move.key].locks
            self.book.moved(move.key, move.after)

    @rule(owner=st.sampled_from(OWNERS))
    def unreserve(self, owner: str) -> None:
        self.book.unreserve(owner)

    @precondition(lambda self: self.book.items)
    @rule(key=st.sampled_from(KEYS), owner=st.sampled_from(OWNERS))
    def let_go(self, key: str, owner: str) -> None:
        if key not in self.book.items or self.book.items[key].locks:
            return
        if self.book.release(key, owner):
            self.book.moved(key, "dropped")
            self.book.remove(key)

    @invariant()
    def within_budgets(self) -> None:
        for budget in self.book.budgets:
            assert self.book.taken(budget) <= budget.limit


TestMemory = Memory.TestCase
TestMemory.settings = settings(max_examples=120, stateful_step_count=30, deadline=None)

"""Many users, one lane an accelerator: fair order, bounds, Stop, and results that never cross."""

import threading
import time
from collections import Counter
from contextlib import closing
from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from loader.errors import Cancelled, InputError, QueueFullError
from loader.lanes import ABSENT_S, Lane, Lanes
from loader.outcome import Cancel, Result, Step
from loader.wishes import Wishes
from tests.fake_accelerator import fake_accelerator, fake_card
from tests.machines import engine_on, host_with
from tests.staged_adapter import Asked, expected, spec_named

FP32 = Wishes(dtype="fp32")
SPEC = spec_named()


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def served(lane: Lane, tickets: list) -> list:
    """Everybody asks until all were served; the order in which they were."""
    order: list = []
    while len(order) < len(tickets):
        for ticket in tickets:
            if ticket not in order and ticket.taken(0):
                order.append(ticket)
                ticket.leave()
    return order


# --- the order ----------------------------------------------------------------------------------------------------


def test_sessions_take_turns_and_each_keeps_its_own_order():
    lane = Lane()
    busy = lane.join("a", 1)
    assert busy.taken(0)
    a2, a3, a4 = (lane.join("a", 1) for _ in range(3))
    b1, b2, c1 = lane.join("b", 1), lane.join("b", 1), lane.join("c", 1)
    assert [t.place().position for t in (a2, b1, c1, a3, b2, a4)] == [1, 2, 3, 4, 5, 6]
    busy.leave()
    assert served(lane, [a4, a3, a2, b2, b1, c1]) == [a2, b1, c1, a3, b2, a4]
    assert not lane.locked()


def test_who_comes_later_cannot_keep_anybody_waiting_for_ever():
    lane = Lane()
    busy = lane.join("a", 1)
    assert busy.taken(0)
    second = lane.join("a", 1)
    ahead = 0
    for number in range(20):
        new = lane.join(f"new {number}", 1)
        busy.leave()
        busy = next(t for t in (second, new) if t.taken(0))
        if busy is second:
            break
        ahead += 1
    assert ahead <= 1


@given(st.lists(st.sampled_from("abcde"), min_size=1, max_size=24))
def test_between_two_of_mine_nobody_else_has_more_than_two(sessions):
    lane = Lane()
    tickets = [lane.join(s, 1.0) for s in sessions]
    places = [t.place() for t in tickets]
    order = served(lane, list(reversed(tickets)))
    assert sorted(p.position for p in places) == list(range(1, len(tickets) + 1))
    assert [tickets[[p.position for p in places].index(i + 1)] for i in range(len(order))] == order
    for mine in set(sessions):
        at = [i for i, t in enumerate(order) if t.session == mine]
        assert [order[i].number for i in at] == sorted(order[i].number for i in at)
        for first, second in pairwise(at):
            between = Counter(t.session for t in order[first + 1 : second])
            assert all(count <= 2 for count in between.values())


def test_the_wait_is_what_those_ahead_are_expected_to_take():
    clock = Clock()
    lane = Lane(clock=clock)
    running, next_, last = lane.join("a", 10), lane.join("b", 4), lane.join("c", 7)
    assert running.taken(0)
    clock.now = 3.0
    assert (next_.place().position, next_.place().total, next_.place().seconds_left) == (1, 2, 7.0)
    assert (last.place().position, last.place().seconds_left) == (2, 11.0)
    clock.now = 30.0
    assert next_.place().seconds_left == 0.0


def test_who_has_left_without_a_word_is_passed_over():
    clock = Clock()
    lane = Lane(clock=clock)
    gone, here = lane.join("a", 1), lane.join("b", 1)
    assert not here.taken(0), "the first may still ask"
    clock.now = ABSENT_S + 1
    assert here.taken(0)
    here.leave()
    assert gone.taken(0), "back again, its turn has waited"


def test_as_many_wait_as_may_and_the_refusal_says_so():
    lane = Lane(limit=2)
    running = lane.join("a", 5)
    assert running.taken(0)
    waiting = [lane.join("a", 5), lane.join("b", 5)]
    with pytest.raises(QueueFullError, match=r"2 requests are waiting and 2 may: try again in about \d+ s"):
        lane.join("c", 5)
    waiting[0].leave()
    assert lane.join("c", 5).place().total == 2
    assert lane.waiting == 2


def test_every_device_has_its_lane():
    lanes = Lanes()
    card, cpu = lanes.of("cuda:0"), lanes.of("cpu")
    assert lanes.of("cpu") is cpu
    assert card.join("a", 1).taken(0)
    assert cpu.join("b", 1).taken(0)
    assert lanes.busy(besides="cpu")


# --- the engine ---------------------------------------------------------------------------------------------------


@pytest.fixture
def engine(tmp_path):
    made = engine_on(host_with(), tmp_path)
    yield made
    made.close()


def test_waiting_is_told_with_place_and_time_and_ends_with_the_result(engine):
    first = engine.run(SPEC, Asked(items=1), FP32, session="a")
    next(first)
    second = engine.run(SPEC, Asked(), FP32, session="b")
    third = engine.run(SPEC, Asked(), FP32, session="c")
    step, later = next(second), next(third)
    assert (step.stage, step.index, step.total) == ("waiting", 1, 1)
    assert (later.stage, later.index, later.total) == ("waiting", 2, 2)
    assert later.seconds_left > step.seconds_left >= 0
    *_, result = first
    assert isinstance(result, Result)
    assert isinstance([*second][-1], Result)
    assert isinstance([*third][-1], Result)
    assert not engine._lane.locked()


def test_one_who_floods_the_lane_does_not_hold_up_another(engine):
    done: list[str] = []
    running = engine.run(SPEC, Asked(), FP32, session="flood")
    next(running)

    def work(session: str) -> None:
        for item in engine.run(SPEC, Asked(), FP32, session=session):
            if isinstance(item, Result):
                done.append(session)

    threads = [threading.Thread(target=work, args=(s,)) for s in ("flood", "flood", "flood", "guest")]
    for number, thread in enumerate(threads, start=1):
        thread.start()
        wait_until(lambda n=number: engine._lane.of("cpu").waiting == n)
    for _ in running:
        pass
    for thread in threads:
        thread.join(60)
    assert done.index("guest") <= 1


def wait_until(condition, seconds: float = 30.0) -> None:
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until, "it never came"
        time.sleep(0.01)


def test_results_of_many_users_never_cross_and_stopped_ones_leak_nothing(engine):
    """Twelve users at once, a third of whom stop: everyone gets what they asked for, or is told."""
    outcome: dict[int, object] = {}

    def work(number: int) -> None:
        asked, cancel = Asked(seed=number), Cancel()
        try:
            for item in engine.run(SPEC, asked, FP32, cancel=cancel, session=f"user {number % 5}"):
                if number % 3 == 0 and isinstance(item, Step) and item.stage == "denoising":
                    cancel.request()
                elif isinstance(item, Result):
                    outcome[number] = torch.equal(item.outputs[0], expected(asked))
        except Cancelled as error:
            outcome[number] = error

    threads = [threading.Thread(target=work, args=(n,)) for n in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    assert {n: type(o) for n, o in outcome.items()} == {n: bool if n % 3 else Cancelled for n in range(12)}
    assert all(outcome[n] is True for n in range(12) if n % 3)
    assert not engine._lane.locked()
    assert engine._active == {}


def test_a_full_queue_refuses_at_once_and_the_others_go_on(tmp_path):
    engine = engine_on(host_with(), tmp_path)
    engine._lane = Lanes(1)
    first = engine.run(SPEC, Asked(), FP32)
    next(first)
    second = engine.run(SPEC, Asked(), FP32)
    next(second)
    with pytest.raises(QueueFullError):
        next(engine.run(SPEC, Asked(), FP32))
    assert isinstance([*first][-1], Result)
    assert isinstance([*second][-1], Result)
    engine.close()


def test_a_run_left_while_it_waits_frees_its_place(engine):
    first = engine.run(SPEC, Asked(), FP32)
    next(first)
    with closing(engine.run(SPEC, Asked(), FP32)) as second:
        assert next(second).stage == "waiting"
        assert engine._lane.of("cpu").waiting == 1
    assert engine._lane.of("cpu").waiting == 0
    first.close()
    assert not engine._lane.locked()


def test_stop_while_waiting_is_noticed(engine):
    first = engine.run(SPEC, Asked(), FP32)
    next(first)
    cancel = Cancel()
    second = engine.run(SPEC, Asked(), FP32, cancel=cancel)
    next(second)
    cancel.request()
    with pytest.raises(Cancelled):
        next(second)
    first.close()


def test_the_lane_is_free_only_when_work_has_stopped(engine, monkeypatch):
    """Stop while a unit computes: the next request begins after it, not beside it."""
    from tests import staged_adapter

    entered, go_on = threading.Event(), threading.Event()
    inside: list[int] = []
    original = staged_adapter._compute

    def slow(*args):
        inside.append(1)
        assert len(inside) == 1, "two compute at once"
        entered.set()
        go_on.wait(30)
        inside.pop()
        return original(*args)

    monkeypatch.setattr(staged_adapter, "_compute", slow)
    cancel = Cancel()
    ended: list[str] = []

    def first() -> None:
        with pytest.raises(Cancelled):
            list(engine.run(SPEC, Asked(), FP32, cancel=cancel))
        ended.append("first")

    def second() -> None:
        list(engine.run(SPEC, Asked(stages=("text",)), FP32))
        ended.append("second")

    threads = [threading.Thread(target=first), threading.Thread(target=second)]
    threads[0].start()
    entered.wait(30)
    cancel.request()
    threads[1].start()
    wait_until(lambda: engine._lane.of("cpu").waiting == 1)
    assert engine._lane.locked()
    go_on.set()
    for thread in threads:
        thread.join(60)
    assert ended == ["first", "second"]


def test_a_bug_in_one_request_leaves_the_engine_serving(engine):
    with pytest.raises(KeyError, match="provoked"):
        list(engine.run(SPEC, Asked(fail_at="control"), FP32))
    with pytest.raises(InputError, match="no stage"):
        list(engine.run(SPEC, Asked(stages=()), FP32))
    assert not engine._lane.locked()
    *_, result = engine.run(SPEC, Asked(), FP32)
    assert torch.equal(result.outputs[0], expected(Asked()))
    locks = [item.locks for item in engine.residency.book.items.values()]
    assert locks == [0] * len(locks)


def test_closing_ends_what_runs_in_other_threads_and_then_puts_everything_away(engine):
    ended: list[str] = []
    closed = threading.Event()

    def work() -> None:
        try:
            while not closed.is_set():
                list(engine.run(SPEC, Asked(), FP32))
        except Cancelled:
            ended.append("stopped")

    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    wait_until(lambda: engine._lane.of("cpu").waiting == 2)
    engine.close()
    closed.set()
    for thread in threads:
        thread.join(30)
    assert "stopped" in ended
    assert not engine._lane.computing()
    engine.close()
    assert engine.residency.book.items == {}


def test_a_card_and_the_processor_serve_two_at_once(tmp_path):
    with fake_accelerator(2**30):
        engine = engine_on(host_with(fake_card(8 * 2**30)), tmp_path)
        on_card = engine.run(SPEC, Asked(seed=1), FP32)
        next(on_card)
        *_, beside = engine.run(SPEC, Asked(seed=2), Wishes(dtype="fp32", device="cpu"))
        assert beside.plan.device == "cpu"
        assert torch.equal(beside.outputs[0], expected(Asked(seed=2)))
        *_, first = on_card
        assert first.plan.device == "fake:0"
        assert torch.equal(first.outputs[0], expected(Asked(seed=1)))
        engine.close()

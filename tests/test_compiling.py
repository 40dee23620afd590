"""Compile that never hurts: requests are served eagerly meanwhile, and what is no gain is taken back.

The compiler is a value here: one that fails, that is slow, or that computes something else, at the moment wanted.
"""

import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from kit.parts.compiling_lines import compiling_lines, standing_words
from kit.texts import EVENTS_OF, LANGUAGES, flips_when, why
from loader.compiling import Background, Desk, Standing
from loader.compiling.calls import Call, bucket, distance, like, padded, unpadded
from loader.compiling.overlay import MOST_GRAPHS, PAIRS, Lap
from loader.compiling.standing import EVENTS, REVERTED
from loader.compiling.twin import options, twin_of
from loader.engine import Engine
from loader.errors import RunError
from loader.outcome import Result
from loader.place import place
from loader.plan import plan
from loader.residency.guard import Guard
from loader.wishes import Wishes
from tests.compiled_adapter import SPEC, WIDTH, Asked, expected, network, rows_of
from tests.machines import engine_on, host_with

WISH = Wishes(compile="default")
ONE = Asked()
PATIENCE_S = 60.0


class Compiler:
    """Gives functions that compute what the twin does, ``factor`` times as slow by its own clock.

    Attributes:
        gate: nothing is compiled before it is open.
        wrong: by how much of itself a result differs.
        fails_after: calls until it raises; the first is the one that compiles.
        modules: what it was given.
    """

    def __init__(self, factor: float = 0.5, *, wrong: float = 0.0, fails_after: int = 10**9) -> None:
        self.factor, self.wrong, self.fails_after = factor, wrong, fails_after
        self.gate, self.calls, self.modules = threading.Event(), 0, []
        self.gate.set()
        self.batches: list[int] = []

    def __call__(self, twin: nn.Module, placement: Any) -> Callable[..., Any]:
        self.gate.wait(PATIENCE_S)
        self.modules.append(twin)

        def function(rows: torch.Tensor) -> torch.Tensor:
            self.calls += 1
            self.batches.append(rows.shape[0])
            if self.calls > self.fails_after:
                raise RuntimeError("CppCompileError: no such instruction")
            return twin(rows) * (1 + self.wrong)

        return function

    def timer(self, call: Callable[[], Any], device: str) -> Lap:
        before = self.calls
        value = call()
        return Lap(value, self.factor if self.calls > before else 1.0, quiet=True)


def engine_with(compiler: Compiler, folder: Path) -> Engine:
    engine = engine_on(host_with(), folder)
    engine.desk = Desk(engine.host, engine.store, folder / "cache" / "compiled", compile=compiler, timer=compiler.timer)
    return engine


def run(engine: Engine, asked: Asked = ONE, wishes: Wishes = WISH) -> Result:
    *_, last = engine.run(SPEC, asked, wishes)
    assert isinstance(last, Result)
    torch.testing.assert_close(list(last.outputs), expected(asked))
    return last


def standing(engine: Engine, wishes: Wishes = WISH) -> Standing:
    opened = engine._opened[SPEC.name]
    return opened._overlays["net"].standing


def until(engine: Engine, *states: str) -> list[Result]:
    """Requests, one after the other, until compiling stands as wanted."""
    results, ends = [], time.monotonic() + PATIENCE_S
    while time.monotonic() < ends:
        results.append(run(engine))
        overlay = engine._opened[SPEC.name]._overlays.get("net")
        if overlay is None or overlay.standing.state in states:
            return results
        time.sleep(0.005)
    raise AssertionError(standing(engine))


# --- the way to compiled --------------------------------------------------------------------------------------------


def test_eager_serves_until_compiled_is_ready_and_then_compiled_does(tmp_path):
    compiler = Compiler(0.5)
    compiler.gate.clear()
    engine = engine_with(compiler, tmp_path)
    for _ in range(3):
        result = run(engine, Asked(times=4))
        assert [entry.event for entry in result.trace] == ["compile_background"]
    assert compiler.calls == 0
    assert result.plan.component("net").compile == "default"
    compiler.gate.set()
    results = until(engine, "compiled")
    events = {entry.event for r in results for entry in r.trace}
    assert {"compile_trial", "compile_swapped"} <= events <= {"compile_background", "compile_trial", "compile_swapped"}
    now = standing(engine)
    assert now.times == 2.0
    assert results[-1].trace[-1].why.startswith("2.00×")
    before = compiler.calls
    assert run(engine, Asked(times=5)).trace == ()
    assert compiler.calls == before + 5
    assert engine.store.load().compiled[-1].faster
    engine.close()


def test_on_trial_eager_and_compiled_take_turns(tmp_path):
    compiler = Compiler(0.5)
    engine = engine_with(compiler, tmp_path)
    until(engine, "trial")
    before = compiler.calls
    run(engine, Asked(times=2 * (PAIRS + 1)))
    # One more where a call before these was eager's half of the first pair.
    assert compiler.calls - before in (PAIRS + 1, PAIRS + 2)
    assert standing(engine).state == "compiled"
    engine.close()


def test_a_second_start_trusts_what_the_first_one_timed(tmp_path):
    first = engine_with(Compiler(0.5), tmp_path)
    until(first, "compiled")
    first.close()
    compiler = Compiler(0.5)
    second = engine_with(compiler, tmp_path)
    run(second)
    assert second.desk.background.wait(PATIENCE_S)
    assert standing(second).state == "compiled"
    assert standing(second).times == 2.0
    # It agreed with eager once more, and is not tried again.
    assert compiler.calls == 1
    second.close()


# --- what is taken back ---------------------------------------------------------------------------------------------

LOST = {
    "fails": (Compiler(0.5, fails_after=0), "compile_failed", "compile_quarantined"),
    "fails while it serves": (Compiler(0.5, fails_after=4), "compile_failed", "compile_quarantined"),
    "slower": (Compiler(1.1), "compile_slower", "compile_lost_slower"),
    "much slower": (Compiler(40.0), "compile_slower", "compile_lost_slower"),
    "differs": (Compiler(0.5, wrong=0.01), "compile_differs", "compile_lost_differs"),
    "not finite": (Compiler(0.5, wrong=float("nan")), "compile_differs", "compile_lost_differs"),
}


@pytest.mark.parametrize("kind", LOST)
def test_what_is_lost_is_taken_back_while_requests_are_served(tmp_path, kind):
    template, event, rule = LOST[kind]
    compiler = Compiler(template.factor, wrong=template.wrong, fails_after=template.fails_after)
    compiler.gate.clear()
    engine = engine_with(compiler, tmp_path)
    results: list[Result] = []
    errors: list[BaseException] = []

    def serve(number: int) -> None:
        try:
            ends = time.monotonic() + PATIENCE_S
            while time.monotonic() < ends:
                # Every answer is compared with eager's, whoever gave it.
                results.append(run(engine, Asked(seed=number, items=3, times=2)))
                if len(results) > 3:
                    compiler.gate.set()
                if any(entry.event == event for r in results for entry in r.trace):
                    return
        except BaseException as error:  # noqa: BLE001
            errors.append(error)

    threads = [threading.Thread(target=serve, args=(number,)) for number in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    events = [entry.event for r in results for entry in r.trace]
    assert event in events
    assert events[0] == "compile_background"
    # The next plan leaves it out and says why, in figures; a new start does too, another torch tries again.
    for later in (engine, engine_on(host_with(), tmp_path)):
        made = later.plan(SPEC, Wishes())
        assert made.component("net").compile == "none"
        wished = later.plan(SPEC, WISH)
        assert wished.component("net").compile == "none"
        assert rule in {decision.rule for decision in wished.decisions}
    calls = compiler.calls
    assert run(engine, Asked(times=3)).trace == ()
    assert compiler.calls == calls
    other = engine_on(replace(host_with(), torch="other"), tmp_path)
    assert other.plan(SPEC, WISH).component("net").compile == "default"
    engine.close()


def test_what_was_lost_between_two_requests_is_told_by_the_next(tmp_path):
    """The next one is planned with packed weights and opened anew: what was known must not go with the old one."""
    compiler = Compiler(0.5, wrong=0.01)
    compiler.gate.clear()
    engine = engine_with(compiler, tmp_path)
    assert [entry.event for entry in run(engine).trace] == ["compile_background"]
    compiler.gate.set()
    assert engine.desk.background.wait(PATIENCE_S)
    following = run(engine)
    assert following.plan.component("net").packed
    assert [entry.event for entry in following.trace] == ["compile_differs"]
    assert run(engine).trace == ()
    engine.close()


def test_the_plan_says_how_much_slower_it_was(tmp_path):
    engine = engine_with(Compiler(1.1), tmp_path)
    until(engine, "reverted")
    made = engine.plan(SPEC, Wishes())
    decision = next(d for d in made.decisions if d.rule == "compile_lost_slower")
    assert why(decision) == "compiled is 1.1× slower here (1100.0 ms against 1000.0 a call)"
    for language in LANGUAGES:
        assert "1100.0" in why(decision, language)
        assert "{" not in why(decision, language) + flips_when(decision, language)
    engine.close()


def test_a_disturbed_trial_is_decided_for_now_and_not_remembered(tmp_path):
    compiler = Compiler(1.3)
    compiler.timer = lambda call, device, quietly=compiler.timer: replace(quietly(call, device), quiet=False)
    engine = engine_with(compiler, tmp_path)
    until(engine, "reverted")
    known = engine.store.load()
    assert known.quarantine == ()
    assert known.compiled == ()
    engine.close()


def test_what_the_compiler_disturbs_while_it_works_is_answered_eagerly_and_not_held_against_it(tmp_path):
    compiler, gate = Compiler(0.5), threading.Event()
    engine = engine_with(compiler, tmp_path)
    until(engine, "compiled")
    assert engine.desk.background.offer(lambda: gate.wait(PATIENCE_S))
    compiler.fails_after = compiler.calls
    for _ in range(3):
        assert run(engine).trace == ()
    assert standing(engine).state == "compiled"
    gate.set()
    assert engine.desk.background.wait(PATIENCE_S)
    compiler.fails_after = 10**9
    before = compiler.calls
    run(engine)
    assert compiler.calls == before + 1
    assert engine.store.load().quarantine == ()
    engine.close()


def test_without_memory_for_a_compiler_none_is_started(tmp_path):
    compiler = Compiler(0.5)
    engine = engine_with(compiler, tmp_path)
    engine.desk._host = replace(engine.host, free_ram_bytes=900 * 2**20)
    result = run(engine)
    assert [entry.event for entry in result.trace] == ["compile_no_room"]
    assert compiler.modules == []
    assert engine.store.load().quarantine == ()
    engine.close()


def test_what_leaves_memory_takes_its_compiled_code_along(tmp_path):
    compiler = Compiler(0.5)
    engine = engine_with(compiler, tmp_path)
    until(engine, "compiled")
    overlay = engine._opened[SPEC.name]._overlays["net"]
    engine.residency.evict()
    assert engine._opened[SPEC.name]._overlays == {}
    assert overlay._graphs == {}
    assert all(p is None for p in compiler.modules[0].layers[0].linear._parameters.values())
    run(engine)
    engine.close()


def test_what_is_compiled_for_a_network_that_left_is_not_used(tmp_path):
    compiler = Compiler(0.5)
    compiler.gate.clear()
    engine = engine_with(compiler, tmp_path)
    run(engine)
    engine.residency.evict()
    compiler.gate.set()
    assert engine.desk.background.wait(PATIENCE_S)
    # Nothing was learned of it either: its weights were gone, which is no fault of the compiler.
    assert engine.store.load().quarantine == ()
    until(engine, "compiled")
    engine.close()


# --- the thread -----------------------------------------------------------------------------------------------------


def test_one_thing_is_compiled_at_a_time():
    background, gate = Background(), threading.Event()
    ran: list[int] = []
    assert background.offer(lambda: (gate.wait(PATIENCE_S), ran.append(1)))
    assert not background.offer(lambda: ran.append(2))
    gate.set()
    assert background.wait(PATIENCE_S)
    assert background.offer(lambda: ran.append(3))
    assert background.wait(PATIENCE_S)
    assert ran == [1, 3]


def test_closing_gives_up_what_is_being_compiled():
    background, going = Background(), threading.Event()
    ended: list[str] = []

    def forever() -> None:
        try:
            while True:
                going.set()
                try:
                    time.sleep(0.01)
                except Exception:  # noqa: BLE001 - as compilers do
                    ended.append("swallowed")
        finally:
            ended.append("given up")

    assert background.offer(forever)
    assert going.wait(PATIENCE_S)
    background.close()
    assert ended == ["given up"]
    assert not background.busy


def test_an_engine_closes_while_something_is_being_compiled(tmp_path):
    compiler = Compiler(0.5)
    engine = engine_with(compiler, tmp_path)
    begun = threading.Event()

    def forever(twin: nn.Module, placement: Any) -> Any:
        begun.set()
        while True:
            time.sleep(0.01)

    engine.desk._compile = forever
    run(engine)
    assert begun.wait(PATIENCE_S)
    assert engine.desk.background.busy
    engine.close()
    assert not engine.desk.background.busy


# --- twins ----------------------------------------------------------------------------------------------------------


def test_a_twin_shares_every_weight_and_no_module():
    module = network().eval()
    twin = twin_of(module)
    rows = rows_of(Asked(items=4))
    with torch.inference_mode():
        assert torch.equal(twin(rows), module(rows))
    assert not {id(m) for m in module.modules()} & {id(m) for m in twin.modules()}
    assert [p.data_ptr() for p in module.state_dict().values()] == [p.data_ptr() for p in twin.state_dict().values()]
    # Whatever is put in the place of a weight, the twin has too.
    module.layers[0].linear.weight = nn.Parameter(torch.zeros(WIDTH, WIDTH))
    module.register_buffer("scale", torch.zeros(WIDTH))
    with torch.inference_mode():
        assert torch.equal(twin(rows), torch.zeros_like(rows))


def test_a_twin_has_the_hooks_of_its_network_but_not_the_guard():
    module, awake = network().eval(), False
    module.layers[0].register_forward_hook(lambda _, __, output: output + 1)
    Guard("net", "cpu", lambda: awake).stand(module)
    twin, rows = twin_of(module), rows_of(Asked(items=2))
    with torch.inference_mode():
        given = twin(rows)
    awake = True
    with torch.inference_mode():
        assert torch.equal(given, module(rows))
    twin.compile(backend="eager")
    assert module._compiled_call_impl is None


def test_lists_of_modules_beside_the_tree_are_the_twins_own():
    class Listed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first = nn.Linear(2, 2)
            self.order = [self.first]

    twin = twin_of(Listed())
    assert twin.order[0] is twin.first


def test_an_ahead_of_time_mode_is_not_compiled_here():
    placed = plan(SPEC, host_with(), WISH).component("net")
    with pytest.raises(RunError, match="ahead-of-time"):
        options(replace(placed, compile="aot"))
    assert options(replace(placed, compile="reduce-overhead"))["triton.cudagraphs"] is True
    assert options(placed) == {}


# --- calls and batches ----------------------------------------------------------------------------------------------


def test_any_batch_is_served_by_one_of_five_graphs(tmp_path):
    compiler = Compiler(0.5)
    engine = engine_with(compiler, tmp_path)
    for batch in range(1, 17):
        asked = Asked(items=batch, batch=batch)
        for _ in range(100):
            run(engine, asked)
            graphs = engine._opened[SPEC.name]._overlays["net"]._graphs.values()
            if all(graph.standing.state == "compiled" for graph in graphs):
                break
            engine.desk.background.wait(PATIENCE_S)
    assert len(compiler.modules) == 5
    before, compiler.batches = compiler.calls, []
    for batch in (1, 2, 3, 5, 8, 9, 16):
        run(engine, Asked(items=batch, batch=batch))
    assert compiler.calls == before + 7
    assert compiler.batches == [1, 2, 4, 8, 8, 16, 16]
    engine.close()


def test_more_signatures_than_are_held_run_eagerly(tmp_path):
    compiler = Compiler(0.5)
    engine = engine_with(compiler, tmp_path)
    for items in range(17, 17 + MOST_GRAPHS + 2):
        run(engine, Asked(items=items, batch=items))
        engine.desk.background.wait(PATIENCE_S)
    assert len(compiler.modules) == MOST_GRAPHS
    engine.close()


def test_padding_repeats_the_last_item_and_is_cut_off_again():
    assert [bucket(n) for n in (1, 2, 3, 4, 5, 8, 9, 16, 17)] == [1, 2, 4, 4, 8, 8, 16, 16, 17]
    images = torch.randn(3, 2, 4, 4).to(memory_format=torch.channels_last)
    whole = padded(Call((images,), {"also": [images]}), 4)
    assert whole.batch == 4
    assert torch.equal(whole.args[0][3], images[2])
    assert whole.args[0].is_contiguous(memory_format=torch.channels_last)
    assert whole.kwargs["also"][0].shape[0] == 4
    cut = unpadded({"a": whole.args[0], "b": torch.zeros(7)}, 4, 3)
    assert torch.equal(cut["a"], images)
    assert cut["b"].shape == (7,)


def test_a_batch_is_told_only_where_all_tensors_agree():
    rows = torch.zeros(3, 2)
    assert Call((rows,), {"other": rows}).batch == 3
    assert Call((rows,), {"time": torch.tensor(5)}).batch == 0
    assert Call((rows, torch.zeros(2, 2)), {}).batch == 0
    assert Call((), {}).batch == 0


def test_a_made_up_call_has_the_signature_of_the_real_one():
    call = Call(
        (torch.randn(2, 3, 4, 5).to(torch.bfloat16).to(memory_format=torch.channels_last), (torch.arange(7), None)),
        {"step": torch.tensor(999.0), "names": ["a"], "scale": 0.5},
    )
    state = torch.get_rng_state()
    made = like(call)
    assert made.signature == call.signature
    with torch.inference_mode():
        assert like(call).signature == call.signature
        inside = Call((torch.zeros(2, 2),), {})
    assert like(inside).signature == inside.signature
    assert torch.equal(made.args[1][0], torch.arange(7))
    assert float(made.kwargs["step"]) == 999.0
    assert not torch.equal(made.args[0], call.args[0])
    assert torch.equal(torch.get_rng_state(), state)
    assert Call((torch.zeros(2, 2),), {}).signature != Call((torch.zeros(2, 2).T.contiguous().T,), {}).signature


def test_distance_sees_what_differs():
    a = torch.randn(8, 8)
    assert distance({"x": [a]}, {"x": [a]}) == 0
    assert distance((a,), (a * 1.01,)) == pytest.approx(0.01, rel=1e-3)
    assert distance((a,), (a[:4],)) == float("inf")
    assert distance((a,), (a, a)) == float("inf")
    assert distance((a,), (a * float("nan"),)) == float("inf")


# --- words ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("language", LANGUAGES)
def test_the_card_says_where_it_stands(tmp_path, language):
    compiler = Compiler(0.5)
    compiler.gate.clear()
    engine = engine_with(compiler, tmp_path)
    made = engine.plan(SPEC, WISH)
    assert compiling_lines(made, engine, language) == ""
    run(engine)
    assert standing_words(standing(engine), language) in compiling_lines(made, engine, language)
    compiler.gate.set()
    until(engine, "compiled")
    assert "2.00" in compiling_lines(made, engine, language)
    assert compiling_lines(made, object(), language) == ""
    engine.close()


def test_every_state_has_words_and_an_event():
    timed = Standing("net", eager_seconds=0.047, compiled_seconds=0.052, seconds=40.0, detail="0.5 from eager")
    states = [replace(timed, state=state) for state in ("compiling", "trial", "compiled")]
    states += [replace(timed, state="reverted", cause=cause) for cause in REVERTED]
    for language in LANGUAGES:
        said = [standing_words(state, language) for state in states]
        assert all("net" in words and "{" not in words for words in said)
        assert len(set(said)) == len(said)
    for state in states:
        entry = state.entry()
        assert entry is not None
        assert entry.event in EVENTS_OF
        assert entry.why
    assert set(EVENTS.values()) | set(REVERTED.values()) <= set(EVENTS_OF)
    slower = standing_words(replace(timed, state="reverted", cause="slower"), "en")
    assert "1.11× slower here (52.0 ms against 47.0)" in slower


def test_a_component_placed_without_a_desk_is_compiled_at_its_first_call(monkeypatch):
    """What is timed on purpose (bench, tuning) has to be compiled when it is called."""
    asked: list[str] = []
    monkeypatch.setattr(nn.Module, "compile", lambda self, **_: asked.append(type(self).__name__))
    place(network(), plan(SPEC, host_with(), WISH).component("net"))
    assert asked == ["Net"]

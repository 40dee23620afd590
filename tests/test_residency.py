"""Who is awake, on the fake accelerator: loaded at first use, asleep, streamed, shared, and never computing asleep."""

import gc
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import AutoencoderKL
from diffusers.pipelines.pipeline_utils import DiffusionPipeline
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn

from loader.decision import Failure
from loader.engine import Engine
from loader.errors import AsleepError, NoRoomError
from loader.opened import Opened, open_plan
from loader.outcome import Result, Step
from loader.plan import Plan, plan, relax
from loader.residency import Residency, Source
from loader.residency.blocks import BlockStream
from loader.residency.carry import Carrier
from loader.residency.tensors import Slots, views_into
from loader.wishes import Wishes
from tests import staged_adapter as staged
from tests.fake_accelerator import MEMORY, fake_accelerator, fake_card
from tests.machines import engine_on, host_with
from tests.staged_adapter import LARGE, LOADS, SMALL, Asked, expected, spec_named

MIB, GIB = 2**20, 2**30
FP32 = Wishes(dtype="fp32")
ALL = ("resident", "offload", "blocks", "dropped")


@pytest.fixture(autouse=True)
def _fresh():
    LOADS.clear()
    gc.collect()
    with fake_accelerator(GIB):
        yield
    gc.collect()


def card_engine(tmp_path: Path, card: int = 8 * GIB, **host: Any) -> Engine:
    return engine_on(replace(host_with(fake_card(card)), **host), tmp_path)


PLAIN = Asked()


def run(engine: Engine, asked: Asked = PLAIN, wishes: Wishes = FP32, name: str = "staged", **spec: bool) -> Result:
    *_, last = engine.run(spec_named(name, **spec), asked, wishes)
    assert isinstance(last, Result)
    return last


def residency_plan(residency: str, wishes: Wishes = FP32, card: int = 8 * GIB) -> Plan:
    made = plan(spec_named(), host_with(fake_card(card)), replace(wishes, residency=residency))
    assert {p.residency for p in made.components} == {residency}
    return made


def states(opened: Opened) -> dict[str, str]:
    return {name: opened._residency.book.items[key].state for name, key in opened._tenant._keys.items()}


def on_card() -> int:
    gc.collect()
    return MEMORY.used


# --- loading at first use -----------------------------------------------------------------------------------------


def test_opening_loads_nothing_and_a_component_comes_with_its_first_call():
    opened = open_plan(residency_plan("resident"), {}, None)
    assert opened.modules() == {}
    assert on_card() == 0
    opened.call("text", torch.zeros(1, staged.WIDTH))
    assert LOADS == ["text"]
    assert set(opened.modules()) == {"text"}
    assert on_card() == SMALL * 4
    opened.close()


def test_what_a_request_does_not_call_is_never_loaded(tmp_path):
    engine = card_engine(tmp_path)
    result = run(engine, Asked(("text", "unet", "decoder")))
    assert sorted(LOADS) == ["decoder", "text", "unet"]
    assert result.load_seconds > 0
    assert run(engine, Asked(("text", "unet"))).load_seconds == 0
    assert LOADS.count("unet") == 1
    engine.close()


def test_loading_is_told_component_by_component(tmp_path):
    engine = card_engine(tmp_path)
    steps = [s for s in engine.run(spec_named(), Asked(), FP32) if isinstance(s, Step) and s.stage == "loading"]
    assert [(s.index, s.total, s.detail.get("component")) for s in steps if s.detail] == [
        (0, 4, "text"),
        (1, 4, "unet"),
        (2, 4, "control"),
        (3, 4, "decoder"),
    ]
    engine.close()


@pytest.mark.parametrize("residency", ALL)
def test_every_residency_gives_the_same_and_stays_below_what_was_predicted(tmp_path, residency):
    engine = card_engine(tmp_path)
    asked = Asked(seed=3)
    result = run(engine, asked, replace(FP32, residency=residency))
    assert torch.equal(result.outputs[0], expected(asked)), "bit for bit, whatever was moved"
    assert result.trace == ()
    assert {p.residency for p in result.plan.components} == {residency}
    assert MEMORY.peak <= result.plan.peak_bytes["device"]
    assert torch.equal(run(engine, asked, replace(FP32, residency=residency)).outputs[0], expected(asked))
    engine.close()
    assert on_card() == 0


def test_on_the_cpu_what_is_dropped_is_nowhere_between_its_stages(tmp_path):
    engine = engine_on(host_with(), tmp_path)
    wishes = Wishes(dtype="fp32", residency="dropped")
    seen: list[set[str]] = []
    for item in engine.run(spec_named(), Asked(), wishes):
        if isinstance(item, Step) and item.stage == "denoising":
            seen.append(set(engine._opened["staged"].modules()))
        elif isinstance(item, Result):
            assert torch.equal(item.outputs[0], expected(Asked()))
    assert seen == [{"text"}, {"unet"}, *[{"unet", "control"}] * 3, {"decoder"}]
    assert engine._opened["staged"].modules() == {}
    assert engine.residency.book.held() == {}
    engine.close()


def test_offload_has_one_stage_awake_and_the_rest_asleep_in_host_memory():
    opened = open_plan(residency_plan("offload"), {}, None)
    x = torch.zeros(1, staged.WIDTH)
    opened.call("text", x)
    opened.call("unet", x)
    assert states(opened) == dict.fromkeys(("audio", "control", "decoder"), "dropped") | {
        "text": "asleep",
        "unet": "awake",
    }
    opened.call("control", x)
    assert states(opened)["unet"] == states(opened)["control"] == "awake", "one stage is awake together"
    assert on_card() == 2 * LARGE * 4
    assert opened.modules()["text"].first.weight.device.type == "cpu"
    opened.call("decoder", x)
    assert on_card() == SMALL * 4
    opened.rest()
    assert on_card() == 0
    assert set(states(opened).values()) == {"asleep", "dropped"}
    assert len(LOADS) == 4
    opened.close()


def test_blocks_take_turns_in_one_buffer():
    opened = open_plan(residency_plan("blocks"), {}, None)
    opened.call("unet", torch.zeros(1, staged.WIDTH))
    one = staged.BLOCK_PARAMS * 4
    assert on_card() == pytest.approx(2 * one, abs=1024), "the outer layer and the buffer for one block"
    before = MEMORY.peak = MEMORY.used
    opened.call("unet", torch.zeros(1, staged.WIDTH))
    assert MEMORY.peak - before < one / 4, "no copy of a block is made beside the buffer"
    weights = [b.linear.weight.device.type for b in opened.modules()["unet"].blocks]
    assert weights == ["cpu"] * staged.BLOCKS
    opened.close()
    assert on_card() == 0


def test_going_to_sleep_and_back_rounds_nothing():
    wishes = Wishes(dtype="bf16", residency="offload")
    opened = open_plan(residency_plan("offload", wishes), {}, None)
    x = torch.randn(2, staged.WIDTH)
    first = opened.call("text", x).cpu()
    parked = [t.cpu() for t in Slots(opened.modules()["text"]).tensors()]
    places: set[int] = set()
    for _ in range(3):
        opened.call("decoder", x)
        places.add(opened.modules()["text"].first.weight.data_ptr())
        for before, after in zip(parked, Slots(opened.modules()["text"]).tensors(), strict=True):
            assert after.dtype == torch.bfloat16
            assert torch.equal(before, after)
        assert torch.equal(opened.call("text", x).cpu(), first)
    assert LOADS.count("text") == 1
    assert len(places) == 1, "the parked copy stays where it is: going to sleep copies nothing"
    opened.close()


def test_sixteen_bits_stored_under_fp32_computed_stay_what_they_were_through_blocks():
    made = plan(spec_named(), host_with(fake_card(8 * GIB, native=("fp32",))))
    while made.components[0].storage_dtype == "fp32" or made.components[0].residency != "blocks":
        made = relax(made, Failure("out_of_memory", "unet"))
    opened = open_plan(made, {}, None)
    x = torch.randn(2, staged.WIDTH)
    first = opened.call("unet", x).cpu()
    stored = [t.clone() for t in Slots(opened.modules()["unet"].blocks).tensors()]
    assert {t.dtype for t in stored} <= {torch.float16, torch.bfloat16}
    assert torch.equal(opened.call("unet", x).cpu(), first)
    for before, after in zip(stored, Slots(opened.modules()["unet"].blocks).tensors(), strict=True):
        assert torch.equal(before, after)
    opened.close()


def test_a_method_of_a_component_can_be_called():
    opened = open_plan(residency_plan("resident"), {}, None)
    x = torch.ones(1, staged.WIDTH)
    out = opened.call("text.doubled", x)
    assert out.device.type == "fake"
    first = opened.modules()["text"].first
    assert torch.equal(out.cpu(), first(x.to("fake:0")).detach().cpu() * 2)
    assert opened.device("audio") == torch.device("fake:0")
    assert opened.dtype("audio") == torch.float32
    assert "audio" not in opened.modules()
    assert torch.equal(torch.rand(3, generator=opened.seeded(5)), torch.rand(3, generator=opened.seeded(5)))
    opened.close()


# --- several adapters ---------------------------------------------------------------------------------------------


def two_adapter_card() -> int:
    """A card on which one adapter is resident and two are not: its budget is that of one and a half."""
    alone = plan(spec_named(), host_with(fake_card(8 * GIB)), FP32).peak_bytes["device"]
    return int(alone + 1.2 * LARGE * 4 + 300 * MIB)


def test_another_adapter_moves_only_what_is_in_its_way_and_puts_it_to_sleep(tmp_path):
    engine = card_engine(tmp_path, two_adapter_card())
    run(engine, name="first")
    second = run(engine, name="second")
    assert {p.residency for p in second.plan.components} == {"resident"}
    kept = states(engine._opened["first"])
    assert "awake" in kept.values(), "there was room for some of it"
    assert "asleep" in kept.values()
    assert "dropped" not in {kept[n] for n in ("text", "unet", "control", "decoder")}
    LOADS.clear()
    again = run(engine, name="first")
    assert LOADS == [], "what slept woke without its file"
    assert torch.equal(again.outputs[0], expected(Asked()))
    assert again.trace == ()
    engine.close()


def test_where_the_host_has_no_room_others_are_dropped_and_load_again(tmp_path):
    # RAM of which a plan may use almost nothing.
    engine = card_engine(tmp_path, two_adapter_card(), free_ram_bytes=512 * MIB + 20 * MIB)
    run(engine, name="first")
    engine.residency.book.budgets = tuple(
        replace(b, limit=LARGE) if b.places == {"host"} else b for b in engine.residency.book.budgets
    )
    run(engine, name="second")
    assert "asleep" not in states(engine._opened["first"]).values()
    assert torch.equal(run(engine, name="first").outputs[0], expected(Asked()))
    engine.close()


def test_a_component_of_two_adapters_is_held_once(monkeypatch):
    monkeypatch.setattr(staged.Staged, "__init__", _shares_text)
    residency = Residency(host_with(fake_card(8 * GIB)))
    made = [plan(spec_named(n), host_with(fake_card(8 * GIB)), FP32) for n in ("one", "two")]
    one, two = (open_plan(p, {}, None, residency) for p in made)
    x = torch.zeros(1, staged.WIDTH)
    one.call("text", x)
    two.call("text", x)
    assert LOADS == ["text"]
    assert one.modules()["text"] is two.modules()["text"]
    assert residency.book.held() == {"fake:0": SMALL * 4}
    assert residency.held_bytes("two", others=True) == {}
    one.close()
    assert on_card() == SMALL * 4, "the other still has it"
    two.close()
    assert on_card() == 0


def _shares_text(self) -> None:
    self.own_edges, self.shared_networks = {}, {"text": "tests.Net"}


def test_a_precision_of_one_component_changed_reloads_that_one_only(tmp_path):
    engine = card_engine(tmp_path)
    run(engine)
    LOADS.clear()
    result = run(engine, wishes=replace(FP32, component_dtype={"unet": "fp16"}))
    assert LOADS == ["unet"]
    assert result.plan.component("unet").compute_dtype == "fp16"
    assert engine.residency.book.held()["fake:0"] == (LARGE + 2 * SMALL) * 4 + LARGE * 2
    engine.close()


def test_planning_does_not_wait_for_a_network_that_loads(tmp_path, monkeypatch):
    engine = card_engine(tmp_path)
    loading, go_on = threading.Event(), threading.Event()

    def slow(self, component, *args):
        loading.set()
        go_on.wait(30)
        return original(self, component, *args)

    original = staged.Staged.load
    monkeypatch.setattr(staged.Staged, "load", slow)
    thread = threading.Thread(target=lambda: run(engine))
    thread.start()
    assert loading.wait(30)
    assert engine.plan(spec_named("other"), FP32).fits
    assert thread.is_alive()
    go_on.set()
    thread.join(60)
    engine.close()


# --- the ladder ---------------------------------------------------------------------------------------------------


def test_out_of_memory_while_loading_walks_the_ladder(tmp_path):
    # The plan believes in 8 GiB. There is room for the denoising stage, and nothing else beside it.
    with fake_accelerator(int(2.3 * LARGE * 4)):
        engine = card_engine(tmp_path)
        result = run(engine, only_fp32=True)
        assert torch.equal(result.outputs[0], expected(Asked()))
        assert result.trace[0].event == "out_of_memory"
        assert "caches freed" in result.trace[0].plan_change
        assert {p.residency for p in result.plan.components} == {"offload"}
        assert LOADS.count("text") == 1, "finished stages are not computed again"
        engine.close()


def test_what_is_locked_alone_is_too_much_and_the_ladder_takes_the_next_residency(tmp_path):
    engine = card_engine(tmp_path)
    engine.residency.book.budgets = tuple(
        replace(b, limit=int(1.5 * LARGE * 4)) if b.places == {"fake:0"} else b for b in engine.residency.book.budgets
    )
    result = run(engine, only_fp32=True)
    assert torch.equal(result.outputs[0], expected(Asked()))
    assert {p.residency for p in result.plan.components} == {"blocks"}
    assert any("in use, and the limit is" in t.why for t in result.trace)
    assert MEMORY.peak <= 1.5 * LARGE * 4 + 4096
    engine.close()


def test_a_component_larger_than_was_announced_makes_room_or_is_refused():
    residency = Residency(host_with(fake_card(8 * GIB)))
    placement = replace(residency_plan("resident").components[0], bytes=10)
    residency.hold("large", "a#1", Source(placement, lambda: staged.Net(4)))
    residency.book.budgets = tuple(
        replace(b, limit=1000) if b.places == {"fake:0"} else b for b in residency.book.budgets
    )
    with pytest.raises(NoRoomError):
        residency.wake("large", "resident")
    assert residency.book.items["large"].state == "asleep", "what was read waits in host memory"
    assert residency.holding("large").module.first.weight.device.type == "cpu"
    assert on_card() == 0
    residency.wake("large", "resident", force=True)
    assert on_card() > 1000


# --- nothing asleep computes --------------------------------------------------------------------------------------


def test_a_parked_copy_refuses_to_compute():
    opened = open_plan(residency_plan("offload"), {}, None)
    x = torch.zeros(1, staged.WIDTH)
    opened.call("text", x)
    text = opened.modules()["text"]
    opened.call("unet", x)
    with pytest.raises(AsleepError, match=r"text.*asleep"):
        text(x)
    with pytest.raises(AsleepError):
        text(x.to("fake:0"))
    assert text._hf_hook.execution_device == torch.device("fake:0")
    opened.close()


def test_diffusers_finds_the_hook_it_looks_for():
    vae = AutoencoderKL(block_out_channels=(8,), norm_num_groups=4, layers_per_block=1)
    residency = Residency(host_with(fake_card(8 * GIB)))
    placement = replace(residency_plan("offload").components[0], name="vae", bytes=10**6)
    residency.hold("vae", "a#1", Source(placement, lambda: vae.eval().requires_grad_(False)))
    residency.wake("vae", "offload")
    pipeline = _Loop(vae)
    assert pipeline._execution_device == torch.device("fake:0")
    latents = torch.zeros(1, 4, 4, 4, device="fake:0")
    with torch.no_grad():
        assert vae.decode(latents).sample.device.type == "fake"
    residency.unlock("vae")
    residency.put_away("vae", "offload")
    assert vae.device.type == "cpu"
    with pytest.raises(AsleepError):
        vae.decode(latents)
    with pytest.raises(AsleepError):
        vae.decode(torch.zeros(1, 4, 4, 4))


class _Loop(DiffusionPipeline):
    def __init__(self, vae: AutoencoderKL) -> None:
        super().__init__()
        self.register_modules(vae=vae)


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    residencies=st.lists(st.sampled_from(ALL), min_size=1, max_size=3),
    calls=st.lists(st.sampled_from(("text", "audio", "unet", "control", "decoder")), min_size=1, max_size=8),
    room=st.floats(2.2, 6.0),
    rests=st.booleans(),
)
def test_a_module_computes_only_where_the_plan_says_and_only_awake(residencies, calls, room, rests):
    """Two adapters by turns in any order on a card too small for both: awake, on the device, stage mates only."""
    residency = Residency(host_with(fake_card(8 * GIB)))
    limit = int(room * LARGE * 4)
    residency.book.budgets = tuple(
        replace(b, limit=limit) if b.places == {"fake:0"} else b for b in residency.book.budgets
    )
    adapters = [
        open_plan(replace(residency_plan(r), adapter=f"adapter{i}"), {}, None, residency)
        for i, r in enumerate(residencies)
    ]
    computed: list[tuple[str, str]] = []

    def watched(self: nn.Module, x: torch.Tensor) -> torch.Tensor:
        assert self.first.weight.device == torch.device("fake:0")
        assert x.device == torch.device("fake:0")
        key = next(k for k, h in residency._holdings.items() if h.module is self)
        assert residency.book.items[key].state == "awake"
        assert residency.book.items[key].locks > 0
        computed.append((key, "net"))
        return original(self, x)

    original = staged.Net.forward
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(staged.Net, "forward", watched)
        x = torch.zeros(1, staged.WIDTH)
        for number, name in enumerate(calls):
            opened = adapters[number % len(adapters)]
            mode = opened.plan.component(name).residency
            try:
                opened.call(name, x)
            except NoRoomError:
                opened.rest()
                continue
            stage = staged.VARIANT.component(name).stage
            if mode != "resident":
                awake = {n for n, s in states(opened).items() if s == "awake"}
                assert {staged.VARIANT.component(n).stage for n in awake} == {stage}
            assert MEMORY.used <= limit + 8192
            if rests or len(adapters) > 1:
                opened.rest()
    for opened in adapters:
        opened.close()
    assert on_card() == 0


def test_a_compiled_component_is_guarded_without_compiling_the_guard():
    residency = Residency(host_with(fake_card(8 * GIB)))
    placement = replace(residency_plan("offload").components[0], bytes=10**5)
    module = staged.Net(1).eval()
    compiled: list[int] = []

    def load() -> nn.Module:
        module._compiled_call_impl = lambda *args: compiled.append(1) or module._call_impl(*args)
        return module

    residency.hold("net", "a#1", Source(placement, load))
    residency.wake("net", "offload")
    with torch.no_grad():
        module(torch.zeros(1, staged.WIDTH, device="fake:0"))
    assert compiled == [1]
    residency.unlock("net")
    residency.put_away("net", "offload")
    with pytest.raises(AsleepError):
        module(torch.zeros(1, staged.WIDTH))
    assert compiled == [1]


# --- streams ------------------------------------------------------------------------------------------------------


class Streaming(Carrier):
    """The fake accelerator as if it had streams: says in what order things were asked of it."""

    def __init__(self, device: str) -> None:
        super().__init__(device)
        self.streams, self.asked = True, []
        self._marks = 0

    def _new(self, what: str) -> Any:
        self._marks += 1
        self.asked.append((what, self._marks))
        return self._marks

    def bring_ahead(self, tensors):
        return self.bring(tensors), self._new("ahead")

    def arrive(self, copies, mark) -> None:
        self.asked.append(("arrive", mark))

    def copy_into(self, views, tensors, after):
        self.asked.append(("after", after))
        for view, tensor in zip(views, tensors, strict=True):
            view.copy_(tensor)
        return self._new("copied")

    def computed(self):
        return self._new("computed")

    def wait(self, mark) -> None:
        self.asked.append(("wait", mark))

    def staging(self, size):
        return torch.empty(size, dtype=torch.uint8)

    def pinned(self, tensors):
        return [t.clone() for t in tensors]


def test_blocks_alternate_between_two_buffers_each_free_when_its_last_block_was_computed():
    carrier = Streaming("fake:0")
    net = staged.Net(4).eval().requires_grad_(False)
    stream = BlockStream(net, "TestBlock", carrier)
    assert stream.turns == 2
    stream.open()
    x = torch.randn(1, staged.WIDTH)
    with torch.no_grad():
        out = net(x.to("fake:0"))
        stream.close()
        assert torch.equal(out.cpu(), net(x))
    afters = [mark for what, mark in carrier.asked if what == "after"]
    done = [mark for what, mark in carrier.asked if what == "computed"]
    assert afters == [None, None, done[0], done[1]]
    copied = [mark for what, mark in carrier.asked if what == "copied"]
    assert [m for what, m in carrier.asked if what == "wait"] == [None, None, copied[0], copied[1]]
    assert net.first.weight.device.type == "cpu"


def test_the_next_stage_is_brought_ahead_within_what_was_predicted():
    made = residency_plan("offload")
    residency = Residency(made.situation.host, Streaming)
    opened = open_plan(made, {}, None, residency)
    asked = Asked(("text", "unet", "decoder"))
    x = torch.zeros(1, staged.WIDTH)
    for _ in range(2):
        opened.begin(asked)
        for name in asked.stages:
            opened.call(name, x)
        opened.rest()
    opened.begin(asked)
    opened.call("text", x)
    assert states(opened)["unet"] == "awake", "it comes while text computes"
    arrivals = residency._carrier("fake:0").asked.count
    opened.call("unet", x)
    assert arrivals(("arrive", residency._carrier("fake:0")._marks)) <= 1
    assert ("ahead", 1) in residency._carrier("fake:0").asked or residency._carrier("fake:0")._marks > 0
    assert on_card() <= made.peak_bytes["device"]
    opened.rest()
    assert "awake" not in states(opened).values()
    # Where the prediction has no room for two, the next stage waits for its turn.
    tight = replace(made, peak_bytes={**made.peak_bytes, "device": opened._tenant._activation() + SMALL * 4})
    opened.renew(tight)
    opened.begin(asked)
    opened.call("text", x)
    assert states(opened)["unet"] == "asleep"
    opened.close()


def test_parked_copies_are_pinned_while_their_budget_lasts():
    made = residency_plan("offload")
    residency = Residency(made.situation.host, Streaming)
    opened = open_plan(made, {}, None, residency)
    x = torch.zeros(1, staged.WIDTH)
    opened.call("text", x)
    pinned = residency.book.held()["pinned"]
    assert pinned >= SMALL * 4
    residency.book.budgets = tuple(
        replace(b, limit=pinned) if b.places == {"pinned"} else b for b in residency.book.budgets
    )
    opened.call("unet", x)
    assert residency.book.held()["pinned"] == pinned, "no pinned pages are left: it sleeps in ordinary ones"
    assert residency.book.held()["host"] >= pinned + LARGE * 4
    opened.close()


# --- tensors as lists ---------------------------------------------------------------------------------------------


def test_tied_tensors_stay_tied():
    net = staged.Net(2)
    net.blocks[1].linear.weight = net.blocks[0].linear.weight
    net.register_buffer("table", torch.arange(4))
    slots = Slots(net)
    assert len(slots.tensors()) == 6
    slots.put([t.to("fake:0") for t in slots.tensors()])
    assert net.blocks[1].linear.weight is net.blocks[0].linear.weight
    assert net.table.device.type == "fake"
    slots.clear()
    assert on_card() == 0


def test_a_buffer_holds_tensors_of_any_layout_and_dtype():
    tensors = [
        torch.randn(3, 5),
        torch.randn(2, 4, 6, 6).to(memory_format=torch.channels_last),
        torch.randn(7).to(torch.bfloat16),
        torch.arange(3),
        torch.randn(4, 3).T,
        torch.tensor(2.5),
        torch.randn(3, 1).expand(3, 4),
        torch.randn(6, 6)[::2, 1:3],
    ]
    buffer = torch.zeros(8192, dtype=torch.uint8)
    for view, tensor in zip(views_into(buffer, tensors), tensors, strict=True):
        view.copy_(tensor)
        assert torch.equal(view, tensor)
        assert view.stride() == torch.empty_like(tensor).stride()
    for view, tensor in zip(views_into(buffer, tensors), tensors, strict=True):
        assert torch.equal(view, tensor), "none lies over another"

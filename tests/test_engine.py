"""The engine on the detector's preview weights: runs, the ladder with provoked failures, Stop, one lane."""

import gc
import itertools
import threading
from dataclasses import replace
from typing import Any

import pytest
import torch

from adapters import adapter
from adapters.damo_yolo.networks import build
from adapters.damo_yolo.pipeline import DamoYolo, DetectRequest
from kit.images import open_picture
from loader import packing, quantised
from loader import place as placing
from loader.compiling import Desk
from loader.decision import Failure
from loader.errors import Cancelled, DoesNotFitError, InputError, RunError
from loader.opened import open_plan
from loader.outcome import Cancel, Result, Step
from loader.plan import relax
from loader.wishes import Wishes
from tests.fake_accelerator import fake_accelerator, fake_card
from tests.machines import ROOT, engine_on, host_with

SPEC = adapter("damo_yolo")
PREVIEW = Wishes(variant="preview", size=(320, 320))
COINS = open_picture(ROOT / "assets" / "examples" / "coins.png")
MIB, GIB = 2**20, 2**30


def request(count: int = 1) -> DetectRequest:
    return DetectRequest((COINS,) * count)


def result_of(engine: Any, asked: DetectRequest, wishes: Wishes = PREVIEW, **kwargs: Any) -> Result:
    *_, last = engine.run(SPEC, asked, wishes, **kwargs)
    assert isinstance(last, Result)
    return last


def boxes(result: Result) -> list[tuple[str, tuple[int, ...]]]:
    return [(d.label, tuple(round(edge) for edge in d.box)) for d in result.outputs[0].detections if d.score > 0.5]


@pytest.fixture
def cpu(tmp_path):
    engine = engine_on(host_with(), tmp_path)
    yield engine
    engine.close()


@pytest.fixture(scope="module")
def expected(tmp_path_factory):
    """Boxes in fp32 on the CPU."""
    engine = engine_on(host_with(), tmp_path_factory.mktemp("expected"))
    found = boxes(result_of(engine, request(), replace(PREVIEW, dtype="fp32")))
    engine.close()
    assert len(found) > 10
    return found


def test_a_run_yields_steps_and_one_result_with_its_figures(cpu):
    items = list(cpu.run(SPEC, request(2), PREVIEW))
    assert {s.stage for s in items if isinstance(s, Step)} >= {"loading", "detecting"}
    result = items[-1]
    assert [len(seen.detections) > 10 for seen in result.outputs] == [True, True]
    assert result.seconds > 0
    assert result.peak_bytes["host"] > 1_000_000
    assert result.weights == "preview"
    assert result.trace == ()


def test_a_second_run_loads_nothing_again(cpu):
    first, second = result_of(cpu, request()), result_of(cpu, request())
    assert first.load_seconds > 0
    assert second.load_seconds == 0
    assert boxes(first) == boxes(second)


def test_every_run_is_in_the_log(cpu, tmp_path):
    result_of(cpu, request())
    text = (tmp_path / "runs.log").read_text()
    assert "damo_yolo preview" in text
    assert "predicted" in text


def living_modules() -> dict[int, torch.nn.Module]:
    gc.collect()
    return {id(o): o for o in gc.get_objects() if issubclass(type(o), torch.nn.Module)}


def test_every_parameter_of_a_loaded_model_belongs_to_a_component(cpu):
    before = set(living_modules())
    result_of(cpu, request())
    opened = cpu._opened[SPEC.name]
    assert set(opened.modules()) == {c.name for c in SPEC.variant("preview").components}
    owned = {id(t) for m in opened.modules().values() for t in (*m.parameters(), *m.buffers())}
    new = [module for key, module in living_modules().items() if key not in before]
    assert len(new) > 50
    assert {id(t) for m in new for t in (*m.parameters(recurse=False), *m.buffers(recurse=False))} <= owned


def test_no_published_weights_fall_back_to_the_preview_and_the_trace_says_so(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    engine = engine_on(host_with(), tmp_path)
    monkeypatch.setattr(
        "loader.opened.fetch_all", lambda wanted, folders, **kwargs: _only_assets(wanted, folders, **kwargs)
    )
    result = result_of(engine, request(), Wishes(size=(320, 320)))
    assert result.plan.variant == "preview"
    assert result.trace[0].event == "weights_unavailable"
    assert any(d.rule == "preview_weights" for d in result.plan.decisions)
    # The second request knows.
    assert result_of(engine, request(), Wishes(size=(320, 320))).trace == ()
    engine.close()


def _only_assets(wanted, folders, **kwargs):
    from loader.errors import WeightsUnavailableError
    from loader.fetch import fetch_all

    if any(s.kind != "asset" for w in wanted for s in w.sources):
        raise WeightsUnavailableError("no network in this test")
    return fetch_all(wanted, folders, **kwargs)


# --- the ladder ---------------------------------------------------------------------------------------------------


def test_on_the_fake_accelerator_results_agree_and_memory_comes_back(tmp_path, expected):
    with fake_accelerator(GIB) as memory:
        engine = engine_on(host_with(fake_card(GIB)), tmp_path)
        before = memory.used
        result = result_of(engine, request(), replace(PREVIEW, dtype="fp32"))
        assert result.plan.device == "fake:0"
        assert boxes(result) == expected
        predicted = result.plan.peak_bytes["device"]
        assert memory.peak <= predicted
        engine.close()
        gc.collect()
        assert memory.used <= before + 1000


def test_out_of_memory_frees_caches_then_halves_the_batch(tmp_path, expected):
    # The plan is made for a card four times as large as the one that is there.
    with fake_accelerator(48 * MIB) as memory:
        engine = engine_on(host_with(fake_card(8 * 2**30)), tmp_path)
        result = result_of(engine, request(8), replace(PREVIEW, dtype="fp32", batch=8))
        events = [t.event for t in result.trace]
        assert events[0] == "out_of_memory"
        assert "caches freed" in result.trace[0].plan_change
        assert "batch 8 → 4" in result.trace[1].plan_change
        assert result.plan.batch < 8
        assert len(result.outputs) == 8
        assert boxes(result) == expected
        assert memory.peak <= 48 * MIB
        engine.close()


def test_out_of_memory_everywhere_ends_with_a_clear_error(tmp_path):
    with fake_accelerator(3 * MIB):
        engine = engine_on(host_with(fake_card(8 * 2**30)), tmp_path)
        with pytest.raises(RunError, match=r"out of memory.*no smaller"):
            result_of(engine, request(), replace(PREVIEW, dtype="fp32"))


def test_a_smaller_variant_runs_on_its_own_file_if_that_is_here_and_allowed(tmp_path):
    own = tmp_path / "own"
    own.mkdir()
    for name in ("Nl", "Ns"):
        torch.manual_seed(3)
        torch.save({"model": build("detector", name).state_dict()}, own / SPEC.variant(name).weights[0].file)
    only = replace(SPEC, smaller=("Nl", "Ns"))
    wishes = Wishes(variant="Nl", size=(320, 320), dtype="fp32")

    def run(wishes: Wishes, folders: tuple) -> Result:
        engine = engine_on(host_with(fake_card(8 * GIB)), tmp_path)
        engine.folders = replace(engine.folders, own=folders)
        *_, last = engine.run(only, request(), wishes)
        engine.close()
        return last

    # Between what the two need: 5.7 and 1.4 million parameters.
    with fake_accelerator(21 * MIB):
        with pytest.raises(RunError):
            run(wishes, (own,))
        result = run(replace(wishes, allow_smaller=True), (own,))
        assert result.plan.variant == "Ns"
        assert any("variant Nl → Ns" in t.plan_change for t in result.trace)
        (own / SPEC.variant("Ns").weights[0].file).unlink()
        with pytest.raises(RunError, match="not on this disk"):
            run(replace(wishes, allow_smaller=True), (own,))


def test_an_operator_missing_for_half_keeps_that_part_in_fp32(tmp_path, expected):
    missing = {("aten::max_pool2d", torch.float16), ("aten::max_pool2d_with_indices", torch.float16)}
    with fake_accelerator(GIB, missing=missing) as memory:
        engine = engine_on(host_with(fake_card(GIB, native=("fp32", "fp16"))), tmp_path)
        result = result_of(engine, request())
        assert result.trace[0].event == "not_implemented"
        assert "Half" in result.trace[0].why
        kept = result.plan.component("detector").keep_fp32
        assert any(path.startswith("backbone") for path in kept)
        assert result.plan.component("detector").compute_dtype == "fp16"
        assert memory.computed[torch.float16] > 0
        assert len(boxes(result)) == pytest.approx(len(expected), abs=2)
        # What was learned holds for the next request.
        assert result_of(engine, request()).trace == ()
        engine.close()


class NanBelowFp32:
    """Makes a detector return NaN unless it computes in fp32, as fp16 does on some cards."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        original = placing.place

        def place(module, placement, own_edges=(), *rest):
            placed = original(module, placement, own_edges)
            if placement.compute_dtype != "fp32":
                placed.register_forward_hook(lambda m, a, out: (out[0] * float("nan"), out[1]))
            return placed

        monkeypatch.setattr("loader.opened.place", place)


def test_nan_climbs_to_the_next_precision_and_is_quarantined(tmp_path, monkeypatch, expected):
    NanBelowFp32(monkeypatch)
    engine = engine_on(host_with(), tmp_path)
    result = result_of(engine, request())
    assert [t.event for t in result.trace] == ["not_finite"]
    assert "bf16 → fp32" in result.trace[0].plan_change
    assert boxes(result) == expected
    engine.close()
    # A new start on the same machine skips what failed; another torch forgets it.
    again = engine_on(host_with(), tmp_path)
    assert again.plan(SPEC, PREVIEW).component("detector").compute_dtype == "fp32"
    other = engine_on(replace(host_with(), torch="other"), tmp_path)
    assert other.plan(SPEC, PREVIEW).component("detector").compute_dtype == "bf16"


def test_a_compiler_that_fails_means_eager(tmp_path, expected):
    def broken(twin, placement):
        raise RuntimeError("torch._inductor.exc.CppCompileError: C++ compile error")

    engine, wishes = engine_on(host_with(), tmp_path), replace(PREVIEW, compile="default", dtype="fp32")
    engine.desk = Desk(engine.host, engine.store, tmp_path / "compiled", compile=broken)
    first = result_of(engine, request(), wishes)
    assert engine.desk.background.wait(60)
    second = result_of(engine, request(), wishes)
    assert [entry.event for entry in (*first.trace, *second.trace)][-1] == "compile_failed"
    assert second.plan.component("detector").compile == "none"
    assert boxes(first) == boxes(second) == expected
    engine.close()


FP32 = replace(PREVIEW, dtype="fp32")
NO_PRIMITIVE = RuntimeError("could not create a primitive descriptor for the convolution forward propagation primitive")


def failing_from(call: int, operator: Any) -> Any:
    """``operator``, raising what oneDNN raises from its ``call``-th call on."""
    count = itertools.count(1)

    def run(*args: Any) -> Any:
        if next(count) >= call:
            raise NO_PRIMITIVE
        return operator(*args)

    return run


@pytest.mark.parametrize(("operator", "call"), [("_reorder_convolution_weight", 5), ("_convolution_pointwise", 20)])
def test_a_packed_layer_that_fails_is_computed_as_it_was(tmp_path, monkeypatch, expected, operator, call):
    engine = engine_on(host_with(), tmp_path)
    failing = failing_from(call, getattr(torch.ops.mkldnn, operator))
    monkeypatch.setattr(torch.ops.mkldnn, operator, failing)
    first = result_of(engine, request(), FP32)
    assert [entry.event for entry in first.trace] == ["packing_failed"]
    assert first.trace[0].plan_change.startswith("detector packed → laid out in every call")
    assert first.plan.component("detector").packed is False
    assert boxes(first) == expected
    second = result_of(engine, request(), FP32)
    assert second.trace == ()
    assert "packing_quarantined" in {d.rule for d in second.plan.decisions}
    engine.close()
    newer = engine_on(replace(engine.host, torch="another"), tmp_path)
    assert newer.plan(SPEC, FP32).component("detector").packed, "another torch may do it"
    newer.close()


def test_a_torch_without_the_operators_says_so(tmp_path, monkeypatch, expected):
    monkeypatch.setattr(packing, "available", lambda: False)
    engine = engine_on(host_with(), tmp_path)
    result = result_of(engine, request(), FP32)
    assert [entry.event for entry in result.trace] == ["packing_failed"]
    assert "has no operators for packed weights" in result.trace[0].why
    assert boxes(result) == expected
    engine.close()


def test_what_fails_without_packing_too_is_not_held_against_it(tmp_path, monkeypatch):
    engine = engine_on(host_with(), tmp_path)
    for owner, name in ((torch.ops.mkldnn, "_convolution_pointwise"), (torch.nn.Conv2d, "_conv_forward")):
        monkeypatch.setattr(owner, name, failing_from(1, getattr(owner, name)))
    with pytest.raises(RuntimeError, match="primitive"):
        result_of(engine, request(), FP32)
    assert engine.store.load().quarantine == ()
    engine.close()


def test_bytes_that_fail_are_computed_in_fp32(tmp_path, monkeypatch, expected):
    def broken() -> Any:
        return failing_from(1, None)

    monkeypatch.setattr(quantised, "_product", broken)
    engine = engine_on(host_with(base="cpu-amx"), tmp_path)
    result = result_of(engine, request(), replace(PREVIEW, dtype="int8"))
    assert [entry.event for entry in result.trace] == ["not_implemented"]
    assert boxes(result) == expected
    engine.close()


def test_too_far_from_fp32_goes_to_fp32(tmp_path, monkeypatch, expected):
    monkeypatch.setattr(DamoYolo, "drift", lambda self, reference, outputs: 0.4)
    engine = engine_on(host_with(), tmp_path)
    result = result_of(engine, request())
    assert result.trace[0].event == "drift"
    assert result.plan.component("detector").compute_dtype == "fp32"
    assert boxes(result) == expected
    engine.close()


def test_drift_within_the_wish_is_accepted(tmp_path, monkeypatch):
    monkeypatch.setattr(DamoYolo, "drift", lambda self, reference, outputs: 0.4)
    engine = engine_on(host_with(), tmp_path)
    result = result_of(engine, request(), replace(PREVIEW, max_drift=0.5))
    assert result.trace == ()
    assert result.plan.component("detector").compute_dtype == "bf16"
    engine.close()


def test_a_plain_bug_is_not_swallowed_by_the_ladder(tmp_path, monkeypatch):
    def bug(*args):
        raise KeyError("a bug")

    monkeypatch.setattr("adapters.damo_yolo.pipeline.preprocess", bug)
    engine = engine_on(host_with(), tmp_path)
    with pytest.raises(KeyError):
        result_of(engine, request())
    assert not engine._lane.locked()


def test_a_failed_attempt_keeps_no_tensor_alive(tmp_path):
    with fake_accelerator(48 * MIB) as memory:
        engine = engine_on(host_with(fake_card(8 * 2**30)), tmp_path)
        result_of(engine, request(8), replace(PREVIEW, dtype="fp32", batch=8))
        held = sum(t.numel() * 4 for m in engine._opened[SPEC.name].modules().values() for t in m.parameters())
        gc.collect()
        assert memory.used < 1.2 * held + MIB
        engine.close()


# --- half storage, forced placements --------------------------------------------------------------------------------


def test_sixteen_bit_storage_under_fp32_compute_agrees_with_fp32(tmp_path, expected):
    host = host_with(fake_card(GIB, native=("fp32",)))
    with fake_accelerator(GIB) as memory:
        engine = engine_on(host, tmp_path)
        made = engine.plan(SPEC, PREVIEW)
        lower = made
        while lower.component("detector").storage_dtype == "fp32":
            lower = relax(lower, Failure("out_of_memory", "detector"))
        assert lower.component("detector").compute_dtype == "fp32"
        asset = ROOT / SPEC.variant("preview").weights[0].sources[0].location
        opened = open_plan(lower, {"weights": asset}, None)
        memory.computed.clear()
        work = opened.pipeline.run(opened, request())
        answer, outputs = None, ()
        while True:
            try:
                item = work.send(answer)
            except StopIteration as stop:
                outputs = stop.value
                break
            answer = item.run(lower) if hasattr(item, "run") else None
        stored = {p.dtype for p in opened.modules()["detector"].parameters()}
        assert stored <= {torch.float16, torch.bfloat16, torch.float32}
        assert stored - {torch.float32}
        assert memory.computed[torch.float32] > 100
        found = [d for d in outputs[0].detections if d.score > 0.5]
        assert len(found) == pytest.approx(len(expected), abs=2)
        opened.close()


# --- Stop, lane, input --------------------------------------------------------------------------------------------


def test_stop_ends_between_units_and_frees_the_lane(cpu):
    cancel = Cancel()
    run = cpu.run(SPEC, request(20), PREVIEW, cancel=cancel)
    detecting = (item for item in run if isinstance(item, Step) and item.stage == "detecting")
    assert next(detecting).index == 1
    cancel.request()
    with pytest.raises(Cancelled):
        next(detecting)
    assert not cpu._lane.locked()
    assert result_of(cpu, request()).outputs


def test_closing_the_generator_stops_the_work_and_frees_the_lane(cpu):
    run = cpu.run(SPEC, request(20), PREVIEW)
    for item in run:
        if isinstance(item, Step) and item.stage == "detecting":
            break
    run.close()
    assert not cpu._lane.locked()


def test_one_request_computes_at_a_time_and_the_next_one_waits(cpu):
    result_of(cpu, request())
    order: list[str] = []
    first = cpu.run(SPEC, request(3), PREVIEW)
    next(first)

    def second() -> None:
        for item in cpu.run(SPEC, request(), PREVIEW):
            order.append(item.stage if isinstance(item, Step) else "done")

    thread = threading.Thread(target=second)
    thread.start()
    while "waiting" not in order:
        pass
    assert set(order) == {"waiting"}
    for _ in first:
        pass
    thread.join(timeout=60)
    assert order[-1] == "done"


def test_a_refused_wish_raises_with_the_decision(cpu):
    with pytest.raises(DoesNotFitError) as caught:
        result_of(cpu, request(), replace(PREVIEW, dtype="fp16"))
    assert caught.value.decision is not None
    assert caught.value.decision.rule == "fp16_on_cpu"


def test_no_picture_is_an_input_error(cpu):
    with pytest.raises(InputError, match="no picture"):
        result_of(cpu, DetectRequest(()))


def test_an_adapter_without_its_network_says_so(cpu):
    planned = replace(SPEC, pipeline="")
    with pytest.raises(InputError, match="planned"):
        list(cpu.run(planned, request(), PREVIEW))


def test_figures_of_quiet_runs_correct_the_next_prediction(cpu, monkeypatch):
    from loader.quiet import Quiet

    monkeypatch.setattr(Quiet, "__exit__", _exit_with(seconds=0.5, held=True))
    before = cpu.plan(SPEC, PREVIEW).predicted_seconds
    result_of(cpu, request())
    assert cpu.plan(SPEC, PREVIEW).predicted_seconds > before
    learned = cpu.plan(SPEC, PREVIEW).predicted_seconds
    monkeypatch.setattr(Quiet, "__exit__", _exit_with(seconds=50.0, held=False))
    result_of(cpu, request())
    assert cpu.plan(SPEC, PREVIEW).predicted_seconds == learned


def _exit_with(*, seconds: float, held: bool):
    def exit_(self, *args):
        self.seconds, self.held = seconds, held

    return exit_

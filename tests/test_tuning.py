"""Plans tried on sample input: what is tried, by whose clock, what wins, what is kept and for how long."""

import json
import os
import subprocess
import sys
from dataclasses import replace

import pytest

from adapters import adapter
from adapters.damo_yolo.pipeline import DamoYolo, DetectRequest
from kit.images import open_picture
from kit.texts import why
from kit.texts.tuning_report import tuning_record, tuning_text
from loader import candidates, tuned
from loader.candidates import Trial, winner
from loader.drive import Driver
from loader.errors import Cancelled, InputError
from loader.host import OpTime, load_host
from loader.knowledge import EMPTY, Knowledge, Quarantine, Timed, Tuned, Way
from loader.measure import Store
from loader.outcome import Cancel, Result
from loader.plan import plan, plan_from_json, plan_to_json
from loader.tuning import Lap, Trials, Tuning
from loader.wishes import Wishes
from tests.machines import ROOT, engine_on, host_with

SPEC = adapter("damo_yolo")
PREVIEW = Wishes(variant="preview", size=(160, 160))
BF16_LAST, BF16 = Way("bf16", "channels_last"), Way("bf16")
FP32_LAST, FP32 = Way("fp32", "channels_last"), Way("fp32")
BATCH = Way("bf16", "channels_last", batch=4)
INT8 = Way("int8", "channels_last")


def ways_of(made) -> list[Way]:
    return [way for way, _ in candidates.candidates(made)]


def knowing(winner_: Way, host, wishes: Wishes = PREVIEW, **changes) -> Knowledge:
    """What is known after ``winner_`` won over the planned way at 61 against 88 ms."""
    made = plan(SPEC, host, wishes)
    planned = candidates.way_of(made)
    timed = (Timed(planned, 0.088, 0.087, 0.09), Timed(winner_, 0.061, 0.06, 0.062))
    entry = Tuned(
        tuned.machine_of(host, made.device),
        host.torch,
        "damo_yolo",
        made.variant,
        made.device,
        made.size,
        "detector",
        winner_,
        planned,
        timed,
        5,
        "2026-11-21",
    )
    return replace(EMPTY, tuned=(replace(entry, **changes),))


# --- what is tried ----------------------------------------------------------------------------------------------


def test_at_most_six_ways_are_tried_the_planned_one_first_and_each_makes_its_own_plan():
    made = plan(SPEC, load_host("cpu-amx"), PREVIEW)
    found = candidates.candidates(made)
    assert ways_of(made)[0] == BF16_LAST
    assert ways_of(made) == [BF16_LAST, BATCH, BF16, INT8, FP32_LAST], "and fp32 at its best, however slow"
    assert len(found) <= candidates.MOST
    assert all(candidates.way_of(p) == way and p.fits for way, p in found)
    compiled = candidates.candidates(made, compiled=True)
    assert [way.dtype for way, _ in compiled if way.compile == "default"] == ["bf16", "bf16"]
    assert len(compiled) == candidates.MOST
    assert FP32_LAST in dict(candidates.candidates(made, compiled=True, most=3))


def test_the_micro_probe_orders_them_and_leaves_out_what_promises_nothing():
    host = load_host("cpu-amx")
    times = {"fp32": (10.0, 4.0), "bf16": (2.0, 3.0), "fp16": (90.0, 80.0)}
    micro = tuple(
        OpTime("convolution", dtype, seconds, layout)
        for dtype, pair in times.items()
        for layout, seconds in zip(("contiguous", "channels_last"), pair, strict=True)
    )
    made = plan(SPEC, replace(host, cpu=replace(host.cpu, micro=micro)), PREVIEW)
    batch = replace(BF16, batch=4)
    assert ways_of(made) == [BF16, batch, INT8, BF16_LAST, FP32_LAST], "int8 by the rates of products, never timed"
    assert ways_of(plan(SPEC, made.situation.host, replace(PREVIEW, batch=2))) == [
        replace(way, batch=2) for way in (BF16, INT8, BF16_LAST, FP32_LAST, FP32)
    ]


def test_what_failed_here_or_is_broken_is_not_tried():
    host = load_host("cpu-amx")
    entry = Quarantine("damo_yolo", "preview", "detector", "bf16", "none", host.torch, "cpu", "not finite")
    made = plan(SPEC, host, PREVIEW, replace(EMPTY, quarantine=(entry,)))
    assert "bf16" not in {way.dtype for way in ways_of(made)}
    compiling = replace(entry, compile="default")
    made = plan(SPEC, host, PREVIEW, replace(EMPTY, quarantine=(compiling,)))
    assert "default" not in {way.compile for way, _ in candidates.candidates(made, compiled=True)}
    nan = replace(host, cpu=replace(host.cpu, micro=(OpTime("linear", "bf16", 1.0, finite=False),)))
    assert "bf16" not in {way.dtype for way in ways_of(plan(SPEC, nan, PREVIEW))}


def test_transformers_have_attention_products_to_try():
    host = load_host("cpu-amx")
    micro = tuple(
        OpTime("attention", dtype, seconds, kernel=kernel, length=2048)
        for dtype in ("bf16", "fp32")
        for kernel, seconds in (("sdpa", 2.0), ("blocks", 1.0))
    )
    made = plan(adapter("metric3d"), replace(host, cpu=replace(host.cpu, micro=micro)), Wishes(variant="vit_small"))
    assert {way.attention.partition(":")[0] for way in ways_of(made)} == {"sdpa", "blocks"}


# --- which wins -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        ((1.0, 1.0, 1.0), (0.8, 0.8, 0.8), BF16),
        ((1.0, 1.0, 1.0), (0.98, 0.98, 0.98), BF16_LAST),  # within what repeats differ by
        ((1.0, 1.0, 9.0), (1.2, 1.2, 1.2), BF16_LAST),  # one slow round decides nothing
    ],
)
def test_the_planned_way_stays_unless_another_is_faster_by_enough(first, second, expected):
    assert winner([Trial(BF16_LAST, first), Trial(BF16, second)]).way == expected


def test_what_drifts_or_fails_cannot_win():
    slow = Trial(FP32, (1.0, 1.0))
    assert winner([Trial(BF16, (0.1,), problem="drift"), Trial(BATCH, problem="failed"), slow]) is slow
    with pytest.raises(ValueError, match="no way"):
        winner([Trial(BF16, (0.1,), problem="drift")])


# --- what plans make of it --------------------------------------------------------------------------------------


def test_the_next_plan_uses_the_winner_and_says_so_with_figures():
    host = load_host("cpu-amx")
    made = plan(SPEC, host, PREVIEW, knowing(FP32, host))
    placed = made.component("detector")
    assert (placed.compute_dtype, placed.memory_format, placed.keep_fp32) == ("fp32", "contiguous", ())
    (note,) = [d for d in made.decisions if d.rule == "tuned"]
    assert (note.wanted, note.got) == ("bf16 channels_last", "fp32")
    assert (note.params["ms"], note.rejected[0].number, note.rejected[0].unit) == (61.0, 88.0, "ms")
    assert "61.0 ms" in why(note)
    assert "2026-11-21" in why(note)
    assert "61.0 毫秒" in why(note, "zh")
    assert not {"channels_last", "low_precision_pays"} & {d.rule for d in made.decisions}
    assert plan_from_json(plan_to_json(made)) == made


def test_a_precision_that_rules_expect_to_be_slow_may_win_and_one_that_failed_may_not():
    host = load_host("cpu-avx2")
    assert plan(SPEC, host, PREVIEW).component("detector").compute_dtype == "fp32"
    known = knowing(BF16_LAST, host)
    assert plan(SPEC, host, PREVIEW, known).component("detector").compute_dtype == "bf16"
    entry = Quarantine("damo_yolo", "preview", "detector", "bf16", "none", host.torch, "cpu", "not finite")
    made = plan(SPEC, host, PREVIEW, replace(known, quarantine=(entry,)))
    assert made.component("detector").compute_dtype == "fp32"
    assert {"quarantined"} <= {d.rule for d in made.decisions}
    assert "tuned" not in {d.rule for d in made.decisions}


def test_a_wish_wins_over_what_was_tried():
    host = load_host("cpu-amx")
    known = knowing(replace(FP32, batch=4), host)
    assert plan(SPEC, host, PREVIEW, known).batch == 4
    low = plan(SPEC, host, replace(PREVIEW, dtype="bf16"), known)
    assert (low.component("detector").compute_dtype, low.component("detector").memory_format) == (
        "bf16",
        "channels_last",
    )
    assert low.batch == 1
    assert "tuned" not in {d.rule for d in low.decisions}
    assert plan(SPEC, host, replace(PREVIEW, batch=2), known).batch == 2
    precise = plan(SPEC, host, replace(PREVIEW, precision_first=True), knowing(BF16, host))
    assert precise.component("detector").compute_dtype == "fp32"
    compiled = knowing(replace(BF16, compile="default"), host)
    assert plan(SPEC, host, PREVIEW, compiled).component("detector").compile == "default"
    assert plan(SPEC, host, replace(PREVIEW, compile="none"), compiled).component("detector").compile == "none"
    without = replace(host, compiler=False)
    assert plan(SPEC, without, PREVIEW, compiled).component("detector").compile == "none"


@pytest.mark.parametrize(
    "change",
    [
        {"torch": "9.9"},
        {"machine": "another"},
        {"variant": "T"},
        {"size": (416, 416)},
        {"device": "cuda:0"},
        {"adapter": "metric3d"},
    ],
    ids=lambda c: next(iter(c)),
)
def test_it_holds_only_for_what_it_was_tried_on(change):
    host = load_host("cpu-amx")
    assert plan(SPEC, host, PREVIEW, knowing(FP32, host, **change)).component("detector").compute_dtype == "bf16"


def test_another_limit_or_processor_is_another_machine():
    host = load_host("cpu-amx")
    limited = replace(host, cpu=replace(host.cpu, limits=("ONEDNN_MAX_CPU_ISA=AVX2",), effective_isa=("avx2",)))
    fewer = replace(host, cpu=replace(host.cpu, cores=1))
    assert len({tuned.machine_of(h, "cpu") for h in (host, limited, fewer)}) == 3
    card = load_host("t4-16g")
    assert "T4" in tuned.machine_of(card, "cuda:0")
    assert tuned.machine_of(card, "cpu") != tuned.machine_of(host, "cpu")


def test_the_store_keeps_the_last_of_a_kind_and_forgets_with_torch_and_processor(tmp_path):
    host = load_host("cpu-amx")
    store = Store(tmp_path / "learned.json", host)
    store.record_tuned(knowing(FP32, host).tuned[0])
    store.record_tuned(knowing(BF16, host).tuned[0])
    store.record_tuned(knowing(BF16, host, size=(416, 416)).tuned[0])
    assert [t.winner for t in store.load().tuned] == [BF16, BF16]
    assert plan(SPEC, host, PREVIEW, store.load()).component("detector").memory_format == "contiguous"
    assert Store(store.path, replace(host, torch="9.9")).load().tuned == ()
    assert Store(store.path, replace(host, cpu=replace(host.cpu, name="another"))).load().tuned == ()


# --- a trial through the engine, by a clock of our own ----------------------------------------------------------


class Clock:
    """Says how long each way takes; every ``disturbed``-th lap is disturbed."""

    def __init__(self, monkeypatch, seconds: dict[Way, float], disturbed: int = 0) -> None:
        self.seconds, self.disturbed, self.laps = seconds, disturbed, []
        self._running: Way | None = None
        drain = Driver.drain

        def noticed(driver, opened, request, journey):
            self._running = candidates.way_of(opened.plan)
            return drain(driver, opened, request, journey)

        monkeypatch.setattr(Driver, "drain", noticed)

    def __call__(self, call):
        value = call()
        assert self._running is not None
        self.laps.append(self._running)
        quiet = not self.disturbed or len(self.laps) % self.disturbed != 0
        return Lap(self.seconds.get(self._running, 0.1) * self._running.batch, quiet, value)


@pytest.fixture
def engine(tmp_path):
    made = engine_on(host_with(base="cpu-amx"), tmp_path)
    yield made
    made.close()


def tuning(engine, clock, wishes=PREVIEW, **settings) -> Tuning:
    *_, last = engine.tune(SPEC, wishes, Trials(timer=clock, **{"rounds": 3, **settings}))
    assert isinstance(last, Tuning)
    return last


def test_the_fastest_is_kept_and_used_by_the_next_run(engine, monkeypatch):
    clock = Clock(monkeypatch, {BF16: 0.05})
    found = tuning(engine, clock)
    assert found.winner == BF16
    assert (found.quiet, found.rounds) == (3, 3)
    assert all(trial.seconds == (pytest.approx(0.1),) * 3 for trial in found.trials if trial.way != BF16)
    assert all(0 < trial.drift < SPEC.max_drift for trial in found.trials if trial.way.dtype == "bf16")
    raced = clock.laps[2 * len(found.trials) :]
    size = len(found.trials)
    assert [set(raced[i : i + size]) for i in range(0, len(raced), size)] == [set(raced)] * 3, "in turn"
    assert raced[0] != raced[size], "another one begins each round"
    made = engine.plan(SPEC, PREVIEW)
    assert made.component("detector").memory_format == "contiguous"
    assert made.predicted_seconds == pytest.approx(0.05, rel=0.3), "what it takes is known now"
    *_, result = engine.run(SPEC, DetectRequest((open_picture(ROOT / "assets/examples/coins.png"),)), PREVIEW)
    assert result.plan.component("detector").memory_format == "contiguous"
    assert result.outputs[0].detections
    assert engine.residency.book.reserved == {}
    record = tuning_record(found)
    assert (record["winner"], record["kept"]) == ("bf16", True)
    for language in ("en", "zh"):
        assert "2.00" in tuning_text(found, language)


def test_a_batch_that_won_is_for_requests_that_fill_it(engine, monkeypatch):
    assert tuning(engine, Clock(monkeypatch, {BATCH: 0.05})).winner == BATCH
    assert engine.plan(SPEC, PREVIEW).batch == 4
    coins = open_picture(ROOT / "assets/examples/coins.png")
    for count, batch in ((1, 1), (2, 2), (5, 4)):
        *_, result = engine.run(SPEC, DetectRequest((coins,) * count), PREVIEW)
        assert isinstance(result, Result)
        assert (result.plan.batch, len(result.outputs)) == (batch, count)


def test_drift_beyond_the_limit_disqualifies(engine, monkeypatch):
    monkeypatch.setattr(DamoYolo, "drift", lambda self, reference, outputs: 0.4)
    found = tuning(engine, Clock(monkeypatch, {BF16: 0.01, BF16_LAST: 0.02}))
    assert found.winner == FP32_LAST
    assert {t.way.dtype for t in found.trials if t.problem == "drift"} == {"bf16", "int8"}
    note = next(d for d in engine.plan(SPEC, PREVIEW).decisions if d.rule == "tuned")
    assert (0.4, "from fp32") in {(r.number, r.unit) for r in note.rejected}
    assert tuning(engine, Clock(monkeypatch, {BF16: 0.01}), replace(PREVIEW, max_drift=0.5)).winner == BF16


def test_int8_is_taken_for_being_the_fastest_here_within_the_drift(engine, monkeypatch):
    times = {INT8: 0.01, BF16_LAST: 0.02, BF16: 0.03, FP32_LAST: 0.04, BATCH: 0.1}
    monkeypatch.setattr(DamoYolo, "drift", lambda self, reference, outputs: 0.09)
    assert engine.plan(SPEC, PREVIEW).component("detector").compute_dtype == "bf16"
    assert tuning(engine, Clock(monkeypatch, times)).winner == INT8
    made = engine.plan(SPEC, PREVIEW)
    assert made.component("detector").compute_dtype == "int8"
    note = next(d for d in made.decisions if d.rule == "tuned")
    assert (note.got, note.params["ms"]) == ("int8 channels_last", 10.0)
    assert tuning(engine, Clock(monkeypatch, times), replace(PREVIEW, max_drift=0.08)).winner == FP32_LAST


def test_what_is_hopeless_after_its_first_runs_is_not_timed_further(engine, monkeypatch):
    clock = Clock(monkeypatch, {FP32_LAST: 9.0})
    found = tuning(engine, clock)
    assert next(t for t in found.trials if t.way == FP32_LAST).problem == "slow"
    assert clock.laps.count(FP32_LAST) == 2


def test_disturbed_rounds_are_thrown_away_and_too_many_of_them_keep_nothing(engine, monkeypatch):
    clock = Clock(monkeypatch, {BF16: 0.05}, disturbed=3)
    found = tuning(engine, clock)
    assert (found.winner, found.quiet) == (BF16, 3)
    assert len(clock.laps) > (2 + 3) * len(found.trials), "each disturbed run was made again"
    assert {len(trial.seconds) for trial in found.trials} == {3}
    engine.store.path.unlink()
    found = tuning(engine, Clock(monkeypatch, {BF16: 0.05}, disturbed=1), rounds=1)
    assert (found.winner, found.quiet, found.rounds) == (None, 0, 3)
    assert engine.store.load().tuned == ()
    assert "0 of 3" in tuning_text(found)


def test_a_way_that_fails_while_it_is_tried_is_out_and_limits_no_request(engine, monkeypatch):
    from adapters.damo_yolo import pipeline

    detect = pipeline._detect

    def failing(parts, pictures, made):
        if (
            made.component("detector").memory_format == "contiguous"
            and made.component("detector").compute_dtype != "fp32"
        ):
            raise RuntimeError("CUDA out of memory. Tried to allocate")
        return detect(parts, pictures, made)

    monkeypatch.setattr(pipeline, "_detect", failing)
    found = tuning(engine, Clock(monkeypatch, {}))
    assert next(t for t in found.trials if t.way == BF16).problem
    assert found.winner == BF16_LAST
    assert engine.plan(SPEC, PREVIEW).situation.limits.min_rung == 0


def test_stop_keeps_nothing_and_frees_the_lane(engine, monkeypatch):
    cancel = Cancel()
    clock = Clock(monkeypatch, {})
    steps = engine.tune(SPEC, PREVIEW, Trials(rounds=3, timer=clock), cancel=cancel)
    next(step for step in steps if step.stage == "tuning")
    cancel.request()
    with pytest.raises(Cancelled):
        next(steps)
    assert engine.store.load().tuned == ()
    assert engine.requests == 0
    assert not engine._lane.locked()


def test_models_that_take_minutes_or_have_no_network_are_not_tuned(engine):
    with pytest.raises(InputError, match=r"takes about \d+ s .* within 20 s"):
        next(engine.tune(adapter("aniportrait")))


# --- from the command line --------------------------------------------------------------------------------------


def test_the_command_tries_the_preview_detector_and_says_what_came_of_it(tmp_path):
    environ = {**os.environ, "ANYHOST_CACHE": str(tmp_path), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    words = ["tune", "damo_yolo", "--variant", "preview", "--size", "96x96", "--rounds", "1", "--json"]
    done = subprocess.run(
        [sys.executable, "app.py", *words], cwd=ROOT, env=environ, capture_output=True, text=True, check=False
    )
    record = json.loads(done.stdout)
    # What else runs on this machine decides whether a round was quiet; either way it is said.
    assert done.returncode == (0 if record["kept"] else 1), done.stderr
    assert record["kept"] == (record["rounds"]["quiet"] >= 1)
    assert 2 <= len(record["tried"]) <= candidates.MOST
    assert all(one["drift"] < SPEC.max_drift for one in record["tried"])
    known = json.loads((tmp_path / "learned.json").read_text())["knowledge"]["tuned"] if record["kept"] else []
    assert len(known) == int(record["kept"])

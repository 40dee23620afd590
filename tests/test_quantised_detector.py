"""The detector in int8: who is offered it, what it finds, what it takes, and what keeps it from doing harm."""

import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from adapters import adapter
from adapters.damo_yolo import calibration
from adapters.damo_yolo.networks import build
from adapters.damo_yolo.pipeline import DetectRequest
from bench.detector import Detector
from kit.images import open_picture
from kit.texts import LANGUAGES, why
from loader import candidates, quantised, ranges, rules
from loader import place as placing
from loader.calibrating import LayerScales, Scale
from loader.engine import Engine
from loader.errors import InputError
from loader.folders import Folders
from loader.host import Host, load_host
from loader.knowledge import Knowledge, Timed, Tuned, Way
from loader.outcome import Result
from loader.place import place
from loader.plan import Plan, plan
from loader.tuned import machine_of
from loader.wishes import Wishes
from tests.machines import ROOT, engine_on, host_with

SPEC = adapter("damo_yolo")
INT8 = Wishes(variant="preview", size=(320, 320), dtype="int8")
COINS = open_picture(ROOT / "assets" / "examples" / "coins.png")
CPUS = {"cpu-amx", "cpu-bf16", "cpu-basic"}  # those of the named hosts that have VNNI
NAMED = sorted(path.stem for path in (ROOT / "loader" / "hosts").glob("*.json"))


def boxes(result: Result) -> list[tuple[str, tuple[int, ...]]]:
    [seen] = result.outputs
    return [(d.label, tuple(round(edge) for edge in d.box)) for d in seen.detections if d.score > 0.5]


def run(engine: Engine, wishes: Wishes = INT8, checkpoint: Path | None = None) -> Result:
    *_, last = engine.run(SPEC, DetectRequest((COINS,)), wishes, checkpoint=checkpoint)
    assert isinstance(last, Result)
    return last


@pytest.fixture
def cpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Engine]:
    # Processors without VNNI, which may run the tests too, overflow with weights of more steps.
    monkeypatch.setattr(quantised, "WEIGHT_LEVELS", 63)
    engine = engine_on(host_with(base="cpu-amx"), tmp_path)
    yield engine
    engine.close()


# --- who is offered it ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMED)
def test_int8_is_computed_where_it_is_wished_and_possible_and_nowhere_else(name):
    host = load_host(name)
    assert {placed.compute_dtype for placed in plan(SPEC, host).components} & {"int8"} == set()
    wished = plan(SPEC, host, Wishes(dtype="int8"))
    assert wished.fits == (name in CPUS)
    if wished.fits:
        [placed] = wished.components
        assert (placed.storage_dtype, placed.compute_dtype, placed.packed) == ("int8", "int8", False)
        assert "dtype_wish" in {decision.rule for decision in wished.decisions}
    else:
        assert wished.refusal is not None
        assert wished.refusal.rule == ("int8_on_card" if host.accelerators else "int8_without_vnni")
        for language in LANGUAGES:
            assert "{" not in why(wished.refusal, language)


@pytest.mark.parametrize("name", ["t4-16g", "rtx4090-24g", "m2-16g"])
def test_not_even_force_computes_int8_on_a_card(name):
    [placed] = plan(SPEC, load_host(name), Wishes(dtype="int8", force=True)).components
    assert placed.compute_dtype != "int8"


def test_on_the_cpu_beside_a_card_it_is_offered():
    host = replace(load_host("rtx4090-24g"), cpu=load_host("cpu-amx").cpu)
    assert plan(SPEC, host, Wishes(dtype="int8", device="cpu")).fits


def test_a_limit_below_vnni_takes_the_offer_back():
    host = load_host("cpu-amx")
    limited = tuple(name for name in host.cpu.effective_isa if name not in rules.INT8_ISA)
    refused = plan(SPEC, replace(host, cpu=replace(host.cpu, effective_isa=limited)), Wishes(dtype="int8")).refusal
    assert refused is not None
    assert (refused.rule, refused.params["nearest"]) == ("int8_without_vnni", "bf16")


def test_it_is_not_compiled_and_says_so():
    made = plan(SPEC, replace(load_host("cpu-amx"), compiler="g++"), Wishes(dtype="int8", compile="default"))
    assert made.components[0].compile == "none"
    assert "compile_int8" in {decision.rule for decision in made.decisions}


def won(host: Host, winner: Way, base: Plan) -> Knowledge:
    timed = (Timed(winner, 0.02, 0.019, 0.021, 0.01),)
    machine = machine_of(host, "cpu")
    facts = (machine, host.torch, SPEC.name, base.variant, "cpu", base.size, "detector")
    return Knowledge(tuned=(Tuned(*facts, winner, candidates.way_of(base), timed, rounds=5, when="2026-11-21"),))


def test_what_won_on_sample_input_is_planned():
    host = load_host("cpu-basic")
    winner = Way("int8", "channels_last")
    made = plan(SPEC, host, Wishes(), won(host, winner, plan(SPEC, host)))
    assert candidates.way_of(made) == winner
    assert "tuned" in {decision.rule for decision in made.decisions}
    older = load_host("cpu-avx2")
    assert candidates.way_of(plan(SPEC, older, Wishes(), won(older, winner, plan(SPEC, older)))).dtype == "fp32"


def test_it_is_tried_where_it_promises_something():
    def tried(name: str) -> set[str]:
        return {way.dtype for way, _ in candidates.candidates(plan(SPEC, load_host(name)))}

    assert "int8" in tried("cpu-basic")
    assert "int8" not in tried("cpu-avx2")
    assert "int8" not in tried("rtx4090-24g")


def test_the_bench_has_a_row_where_it_is_offered():
    folders = Folders(cache=Path("/nowhere"), own=(), assets=ROOT)
    rows = {
        name: Detector(plan(SPEC, load_host(name)), folders).placements(compiled=False)
        for name in ("cpu-basic", "cpu-avx2")
    }
    assert rows["cpu-basic"]["merged int8"].compute_dtype == "int8"
    assert "merged int8" not in rows["cpu-avx2"]


# --- what it does -----------------------------------------------------------------------------------------------


def test_the_coins_are_found_and_the_distance_from_fp32_is_told(cpu, monkeypatch):
    counted: list[int] = []
    real = placing.quantise
    monkeypatch.setattr(placing, "quantise", lambda *args, **kwargs: counted.append(real(*args, **kwargs)))
    result = run(cpu)
    placed = result.plan.component("detector")
    assert (placed.compute_dtype, result.trace) == ("int8", ())
    assert [label for label, _ in boxes(result)] == ["coin"] * 24
    assert result.drift is not None
    assert 0 < result.drift.value < SPEC.max_drift
    assert counted == [91], "every convolution, once: fp32, which it is compared with, has none"


def test_equal_requests_get_equal_answers_whatever_came_before(cpu, tmp_path):
    first = run(cpu)
    run(cpu, replace(INT8, size=(416, 416)))
    other = engine_on(cpu.host, tmp_path / "other")
    run(other, replace(INT8, size=(416, 416)))
    assert boxes(run(other)) == boxes(run(cpu)) == boxes(first)
    other.close()


def test_own_weights_are_calibrated_too(cpu, tmp_path):
    own = tmp_path / "mine.safetensors"
    shutil.copy(ROOT / "assets" / "weights" / "damo_yolo_preview_ns.safetensors", own)
    result = run(cpu, replace(INT8, variant="Ns"), own)
    assert result.plan.component("detector").compute_dtype == "int8"
    assert len(boxes(result)) == 24


def test_saving_memory_loads_it_anew(cpu):
    wishes = replace(INT8, residency="dropped")
    first = run(cpu, wishes)
    assert first.plan.component("detector").residency == "dropped"
    assert boxes(run(cpu, wishes)) == boxes(first)


def test_ranges_are_kept_by_weights_where_finding_them_took_long(cpu, tmp_path, monkeypatch):
    found: list[int] = []
    real = quantised.calibrate
    monkeypatch.setattr(quantised, "calibrate", lambda *args: found.append(1) or real(*args))
    monkeypatch.setattr(ranges, "WORTH_S", 0.0)
    wishes = replace(INT8, residency="dropped")
    first = run(cpu, wishes)
    assert boxes(run(cpu, wishes)) == boxes(first)
    assert len(found) == 1
    [kept] = (tmp_path / "cache" / ranges.FOLDER).iterdir()
    kept.write_text("{", encoding="utf-8")
    assert boxes(run(cpu, wishes)) == boxes(first)
    assert len(found) == 2, "what cannot be read is found again"
    other = tmp_path / "other.safetensors"
    shutil.copy(ROOT / "assets" / "weights" / "damo_yolo_preview_ns.safetensors", other)
    run(cpu, replace(wishes, variant="Ns"), other)
    assert len(found) == 3, "of other weights"


def test_ranges_of_other_code_are_not_used(tmp_path, monkeypatch):
    net, file = build("detector", "Ns").merge().requires_grad_(requires_grad=False), tmp_path / "kept.json"
    scales = {"head.gfl_cls.0": LayerScales(Scale(0.1, 3), None, Scale(1.0, 0))}
    ranges.write(file, net, scales)
    assert ranges.read(file, net, scales) == scales
    assert ranges.read(file, net, ["another layer"]) is None
    monkeypatch.setattr(ranges, "code_of", lambda module: "of a later version")
    assert ranges.read(file, net, scales) is None


def test_what_took_no_time_is_not_kept(cpu, tmp_path, monkeypatch):
    monkeypatch.setattr(ranges, "WORTH_S", 1000.0)
    run(cpu)
    assert not (tmp_path / "cache" / ranges.FOLDER).exists()


def test_weights_take_the_bytes_that_were_planned(cpu):
    made = cpu.plan(SPEC, INT8)
    module = place(
        Detector(made, cpu.folders)._loaded(),
        made.component("detector"),
        ("head.integral", "head.scales"),
        calibration.calls((96, 96)),
    )
    held = [*module.parameters(), *module.buffers()]
    taken = sum(tensor.numel() * tensor.element_size() for tensor in held)
    # Merged there are fewer weights than published; each channel has a bias and a step beside them.
    assert 0.9 < taken / made.component("detector").bytes < 1.25


def test_the_fp32_network_it_is_made_from_is_counted():
    host = load_host("cpu-amx")
    made, fp32 = (plan(SPEC, host, Wishes(variant="L", dtype=dtype)) for dtype in ("int8", "fp32"))
    weights = SPEC.variant("L").component("detector").n_params
    assert made.component("detector").bytes == weights
    assert 5 * weights < made.peak_bytes["host"] < fp32.peak_bytes["host"]
    small = replace(host, ram_bytes=made.peak_bytes["host"], free_ram_bytes=made.peak_bytes["host"])
    assert not plan(SPEC, small, Wishes(variant="L", dtype="int8")).fits


# --- what keeps it from doing harm ------------------------------------------------------------------------------


def test_ranges_that_do_not_fit_put_it_back_to_fp32(cpu, monkeypatch):
    expected = boxes(run(cpu, replace(INT8, dtype="fp32")))
    right = Scale.covering
    monkeypatch.setattr(Scale, "covering", lambda low, high: right(low / 30, high / 30))
    result = run(cpu)
    assert [entry.event for entry in result.trace] == ["drift"]
    assert result.trace[0].plan_change.startswith("detector int8 → fp32")
    assert result.plan.component("detector").compute_dtype == "fp32"
    assert boxes(result) == expected
    again = cpu.plan(SPEC, INT8)
    assert again.refusal is not None, "it is remembered"
    assert again.refusal.rule == "quarantined"
    assert run(cpu, replace(INT8, dtype=None)).outputs


def test_missing_pictures_are_named(cpu, monkeypatch, tmp_path):
    with pytest.raises(InputError, match=r"scene_cloth\.jpg, .*coins\.png is missing"):
        next(calibration.calls((320, 320), tmp_path))
    monkeypatch.setattr(calibration, "PICTURES", ("gone.jpg",))
    with pytest.raises(InputError, match=r"gone\.jpg is missing.* choose another precision"):
        run(cpu)


def test_what_is_not_a_cpu_s_is_not_placed(cpu):
    made = cpu.plan(SPEC, INT8)
    card = replace(made.component("detector"), device="cuda:0")
    with pytest.raises(ValueError, match="int8 is computed on a CPU"):
        place(Detector(made, cpu.folders)._loaded(), card, (), calibration.calls((96, 96)))

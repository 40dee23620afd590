"""Planning: the rules, their texts, and properties that hold for any machine. No torch is imported here."""

import subprocess
import sys
import time
from dataclasses import replace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from adapters import ADAPTERS, adapter
from kit.texts import LANGUAGES, flips_when, refusal, why
from kit.texts.report import plan_record
from loader.decision import Decision, Failure
from loader.host import GIB, Rate, host_names, load_host, with_memory
from loader.knowledge import Correction, Knowledge, Quarantine, correction_key
from loader.plan import Plan, plan, plan_from_json, plan_to_json, relax
from loader.wishes import RESIDENCIES, Wishes
from tests.plan_tables import FOLDER, table

DETECTOR = adapter("damo_yolo")
HOSTS = {name: load_host(name) for name in host_names()}
ALL = [(spec, host) for host in HOSTS.values() for spec in ADAPTERS]
KINDS = (
    "out_of_memory",
    "not_implemented",
    "not_finite",
    "compile_failed",
    "packing_failed",
    "no_kernel_image",
    "drift",
)


def rules(made: Plan) -> list[str]:
    return [d.rule for d in made.decisions]


def decision(made: Plan, rule: str) -> Decision:
    return next(d for d in made.decisions if d.rule == rule)


@pytest.mark.parametrize("spec", ADAPTERS, ids=lambda s: s.name)
def test_plans_for_the_named_hosts_are_those_checked_in(spec):
    assert table(spec) == (FOLDER / f"{spec.name}.txt").read_text(encoding="utf-8"), (
        "plans changed: read the difference, then `python -m tests.plan_tables`"
    )


# --- precision ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["t4-16g", "v100-16g", "rtx2080ti-11g", "gtx1060-6g", "gtx1660-6g", "jetson-nano-4g"])
def test_old_cards_never_compute_bf16(name):
    for spec in ADAPTERS:
        made = plan(spec, HOSTS[name])
        assert all(c.compute_dtype != "bf16" for c in made.components if c.device != "cpu")


def test_turing_gets_fp16_and_says_why_not_bf16():
    made = plan(DETECTOR, HOSTS["t4-16g"])
    assert made.component("detector").compute_dtype == "fp16"
    objection = decision(made, "bf16_not_native")
    assert (objection.wanted, objection.got) == ("bf16", "fp16")
    assert "T4" in why(objection)
    assert "8.0" in flips_when(objection)


def test_gtx1660_gets_fp32_because_fp16_is_broken_there():
    made = plan(DETECTOR, HOSTS["gtx1660-6g"])
    assert made.component("detector").compute_dtype == "fp32"
    assert "fp16_broken" in rules(made)


def test_pascal_computes_fp32_and_stores_fp16_when_short():
    made = plan(adapter("instantid"), HOSTS["gtx1060-6g"])
    unet = made.component("unet")
    assert (unet.compute_dtype, unet.storage_dtype) == ("fp32", "fp16")
    assert "half_storage" in rules(made)


@pytest.mark.parametrize(("name", "times"), [("cpu-basic", 2.2), ("cpu-avx2", 6.0)])
def test_bf16_on_a_cpu_without_it_is_rejected_with_the_figure(name, times):
    made = plan(DETECTOR, HOSTS[name])
    assert made.component("detector").compute_dtype == "fp32"
    assert decision(made, "bf16_cpu_without_isa").rejected[0].number == times


def test_bf16_on_a_cpu_that_has_it_but_was_timed_slow_is_rejected():
    host = HOSTS["cpu-bf16"]
    slow = replace(host, cpu=replace(host.cpu, bf16_convolution_ratio=0.5))
    made = plan(DETECTOR, slow)
    assert made.component("detector").compute_dtype == "fp32"
    assert decision(made, "bf16_cpu_measured_slow").rejected[0].number == 2.0
    assert plan(DETECTOR, host).component("detector").compute_dtype == "bf16"


def test_what_was_learned_overrides_the_probe():
    made = plan(DETECTOR, HOSTS["cpu-bf16"], knowledge=Knowledge(speed={"cpu": {"bf16": 0.8}}))
    assert made.component("detector").compute_dtype == "fp32"


def test_fp16_on_a_cpu_quotes_the_measured_ratio_where_there_is_one():
    host = HOSTS["cpu-bf16"]
    rates = {**host.cpu.rates, "fp32": Rate(400, "measured"), "fp16": Rate(100, "measured")}
    measured = replace(host, cpu=replace(host.cpu, rates=rates))
    made = plan(DETECTOR, measured, Wishes(dtype="fp16"))
    assert made.refusal is not None
    assert made.refusal.params["times"] == 4.0


def test_sensitive_parts_stay_fp32_below_a_low_precision_only():
    assert "head.integral" in plan(DETECTOR, HOSTS["l4-24g"]).component("detector").keep_fp32
    assert plan(DETECTOR, HOSTS["cpu-avx2"]).component("detector").keep_fp32 == ()


def test_the_fp32_only_projection_stays_fp32_beside_fp16():
    made = plan(adapter("instantid"), HOSTS["rtx3060-12g"], Wishes(dtype="fp16"))
    assert made.component("face_projection").compute_dtype == "fp32"
    assert made.component("unet").compute_dtype == "fp16"
    assert "component_keeps_dtype" in rules(made)


def test_precision_first_takes_fp32_and_says_so():
    made = plan(DETECTOR, HOSTS["l4-24g"], Wishes(precision_first=True))
    assert made.component("detector").compute_dtype == "fp32"
    assert "precision_first" in rules(made)


def test_precision_first_gives_way_where_fp32_does_not_fit():
    card = with_memory(HOSTS["a10g-24g"], 5 * GIB)
    first = plan(adapter("instantid"), card, Wishes(precision_first=True, residency="offload", size=(512, 512)))
    assert first.fits


# --- wheel and card -----------------------------------------------------------------------------------------------


def test_a_card_the_wheel_does_not_know_gets_the_cpu_and_the_hint():
    host = replace(HOSTS["v100-16g"], wheel_archs=("sm_75", "sm_80", "sm_90"))
    made = plan(DETECTOR, host)
    assert made.device == "cpu"
    assert "sm_70" in why(decision(made, "wheel_lacks_arch"))
    assert "sm_70" in flips_when(decision(made, "wheel_lacks_arch"))


def test_code_of_a_lower_minor_version_runs():
    ada = replace(HOSTS["rtx4090-24g"], wheel_archs=("sm_80",))
    assert plan(DETECTOR, ada).device == "cuda:0"


def test_a_card_that_does_not_answer_gets_the_cpu():
    host = HOSTS["t4-16g"]
    dead = replace(host, accelerators=(replace(host.accelerators[0], runs_code=False),))
    assert plan(DETECTOR, dead).device == "cpu"


# --- wishes -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("wishes", "rule", "nearest"),
    [
        (Wishes(dtype="bf16"), "bf16_not_native", "fp16"),
        (Wishes(device="cuda:7"), "no_such_device", "cuda:0"),
        (Wishes(variant="XL"), "unknown_variant", "T"),
        (Wishes(size=(630, 640)), "size_not_possible", "640×640"),
        (Wishes(batch=64), "batch_too_large", "16"),
        (Wishes(batch=0), "below_one", "1"),
        (Wishes(component_dtype={"detctor": "fp32"}), "unknown_component", "detector"),
        (Wishes(dtype="int8"), "int8_on_card", "fp16"),
    ],
)
def test_a_wish_that_cannot_be_honoured_is_refused_with_the_nearest(wishes, rule, nearest):
    made = plan(DETECTOR, HOSTS["t4-16g"], wishes)
    assert not made.fits
    assert made.refusal is not None
    assert (made.refusal.rule, made.refusal.params["nearest"]) == (rule, nearest)
    assert nearest in refusal(made.refusal)


def test_a_precision_no_part_has_is_not_offered():
    made = plan(adapter("metric3d"), HOSTS["cpu-amx"], Wishes(dtype="int8"))
    assert made.refusal is not None
    assert (made.refusal.rule, made.refusal.params["nearest"]) == ("dtype_not_offered", "bf16")
    assert "bf16" in refusal(made.refusal)


def test_force_tries_it_and_says_so():
    made = plan(DETECTOR, HOSTS["t4-16g"], Wishes(dtype="bf16", force=True))
    assert made.fits
    assert made.component("detector").compute_dtype == "bf16"
    assert "dtype_forced" in rules(made)


def test_force_cannot_conjure_a_device():
    assert not plan(DETECTOR, HOSTS["t4-16g"], Wishes(device="cuda:7", force=True)).fits


def test_a_wish_for_one_component_moves_only_that_one():
    made = plan(adapter("instantid"), HOSTS["a100-40g"], Wishes(component_dtype={"unet": "bf16"}))
    assert made.component("unet").compute_dtype == "bf16"
    assert made.component("identity_net").compute_dtype == "fp16"


def test_saving_memory_starts_the_ladder_lower():
    made = plan(adapter("instantid"), HOSTS["h200-141g"], Wishes(residency="offload"))
    assert made.component("unet").residency == "offload"
    assert "residency_wish" in rules(made)


@pytest.mark.parametrize(("name", "rule"), [("zerogpu-48g", "compile_zerogpu"), ("cpu-basic", "compile_no_compiler")])
def test_compile_is_refused_where_it_cannot_work(name, rule):
    host = replace(HOSTS[name], compiler=False)
    made = plan(DETECTOR, host, Wishes(compile="default"))
    assert made.component("detector").compile == "none"
    assert rule in rules(made)


def test_compile_is_left_out_until_enough_calls_repay_it():
    cpu = HOSTS["cpu-bf16"]
    made = plan(DETECTOR, replace(cpu, cpu=replace(cpu.cpu, arch="aarch64")))
    assert decision(made, "compile_break_even").params["calls"] > 100
    assert decision(plan(DETECTOR, cpu), "compile_packed")
    assert plan(DETECTOR, HOSTS["cpu-bf16"], Wishes(compile="default")).component("detector").compile == "default"


# --- memory -------------------------------------------------------------------------------------------------------


def test_a_small_card_offloads_and_says_what_is_missing():
    made = plan(adapter("instantid"), HOSTS["rtx3060-12g"])
    assert made.component("unet").residency == "offload"
    note = decision(made, "residency")
    assert note.rejected[0].what == "resident"
    assert note.rejected[0].number > 0
    assert "GiB" in flips_when(note)


def test_a_refusal_names_what_would_fit():
    made = plan(adapter("metric3d"), with_memory(HOSTS["l4-24g"], 3 * GIB), Wishes(variant="vit_giant2", batch=8))
    if made.fits:
        assert made.batch < 8
    tiny = plan(
        adapter("metric3d"), with_memory(HOSTS["l4-24g"], GIB), Wishes(variant="vit_giant2", residency="resident")
    )
    assert tiny.fits is False or tiny.component("depth_model").residency != "resident"


def test_does_not_fit_gives_needs_free_and_nearest():
    host = with_memory(replace(HOSTS["cpu-basic"], accelerators=()), 3 * GIB)
    made = plan(adapter("metric3d"), host, Wishes(variant="vit_giant2"))
    assert not made.fits
    assert made.refusal is not None
    assert made.refusal.rule == "does_not_fit"
    assert made.refusal.params["needs_gib"] > made.refusal.params["free_gib"]
    variant, size = str(made.refusal.params["nearest"]).split()[:2]
    height, width = size.split("×")
    assert plan(adapter("metric3d"), host, Wishes(variant=variant, size=(int(height), int(width)))).fits


def test_a_batch_shrinks_before_residency_drops():
    roomy = plan(DETECTOR, HOSTS["t4-16g"], Wishes(batch=16))
    assert roomy.batch == 16
    tight = plan(DETECTOR, with_memory(HOSTS["t4-16g"], int(0.75 * GIB)), Wishes(batch=16))
    assert tight.batch < 16
    assert tight.component("detector").residency == "resident"
    assert "batch_for_memory" in rules(tight)


def test_unified_memory_is_counted_once():
    made = plan(adapter("hunyuan3d"), HOSTS["m2-16g"])
    assert made.fits
    assert made.peak_bytes["device"] + made.peak_bytes["host"] <= HOSTS["m2-16g"].ram_bytes


def test_what_other_adapters_hold_is_subtracted():
    held = Knowledge(held_bytes={"cuda:0": 10 * GIB})
    alone, beside = (
        plan(adapter("instantid"), HOSTS["a10g-24g"]),
        plan(adapter("instantid"), HOSTS["a10g-24g"], None, held),
    )
    assert alone.component("unet").residency == "resident"
    assert beside.component("unet").residency != "resident"


def test_measured_corrections_change_the_prediction():
    plain = plan(DETECTOR, HOSTS["cpu-bf16"])
    key = correction_key("damo_yolo", "T", "cpu", "bf16")
    corrected = plan(DETECTOR, HOSTS["cpu-bf16"], None, Knowledge(corrections={key: Correction(2.0, 1.5, 3)}))
    assert corrected.predicted_seconds == pytest.approx(2 * plain.predicted_seconds)
    assert corrected.peak_bytes["host"] == pytest.approx(1.5 * plain.peak_bytes["host"], rel=0.01)


def test_quarantined_precision_is_skipped():
    entry = Quarantine("damo_yolo", "T", "detector", "bf16", "none", "2.13.0", "cpu", "NaN")
    made = plan(DETECTOR, HOSTS["cpu-bf16"], None, Knowledge(quarantine=(entry,)))
    assert made.component("detector").compute_dtype == "fp32"
    assert "NaN" in why(decision(made, "quarantined"))


def test_missing_weights_bring_the_preview_and_say_so():
    made = plan(DETECTOR, HOSTS["cpu-bf16"], None, Knowledge(unavailable=("damo_yolo/T",)))
    assert (made.variant, made.provenance) == ("preview", "preview")
    assert "rendered scenes" in why(decision(made, "preview_weights"))


@pytest.mark.parametrize(("variant", "low", "high"), [("vit_small", 0.5, 2.0), ("vit_large", 4.0, 14.0)])
def test_seconds_on_a_jetson_nano_are_of_the_order_users_report(variant, low, high):
    """About 1 s a frame of 480×360 for the small network and 7 to 10 s for the large one."""
    made = plan(adapter("metric3d"), HOSTS["jetson-nano-4g"], Wishes(variant=variant, size=(364, 476)))
    assert made.component("depth_model").compute_dtype == "fp16"
    assert low <= made.predicted_seconds <= high


def test_a_slow_host_gets_a_smaller_picture_with_the_cost_stated():
    made = plan(adapter("metric3d"), HOSTS["cpu-basic"])
    assert made.size < (616, 1064)
    note = decision(made, "size_for_speed")
    assert note.rejected[0].unit == "s"
    assert plan(adapter("metric3d"), HOSTS["cpu-basic"], Wishes(size=(616, 1064))).size == (616, 1064)


# --- the way down -------------------------------------------------------------------------------------------------


def test_nan_in_fp16_tries_bf16_then_fp32():
    made = plan(DETECTOR, HOSTS["a100-40g"], Wishes(dtype="fp16"))
    first = relax(made, Failure("not_finite", "detector", detail="3 of 9"))
    assert first.component("detector").compute_dtype == "bf16"
    second = relax(first, Failure("not_finite", "detector"))
    assert second.component("detector").compute_dtype == "fp32"
    assert not relax(second, Failure("not_finite", "detector")).fits


def test_a_missing_operator_keeps_only_that_submodule_in_fp32_first():
    made = plan(DETECTOR, HOSTS["a100-40g"])
    first = relax(made, Failure("not_implemented", "detector", "neck.merge_3"))
    assert "neck.merge_3" in first.component("detector").keep_fp32
    assert first.component("detector").compute_dtype == "bf16"
    again = relax(first, Failure("not_implemented", "detector", "neck.merge_3"))
    assert again.component("detector").compute_dtype == "fp32"


def test_out_of_memory_walks_batch_savers_residency_in_that_order():
    made = plan(adapter("instantid"), HOSTS["h200-141g"], Wishes(batch=2))
    seen = [(made.batch, made.savers, made.component("unet").residency)]
    while True:
        made = relax(made, Failure("out_of_memory", "unet"))
        if not made.fits:
            break
        seen.append((made.batch, made.savers, made.component("unet").residency))
    assert seen[:4] == [
        (2, (), "resident"),
        (2, ("vae_tiling",), "resident"),
        (1, (), "resident"),
        (1, ("vae_tiling",), "resident"),
    ]
    order = [RESIDENCIES.index(residency) for _, _, residency in seen]
    assert order == sorted(order)
    assert order[-1] == 3


def test_a_smaller_variant_only_if_allowed():
    host = HOSTS["rtx3060-12g"]

    def last_variant(wishes: Wishes) -> str:
        made = plan(adapter("hunyuan3d"), host, wishes)
        names = [made.variant]
        while (made := relax(made, Failure("out_of_memory", "view_unet"))).fits:
            names.append(made.variant)
        return names[-1]

    assert last_variant(Wishes(variant="std")) == "std"
    assert last_variant(Wishes(variant="std", allow_smaller=True)) == "lite"


def test_a_bare_reason_is_one_of_the_largest_component():
    made = plan(adapter("instantid"), HOSTS["a100-40g"])
    assert relax(made, "not_finite") == relax(made, Failure("not_finite", "unet"))


def test_no_kernel_image_goes_to_the_cpu():
    lower = relax(plan(DETECTOR, HOSTS["t4-16g"]), Failure("no_kernel_image", "detector"))
    assert lower.device == "cpu"
    assert not relax(lower, Failure("no_kernel_image", "detector")).fits


def test_compile_failure_means_eager():
    made = plan(DETECTOR, HOSTS["cpu-bf16"], Wishes(compile="default"))
    lower = relax(made, Failure("compile_failed", "detector"))
    assert lower.component("detector").compile == "none"
    assert not relax(lower, Failure("compile_failed", "detector")).fits


def test_an_operator_missing_in_part_after_part_means_fp32_for_all():
    made, taken = plan(DETECTOR, HOSTS["t4-16g"]), []
    assert made.component("detector").compute_dtype == "fp16"
    for index in range(9):
        made = relax(made, Failure("not_implemented", "detector", f"backbone.block{index}"))
        taken.append(made.component("detector").compute_dtype)
        if taken[-1] == "fp32":
            break
    assert taken == ["fp16", "fp16", "fp16", "fp32"], "each costs loading it again"


def test_packing_failure_means_layers_as_they_are():
    made = plan(DETECTOR, HOSTS["cpu-amx"])
    assert made.component("detector").packed
    lower = relax(made, Failure("packing_failed", "detector", detail="no primitive"))
    assert lower.component("detector") == replace(
        made.component("detector"), packed=False, compile=lower.component("detector").compile
    )
    assert next(d for d in lower.decisions if d.rule == "packing_failed").params == {"detail": "no primitive"}
    assert not relax(lower, Failure("packing_failed", "detector")).fits


def test_packing_that_failed_here_leaves_the_precision():
    entry = Quarantine(
        "damo_yolo", "T", "detector", "bf16", "none", "2.13.0", "cpu", "packing failed: no primitive", packed=True
    )
    placed = plan(DETECTOR, HOSTS["cpu-amx"], Wishes(), Knowledge(quarantine=(entry,))).component("detector")
    assert (placed.compute_dtype, placed.packed) == ("bf16", False)


# --- properties ---------------------------------------------------------------------------------------------------

hosts = st.sampled_from(sorted(HOSTS)).map(HOSTS.get)
specs = st.sampled_from(ADAPTERS)
memories = st.floats(0.4, 160).map(lambda gib: int(gib * GIB))
some_wishes = st.builds(
    Wishes,
    dtype=st.sampled_from([None, None, "fp32", "fp16", "bf16"]),
    batch=st.sampled_from([None, 1, 2, 8]),
    residency=st.sampled_from([None, *RESIDENCIES]),
    compile=st.sampled_from([None, "none", "default"]),
    precision_first=st.booleans(),
    allow_smaller=st.booleans(),
)
quick = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])


@quick
@given(specs, hosts, memories, some_wishes)
def test_precision_is_always_one_the_device_has(spec, host, memory, wishes):
    made = plan(spec, with_memory(host, memory), wishes)
    for c in made.components:
        accelerator = host.accelerator(c.device)
        if accelerator is None:
            assert c.compute_dtype != "fp16"
            if c.compute_dtype == "bf16":
                assert {"avx512_bf16", "amx_bf16", "arm_bf16"} & set(host.cpu.effective_isa)
        else:
            assert c.compute_dtype == "fp32" or c.compute_dtype in accelerator.native


@quick
@given(specs, hosts, memories, some_wishes)
def test_the_predicted_peak_is_within_the_budget_or_it_is_refused(spec, host, memory, wishes):
    made = plan(spec, with_memory(host, memory), wishes)
    if made.fits:
        assert made.peak_bytes["device"] <= made.budget_bytes["device"]
        assert made.peak_bytes["host"] <= made.budget_bytes["host"]
    else:
        assert made.refusal is not None
        assert refusal(made.refusal)


@quick
@given(specs, hosts, memories, memories, some_wishes)
def test_more_memory_never_means_a_smaller_picture_or_for_the_same_picture_a_lower_residency(
    spec, host, first, second, wishes
):
    less, more = sorted((first, second))
    small, large = (plan(spec, with_memory(host, m), replace(wishes, precision_first=False)) for m in (less, more))
    if not small.fits:
        return
    assert large.fits
    order = [v.name for v in spec.variants]
    if small.variant == large.variant:
        assert large.size[0] * large.size[1] >= small.size[0] * small.size[1]
        if small.size == large.size:
            ranks = [max(RESIDENCIES.index(c.residency) for c in p.components) for p in (small, large)]
            assert ranks[1] <= ranks[0]
            assert large.rung <= small.rung
    elif small.variant in spec.smaller and large.variant in spec.smaller:
        assert spec.smaller.index(large.variant) <= spec.smaller.index(small.variant), order


@quick
@given(specs, hosts, some_wishes, st.lists(st.sampled_from(KINDS), min_size=1, max_size=12), st.data())
def test_relax_always_ends(spec, host, wishes, kinds, data):
    made = plan(spec, host, wishes)
    for step in range(400):
        if not made.fits:
            return
        names = [c.name for c in made.components]
        failure = Failure(kinds[step % len(kinds)], data.draw(st.sampled_from(names)), "some.block")
        made = relax(made, failure)
    pytest.fail("relax did not end in 400 steps")


@quick
@given(specs, hosts, some_wishes)
def test_a_plan_survives_json_and_back(spec, host, wishes):
    made = plan(spec, host, wishes)
    again = plan_from_json(plan_to_json(made))
    assert again == made
    if made.fits:
        failure = Failure("out_of_memory", made.components[0].name)
        assert relax(again, failure) == relax(made, failure)


@quick
@given(specs, hosts, memories, some_wishes)
def test_every_decision_has_its_prose_in_every_language(spec, host, memory, wishes):
    made = plan(spec, with_memory(host, memory), wishes)
    for language in LANGUAGES:
        for d in made.decisions:
            assert "–" not in why(d, language), "a figure is missing"
            assert why(d, language)
            assert bool(flips_when(d, language)) == bool(d.flips)


# --- contract and cost --------------------------------------------------------------------------------------------


def test_the_record_has_the_contracted_keys():
    record = plan_record(plan(DETECTOR, HOSTS["t4-16g"]))
    assert {
        *("host", "adapter", "variant", "fits", "size", "batch", "savers", "peak_bytes", "predicted_seconds"),
        *("components", "decisions"),
    } <= record.keys()
    assert set(record["components"][0]) >= {
        *("name", "device", "storage_dtype", "compute_dtype", "residency", "memory_format", "compile", "bytes"),
    }
    assert set(record["decisions"][0]) == {"rule", "subject", "wanted", "got", "why", "rejected", "flips_when"}


def test_planning_needs_no_torch():
    code = (
        "import sys; from adapters import ADAPTERS; from loader.plan import plan; from loader.host import load_host\n"
        "plan(ADAPTERS[0], load_host('t4-16g')); assert 'torch' not in sys.modules and 'numpy' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_planning_everything_everywhere_is_cheaper_than_counting_to_five_million():
    """A ratio in one run, because absolute times say nothing on a shared machine; it is 100 ms on a quiet one."""
    start = time.process_time()
    for spec, host in ALL:
        plan(spec, host)
    planning = time.process_time() - start
    start = time.process_time()
    sum(i * i for i in range(5_000_000))
    assert planning < time.process_time() - start


def test_what_gave_nan_is_left_even_where_it_was_forced():
    made = plan(adapter("instantid"), load_host("rtx3060-12g"), Wishes(dtype="fp16", force=True))
    seen = [made.component("vae").compute_dtype]
    for _ in range(4):
        made = relax(made, Failure("not_finite", "vae"))
        if not made.fits:
            break
        seen.append(made.component("vae").compute_dtype)
    assert seen == ["fp16", "bf16", "fp32"]
    assert not made.fits

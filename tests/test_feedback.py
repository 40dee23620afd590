"""What runs teach the next prediction, by size of request; and a run as a file that can be replayed."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from adapters import adapter
from loader import bundle as bundles
from loader import measure
from loader.bundle import Bundle, bundle_from_json, bundle_of, bundle_to_json, read_bundle, replay, write_bundle
from loader.decision import Failure, Situation
from loader.errors import InputError
from loader.host import load_host
from loader.knowledge import Correction, Knowledge, Quarantine, correction_key
from loader.measure import Cost, Store
from loader.outcome import Result, TraceEntry
from loader.plan import Plan, applied_correction, correction_keys, plan, plan_situation, relax
from loader.quiet import Quiet
from loader.wishes import Wishes
from tests.machines import engine_on, host_with
from tests.staged_adapter import Asked, spec_named

DEPTH = adapter("metric3d")
SMALL, LARGE = (224, 448), (616, 1064)
DTYPE = "fp16"  # of the depth network on that card


def planned(store: Store, size: tuple[int, int], **wishes: object) -> Plan:
    host = load_host("t4-16g")
    return plan(DEPTH, host, Wishes(variant="vit_small", size=size, **wishes), store.load())


def teach(store: Store, made: Plan, *, seconds: float, share: float, times: int = 1) -> None:
    """As if runs by ``made`` had taken ``seconds`` times and ``share`` of the bytes that arithmetic predicts."""
    plain = plan(DEPTH, load_host("t4-16g"), made.situation.wishes)
    for _ in range(times):
        known = store.load()
        now = plan_situation(replace(made.situation, knowledge=known))
        store.record_run(
            correction_keys(now),
            predicted=Cost(now.predicted_seconds, now.peak_bytes["device"]),
            measured=Cost(plain.predicted_seconds * seconds, int(plain.peak_bytes["device"] * share)),
            applied=applied_correction(now),
        )


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "learned.json", load_host("t4-16g"))


def test_each_size_learns_its_own_and_others_the_average(store: Store):
    before = {size: planned(store, size) for size in (SMALL, LARGE)}
    teach(store, before[SMALL], seconds=3.0, share=0.5, times=20)
    teach(store, before[LARGE], seconds=1.2, share=0.9, times=20)
    for size, factor, share in ((SMALL, 3.0, 0.5), (LARGE, 1.2, 0.9)):
        after = planned(store, size)
        assert after.predicted_seconds / before[size].predicted_seconds == pytest.approx(factor, rel=0.06)
        assert after.peak_bytes["device"] / before[size].peak_bytes["device"] == pytest.approx(share, rel=0.06)
    other = planned(store, (448, 896))
    assert 1.2 < applied_correction(other).seconds < 3.0


def test_one_run_of_a_size_counts_half_beside_what_is_known_in_general(store: Store):
    teach(store, planned(store, LARGE), seconds=1.0, share=1.0, times=20)
    teach(store, planned(store, SMALL), seconds=5.0, share=1.0)
    seconds = applied_correction(planned(store, SMALL)).seconds
    assert 2.5 < seconds < 4.0


def test_another_residency_of_the_same_size_is_another_kind_of_run(store: Store):
    offload = planned(store, LARGE, residency="offload")
    resident = planned(store, LARGE)
    assert correction_keys(offload)[0] == correction_keys(resident)[0]
    assert correction_keys(offload)[1] != correction_keys(resident)[1]


def test_a_correction_without_a_size_holds_for_all_sizes():
    key = correction_key("metric3d", "vit_small", "cuda:0", DTYPE)
    known = Knowledge(corrections={key: Correction(2.0, 1.5, 3)})
    host = load_host("t4-16g")
    made = plan(DEPTH, host, Wishes(variant="vit_small", size=SMALL))
    corrected = plan(DEPTH, host, Wishes(variant="vit_small", size=SMALL), known)
    assert made.component("depth_model").compute_dtype == DTYPE
    assert corrected.predicted_seconds == pytest.approx(2 * made.predicted_seconds)
    assert known.correction(f"{key}/224x448 b1 f1 resident") == Correction(2.0, 1.5, 3)


def test_the_store_does_not_grow_with_the_sizes_users_think_of(store: Store, monkeypatch):
    monkeypatch.setattr(measure, "_MAX_CORRECTIONS", 10)
    for number in range(25):
        store.record_run(
            [f"a/b/cpu/fp32/{number}x8 b1 f1 resident", "a/b/cpu/fp32"],
            predicted=Cost(1.0, 100),
            measured=Cost(2.0, 100),
        )
    known = store.load().corrections
    assert len(known) == 10
    assert known["a/b/cpu/fp32"].runs == 25
    assert "a/b/cpu/fp32/0x8 b1 f1 resident" not in known


def test_runs_of_the_engine_teach_both_kinds_and_memory_only_where_all_was_needed(tmp_path, monkeypatch):
    def quiet(self: Quiet, *_: object) -> None:
        self.seconds, self.held = 0.5, True

    monkeypatch.setattr(Quiet, "__exit__", quiet)
    engine = engine_on(host_with(), tmp_path)
    spec, wishes = spec_named(), Wishes(dtype="fp32")
    before = engine.plan(spec, wishes)
    everything = Asked(("text", "audio", "unet", "control", "decoder"))
    *_, part = engine.run(spec, Asked(("text",)), wishes)
    assert applied_correction(engine.plan(spec, wishes)).bytes == 1.0
    assert set(part.component_bytes) == {"text"}
    *_, whole = engine.run(spec, everything, wishes)
    after = engine.plan(spec, wishes)
    assert after.predicted_seconds > before.predicted_seconds
    assert applied_correction(after).bytes != 1.0
    assert set(engine.store.load().corrections) == set(correction_keys(whole.plan))
    engine.close()


# --- bundles --------------------------------------------------------------------------------------------------------


def finished() -> Result:
    """A run that stepped down, on a machine where something is quarantined, with words that name files."""
    host = load_host("t4-16g")
    why = "input '/home/anna/Pictures/wedding day.png' and C:\\Users\\Anna\\me.jpg: not implemented for 'Half'"
    known = Knowledge(
        quarantine=(Quarantine("metric3d", "vit_small", "depth_model", "fp16", "none", host.torch, "cuda:0", why),)
    )
    made = plan_situation(Situation(DEPTH, host, Wishes(batch=4), known))
    lower = relax(made, Failure("out_of_memory", "depth_model", detail=why))
    trace = (TraceEntry("anna.png", "out_of_memory", why, "batch 4 → 2"),)
    return Result((), lower, trace, 1.5, peak_bytes={"device": 10, "host": 20}, weights="own file anna.pth")


def test_a_bundle_replays_to_the_same_plan(tmp_path: Path):
    bundle = bundle_of(finished())
    write_bundle(tmp_path / "run.json", bundle)
    again = read_bundle(tmp_path / "run.json")
    assert again == bundle
    assert replay(again) == bundle.plan
    assert again.plan.batch < 4
    assert again.trace[0].plan_change == "batch 4 → 2"
    assert [p.name for p in tmp_path.iterdir()] == ["run.json"]


@pytest.mark.parametrize("name", ["damo_yolo", "metric3d", "instantid", "aniportrait", "hunyuan3d"])
@pytest.mark.parametrize("host", ["t4-16g", "rtx3070-8g", "cpu-basic", "m2-16g", "zerogpu-48g"])
def test_every_plan_survives_the_file(name: str, host: str):
    made = plan(adapter(name), load_host(host))
    again = bundle_from_json(bundle_to_json(bundle_of(made)))
    assert again.plan == made
    assert replay(again) == made


def test_a_bundle_has_nobody_s_names_in_it():
    text = bundle_to_json(bundle_of(finished()))
    for word in ("anna", "Anna", "wedding", "Pictures", "home"):
        assert word not in text
    assert "not implemented for 'Half'" in text, "what failed is told"


def test_a_bundle_kept_with_the_tests_still_gives_what_it_gave():
    """A file of an earlier day: what is run, and where, is the same. Predictions may have become better since."""
    kept = read_bundle(Path(__file__).parent / "data" / "bundle.json")
    made = replay(kept)
    again = "what is run has changed: if on purpose, `python -m tests.test_feedback` writes the file anew"
    for name in ("fits", "variant", "device", "size", "batch", "savers", "rung"):
        assert getattr(made, name) == getattr(kept.plan, name), again
    for was, now in zip(kept.plan.components, made.components, strict=True):
        same = ("name", "device", "storage_dtype", "compute_dtype", "residency")
        assert [getattr(now, f) for f in same] == [getattr(was, f) for f in same], again
    assert [t.event for t in kept.trace] == ["out_of_memory"]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "not JSON"),
        ("[]", "format is None"),
        ('{"format": "anyhost-bundle-9"}', r"anyhost-bundle-9.*expected 'anyhost-bundle-1'"),
        ('{"format": "anyhost-bundle-1"}', "missing field plan"),
        ('{"format": "anyhost-bundle-1", "plan": {"host": 3}}', "is no bundle"),
        ("[" * 100_000, "not JSON"),
    ],
)
def test_other_files_are_refused_by_what_is_wrong(text: str, words: str):
    with pytest.raises(InputError, match=words):
        bundle_from_json(text)


def test_a_bundle_with_figures_out_of_place_is_refused(tmp_path: Path):
    data = json.loads(bundle_to_json(bundle_of(finished())))
    data["plan"]["batch"] = "many"
    with pytest.raises(InputError, match=r"Bundle.plan.batch.*'many'"):
        bundle_from_json(json.dumps(data))
    with pytest.raises(InputError, match="cannot be read"):
        read_bundle(tmp_path / "none.json")
    (tmp_path / "large.json").write_bytes(b" " * (bundles.MAX_BYTES + 1))
    with pytest.raises(InputError, match="at most"):
        read_bundle(tmp_path / "large.json")


if __name__ == "__main__":
    target = Path(__file__).parent / "data" / "bundle.json"
    target.parent.mkdir(exist_ok=True)
    kept: Bundle = bundle_of(finished())
    write_bundle(target, kept)

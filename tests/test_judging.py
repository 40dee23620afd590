"""The quality guard: which part drifts, what is known already, and what the comparison may cost."""

import json
from collections import Counter
from dataclasses import replace

import pytest
import torch

from adapters import adapter
from adapters.damo_yolo.pipeline import DamoYolo, DetectRequest
from commands.run import record, text
from kit.images import open_picture
from kit.texts.report import drift_text
from loader import judging, quality
from loader.host import load_host
from loader.judging import Judged
from loader.outcome import Drift, Result, Step
from loader.plan import plan
from loader.wishes import Wishes
from tests import staged_adapter as staged
from tests.fake_accelerator import fake_accelerator, fake_card
from tests.machines import ROOT, engine_on, host_with

GIB = 2**30
SPEC = replace(staged.spec_named(), max_drift=0.1)
ASKED = staged.Asked(("text", "unet", "control", "decoder"))
DETECTOR = adapter("damo_yolo")
PREVIEW = Wishes(variant="preview", size=(160, 160))
COINS = open_picture(ROOT / "assets" / "examples" / "coins.png")


@pytest.fixture(autouse=True)
def memory():
    with fake_accelerator(8 * GIB) as used:
        yield used


class Drifting:
    """Each component below fp32 adds its share to the drift of a staged run; counts the sample's runs."""

    def __init__(self, monkeypatch, **shares: float) -> None:
        self.shares, self.runs = shares, Counter()
        monkeypatch.setattr(staged.Staged, "sample", lambda _, plan: replace(ASKED, seed=1))
        monkeypatch.setattr(staged.Staged, "run", self._run)
        monkeypatch.setattr(staged.Staged, "drift", lambda _, there, here: abs(float(here[0] - there[0])))

    def _run(self, parts, request):
        low = [p.name for p in parts.plan.components if p.compute_dtype != "fp32"]
        if request.seed == 1:
            self.runs[",".join(low)] += 1
        yield Step("denoising", 1, 1)
        return (torch.tensor(sum(self.shares.get(name, 0.0) for name in low)),)


def run(engine, wishes: Wishes | None = None, **named) -> Result:
    *_, last = engine.run(SPEC, ASKED, wishes, **named)
    assert isinstance(last, Result)
    return last


def dtypes(result: Result) -> dict[str, str]:
    return {p.name: p.compute_dtype for p in result.plan.components}


def on_card(folder):
    return engine_on(host_with(fake_card(8 * GIB)), folder)


def test_only_the_part_that_drifts_goes_to_fp32_and_both_figures_are_told(tmp_path, monkeypatch):
    drifting = Drifting(monkeypatch, control=0.5, text=0.01, unet=0.02)
    engine = on_card(tmp_path)
    result = run(engine)
    assert [name for name, dtype in dtypes(result).items() if dtype == "fp32"] == ["control"]
    (entry,) = result.trace
    assert (entry.event, entry.why, entry.plan_change) == ("drift", "0.530 > 0.100 → 0.030", "control fp16 → fp32")
    assert result.drift == Drift(pytest.approx(0.03), 0.1, "none", "measured", result.drift.seconds)
    quarantined = {(entry.component, entry.dtype) for entry in engine.store.load().quarantine}
    assert quarantined == {("control", "fp16"), ("control", "bf16"), ("control", "int8")}, "what rounds no less, too"
    assert max(drifting.runs.values()) == 1, "nothing is run twice"
    engine.close()
    before = sum(drifting.runs.values())
    again = on_card(tmp_path)
    known = run(again)
    assert known.trace == ()
    assert known.drift.how == "known"
    assert sum(drifting.runs.values()) == before + 1, "warmed up only"
    again.close()


def test_several_parts_that_drift_go_one_after_the_other_the_worst_first(tmp_path, monkeypatch):
    Drifting(monkeypatch, unet=0.5, control=0.3, decoder=0.05)
    engine = on_card(tmp_path)
    result = run(engine, Wishes(max_drift=0.06))
    assert engine.store.load().quarantine == (), "one user's wish is nobody else's limit"
    assert [t.plan_change for t in result.trace] == ["unet fp16 → fp32", "control fp16 → fp32"]
    assert result.drift.value == pytest.approx(0.05)
    assert dtypes(result)["decoder"] == "fp16"
    engine.close()


def test_a_comparison_that_would_take_too_long_is_skipped_with_a_word_and_made_on_request(tmp_path, monkeypatch):
    drifting = Drifting(monkeypatch, unet=0.5)
    engine = on_card(tmp_path)
    monkeypatch.setattr(engine._judge, "_budget_s", -1.0)
    *steps, result = engine.run(SPEC, ASKED, Wishes(max_drift=0.1))
    assert "judging_skipped" in {s.stage for s in steps}
    assert (result.trace, result.drift.how, result.drift.value) == ((), "skipped", None)
    assert sum(drifting.runs.values()) == 1, "nothing but the warm-up"
    asked = run(engine, Wishes(max_drift=0.1), check_drift=True)
    assert asked.drift.how == "measured"
    assert dtypes(asked)["unet"] == "fp32"
    engine.close()


def test_what_cannot_be_told_apart_in_time_all_goes_to_fp32(tmp_path, monkeypatch):
    Drifting(monkeypatch, unet=0.5)
    engine = on_card(tmp_path)
    run(engine, Wishes(max_drift=9.0))
    engine.close()
    engine = on_card(tmp_path)
    monkeypatch.setattr(engine._judge, "_budget_s", -1.0)
    result = run(engine, Wishes(max_drift=0.1))
    assert set(dtypes(result).values()) == {"fp32"}
    assert {t.event for t in result.trace} == {"drift"}
    engine.close()


def test_a_judgement_is_kept_over_restarts_and_made_again_when_asked(tmp_path, monkeypatch):
    calls = []
    drift = DamoYolo.drift
    monkeypatch.setattr(DamoYolo, "drift", lambda *a: calls.append(a) or drift(*a))

    def once(**named) -> Result:
        engine = engine_on(host_with(base="cpu-amx"), tmp_path)
        *_, last = engine.run(DETECTOR, DetectRequest((COINS,)), PREVIEW, **named)
        engine.close()
        return last

    assert (once().drift.how, once().drift.how, len(calls)) == ("measured", "known", 1)
    asked = once(check_drift=True)
    assert (asked.drift.how, len(calls)) == ("measured", 2)
    assert 0 < asked.drift.value < DETECTOR.max_drift
    assert f"{asked.drift.value:.4g} away from fp32" in text(asked, [])
    assert record(asked, [])["drift"]["limit"] == DETECTOR.max_drift
    (tmp_path / "cache" / judging.FILE).write_text("[")
    assert once().drift.how == "measured", "a spoilt file is as good as none"


def test_the_key_changes_with_plan_weights_machine_and_torch(tmp_path):
    host = load_host("cpu-amx")
    made = plan(DETECTOR, host, PREVIEW)
    placed = made.component("detector")
    others = [
        plan(DETECTOR, replace(host, torch="9.9"), PREVIEW),
        plan(DETECTOR, replace(host, cpu=replace(host.cpu, name="another")), PREVIEW),
        plan(DETECTOR, host, replace(PREVIEW, size=(320, 320))),
        plan(DETECTOR, host, replace(PREVIEW, variant="Ns")),
        replace(made, components=(replace(placed, memory_format="contiguous"),)),
        replace(made, components=(replace(placed, compute_dtype="fp16"),)),
        replace(made, components=(replace(placed, keep_fp32=()),)),
    ]
    file = tmp_path / "weights.pth"
    file.write_bytes(b"one")
    first = quality.identity_of(file)
    file.write_bytes(b"other")
    keys = [quality.judgement_key(m) for m in (made, *others)]
    keys += [quality.judgement_key(made, [w]) for w in (first, quality.identity_of(file))]
    assert len(set(keys)) == len(keys)
    assert None not in keys
    assert quality.judgement_key(plan(DETECTOR, host, replace(PREVIEW, dtype="fp32"))) is None


def test_kept_judgements_are_bounded_and_survive_what_cannot_be_written(tmp_path, monkeypatch):
    monkeypatch.setattr(judging, "_MAX_KEPT", 2)
    kept = Judged(tmp_path / "judged.json")
    for index, key in enumerate("abca"):
        kept.keep(key, index / 10)
    assert json.loads((tmp_path / "judged.json").read_text()) == {"c": 0.2, "a": 0.3}
    (tmp_path / "file").write_text("")
    blocked = Judged(tmp_path / "file" / "judged.json")
    blocked.keep("a", 0.1)
    assert blocked.get("a") is None


@pytest.mark.parametrize("how", ["measured", "known", "exact", "skipped", "impossible"])
@pytest.mark.parametrize("language", ["en", "zh"])
def test_every_outcome_is_said(how, language):
    assert drift_text(Drift(0.25, 0.1, "mIoU", how, 80.0), language)

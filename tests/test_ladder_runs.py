"""Every failure in every stage: that unit alone is run again, what was finished stays, what failed is remembered."""

from collections import Counter
from dataclasses import replace

import pytest
import torch

from loader.decision import FailureKind
from loader.errors import Cancelled, RunError
from loader.outcome import Cancel, Result
from loader.wishes import Wishes
from tests import staged_adapter as staged
from tests.fake_accelerator import fake_accelerator, fake_card
from tests.machines import engine_on, host_with
from tests.staged_adapter import Asked, spec_named

GIB = 2**30
STAGES = ("text", "unet", "control", "decoder")
ASKED = Asked(STAGES)
SPEC = spec_named()

RAISES: dict[FailureKind, Exception] = {
    "out_of_memory": torch.OutOfMemoryError("provoked: out of memory"),
    "not_implemented": RuntimeError("\"linear\" not implemented for 'Half'"),
    "no_kernel_image": RuntimeError("CUDA error: no kernel image is available for execution on the device"),
}


@pytest.fixture(autouse=True)
def _card():
    with fake_accelerator(GIB):
        yield


class Trouble:
    """Lets one component fail in one way while its plan is what it is, and counts how often each unit computed."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, component: str, kind: FailureKind) -> None:
        self.component, self.kind, self.done = component, kind, Counter[str]()
        self._compute = staged._compute
        monkeypatch.setattr(staged, "_compute", self)

    def __call__(self, parts, name, x, request, plan):
        if name == self.component and self.strikes(plan.component(name), plan):
            if self.kind == "not_finite":
                return self._compute(parts, name, x, request, plan) * float("nan")
            parts.call(name, x)
            raise RAISES[self.kind]
        out = self._compute(parts, name, x, request, plan)
        self.done[name] += 1
        return out

    def strikes(self, placed, plan) -> bool:
        return {
            "out_of_memory": placed.residency != "blocks",
            "not_implemented": placed.compute_dtype == "fp16",
            "not_finite": placed.compute_dtype != "fp32",
            "no_kernel_image": plan.device != "cpu",
        }[self.kind]


def run(engine, asked: Asked = ASKED, wishes: Wishes | None = None) -> Result:
    *_, last = engine.run(SPEC, asked, wishes)
    assert isinstance(last, Result)
    return last


@pytest.mark.parametrize("component", STAGES)
@pytest.mark.parametrize("kind", ["out_of_memory", "not_implemented", "not_finite", "no_kernel_image"])
def test_the_failed_unit_alone_is_run_again(tmp_path, monkeypatch, component, kind):
    engine = engine_on(host_with(fake_card(8 * GIB)), tmp_path)
    trouble = Trouble(monkeypatch, component, kind)
    result = run(engine)
    assert trouble.done == Counter(dict.fromkeys(STAGES, 1)), "each unit gave its result once"
    assert {t.event for t in result.trace} == {kind}
    assert {t.unit for t in result.trace} == {f"{component} {STAGES.index(component) + 1}"}
    assert all(t.plan_change and t.why for t in result.trace)
    placed = result.plan.component(component)
    assert not trouble.strikes(placed, result.plan)
    if kind == "not_finite":
        assert [t.plan_change for t in result.trace][-1] == f"{component} bf16 → fp32"
        others = {p.compute_dtype for p in result.plan.components if p.name != component}
        assert others == {"fp16"}, "only the one that offended"
    assert torch.allclose(result.outputs[0], staged.expected(ASKED), atol=0.2)
    engine.close()


@pytest.mark.parametrize("kind", ["not_implemented", "not_finite"])
def test_what_failed_is_skipped_after_a_restart_and_tried_again_with_another_torch(tmp_path, monkeypatch, kind):
    host = host_with(fake_card(8 * GIB))
    trouble = Trouble(monkeypatch, "unet", kind)
    engine = engine_on(host, tmp_path)
    assert run(engine).trace != ()
    engine.close()
    again = engine_on(host, tmp_path)
    result = run(again)
    assert result.trace == (), "it knew"
    assert not trouble.strikes(result.plan.component("unet"), result.plan)
    assert any(d.rule == "quarantined" and d.subject == "unet" for d in result.plan.decisions)
    again.close()
    newer = engine_on(replace(host, torch="another"), tmp_path)
    assert run(newer).trace != (), "another torch may do it"
    newer.close()


def test_a_request_like_one_that_ran_out_of_memory_begins_where_that_one_ended(tmp_path, monkeypatch):
    engine = engine_on(host_with(fake_card(8 * GIB)), tmp_path)
    Trouble(monkeypatch, "unet", "out_of_memory")
    first = run(engine)
    assert len(first.trace) > 2
    second = run(engine)
    assert second.trace == ()
    assert {p.residency for p in second.plan.components} == {"blocks"}
    assert engine.plan(SPEC, Wishes(dtype="fp32")).component("unet").residency == "resident", "another wish is another"
    monkeypatch.setattr(engine._driver, "_clock", lambda: 1e12)
    assert engine.plan(SPEC, Wishes()).component("unet").residency == "resident", "memory comes back"
    engine.close()


# --- what was finished ----------------------------------------------------------------------------------------------


def test_stop_delivers_what_is_finished(tmp_path):
    engine = engine_on(host_with(), tmp_path)
    cancel = Cancel()
    steps = engine.run(SPEC, ASKED, Wishes(dtype="fp32"), cancel=cancel)
    while (step := next(steps)).stage != "denoising" or step.index != 2:
        pass
    cancel.request()
    with pytest.raises(Cancelled) as stopped:
        next(steps)
    assert [k.stage for k in stopped.value.kept] == ["text", "unet"]
    assert torch.equal(stopped.value.kept[-1].value, staged.expected(Asked(("text", "unet"))))
    engine.close()


def test_a_failure_on_every_rung_delivers_what_is_finished(tmp_path, monkeypatch):
    engine = engine_on(host_with(fake_card(8 * GIB)), tmp_path)
    monkeypatch.setattr(Trouble, "strikes", lambda *_: True)
    Trouble(monkeypatch, "decoder", "out_of_memory")
    with pytest.raises(RunError, match=r"decoder 4: out of memory.*no smaller") as failed:
        run(engine)
    assert [k.stage for k in failed.value.kept] == ["text", "unet", "control"]
    engine.close()


def test_a_bug_delivers_what_is_finished_too(tmp_path):
    engine = engine_on(host_with(), tmp_path)
    with pytest.raises(KeyError) as failed:
        run(engine, replace(ASKED, fail_at="control"), Wishes(dtype="fp32"))
    assert [k.stage for k in failed.value.kept] == ["text", "unet"]
    engine.close()


def test_precision_that_cannot_be_judged_fails_nobody(tmp_path, monkeypatch):
    """The comparison with fp32 runs out of memory on every rung; the request itself does not."""
    engine = engine_on(host_with(fake_card(8 * GIB)), tmp_path)
    monkeypatch.setattr(staged.Staged, "sample", lambda self, plan: Asked(("text",)))
    compute = staged._compute

    def exact_fails(parts, name, x, request, plan):
        if plan.component(name).compute_dtype == "fp32":
            raise torch.OutOfMemoryError("provoked")
        return compute(parts, name, x, request, plan)

    monkeypatch.setattr(staged, "_compute", exact_fails)
    result = run(engine)
    assert result.plan.component("unet").compute_dtype == "fp16"
    assert engine.residency.book.reserved == {}
    engine.close()

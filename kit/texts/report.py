"""A plan as a record (JSON) and as text for a terminal."""

from typing import Any

from kit.texts import EVENTS_OF, LANGUAGES, flips_when, refusal, why
from loader.decision import Decision
from loader.memory import gib
from loader.outcome import Drift, Result
from loader.plan import Placement, Plan


def decision_record(decision: Decision) -> dict[str, Any]:
    """A decision as contracted: ``{rule, subject, wanted, got, why, rejected[], flips_when}``."""
    return {
        "rule": decision.rule,
        "subject": decision.subject,
        "wanted": decision.wanted,
        "got": decision.got,
        "why": why(decision),
        "rejected": [{"what": r.what, "number": r.number, "unit": r.unit} for r in decision.rejected],
        "flips_when": flips_when(decision),
    }


def run_record(result: Result) -> dict[str, Any]:
    """Where a run computed and what it took against the prediction, for programs; the same for every model."""
    return {
        "device": result.plan.device,
        "seconds": result.seconds,
        "load_seconds": result.load_seconds,
        "predicted_seconds": result.predicted_seconds,
        "peak_bytes": dict(result.peak_bytes),
        "predicted_peak_bytes": dict(result.plan.peak_bytes),
        "trace": [
            {"unit": t.unit, "event": t.event, "what": EVENTS_OF.get(t.event, t.event), "why": t.why}
            | {"plan_change": t.plan_change}
            for t in result.trace
        ],
    }


def plan_record(plan: Plan) -> dict[str, Any]:
    """A plan as contracted for ``plan --json`` and ``run --json``."""
    return {
        "host": plan.host,
        "adapter": plan.adapter,
        "variant": plan.variant,
        "provenance": plan.provenance,
        "fits": plan.fits,
        "device": plan.device,
        "size": list(plan.size),
        "batch": plan.batch,
        "steps": plan.steps,
        "frames": plan.frames,
        "savers": list(plan.savers),
        "peak_bytes": dict(plan.peak_bytes),
        "budget_bytes": dict(plan.budget_bytes),
        "predicted_seconds": plan.predicted_seconds,
        "components": [
            {
                "name": c.name,
                "device": c.device,
                "storage_dtype": c.storage_dtype,
                "compute_dtype": c.compute_dtype,
                "residency": c.residency,
                "memory_format": c.memory_format,
                "attention": c.attention,
                "compile": c.compile,
                "packed": c.packed,
                "keep_fp32": list(c.keep_fp32),
                "bytes": c.bytes,
            }
            for c in plan.components
        ],
        "decisions": [decision_record(d) for d in plan.decisions],
    }


def plan_text(plan: Plan, language: str = "en") -> str:
    """A plan for people: head, components, decisions."""
    spec, words = plan.situation.spec, LANGUAGES[language].REPORT
    if not plan.fits and plan.refusal is not None:
        return words["refused"].format(title=spec.title, host=plan.host) + f"\n  {refusal(plan.refusal, language)}"
    height, width = plan.size
    head = words["head"].format(
        title=spec.title, variant=plan.variant, host=plan.host, device=plan.device, height=height, width=width
    )
    counts = (("batch", plan.batch), ("steps", plan.steps), ("frames", plan.frames))
    lines = [words["join"].join([head, *(words[name].format(count=count) for name, count in counts if count > 1)])]
    cost = words["cost"].format(
        seconds=seconds_text(plan.predicted_seconds),
        memory=memory_text(plan, language),
        provenance=LANGUAGES[language].PROVENANCE[plan.provenance],
    )
    lines += [f"  {cost}", *(f"  {component_line(c, language)}" for c in plan.components)]
    lines += [f"  - {decision_line(d, language)}" for d in plan.decisions]
    return "\n".join(lines)


def drift_text(drift: Drift, language: str = "en") -> str:
    """How far from fp32 the plan was found to be on the sample, with what is allowed, or why nobody knows."""
    words = LANGUAGES[language].REPORT
    value = 0.0 if drift.value is None else drift.value
    return words[f"drift_{drift.how}"].format(
        value=f"{value:.4g}", limit=f"{drift.limit:g}", metric=drift.metric, seconds=seconds_text(drift.seconds)
    )


def component_line(placed: Placement, language: str = "en") -> str:
    """One component in one line: precision, device, residency and what is out of the ordinary, bytes."""
    words = LANGUAGES[language].REPORT
    dtype = placed.compute_dtype
    if placed.storage_dtype != dtype:
        dtype = words["stored"].format(compute=dtype, storage=placed.storage_dtype)
    extras: list[str] = [placed.residency]
    packed = "packed" if placed.packed else "none"
    extras += [x for x in (placed.memory_format, packed, placed.compile) if x not in ("contiguous", "none")]
    return words["component"].format(
        name=placed.name, dtype=dtype, device=placed.device, extras=words["join"].join(extras), gib=gib(placed.bytes)
    )


def decision_line(decision: Decision, language: str = "en") -> str:
    """One decision in one line: subject, change, reason, what would flip it."""
    change = f"{decision.wanted} → {decision.got}" if decision.wanted else decision.got
    flips = flips_when(decision, language)
    tail = f" [{flips}]" if flips else ""
    return f"{decision.subject}: {change}: {why(decision, language)}{tail}"


def memory_text(plan: Plan, language: str = "en") -> str:
    """Predicted peak against what may be used, by pool."""
    words, pools = LANGUAGES[language].REPORT, ["device", "host"] if plan.peak_bytes["device"] else ["host"]
    return words["join"].join(
        words[f"{pool}_memory"].format(
            peak=gib(plan.peak_bytes[pool]), budget=gib(plan.budget_bytes[pool]), device=plan.device
        )
        for pool in pools
    )


def seconds_text(seconds: float) -> str:
    """Seconds as people say them."""
    if seconds < 1:
        return f"{max(1, round(seconds * 1000))} ms"
    if seconds < 90:
        return f"{seconds:.1f} s"
    minutes = seconds / 60
    return f"{minutes:.0f} min" if minutes < 90 else f"{minutes / 60:.1f} h"

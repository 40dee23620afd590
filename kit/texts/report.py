"""A plan as a record (JSON) and as text for a terminal."""

from typing import Any

from kit.texts import PROVENANCE_OF, flips_when, refusal, why
from loader.decision import Decision
from loader.memory import gib
from loader.plan import Plan


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
                "keep_fp32": list(c.keep_fp32),
                "bytes": c.bytes,
            }
            for c in plan.components
        ],
        "decisions": [decision_record(d) for d in plan.decisions],
    }


def plan_text(plan: Plan) -> str:
    """A plan for people: head, components, decisions."""
    spec = plan.situation.spec
    if not plan.fits and plan.refusal is not None:
        return f"{spec.title} on {plan.host}: refused\n  {refusal(plan.refusal)}"
    lines = [
        f"{spec.title} {plan.variant} on {plan.host}: {plan.device}, {plan.size[0]}×{plan.size[1]}"
        + (f", batch {plan.batch}" if plan.batch > 1 else "")
        + (f", {plan.steps} steps" if plan.steps > 1 else "")
        + (f", {plan.frames} frames" if plan.frames > 1 else ""),
        f"  about {seconds_text(plan.predicted_seconds)}, {memory_text(plan)}, {PROVENANCE_OF[plan.provenance]}",
    ]
    for c in plan.components:
        stored = "" if c.storage_dtype == c.compute_dtype else f" (stored {c.storage_dtype})"
        extras = [c.residency] + [x for x in (c.memory_format, c.compile) if x not in ("contiguous", "none")]
        lines.append(f"  {c.name}: {c.compute_dtype}{stored} on {c.device}, {', '.join(extras)}, {gib(c.bytes)} GiB")
    lines += [f"  - {decision_line(d)}" for d in plan.decisions]
    return "\n".join(lines)


def decision_line(decision: Decision, language: str = "en") -> str:
    """One decision in one line: subject, change, reason, what would flip it."""
    change = f"{decision.wanted} → {decision.got}" if decision.wanted else decision.got
    flips = flips_when(decision, language)
    tail = f" [{flips}]" if flips else ""
    return f"{decision.subject}: {change}: {why(decision, language)}{tail}"


def memory_text(plan: Plan) -> str:
    """Predicted peak against what may be used, by pool."""
    pools = []
    if plan.peak_bytes["device"]:
        pools.append(f"{gib(plan.peak_bytes['device'])} of {gib(plan.budget_bytes['device'])} GiB on {plan.device}")
    pools.append(f"{gib(plan.peak_bytes['host'])} of {gib(plan.budget_bytes['host'])} GiB RAM")
    return ", ".join(pools)


def seconds_text(seconds: float) -> str:
    """Seconds as people say them."""
    if seconds < 1:
        return f"{max(1, round(seconds * 1000))} ms"
    if seconds < 90:
        return f"{seconds:.1f} s"
    minutes = seconds / 60
    return f"{minutes:.0f} min" if minutes < 90 else f"{minutes / 60:.1f} h"

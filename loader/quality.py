"""How far a plan's output is from fp32, in the task's own metric, and when that is too far."""

import hashlib
import json
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from loader.knowledge import EMPTY
from loader.plan import Plan, plan_situation
from loader.tuned import machine_of
from loader.wishes import Wishes


def limit(made: Plan) -> float:
    """Largest drift allowed: the user's wish, or the adapter's own."""
    wish = made.situation.wishes.max_drift
    return made.situation.spec.max_drift if wish is None else wish


def low_components(made: Plan) -> tuple[str, ...]:
    """Components that compute in less than fp32, those of the fewest bytes first."""
    low = [placed for placed in made.components if placed.compute_dtype != "fp32"]
    return tuple(placed.name for placed in sorted(low, key=lambda placed: placed.bytes))


def judgement_key(made: Plan, weights: Iterable[str] = ()) -> str | None:
    """What a judgement holds for, or None when everything computes in fp32 and there is nothing to judge.

    Machine, torch, model, size, how each part below fp32 computes, and ``weights``: what tells their files apart.
    """
    low = [
        [p.name, p.device, p.compute_dtype, p.memory_format, p.attention, *p.keep_fp32]
        for p in made.components
        if p.compute_dtype != "fp32"
    ]
    if not low:
        return None
    host = made.situation.host
    facts = [machine_of(host, made.device), host.torch, made.adapter, made.variant, made.size, low, sorted(weights)]
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:24]


def identity_of(file: Path) -> str:
    """What tells one file of weights from another without reading it: name, bytes and time of change."""
    facts = file.stat()
    return f"{file.name} {facts.st_size} {facts.st_mtime_ns}"


def with_fp32(made: Plan, component: str) -> Plan:
    """The same plan with one component in fp32, without compile, which takes longer than what it is asked for."""
    limits = made.situation.limits
    raised = replace(limits, dtype_floor={**limits.dtype_floor, component: "fp32"})
    wishes = replace(made.situation.wishes, compile="none")
    return plan_situation(replace(made.situation, wishes=wishes, limits=raised))


def reference_plan(made: Plan) -> Plan:
    """The same request in fp32 on the same device, without compile: what drift is measured against."""
    situation = made.situation
    wishes = Wishes(
        device=made.device,
        dtype="fp32",
        variant=made.variant,
        size=made.size,
        batch=1,
        steps=made.steps,
        compile="none",
        force=True,
    )
    return plan_situation(replace(situation, wishes=wishes, knowledge=EMPTY))

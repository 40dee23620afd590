"""How far a plan's output is from fp32, in the task's own metric, and when that is too far."""

from dataclasses import replace

from loader.knowledge import EMPTY
from loader.plan import Plan, plan_situation
from loader.wishes import Wishes


def limit(made: Plan) -> float:
    """Largest drift allowed: the user's wish, or the adapter's own."""
    wish = made.situation.wishes.max_drift
    return made.situation.spec.max_drift if wish is None else wish


def main_component(made: Plan) -> str:
    """The component with the most bytes: the one a precision is judged by."""
    return max(made.components, key=lambda p: p.bytes).name


def judgement_key(made: Plan) -> tuple[str, ...] | None:
    """What a judgement holds for, or None when everything computes in fp32 and there is nothing to judge."""
    low = [f"{p.name}:{p.compute_dtype}:{','.join(p.keep_fp32)}" for p in made.components if p.compute_dtype != "fp32"]
    if not low:
        return None
    return (made.adapter, made.variant, made.device, f"{made.size[0]}x{made.size[1]}", *low)


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

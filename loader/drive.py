"""Working through a pipeline: its units are run here, and run again under the next plan down when they fail.

A traceback keeps every tensor of a failed call alive, so a failure is described in words first and answered outside
any ``except``. What finished units gave stays with the pipeline; only the failed one is run again.
"""

import gc
import time
from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from loader import acceptance, failures
from loader.decision import Failure, Limits
from loader.errors import Cancelled, InputError, RunError
from loader.folders import Folders, find
from loader.host import Dtype
from loader.knowledge import Quarantine
from loader.measure import Store
from loader.opened import Opened
from loader.outcome import Cancel, Kept, Result, Step, TraceEntry, Unit
from loader.plan import Plan, relax
from loader.spec import AdapterSpec
from loader.wishes import Wishes

MEMORY_S = 600.0  # for so long a request like one that ran out of memory begins where that one ended
ROUNDING: tuple[Dtype, ...] = ("int8", "bf16", "fp16")  # from coarse to fine
# Failures that come again as long as torch and the device stay the same.
LASTING = ("not_implemented", "not_finite", "compile_failed", "compile_slower", "packing_failed", "drift")
MOST_WORDS = 400  # characters of an error told in a trace


@dataclass
class Journey:
    """What one run leaves behind as it goes.

    Attributes:
        trace: what did not go as planned.
        kept: the last value of each stage that gave one.
        opened: what it runs on, None before that is open.
    """

    cancel: Cancel
    trace: list[TraceEntry]
    kept: dict[str, Kept]
    opened: Opened | None = None

    @classmethod
    def new(cls, cancel: Cancel) -> "Journey":
        return cls(cancel, [], {})

    def left_in(self, error: Exception) -> None:
        """Let an error that ends the run carry what there is: finished stages, the plan in force and the trace.

        A fault of ours must not take finished work with it either, so any kind of error does.
        """
        opened = self.opened
        ended = opened and Result((), opened.plan, tuple(self.trace), weights=opened.weights_note)
        error.kept, error.ended = tuple(self.kept.values()), ended  # type: ignore[attr-defined]


class Driver:
    """Runs requests on loaded components and keeps what failures taught.

    Args:
        store: where what failed is remembered.
        folders: says where a smaller variant's weights may lie.
        torch: its version, which what failed is remembered for.
    """

    def __init__(
        self, store: Store, folders: Callable[[], Folders], torch: str, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._store, self._folders, self._torch, self._clock = store, folders, torch, clock
        self._fp32_modules: dict[str, Mapping[str, tuple[str, ...]]] = {}
        self._short: dict[tuple[str, str], tuple[Limits, float]] = {}

    def limits(self, spec: AdapterSpec, wishes: Wishes) -> Limits:
        """What earlier runs of this process ruled out for a request like this one."""
        known = Limits(fp32_modules=self._fp32_modules.get(spec.name, {}))
        short = self._short.get((spec.name, repr(wishes)))
        if short is None or self._clock() - short[1] > MEMORY_S:
            return known
        return replace(known, min_rung=short[0].min_rung, variant=short[0].variant, size=short[0].size)

    # --- running

    def drive(self, opened: Opened, request: Any, journey: Journey) -> Generator[Step, None, tuple[Any, ...]]:
        """Work through a pipeline: steps are passed on, what it keeps is noted."""
        work = opened.pipeline.run(opened, request)
        answer: Any = None
        try:
            opened.begin(request)
            while True:
                journey.cancel.check()
                try:
                    item = work.send(answer)
                except StopIteration as stop:
                    return stop.value
                answer = None
                if isinstance(item, Unit):
                    yield from _loading(opened, item)
                    answer = self._unit(opened, item, journey)
                elif isinstance(item, Kept):
                    journey.kept[item.stage] = item
                else:
                    yield item
        finally:
            work.close()
            opened.rest()

    def drain(self, opened: Opened, request: Any, journey: Journey) -> tuple[Any, ...]:
        """``drive`` with nobody watching."""
        work = self.drive(opened, request, journey)
        while True:
            try:
                next(work)
            except StopIteration as stop:
                outputs: tuple[Any, ...] = stop.value
                return outputs

    def _unit(self, opened: Opened, unit: Unit, journey: Journey) -> Any:
        """Run one unit; after a failure, the same unit again under the next plan down."""
        freed = False
        packed: list[tuple[Plan, Failure]] = []
        while True:
            journey.cancel.check()
            value, failure = attempt(partial(unit.run, opened.plan), opened, unit)
            if failure is None:
                # Only now: what fails without packing too is another's fault.
                for plan, failed in packed:
                    self._quarantine(plan, failed)
                return value
            if failure.kind == "packing_failed":
                packed.append((opened.plan, failure))
            if failure.kind == "out_of_memory":
                gc.collect()
                opened.free_caches()
                if not freed:
                    freed = True
                    entry = TraceEntry(unit.name, failure.kind, failure.detail, "caches freed, tried again")
                    journey.trace.append(entry)
                    continue
            self.step_down(opened, failure, unit.name, journey)

    # --- the way down

    def step_down(self, opened: Opened, failure: Failure, unit: str, journey: Journey) -> None:
        """Put the next plan down in force; what cannot be had under it is a failure of its own.

        Raises:
            RunError: no plan is left.
        """
        problem: Failure | None = failure
        while problem is not None:
            lower = self._next_down(opened.plan, problem, unit, journey)
            files = self._files_for(lower, opened.plan, opened.files, opened.checkpoint)
            _, problem = attempt(partial(opened.adopt, lower, files))
            problem = problem and replace(problem, component=failure.component)
        situation = opened.plan.situation
        # An operator that lacks a dtype will lack it in the next request too.
        self._fp32_modules[opened.plan.adapter] = situation.limits.fp32_modules
        if failure.kind == "out_of_memory":
            self._short[opened.plan.adapter, repr(situation.wishes)] = (situation.limits, self._clock())

    def _next_down(self, before: Plan, failure: Failure, unit: str, journey: Journey) -> Plan:
        after = relax(before, failure)
        if not after.fits:
            journey.trace.append(TraceEntry(unit, failure.kind, failure.detail, "nothing left"))
            words = failure.kind.replace("_", " ")
            raise RunError(f"{unit}: {words} ({failure.detail}), and no smaller or more precise plan is left")
        if failure.kind != "packing_failed":
            self._quarantine(before, failure)
        journey.trace.append(TraceEntry(unit, failure.kind, failure.detail, difference(before, after)))
        return after

    def _files_for(
        self, lower: Plan, before: Plan, files: Mapping[str, Path], checkpoint: Path | None
    ) -> Mapping[str, Path]:
        """Files of the next plan down. A smaller variant runs on its own, if they are here: none was announced.

        Raises:
            RunError: the smaller variant's weights are not on this disk, or an own file has no smaller variant.
        """
        if lower.variant == before.variant:
            return files
        spec = lower.situation.spec
        wanted = spec.variant(lower.variant).weights
        if not acceptance.covers(spec.variant(before.variant), spec.variant(lower.variant)):
            raise RunError(f"{before.variant} does not fit, and the terms of {lower.variant} were not accepted")
        found = {w.file: there.path for w in wanted if (there := find(w, self._folders())) is not None}
        if checkpoint is not None or len(found) < len(wanted):
            raise RunError(
                f"{before.variant} does not fit and {lower.variant} would, but its weights are not on this disk: "
                f"choose variant {lower.variant}, which fetches them"
            )
        return found

    def _quarantine(self, failed: Plan, failure: Failure) -> None:
        """Remember what will fail again: precision, compile and packing, not memory, which depends on the moment."""
        if failure.kind not in LASTING:
            return
        if failure.kind == "not_implemented" and failure.submodule:
            return
        drifted = failure.kind == "drift"
        if drifted and failed.situation.wishes.max_drift is not None:
            return  # too far for this user, who asked for less than the adapter does
        placement = failed.component(failure.component)
        compiled = failure.kind.startswith("compile")
        entry = Quarantine(
            adapter=failed.adapter,
            variant=failed.variant,
            component=failure.component,
            dtype=placement.compute_dtype,
            compile=placement.compile if compiled else "none",
            torch=self._torch,
            device=placement.device,
            reason=f"{failure.kind.replace('_', ' ')}: {failure.detail}",
            packed=failure.kind == "packing_failed",
        )
        self._store.add_quarantine(entry)
        # What rounds no less drifts no less.
        coarser = ROUNDING[: ROUNDING.index(entry.dtype)] if drifted and entry.dtype in ROUNDING else ()
        for dtype in coarser:
            self._store.add_quarantine(replace(entry, dtype=dtype))


def _loading(opened: Opened, unit: Unit) -> Generator[Step, None, None]:
    """Say that a unit will load its component first."""
    if not opened.has(unit.component) or opened.is_loaded(unit.component):
        return
    announced = opened.announced
    here = sum(1 for name in announced if opened.is_loaded(name))
    yield Step("loading", here, max(len(announced), here + 1), detail={"component": unit.component})


def attempt(
    call: Callable[[], Any], opened: Opened | None = None, unit: Unit | None = None
) -> tuple[Any, Failure | None]:
    """Call once: its value, or what failed. Only words of a failure leave this function.

    Raises:
        Exception: what is no failure the ladder answers.
    """
    component = unit.component if unit is not None and opened is not None and opened.has(unit.component) else ""
    try:
        value = call()
        if unit is not None:
            failures.check_finite(value, unit.component)
    except (Cancelled, InputError):
        raise
    except Exception as error:
        # Sorted by what it says; what is not the ladder's is raised again.
        placement = opened.plan.component(component) if component and opened is not None else None
        kind = failures.kind_of(error, placement)
        if kind is None:
            raise
        submodule = opened.failing_submodule(component, error) if opened and component else ""
        return None, Failure(kind, component, submodule, short(error))
    return value, None


def short(error: BaseException) -> str:
    """An error's own words on one line, cut between two of them where they are many."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
    words = " ".join(lines)
    return words if len(words) <= MOST_WORDS else words[:MOST_WORDS].rsplit(maxsplit=1)[0] + " …"


def difference(before: Plan, after: Plan) -> str:
    """What ``after`` does differently, in contract words: "batch 8 → 4, detector bf16 → fp32"."""
    changes = [
        f"{name} {old} → {new}"
        for name, old, new in (
            ("variant", before.variant, after.variant),
            ("size", "×".join(map(str, before.size)), "×".join(map(str, after.size))),
            ("device", before.device, after.device),
            ("batch", before.batch, after.batch),
            ("savers", ",".join(before.savers) or "none", ",".join(after.savers) or "none"),
        )
        if old != new
    ]
    previous = {p.name: p for p in before.components}
    for new_placement in after.components:
        old_placement = previous.get(new_placement.name)
        if old_placement is None:
            continue
        for field in ("compute_dtype", "storage_dtype", "residency", "compile"):
            old, new = getattr(old_placement, field), getattr(new_placement, field)
            if old != new:
                changes.append(f"{new_placement.name} {old} → {new}")
        if old_placement.packed and not new_placement.packed:
            changes.append(f"{new_placement.name} packed → laid out in every call")
        added = set(new_placement.keep_fp32) - set(old_placement.keep_fp32)
        changes += [f"{new_placement.name}.{path} → fp32" for path in sorted(added)]
    return ", ".join(dict.fromkeys(changes)) or "the same again"

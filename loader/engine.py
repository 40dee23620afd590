"""One engine for page, command line and cluster: plan, load, run with the ladder, learn.

``run`` is a generator of steps and one result. Closing it, or pressing Stop, ends the work at the next unit and frees
the lane only then. One lane: one request computes at a time.
"""

import gc
import threading
import time
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, cast

from loader import failures, quality
from loader.decision import Failure, Limits, Situation
from loader.errors import Cancelled, DoesNotFitError, InputError, RunError, WeightsUnavailableError
from loader.folders import Folders, find
from loader.host import Host
from loader.knowledge import Knowledge, Quarantine, correction_key
from loader.measure import Cost, PeakMeter, Store
from loader.opened import Opened, fetched, open_plan
from loader.outcome import Cancel, Result, Step, TraceEntry, Unit
from loader.plan import Plan, plan_situation, relax
from loader.quiet import Quiet
from loader.runlog import RunLog
from loader.spec import AdapterSpec
from loader.wishes import Wishes


class Engine:
    """Everything loaded on one machine.

    Args:
        host: the machine as probed.
        folders: where weights are looked for and kept.
        store: what was learned here; read at every plan, written after every run.
        log: where settings and figures of each run are written, or None.
    """

    def __init__(self, host: Host, folders: Folders, store: Store, log: RunLog | None = None) -> None:
        self.host, self.folders, self.store, self._log = host, folders, store, log
        self._lane = threading.Lock()
        self._opened: dict[str, Opened] = {}
        self._unavailable: set[str] = set()
        self._judged: dict[tuple[str, ...], float] = {}
        self._fp32_modules: dict[str, Mapping[str, tuple[str, ...]]] = {}

    # --- planning

    def knowledge(self, spec: AdapterSpec) -> Knowledge:
        """What was learned, with what other adapters hold now."""
        held: dict[str, int] = {}
        for name, opened in list(self._opened.items()):
            if name != spec.name:
                for pool, count in opened.held_bytes().items():
                    held[pool] = held.get(pool, 0) + count
        # The probe saw memory before anything was loaded; what is loaded since is held.
        return replace(self.store.load(), held_bytes=held, unavailable=tuple(sorted(self._unavailable)))

    def plan(self, spec: AdapterSpec, wishes: Wishes) -> Plan:
        """The plan for a request here and now. Other adapters are put away only when it runs."""
        beside = self._plan_beside(spec, wishes)
        if beside.fits and beside.rung == 0:
            return beside
        alone = plan_situation(replace(beside.situation, knowledge=replace(beside.situation.knowledge, held_bytes={})))
        return alone if alone.fits else beside

    def _plan_beside(self, spec: AdapterSpec, wishes: Wishes) -> Plan:
        """The plan while everything loaded stays."""
        limits = Limits(fp32_modules=self._fp32_modules.get(spec.name, {}))
        return plan_situation(Situation(spec, self.host, wishes, self.knowledge(spec), limits))

    # --- running

    def run(
        self,
        spec: AdapterSpec,
        request: Any,
        wishes: Wishes | None = None,
        *,
        cancel: Cancel | None = None,
        checkpoint: Path | None = None,
    ) -> Generator[Step | Result, None, None]:
        """Run one request.

        Yields:
            ``Step`` as it goes and one ``Result`` at the end.

        Raises:
            DoesNotFitError: no plan fits, or a wish is refused; ``decision`` says why.
            InputError: the request cannot be used.
            WeightsError: no weights.
            RunError: it failed on every rung of the ladder.
            Cancelled: Stop was pressed.
        """
        if not spec.pipeline:
            raise InputError(f"{spec.title} is planned here but its network is not in yet")
        cancel = cancel or Cancel()
        with self._own_lane(cancel) as waiting:
            yield from waiting
            yield from self._run(spec, request, wishes or Wishes(), cancel, checkpoint)

    @contextmanager
    def _own_lane(self, cancel: Cancel) -> Iterator[Iterator[Step]]:
        held = threading.Event()

        def wait() -> Iterator[Step]:
            while not self._lane.acquire(timeout=0.2):
                cancel.check()
                yield Step("waiting", 0, 1)
            held.set()

        try:
            yield wait()
        finally:
            if held.is_set():
                self._lane.release()

    def _run(
        self, spec: AdapterSpec, request: Any, wishes: Wishes, cancel: Cancel, checkpoint: Path | None
    ) -> Generator[Step | Result, None, None]:
        trace: list[TraceEntry] = []
        opened, load_seconds = yield from self._open(spec, wishes, cancel, checkpoint, trace)
        opened.prepare()
        with Quiet() as quiet, PeakMeter(opened.plan.device) as meter:
            outputs = yield from self._drive(opened, request, cancel, trace)
        result = Result(
            outputs=outputs,
            plan=opened.plan,
            trace=tuple(trace),
            seconds=quiet.seconds,
            load_seconds=load_seconds,
            peak_bytes=opened.peak(meter.bytes),
            weights=opened.weights_note,
            # Pictures or frames; a request that does not say is one.
            items=max(1, getattr(request, "items", 1)),
        )
        # An own file is another network, and a clip spends its time on reading and drawing: neither tells what a
        # picture on these weights takes.
        typical = opened.checkpoint is None and getattr(request, "teaches", True)
        self._learn(result, quiet=quiet.held and typical)
        yield result

    # --- opening

    def _open(
        self,
        spec: AdapterSpec,
        wishes: Wishes,
        cancel: Cancel,
        checkpoint: Path | None,
        trace: list[TraceEntry],
    ) -> Generator[Step, None, tuple[Opened, float]]:
        current = self._fitting(spec, wishes)
        ready = self._opened.get(spec.name)
        if ready and ready.serves(current, checkpoint):
            ready.renew(current)
            return ready, 0.0
        self.close(spec.name)
        started = time.perf_counter()
        files: Mapping[str, Path] = {}
        if checkpoint is None:
            try:
                files = yield from fetched(current, self.folders, cancel)
            except WeightsUnavailableError as error:
                if not spec.preview or wishes.variant is not None:
                    raise
                self._unavailable.add(f"{spec.name}/{current.variant}")
                current = self._fitting(spec, wishes)
                trace.append(TraceEntry("weights", "weights_unavailable", _short(error), f"variant {current.variant}"))
                files = yield from fetched(current, self.folders, cancel)
        cancel.check()
        self._make_room(current)
        yield Step("loading", 0, len(current.components))
        opened = self._opened[spec.name] = self._load(current, files, checkpoint, trace)
        yield from self._settle(opened, cancel, trace)
        return opened, time.perf_counter() - started

    def _load(
        self, current: Plan, files: Mapping[str, Path], checkpoint: Path | None, trace: list[TraceEntry]
    ) -> Opened:
        """Load by ``current``, or by the next plan down that can be loaded."""
        while True:
            opened, failure = _attempt(partial(open_plan, current, files, checkpoint))
            if failure is None:
                return cast(Opened, opened)
            failure = replace(failure, component=quality.main_component(current))
            lower = self._next_down(current, failure, "loading", trace)
            files = self._files_for(lower, current, files, checkpoint)
            current = lower

    def _fitting(self, spec: AdapterSpec, wishes: Wishes) -> Plan:
        current = self.plan(spec, wishes)
        if not current.fits:
            raise DoesNotFitError(current.refusal)
        return current

    def _make_room(self, current: Plan) -> None:
        """Put other adapters away when the plan counts on their memory."""
        spec = current.situation.spec
        beside = self._plan_beside(spec, current.situation.wishes)
        if not beside.fits or beside.rung > current.rung:
            for name in [n for n in self._opened if n != spec.name]:
                self.close(name)

    def _settle(self, opened: Opened, cancel: Cancel, trace: list[TraceEntry]) -> Generator[Step, None, None]:
        """Warm up, and the first time a lower precision is used here, compare it with fp32."""
        sample = opened.pipeline.sample(opened.plan)
        if sample is None:
            return
        yield Step("warming_up", 0, 1)
        outputs = self._drain(opened, sample, cancel, trace)
        limit = quality.limit(opened.plan)
        key = quality.judgement_key(opened.plan)
        if key is None or opened.checkpoint is not None:
            return
        if key not in self._judged:
            yield Step("judging", 0, 1)
            reference = quality.reference_plan(opened.plan)
            exact = open_plan(reference, opened.files, None)
            expected = self._drain(exact, sample, cancel, [])
            exact.close()
            self._judged[key] = opened.pipeline.drift(expected, outputs)
        drift = self._judged[key]
        if drift > limit:
            failure = Failure("drift", quality.main_component(opened.plan), detail=f"{drift:.3f} > {limit:.3f}")
            self._step_down(opened, failure, "sample", trace)

    def _drain(self, opened: Opened, request: Any, cancel: Cancel, trace: list[TraceEntry]) -> tuple[Any, ...]:
        work = self._drive(opened, request, cancel, trace)
        while True:
            try:
                next(work)
            except StopIteration as stop:
                outputs: tuple[Any, ...] = stop.value
                return outputs

    # --- the ladder

    def _drive(
        self, opened: Opened, request: Any, cancel: Cancel, trace: list[TraceEntry]
    ) -> Generator[Step, None, tuple[Any, ...]]:
        """Work through a pipeline: units are run here, steps are passed on."""
        work = opened.pipeline.run(opened, request)
        answer: Any = None
        try:
            while True:
                cancel.check()
                try:
                    item = work.send(answer)
                except StopIteration as stop:
                    return stop.value
                answer = None
                if isinstance(item, Unit):
                    answer = self._unit(opened, item, cancel, trace)
                else:
                    yield item
        finally:
            work.close()
            opened.rest()

    def _unit(self, opened: Opened, unit: Unit, cancel: Cancel, trace: list[TraceEntry]) -> Any:
        """Run one unit; after a failure, the same unit again under the next plan down."""
        freed = False
        while True:
            cancel.check()
            value, failure = _attempt(partial(unit.run, opened.plan), opened, unit)
            if failure is None:
                return value
            if failure.kind == "out_of_memory" and not freed:
                freed = True
                _free_caches(opened)
                trace.append(TraceEntry(unit.name, failure.kind, failure.detail, "caches freed, tried again"))
                continue
            freed = False
            self._step_down(opened, failure, unit.name, trace)

    def _step_down(self, opened: Opened, failure: Failure, unit: str, trace: list[TraceEntry]) -> None:
        """Put the next plan down in force; what cannot be loaded under it is a failure of its own."""
        problem: Failure | None = failure
        while problem is not None:
            lower = self._next_down(opened.plan, problem, unit, trace)
            files = self._files_for(lower, opened.plan, opened.files, opened.checkpoint)
            _, problem = _attempt(partial(opened.adopt, lower, files))
            problem = problem and replace(problem, component=failure.component)
        # An operator that lacks a dtype will lack it in the next request too.
        self._fp32_modules[opened.plan.adapter] = opened.plan.situation.limits.fp32_modules

    def _files_for(
        self, lower: Plan, before: Plan, files: Mapping[str, Path], checkpoint: Path | None
    ) -> Mapping[str, Path]:
        """Files of the next plan down. A smaller variant runs on its own, if they are here: none was announced.

        Raises:
            RunError: the smaller variant's weights are not on this disk, or an own file has no smaller variant.
        """
        if lower.variant == before.variant:
            return files
        wanted = lower.situation.spec.variant(lower.variant).weights
        found = {w.file: there.path for w in wanted if (there := find(w, self.folders)) is not None}
        if checkpoint is not None or len(found) < len(wanted):
            raise RunError(
                f"{before.variant} does not fit and {lower.variant} would, but its weights are not on this disk: "
                f"choose variant {lower.variant}, which fetches them"
            )
        return found

    def _next_down(self, before: Plan, failure: Failure, unit: str, trace: list[TraceEntry]) -> Plan:
        after = relax(before, failure)
        if not after.fits:
            trace.append(TraceEntry(unit, failure.kind, failure.detail, "nothing left"))
            words = failure.kind.replace("_", " ")
            raise RunError(f"{unit}: {words} ({failure.detail}), and no smaller or more precise plan is left")
        self._quarantine(before, failure)
        trace.append(TraceEntry(unit, failure.kind, failure.detail, difference(before, after)))
        return after

    def _quarantine(self, failed: Plan, failure: Failure) -> None:
        """Remember what will fail again: precision and compile, not memory, which depends on the moment."""
        if failure.kind not in ("not_implemented", "not_finite", "compile_failed", "compile_slower", "drift"):
            return
        if failure.kind == "not_implemented" and failure.submodule:
            return
        placement = failed.component(failure.component)
        compiled = failure.kind.startswith("compile")
        self.store.add_quarantine(
            Quarantine(
                adapter=failed.adapter,
                variant=failed.variant,
                component=failure.component,
                dtype=placement.compute_dtype,
                compile=placement.compile if compiled else "none",
                torch=self.host.torch,
                device=placement.device,
                reason=f"{failure.kind.replace('_', ' ')}: {failure.detail}",
            )
        )

    # --- afterwards

    def _learn(self, result: Result, *, quiet: bool) -> None:
        made = result.plan
        main = quality.main_component(made)
        key = correction_key(made.adapter, made.variant, made.device, made.component(main).compute_dtype)
        # A run that went as planned; which weights were to be had says nothing about time or memory.
        if all(entry.event == "weights_unavailable" for entry in result.trace):
            pool = "host" if made.device == "cpu" else "device"
            self.store.record_run(
                key,
                predicted=Cost(result.predicted_seconds, made.peak_bytes[pool]),
                measured=Cost(result.seconds, result.peak_bytes[pool]),
                applied=made.situation.knowledge.correction(key),
                quiet=quiet,
            )
        if self._log is not None:
            self._log.write(result)

    def close(self, name: str | None = None) -> None:
        """Put one adapter away, or all."""
        for key in [name] if name else list(self._opened):
            opened = self._opened.pop(key, None)
            if opened is not None:
                opened.close()
        gc.collect()


def _attempt(
    call: Callable[[], Any], opened: Opened | None = None, unit: Unit | None = None
) -> tuple[Any, Failure | None]:
    """Call once. A failure is described here and handled by the caller, outside any ``except``.

    A traceback keeps every tensor of the failed call alive; only words leave this function.
    """
    try:
        value = call()
        if unit is not None:
            failures.check_finite(value, unit.component)
    except (Cancelled, InputError):
        raise
    except Exception as error:
        # Sorted by what it says; what is not the ladder's is raised again.
        component = unit.component if unit else ""
        compiled = opened is not None and unit is not None and opened.plan.component(component).compile != "none"
        kind = failures.kind_of(error, compiled=compiled)
        if kind is None:
            raise
        submodule = opened.failing_submodule(component, error) if opened else ""
        return None, Failure(kind, component, submodule, _short(error))
    return value, None


def _free_caches(opened: Opened) -> None:
    gc.collect()
    opened.free_caches()


def _short(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
    return " ".join(lines)[:400]


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
        added = set(new_placement.keep_fp32) - set(old_placement.keep_fp32)
        changes += [f"{new_placement.name}.{path} → fp32" for path in sorted(added)]
    return ", ".join(dict.fromkeys(changes)) or "the same again"

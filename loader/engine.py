"""One engine for page, command line and cluster: plan, wait for the lane, load, run with the ladder, learn.

``run`` is a generator of steps and one result. Closing it, or pressing Stop, ends the work at the next unit and frees
the lane only then. One lane an accelerator: one request computes there at a time, the others wait in fair order.
"""

import gc
import logging
import math
import time
from collections.abc import Callable, Generator, Mapping
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

from loader import acceptance
from loader.compiling import Desk, Standing
from loader.decision import Limits, Situation
from loader.downloads import Downloads
from loader.drive import Driver, Journey, difference, short
from loader.errors import DoesNotFitError, InputError, WeightsUnavailableError
from loader.folders import Folders, find
from loader.host import Host
from loader.judging import FILE as JUDGED
from loader.judging import Judge, Judged
from loader.knowledge import Knowledge
from loader.lanes import MAX_WAITING, Lane, Lanes, Ticket
from loader.live import Live
from loader.measure import Cost, PeakMeter, Store
from loader.opened import Opened, fetched, open_plan
from loader.outcome import Cancel, Result, Step, TraceEntry
from loader.plan import Plan, applied_correction, correction_keys, plan_situation
from loader.quiet import Quiet
from loader.residency import Residency
from loader.runlog import RunLog
from loader.spec import AdapterSpec
from loader.tuning import Bench, Trials, Tuning, untried
from loader.wishes import Wishes

__all__ = ["Engine", "difference"]

_log = logging.getLogger(__name__)
ASK_S = 0.2  # how often a waiting request looks whether it is its turn
CLOSE_S = 10.0  # how long closing waits for work to stop


@dataclass(frozen=True)
class _Job:
    """One request with everything that goes with it."""

    spec: AdapterSpec
    request: Any
    wishes: Wishes
    checkpoint: Path | None
    accepted: frozenset[str]
    session: str
    check_drift: bool = False

    @property
    def items(self) -> int:
        """Pictures or frames; a request that does not say is one."""
        return max(1, getattr(self.request, "items", 1))


T = TypeVar("T")
Work = Callable[[_Job, Journey], Generator[Step | T, None, None]]


def _with_guidance(wishes: Wishes, request: Any) -> Wishes:
    """The wishes, with what the request itself says of guidance."""
    guided = getattr(request, "guided", None)
    return wishes if guided is None else replace(wishes, unguided=not guided)


class Engine:
    """Everything loaded on one machine.

    Args:
        host: the machine as probed.
        folders: where weights are looked for and kept.
        store: what was learned here; read at every plan, written after every run.
        log: where settings and figures of each run are written, or None.
        accepted: names of licences accepted for everybody this engine serves.
        max_waiting: how many requests may wait for one accelerator.
        desk: compiles beside the requests; one that keeps code in the cache folder by default.
    """

    def __init__(  # noqa: PLR0913 - one engine has one of each
        self,
        host: Host,
        folders: Folders,
        store: Store,
        log: RunLog | None = None,
        *,
        accepted: frozenset[str] = frozenset(),
        max_waiting: int = MAX_WAITING,
        desk: Desk | None = None,
    ) -> None:
        self.host, self.folders, self.store, self._log = host, folders, store, log
        self.accepted, self.downloads = accepted, Downloads(folders)
        self.residency, self.live = Residency(host), Live()
        self.desk = desk or Desk(host, store, folders.cache / "compiled")
        self._driver = Driver(store, lambda: self.folders, host.torch)
        self._lane = Lanes(max_waiting)
        self._active: dict[Ticket, Cancel] = {}
        self._opened: dict[str, Opened] = {}
        self._unavailable: set[str] = set()
        self._judge = Judge(self._driver, self.residency, Judged(folders.cache / JUDGED))

    # --- planning

    def knowledge(self, spec: AdapterSpec) -> Knowledge:
        """What was learned, with what other adapters hold now."""
        held = self.residency.held_bytes(spec.name, others=True)
        # The probe saw memory before anything was loaded; what is loaded since is held.
        return replace(self.store.load(), held_bytes=held, unavailable=tuple(sorted(self._unavailable)))

    def plan(self, spec: AdapterSpec, wishes: Wishes) -> Plan:
        """The plan for a request here and now. Other adapters are put away only when it runs, and only as need be."""
        beside = self._plan_beside(spec, wishes)
        if beside.fits and beside.rung == 0:
            return beside
        in_use = self.residency.locked_bytes(spec.name)
        known = replace(beside.situation.knowledge, held_bytes=in_use)
        alone = plan_situation(replace(beside.situation, knowledge=known))
        return alone if alone.fits else beside

    def _plan_beside(self, spec: AdapterSpec, wishes: Wishes) -> Plan:
        """The plan while everything loaded stays."""
        limits = self._driver.limits(spec, wishes)
        made = plan_situation(Situation(spec, self.host, wishes, self.knowledge(spec), limits))
        if made.fits or not limits.min_rung:
            return made
        # What ran out of memory then may have room now.
        return plan_situation(replace(made.situation, limits=Limits(fp32_modules=limits.fp32_modules)))

    # --- running

    def run(  # noqa: PLR0913 - a request is what it asks for, how, and whose it is
        self,
        spec: AdapterSpec,
        request: Any,
        wishes: Wishes | None = None,
        *,
        cancel: Cancel | None = None,
        checkpoint: Path | None = None,
        accepted: frozenset[str] = frozenset(),
        session: str = "",
        check_drift: bool = False,
    ) -> Generator[Step | Result, None, None]:
        """Run one request.

        Args:
            spec: the adapter.
            request: its own kind of request.
            wishes: how it is to run.
            cancel: the Stop of this run.
            checkpoint: the user's own weights instead of the variant's.
            accepted: names of the licences that this user has accepted.
            session: whose it is: those who wait for a lane get it in turn, session by session.
            check_drift: compare with fp32 before it runs, whatever that takes and whatever is known.

        Yields:
            ``Step`` as it goes and one ``Result`` at the end. While it waits for its lane the step is "waiting", with
            its place among those that wait (1 for the next), how many they are, and the seconds it may take.

        Raises:
            DoesNotFitError: no plan fits, or a wish is refused; ``decision`` says why.
            LicenceNotAcceptedError: terms of the planned variant's weights are still open; nothing was fetched.
            QueueFullError: as many requests wait as may.
            InputError: the request cannot be used.
            WeightsError: no weights.
            RunError: it failed on every rung of the ladder.
            Cancelled: Stop was pressed.

        Whatever error ends it carries ``kept``: what finished stages have given; and ``ended``: its plan and trace.
        """
        if not spec.pipeline:
            raise InputError(f"{spec.title} is planned here but its network is not in yet")
        job = _Job(
            spec, request, _with_guidance(wishes or Wishes(), request), checkpoint, accepted, session, check_drift
        )
        yield from self.live.watching(spec.name, self._queued(job, Journey.new(cancel or Cancel()), self._run))

    def tune(
        self,
        spec: AdapterSpec,
        wishes: Wishes | None = None,
        trials: Trials | None = None,
        *,
        cancel: Cancel | None = None,
        session: str = "",
    ) -> Generator[Step | Tuning, None, None]:
        """Try a few plans on sample input and keep the fastest; queues like a run, and is stopped like one.

        Yields:
            ``Step`` as it goes and one ``Tuning`` at the end.

        Raises:
            InputError: the model takes too long here to be run dozens of times, or has no sample.
            AnyhostError: as ``run``.
        """
        if not spec.pipeline:
            raise InputError(f"{spec.title} is planned here but its network is not in yet")
        job = _Job(spec, trials or Trials(), wishes or Wishes(), None, frozenset(), session)
        untried(self._fitting(job))
        yield from self._queued(job, Journey.new(cancel or Cancel()), self._tune)

    def _tune(self, job: _Job, journey: Journey) -> Generator[Step | Tuning, None, None]:
        made, files = yield from self._files(job, self._fitting(job), journey)
        # Its own driver: what fails while it is tried must not limit anybody's request.
        driver = Driver(self.store, lambda: self.folders, self.host.torch)
        bench = Bench(untried(made), files, self.store, self.residency, driver, self.folders.cache)
        yield (yield from bench.run(job.request, journey.cancel))

    @property
    def requests(self) -> int:
        """How many wait or compute."""
        return len(self._active)

    def lane(self, device: str) -> Lane:
        """Where requests for a device wait, for work that is none and must wait its turn too."""
        return self._lane.of(device)

    def _queued(self, job: _Job, journey: Journey, work: Work[T]) -> Generator[Step | T, None, None]:
        """``work``, once the lane is free."""
        done = False
        while not done:
            device = self._permitted(job).device
            ticket = self._lane.of(device).join(job.session, self._expected_seconds(job))
            self._active[ticket] = journey.cancel
            try:
                yield from self._wait(ticket, journey.cancel)
                # While it waited another variant or device may have become the one that fits.
                done = self._permitted(job).device == device
                if done:
                    yield from self._computing(ticket, journey, work(job, journey))
            finally:
                del self._active[ticket]
                ticket.leave()

    def _wait(self, ticket: Ticket, cancel: Cancel) -> Generator[Step, None, None]:
        while not ticket.taken(ASK_S):
            cancel.check()
            place = ticket.place()
            yield Step("waiting", place.position, place.total, place.seconds_left)

    def _permitted(self, job: _Job) -> Plan:
        """The plan of now, if it fits and its terms are accepted; an own file brings its own terms."""
        made = self._fitting(job)
        if job.checkpoint is None:
            acceptance.require(job.spec.variant(made.variant).weights, self.accepted | job.accepted)
        return made

    def _expected_seconds(self, job: _Job) -> float:
        """What a run will take about, reading what is not in memory included."""
        made = self.plan(job.spec, job.wishes)
        there = self._opened.get(self._slot(made))
        missing = 0 if there and there.serves(made, job.checkpoint) else sum(p.bytes for p in made.components)
        return made.predicted_seconds * math.ceil(job.items / made.batch) + missing / (self.host.disk_gbs * 1e9)

    def _computing(
        self, ticket: Ticket, journey: Journey, begun: Generator[Step | T, None, None]
    ) -> Generator[Step | T, None, None]:
        """The work itself. It is computing except while a step is looked at."""
        with closing(begun) as work:
            ticket.computing = True
            try:
                for item in work:
                    ticket.computing = False
                    yield item
                    ticket.computing = True
            except Exception as error:
                journey.left_in(error)
                raise

    def _run(self, job: _Job, journey: Journey) -> Generator[Step | Result, None, None]:
        opened, load_seconds = yield from self._open(job, journey)
        journey.opened = opened
        opened.prepare()
        loaded_before = opened.load_seconds
        with Quiet() as quiet, PeakMeter(opened.plan.device) as meter:
            outputs = yield from self._driver.drive(opened, job.request, journey)
        journey.trace.extend(opened.news())
        self.desk.used(opened.plan, opened.calls)
        loading = opened.load_seconds - loaded_before
        result = Result(
            outputs=outputs,
            plan=opened.plan,
            trace=tuple(journey.trace),
            seconds=max(quiet.seconds - loading, 0.0),
            load_seconds=load_seconds + loading,
            peak_bytes=opened.peak(meter.bytes),
            weights=opened.weights_note,
            items=job.items,
            component_bytes=opened.used_bytes(),
            drift=opened.drift,
        )
        # An own file is another network, and a clip spends its time on reading and drawing: neither tells what a
        # picture on these weights takes. Nor does a run beside another one.
        typical = opened.checkpoint is None and getattr(job.request, "teaches", True)
        alone = not self._lane.busy(besides=result.plan.device)
        self._learn(result, quiet=quiet.held and typical and alone)
        # A camera's pictures are one request each, several a second: they would bury the others in the log.
        if self._log is not None and getattr(job.request, "logged", True):
            self._log.write(result)
        yield result

    # --- opening

    def _open(self, job: _Job, journey: Journey) -> Generator[Step, None, tuple[Opened, float]]:
        current = self._fitting(job)
        ready = self._opened.get(self._slot(current))
        if ready and ready.serves(current, job.checkpoint):
            ready.renew(current)
            if job.check_drift:
                ready.drift = yield from self._judge.settle(ready, journey, asked=True)
            return ready, 0.0
        started = time.perf_counter()
        files: Mapping[str, Path] = {}
        if job.checkpoint is None:
            current, files = yield from self._files(job, current, journey)
        journey.cancel.check()
        yield Step("loading", 0, len(current.components))
        before = self._opened.get(self._slot(current))
        opened = self._opened[self._slot(current)] = open_plan(
            current, files, job.checkpoint, self.residency, self.desk, self.folders.cache
        )
        journey.opened = opened
        # Only now: what both have in common stays in memory.
        if before is not None:
            journey.trace.extend(before.last_news())
            before.close()
        opened.drift = yield from self._judge.settle(opened, journey, asked=job.check_drift)
        return opened, time.perf_counter() - started

    def _files(
        self, job: _Job, current: Plan, journey: Journey
    ) -> Generator[Step, None, tuple[Plan, Mapping[str, Path]]]:
        """The plan's files on this disk; the plan of the preview weights and theirs, where those are not to be had."""
        spec = job.spec
        try:
            return current, (yield from fetched(current, self.folders, journey.cancel))
        except WeightsUnavailableError as error:
            if not spec.preview or job.wishes.variant is not None:
                raise
            self._unavailable.add(f"{spec.name}/{current.variant}")
            why = short(error)
        current = self._fitting(job)
        journey.trace.append(TraceEntry("weights", "weights_unavailable", why, f"variant {current.variant}"))
        return current, (yield from fetched(current, self.folders, journey.cancel))

    def _fitting(self, job: _Job) -> Plan:
        current = self.plan(job.spec, job.wishes)
        if job.wishes.batch is None and current.batch > job.items:
            # The batch that won here is for requests that fill it.
            current = self.plan(job.spec, replace(job.wishes, batch=job.items))
        if not current.fits:
            raise DoesNotFitError(current.refusal)
        return current

    def _slot(self, made: Plan) -> str:
        """Where an adapter opened for a device is kept: lanes of two devices must not close each other's."""
        main = self.host.accelerators[0].device if self.host.accelerators else "cpu"
        return made.adapter if made.device == main else f"{made.adapter}@{made.device}"

    # --- afterwards

    def _learn(self, result: Result, *, quiet: bool) -> None:
        # A run that went as planned; which weights were to be had says nothing about time or memory.
        if all(entry.event == "weights_unavailable" for entry in result.trace):
            made, pool = result.plan, "host" if result.plan.device == "cpu" else "device"
            predicted = Cost(result.predicted_seconds, made.peak_bytes[pool])
            # Where a part was not needed, memory says nothing about requests that need it.
            whole = len(result.component_bytes) == len(made.components)
            measured = Cost(result.seconds, result.peak_bytes[pool] if whole else predicted.bytes)
            applied = applied_correction(made)
            self.store.record_run(
                correction_keys(made), predicted=predicted, measured=measured, applied=applied, quiet=quiet
            )

    def fetch(
        self, spec: AdapterSpec, wishes: Wishes, cancel: Cancel, accepted: frozenset[str] = frozenset()
    ) -> Generator[Step, None, Plan]:
        """Have the weights of a request on this disk without running it; returns the plan they are for.

        Raises:
            DoesNotFitError, LicenceNotAcceptedError, WeightsError, Cancelled: as ``run``.
        """
        job = _Job(spec, None, wishes, None, accepted, "")
        made, _ = yield from self._files(job, self._permitted(job), Journey.new(cancel))
        return made

    def preload(self, spec: AdapterSpec) -> Plan | None:
        """Load and place a model before anybody asks for it, from what is on this disk; None where nothing fits or is.

        With the preview weights where the published ones are not here.
        """
        for wishes in (Wishes(), *([Wishes(variant=spec.preview)] if spec.preview else [])):
            made = self.plan(spec, wishes)
            wanted = spec.variant(made.variant).weights
            found = {w.file: there.path for w in wanted if (there := find(w, self.folders)) is not None}
            if made.fits and len(found) == len(wanted):
                opened = self._opened[self._slot(made)] = open_plan(
                    made, found, None, self.residency, self.desk, self.folders.cache
                )
                opened.wake()
                return made
        return None

    def standings(self, made: Plan) -> tuple[Standing, ...]:
        """Where compiling stands for a plan, by component; empty while nothing of it is loaded."""
        opened = self._opened.get(self._slot(made))
        return opened.standings() if made.fits and opened is not None and opened.serves(made, None) else ()

    def close(self, name: str | None = None) -> None:
        """Put one adapter away, or end all work and put everything away."""
        if name is None:
            self._stop_all()
            self.desk.close()
        for slot in [s for s in self._opened if name is None or s.partition("@")[0] == name]:
            opened = self._opened.pop(slot, None)
            if opened is not None:
                opened.close()
        gc.collect()

    def _stop_all(self) -> None:
        """Stop whatever waits or computes, and wait until nothing computes any more."""
        for cancel in list(self._active.values()):
            cancel.request()
        until = time.monotonic() + CLOSE_S
        while self._lane.computing() and time.monotonic() < until:
            time.sleep(0.02)

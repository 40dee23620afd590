"""Trying a few plans on sample input: each in turn, round after round, and what won is kept with its figures.

A disturbed run is thrown away and made again; a round in which that did not help is thrown away whole, so all figures
that are compared come from the same quiet rounds. Nothing is kept of a trial that was stopped or had too few of them.
"""

import time
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from loader import candidates, quality, tuned
from loader.candidates import Trial
from loader.drive import Driver, Journey
from loader.errors import InputError, NoRoomError, RunError
from loader.knowledge import Tuned, Way
from loader.measure import Cost, Store
from loader.opened import Opened, open_plan
from loader.outcome import Cancel, Step
from loader.plan import Plan, applied_correction, correction_keys, plan_situation
from loader.quiet import Quiet
from loader.residency import Residency

LONGEST_S = 20.0  # a run that takes longer is not repeated dozens of times
LEAST_ROUNDS = 3  # quiet ones, for a figure to mean anything
LAPS = 3  # runs a way has in a round until one is undisturbed
TIRED = 3  # so many times as many rounds as wanted, quiet or not, then it is given up


@dataclass(frozen=True)
class Lap:
    """One call: how long it took, whether nothing else ran meanwhile, and what it gave."""

    seconds: float
    quiet: bool
    value: tuple[Any, ...] = ()


def lap(call: Callable[[], tuple[Any, ...]]) -> Lap:
    """Call once by the clock."""
    with Quiet() as quiet:
        value = call()
    return Lap(quiet.seconds, quiet.held, value)


@dataclass(frozen=True)
class Trials:
    """How thoroughly to try; a request to the engine like any other.

    Attributes:
        rounds: undisturbed rounds wanted.
        seconds: after so long no new round is begun.
        compiled: try torch.compile too, a minute each.
        timer: what times one call.
    """

    rounds: int = 7
    seconds: float = 60.0
    compiled: bool = False
    timer: Callable[[Callable[[], tuple[Any, ...]]], Lap] = lap

    @property
    def items(self) -> int:
        """Runs it may come to, for those who wait."""
        return self.rounds * candidates.MOST


@dataclass(frozen=True)
class Tuning:
    """What came of it.

    Attributes:
        plan: what was planned before, nothing tried.
        trials: the planned way first.
        winner: None where the machine was too busy to tell.
        quiet, rounds: undisturbed rounds, of all.
        seconds: the whole trial took.
    """

    plan: Plan
    trials: tuple[Trial, ...]
    winner: Way | None
    quiet: int
    rounds: int
    seconds: float


def tunable(made: Plan) -> bool:
    """Whether trying several ways is a matter of a minute here: a run takes seconds."""
    return made.fits and bool(made.situation.spec.pipeline) and made.predicted_seconds <= LONGEST_S


def untried(made: Plan) -> Plan:
    """``made`` as it is without anything tried.

    Raises:
        InputError: a run takes too long here to be repeated.
    """
    base = plan_situation(candidates.untuned(made.situation))
    if not tunable(base):
        raise InputError(
            f"{made.situation.spec.title} {made.variant} takes about {base.predicted_seconds:.0f} s a run here, and "
            f"tuning makes dozens: it is for what runs within {LONGEST_S:.0f} s. Choose a smaller variant or size"
        )
    return base


class Bench:
    """Candidates of one plan, opened beside each other.

    Args:
        base: the plan without anything tried.
        files: the plan's files of weights.
        store: where failures and the winner are remembered.
        residency: whose memory it is.
        driver: runs samples; its own, so that what fails here limits no request.
        cache: as ``loader.opened.open_plan``.
    """

    def __init__(
        self,
        base: Plan,
        files: Mapping[str, Path],
        store: Store,
        residency: Residency,
        driver: Driver,
        cache: Path | None = None,
    ) -> None:
        self._base, self._files, self._store, self._cache = base, files, store, cache
        self._residency, self._driver = residency, driver

    def run(self, trials: Trials, cancel: Cancel) -> Generator[Step, None, Tuning]:
        """Try every candidate: warm up, judge, then round after round in turn.

        Raises:
            InputError: the adapter has no sample to try on.
            Cancelled: Stop was pressed, or somebody wants the machine.
        """
        started = time.perf_counter()
        ways = self._within_memory(candidates.candidates(self._base, compiled=trials.compiled))
        with ExitStack() as stack:
            entrants = []
            for index, (way, plan) in enumerate(ways):
                yield Step("tuning_opening", index, len(ways), detail={"way": tuned.words_of(way)})
                opened = stack.enter_context(
                    closing(open_plan(plan, self._files, None, self._residency, cache=self._cache))
                )
                entrants.append(_Entrant(way, opened, self._sample(opened)))
            yield from self._warmed(entrants, trials, cancel)
            quiet, rounds = yield from self._raced([e for e in entrants if not e.problem], trials, cancel)
        results = tuple(entrant.trial() for entrant in entrants)
        won = None
        if quiet >= min(LEAST_ROUNDS, trials.rounds) and any(not t.problem for t in results):
            won = candidates.winner(results).way
            self._keep(dict(ways)[won], won, results, quiet)
        return Tuning(self._base, results, won, quiet, rounds, time.perf_counter() - started)

    def _within_memory(self, ways: Sequence[tuple[Way, Plan]]) -> list[tuple[Way, Plan]]:
        """As many as can be held at once beside what one of them needs to run."""
        pool = "host" if self._base.device == "cpu" else "device"
        room = self._base.budget_bytes[pool]
        kept: list[tuple[Way, Plan]] = []
        for way, plan in ways:
            room -= sum(placed.bytes for placed in plan.components)
            if not kept or room >= plan.peak_bytes[pool]:
                kept.append((way, plan))
        return kept

    def _sample(self, opened: Opened) -> Any:
        sample = opened.pipeline.sample(opened.plan)
        if sample is None:
            raise InputError(f"{self._base.situation.spec.title} has no sample to try plans on")
        return sample

    def _warmed(self, entrants: "Sequence[_Entrant]", trials: Trials, cancel: Cancel) -> Generator[Step, None, None]:
        """Two runs of each: kernels are chosen in the first, the second says whether it is worth going on."""
        reference = self._reference(cancel)
        limit = quality.limit(self._base)
        for index, entrant in enumerate(entrants):
            yield Step("tuning_warming", index, len(entrants), detail={"way": tuned.words_of(entrant.way)})
            for _ in range(2):
                if not entrant.problem:
                    entrant.once(trials.timer, self._driver, cancel)
            if not entrant.problem and reference and entrant.opened.plan.component(self._main).compute_dtype != "fp32":
                entrant.judged(reference, limit)
        best = min((e.latest for e in entrants if not e.problem), default=0.0)
        for entrant in entrants:
            if not entrant.problem and entrant.latest > candidates.HOPELESS * best:
                entrant.laps = [entrant.latest]
                entrant.problem = "slow"

    @property
    def _main(self) -> str:
        return candidates.main_component(self._base).name

    def _reference(self, cancel: Cancel) -> tuple[Any, ...]:
        """What fp32 gives for one item; nothing where it does not fit, and then nothing is judged."""
        plan = quality.reference_plan(self._base)
        with closing(open_plan(plan, self._files, None, self._residency)) as exact:
            try:
                return self._driver.drain(exact, self._sample(exact), Journey.new(cancel))
            except (RunError, NoRoomError):
                return ()

    def _raced(
        self, entrants: "Sequence[_Entrant]", trials: Trials, cancel: Cancel
    ) -> Generator[Step, None, tuple[int, int]]:
        """Rounds in turn, each begun by another one; returns the undisturbed ones and all."""
        until, quiet, rounds = time.perf_counter() + trials.seconds, 0, 0
        while entrants and quiet < trials.rounds and rounds < TIRED * trials.rounds and time.perf_counter() < until:
            yield Step("tuning", quiet, trials.rounds, detail={"disturbed": rounds - quiet})
            turn = rounds % len(entrants)
            laps = [(e, self._lap(e, trials, cancel)) for e in (*entrants[turn:], *entrants[:turn])]
            rounds += 1
            entrants = [e for e in entrants if not e.problem]
            if all(one.quiet for e, one in laps if not e.problem):
                quiet += 1
                for entrant, one in laps:
                    entrant.laps.append(one.seconds / entrant.way.batch)
        return quiet, rounds

    def _lap(self, entrant: "_Entrant", trials: Trials, cancel: Cancel) -> Lap:
        """One run by the clock, again a few times where another process took its place."""
        for _ in range(LAPS):
            one = entrant.once(trials.timer, self._driver, cancel)
            if one.quiet or entrant.problem:
                break
        return one

    def _keep(self, plan: Plan, won: Way, trials: Sequence[Trial], rounds: int) -> None:
        host, base = self._base.situation.host, self._base
        timed = tuple(trial.timed() for trial in trials)
        self._store.record_tuned(
            Tuned(
                tuned.machine_of(host, base.device),
                host.torch,
                base.adapter,
                base.variant,
                base.device,
                base.size,
                self._main,
                won,
                trials[0].way,
                timed,
                rounds,
                time.strftime("%Y-%m-%d"),
            )
        )
        # What a run of the winner takes is known now, and better than from any rate.
        pool = "host" if plan.device == "cpu" else "device"
        best = next(t for t in timed if t.way == won)
        self._store.record_run(
            correction_keys(plan),
            predicted=Cost(plan.predicted_seconds, plan.peak_bytes[pool]),
            measured=Cost(best.seconds * won.batch, plan.peak_bytes[pool]),
            applied=applied_correction(plan),
        )


class _Entrant:
    """One way while it is tried."""

    def __init__(self, way: Way, opened: Opened, sample: Any) -> None:
        self.way, self.opened, self.sample = way, opened, sample
        self.laps: list[float] = []
        self.latest, self.drift = 0.0, 0.0
        self.problem, self.detail = "", ""
        self._outputs: tuple[Any, ...] = ()

    def once(self, timer: Callable[[Callable[[], tuple[Any, ...]]], Lap], driver: Driver, cancel: Cancel) -> Lap:
        """Run the sample by the clock. A way that had to be left while it ran is out."""
        journey = Journey.new(cancel)
        try:
            one = timer(lambda: driver.drain(self.opened, self.sample, journey))
        except (RunError, NoRoomError) as error:
            one = Lap(0.0, quiet=False)
            self.problem, self.detail = "failed", str(error)
        if journey.trace:
            self.problem, self.detail = journey.trace[0].event, journey.trace[0].why
        self._outputs, self.latest = one.value, one.seconds / self.way.batch
        return one

    def judged(self, reference: tuple[Any, ...], limit: float) -> None:
        """Compare the first item with fp32's."""
        self.drift = self.opened.pipeline.drift(reference, self._outputs[: len(reference)])
        if self.drift > limit:
            self.laps = [self.latest]
            self.problem, self.detail = "drift", f"{self.drift:.3f} > {limit:.3f}"

    def trial(self) -> Trial:
        return Trial(self.way, tuple(self.laps), self.drift, self.problem, self.detail)

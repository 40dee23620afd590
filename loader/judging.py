"""Warming a plan up, and comparing it with fp32 when it is first used: which part drifts, and what is done about it.

What was found out is kept in a file, by plan, weights, machine and torch; it takes no longer than its budget allows.
"""

import json
import logging
import math
import os
import time
from collections.abc import Generator
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from loader import quality
from loader.decision import Failure
from loader.drive import Driver, Journey
from loader.errors import NoRoomError, RunError
from loader.opened import Opened, open_plan
from loader.outcome import Cancel, Drift, Step
from loader.plan import Plan
from loader.residency import Residency

_log = logging.getLogger(__name__)
FILE = "judged.json"
BUDGET_S = 30.0  # comparing may take so long by itself; more only when it is asked for
_MAX_KEPT = 500


class Judged:
    """Drifts in a file, by ``quality.judgement_key``. A file that cannot be read or written costs a comparison."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def get(self, key: str) -> float | None:
        value = self._all().get(key)
        return float(value) if isinstance(value, (int, float)) else None

    def keep(self, key: str, drift: float) -> None:
        """Remember; the last kept stand last, and of too many the oldest go."""
        everything = {k: v for k, v in self._all().items() if k != key} | {key: drift}
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            partial = self._path.with_suffix(f".{os.getpid()}")
            partial.write_text(json.dumps(dict(list(everything.items())[-_MAX_KEPT:])), encoding="utf-8")
            partial.replace(self._path)
        except OSError as error:
            _log.info("%s could not be written: %s", self._path, error)

    def _all(self) -> dict[str, Any]:
        try:
            found = json.loads(self._path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}
        return found if isinstance(found, dict) else {}


@dataclass
class _Sample:
    """A sample and what its runs gave.

    Attributes:
        outputs: of the plan as it is.
        seconds: a run takes at most, in fp32.
        until: by the clock, no run is begun that would end later.
        reference: what fp32 gives, None before that is needed.
    """

    request: Any
    outputs: tuple[Any, ...]
    seconds: float
    until: float
    reference: tuple[Any, ...] | None = None

    def in_time(self) -> bool:
        """Whether one more run may be begun."""
        return time.perf_counter() + self.seconds <= self.until


class Judge:
    """Settles what was just opened: first run, judgement, and fp32 for the parts that need it.

    Args:
        driver: runs samples, and puts lower plans in force.
        residency: whose memory the reference is loaded into.
        judged: what is known already.
        budget_s: seconds a comparison may take by itself.
    """

    def __init__(self, driver: Driver, residency: Residency, judged: Judged, budget_s: float = BUDGET_S) -> None:
        self._driver, self._residency, self._judged, self._budget_s = driver, residency, judged, budget_s

    def settle(self, opened: Opened, journey: Journey, *, asked: bool = False) -> Generator[Step, None, Drift | None]:
        """Warm up, and the first time a lower precision is used here, or when ``asked``, compare it with fp32.

        Returns:
            The drift of the plan that is in force afterwards; None where the adapter has no sample or the weights are
            the user's own.
        """
        request = opened.pipeline.sample(replace(opened.plan, batch=1))
        if request is None:
            return None
        yield Step("warming_up", 0, 1)
        aside = Journey(journey.cancel, journey.trace, {})
        loaded, started = opened.load_seconds, time.perf_counter()
        outputs = self._driver.drain(opened, request, aside)
        now = time.perf_counter()
        seconds = max(0.0, now - started - (opened.load_seconds - loaded)) * self._times_fp32(opened.plan)
        if opened.checkpoint is not None:
            return None
        until = math.inf if asked else now + self._budget_s
        return (yield from self._judge(opened, journey, _Sample(request, outputs, seconds, until), asked=asked))

    def _judge(self, opened: Opened, journey: Journey, sample: _Sample, *, asked: bool) -> Generator[Step, None, Drift]:
        metric, limit = opened.plan.situation.spec.drift_metric, quality.limit(opened.plan)
        key, begun = self._key(opened), time.perf_counter()
        if key is None:
            return Drift(0.0, limit, metric, "exact")
        drift = None if asked else self._judged.get(key)
        known = drift is not None
        if drift is None:
            if not sample.in_time():
                detail = {"seconds": round(sample.seconds), "limit": round(self._budget_s)}
                yield Step("judging_skipped", 0, 0, detail=detail)
                return Drift(None, limit, metric, "skipped", sample.seconds)
            yield Step("judging", 0, 1)
            sample.reference = self._outputs(quality.reference_plan(opened.plan), opened, sample, journey.cancel)
            if sample.reference is None:
                return Drift(None, limit, metric, "impossible")
            drift = opened.pipeline.drift(sample.reference, sample.outputs)
            self._judged.keep(key, drift)
        if known and drift <= limit:
            return Drift(drift, limit, metric, "known")
        while drift > limit and quality.low_components(opened.plan):
            drift = yield from self._raise_one(opened, journey, sample, drift)
        return Drift(drift, limit, metric, "measured", time.perf_counter() - begun)

    def _raise_one(
        self, opened: Opened, journey: Journey, sample: _Sample, drift: float
    ) -> Generator[Step, None, float]:
        """Put the part that drifts in fp32, or all where there is no time to find out; returns the drift left."""
        low = quality.low_components(opened.plan)
        left = {low[0]: 0.0} if len(low) == 1 else (yield from self._each(opened, sample, low, journey.cancel))
        limit = quality.limit(opened.plan)
        if left is None:
            for name in low:
                self._raise(opened, journey, name, f"{drift:.3f} > {limit:.3f}")
            return 0.0
        offender = min(left, key=lambda name: left[name])
        self._raise(opened, journey, offender, f"{drift:.3f} > {limit:.3f} → {left[offender]:.3f}")
        key = self._key(opened)
        if key is not None:
            self._judged.keep(key, left[offender])
        return left[offender]

    def _each(
        self, opened: Opened, sample: _Sample, low: tuple[str, ...], cancel: Cancel
    ) -> Generator[Step, None, dict[str, float] | None]:
        """The drift left with each part in fp32 and all others as planned, up to the first that is enough by itself.

        None where time ran out before.
        """
        left: dict[str, float] = {}
        for index, name in enumerate(low):
            yield Step("judging", index, len(low), detail={"component": name})
            if not sample.in_time():
                return None
            if sample.reference is None:
                sample.reference = self._outputs(quality.reference_plan(opened.plan), opened, sample, cancel)
            plan = quality.with_fp32(opened.plan, name)
            outputs = self._outputs(plan, opened, sample, cancel) if plan.fits and sample.reference else None
            if outputs is not None and sample.reference is not None:
                left[name] = opened.pipeline.drift(sample.reference, outputs)
                if left[name] <= quality.limit(opened.plan):
                    break
        return left or None

    def _raise(self, opened: Opened, journey: Journey, name: str, detail: str) -> None:
        if name in quality.low_components(opened.plan):
            self._driver.step_down(opened, Failure("drift", name, detail=detail), "sample", journey)
            opened.rest()

    def _outputs(self, plan: Plan, opened: Opened, sample: _Sample, cancel: Cancel) -> tuple[Any, ...] | None:
        """What ``plan`` makes of the sample; None where it does not run, which fails nobody's request."""
        with closing(open_plan(plan, opened.files, None, self._residency)) as other:
            try:
                return self._driver.drain(other, sample.request, Journey.new(cancel))
            except (RunError, NoRoomError) as error:
                _log.info("%s was not compared with fp32: %s", plan.adapter, error)
                return None

    @staticmethod
    def _times_fp32(made: Plan) -> float:
        """How many times as long fp32 is expected to take."""
        return max(1.0, quality.reference_plan(made).predicted_seconds / max(made.predicted_seconds / made.batch, 1e-9))

    @staticmethod
    def _key(opened: Opened) -> str | None:
        return quality.judgement_key(opened.plan, [quality.identity_of(path) for path in opened.files.values()])

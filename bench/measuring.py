"""Measures the configurations of a model in turn: the network as published, each adaptation, the plan, and peers."""

import gc
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch

from adapters import adapter
from bench.apart import apart, peak_of
from bench.limited import limits_of, probed_here
from bench.peers import PEERS, peers_on
from bench.rows import Asked, Kind, Milliseconds, Progress, Row, Stage, Tell, unheard
from bench.subject import SUBJECTS, Call, Subject, finished
from bench.timing import Rounds, Times, ratio
from loader.errors import DoesNotFitError, InputError
from loader.folders import Folders
from loader.host import Host
from loader.plan import Placement, Plan, plan
from loader.process import limit_threads
from loader.wishes import Wishes

WARM_UPS = 2  # weights are packed and kernels chosen in the first call
MAX_ERROR = 200
REST_S = 0.05  # threads of other runtimes spin a little after their work, and would take our time
PLANNED = "planned"
Peak = Mapping[str, int]


def rows(asked: Asked, host: Host, folders: Folders, tell: Tell = unheard) -> list[Row]:
    """Rows as contracted, the unadapted path first in each batch size, then the same under limited instruction sets.

    What cannot be timed (no compiler, no peer, no room) costs its own row, which says why.

    Args:
        asked: what to measure.
        host: this machine.
        folders: where weights are.
        tell: heard before each piece of work. It may wait, and may raise ``Cancelled``, which ends the bench.

    Raises:
        InputError: an adapter that has no bench yet.
        DoesNotFitError: no plan.
        Cancelled: ``tell`` raised it.
    """
    tables = [Table(asked, host, folders, batch) for batch in asked.batches]
    limits = limits_of(host) if asked.limits else ()
    account = _Account(tell, sum(table.pieces for table in tables) + len(limits))
    for table in tables:
        account.rows += table.measure(account)
    for limit in limits:
        account.next("limits", limit.name)
        account.rows += apart(limited_rows, limit.environ, asked, folders, limit.name)
    return account.rows


def limited_rows(asked: Asked, folders: Folders, name: str) -> list[Row]:
    """In a process with limited instructions: as published, and as planned for what is left. Times alone."""
    host = probed_here()
    less = replace(asked, peaks=False, limits=False, compiled=False, peers=False)
    made: list[Row] = []
    for batch in asked.batches:
        table = Table(less, host, folders, batch, ends_only=True)
        made += table.measure(_Account(unheard, table.pieces))
    return [replace(row, config=f"{row.config}, {name}", limits=tuple(host.cpu.limits)) for row in made]


def planned_subject(asked: Asked, host: Host, folders: Folders, batch: int) -> tuple[Plan, Subject]:
    """The plan and what is timed under it.

    Raises:
        InputError: an adapter that has no bench yet.
        DoesNotFitError: no plan.
    """
    spec = adapter(asked.adapter)
    if asked.adapter not in SUBJECTS:
        raise InputError(f"{spec.title} has no bench yet: {', '.join(SUBJECTS)} have")
    planned = plan(spec, host, Wishes(variant=asked.variant, batch=batch, size=asked.size))
    if planned.refusal is not None:
        raise DoesNotFitError(planned.refusal)
    return planned, SUBJECTS[asked.adapter](planned, folders)


def peak_apart(adapter_name: str, planned: Plan, folders: Folders, placement: Placement, batch: int) -> dict[str, int]:
    """The peak of one placement in this process, which has done nothing else."""
    limit_threads(planned.situation.host.cpu.cores)
    subject = SUBJECTS[adapter_name](planned, folders)
    return peak_of(lambda: finished(subject.call(placement, batch), placement.device), placement.device)


def peer_peak_apart(adapter_name: str, planned: Plan, folders: Folders, peer: str, batch: int) -> dict[str, int]:
    """The peak of a peer in this process, which has done nothing else."""
    limit_threads(planned.situation.host.cpu.cores)
    subject = SUBJECTS[adapter_name](planned, folders)

    def make() -> Call:
        call = PEERS[peer].call(subject.plain(), subject.images(batch), torch.get_num_threads())
        gc.collect()
        return call

    return peak_of(make, "cpu")


@dataclass(frozen=True)
class Configuration:
    """One row to be: how to make what is timed, and how to measure its peak."""

    name: str
    kind: Kind
    make: Callable[[], Call]
    peak: Callable[[], Peak]


class _Account:
    """How far the whole bench has come."""

    def __init__(self, tell: Tell, total: int) -> None:
        self._tell, self._done, self._total = tell, 0, total
        self.rows: list[Row] = []

    def next(self, stage: Stage, config: str = "", rows: Iterable[Row] = ()) -> None:
        self._tell(Progress(stage, self._done, self._total, config, (*self.rows, *rows)))
        self._done += 1


class Table:
    """All configurations of one model at one batch size."""

    def __init__(self, asked: Asked, host: Host, folders: Folders, batch: int, *, ends_only: bool = False) -> None:
        """``ends_only`` leaves the first configuration and the planned one."""
        self.asked, self.host, self.folders, self.batch = asked, host, folders, batch
        self.planned, self.subject = planned_subject(asked, host, folders, batch)
        placements = self.subject.placements(compiled=asked.compiled)
        self.first = next(iter(placements))
        if ends_only:
            placements = {self.first: placements[self.first], PLANNED: placements[PLANNED]}
        self.configurations = [self._placed(name, placement) for name, placement in placements.items()]
        if asked.peers:
            self.configurations += [self._peer(peer.name) for peer in peers_on(self.planned.device)]
        self.errors: dict[str, str] = {}

    @property
    def pieces(self) -> int:
        """Pieces of work ``measure`` tells of."""
        each = 2 if self.asked.peaks else 1
        return each * len(self.configurations) + self.asked.repeats

    def measure(self, account: _Account) -> list[Row]:
        """Peaks first, before this process holds the weights of all of them; then all of them in turn."""
        peaks: dict[str, Peak] = {}
        if self.asked.peaks:
            for one in self.configurations:
                account.next("peak", one.name, self._rows({}, peaks, {}))
                self._try(one.name, peaks, one.peak)
        calls, drifts = self._ready(account, peaks)
        rounds = Rounds(calls, rest=REST_S if self.asked.peers else 0.0)
        for _ in range(self.asked.repeats):
            account.next("rounds", "", self._rows(rounds.times, peaks, drifts))
            rounds.go()
        return self._rows(rounds.times, peaks, drifts)

    def _ready(self, account: _Account, peaks: Mapping[str, Peak]) -> tuple[dict[str, Call], dict[str, float | None]]:
        """Those that run, warmed up, and how far each is from the first."""
        calls: dict[str, Call] = {}
        given: dict[str, Any] = {}
        drifts: dict[str, float | None] = {}
        for one in self.configurations:
            account.next("prepare", one.name, self._rows({}, peaks, drifts))
            if self._try(one.name, calls, one.make) and self._try(one.name, given, calls[one.name]):
                for _ in range(WARM_UPS - 1):
                    calls[one.name]()
                first = given.get(self.first)
                same = one.name == self.first
                drifts[one.name] = 0.0 if same else self._drift(first, given.pop(one.name))
            else:
                calls.pop(one.name, None)
        return calls, drifts

    def _drift(self, first: Any, other: Any) -> float | None:
        return None if first is None else self.subject.drift(first, other)

    def _try(self, name: str, found: dict[str, Any], make: Callable[[], Any]) -> bool:
        """Put what ``make`` gives under ``name``; an error of a compiler or a peer is kept for its row instead."""
        if name in self.errors:
            return False
        try:
            found[name] = make()
        except Exception as error:  # noqa: BLE001 - compilers and runtimes of others raise what they like
            lines = str(error).strip().splitlines() or [""]
            self.errors[name] = f"{type(error).__name__}: {lines[0]}"[:MAX_ERROR]
            if isinstance(error, InputError):
                self.errors[name] = lines[0]
            return False
        return True

    # --- configurations

    def _placed(self, name: str, placement: Placement) -> Configuration:
        kind: Kind = "published" if name == self.first else "planned" if name == PLANNED else "adapted"
        return Configuration(
            name,
            kind,
            lambda: finished(self.subject.call(placement, self.batch), placement.device),
            lambda: apart(peak_apart, None, self.asked.adapter, self.planned, self.folders, placement, self.batch),
        )

    def _peer(self, name: str) -> Configuration:
        return Configuration(
            name,
            "peer",
            lambda: PEERS[name].call(self.subject.plain(), self.subject.images(self.batch), torch.get_num_threads()),
            lambda: apart(peer_peak_apart, None, self.asked.adapter, self.planned, self.folders, name, self.batch),
        )

    # --- rows

    def _rows(
        self, times: Mapping[str, Times], peaks: Mapping[str, Peak], drifts: Mapping[str, float | None]
    ) -> list[Row]:
        return [self._row(one, times, peaks, drifts) for one in self.configurations]

    def _row(
        self,
        one: Configuration,
        times: Mapping[str, Times],
        peaks: Mapping[str, Peak],
        drifts: Mapping[str, float | None],
    ) -> Row:
        row = Row(
            self.asked.adapter,
            self.planned.variant,
            self.subject.weights,
            one.name,
            one.kind,
            self.planned.size,
            self.batch,
            peak_bytes=peaks.get(one.name),
            memory_ratio=_share(peaks.get(one.name), peaks.get(self.first), self.planned.device),
            drift=None if drifts.get(one.name) is None else round(drifts[one.name] or 0.0, 6),
            limits=tuple(self.host.cpu.limits),
            error=self.errors.get(one.name, ""),
        )
        mine, first = times.get(one.name), times.get(self.first)
        if mine is None:
            return row
        return replace(
            row,
            repeats=len(mine.seconds),
            ms=Milliseconds.of(mine.seconds),
            images_per_second=round(self.batch / mine.median, 2),
            speed_up=None if first is None else round(ratio(first, mine), 2),
            quiet=mine.quiet,
        )


def _share(peak: Peak | None, first: Peak | None, device: str) -> float | None:
    """How much of the first row's memory a row needs, in the pool it computes in."""
    pool = "host" if device == "cpu" else "device"
    if peak is None or first is None or not first[pool]:
        return None
    return round(peak[pool] / first[pool], 3)

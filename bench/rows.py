"""What the bench reports, as values: rows, the machine they were measured on, and how far a bench has come."""

import json
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from loader.codec import from_plain, to_plain
from loader.errors import InputError
from loader.host import Host

Kind = Literal["published", "adapted", "planned", "peer"]
Stage = Literal["peak", "prepare", "rounds", "limits"]
MAX_FILE_BYTES = 4 * 2**20


@dataclass(frozen=True)
class Asked:
    """What to measure.

    Attributes:
        adapter: its name.
        variant: None for the one the plan chooses.
        batches: pictures at once, each a table of its own.
        repeats: rounds that count.
        compiled: torch.compile too; the first call of each such row takes a minute.
        size: height and width of the network input, None for the plan's.
        peaks: memory too, each configuration in a process of its own.
        limits: on a CPU, first and last row again as if it had fewer instructions.
        peers: other runtimes beside it, see ``bench.peers``.
    """

    adapter: str
    variant: str | None
    batches: tuple[int, ...]
    repeats: int
    compiled: bool
    size: tuple[int, int] | None = None
    peaks: bool = True
    limits: bool = True
    peers: bool = False


@dataclass(frozen=True)
class Milliseconds:
    """Of one call with the whole batch: fastest, lower quartile, median, upper quartile, slowest."""

    min: float
    low: float
    median: float
    high: float
    max: float

    @classmethod
    def of(cls, seconds: Sequence[float]) -> "Milliseconds":
        values = sorted(second * 1000 for second in seconds)
        quartiles = statistics.quantiles(values, n=4, method="inclusive") if len(values) > 1 else values * 3
        return cls(*(round(value, 3) for value in (values[0], *quartiles, values[-1])))


@dataclass(frozen=True)
class Row:
    """One configuration at one batch size.

    Attributes:
        variant: of the adapter.
        weights: which ones it ran on.
        config: its name within the table.
        kind: the network as published, adapted in one way, as the plan has it, or another runtime.
        size: height and width of the network input.
        repeats: rounds that counted; 0 when it could not be timed.
        ms: milliseconds of a call.
        images_per_second: by the median.
        speed_up: median over rounds of the first row's time by this one's.
        quiet: threads waited less than a tenth of the time for a processor.
        peak_bytes: by pool, ``device`` and ``host``; None when it was not measured.
        memory_ratio: of the first row's peak.
        drift: from the first row, 0 for the same; None where there is nothing to judge by.
        limits: of instruction sets that held.
        error: why there is no time, "" when there is.
    """

    adapter: str
    variant: str
    weights: str
    config: str
    kind: Kind
    size: tuple[int, int]
    batch: int
    repeats: int = 0
    ms: Milliseconds | None = None
    images_per_second: float | None = None
    speed_up: float | None = None
    quiet: bool = True
    peak_bytes: Mapping[str, int] | None = None
    memory_ratio: float | None = None
    drift: float | None = None
    limits: tuple[str, ...] = ()
    error: str = ""

    @property
    def ms_per_image(self) -> Milliseconds | None:
        """``ms`` shared out among the pictures of the batch."""
        if self.ms is None:
            return None
        one = self.ms
        values = (one.min, one.low, one.median, one.high, one.max)
        return Milliseconds(*(round(value / self.batch, 3) for value in values))

    @property
    def peak(self) -> int | None:
        """Bytes in the pool it computes in."""
        return None if self.peak_bytes is None else self.peak_bytes["device"] or self.peak_bytes["host"]


@dataclass(frozen=True)
class Machine:
    """Where rows come from, in as many words as a table needs."""

    title: str
    cpu: str
    cores: int
    isa: tuple[str, ...]
    limits: tuple[str, ...]
    ram_bytes: int
    accelerators: tuple[str, ...]
    torch: str
    python: str
    date: str

    @classmethod
    def of(cls, host: Host, date: str) -> "Machine":
        """``date`` as year-month-day."""
        cpu = host.cpu
        cards = tuple(card.name for card in host.accelerators)
        isa, limits = tuple(cpu.effective_isa), tuple(cpu.limits)
        return cls(host.title, cpu.name, cpu.cores, isa, limits, host.ram_bytes, cards, host.torch, host.python, date)


@dataclass(frozen=True)
class Report:
    """Rows of one or more adapters from one machine."""

    machine: Machine
    rows: tuple[Row, ...]

    def tables(self) -> tuple[tuple[Row, ...], ...]:
        """Rows that belong side by side: of one adapter, variant and size, in the order they came in."""
        keys = dict.fromkeys((row.adapter, row.variant, row.size) for row in self.rows)
        return tuple(tuple(row for row in self.rows if (row.adapter, row.variant, row.size) == key) for key in keys)


@dataclass(frozen=True)
class Progress:
    """Told before each piece of work: ``done`` of ``total`` pieces, and what is known of the rows so far."""

    stage: Stage
    done: int
    total: int
    config: str = ""
    rows: tuple[Row, ...] = ()


Tell = Callable[[Progress], None]


def unheard(progress: Progress) -> None:
    """A ``Tell`` for nobody."""
    del progress


def report_to_json(report: Report) -> str:
    """As a text that ``report_from_json`` reads back."""
    return json.dumps(to_plain(report), indent=1, ensure_ascii=False) + "\n"


def report_from_json(text: str, *, where: str = "report") -> Report:
    """The report ``text`` holds.

    Raises:
        InputError: it is not one; the message names the field.
    """
    try:
        return from_plain(Report, json.loads(text))
    except (ValueError, RecursionError) as error:
        raise InputError(f"{where} is not a report of `app.py bench --json`: {error}") from error


def report_file(path: Path) -> Report:
    """The report in a file.

    Raises:
        InputError: it cannot be read or is not one.
    """
    try:
        if path.stat().st_size > MAX_FILE_BYTES:
            raise InputError(f"{path.name} is larger than any report ({MAX_FILE_BYTES:,} bytes)")
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path.name} cannot be read: {error}") from error
    return report_from_json(text, where=path.name)

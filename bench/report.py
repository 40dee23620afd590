"""``app.py bench``: runs the configurations of an adapter and reports rows."""

import json
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Protocol

from adapters import adapter
from bench.apart import apart, peak_of
from bench.depth import Depth
from bench.detector import Detector
from bench.limited import limits_of, probed_here
from bench.timing import Times, interleaved, ratio
from loader.errors import DoesNotFitError, InputError
from loader.folders import Folders
from loader.host import Host
from loader.plan import Placement, Plan, plan
from loader.process import limit_threads
from loader.wishes import Wishes


class Subject(Protocol):
    """What is timed of one adapter under one plan."""

    @property
    def weights(self) -> str: ...

    def placements(self, *, compiled: bool) -> dict[str, Placement]: ...

    def call(self, placement: Placement, batch: int) -> Callable[[], Any]: ...

    def drift(self, reference: Placement, other: Placement) -> float | None: ...


SUBJECTS: Mapping[str, Callable[[Plan, Folders], Subject]] = {"damo_yolo": Detector, "metric3d": Depth}


@dataclass(frozen=True)
class Asked:
    """What to measure.

    Attributes:
        quick: times only: no process for each peak, no limited instruction sets.
    """

    adapter: str
    variant: str | None
    batches: tuple[int, ...]
    repeats: int
    compiled: bool
    size: tuple[int, int] | None = None
    quick: bool = False


Row = dict[str, Any]


def rows(asked: Asked, host: Host, folders: Folders) -> list[Row]:
    """Rows as contracted, the unadapted path first in each batch size, then the same under limited instruction sets.

    Raises:
        InputError: an adapter that has no bench yet.
        DoesNotFitError: no plan.
        RunError: a measurement in a process of its own was killed.
    """
    made = [row for batch in asked.batches for row in _rows_of_batch(asked, host, folders, batch)]
    if not asked.quick:
        for limit in limits_of(host):
            made += apart(limited_rows, limit.environ, asked, folders, limit.name)
    return made


def limited_rows(asked: Asked, folders: Folders, name: str) -> list[Row]:
    """In a process with limited instructions: as published, and as planned for what is left. Times alone."""
    host = probed_here()
    return [
        row | {"config": f"{row['config']}, {name}", "limits": list(host.cpu.limits)}
        for batch in asked.batches
        for row in _rows_of_batch(replace(asked, quick=True, compiled=False), host, folders, batch, ends_only=True)
    ]


def subject_of(asked: Asked, host: Host, folders: Folders, batch: int) -> tuple[Plan, Subject]:
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
    return peak_of(lambda: subject.call(placement, batch), placement.device)


def _rows_of_batch(asked: Asked, host: Host, folders: Folders, batch: int, *, ends_only: bool = False) -> list[Row]:
    planned, subject = subject_of(asked, host, folders, batch)
    placements = subject.placements(compiled=asked.compiled)
    first = next(iter(placements))
    if ends_only:
        placements = {first: placements[first], "planned": placements["planned"]}
    peaks: dict[str, dict[str, int]] = {}
    if not asked.quick:  # before this process holds the weights of all of them
        for name, placement in placements.items():
            peaks[name] = apart(peak_apart, None, asked.adapter, planned, folders, placement, batch)
    times = interleaved({name: subject.call(placement, batch) for name, placement in placements.items()}, asked.repeats)
    return [
        {
            "adapter": asked.adapter,
            "variant": planned.variant,
            "weights": subject.weights,
            "config": name,
            "size": list(planned.size),
            "batch": batch,
            **_figures(times[name], times[first], batch),
            "peak_bytes": peaks.get(name),
            "memory_ratio": _share(peaks.get(name), peaks.get(first), placement.device),
            "drift": 0.0 if name == first else subject.drift(placements[first], placement),
            "limits": list(host.cpu.limits),
        }
        for name, placement in placements.items()
    ]


def _share(peak: Mapping[str, int] | None, first: Mapping[str, int] | None, device: str) -> float | None:
    """How much of the first row's memory a row needs, in the pool it computes in."""
    pool = "host" if device == "cpu" else "device"
    if peak is None or first is None or not first[pool]:
        return None
    return round(peak[pool] / first[pool], 3)


def _figures(times: Times, first: Times, batch: int) -> dict[str, Any]:
    return {
        "ms": {"min": round(times.min * 1000, 2), "median": round(times.median * 1000, 2)},
        "images_per_second": round(batch / times.median, 2),
        "speed_up": round(ratio(first, times), 2),
        "quiet": times.quiet,
    }


def report(asked: list[Asked], host: Host, folders: Folders) -> dict[str, Any]:
    """Rows of all adapters with the machine's description."""
    return {
        "machine": {
            "title": host.title,
            "cpu": host.cpu.name,
            "cores": host.cpu.cores,
            "isa": list(host.cpu.effective_isa),
            "limits": list(host.cpu.limits),
            "accelerators": [a.name for a in host.accelerators],
            "torch": host.torch,
            "python": host.python,
        },
        "rows": [row for one in asked for row in rows(one, host, folders)],
    }


def table(found: dict[str, Any]) -> str:
    """The report as a Markdown table."""
    machine = found["machine"]
    lines = [
        f"{machine['title']}; {', '.join(machine['isa'])}; torch {machine['torch']}"
        + (f"; limited by {', '.join(machine['limits'])}" if machine["limits"] else ""),
        "",
        "| variant | size | configuration | batch | ms min | ms median | images/s | speed-up | peak MiB | of the first "
        "| drift | quiet |",
        "|---|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    lines += [_line(row) for row in found["rows"]]
    weights = {row["weights"] for row in found["rows"]}
    lines += [
        "",
        f"Weights: {', '.join(sorted(weights))}. Speed-up: median over rounds timed in turn, against the first row of "
        "the same instruction set. Peak: weights and everything else that grew while it ran, in a process of its own.",
    ]
    return "\n".join(lines)


def _line(row: Mapping[str, Any]) -> str:
    peak, share, drift = row["peak_bytes"], row["memory_ratio"], row["drift"]
    height, width = row["size"]
    cells = (
        row["variant"],
        f"{height}×{width}",
        row["config"],
        row["batch"],
        row["ms"]["min"],
        row["ms"]["median"],
        row["images_per_second"],
        f"{row['speed_up']}×",
        "–" if peak is None else round((peak["device"] or peak["host"]) / 2**20),
        "–" if share is None else f"{share:.2f}",
        "–" if drift is None else f"{drift:.4f}",
        "yes" if row["quiet"] else "no",
    )
    return "| " + " | ".join(map(str, cells)) + " |"


def show(found: dict[str, Any], *, as_json: bool) -> None:
    """Print the report."""
    if as_json:
        json.dump(found, sys.stdout, indent=1, ensure_ascii=False)
        print()
    else:
        print(table(found))

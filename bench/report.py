"""``app.py bench``: runs the configurations of an adapter and reports rows."""

import json
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from adapters import adapter
from bench.depth import Depth
from bench.detector import Detector
from bench.timing import Times, interleaved, ratio
from loader.errors import DoesNotFitError, InputError
from loader.folders import Folders
from loader.host import Host
from loader.measure import PeakMeter
from loader.plan import Placement, Plan, plan
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
    """What to measure."""

    adapter: str
    variant: str | None
    batches: tuple[int, ...]
    repeats: int
    compiled: bool
    size: tuple[int, int] | None = None


def rows(asked: Asked, host: Host, folders: Folders) -> list[dict[str, Any]]:
    """Rows as contracted, the unadapted path first in each batch size.

    Raises:
        InputError: an adapter that has no bench yet.
        DoesNotFitError: no plan.
    """
    spec = adapter(asked.adapter)
    if asked.adapter not in SUBJECTS:
        raise InputError(f"{spec.title} has no bench yet: {', '.join(SUBJECTS)} have")
    made: list[dict[str, Any]] = []
    for batch in asked.batches:
        planned = plan(spec, host, Wishes(variant=asked.variant, batch=batch, size=asked.size))
        if not planned.fits:
            raise DoesNotFitError(planned.refusal)
        subject = SUBJECTS[asked.adapter](planned, folders)
        placements = subject.placements(compiled=asked.compiled)
        calls = {name: subject.call(placement, batch) for name, placement in placements.items()}
        times = interleaved(calls, asked.repeats)
        first = next(iter(placements))
        for name, placement in placements.items():
            with PeakMeter(placement.device) as meter:
                calls[name]()
            made.append(
                {
                    "adapter": asked.adapter,
                    "variant": planned.variant,
                    "weights": subject.weights,
                    "config": name,
                    "batch": batch,
                    **_figures(times[name], times[first], batch),
                    "peak_bytes": meter.bytes,
                    "drift": 0.0 if name == first else subject.drift(placements[first], placement),
                }
            )
    return made


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
        "| variant | configuration | batch | ms min | ms median | images/s | speed-up | drift | quiet |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for row in found["rows"]:
        drift = "–" if row["drift"] is None else f"{row['drift']:.4f}"
        lines.append(
            f"| {row['variant']} | {row['config']} | {row['batch']} | {row['ms']['min']} | {row['ms']['median']} "
            f"| {row['images_per_second']} | {row['speed_up']}× | {drift} | {'yes' if row['quiet'] else 'no'} |"
        )
    weights = {row["weights"] for row in found["rows"]}
    lines += [
        "",
        f"Weights: {', '.join(sorted(weights))}. Speed-up: median over rounds timed in turn, against the first row.",
    ]
    return "\n".join(lines)


def show(found: dict[str, Any], *, as_json: bool) -> None:
    """Print the report."""
    if as_json:
        json.dump(found, sys.stdout, indent=1, ensure_ascii=False)
        print()
    else:
        print(table(found))

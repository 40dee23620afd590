"""What the allocator makes of the detector's time: fresh processes in turn, each with its own allocator.

``python -m bench.allocator`` prints a table for docs/benchmarks/allocator.md. Each process decides anew how its heap
comes to lie, so one process a configuration would tell more about chance than about the allocator.
"""

import argparse
import json
import os
import platform
import resource
import statistics
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from adapters import adapter
from bench.apart import apart
from bench.detector import Detector
from bench.limited import probed_here
from loader import allocator
from loader.errors import DoesNotFitError, InputError
from loader.folders import Folders
from loader.measure import anonymous_bytes
from loader.plan import Plan, plan
from loader.process import limit_threads
from loader.wishes import Wishes

PLAIN, TOLD = "glibc as it is", "glibc told to keep"
ROWS = ("as published", "planned")
WARM_UP = 3


@dataclass(frozen=True)
class Sample:
    """One process: median seconds of a forward and page faults of one, by configuration; MiB resident at the end."""

    seconds: Mapping[str, float]
    faults: Mapping[str, int]
    resident: int


def measured(planned: Plan, folders: Folders, forwards: int, *, told: bool) -> Sample:
    """Forwards of the network as published and as planned, in a thread as a page's requests are."""
    if told:
        allocator.settle(planned.situation.host.ram_bytes, accelerated=False, environ={})
    limit_threads(planned.situation.host.cpu.cores)
    subject = Detector(planned, folders)
    placements = subject.placements(compiled=False)
    seconds: dict[str, float] = {}
    faults: dict[str, int] = {}

    def work() -> None:
        for name in ROWS:
            seconds[name], faults[name] = _timed(subject.call(placements[name], planned.batch), forwards)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    return Sample(seconds, faults, round(anonymous_bytes() / 2**20))


def _timed(call: Callable[[], object], forwards: int) -> tuple[float, int]:
    for _ in range(WARM_UP):
        call()
    times, before = [], resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(forwards):
        started = time.perf_counter()
        call()
        times.append(time.perf_counter() - started)
    return statistics.median(times), (resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before) // forwards


def rounds(
    planned: Plan, folders: Folders, preloaded: Mapping[str, Path], count: int, forwards: int
) -> dict[str, list[Sample]]:
    """``count`` fresh processes of each allocator, in turn."""
    found: dict[str, list[Sample]] = {name: [] for name in (PLAIN, TOLD, *preloaded)}
    for _ in range(count):
        for name, samples in found.items():
            # Threads that spin while they wait hide what the allocator costs, as they do in the page: left as they are.
            environ = {"LD_PRELOAD": str(preloaded[name])} if name in preloaded else {"LD_PRELOAD": ""}
            samples.append(apart(measured, environ, planned, folders, forwards, told=name == TOLD))
    return found


def table(found: Mapping[str, Sequence[Sample]]) -> list[str]:
    """Markdown lines: medians over processes with their ends, and what they are of the first row's."""
    heads = [f"{name}, ms (from – to) | speed-up | page faults" for name in ROWS]
    lines = [f"| allocator | {' | '.join(heads)} | MiB resident |", f"|---|{'---|' * (3 * len(ROWS) + 1)}"]
    first = next(iter(found.values()))
    for name, samples in found.items():
        cells = [name]
        for row in ROWS:
            mine, theirs = ([sample.seconds[row] for sample in of] for of in (samples, first))
            pairs = statistics.median(a / b for a, b in zip(theirs, mine, strict=True))
            middle, low, high = (f"{value * 1000:.1f}" for value in (statistics.median(mine), min(mine), max(mine)))
            faults = statistics.median_low([sample.faults[row] for sample in samples])
            cells += [f"{middle} ({low} – {high})", f"{pairs:.2f}×", f"{faults}"]
        cells.append(f"{statistics.median_low([sample.resident for sample in samples])}")
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def libraries(given: Sequence[str]) -> dict[str, Path]:
    """Allocators to preload: those named, else every known one that is on this machine."""
    if given:
        return {Path(word).name.split(".")[0] if "/" in word else word: allocator.find_library(word) for word in given}
    found: dict[str, Path] = {}
    for name in allocator.LIBRARIES:
        try:
            found[name] = allocator.find_library(name)
        except InputError:
            continue
    return found


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.allocator", description=__doc__)
    parser.add_argument("--variant", default="T")
    parser.add_argument("--rounds", type=int, default=5, help="processes of each allocator (default: 5)")
    parser.add_argument("--forwards", type=int, default=15, help="timed forwards in each (default: 15)")
    parser.add_argument("--preload", action="append", default=[], help="jemalloc, tcmalloc or a path, repeatable")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args(argv)
    host, folders = probed_here(), Folders.from_environ(os.environ)
    planned = plan(adapter("damo_yolo"), host, Wishes(variant=args.variant, batch=1))
    if planned.refusal is not None:
        raise DoesNotFitError(planned.refusal)
    found = rounds(planned, folders, libraries(args.preload), args.rounds, args.forwards)
    if args.json:
        print(json.dumps({name: [asdict(sample) for sample in samples] for name, samples in found.items()}, indent=1))
        return 0
    placed = planned.component("detector")
    height, width = planned.size
    print(f"{host.title}; {', '.join(host.cpu.effective_isa)}; torch {host.torch}; {platform.libc_ver()[1]}")
    print(f"DAMO-YOLO {planned.variant}, {height}×{width}; planned: {placed.compute_dtype} {placed.memory_format}")
    print(f"{args.rounds} processes of each in turn, {args.forwards} forwards in each\n")
    print("\n".join(table(found)))
    return 0


if __name__ == "__main__":
    sys.exit(main())

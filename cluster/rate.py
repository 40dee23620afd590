"""How much of a single process's throughput each replica keeps: ``python -m cluster.rate``.

Plain processes and replicas take turns, as many of the one as of the other, each on one thread: what the processor's
cores take from each other then counts on both sides, and what is left is what the cluster itself costs.
"""

import argparse
import multiprocessing
import os
import statistics
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from types import TracebackType
from typing import Any

import psutil

from adapters import adapter
from adapters.damo_yolo.job import OPTIONS, request
from cluster.gate import AT_A_REPLICA
from cluster.scale import Scale
from loader.allocator import settle as settle_allocator
from loader.engine import Engine
from loader.folders import Folders
from loader.measure import Store
from loader.outcome import Result
from loader.probe import probe
from loader.process import limit_threads
from loader.wishes import Wishes

PICTURE = Path(__file__).parents[1] / "assets/examples/coins.png"
ADAPTER = "damo_yolo"
# The same arithmetic on every processor, whichever low precision it may have, and about as much of it as the published
# T needs at 640×640 (18 GFLOP a picture; these weights at 640×640 are a fifth of that).
WISHES = Wishes(variant="preview", dtype="fp32", batch=1, size=(1280, 1280))
FAILED = "failed"


@dataclass(frozen=True)
class Round:
    """Plain processes and replicas, one after the other.

    Attributes:
        process, replica: requests a second of each.
        process_cpu, replica_cpu: processor seconds a request, what hands it out included.
    """

    process: float
    replica: float
    process_cpu: float
    replica_cpu: float


def pictures(count: int) -> Any:
    """A request of ``count`` pictures."""
    return request([PICTURE] * count, {name: default for name, (_, default, _) in OPTIONS.items()})


def _one(run: Callable[..., Any], count: int) -> None:
    *_, last = run(adapter(ADAPTER), pictures(count), WISHES)
    if not isinstance(last, Result) or len(last.outputs) != count:
        raise RuntimeError(f"{last} in place of a result")


def _serve(line: Connection) -> None:
    """What a plain process does: an engine on one thread, told how many requests of how many pictures to run."""
    folders = Folders.from_environ(os.environ)
    limit_threads(1)
    host = probe(cache_dir=folders.cache)
    settle_allocator(host.ram_bytes, accelerated=bool(host.accelerators))
    engine = Engine(host, folders, Store(folders.cache / "learned-rate.json", host))
    while (order := line.recv()) is not None:
        requests, count = order
        try:
            for _ in range(requests):
                _one(engine.run, count)
            line.send("done")
        except Exception as error:  # noqa: BLE001 - told to who asked
            line.send(f"{FAILED}: {error}")
    engine.close()


class PlainProcess:
    """An engine in a process of its own; a context manager."""

    def __init__(self) -> None:
        self._line, there = multiprocessing.Pipe()
        # Not forked: torch's threads and Ray's do not survive that.
        self._process = multiprocessing.get_context("spawn").Process(target=_serve, args=(there,), daemon=True)

    @property
    def pid(self) -> int:
        return self._process.pid or 0

    def __enter__(self) -> "PlainProcess":
        self._process.start()
        return self

    def __exit__(self, _: type[BaseException] | None, __: BaseException | None, ___: TracebackType | None) -> None:
        self._line.send(None)
        self._process.join(10)
        self._process.kill()

    def begin(self, requests: int, count: int) -> None:
        self._line.send((requests, count))

    def end(self) -> None:
        answer = self._line.recv()
        if answer != "done":
            raise RuntimeError(answer)


def through_processes(processes: Sequence[PlainProcess], requests: int, count: int) -> float:
    """Requests a second of each process, all of them at it."""
    started = time.perf_counter()
    for process in processes:
        process.begin(requests, count)
    for process in processes:
        process.end()
    return requests / (time.perf_counter() - started)


def through_replicas(engine: Any, replicas: int, requests: int, count: int) -> float:
    """Requests a second of each replica, all of them at it."""
    with ThreadPoolExecutor(AT_A_REPLICA * replicas) as pool:
        started = time.perf_counter()
        asked = [pool.submit(_one, engine.run, count) for _ in range(replicas * requests)]
        for one in asked:
            one.result()
        return requests / (time.perf_counter() - started)


def processor_seconds(pids: Iterable[int]) -> float:
    """Spent so far by these processes and by this one, which hands out the work."""
    return sum(sum(psutil.Process(pid).cpu_times()[:2]) for pid in (*pids, os.getpid()))


def compare(
    engine: Any, processes: Sequence[PlainProcess], *, rounds: int = 3, requests: int = 4, count: int = 4
) -> list[Round]:
    """Rounds of both in turn, after one that warms up.

    Args:
        engine: the cluster's, with as many replicas as there are ``processes``.
        processes: plain ones.
        rounds: how many times each.
        requests: of each replica or process in a round.
        count: pictures in a request.
    """
    many = len(processes)
    plain, replicas = [one.pid for one in processes], [one.process for one in engine.standing()]
    through_processes(processes, 1, count)
    through_replicas(engine, many, 2, count)
    found = []
    for _ in range(rounds):
        before = processor_seconds(plain)
        process = through_processes(processes, requests, count)
        between = processor_seconds(plain), processor_seconds(replicas)
        replica = through_replicas(engine, many, requests, count)
        spent = between[0] - before, processor_seconds(replicas) - between[1]
        found.append(Round(process, replica, spent[0] / requests / many, spent[1] / requests / many))
    return found


def kept(rounds: Sequence[Round]) -> float:
    """The share of a process's throughput that a replica keeps, by the clock: the median over rounds."""
    return statistics.median(one.replica / one.process for one in rounds)


def kept_of_processor(rounds: Sequence[Round]) -> float:
    """The same by processor time, which other work on the machine does not change."""
    return statistics.median(one.process_cpu / one.replica_cpu for one in rounds)


def table(rounds: Sequence[Round], count: int) -> str:
    """Pictures a second and processor time in each round, as Markdown."""
    lines = [
        "| round | pictures/s of a process | of a replica | kept | processor ms a picture | of a replica | kept |",
        "|---|---|---|---|---|---|---|",
    ]
    for number, one in enumerate(rounds, 1):
        process, replica = one.process * count, one.replica * count
        spent = [seconds / count * 1000 for seconds in (one.process_cpu, one.replica_cpu)]
        lines.append(
            f"| {number} | {process:.1f} | {replica:.1f} | {replica / process:.2f} "
            f"| {spent[0]:.0f} | {spent[1]:.0f} | {spent[0] / spent[1]:.2f} |"
        )
    return "\n".join([*lines, f"| median | | | **{kept(rounds):.2f}** | | | **{kept_of_processor(rounds):.2f}** |"])


def main(argv: Sequence[str] | None = None) -> int:
    """Measure on a cluster of this machine alone and print the table."""
    parser = argparse.ArgumentParser(prog="python -m cluster.rate", description=__doc__)
    parser.add_argument("--replicas", type=int, default=max(1, (os.cpu_count() or 2) - 1))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--requests", type=int, default=6, help="of each replica in a round")
    parser.add_argument("--pictures", type=int, default=4, help="in a request")
    args = parser.parse_args(argv)
    from cluster.deploy import Cluster

    with ExitStack() as stack:
        cluster = stack.enter_context(Cluster(lambda: Scale(args.replicas, args.replicas)))
        processes = [stack.enter_context(PlainProcess()) for _ in range(args.replicas)]
        rounds = compare(cluster.engine, processes, rounds=args.rounds, requests=args.requests, count=args.pictures)
    sys.stdout.write(f"{args.replicas} replicas, one thread each\n\n{table(rounds, args.pictures)}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())

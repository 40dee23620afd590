"""The real page under load: does everybody get what they asked for, and is the lane free afterwards?

``python -m tests.load`` serves the page in a process of its own. One browser and 19 clients of Gradio's ask all five
endpoints for three minutes, each something else; a fifth of the requests are cancelled, and now and then one client
asks for more at once than may wait. Every answer is compared with what the same request gave when nobody else was
there. Prints JSON, and the table of it as Markdown on the error output. Fails if an answer was lost or another's, if a
request failed, or if the page was not free afterwards.
"""

import argparse
import json
import re
import statistics
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import CancelledError, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

import httpx
import psutil
from gradio_client import Client
from gradio_client.client import Job
from gradio_client.exceptions import AppError

from tests.browser.server import Served, served
from tests.load_calls import Call, calls, digest, quick
from tests.load_visit import Visit, visiting

LOST_S = 240.0  # without an end for so long, a request is lost
CROWD, CROWD_EVERY_S = 48, 45.0  # more than may wait
ASK_S, LOOK_S = 0.05, 2.0
FULL = re.compile(r"(\d+) requests are waiting and (\d+) may: try again in about \d+ s")
ANSWERED, CANCELLED, REFUSED = "answered", "cancelled", "refused"
CROSSED, LOST, FAILED = "crossed", "lost", "failed"


@dataclass(frozen=True)
class Ended:
    """How one request ended.

    Attributes:
        waited: seconds until its work began, or until it ended where it never did.
        words: of an error.
    """

    api: str
    how: str
    waited: float
    seconds: float
    words: str = ""


@dataclass
class Load:
    """What all clients know, and what came of their requests.

    Attributes:
        expected: digest of the answer to each call by its name, as given when nobody else was there.
    """

    url: str
    folder: Path
    seconds: float
    calls: Sequence[Call]
    expected: dict[str, str] = field(default_factory=dict)
    ended: list[Ended] = field(default_factory=list)

    def client(self, name: str) -> Client:
        # It takes three threads for each request, and stands still where there are none left.
        return Client(
            self.url,
            verbose=False,
            download_files=str(self.folder / name),
            analytics_enabled=False,
            max_workers=4 * CROWD,
            httpx_kwargs={"timeout": LOST_S},
        )

    def learn(self) -> None:
        """Ask everything once, alone; everything has been loaded afterwards."""
        client = self.client("first")
        for call in self.calls:
            job = client.submit(**call.typed(), api_name=call.api)
            self.expected[call.name] = digest(job.result(timeout=LOST_S))
        assert len(set(self.expected.values())) == len(self.calls), "two calls give the same: crossing would not show"

    # --- clients

    def run(self, clients: Sequence[Client]) -> None:
        """All clients at once until the time is over; the browser is the caller's."""
        until = time.monotonic() + self.seconds
        with ThreadPoolExecutor(len(clients)) as workers:
            for asking in [workers.submit(self._ask, *one, until) for one in enumerate(clients)]:
                asking.result()

    def _ask(self, number: int, client: Client, until: float) -> None:
        pick = Random(number)
        crowd_at = time.monotonic() + 3 if number == 0 else float("inf")
        while time.monotonic() < until:
            if time.monotonic() >= crowd_at:
                self._crowd(client)
                crowd_at = time.monotonic() + CROWD_EVERY_S
            stop_after = pick.uniform(0.0, 4.0) if pick.random() < 0.2 else None
            call = pick.choice(self.calls)
            self.ended.append(self.follow(client.submit(**call.typed(), api_name=call.api), call, stop_after))

    def _crowd(self, client: Client) -> None:
        """More requests at once than may wait; when the first have been refused the others are cancelled.

        All of them: when Gradio cancels one request, it drops all others of the same client to the same endpoint.
        """
        call = quick()
        jobs = [client.submit(**call.typed(), api_name=call.api) for _ in range(CROWD)]
        began = time.monotonic()
        while not any(job.done() for job in jobs) and time.monotonic() - began < LOST_S:
            time.sleep(ASK_S)
        time.sleep(1.0)
        stopped = [job for job in jobs if not job.done()]
        for job in stopped:
            job.cancel()
        for job in jobs:
            self.ended.append(self.follow(job, call, began=began, stopped=job in stopped))

    def follow(
        self,
        job: Job,
        call: Call,
        stop_after: float | None = None,
        *,
        began: float | None = None,
        stopped: bool = False,
    ) -> Ended:
        """Wait for the end of a request, which is cancelled after ``stop_after`` seconds."""
        began = time.monotonic() if began is None else began
        waited = None
        while not job.done() and time.monotonic() - began < LOST_S:
            told = job.outputs()
            if waited is None and told and told[-1][0].get("stage") != "waiting":
                waited = time.monotonic() - began
            if stop_after is not None and not stopped and time.monotonic() - began >= stop_after:
                stopped = job.cancel()
            time.sleep(ASK_S)
        seconds = time.monotonic() - began
        how, words = self._judged(job, call, stopped=stopped)
        return Ended(call.api, how, seconds if waited is None else waited, seconds, words)

    def _judged(self, job: Job, call: Call, *, stopped: bool) -> tuple[str, str]:
        if not job.done():
            return LOST, f"{call.name} never ended"
        try:
            answer = job.result(timeout=0)
        except (CancelledError, KeyError) as error:
            # To the client, an answer without data is what is left of a request that was cancelled.
            return (CANCELLED if stopped else FAILED), f"{call.name}: {type(error).__name__} {error}"
        except AppError as error:
            return (REFUSED if FULL.search(str(error)) else FAILED), str(error)
        except Exception as error:  # noqa: BLE001 - whatever it was is told
            if stopped and "tasks to be done" in str(error):
                return CANCELLED, "the answer came while it was cancelled, which confuses the client"
            return FAILED, f"{type(error).__name__}: {error}"
        if "stage" in answer[0]:
            return (CANCELLED if stopped else LOST), f"{call.name} ended in {answer[0]}"
        same = digest(answer) == self.expected[call.name]
        return (ANSWERED, "") if same else (CROSSED, f"{call.name}: {json.dumps(answer[0])[:300]}")

    # --- afterwards

    def free_again(self) -> list[str]:
        """What is not as it was before: everything asked for once more, alone."""
        problems, client = [], self.client("last")
        for call in self.calls:
            job = client.submit(**call.typed(), api_name=call.api)
            end = self.follow(job, call)
            if end.how != ANSWERED:
                problems.append(f"afterwards {call.name} {end.how}: {end.words}")
            if any(answer[0].get("stage") == "waiting" for answer in job.outputs()):
                problems.append(f"afterwards {call.name} waited, with nobody before it")
        waiting = httpx.get(f"{self.url}gradio_api/queue/status", timeout=30).json()["queue_size"]
        return problems + ([f"{waiting} still wait at Gradio's door"] if waiting else [])


# --- the server -----------------------------------------------------------------------------------------------------


@contextmanager
def page(folder: Path) -> Iterator[tuple[Served, psutil.Process]]:
    """The page in a process of its own, and that process."""
    before = {child.pid for child in psutil.Process().children()}
    with served(folder, ANYHOST_PROBE_SECONDS="0") as server:
        (process,) = (child for child in psutil.Process().children() if child.pid not in before)
        yield server, process


@dataclass
class Watch:
    """Looks at a process now and then: resident bytes, open files and threads."""

    process: psutil.Process
    seen: list[dict[str, int]] = field(default_factory=list)

    def look(self) -> None:
        self.seen.append(
            {
                "resident": self.process.memory_info().rss,
                "files": self.process.num_fds(),
                "threads": self.process.num_threads(),
            }
        )

    @contextmanager
    def looking(self) -> Iterator[None]:
        """Look before, every ``LOOK_S`` seconds meanwhile, and after."""
        over = threading.Event()

        def go_on() -> None:
            self.look()
            while not over.wait(LOOK_S):
                self.look()

        watcher = threading.Thread(target=go_on)
        watcher.start()
        try:
            yield
        finally:
            over.set()
            watcher.join()
            self.look()

    def figures(self) -> dict[str, dict[str, float]]:
        """Of each: before, the median of the second and of the last quarter, at most, and after."""
        quarter = max(1, len(self.seen) // 4)
        return {
            name: {
                "before": values[0],
                "second_quarter": statistics.median(values[quarter : 2 * quarter] or values),
                "last_quarter": statistics.median(values[-quarter:]),
                "most": max(values),
                "after": values[-1],
            }
            for name in ("resident", "files", "threads")
            if (values := [one[name] for one in self.seen])
        }


# --- the report -----------------------------------------------------------------------------------------------------


def percentile(values: Sequence[float], share: float) -> float:
    """The smallest of ``values`` that ``share`` of them do not exceed, 0 for none."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else 0.0


def report(load: Load, visit: Visit, watch: Watch) -> dict[str, Any]:
    """Counts, waits and problems."""
    done = [end for end in load.ended if end.how == ANSWERED]
    wrong = [f"{end.how}: {end.words}" for end in load.ended if end.how in (CROSSED, LOST, FAILED)]
    apis = sorted({call.api for call in load.calls})
    return {
        "seconds": load.seconds,
        "requests": len(load.ended),
        "ended": dict(Counter(end.how for end in load.ended)),
        "refused_words": next((end.words for end in load.ended if end.how == REFUSED), ""),
        "wait_s": {"p50": percentile([e.waited for e in done], 0.5), "p95": percentile([e.waited for e in done], 0.95)},
        "endpoints": {
            api: {
                "answered": sum(end.api == api for end in done),
                "wait_p95_s": percentile([end.waited for end in done if end.api == api], 0.95),
                "whole_p95_s": percentile([end.seconds for end in done if end.api == api], 0.95),
            }
            for api in apis
        },
        "browser": {"runs": visit.runs, "stopped": visit.stopped},
        "server": watch.figures(),
        "problems": wrong + visit.problems,
    }


def table(told: dict[str, Any]) -> str:
    """What was told, as Markdown."""
    ended = ", ".join(f"{told['ended'].get(how, 0)} {how}" for how in (ANSWERED, CANCELLED, REFUSED))
    wrong = ", ".join(f"{told['ended'].get(how, 0)} {how}" for how in (CROSSED, LOST, FAILED))
    server = told["server"]
    held = {when: f"{server['resident'][when] / 2**20:.0f} MiB" for when in server["resident"]}
    lines = [
        f"{told['requests']} requests of {told['clients']} clients in {told['seconds']:.0f} s: {ended}; {wrong}. "
        f"The browser ran {told['browser']['runs']} times and stopped {told['browser']['stopped']} of them.",
        "",
        "| endpoint | answered | wait, p95 | whole, p95 |",
        "|---|---|---|---|",
    ]
    for api, row in told["endpoints"].items():
        lines.append(f"| {api} | {row['answered']} | {row['wait_p95_s']:.1f} s | {row['whole_p95_s']:.1f} s |")
    lines += [
        "",
        f"Wait of all answered: median {told['wait_s']['p50']:.1f} s, p95 {told['wait_s']['p95']:.1f} s. "
        f"The server held {held['before']} before, {held['second_quarter']} in the second quarter of the time, "
        f"{held['last_quarter']} in the last and {held['after']} after; "
        f"{server['files']['before']:.0f} files and sockets before, {server['files']['after']:.0f} after.",
        "",
        f"A refusal reads: “{told['refused_words']}”" if told["refused_words"] else "Nothing was refused.",
    ]
    return "\n".join(lines)


def measure(folder: Path, clients: int, seconds: float, asked: Sequence[Call]) -> dict[str, Any]:
    """Serve, load, and look whether all is free again."""
    with page(folder) as (server, process):
        load, watch = Load(server.url, folder / "answers", seconds, asked), Watch(process)
        load.learn()
        # Each fetches the page's description first, which nobody waits for here.
        programs = [load.client(str(number)) for number in range(clients)]
        with visiting(server.url) as visit, ThreadPoolExecutor(1) as beside, watch.looking():
            running = beside.submit(load.run, programs)
            visit.go_on(while_=lambda: not running.done(), seconds=seconds)
            running.result()
        problems = load.free_again()
        watch.look()
        told = report(load, visit, watch) | {"clients": clients}
        log = (folder / "server.log").read_text(errors="replace")
        if "Traceback" in log:
            problems.append(f"the server's log: {log[log.index('Traceback') :][:1500]}")
    return told | {"problems": told["problems"] + problems}


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--clients", type=int, default=19)
    parser.add_argument("--seconds", type=float, default=180.0)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        told = measure(Path(folder), args.clients, args.seconds, calls())
    print(json.dumps(told, indent=1, ensure_ascii=False))
    print(table(told), file=sys.stderr)
    return int(bool(told["problems"]))


if __name__ == "__main__":
    sys.exit(main())

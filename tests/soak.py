"""Many mixed requests in one process: is memory flat, does everything end as it should, does the same ask get the same?

``python -m tests.soak`` runs 200 requests: all five models by turns, by preview weights or in miniature, and two
synthetic ones of several stages, in several sizes, batches and precisions. A fifth of them are stopped half-way or left
alone, one in ten crashes in the middle of a component's call. After each of them nothing may be held that belongs to a
request. Prints JSON, and the table of it as Markdown on the error output.
"""

import argparse
import json
import random
import shutil
import statistics
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest.mock import patch

import psutil

from commands.machine import this_machine
from loader.engine import Engine
from loader.errors import Cancelled
from loader.opened import Opened
from loader.outcome import Cancel, Result, Step
from loader.wishes import Wishes
from tests.machines import engine_on
from tests.mixed import Kind, real, synthetic

WARM = 20  # requests after which everything has been loaded once
LIMIT = 1.05
PLAIN, STOPPED, LEFT, CRASHED = "done", "stopped", "left", "crashed"
WATCHED = ("resident", "files", "threads")


class CrashError(Exception):
    """What nobody has foreseen, in the middle of a request."""


@dataclass(frozen=True)
class Sample:
    """After ``requests`` of them: resident bytes, open files and threads, and how the requests ended."""

    requests: int
    resident: int
    files: int
    threads: int
    ended: Counter[str]


@dataclass
class Soak:
    """Requests to an engine, and what is known of their answers.

    Attributes:
        answers: digest of each whole answer by model, request and wishes; the next like it must be the same.
        calls: how many calls of components a whole run of it took, when last seen.
        ended: how many ended how.
    """

    engine: Engine
    folder: Path
    answers: dict[tuple[str, int, str], str] = field(default_factory=dict)
    calls: dict[tuple[str, int, str], int] = field(default_factory=dict)
    ended: Counter[str] = field(default_factory=Counter)

    def run(self, kinds: Sequence[Kind], count: int, seed: int = 0) -> Iterator[Sample]:
        """Run ``count`` requests; a sample after each."""
        pick, process = random.Random(seed), psutil.Process()
        for number in range(1, count + 1):
            kind, turn = kinds[(number - 1) % len(kinds)], (number - 1) // len(kinds)
            # The first ones go through every model in its wishes, whole: afterwards nothing is new.
            wishes = kind.wishes[turn % len(kind.wishes)] if number <= WARM else pick.choice(kind.wishes)
            end = PLAIN if number <= WARM else pick.choices((PLAIN, STOPPED, LEFT, CRASHED), (7, 1, 1, 1))[0]
            self.one(kind, turn % len(kind.requests), wishes, end=end, session=str(pick.randint(0, 4)))
            yield Sample(
                number, process.memory_info().rss, process.num_fds(), process.num_threads(), Counter(self.ended)
            )

    def one(self, kind: Kind, index: int, wishes: Wishes, *, end: str = PLAIN, session: str = "") -> str:
        """One request to its end, as wished where it goes on for long enough; its digest, "" if it gave no answer."""
        written = self.folder / "written"
        request, cancel, key = kind.requests[index](written), Cancel(), (kind.name, index, repr(wishes))
        how, digest = PLAIN, ""
        try:
            with (
                crashing((self.calls.get(key, 1) + 1) // 2 if end == CRASHED else 0) as calls,
                closing(self.engine.run(kind.spec, request, wishes, cancel=cancel, session=session)) as items,
            ):
                for item in items:
                    if isinstance(item, Result):
                        digest = kind.digest(item.outputs)
                    elif _computes(item) and end == STOPPED:
                        cancel.request()
                    elif _computes(item) and end == LEFT:
                        how = LEFT
                        break
        except Cancelled:
            how = STOPPED
        except CrashError:
            how = CRASHED
        shutil.rmtree(written, ignore_errors=True)
        self.ended[how] += 1
        check_free(self.engine)
        if digest:
            self.calls[key] = len(calls)
            first = self.answers.setdefault(key, digest)
            assert first == digest, f"{kind.name}, request {index} with {wishes}: {digest} after {first}"
        return digest


def _computes(item: Any) -> bool:
    return isinstance(item, Step) and item.stage not in ("loading", "waiting", "warming_up", "judging")


@contextmanager
def crashing(at: int) -> Iterator[list[str]]:
    """The components that are called; the ``at``-th call raises after it has computed, 0 for none."""
    plain = Opened.call
    called: list[str] = []

    def call(self: Opened, component: str, *args: Any, **kwargs: Any) -> Any:
        called.append(component)
        answer = plain(self, component, *args, **kwargs)
        if len(called) == at:
            raise CrashError(f"provoked in call {at}, of {component}")
        return answer

    with patch.object(Opened, "call", call):
        yield called


def check_free(engine: Engine) -> None:
    """Nothing that belongs to a request is held when none runs."""
    lanes, book = engine._lane, engine.residency.book
    assert not engine._active, "a request is still listed"
    assert not lanes.locked(), "a lane is still taken"
    assert not lanes.computing(), "something computes"
    assert all(not lane.waiting for lane in lanes._lanes.values()), "somebody still waits"
    assert [key for key, item in book.items.items() if item.locks] == [], "a component is still in use"
    assert not book.reserved, "memory is still set aside"


# --- the report -----------------------------------------------------------------------------------------------------


def compared(samples: Sequence[Sample]) -> dict[str, dict[str, float]]:
    """Medians of the twenty after the first twenty and of the last twenty, by what is watched."""
    early, late = samples[WARM : 2 * WARM], samples[-WARM:]
    found = {}
    for name in WATCHED:
        first, last = (statistics.median(getattr(s, name) for s in part) for part in (early, late))
        found[name] = {"first": first, "last": last, "ratio": round(last / first, 4)}
    return found


def table(told: dict[str, Any]) -> str:
    """What was told, as Markdown."""
    lines = ["| watched | after the first 20 | at the end | ratio |", "|---|---|---|---|"]
    for name, figures in told["watched"].items():
        scale, unit = (2**20, " MiB") if name == "resident" else (1, "")
        first, last = (figures[when] / scale for when in ("first", "last"))
        lines.append(f"| {name} | {first:.0f}{unit} | {last:.0f}{unit} | {figures['ratio']:.3f} |")
    ended = ", ".join(f"{count} {how}" for how, count in sorted(told["ended"].items()))
    return "\n".join([*lines, "", f"{told['requests']} requests to {', '.join(told['models'])}: {ended}."])


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--requests", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    kinds = [*real(), *synthetic()]
    with tempfile.TemporaryDirectory() as folder:
        engine = engine_on(this_machine().host, Path(folder))
        soak = Soak(engine, Path(folder))
        samples = list(soak.run(kinds, args.requests, args.seed))
        engine.close()
    told = {
        "requests": args.requests,
        "models": [kind.name for kind in kinds],
        "ended": dict(soak.ended),
        "answers": len(soak.answers),
        "watched": compared(samples),
        "resident_mib": [sample.resident >> 20 for sample in samples],
    }
    print(json.dumps(told))
    print(table(told), file=sys.stderr)
    return int(told["watched"]["resident"]["ratio"] > LIMIT)


if __name__ == "__main__":
    sys.exit(main())

"""Many mixed requests in one process: is memory flat? ``make soak``; results go to docs/benchmarks by hand.

Requests of several models by turns, in several sizes, batches and precisions, a fifth of them stopped half-way, one in
twenty failing. The models are those that run without a download: preview weights, miniatures whose adapter has a sample
request, and two synthetic ones of several stages whose components share the memory with the rest.
"""

import argparse
import random
import tempfile
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import psutil

from adapters import ADAPTERS
from commands.machine import this_machine
from loader.engine import Engine
from loader.errors import Cancelled
from loader.outcome import Cancel, Result, Step
from loader.pipeline import pipeline_of
from loader.plan import plan
from loader.spec import AdapterSpec
from loader.wishes import Wishes
from tests.machines import engine_on
from tests.staged_adapter import Asked, spec_named

WARM = 20  # requests after which everything has been loaded once


@dataclass(frozen=True)
class Kind:
    """One model, one small request for it and the wishes it can be run with."""

    spec: AdapterSpec
    request: Any
    wishes: tuple[Wishes, ...]


@dataclass(frozen=True)
class Sample:
    """After ``requests`` of them: resident bytes, and how the requests ended."""

    requests: int
    resident: int
    ended: Counter[str]


def synthetic() -> list[Kind]:
    """Two models of three stages; one drops its components between stages."""
    stages = ("text", "unet", "control", "decoder")
    plain = tuple(Wishes(dtype=d) for d in ("fp32", "bf16"))
    dropping = tuple(replace(w, residency="dropped") for w in plain)
    return [
        Kind(spec_named("staged_one"), Asked(stages), plain),
        Kind(spec_named("staged_two"), Asked(stages), dropping),
    ]


def real(engine: Engine) -> list[Kind]:
    """Models of this project that run without a download and have a small request of their own."""
    kinds = []
    for spec in ADAPTERS:
        variant = next((v for v in spec.variants if v.provenance in ("preview", "miniature")), None)
        if variant is None or not spec.pipeline:
            continue
        wishes = tuple(Wishes(variant=variant.name, dtype=d) for d in (None, "fp32"))
        request = pipeline_of(spec).sample(plan(spec, engine.host, wishes[0]))
        if request is not None:
            kinds.append(Kind(spec, request, wishes))
    return kinds


def soak(engine: Engine, kinds: list[Kind], count: int, seed: int = 0) -> Iterator[Sample]:
    """Run ``count`` requests; a sample after each."""
    pick = random.Random(seed)
    process = psutil.Process()
    ended: Counter[str] = Counter()
    for number in range(1, count + 1):
        kind = kinds[number % len(kinds)]
        # The first ones go through every model in every precision, whole: afterwards nothing is new.
        wishes = kind.wishes[number // len(kinds) % len(kind.wishes)] if number <= WARM else None
        ended[one(engine, kind, pick, wishes)] += 1
        yield Sample(number, process.memory_info().rss, ended)


def one(engine: Engine, kind: Kind, pick: random.Random, wished: Wishes | None = None) -> str:
    """One request to its end: "done", "stopped" or "failed"; never the latter two with wishes given."""
    request, wishes, cancel = kind.request, wished or pick.choice(kind.wishes), Cancel()
    stop, fail = pick.random() < 0.2 and not wished, pick.random() < 0.05 and not wished
    if fail and isinstance(request, Asked):
        request = replace(request, fail_at="control")
    try:
        with closing(engine.run(kind.spec, request, wishes, cancel=cancel, session=str(pick.randint(0, 4)))) as items:
            for item in items:
                if stop and isinstance(item, Step) and item.stage not in ("loading", "waiting"):
                    cancel.request()
                if isinstance(item, Result):
                    return "done"
    except Cancelled:
        return "stopped"
    except KeyError:
        return "failed"
    raise AssertionError("a run ends with a result or an error")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--requests", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        engine = engine_on(this_machine().host, Path(folder))
        kinds = [*real(engine), *synthetic()]
        print(f"models: {', '.join(k.spec.name for k in kinds)}")
        resident: list[int] = []
        for sample in soak(engine, kinds, args.requests, args.seed):
            resident.append(sample.resident)
            if sample.requests in (WARM, args.requests) or sample.requests % 50 == 0:
                # What is loaded differs from one request to the next: the most of twenty is compared.
                most = max(resident[-WARM:])
                print(
                    f"{sample.requests} requests ({', '.join(f'{n} {how}' for how, n in sample.ended.items())}): "
                    f"at most {most / 2**20:.0f} MiB in the last {WARM}, {most / max(resident[:WARM]):.3f}×"
                )
        engine.close()


if __name__ == "__main__":
    main()

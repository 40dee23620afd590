"""Many requests in one process: is memory flat? ``make soak``; results go to docs/benchmarks by hand.

Mixes sizes, batches and precisions of the detector, a fifth of the requests stopped half-way.
"""

import argparse
import random
import tempfile
from pathlib import Path

import psutil

from adapters import adapter
from adapters.damo_yolo.pipeline import DetectRequest
from commands.machine import this_machine
from kit.images import open_picture
from loader.errors import Cancelled
from loader.outcome import Cancel, Step
from loader.wishes import Wishes
from tests.machines import ROOT, engine_on

SPEC = adapter("damo_yolo")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--requests", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    pick = random.Random(args.seed)
    pictures = [open_picture(path) for path in sorted((ROOT / "assets" / "examples").glob("*.*g"))]
    process = psutil.Process()
    after_twenty = 0
    with tempfile.TemporaryDirectory() as folder:
        engine = engine_on(this_machine().host, Path(folder))
        stopped = 0
        for number in range(1, args.requests + 1):
            request = DetectRequest(tuple(pick.choices(pictures, k=pick.randint(1, 6))))
            wishes = Wishes(
                variant="preview", size=pick.choice([(320, 320), (416, 416)]), batch=pick.choice([1, 2, 4]),
                dtype=pick.choice([None, "fp32"]),
            )  # fmt: skip
            cancel = Cancel()
            stop = pick.random() < 0.2
            try:
                for item in engine.run(SPEC, request, wishes, cancel=cancel):
                    if stop and isinstance(item, Step) and item.stage == "detecting":
                        cancel.request()
            except Cancelled:
                stopped += 1
            if number in (20, args.requests) or number % 50 == 0:
                resident = process.memory_info().rss
                after_twenty = after_twenty or resident
                print(
                    f"{number} requests, {stopped} stopped: {resident / 2**20:.0f} MiB, {resident / after_twenty:.3f}×"
                )
        engine.close()


if __name__ == "__main__":
    main()

"""ZeroGPU's way of working on the fake accelerator, as JSON: ``python -m tests.zerogpu_rehearsal FOLDER``.

A process of its own, since it forks: the card is only there in workers, and computing on it in this process is counted.
"""

import json
import os
import pickle
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import spaces

from adapters import adapter
from adapters.damo_yolo.job import OPTIONS, request
from cluster.zerogpu import ZeroGpuEngine, seconds_wanted
from loader.errors import AnyhostError
from loader.host import load_host
from loader.outcome import Cancel, Result
from loader.wishes import Wishes
from tests import fake_accelerator
from tests.machines import ROOT, engine_on

SPEC = adapter("damo_yolo")


def pictures(count: int) -> Any:
    options = {name: default for name, (_, default, _) in OPTIONS.items()}
    return request([ROOT / "assets/examples/coins.png"] * count, options)


def run(engine: Any, count: int, **settings: Any) -> dict[str, Any]:
    stages, result, error = [], None, ""
    try:
        for item in engine.run(SPEC, pictures(count), **settings):
            if isinstance(item, Result):
                result = item
            elif item.stage not in stages:
                stages.append(item.stage)
    except AnyhostError as problem:
        error = type(problem).__name__
    return {
        "stages": stages,
        "error": error,
        "objects": len(result.outputs[0].detections) if result else 0,
        "pictures": len(result.outputs) if result else 0,
        "device": result.plan.device if result else "",
    }


def rehearsed(folder: Path) -> ZeroGpuEngine:
    """An engine as on a ZeroGPU Space, whose card is the fake accelerator."""
    fake_accelerator.register()
    card = fake_accelerator.fake_card(2**32)
    base = load_host("zerogpu-48g")
    host = replace(base, accelerators=(card,), ram_bytes=2**34, free_ram_bytes=2**34, probed=True, torch="test")
    engine = ZeroGpuEngine(engine_on(host, folder), spaces.GPU)
    engine.preload((SPEC,))
    return engine


def main(folder: Path) -> dict[str, Any]:
    engine = rehearsed(folder)
    held = fake_accelerator.MEMORY.used
    placing = fake_accelerator.MEMORY.computed.total()
    found: dict[str, Any] = {"placed_bytes": held, "main_process": os.getpid()}
    found["first"] = run(engine, 2)
    found["wanted"] = seconds_wanted(engine.plan(SPEC, Wishes(variant="preview")), 2)
    found["refused"] = run(engine, 1, wishes=Wishes(dtype="int8"))
    found["on_cpu"] = run(engine, 1, wishes=Wishes(device="cpu"))
    cancel = Cancel()
    threading.Timer(2.0, cancel.request).start()
    started = time.monotonic()
    found["stopped"] = run(engine, 400, wishes=Wishes(batch=1), cancel=cancel)
    found["stopped_after"] = time.monotonic() - started
    found["asked"] = spaces.asked
    found["computed_in_main"] = fake_accelerator.MEMORY.computed.total() - placing
    found["log"] = (folder / "runs.log").read_text(encoding="utf-8").count(" damo_yolo ")
    found["engine_pickles"] = _pickles(engine)
    return found


def _pickles(engine: Any) -> bool:
    try:
        pickle.dumps(engine)
    except Exception:  # noqa: BLE001 - whatever the reason
        return False
    return True


if __name__ == "__main__":
    json.dump(main(Path(sys.argv[1])), sys.stdout)

"""Stands in for ZeroGPU's ``spaces`` package: forks a worker for each call, pickles what goes in and comes out, and
records the seconds asked for. What a worker changes in memory is lost with it, as there.
"""

import inspect
import multiprocessing
import os
import pickle
import queue
from collections.abc import Callable, Iterator
from typing import Any

asked: list[int] = []
"""Seconds of each call, in the main process."""

_END = object()


def GPU(task: Callable[..., Any] | None = None, *, duration: Any = 60, size: str = "large") -> Any:  # noqa: N802
    """As the package's decorator, for generator functions."""
    if task is None:
        return lambda wrapped: GPU(wrapped, duration=duration)
    if not inspect.isgeneratorfunction(task):
        raise TypeError("this stand-in takes generator functions")

    def forked(*args: Any, **kwargs: Any) -> Iterator[Any]:
        asked.append(int(duration(*args, **kwargs) if callable(duration) else duration))
        context = multiprocessing.get_context("fork")
        results: Any = context.Queue()
        sent = pickle.dumps((args, kwargs))
        worker = context.Process(target=_worker, args=(task, sent, results), daemon=True)
        worker.start()
        try:
            while True:
                try:
                    state, payload = results.get(timeout=1)
                except queue.Empty:
                    if not worker.is_alive():
                        raise RuntimeError("GPU task aborted") from None
                    continue
                if state == "end":
                    return
                if state == "error":
                    raise RuntimeError(payload)
                yield pickle.loads(payload)
        finally:
            worker.join(5)
            worker.kill()

    return forked


def _worker(task: Callable[..., Any], sent: bytes, results: Any) -> None:
    os.environ["IN_WORKER"] = "1"
    args, kwargs = pickle.loads(sent)
    try:
        for item in task(*args, **kwargs):
            results.put(("item", pickle.dumps(item)))
        results.put(("end", b""))
    except BaseException as error:  # noqa: BLE001 - told to the main process
        results.put(("error", f"{type(error).__name__}: {error}"))
    results.close()
    results.join_thread()

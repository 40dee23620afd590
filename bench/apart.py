"""Measurements in a process of their own: peaks nothing earlier shares, instruction sets limited from the start."""

import multiprocessing
import os
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from typing import ParamSpec, TypeVar

from loader.errors import RunError
from loader.measure import PeakMeter, anonymous_bytes
from loader.process import return_freed_memory

P = ParamSpec("P")
T = TypeVar("T")
FORWARDS = 2  # the first chooses kernels and packs weights, the second finds what the first left behind


def apart(
    function: Callable[P, T], environ: Mapping[str, str] | None = None, /, *args: P.args, **kwargs: P.kwargs
) -> T:
    """What ``function`` returns in a fresh interpreter. It, its arguments and its answer must be picklable.

    Args:
        function: of a module.
        environ: variables set for that process; the libraries of numbers read theirs once, when they are loaded.
        args: of the function.
        kwargs: of the function.

    Raises:
        RunError: the process was killed, as the kernel does when memory runs out.
    """
    context = multiprocessing.get_context("spawn")
    with _environment(environ or {}), ProcessPoolExecutor(1, mp_context=context) as pool:
        try:
            return pool.submit(function, *args, **kwargs).result()
        except BrokenProcessPool as error:
            raise RunError(
                "a measurement's process was killed, most often for want of memory: choose a smaller --size or --batch"
            ) from error


def peak_of(make: Callable[[], Callable[[], object]], device: str) -> dict[str, int]:
    """The most memory that running what ``make`` gives holds, weights included, by pool ``device`` and ``host``.

    On the host it is the growth of anonymous resident memory since before ``make``. What loading needs beside the
    weights, once, is left out: it is over before anything runs.
    """
    return_freed_memory()
    before = anonymous_bytes()
    call = make()
    return_freed_memory()
    loaded = max(0, anonymous_bytes() - before)
    with PeakMeter(device) as meter:
        for _ in range(FORWARDS):
            call()
    return {"device": meter.bytes["device"], "host": loaded + meter.bytes["host"]}


@contextmanager
def _environment(wanted: Mapping[str, str]) -> Iterator[None]:
    kept = {name: os.environ.get(name) for name in wanted}
    os.environ.update(wanted)
    try:
        yield
    finally:
        for name, value in kept.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value

"""Which engine serves the page here: this process's own, ZeroGPU's workers, or the replicas of a cluster."""

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from types import ModuleType
from typing import TYPE_CHECKING, Any

from loader.errors import InputError

if TYPE_CHECKING:
    from loader.engine import Engine
    from loader.idle import IdleTuner

# What people try at once on a Space, and small enough to be placed for everybody.
INTERACTIVE = ("damo_yolo", "metric3d")


def replicas_from(words: str) -> tuple[int, int]:
    """Least and most replicas of "2" or "2-8".

    Raises:
        InputError: neither.
    """
    least, _, most = words.partition("-")
    if not least.isdecimal() or not (most or least).isdecimal():
        raise InputError(f"--replicas {words}: write how many, or from-to, as 2 or 2-8")
    return int(least), int(most or least)


def on_zerogpu(environ: Mapping[str, str] = os.environ) -> bool:
    """Whether this is ZeroGPU's main process, where CUDA is an imitation."""
    from loader.probe import platform_of

    return platform_of(environ) == "zerogpu"


def spaces_package() -> ModuleType:
    """ZeroGPU's package; it has to be imported before torch is.

    Raises:
        InputError: it is not installed.
    """
    try:
        import spaces
    except ImportError as error:
        raise InputError("this is a ZeroGPU Space without its package: add spaces to requirements.txt") from error
    module: ModuleType = spaces
    return module


@contextmanager
def engine_for(*, replicas: str = "", cores: int | None = None, address: str | None = None) -> Iterator["Engine"]:
    """The engine of this place; what it started ends with it.

    Args:
        replicas: as ``--replicas``, "" for one engine in this process.
        cores: processor cores of a replica.
        address: of a Ray cluster that is up; RAY_ADDRESS otherwise, and without either one is started here.
    """
    if replicas:
        with _cluster(replicas, cores, address or os.environ.get("RAY_ADDRESS")) as engine:
            yield engine
        return
    spaces = spaces_package() if on_zerogpu() else None
    from commands.machine import this_machine

    here: Any = this_machine().engine()
    if spaces is not None:
        from adapters import adapter
        from cluster.zerogpu import ZeroGpuEngine

        here = ZeroGpuEngine(here, spaces.GPU)
        here.preload(tuple(adapter(name) for name in INTERACTIVE))
    tuner = _idle_tuner(here) if spaces is None else None
    try:
        yield here
    finally:
        if tuner is not None:
            tuner.close()
        here.close()


def _idle_tuner(engine: "Engine") -> "IdleTuner | None":
    """What tunes while nobody asks for anything, where ``ANYHOST_TUNE=idle`` allows it."""
    from loader.idle import IdleTuner, wanted

    if not wanted(os.environ):
        return None
    from adapters import ADAPTERS

    tuner = IdleTuner(engine, [spec for spec in ADAPTERS if spec.pipeline])
    tuner.start()
    return tuner


@contextmanager
def _cluster(replicas: str, cores: int | None, address: str | None) -> Iterator[Any]:
    least, most = replicas_from(replicas)
    try:
        import ray  # noqa: F401 - whether it is there
    except ImportError as error:
        raise InputError("--ray needs Ray: pip install -r requirements-ray.txt") from error
    from cluster.deploy import Cluster
    from cluster.scale import Scale, scale_for
    from commands.machine import this_machine

    def scale() -> Scale:
        return scale_for(this_machine().host, least=least, most=most, cores=cores)

    with Cluster(scale, address=address) as cluster:
        yield cluster.engine

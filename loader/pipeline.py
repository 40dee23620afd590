"""What an adapter gives the engine: how its components are loaded and how a request runs on them."""

from collections.abc import Callable, Generator, Mapping
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol, cast

from torch import nn

from loader.outcome import Step, Unit
from loader.plan import Plan
from loader.spec import AdapterSpec

Work = Generator[Step | Unit, Any, tuple[Any, ...]]


class Parts(Protocol):
    """The loaded components of a plan."""

    @property
    def plan(self) -> Plan: ...

    @property
    def files(self) -> Mapping[str, Path]: ...

    @property
    def checkpoint(self) -> Path | None: ...

    def call(self, component: str, *args: Any, **kwargs: Any) -> Any:
        """Run a component on its device, in its dtype, without gradients."""
        ...


class Pipeline(Protocol):
    """One adapter's own code, stateless: everything about a request is in the request."""

    own_edges: Mapping[str, tuple[str, ...]]
    """By component, the ``keep_fp32`` submodules that cast their inputs and outputs themselves."""

    def load(self, component: str, plan: Plan, files: Mapping[str, Path], checkpoint: Path | None) -> nn.Module:
        """A component with its weights, on the CPU, in the checkpoint's precision, not yet merged or cast.

        ``files`` are the plan's files of weights by announced name; ``checkpoint`` is the user's own file instead.
        """
        ...

    def run(self, parts: Parts, request: Any) -> Work:
        """Work through a request: yield a ``Unit`` for each piece (its result is sent back) and ``Step`` as it goes."""
        ...

    def sample(self, plan: Plan) -> Any:
        """A small request to warm up with and to judge precision on."""
        ...

    def drift(self, reference: tuple[Any, ...], outputs: tuple[Any, ...]) -> float:
        """Distance of ``outputs`` from the fp32 ``reference`` in the adapter's metric; 0 means equal."""
        ...


def pipeline_of(spec: AdapterSpec) -> Pipeline:
    """The adapter's pipeline, imported only now."""
    module, _, function = spec.pipeline.partition(":")
    build = cast(Callable[[], Pipeline], getattr(import_module(module), function))
    return build()

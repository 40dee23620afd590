"""What an adapter gives the engine: how its components are loaded and how a request runs on them."""

from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol, cast

import torch
from torch import nn

from loader.outcome import Kept, Step, Unit
from loader.plan import Plan
from loader.spec import AdapterSpec

Work = Generator[Step | Unit | Kept, Any, tuple[Any, ...]]


class Parts(Protocol):
    """The components of the plan in force. A pipeline reaches them through ``call`` and in no other way."""

    @property
    def plan(self) -> Plan:
        """The plan in force. It changes when a failed unit is run again: ask for it where it is used."""
        ...

    @property
    def files(self) -> Mapping[str, Path]:
        """The plan's files of weights by announced name."""
        ...

    @property
    def checkpoint(self) -> Path | None:
        """The user's own file instead of them, if one was given."""
        ...

    def call(self, component: str, *args: Any, **kwargs: Any) -> Any:
        """Run a component where and in what the plan says, without gradients.

        Call it inside ``Unit.run`` only: there a failure is answered by the ladder, loading included. The component is
        loaded at its first call and is awake from its first call in a stage to the end of that stage; those of other
        stages go to sleep when another stage's component is called, unless they are resident. Components of one stage
        may be called by turns at no cost; going back and forth between stages copies or loads each time.

        ``component`` is its name in the spec; ``"name.method"`` calls a method of the network instead of its forward
        (``"vae.decode"``). Tensors in the arguments, however nested in tuples, lists and dicts, are moved to the
        component's device, floating ones cast to its compute dtype; everything else is handed on as it is.

        Returns:
            What the network returns, on its device, in its dtype.

        Raises:
            NoRoomError: what is in use leaves no room; the ladder's.
            WeightsError, InputError: as the pipeline's ``load``.
        """
        ...

    def device(self, component: str) -> torch.device:
        """Where the component computes, whether it is loaded or not: for latents and noise that stay there."""
        ...

    def dtype(self, component: str) -> torch.dtype:
        """What the component computes in."""
        ...

    def seeded(self, seed: int) -> torch.Generator:
        """A generator on the CPU for one request: the same numbers on every device, no state shared with others.

        Draw on the CPU and move what was drawn: ``torch.randn(shape, generator=parts.seeded(7)).to(device)``.
        """
        ...


class Pipeline(Protocol):
    """One adapter's own code, stateless: everything about a request is in the request.

    More attributes are read if they are there:

    ``shared_networks: Mapping[str, str]``: by component, the name of a network other adapters have as well
    ("diffusers.AutoencoderKL"). Components of two adapters with the same name here, the same file and the same
    placement are held once. Their ``load`` must then give the same network with the same weights.

    ``uses(request, plan) -> tuple[str, ...]``: the components a request will call, in order of their first call; all of
    the variant's that are not optional, where it is missing. It serves to bring the next one early and to say how many
    there are to load. A component that is not announced is loaded all the same when it is called.

    ``calibration(component, plan) -> Iterable[tuple]``: positional arguments of calls that show the ranges of a
    component's values, for int8. They should not depend on the request, so that equal requests get equal answers.
    """

    own_edges: Mapping[str, tuple[str, ...]]
    """By component, the ``keep_fp32`` submodules that cast their inputs and outputs themselves."""

    def load(self, component: str, plan: Plan, files: Mapping[str, Path], checkpoint: Path | None) -> nn.Module:
        """A component with its weights, on the CPU, in the checkpoint's precision, not yet merged or cast.

        Called when the component is first called, and again after it was dropped: read the file, keep nothing.
        ``files`` are the plan's files of weights by announced name; ``checkpoint`` is the user's own file instead.
        """
        ...

    def run(self, parts: Parts, request: Any) -> Work:
        """Work through a request: a generator that returns the outputs.

        It yields a ``Unit`` for each piece of work and is sent what the unit's ``run(plan)`` returned. After a failure
        the same unit is run again under a lower plan, so ``run`` must change nothing outside itself before it returns:
        copy a scheduler before its step and keep the copy that comes back. What earlier units returned stays with the
        generator and is never computed again.

        It yields ``Step`` to show how far it is, ``preview`` carrying what can be seen already, and ``Kept(stage,
        value)`` when a stage has given something that is worth having by itself (the views before the mesh): should
        the run fail or be stopped later, the error's ``kept`` has the last value of each stage.

        Stop and closing act at each ``yield``: a unit should take no longer than a user waits for Stop.
        """
        ...

    def sample(self, plan: Plan) -> Any:
        """A small request to warm up with and to judge precision on, as many items as the plan's batch, or None."""
        ...

    def drift(self, reference: tuple[Any, ...], outputs: tuple[Any, ...]) -> float:
        """Distance of ``outputs`` from the fp32 ``reference`` in the adapter's metric; 0 means equal."""
        ...


def announced(pipeline: Pipeline, request: Any, plan: Plan) -> tuple[str, ...]:
    """The components a request will call, in order of their first call."""
    uses: Callable[[Any, Plan], tuple[str, ...]] | None = getattr(pipeline, "uses", None)
    if uses is not None:
        return uses(request, plan)
    components = plan.situation.spec.variant(plan.variant).components
    return tuple(c.name for c in components if not c.optional)


def calibration(pipeline: Pipeline, component: str, plan: Plan) -> Iterable[Sequence[Any]]:
    """Calls that show the ranges of a component's values; none where nothing is computed in int8."""
    shown: Callable[[str, Plan], Iterable[Sequence[Any]]] | None = getattr(pipeline, "calibration", None)
    if shown is None or plan.component(component).compute_dtype != "int8":
        return ()
    return shown(component, plan)


def pipeline_of(spec: AdapterSpec) -> Pipeline:
    """The adapter's pipeline, imported only now."""
    module, _, function = spec.pipeline.partition(":")
    build = cast(Callable[[], Pipeline], getattr(import_module(module), function))
    return build()

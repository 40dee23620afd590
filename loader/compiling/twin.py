"""A network's twin: modules of its own around the very same weights, so that one is compiled while the other serves.

Whatever moves or frees the weights of one does so for both: they share the dictionaries that hold them.
"""

import copy
import threading
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import fx, nn

from loader.errors import RunError
from loader.plan import Placement
from loader.residency.guard import Guard

Compile = Callable[[nn.Module, Placement], Callable[..., Any]]
"""Gives what to call instead of a twin. It may compile at its first call, which is made in the calling thread."""


def twin_of(module: nn.Module) -> nn.Module:
    """A copy of the structure of ``module`` with its hooks and its weights, without the guard against sleeping."""
    made: dict[int, nn.Module] = {}

    def copied(original: nn.Module) -> nn.Module:
        if id(original) in made:
            return made[id(original)]
        twin = made[id(original)] = copy.copy(original)
        # The state of a shallow copy is its own dictionary; what it holds is the original's unless replaced here.
        for name in ("_forward_pre_hooks", "_forward_hooks"):
            hooks = getattr(original, name)
            twin.__dict__[name] = type(hooks)((key, hook) for key, hook in hooks.items() if not _guards(hook))
        twin.__dict__["_parameters"] = original._parameters
        twin.__dict__["_buffers"] = original._buffers
        twin.__dict__.pop("_hf_hook", None)
        twin.__dict__["_compiled_call_impl"] = None
        children = {name: child and copied(child) for name, child in original._modules.items()}
        twin.__dict__["_modules"] = type(original._modules)(children)
        return twin

    twin = copied(module)
    _redirect(made)
    return twin


def _guards(hook: Any) -> bool:
    return isinstance(getattr(hook, "__self__", None), Guard)


def _redirect(made: dict[int, nn.Module]) -> None:
    """Plain attributes that name a module of the network (a list of blocks, a bound method) name the twin's."""
    for twin in made.values():
        for name, value in list(twin.__dict__.items()):
            if isinstance(value, (list, tuple)) and any(id(item) in made for item in value):
                twin.__dict__[name] = type(value)(made.get(id(item), item) for item in value)
            elif id(getattr(value, "__self__", None)) in made:
                twin.__dict__[name] = getattr(made[id(value.__self__)], value.__name__)


def targets(module: nn.Module, placement: Placement) -> list[nn.Module]:
    """What of ``module`` is compiled: its repeated blocks where the placement names them, else the whole of it."""
    named = placement.compile_blocks
    return [block for block in module.modules() if named and type(block).__name__ == named] or [module]


def options(placement: Placement) -> dict[str, Any]:
    """Settings of the inductor for a placement.

    Weights are not frozen into the graph: frozen ones take a second place in memory and keep the inductor from finding
    at the next start what was traced at this one, and the merged bf16 detector was no faster for it.

    Raises:
        RunError: the mode is one that is loaded, not compiled here.
    """
    if placement.compile == "aot":
        raise RunError("ahead-of-time packages are loaded, not compiled here: choose another compile mode")
    if placement.compile == "default":
        return {}
    return dict(torch._inductor.list_mode_options(placement.compile, dynamic=False))


def compiled(twin: nn.Module, placement: Placement) -> Callable[..., Any]:
    """The ``Compile`` of torch: fixed shapes, and only ever compiled by the thread that calls this.

    In another thread, a call that no graph fits runs eagerly: nobody who waits for an answer waits for a compiler.
    """
    from torch._inductor.compile_fx import compile_fx

    owner, patches = threading.get_ident(), options(placement)

    def backend(graph: fx.GraphModule, inputs: Sequence[Any]) -> Any:
        if threading.get_ident() != owner:
            return graph.forward
        return compile_fx(graph, inputs, config_patches=patches)  # type: ignore[arg-type]

    for target in targets(twin, placement):
        target.compile(backend=backend, dynamic=False)
    return twin

"""Who is awake: moves components among the states a plan permits, in run order.

A component asleep on the CPU is a parked copy and never computes; one that is dropped exists only as a file. The
states are permitted by the plan; this module only carries them out.
"""

from collections.abc import Callable, Mapping

import torch
from torch import nn

from loader.plan import Placement, Plan
from loader.spec import Variant


class Residency:
    """The components of one loaded plan and which of them are awake.

    Args:
        load: gives a component anew, placed, for those that were dropped.
    """

    def __init__(self, plan: Plan, modules: Mapping[str, nn.Module], load: Callable[[str], nn.Module]) -> None:
        spec = plan.situation.spec
        self._variant: Variant = spec.variant(plan.variant)
        self._placements: Mapping[str, Placement] = {p.name: p for p in plan.components}
        self._modules: dict[str, nn.Module | None] = dict(modules)
        self._load = load
        self._stage = ""
        for name in self._modules:
            if self._placements[name].residency == "blocks":
                self._stream_blocks(name)

    def awake(self, component: str) -> nn.Module:
        """The component, on its device, with the other components of its stage; other stages go to sleep first."""
        stage = self._variant.component(component).stage
        if stage != self._stage:
            self._sleep_all_but(stage)
            self._stage = stage
        module = self._modules[component]
        if module is None:
            module = self._modules[component] = self._load(component)
        placement = self._placements[component]
        if placement.residency in ("offload", "dropped") and placement.device != "cpu":
            module.to(torch.device(placement.device))
        return module

    def replace(self, plan: Plan, modules: Mapping[str, nn.Module]) -> None:
        """Take over components placed anew after a plan was relaxed."""
        self._placements = {p.name: p for p in plan.components}
        self._modules.update(modules)
        for name in modules:
            if self._placements[name].residency == "blocks":
                self._stream_blocks(name)

    def sleep(self) -> None:
        """Nothing is awake that need not be."""
        self._sleep_all_but("")
        self._stage = ""

    def modules(self) -> dict[str, nn.Module]:
        """Components that exist in memory, awake or asleep."""
        return {name: module for name, module in self._modules.items() if module is not None}

    def _sleep_all_but(self, stage: str) -> None:
        for name, module in self._modules.items():
            if module is None or self._variant.component(name).stage == stage:
                continue
            residency = self._placements[name].residency
            if residency == "dropped":
                self._modules[name] = None
            elif residency == "offload" and self._placements[name].device != "cpu":
                module.to("cpu")

    def _stream_blocks(self, name: str) -> None:
        """Move each repeated block in for its own forward only; what is outside the blocks stays on the device."""
        module, placement = self._modules[name], self._placements[name]
        if module is None or placement.device == "cpu":
            return
        device = torch.device(placement.device)
        wanted = self._variant.component(name).repeated_block
        blocks = [m for m in module.modules() if type(m).__name__ == wanted]
        module.to(device)
        for block in blocks:
            block.to("cpu")
            block.register_forward_pre_hook(lambda m, _: _to(m, device))
            # always_call: a block that failed must not stay on the device.
            block.register_forward_hook(lambda m, _, output: _back(m, output), always_call=True)


def _to(module: nn.Module, device: torch.device) -> None:
    module.to(device)


def _back(module: nn.Module, output: object) -> object:
    module.to("cpu")
    return output

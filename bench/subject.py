"""What a model has to give to be benched."""

from collections.abc import Callable, Mapping
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from bench.depth import Depth
from bench.detector import Detector
from loader.folders import Folders
from loader.plan import Placement, Plan

Call = Callable[[], Any]


class Subject(Protocol):
    """What is timed of one adapter under one plan."""

    @property
    def weights(self) -> str: ...

    def placements(self, *, compiled: bool) -> dict[str, Placement]:
        """What is compared, by name: first the network as its authors run it, last the planned one."""
        ...

    def call(self, placement: Placement, batch: int) -> Call:
        """One forward of the placed network on ``batch`` pictures; it returns what the network gives."""
        ...

    def plain(self) -> nn.Module:
        """The network in fp32 on the CPU, ready to be given to another runtime: ``[B, 3, H, W]`` to tensors."""
        ...

    def images(self, batch: int) -> Tensor:
        """``[batch, 3, H, W]``, fp32."""
        ...

    def drift(self, reference: Any, other: Any) -> float | None:
        """How far what a call gave is from what another one gave; None where there is nothing to judge by."""
        ...


SUBJECTS: Mapping[str, Callable[[Plan, Folders], Subject]] = {"damo_yolo": Detector, "metric3d": Depth}


def finished(call: Call, device: str) -> Call:
    """``call`` that returns only when its device has done the work."""
    if device == "cpu":
        return call

    def complete() -> Any:
        given = call()
        torch.accelerator.synchronize(torch.device(device))
        return given

    return complete

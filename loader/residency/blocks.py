"""A component block by block: each repeated block is on the device for its own call only.

Blocks take turns in two buffers on the device (one where it has no streams), each as large as the largest block, so
nothing is allocated while computing. Where the device has streams the copy of a block runs beside the computing of the
one before; the processor, which runs ahead of the device, needs no list of what comes next.
"""

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from loader.residency.carry import Carrier
from loader.residency.tensors import Slots, aligned_bytes, views_into


@dataclass
class _Turn:
    """One buffer on the device, with a pinned one beside it, and the moments both are free again."""

    buffer: Tensor
    staging: Tensor | None
    left: torch.Event | None = None
    copied: torch.Event | None = None


@dataclass
class BlockStream:
    """The blocks of ``module`` whose class is called ``block_class``; what lies outside them stays on the device."""

    module: nn.Module
    block_class: str
    carrier: Carrier
    _turns: list[_Turn] = field(default_factory=list)
    _handles: list[RemovableHandle] = field(default_factory=list)
    _parked_outer: list[Tensor] = field(default_factory=list)
    _next: int = 0

    def __post_init__(self) -> None:
        self._blocks = outermost(self.module, self.block_class)
        self._slots = [Slots(block) for block in self._blocks]
        self._outer = Slots(self.module, without=self._blocks)

    @property
    def turns(self) -> int:
        return 2 if self.carrier.streams and len(self._blocks) > 1 else 1

    @property
    def device_bytes(self) -> int:
        """What is on the device while it is awake."""
        return self._outer.bytes + self.turns * self._largest()

    def _largest(self) -> int:
        return max((aligned_bytes(slots.tensors()) for slots in self._slots), default=0)

    def open(self) -> None:
        """Bring what lies outside the blocks, make the buffers, and let the blocks come and go.

        Everything that may fail for lack of memory is done before anything is changed.
        """
        parked_outer = self._outer.tensors()
        outer = self.carrier.bring(parked_outer)
        with torch.inference_mode(mode=False):
            turns = [self._turn(self._largest()) for _ in range(self.turns)] if self._blocks else []
        self._parked_outer, self._turns, self._next = parked_outer, turns, 0
        self._outer.put(outer)
        for block, slots in zip(self._blocks, self._slots, strict=True):
            visit = _Visit(self, slots, slots.tensors())
            self._handles.append(block.register_forward_pre_hook(visit.come))
            # always_call: a block that failed must not keep its place.
            self._handles.append(block.register_forward_hook(visit.go, always_call=True))

    def close(self) -> None:
        """Put the parked tensors back; the device is free."""
        for handle in self._handles:
            handle.remove()
        self._outer.put(self._parked_outer)
        self._handles, self._turns, self._parked_outer = [], [], []

    def _turn(self, size: int) -> _Turn:
        buffer = torch.empty(size, dtype=torch.uint8, device=self.carrier.device)
        return _Turn(buffer, self.carrier.staging(size))

    def take_turn(self) -> _Turn:
        """The buffer for the next block."""
        turn = self._turns[self._next % len(self._turns)]
        self._next += 1
        return turn


class _Visit:
    """The hooks of one block: its tensors come before its forward and go after it."""

    def __init__(self, stream: BlockStream, slots: Slots, parked: list[Tensor]) -> None:
        self._stream, self._slots, self._parked = stream, slots, parked
        self._turn: _Turn | None = None

    def come(self, _: nn.Module, __: tuple[Any, ...]) -> None:
        carrier = self._stream.carrier
        with torch.inference_mode(mode=False), torch.no_grad():
            self._turn = turn = self._stream.take_turn()
            views = views_into(turn.buffer, self._parked)
            # Not before the block that had this buffer has been computed.
            turn.copied = carrier.copy_into(views, _staged(carrier, turn, self._parked), after=turn.left)
            self._slots.put(views)

    def go(self, _: nn.Module, __: tuple[Any, ...], output: Any) -> Any:
        self._slots.put(self._parked)
        if self._turn is not None:
            self._turn.left = self._stream.carrier.computed()
        self._turn = None
        return output


def _staged(carrier: Carrier, turn: _Turn, parked: list[Tensor]) -> list[Tensor]:
    """``parked`` where the device reads it fast: as it is if pinned, else through the buffer beside the turn's."""
    if turn.staging is None or all(t.is_pinned() for t in parked):
        return parked
    carrier.wait(turn.copied)  # the last block's copy may still read the buffer
    staged = views_into(turn.staging, parked)
    for view, tensor in zip(staged, parked, strict=True):
        view.copy_(tensor)
    return staged


def outermost(module: nn.Module, block_class: str) -> list[nn.Module]:
    """Submodules of a class, in order, without those inside another of them."""
    found: list[nn.Module] = []
    inside: set[nn.Module] = set()
    for child in module.modules():
        if type(child).__name__ == block_class and child not in inside:
            found.append(child)
            inside |= set(child.modules())
    return found

"""Copies between host memory and a device, on a stream of their own where the device has streams."""

from collections.abc import Sequence

import torch
from torch import Tensor

# Devices whose copies can run beside computing, and which read pinned pages faster.
STREAMING = frozenset({"cuda", "xpu"})
_PAGE_CLASS = 512  # bytes; torch's allocator of pinned memory rounds up to powers of two from here


class Carrier:
    """Brings tensors to one device. A mark is a moment in the device's work, None where it has no streams.

    Args:
        device: as torch calls it.
    """

    def __init__(self, device: str) -> None:
        self.device = torch.device(device)
        self.streams = self.device.type in STREAMING
        self._stream = torch.Stream(device=self.device) if self.streams else None

    def bring(self, tensors: Sequence[Tensor]) -> list[Tensor]:
        """Copies on the device, there when this returns."""
        with torch.inference_mode(mode=False), torch.no_grad():
            return [tensor.to(self.device) for tensor in tensors]

    def bring_ahead(self, tensors: Sequence[Tensor]) -> tuple[list[Tensor], torch.Event | None]:
        """Copies on the device that may still be on their way, and the mark at which they are there."""
        if self._stream is None:
            return self.bring(tensors), None
        with torch.inference_mode(mode=False), torch.no_grad(), self._stream:
            copies = [tensor.to(self.device, non_blocking=True) for tensor in tensors]
        return copies, self._mark(self._stream)

    def arrive(self, copies: Sequence[Tensor], mark: torch.Event | None) -> None:
        """Let computing wait for copies that were brought ahead."""
        if mark is None:
            return
        current = torch.accelerator.current_stream(self.device)
        current.wait_event(mark)
        for copy in copies:
            # The memory belongs to the other stream: without this it could be given away while it is read.
            copy.record_stream(current)

    def copy_into(
        self, views: Sequence[Tensor], tensors: Sequence[Tensor], after: torch.Event | None
    ) -> torch.Event | None:
        """Copy ``tensors`` into ``views`` on the device, not before ``after``; computing waits for it.

        Returns:
            The mark at which the copies are done and ``tensors`` may change.
        """
        if self._stream is None:
            for view, tensor in zip(views, tensors, strict=True):
                view.copy_(tensor)
            return None
        if after is not None:
            self._stream.wait_event(after)
        with self._stream:
            for view, tensor in zip(views, tensors, strict=True):
                view.copy_(tensor, non_blocking=True)
        mark = self._mark(self._stream)
        torch.accelerator.current_stream(self.device).wait_event(mark)
        return mark

    def computed(self) -> torch.Event | None:
        """The mark at which all that computing was told so far is done."""
        return self._mark(torch.accelerator.current_stream(self.device)) if self.streams else None

    def wait(self, mark: torch.Event | None) -> None:
        """Let the processor wait for ``mark``."""
        if mark is not None:
            mark.synchronize()

    def staging(self, size: int) -> Tensor | None:
        """A buffer of ``size`` bytes the device reads fast; None where there is no such thing."""
        return torch.empty(size, dtype=torch.uint8, pin_memory=True) if self.streams else None

    def pinned(self, tensors: Sequence[Tensor]) -> list[Tensor] | None:
        """Copies in pages the kernel does not move, or None where the device reads none or there are no more."""
        if not self.streams:
            return None
        try:
            with torch.inference_mode(mode=False), torch.no_grad():
                return [tensor.pin_memory() for tensor in tensors]
        except RuntimeError:
            return None

    def _mark(self, stream: torch.Stream) -> torch.Event:
        event = torch.Event(device=self.device)
        event.record(stream)
        return event


def pinned_bytes(tensors: Sequence[Tensor]) -> int:
    """Bytes that pinned copies take: the allocator rounds each up to a power of two."""
    return sum(max(_PAGE_CLASS, 1 << (t.numel() * t.element_size() - 1).bit_length()) for t in tensors if t.numel())

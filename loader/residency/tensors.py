"""The tensors of a module as a list that can be taken out and put back, tied ones once.

Moving by putting tensors, instead of ``module.to``, lets the parked copy stay where it is: going to sleep costs
nothing, and what comes back is bit for bit what was given.
"""

from collections.abc import Collection, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

ALIGNMENT = 256  # bytes at which a tensor begins in a shared buffer: what kernels read fastest

Ref = tuple[dict[str, Any], str]


class Slots:
    """Where the parameters and buffers of ``module`` are held, without those of the modules in ``without``."""

    def __init__(self, module: nn.Module, without: Collection[nn.Module] = ()) -> None:
        inside = {inner for block in without for inner in block.modules()}
        by_tensor: dict[int, list[Ref]] = {}
        for owner in module.modules():
            if owner not in inside:
                for ref in _refs(owner):
                    by_tensor.setdefault(id(ref[0][ref[1]]), []).append(ref)
        self._refs = tuple(by_tensor.values())

    def tensors(self) -> list[Tensor]:
        """What is held now."""
        return [refs[0][0][refs[0][1]].data for refs in self._refs]

    @property
    def bytes(self) -> int:
        return sum(t.numel() * t.element_size() for t in self.tensors())

    def put(self, tensors: Sequence[Tensor]) -> None:
        """Hold these instead. Parameters stay the same objects where torch allows it, for compiled code knows them."""
        with torch.inference_mode(mode=False), torch.no_grad():
            for refs, tensor in zip(self._refs, tensors, strict=True):
                container, name = refs[0]
                held = container[name]
                if not isinstance(held, nn.Parameter):
                    held = tensor
                elif torch._has_compatible_shallow_copy_type(held, tensor):
                    held.data = tensor
                else:
                    held = nn.Parameter(tensor, requires_grad=False)
                for each, key in refs:
                    each[key] = held

    def clear(self) -> None:
        """Hold nothing: memory comes back at once, whoever still knows the module."""
        for refs in self._refs:
            for container, name in refs:
                container[name] = None


def _refs(owner: nn.Module) -> Iterator[Ref]:
    for container in (owner._parameters, owner._buffers):
        for name, tensor in container.items():
            if tensor is not None:
                yield container, name


def aligned_bytes(tensors: Sequence[Tensor]) -> int:
    """Bytes of a buffer that holds all of ``tensors``, each aligned."""
    return sum(_up(t.numel() * t.element_size()) for t in tensors)


def views_into(buffer: Tensor, tensors: Sequence[Tensor]) -> list[Tensor]:
    """Views of a flat byte buffer with the shapes, dtypes and layouts of ``tensors``, without their gaps."""
    views, start = [], 0
    for tensor in tensors:
        size = tensor.numel() * tensor.element_size()
        flat = buffer[start : start + size].view(tensor.dtype)
        dense = torch.empty_like(tensor, device="meta")
        views.append(torch.as_strided(flat, tensor.shape, dense.stride(), flat.storage_offset()))
        start += _up(size)
    return views


def _up(size: int) -> int:
    return -(-size // ALIGNMENT) * ALIGNMENT

"""A call of a network as a value: what of it a compiled graph depends on, one like it made up, padding, and distance.

A graph compiled for fixed shapes serves calls of one signature. Batches are padded to one of a few sizes, so that five
graphs serve any batch up to sixteen.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Any

import torch
from torch import Tensor

BUCKETS = (1, 2, 4, 8, 16)
KEPT_NUMBERS = 4096  # integers (tokens, time steps) are kept as they were: made up, they could mean nothing

# Distance between eager and compiled, root mean square over that of eager: products are summed in another order and
# rounded in other places, which is no more than a few roundings of the precision computed in.
TOLERANCE: Mapping[str, float] = {"fp32": 2e-3, "fp16": 2e-2, "bf16": 6e-2}

Signature = tuple[Any, ...]


@dataclass(frozen=True)
class Call:
    """Arguments of one call, on their device, in their dtype."""

    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]

    def map(self, change: Callable[[Tensor], Any]) -> "Call":
        """The same with every tensor changed."""
        return Call(
            tuple(_map(a, change) for a in self.args), {name: _map(v, change) for name, v in self.kwargs.items()}
        )

    def of(self, function: Callable[..., Any]) -> Any:
        """What ``function`` gives."""
        return function(*self.args, **self.kwargs)

    @property
    def signature(self) -> Signature:
        """What a graph of fixed shapes depends on: shapes, dtypes, layouts, and every other argument's value."""
        return _signature((self.args, tuple(sorted(self.kwargs.items()))))

    @property
    def batch(self) -> int:
        """The first dimension, where all tensors agree on it; 0 where they do not."""
        firsts: set[int] = set()
        self.map(lambda tensor: firsts.add(tensor.shape[0] if tensor.ndim > 1 else 0))
        return firsts.pop() if len(firsts) == 1 else 0


def bucket(batch: int) -> int:
    """The smallest known batch that holds ``batch``; itself beyond the largest."""
    return next((size for size in BUCKETS if size >= batch), batch)


def padded(call: Call, batch: int) -> Call:
    """``call`` with its last item repeated until it holds ``batch`` of them; layouts stay."""

    def fill(tensor: Tensor) -> Tensor:
        last = tensor.ndim == 4 and tensor.is_contiguous(memory_format=torch.channels_last)
        missing = batch - tensor.shape[0]
        if missing <= 0:
            # Made in inference mode as padded ones are: a graph serves one kind of tensor only.
            return tensor if tensor.is_inference() else tensor.clone()
        whole = torch.cat([tensor, tensor[-1:].expand(missing, *tensor.shape[1:])])
        return whole.contiguous(memory_format=torch.channels_last if last else torch.contiguous_format)

    return call.map(fill)


def unpadded(value: Any, padded_to: int, batch: int) -> Any:
    """``value`` without the items that were padding: of each tensor whose first dimension is the padded batch."""
    if padded_to == batch:
        return value
    return _map(value, lambda t: t[:batch] if t.ndim and t.shape[0] == padded_to else t)


def like(call: Call, seed: int = 0) -> Call:
    """A call of the same signature with random numbers from a normal distribution; integers are those given.

    Drawn on the CPU by a generator of its own: nothing of a request is kept, and no other random numbers change.
    """
    generator = torch.Generator("cpu").manual_seed(seed)

    def invent(tensor: Tensor) -> Tensor:
        # A graph made for tensors of inference mode does not serve others.
        with torch.inference_mode(mode=tensor.is_inference()):
            if not tensor.is_floating_point() or tensor.numel() <= 1:
                return tensor.clone() if tensor.numel() <= KEPT_NUMBERS else torch.zeros_like(tensor)
            made = torch.randn(tensor.shape, generator=generator, dtype=torch.float32)
            return torch.empty_like(tensor).copy_(made)

    return call.map(invent)


def distance(expected: Any, got: Any) -> float:
    """Root mean square of the difference over that of ``expected``, of the tensor where it is largest.

    Infinite where the two do not have the same shape or where one of them is not finite.
    """
    first, second = tensors(expected), tensors(got)
    if len(first) != len(second):
        return float("inf")
    return max((_distance(a, b) for a, b in zip(first, second, strict=True)), default=0.0)


def tensors(value: Any) -> list[Tensor]:
    """All tensors in ``value``, in order."""
    found: list[Tensor] = []
    _map(value, found.append)
    return found


def _distance(expected: Tensor, got: Tensor) -> float:
    if expected.shape != got.shape:
        return float("inf")
    wide = torch.float64 if expected.device.type == "cpu" else torch.float32
    a, b = expected.detach().to(wide), got.detach().to(wide)
    scale = float(a.square().mean().sqrt()) if a.numel() else 1.0
    apart = float((a - b).square().mean().sqrt()) if a.numel() else 0.0
    if apart != apart or scale != scale:
        return float("inf")
    return apart / scale if scale > 0 else apart


def _map(value: Any, change: Callable[[Tensor], Any]) -> Any:
    if isinstance(value, Tensor):
        return change(value)
    if isinstance(value, dict):
        return type(value)({key: _map(item, change) for key, item in value.items()})
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return type(value)(*(_map(item, change) for item in value))
    if isinstance(value, (tuple, list)):
        return type(value)(_map(item, change) for item in value)
    if is_dataclass(value) and not isinstance(value, type):
        return replace(value, **{f.name: _map(getattr(value, f.name), change) for f in fields(value) if f.init})
    return value


def _signature(value: Any) -> Any:
    if isinstance(value, Tensor):
        return (value.dtype, str(value.device), tuple(value.shape), value.stride(), value.is_inference())
    if isinstance(value, dict):
        return tuple((key, _signature(item)) for key, item in value.items())
    if isinstance(value, (tuple, list)):
        return (type(value).__name__, *(_signature(item) for item in value))
    if is_dataclass(value) and not isinstance(value, type):
        return tuple(_signature(getattr(value, f.name)) for f in fields(value))
    return value if isinstance(value, (int, float, str, bool, bytes, type(None))) else id(value)

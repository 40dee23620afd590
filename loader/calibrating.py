"""From sample calls to the ranges of a network's values: what each convolution reads, and which results may stay bytes.

A network is run in floating point on samples while every function of torch it calls is watched. Values that meet in
one tensor (concatenated, pooled, enlarged) form a group with one range. A group may be held in bytes if convolutions
alone make it and convolutions alone read it; whatever else touches a value keeps its group in floating point.

A range is that of all samples. Cutting its ends off, for the least mean squared error, was tried on the preview
detector and was no better (mAP50-95 of 120 scenes at 416 px: 0.7202 in fp32, 0.7194 so, 0.7168 cut).
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils.weak import WeakIdKeyDictionary

from loader.packing import SUMMED, Packed

LEVELS = 255  # steps between the smallest and the largest byte

# They move values, pick some or repeat them: what comes out is in the range of what went in.
# Pooling is not among them: torch's kernel for bytes takes no picture of more than 255 values.
KEEPING: frozenset[Callable[..., Any]] = frozenset({torch.cat, Tensor.__getitem__, Tensor.contiguous})
ASKING = frozenset({"size", "dim", "stride", "numel", "is_contiguous", "is_floating_point", "__len__", "__hash__"})
FLOAT = ("", "float")  # the group of all that has to stay as it is
Key = tuple[str, str]


@dataclass(frozen=True)
class Scale:
    """How bytes stand for numbers: byte ``q`` is ``(q - zero) * step``."""

    step: float
    zero: int

    @classmethod
    def covering(cls, low: float, high: float) -> "Scale":
        """The scale that reaches from ``low`` to ``high`` and holds 0 exactly, as padding needs it."""
        low, high = min(low, 0.0), max(high, 0.0)
        step = (high - low) / LEVELS or 1.0
        return cls(step, round(-low / step))


@dataclass(frozen=True)
class LayerScales:
    """Of one convolution: what it reads, what it gives (None: floating point), and what is added (None: likewise)."""

    input: Scale
    output: Scale | None = None
    added: Scale | None = None


def calibrate(
    module: nn.Module, layers: Mapping[str, nn.Module], calls: Iterable[Sequence[Any]]
) -> dict[str, LayerScales]:
    """Scales for ``layers`` of ``module``, by name.

    Args:
        module: on the CPU, in floating point, ready to be called.
        layers: those to be quantised, packed (``loader.packing``); each takes a tensor and perhaps one to add. One
            with an attribute ``takes``, a range, is given values of that range whatever the samples hold.
        calls: positional arguments of a call each.

    Raises:
        ValueError: there were no calls, or none reached one of the layers.
    """
    watch = _Watch(layers)
    with torch.inference_mode():
        for arguments in calls:
            watch.run(module, arguments)
    missing = [name for name in layers if ("in", name) not in watch.seen]
    if missing:
        raise ValueError(f"calibration never reached {len(missing)} of {len(layers)} layers, {missing[0]} first")
    return watch.scales()


class _Watch(TorchFunctionMode):
    """Follows values from layer to layer. Groups are kept as a forest: ``_parent`` of a key, its own root at last."""

    def __init__(self, layers: Mapping[str, nn.Module]) -> None:
        super().__init__()
        self._layers = layers
        self._parent: dict[Key, Key] = {}
        self._group_of: WeakIdKeyDictionary = WeakIdKeyDictionary()
        self._added: dict[str, bool] = {}
        self._inside = False
        self.seen: dict[Key, tuple[float, float]] = {}

    def run(self, module: nn.Module, arguments: Sequence[Any]) -> None:
        handles = [
            handle
            for name, layer in self._layers.items()
            for handle in (
                layer.register_forward_pre_hook(self._before(name)),
                layer.register_forward_hook(self._after(name)),
            )
        ]
        try:
            with self:
                result = module(*arguments)
            for tensor in _tensors(result):
                self._float(tensor)
        finally:
            for handle in handles:
                handle.remove()

    # --- what happens

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        if self._inside or _asks(func):
            return result
        given = [*_tensors(args), *_tensors(kwargs)]
        if _keeps(func, args, kwargs):
            keys = [FLOAT if key is None else key for key in map(self._group_of.get, given)] or [FLOAT]
            for key in keys[1:]:
                self._join(keys[0], key)
            for tensor in _tensors(result):
                self._group_of[tensor] = keys[0]
        else:
            for tensor in given:
                self._float(tensor)
        return result

    def _before(self, name: str) -> Callable[..., None]:
        def hook(_: nn.Module, args: tuple[Any, ...]) -> None:
            self._inside = True
            self._read(("in", name), args[0])
            added = args[1] if len(args) > 1 else None
            if added is not None:
                self._read(("added", name), added)
            self._added[name] = self._added.get(name, False) or added is not None

        return hook

    def _after(self, name: str) -> Callable[..., None]:
        def hook(_: nn.Module, __: tuple[Any, ...], output: Tensor) -> None:
            self._group_of[output] = ("out", name)
            self._inside = False

        return hook

    def _read(self, key: Key, tensor: Tensor) -> None:
        self._join(key, self._group_of.get(tensor, FLOAT))
        low, high = (float(end) for end in torch.aminmax(tensor))
        self.seen[key] = _hull([(low, high), *([self.seen[key]] if key in self.seen else [])])

    def _float(self, tensor: Tensor) -> None:
        key = self._group_of.get(tensor)
        if key is not None:
            self._join(key, FLOAT)

    # --- groups

    def _root(self, key: Key) -> Key:
        while (parent := self._parent.get(key, key)) != key:
            key = parent
        return key

    def _join(self, one: Key, other: Key) -> None:
        one, other = self._root(one), self._root(other)
        if one != other:
            if one == FLOAT:
                one, other = other, one
            self._parent[one] = other

    def _group(self, key: Key) -> Key:
        """What shares a range with ``key``: in floating point nothing does."""
        return key if self._is_float(key) else self._root(key)

    def _is_float(self, key: Key) -> bool:
        return self._root(key) == FLOAT

    # --- what comes of it

    def scales(self) -> dict[str, LayerScales]:
        self._settle_sums()
        ranges: dict[Key, list[tuple[float, float]]] = defaultdict(list)
        for key, ends in self.seen.items():
            ranges[self._group(key)].append(ends)
        scale_of = {group: Scale.covering(*_hull(found)) for group, found in ranges.items()}
        found = {}
        for name, layer in self._layers.items():
            takes = getattr(layer, "takes", None)
            reads, gives, adds = ("in", name), ("out", name), ("added", name)
            own = Scale.covering(*takes) if takes and self._is_float(reads) else None
            found[name] = LayerScales(
                own or scale_of[self._group(reads)],
                None if self._is_float(gives) else scale_of[self._group(gives)],
                None if not self._added[name] or self._is_float(adds) else scale_of[self._group(adds)],
            )
        return found

    def _settle_sums(self) -> None:
        """A sum and what is added are both bytes or both not; with other activations than ReLU they are not."""
        changed = True
        while changed:
            changed = False
            for name in (name for name, adds in self._added.items() if adds):
                both = (("out", name), ("added", name))
                summable = cast(Packed, self._layers[name]).fused[0] in SUMMED
                if summable and not any(map(self._is_float, both)):
                    continue
                for key in both:
                    changed = changed or not self._is_float(key)
                    self._join(key, FLOAT)


def _hull(ranges: Iterable[tuple[float, float]]) -> tuple[float, float]:
    lows, highs = zip(*ranges, strict=True)
    return min(lows), max(highs)


def _asks(func: Callable[..., Any]) -> bool:
    """Whether a function reads no value: shapes, dtypes and the like."""
    name = getattr(func, "__name__", "")
    return name == "__get__" or name in ASKING


def _keeps(func: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> bool:
    if func is F.interpolate:
        return kwargs.get("mode", args[3] if len(args) > 3 else "nearest") == "nearest"
    return func in KEEPING


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, (tuple, list)):
        for item in value:
            yield from _tensors(item)
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from _tensors(item)

"""Weights in the order the CPU's kernels read them, and activations computed while a result is still at hand.

PyTorch hands oneDNN the weights of a convolution or a linear layer as they are; oneDNN lays them out anew in every
call, for the matrix unit of this processor, and the activation that follows is a pass of its own over memory. Packed,
each layer is laid out once, when it is loaded, and computes its activation, and the sum with a shortcut, before the
result leaves the registers. Results are those of the layers themselves but for that a sum and an activation are not
rounded in between.

The operators (``torch.ops.mkldnn``) are the ones torch's own compiler emits when it freezes a graph
(``torch/_inductor/mkldnn_lowerings.py``); here no compiler is needed, and weights are not kept twice.

A network says what may be computed together: ``activations`` on a layer names (convolution, activation) pairs, as
paths below it, where the activation is applied to nothing but results of the convolutions named with it. A layer that
sums a shortcut asks its convolution ``takes_added`` and hands it over. A layer that reads weights itself says
``packs = False``: others may look at a packed weight, but each look lays it out anew.
"""

import functools
import logging
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import Any, ClassVar, Protocol, cast, runtime_checkable

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from loader.process import return_freed_memory

_log = logging.getLogger(__name__)
Fused = tuple[str, tuple[float, ...], str]  # name, numbers and algorithm, as the operators take them
NOTHING: Fused = ("none", (), "")
SUMMED = ("none", "relu")  # what the operators compute behind a sum; other activations follow by themselves
BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
# Packed weights begin at a page, so they do not fit into the holes that the weights before them leave in the heap:
# these are given back as it goes on, or memory would be needed twice.
TRIM_BYTES = 4 * 2**20
PACKED = "packed"  # name of the parameter
ROWS = 256  # what a linear layer is packed for; timed from 1 to 4096 rows, one order serves them all


@runtime_checkable
class Activated(Protocol):
    """A layer that names activations its convolutions can compute: see the module."""

    activations: ClassVar[tuple[tuple[str, str], ...]]


def available() -> bool:
    """Whether this torch has the operators and oneDNN is switched on."""
    if not (torch.backends.mkldnn.is_available() and torch.backends.mkldnn.enabled):  # type: ignore[attr-defined]
        return False
    return all(hasattr(torch.ops.mkldnn, name) for name in ("_convolution_pointwise", "_linear_pointwise"))


def pack(module: nn.Module) -> int:
    """Pack every convolution and linear layer of ``module``, on the CPU, in the dtype it has; fuse what it names.

    Layer by layer, so that there is never a second copy of the whole. What is of another class, has a weight shared
    with another layer, or does not compute as its base class does is left as it is.

    Returns:
        How many layers were packed.

    Raises:
        RuntimeError: this torch lacks the operators; the ladder answers it.
    """
    if not available():
        raise RuntimeError("this build of torch has no operators for packed weights, or oneDNN is switched off")
    shared, kept = _shared(module), _kept(module)
    packed = freed = 0
    with torch.no_grad():
        for layer in list(module.modules()):
            if id(layer) in kept:
                continue
            if isinstance(layer, nn.Conv2d) and id(layer.weight) not in shared and _plain_convolution(layer):
                _pack_convolution(layer)
            elif type(layer) is nn.Linear and id(layer.weight) not in shared:
                freed += layer.weight.numel() * layer.weight.element_size()
                _pack_linear(layer)
                if freed > TRIM_BYTES:
                    return_freed_memory()
                    freed = 0
            else:
                continue
            packed += 1
        for layer in module.modules():
            if isinstance(layer, Activated):
                _fuse(layer)
    _log.debug("%d layers packed", packed)
    return packed


def _kept(module: nn.Module) -> set[int]:
    """Ids of the layers below those that say ``packs = False``."""
    outer = (layer for layer in module.modules() if getattr(layer, "packs", True) is False)
    return {id(layer) for one in outer for layer in one.modules()}


def _shared(module: nn.Module) -> set[int]:
    """Ids of the parameters that more than one layer holds: packed for one, the other could not read them."""
    held = [id(p) for layer in module.modules() for p in layer._parameters.values() if p is not None]
    return {one for one, times in Counter(held).items() if times > 1}


def _plain_convolution(layer: nn.Conv2d) -> bool:
    changed = type(layer)._conv_forward is not nn.Conv2d._conv_forward
    hooked = "_conv_forward" in layer.__dict__ or "forward" in layer.__dict__
    return not changed and not hooked and layer.padding_mode == "zeros" and not isinstance(layer.padding, str)


def activated(x: Tensor, fused: Fused) -> Tensor:
    """``fused``, which the operators compute behind no sum, as a step of its own."""
    return F.silu(x, inplace=True) if fused[0] == "swish" else F.gelu(x, approximate=fused[2])


class Reading(Tensor):
    """Stands where the weight of a packed layer was, for whoever looks at it: a packed weight cannot be computed with.

    Its shape, dtype and device are those of the weight; whatever is computed with it is computed with the weight laid
    out plainly again, each time. Layers of libraries read weights of others now and then (attention pooling).
    """

    _layer: "Packed"

    @staticmethod
    def of(layer: "Packed") -> "Reading":
        made: Reading = Tensor._make_wrapper_subclass(  # type: ignore[attr-defined]
            Reading, layer.packed.shape, dtype=layer.packed.dtype, device=layer.packed.device
        )
        made._layer = layer
        return made

    __torch_function__ = torch._C._disabled_torch_function_impl  # type: ignore[assignment]

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]
        cls,
        func: Callable[..., Any],
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[Any, Any] | None = None,
    ) -> Any:
        del types
        return func(*tree_map(_plainly, args), **tree_map(_plainly, kwargs or {}))


def _plainly(value: Any) -> Any:
    return dense(value._layer) if isinstance(value, Reading) else value


def dense(layer: "Packed") -> Tensor:
    """The weight of a packed layer as other operators take it."""
    weight = layer.packed.detach()
    return weight.to_dense() if weight.is_mkldnn else weight


def unpacked(layer: "Packed") -> Tensor:
    """``dense``, of a layer that holds its weight no longer."""
    weight = dense(layer)
    del cast(nn.Module, layer)._parameters[PACKED]
    return weight


class Packed:
    """What packed layers have in common.

    Attributes:
        packed: the weight, in place of the parameter ``weight``.
        fused: activation computed with the result.
    """

    packed: Tensor
    fused: Fused = NOTHING

    @property
    def weight(self) -> Tensor:
        """To look at."""
        return Reading.of(self)


class PackedConvolution(Packed):
    """Mixed into the class of a convolution: its weight is packed for the pictures that come.

    Which order is best depends on the size of the picture, and a wrong one can take longer than none. So it is laid
    out at the first call, and anew when two calls in a row are of another size: sizes that take turns cost nothing.
    """

    takes_added = True
    _packed_for: tuple[int, ...] = ()
    _last: tuple[int, ...] = ()

    def forward(self, input: Tensor, added: Tensor | None = None) -> Tensor:
        """The convolution of ``input``, with ``added`` summed to it, if any, then the activation."""
        if added is None:
            return cast(Tensor, super().forward(input))  # type: ignore[misc]
        own: Any = self
        name, numbers, algorithm = self.fused
        last = name in SUMMED
        result = torch.ops.mkldnn._convolution_pointwise.binary(
            input,
            added,
            self._weight_for(input),
            own.bias,
            own.padding,
            own.stride,
            own.dilation,
            own.groups,
            "add",
            1.0,
            name if name == "relu" else None,
            numbers,
            algorithm if name == "relu" else None,
        )
        return cast(Tensor, result if last else activated(result, self.fused))

    def _conv_forward(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        del weight
        own: Any = self
        name, numbers, algorithm = self.fused
        result = torch.ops.mkldnn._convolution_pointwise(
            input,
            self._weight_for(input),
            bias,
            own.padding,
            own.stride,
            own.dilation,
            own.groups,
            name,
            numbers,
            algorithm,
        )
        return cast(Tensor, result)

    def _weight_for(self, input: Tensor) -> Tensor:
        """The weight, laid out for pictures like ``input``. Any layout gives the same result, only later."""
        own: Any = self
        weight = self.packed
        shape, before = tuple(input.shape), self._last
        self._last = shape
        if shape == self._packed_for or (self._packed_for and shape != before):
            return weight
        with torch.inference_mode(mode=False), torch.no_grad():
            weight = torch.ops.mkldnn._reorder_convolution_weight(
                dense(self), own.padding, own.stride, own.dilation, own.groups, shape
            )
            own.packed = nn.Parameter(weight, requires_grad=False)
        self._packed_for = shape
        if weight.numel() * weight.element_size() > TRIM_BYTES // 4:
            return_freed_memory()
        return weight


class PackedLinear(Packed, nn.Linear):  # type: ignore[override]
    """A linear layer whose weight was packed."""

    def forward(self, input: Tensor) -> Tensor:
        name, numbers, algorithm = self.fused
        result = torch.ops.mkldnn._linear_pointwise(input, self.packed, self.bias, name, numbers, algorithm)
        return cast(Tensor, result)


@functools.cache
def _packed_class(kind: type[nn.Conv2d]) -> type[nn.Conv2d]:
    """``kind`` with packed weights: still an instance of it, its own ``forward`` still runs."""
    return cast(type[nn.Conv2d], type(f"Packed{kind.__name__}", (PackedConvolution, kind), {}))


def _become(layer: nn.Module, kind: type[nn.Module], weight: Tensor) -> None:
    """Make ``layer`` one of ``kind`` that holds ``weight`` as its packed one."""
    del layer._parameters["weight"]
    layer.__class__ = kind
    layer.register_parameter(PACKED, nn.Parameter(weight, requires_grad=False))


def _pack_convolution(layer: nn.Conv2d) -> None:
    kind: Any = type(layer)
    _become(layer, _packed_class(kind), layer.weight.detach())


def _pack_linear(layer: nn.Linear) -> None:
    weight = torch.ops.mkldnn._reorder_linear_weight(layer.weight.detach(), ROWS)
    _become(layer, PackedLinear, weight)


# --- activations ------------------------------------------------------------------------------------------------


def _fuse(layer: Any) -> None:
    """Let convolutions compute the activations ``layer`` names, where all that share one were packed."""
    if any(isinstance(inner, BATCH_NORMS) for inner in layer.modules()):
        return  # it comes between the two
    by_activation: dict[str, list[str]] = {}
    for convolution, activation in layer.activations:
        by_activation.setdefault(activation, []).append(convolution)
    for path, names in by_activation.items():
        fused = _fusible(layer.get_submodule(path))
        found = _all_packed(layer, names)
        if fused is None or found is None:
            continue
        for convolution in found:
            convolution.fused = fused
        layer.set_submodule(path, nn.Identity())


def _all_packed(layer: nn.Module, names: Iterable[str]) -> Sequence[Packed] | None:
    found = [layer.get_submodule(name) for name in names]
    packed = [one for one in found if isinstance(one, Packed) and one.fused == NOTHING]
    return packed if len(packed) == len(found) else None


def _fusible(activation: nn.Module) -> Fused | None:
    """How the operators call ``activation``; None where they do not know it."""
    if type(activation) is nn.ReLU:
        return ("relu", (), "")
    if type(activation) is nn.SiLU:
        return ("swish", (), "")
    if type(activation) is nn.GELU:
        return ("gelu", (), activation.approximate)
    return None

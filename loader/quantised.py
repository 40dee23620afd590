"""Convolutions in bytes: int8 weights, uint8 values, sums in int32, on the instructions CPUs have for it (VNNI, AMX).

Each output channel of a weight has a step of its own, symmetric about 0; what a layer reads has one step and one zero
for the whole tensor, found on samples (``loader.calibrating``). A layer computes its activation, and the sum with a
shortcut, before its result is rounded to bytes or leaves in floating point. What arrives in floating point is rounded
to bytes first. The operators are oneDNN's (``torch.ops.onednn``), the ones torch's compiler emits for a quantised
graph (``torch/_inductor/fx_passes/quantization.py``).
"""

import functools
import logging
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from loader import ranges
from loader.calibrating import LEVELS, LayerScales, Scale, calibrate
from loader.packing import NOTHING, PACKED, SUMMED, Packed, PackedConvolution, activated, pack, unpacked

_log = logging.getLogger(__name__)
WEIGHT_LEVELS = 127
OPERATORS = ("qconv_prepack", "qconv2d_pointwise")


def available() -> bool:
    """Whether this torch has the operators and oneDNN is switched on."""
    if not (torch.backends.mkldnn.is_available() and torch.backends.mkldnn.enabled):  # type: ignore[attr-defined]
        return False
    return all(hasattr(torch.ops.onednn, name) for name in OPERATORS)


@functools.cache
def _product() -> Any:
    """The operator without a summand; torch renamed it and keeps the old name for a while."""
    return getattr(torch.ops.onednn, "qconv_pointwise", None) or torch.ops.onednn.qconv2d_pointwise


def quantise(
    module: nn.Module, calls: Iterable[Sequence[Any]], keep: Iterable[str] = (), known: Path | None = None
) -> int:
    """Pack ``module`` in place and quantise its convolutions, by what they read in ``calls``.

    Args:
        module: on the CPU, in fp32.
        calls: positional arguments of a call each.
        keep: paths of submodules that stay in floating point.
        known: file in which the ranges are kept once they are found, where that takes a second or more.

    Returns:
        How many layers were quantised.

    Raises:
        ValueError: there are layers, and ``calls`` is empty or does not reach all of them.
        RuntimeError: this torch lacks the operators; the words are those of an operator that lacks a dtype.
    """
    if not available():
        raise RuntimeError("quantised convolutions are not implemented for this build of torch")
    pack(module)
    layers = quantisable(module, keep)
    if layers:
        convert(module, _scales(module, layers, calls, known))
    return len(layers)


def _scales(
    module: nn.Module, layers: Mapping[str, nn.Module], calls: Iterable[Sequence[Any]], known: Path | None
) -> Mapping[str, LayerScales]:
    if known is None:
        return calibrate(module, layers, calls)
    kept = ranges.read(known, module, layers)
    if kept is not None:
        return kept
    started = time.perf_counter()
    found = calibrate(module, layers, calls)
    if time.perf_counter() - started >= ranges.WORTH_S:
        ranges.write(known, module, found)
    return found


def quantisable(module: nn.Module, keep: Iterable[str] = ()) -> dict[str, nn.Conv2d]:
    """The layers that can be quantised, by name: packed convolutions that change nothing about how one is called."""
    kept = tuple(keep)
    return {
        name: layer
        for name, layer in module.named_modules()
        if isinstance(layer, PackedConvolution)
        and isinstance(layer, nn.Conv2d)
        and layer.weight.dtype == torch.float32
        and not any(name == path or name.startswith(f"{path}.") for path in kept)
        and _called_plainly(layer)
    }


def _called_plainly(layer: nn.Conv2d) -> bool:
    kind = _own_class(layer)
    return kind.forward is nn.Conv2d.forward or hasattr(kind, "takes")


def _own_class(layer: nn.Module) -> type[nn.Conv2d]:
    """The class a layer had before it was packed."""
    return next(base for base in type(layer).__mro__ if issubclass(base, nn.Conv2d) and not issubclass(base, Packed))


def convert(module: nn.Module, scales: Mapping[str, LayerScales]) -> None:
    """Quantise the layers named in ``scales`` in place."""
    with torch.inference_mode(mode=False), torch.no_grad():
        for name, found in scales.items():
            _convert(cast(nn.Conv2d, module.get_submodule(name)), found)
    _log.debug("%d layers quantised", len(scales))


def _convert(layer: Any, scales: LayerScales) -> None:
    weight = unpacked(layer)
    steps = weight.abs().amax((1, 2, 3)).clamp_min(torch.finfo(torch.float32).tiny) / WEIGHT_LEVELS
    rounded = (weight / steps.view(-1, 1, 1, 1)).round().clamp(-WEIGHT_LEVELS, WEIGHT_LEVELS).to(torch.int8)
    packed = torch.ops.onednn.qconv_prepack(
        rounded,
        steps,
        scales.input.step,
        scales.input.zero,
        layer.stride,
        layer.padding,
        layer.dilation,
        layer.groups,
        layer._packed_for or None,
    )
    kind: Any = _own_class(layer)
    layer.__class__ = _quantised_class(kind)
    layer.register_parameter(PACKED, nn.Parameter(packed, requires_grad=False))
    layer.register_buffer("steps", steps, persistent=False)
    layer.register_buffer("zeros", torch.zeros(len(steps), dtype=torch.int64), persistent=False)
    layer.scales = scales


@functools.cache
def _quantised_class(kind: type[nn.Conv2d]) -> type[nn.Conv2d]:
    """``kind`` computing on bytes: still an instance of it."""
    return cast(type[nn.Conv2d], type(f"Quantised{kind.__name__}", (QuantisedConvolution, kind), {}))


class QuantisedConvolution(Packed):
    """Mixed into the class of a convolution: its weight is int8 and packed, it computes on bytes.

    Attributes:
        scales: of what it reads, gives and adds.
    """

    takes_added = True
    scales: LayerScales

    def forward(self, input: Tensor, added: Tensor | None = None) -> Tensor:
        """The convolution of ``input``, with ``added`` summed to it, if any, then the activation.

        Bytes are taken to be in this layer's scale.
        """
        own: Any = self
        scales, (name, numbers, algorithm) = self.scales, self.fused
        given = (to_bytes(input, scales.input), scales.input.step, scales.input.zero, own.packed, own.steps, own.zeros)
        shape = (own.bias, own.stride, own.padding, own.dilation, own.groups)
        result = (1.0, 0, torch.float32)
        if scales.output is not None:
            result = (scales.output.step, scales.output.zero, torch.uint8)
        call = _product()
        if added is None:
            return cast(Tensor, call(*given, *shape, *result, name, numbers, algorithm))
        if name not in SUMMED:
            return activated(call(*given, *shape, *result, *NOTHING).add_(added), self.fused)
        # The operator writes its result where the summand was, which others may still read.
        summand = added.clone(memory_format=torch.channels_last)
        step, zero = (scales.added.step, scales.added.zero) if scales.added is not None else (1.0, 0)
        summing = torch.ops.onednn.qconv2d_pointwise.binary
        return cast(
            Tensor,
            summing(*given, summand, *shape, *result, step, zero, "sum", 1.0, name, numbers, algorithm),
        )

    def _conv_forward(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        del weight, bias
        return self.forward(input)


def to_bytes(values: Tensor, scale: Scale) -> Tensor:
    """``values`` rounded to uint8 in ``scale``; bytes as they are."""
    if values.dtype == torch.uint8:
        return values
    # Cutting off after adding a half rounds what is not negative, and all is not after the clamp.
    scaled = torch.add(torch.full((), scale.zero + 0.5), values.float(), alpha=1 / scale.step)
    return scaled.clamp_(0.0, LEVELS + 0.5).to(torch.uint8)

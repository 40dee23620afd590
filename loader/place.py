"""Carrying out a placement: fuse, cast, lay out, move, hook, pack, quantise, compile. Decides nothing.

Order matters: folding norms into convolutions sums products and must happen before precision is lost; the cast must
happen before the move, so that no fp32 copy ever reaches the device.
"""

import os
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from loader.attention import product, use_attention
from loader.attention_names import span_of
from loader.folders import Folders
from loader.packages import attach, packages_folder
from loader.packing import pack
from loader.plan import Placement
from loader.quantised import quantise
from loader.weights import cast_in_place

TORCH_DTYPES: dict[str, torch.dtype] = {
    "fp32": torch.float32,
    "fp16": torch.float16,
    "bf16": torch.bfloat16,
    "int8": torch.float32,  # what a quantised network is given and gives; inside it rounds to bytes by itself
}
Calls = Iterable[Sequence[Any]]  # positional arguments of a call each


def place(
    module: nn.Module,
    placement: Placement,
    own_edges: Iterable[str] = (),
    calls: Calls = (),
    known: Path | None = None,
) -> nn.Module:
    """Make ``module`` what ``placement`` says.

    Args:
        module: freshly loaded, on the CPU, in the checkpoint's precision.
        placement: from a plan.
        own_edges: those of ``placement.keep_fp32`` that cast their inputs and outputs themselves.
        calls: samples to find the ranges of values on; read for int8 alone.
        known: file in which the ranges are kept.

    Returns:
        The module to call: the same one, compiled in place where the placement asks for it.

    Raises:
        ValueError: int8 on something else than the CPU, or without samples.
    """
    if placement.compute_dtype == "int8" and placement.device != "cpu":
        raise ValueError(f"int8 is computed on a CPU, not on {placement.device}: choose fp16 or bf16 there")
    module.eval().requires_grad_(requires_grad=False)
    merge = getattr(module, "merge", None)
    if placement.fuse and merge is not None:
        merge()
    storage, compute = TORCH_DTYPES[placement.storage_dtype], TORCH_DTYPES[placement.compute_dtype]
    islands = placement.keep_fp32
    last = placement.memory_format == "channels_last"
    cast_in_place(module, lambda name: torch.float32 if in_part(name, islands) else storage, channels_last=last)
    if span_of(placement.attention) is not None:
        use_attention(module, product(placement.attention))
    if placement.residency == "resident" or placement.device == "cpu":
        module.to(torch.device(placement.device))
    for path in placement.keep_fp32:
        if path not in set(own_edges):
            island_edges(module.get_submodule(path), compute)
    if storage != compute:
        compute_above_storage(module, compute, skip=_islands(module, islands))
    if placement.compute_dtype == "int8":
        quantise(module, calls, keep=islands, known=known)
    elif placement.packed:
        pack(module)
    if placement.compile != "none":
        compile_in_place(module, placement)
    return module


def in_part(name: str, paths: Iterable[str]) -> bool:
    """Whether a parameter's full name lies in one of the submodules called ``paths``."""
    return any(name == path or name.startswith(f"{path}.") for path in paths)


def island_edges(module: nn.Module, outside: torch.dtype) -> None:
    """Let ``module`` compute in fp32 amid a lower precision: inputs up on the way in, outputs down on the way out."""

    def up(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        return _map(args, torch.float32), _map(kwargs, torch.float32)

    def down(_: nn.Module, __: tuple[Any, ...], output: Any) -> Any:
        return _map(output, outside)

    module.register_forward_pre_hook(up, with_kwargs=True)
    module.register_forward_hook(down)


def compute_above_storage(module: nn.Module, compute: torch.dtype, skip: set[nn.Module]) -> None:
    """Keep parameters in their storage dtype and cast each layer's up only while it computes.

    The stored tensors are kept aside and put back, never cast back: nothing is rounded twice.
    """
    for layer in module.modules():
        if layer in skip or not any(p.is_floating_point() for p in layer.parameters(recurse=False)):
            continue
        _cast_while_computing(layer, compute)


def _cast_while_computing(layer: nn.Module, compute: torch.dtype) -> None:
    stored: dict[str, nn.Parameter | None] = {}
    statistics: dict[str, torch.Tensor | None] = {}  # a norm computes with its buffers as with its parameters

    def up(_: nn.Module, __: tuple[Any, ...]) -> None:
        for name, parameter in layer._parameters.items():
            if parameter is not None and parameter.is_floating_point() and parameter.dtype != compute:
                stored[name] = parameter
                layer._parameters[name] = nn.Parameter(parameter.to(compute), requires_grad=False)
        for name, buffer in layer._buffers.items():
            if buffer is not None and buffer.is_floating_point() and buffer.dtype != compute:
                statistics[name] = buffer
                layer._buffers[name] = buffer.to(compute)

    def back(_: nn.Module, __: tuple[Any, ...], output: Any) -> Any:
        layer._parameters.update(stored)
        layer._buffers.update(statistics)
        stored.clear()
        statistics.clear()
        return output

    layer.register_forward_pre_hook(up)
    # always_call: an exception inside the layer must not leave it in the wide dtype.
    layer.register_forward_hook(back, always_call=True)


def compile_in_place(module: nn.Module, placement: Placement) -> None:
    """torch.compile in place, which leaves parameter names as they are: the whole graph, or each repeated block.

    Blocks of one class and shape share what is compiled for the first of them. What was compiled ahead of time is
    loaded at the first call of each block (``loader.packages``).
    """
    if placement.compile == "aot":
        folder = packages_folder(Folders.from_environ(os.environ).cache)
        attach(module, placement.compile_blocks, folder, partial(arch_of, placement.device))
        return
    mode = None if placement.compile == "default" else placement.compile
    named = placement.compile_blocks
    blocks = [block for block in module.modules() if named and type(block).__name__ == named]
    for target in blocks or [module]:
        target.compile(mode=mode, dynamic=False)


def arch_of(device: str) -> str:
    """What compiled code is made for: instruction set of the processor, compute capability of a card."""
    kind = device.partition(":")[0]
    if kind == "cpu":
        return f"cpu-{torch.backends.cpu.get_cpu_capability()}"
    if kind == "cuda":
        return "sm_{}{}".format(*torch.cuda.get_device_capability(device))  # noqa: TID251
    return kind


def call_guard(module: Callable[..., Any], placement: Placement) -> Callable[..., Any]:
    """A caller that puts inputs on the component's device in its compute dtype and runs without gradients.

    ``module`` is the network or one of its methods.
    """
    device, dtype = torch.device(placement.device), TORCH_DTYPES[placement.compute_dtype]

    def call(*args: Any, **kwargs: Any) -> Any:
        with torch.inference_mode():
            return module(*_move(args, device, dtype), **_move(kwargs, device, dtype))

    return call


def _islands(module: nn.Module, paths: Iterable[str]) -> set[nn.Module]:
    islands: set[nn.Module] = set()
    for path in paths:
        islands |= set(module.get_submodule(path).modules())
    return islands


def _map(value: Any, dtype: torch.dtype) -> Any:
    if isinstance(value, Tensor):
        return value.to(dtype) if value.is_floating_point() else value
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return type(value)(*(_map(item, dtype) for item in value))
    if isinstance(value, (tuple, list)):
        return type(value)(_map(item, dtype) for item in value)
    if isinstance(value, dict):
        return {key: _map(item, dtype) for key, item in value.items()}
    return value


def _move(value: Any, device: torch.device, dtype: torch.dtype) -> Any:
    if isinstance(value, Tensor):
        return value.to(device=device, dtype=dtype if value.is_floating_point() else None)
    if isinstance(value, (tuple, list)):
        return type(value)(_move(item, device, dtype) for item in value)
    if isinstance(value, dict):
        return {key: _move(item, device, dtype) for key, item in value.items()}
    return value

"""Telling from an exception what kind of failure it is. Libraries word the same thing in several ways."""

import re

import torch

from loader import packing, quantised
from loader.decision import FailureKind
from loader.placement import Placement

OUT_OF_MEMORY = re.compile(
    r"out of memory|can't allocate memory|cannot allocate memory|defaultcpuallocator|alloc_failed|"
    r"mps backend out of memory|ur_result_error_out_of_(device|host)_memory|bad_alloc|not enough memory",
    re.IGNORECASE,
)
NOT_IMPLEMENTED = re.compile(
    r"not implemented for|low precision dtypes|unsupported dtype|not supported for|unsupported data type|"
    r"expected scalar type|should be the same|must have the same dtype|mat1 and mat2 must have the same|"
    r"input type .* and (weight|bias) type|does not support (bfloat16|half|float16)",
    re.IGNORECASE,
)
NO_KERNEL = re.compile(
    r"no kernel image|invalid device function|is not compatible with the current pytorch", re.IGNORECASE
)
COMPILE = re.compile(r"inductor|dynamo|torch\._|triton|c\+\+ compile|cppcompile|backendcompilerfailed", re.IGNORECASE)


def kind_of(error: BaseException, placement: Placement | None = None) -> FailureKind | None:
    """Which rung of the ladder answers ``error``, or None when it is a plain bug or a bad input.

    Args:
        error: with its traceback.
        placement: that of the component that was called; what it does not use cannot have failed.
    """
    if isinstance(error, NotFiniteError):
        return "not_finite"
    text = f"{type(error).__module__}.{type(error).__name__}: {error}"
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)) or OUT_OF_MEMORY.search(text):
        return "out_of_memory"
    if not isinstance(error, (RuntimeError, NotImplementedError, TypeError)):
        return None
    if NO_KERNEL.search(text):
        return "no_kernel_image"
    if placement is not None and placement.compile != "none" and COMPILE.search(text):
        return "compile_failed"
    # Told by where they come from: oneDNN has the same words for a picture of the wrong shape.
    if placement is not None and placement.packed and _came_through(error, packing.__file__):
        return "packing_failed"
    if NOT_IMPLEMENTED.search(text) or _came_through(error, quantised.__file__):
        return "not_implemented"
    return None


def _came_through(error: BaseException, file: str) -> bool:
    """Whether code of ``file`` was running when ``error`` was raised."""
    trace = error.__traceback__
    while trace is not None:
        if trace.tb_frame.f_code.co_filename == file:
            return True
        trace = trace.tb_next
    return False


class NotFiniteError(Exception):
    """A component's output holds NaN or infinity."""


def check_finite(value: object, component: str) -> None:
    """Look for NaN and infinity in tensors, however nested.

    Raises:
        NotFiniteError: some were found; the message counts them.
    """
    if isinstance(value, torch.Tensor):
        if value.is_floating_point():
            finite = torch.isfinite(value)
            if not bool(finite.all()):
                bad = int((~finite).sum())
                raise NotFiniteError(f"{component}: {bad} of {value.numel()} values are not finite")
    elif isinstance(value, dict):
        for item in value.values():
            check_finite(item, component)
    elif isinstance(value, (tuple, list)):
        for item in value:
            check_finite(item, component)

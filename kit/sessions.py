"""A network that is an ONNX file, as a component like any other: onnxruntime on the CPU, beside whatever device."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from torch import Tensor, nn

from loader.errors import InputError, WeightsCorruptError, WeightsError

ELEMENTS = {"tensor(float)": np.float32, "tensor(float16)": np.float16, "tensor(int64)": np.int64}
QUIET = 3  # onnxruntime's log level "error": its warnings speak of graph details nobody can act on
HEAD_BYTES = 64

Shape = tuple[int | None, ...]  # None for a side that may vary


class OnnxSession(nn.Module):
    """An onnxruntime session without parameters or buffers: casting, moving and counting find nothing to do.

    Attributes:
        name: the file's name.
        inputs: shape by input name, in the file's order.
        outputs: shape by output name, in the file's order.

    Args:
        path: the file.
        threads: onnxruntime may use, at least 1.
        what: the network it should be, for messages ("the face detector scrfd_10g_bnkps").
        expects: how many inputs and outputs that network has; None takes any.

    Raises:
        WeightsError: the file cannot be read, or has other inputs and outputs.
        WeightsCorruptError: it is no ONNX model.
    """

    def __init__(
        self, path: Path, *, threads: int = 1, what: str = "a network", expects: tuple[int, int] | None = None
    ) -> None:
        super().__init__()
        self.name, self.what = path.name, what
        self._session = open_session(path, threads)
        inputs, outputs = self._session.get_inputs(), self._session.get_outputs()
        self.inputs: Mapping[str, Shape] = {value.name: _shape(value) for value in inputs}
        self.outputs: Mapping[str, Shape] = {value.name: _shape(value) for value in outputs}
        self._elements = {value.name: ELEMENTS.get(value.type, np.float32) for value in inputs}
        found = (len(inputs), len(outputs))
        if expects not in (None, found):
            raise WeightsError(
                f"{path.name} is not {what}: that has {_count(expects or found)}, this file {_count(found)} "
                f"({', '.join(self.inputs)} → {', '.join(self.outputs)}); give the published file"
            )

    def run(self, feeds: Mapping[str, ArrayLike]) -> tuple[NDArray[Any], ...]:
        """The outputs in the file's order, in the file's element types.

        Args:
            feeds: an array by input name; cast to the element type the file asks for.

        Raises:
            InputError: other names than the file's inputs, or another shape than an input is bound to.
            WeightsError: onnxruntime could not run it.
        """
        if feeds.keys() != self.inputs.keys():
            raise InputError(f"{self.name} takes {', '.join(self.inputs)}; given: {', '.join(feeds) or 'nothing'}")
        arrays = {name: np.ascontiguousarray(array, self._elements[name]) for name, array in feeds.items()}
        for name, array in arrays.items():
            self._check(name, array.shape)
        try:
            return tuple(self._session.run(None, arrays))
        except Exception as error:  # onnxruntime's exceptions have no common base of their own
            raise WeightsError(f"{self.name}: onnxruntime could not run it: {_first_line(error)}") from error

    def forward(self, *arrays: ArrayLike | Tensor) -> tuple[NDArray[Any], ...]:
        """``run`` with the inputs in the file's order; tensors are taken as arrays.

        Raises:
            InputError: as ``run``, or another number of inputs.
        """
        if len(arrays) != len(self.inputs):
            raise InputError(
                f"{self.name} takes {len(self.inputs)} inputs ({', '.join(self.inputs)}), got {len(arrays)}"
            )
        values = (a.detach().cpu().numpy() if isinstance(a, Tensor) else np.asarray(a) for a in arrays)
        return self.run(dict(zip(self.inputs, values, strict=True)))

    def compile(self, *_: Any, **__: Any) -> None:
        """Nothing: onnxruntime has optimised the graph already, and torch cannot look into it."""

    def _check(self, name: str, shape: Sequence[int]) -> None:
        bound = self.inputs[name]
        if bound and (len(bound) != len(shape) or any(b not in (None, s) for b, s in zip(bound, shape, strict=True))):
            raise InputError(f"{self.name} takes {name} of {_words(bound)}, got {_words(tuple(shape))}")


def open_session(path: Path, threads: int) -> Any:
    """An onnxruntime session on the CPU.

    Raises:
        InputError: fewer than one thread.
        WeightsError: the file cannot be read.
        WeightsCorruptError: it is no ONNX model; a web page or a Git LFS pointer in its place is named.
    """
    # Imported at use: most runs never need it.
    import onnxruntime

    if threads < 1:
        raise InputError(f"onnxruntime needs at least 1 thread, got {threads}")
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            head = file.read(HEAD_BYTES)
    except OSError as error:
        raise WeightsError(f"{path} cannot be read ({error.strerror}): check the path and its permissions") from error
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = QUIET
    try:
        return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # as above: damaged files and unknown operators come as different classes
        raise WeightsCorruptError(
            f"{path} ({size:,} bytes) cannot be opened as an ONNX model ({_guess(head) or _first_line(error)}): "
            "fetch or export it again"
        ) from error


def _guess(head: bytes) -> str:
    """What lies there instead of a model, where that can be told."""
    if not head:
        return "it is empty"
    if head.lstrip().lower().startswith((b"<!doctype", b"<html")):
        return "it is a web page"
    if head.startswith(b"version https://git-lfs"):
        return "it is a Git LFS pointer, not the file itself"
    if head.startswith(b"PK\x03\x04"):
        return "it is a zip archive: unpack it"
    return ""


def _shape(value: Any) -> Shape:
    return tuple(side if isinstance(side, int) and side > 0 else None for side in value.shape or ())


def _words(shape: Shape) -> str:
    return "[" + ", ".join("?" if side is None else str(side) for side in shape) + "]"


def _count(counts: tuple[int, int]) -> str:
    return " and ".join(f"{n} {word}{'s' * (n != 1)}" for n, word in zip(counts, ("input", "output"), strict=True))


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]

"""TFLite files without TFLite: their flatbuffer is read here, their few kinds of operation are run by torch.

The face landmarker is published as TFLite networks only. A runtime for them is no lighter than what it would run:
``ai-edge-litert`` is a wheel of 9 to 21 MB (26 to 54 MB on disk) and has none for Intel Macs, ``mediapipe`` installs
370 MB with OpenCV's contrib build and matplotlib. Their networks take 22 kinds of operation, all of which torch has.

Format: ``tensorflow/lite/schema/schema.fbs`` (schema version 3), field numbers as there; flatbuffers as in Google's
"FlatBuffers internals".
"""

import struct
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from loader.errors import InputError, WeightsCorruptError, WeightsError

IDENTIFIER = b"TFL3"
ELEMENTS: Mapping[int, type[np.generic]] = {0: np.float32, 1: np.float16, 2: np.int32, 4: np.int64}
SAME = 0
RELU, RELU6 = 1, 3
DEQUANTIZE = 6


# --- the file ---------------------------------------------------------------------------------------------------


class Table:
    """A table of a flatbuffer: fields by number, absent ones read as their default."""

    def __init__(self, data: bytes, place: int) -> None:
        self._data, self._place = data, place
        self._fields = place - self._number("i", place)
        self._size = self._number("H", self._fields)

    def number(self, field: int, kind: str, default: int = 0) -> int:
        """A number of a ``struct`` kind ("b", "i", "I")."""
        place = self._at(field)
        return self._number(kind, place) if place else default

    def vector(self, field: int, kind: str) -> tuple[int, ...]:
        """Numbers of a kind, none if absent."""
        place, count = self._vector(field)
        return struct.unpack_from(f"<{count}{kind}", self._data, place) if count else ()

    def octets(self, field: int) -> bytes:
        """A vector of bytes, empty if absent."""
        place, count = self._vector(field)
        return self._data[place : place + count]

    def table(self, field: int) -> "Table | None":
        """A table, None if absent."""
        place = self._at(field)
        return Table(self._data, place + self._number("I", place)) if place else None

    def tables(self, field: int) -> list["Table"]:
        """Tables, none if absent."""
        place, count = self._vector(field)
        places = range(place, place + 4 * count, 4)
        return [Table(self._data, entry + self._number("I", entry)) for entry in places]

    def _number(self, kind: str, place: int) -> int:
        return int(struct.unpack_from(f"<{kind}", self._data, place)[0])

    def _at(self, field: int) -> int:
        slot = 4 + 2 * field
        offset = self._number("H", self._fields + slot) if slot < self._size else 0
        return self._place + offset if offset else 0

    def _vector(self, field: int) -> tuple[int, int]:
        place = self._at(field)
        if not place:
            return 0, 0
        start = place + self._number("I", place)
        return start + 4, self._number("I", start)


@dataclass(frozen=True)
class Operation:
    """One step of a network: ``kind`` is TFLite's builtin code, inputs and outputs are numbers of tensors."""

    kind: int
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    options: Table | None

    def option(self, field: int, kind: str = "i", default: int = 0) -> int:
        return self.options.number(field, kind, default) if self.options else default


@dataclass(frozen=True)
class Graph:
    """A network as its file has it.

    Attributes:
        inputs: numbers of the tensors given.
        outputs: of those asked for.
        shapes: of every tensor, channels last, batch 1.
        constants: values of those in the file, fp16 widened to fp32.
        operations: in the order to run.
    """

    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    shapes: tuple[tuple[int, ...], ...]
    constants: Mapping[int, NDArray[Any]]
    operations: tuple[Operation, ...]


def read_graph(data: bytes, name: str = "network") -> Graph:
    """The first network of a TFLite file.

    Raises:
        WeightsCorruptError: not such a file, or cut short.
        WeightsError: it needs an operation or an element type that is not known here.
    """
    if data[4:8] != IDENTIFIER:
        raise WeightsCorruptError(f"{name} ({len(data):,} bytes) is no TFLite file: fetch it again")
    try:
        return _read(data, name)
    except (struct.error, IndexError, ValueError, RecursionError) as error:
        raise WeightsCorruptError(
            f"{name} ({len(data):,} bytes) is damaged or cut short ({error}): fetch it again"
        ) from error


def _read(data: bytes, name: str) -> Graph:
    model = Table(data, struct.unpack_from("<I", data, 0)[0])
    # Codes above 127 stand in a field of their own; the older byte then holds 127.
    codes = [max(entry.number(0, "b"), entry.number(3, "i")) for entry in model.tables(1)]
    graph, buffers = model.tables(2)[0], model.tables(4)
    tensors = graph.tables(0)
    constants: dict[int, NDArray[Any]] = {}
    for number, tensor in enumerate(tensors):
        octets = buffers[tensor.number(2, "I")].octets(0)
        if octets:
            constants[number] = _values(octets, tensor, name)
    operations = []
    for entry in graph.tables(3):
        kind = codes[entry.number(0, "I")]
        operation = Operation(kind, entry.vector(1, "i"), entry.vector(2, "i"), entry.table(4))
        if kind == DEQUANTIZE and operation.inputs[0] in constants:
            constants[operation.outputs[0]] = constants[operation.inputs[0]]
            continue
        if kind not in KINDS:
            known = ", ".join(map(str, sorted(KINDS)))
            raise WeightsError(f"{name} needs TFLite operation {kind}, only {known} are known: give the published file")
        _check_options(operation, name)
        operations.append(operation)
    used = {number for operation in operations for number in operation.inputs}
    return Graph(
        graph.vector(1, "i"),
        graph.vector(2, "i"),
        tuple(tensor.vector(0, "i") for tensor in tensors),
        {number: values for number, values in constants.items() if number in used},
        tuple(operations),
    )


def _check_options(operation: Operation, name: str) -> None:
    """What the published networks do not use is refused rather than run wrongly."""
    dilation = {3: (4, 5), 4: (5, 6)}.get(operation.kind, ())
    activation = {0: 0, 2: 1, 3: 3, 4: 4, 17: 5, 18: 0, 41: 0, 42: 0}.get(operation.kind)
    if any(operation.option(field, default=1) != 1 for field in dilation):
        raise WeightsError(f"{name} has a dilated convolution, which is not known here: give the published file")
    if activation is not None and operation.option(activation, "b") not in (0, RELU, RELU6):
        raise WeightsError(f"{name} has an activation that is not known here: give the published file")


def _values(octets: bytes, tensor: Table, name: str) -> NDArray[Any]:
    element = tensor.number(1, "b")
    if element not in ELEMENTS:
        raise WeightsError(f"{name} has constants of TFLite element type {element}: give the published fp16 file")
    values = np.frombuffer(octets, ELEMENTS[element]).reshape(tensor.vector(0, "i"))
    return values.astype(np.float32) if values.dtype == np.float16 else values.copy()


# --- running it -------------------------------------------------------------------------------------------------


class TfliteNetwork(nn.Module):
    """A network of a TFLite file, in fp32; its floating constants are buffers, so that casts and moves see them.

    Args:
        graph: from ``read_graph``.
    """

    def __init__(self, graph: Graph) -> None:
        super().__init__()
        self._graph = graph
        self._whole: dict[int, tuple[int, ...]] = {}
        for number, values in graph.constants.items():
            if np.issubdtype(values.dtype, np.floating):
                self.register_buffer(f"constant_{number}", torch.from_numpy(values))
            else:
                self._whole[number] = tuple(int(value) for value in values.flatten())

    @property
    def input_shapes(self) -> tuple[tuple[int, ...], ...]:
        """Shapes of the inputs, channels last."""
        return tuple(self._graph.shapes[number] for number in self._graph.inputs)

    def forward(self, *given: Tensor) -> tuple[Tensor, ...]:
        """Outputs in the file's order for inputs ``[1, ..., C]``, channels last.

        Raises:
            InputError: other shapes than the file's.
        """
        shapes = tuple(tuple(tensor.shape) for tensor in given)
        if shapes != self.input_shapes:
            raise InputError(f"the network takes {self.input_shapes}, got {shapes}")
        values: dict[int, Tensor] = dict(zip(self._graph.inputs, given, strict=True))
        for operation in self._graph.operations:
            inputs = [self._value(number, values) for number in operation.inputs]
            shape = self._graph.shapes[operation.outputs[0]]
            values[operation.outputs[0]] = KINDS[operation.kind](operation, inputs, shape)
        return tuple(values[number] for number in self._graph.outputs)

    def _value(self, number: int, values: Mapping[int, Tensor]) -> Any:
        if number < 0:
            return None  # an optional input that is not given
        if number in values:
            return values[number]
        return self._whole[number] if number in self._whole else self.get_buffer(f"constant_{number}")


Run = Callable[[Operation, Sequence[Any], tuple[int, ...]], Tensor]


def _activated(x: Tensor, activation: int) -> Tensor:
    if activation == RELU:
        return F.relu(x)
    return F.relu6(x) if activation == RELU6 else x


def _padding(size: Sequence[int], kernel: Sequence[int], stride: Sequence[int], rule: int) -> list[int]:
    """Zeros left, right, above and below: TensorFlow puts the odd one at the end, torch has no name for that."""
    if rule != SAME:
        return [0, 0, 0, 0]
    pads: list[int] = []
    for side, width, step in reversed(list(zip(size, kernel, stride, strict=True))):
        total = max((-(-side // step) - 1) * step + width - side, 0)
        pads += [total // 2, total - total // 2]
    return pads


def _convolve(operation: Operation, x: Tensor, weight: Tensor, bias: Tensor | None, *, groups: int) -> Tensor:
    stride = (operation.option(2, default=1), operation.option(1, default=1))
    pads = _padding(x.shape[1:3], weight.shape[2:], stride, operation.option(0, "b"))
    x = F.pad(x.permute(0, 3, 1, 2), pads)
    return F.conv2d(x, weight, bias, stride, groups=groups).permute(0, 2, 3, 1)


def _conv(operation: Operation, inputs: Sequence[Any], _: tuple[int, ...]) -> Tensor:
    x, weight, bias = inputs
    out = _convolve(operation, x, weight.permute(0, 3, 1, 2), bias, groups=1)
    return _activated(out, operation.option(3, "b"))


def _depthwise(operation: Operation, inputs: Sequence[Any], _: tuple[int, ...]) -> Tensor:
    x, weight, bias = inputs
    out = _convolve(operation, x, weight.permute(3, 0, 1, 2), bias, groups=x.shape[-1])
    return _activated(out, operation.option(4, "b"))


def _max_pool(operation: Operation, inputs: Sequence[Any], _: tuple[int, ...]) -> Tensor:
    x = inputs[0]
    stride = (operation.option(2, default=1), operation.option(1, default=1))
    kernel = (operation.option(4, default=1), operation.option(3, default=1))
    pads = _padding(x.shape[1:3], kernel, stride, operation.option(0, "b"))
    padded = F.pad(x.permute(0, 3, 1, 2), pads, value=float("-inf"))
    out = F.max_pool2d(padded, kernel, stride).permute(0, 2, 3, 1)
    return _activated(out, operation.option(5, "b"))


def _pad(_: Operation, inputs: Sequence[Any], __: tuple[int, ...]) -> Tensor:
    x, sides = inputs
    pairs = list(zip(sides[::2], sides[1::2], strict=True))
    return F.pad(x, [number for pair in reversed(pairs) for number in pair])


def _strided_slice(operation: Operation, inputs: Sequence[Any], shape: tuple[int, ...]) -> Tensor:
    x, begin, end, step = inputs
    masks = operation.option(0), operation.option(1)
    places = tuple(
        slice(
            None if masks[0] >> axis & 1 else begin[axis],
            # A single place of an axis that vanishes; -1 + 1 would be the empty end.
            None if masks[1] >> axis & 1 or begin[axis] == -1 else end[axis],
            step[axis],
        )
        for axis in range(len(begin))
    )
    return x[places].reshape(shape)


def _between(function: Callable[[Tensor, Tensor], Tensor], operation: Operation, inputs: Any, _: Any) -> Tensor:
    return _activated(function(inputs[0], inputs[1]), operation.option(0, "b"))


def _alone(function: Callable[[Tensor], Tensor], _: Operation, inputs: Sequence[Any], __: tuple[int, ...]) -> Tensor:
    return function(inputs[0])


def _reduced(function: Callable[..., Tensor], operation: Operation, inputs: Sequence[Any], _: Any) -> Tensor:
    return function(inputs[0], dim=inputs[1], keepdim=bool(operation.option(0, "b")))


def _squared_difference(a: Tensor, b: Tensor) -> Tensor:
    return (a - b).square()


def _prelu(_: Operation, inputs: Sequence[Any], __: tuple[int, ...]) -> Tensor:
    x, slope = inputs
    return torch.where(x >= 0, x, x * slope)


def _joined(operation: Operation, inputs: Sequence[Any], _: tuple[int, ...]) -> Tensor:
    return _activated(torch.cat(tuple(inputs), dim=operation.option(0)), operation.option(1, "b"))


KINDS: Mapping[int, Run] = {
    0: partial(_between, torch.add),
    2: _joined,
    3: _conv,
    4: _depthwise,
    14: partial(_alone, torch.sigmoid),
    17: _max_pool,
    18: partial(_between, torch.mul),
    19: partial(_alone, torch.relu),
    22: lambda _, inputs, shape: inputs[0].reshape(shape),
    34: _pad,
    39: lambda _, inputs, __: inputs[0].permute(inputs[1]),
    40: partial(_reduced, torch.mean),
    41: partial(_between, torch.sub),
    42: partial(_between, torch.div),
    45: _strided_slice,
    54: _prelu,
    59: partial(_alone, torch.neg),
    74: partial(_reduced, torch.sum),
    75: partial(_alone, torch.sqrt),
    76: partial(_alone, torch.rsqrt),
    99: partial(_between, _squared_difference),
}

"""Small ONNX files for tests, written byte by byte: the ``onnx`` package is not needed to run a model.

Field numbers are those of ``onnx/onnx.proto`` (github.com/onnx/onnx, ONNX 1.12, opset 17).
"""

from collections.abc import Sequence

import numpy as np

FLOAT, INT64, FLOAT16 = 1, 7, 10
ATTRIBUTE_INT, ATTRIBUTE_INTS = 2, 7
ELEMENTS = {np.dtype(np.float32): FLOAT, np.dtype(np.int64): INT64, np.dtype(np.float16): FLOAT16}

Dims = Sequence[int | str]


def _varint(value: int) -> bytes:
    out = bytearray()
    value &= (1 << 64) - 1
    while True:
        out.append(value & 0x7F | (0x80 if value > 0x7F else 0))
        value >>= 7
        if not value:
            return bytes(out)


def _int(field: int, value: int) -> bytes:
    return _varint(field << 3) + _varint(value)


def _bytes(field: int, value: bytes | str) -> bytes:
    raw = value.encode() if isinstance(value, str) else value
    return _varint(field << 3 | 2) + _varint(len(raw)) + raw


def value_info(name: str, element: int, dims: Dims) -> bytes:
    shape = b"".join(_bytes(1, _int(1, d) if isinstance(d, int) else _bytes(2, d)) for d in dims)
    return _bytes(1, name) + _bytes(2, _bytes(1, _int(1, element) + _bytes(2, shape)))


def tensor(name: str, array: np.ndarray) -> bytes:
    dims = b"".join(_int(1, side) for side in array.shape)
    return dims + _int(2, ELEMENTS[array.dtype]) + _bytes(8, name) + _bytes(9, array.tobytes())


def node(kind: str, inputs: Sequence[str], output: str, **attributes: int | Sequence[int]) -> bytes:
    body = b"".join(_bytes(1, name) for name in inputs) + _bytes(2, output) + _bytes(4, kind)
    for name, value in attributes.items():
        if isinstance(value, int):
            body += _bytes(5, _bytes(1, name) + _int(3, value) + _int(20, ATTRIBUTE_INT))
        else:
            body += _bytes(5, _bytes(1, name) + b"".join(_int(8, v) for v in value) + _int(20, ATTRIBUTE_INTS))
    return body


def model(
    nodes: Sequence[bytes], constants: Sequence[bytes], inputs: Sequence[bytes], outputs: Sequence[bytes]
) -> bytes:
    graph = (
        b"".join(_bytes(1, n) for n in nodes)
        + _bytes(2, "graph")
        + b"".join(_bytes(5, c) for c in constants)
        + b"".join(_bytes(11, i) for i in inputs)
        + b"".join(_bytes(12, o) for o in outputs)
    )
    return _int(1, 8) + _bytes(7, graph) + _bytes(8, _bytes(1, "") + _int(2, 17))


def brightness_detector(
    size: tuple[int, int],
    *,
    batch: int | str = "batch",
    element: int = FLOAT,
    names: tuple[str, str] = ("output", "642"),
    boxes_first: bool = False,
    classes: int = 3,
    says_classes: bool = True,
) -> bytes:
    """A detector laid out as the published exporter writes it: a class is a colour, its score the cell's mean.

    Cells are 32 pixels a side; each box is its cell. Classes beyond the three colours repeat the first. The graph is
    bound to ``size``. With ``says_classes`` False the file leaves open how many there are.
    """
    kind = np.float32 if element == FLOAT else np.float16
    rows, columns = size[0] // 32, size[1] // 32
    y, x = np.mgrid[0:rows, 0:columns] * 32
    cells = np.stack([x, y, x + 32, y + 32], axis=-1).reshape(1, -1, 4).astype(kind)
    scores, boxes = names
    nodes = [
        node("AveragePool", ["images"], "pooled", kernel_shape=[32, 32], strides=[32, 32]),
        node("Gather", ["pooled", "which"], "picked", axis=1),
        *(
            []
            if says_classes
            else [node("NonZero", ["flags"], "flag_places"), node("Squeeze", ["flag_places"], "kept")]
        ),
        node("Gather", ["picked", "kept"], "wanted", axis=1),
        node("Reshape", ["wanted", "flat"], "flattened"),
        node("Transpose", ["flattened"], "cells_last", perm=[0, 2, 1]),
        node("Div", ["cells_last", "white"], scores),
        # The boxes do not depend on the pictures; these three give them the batch's length.
        node("ReduceMax", [scores], "best", axes=[2], keepdims=1),
        node("Mul", ["best", "zero"], "nothing"),
        node("Add", ["nothing", "cells"], boxes),
    ]
    constants = [
        tensor("which", np.array([i if i < 3 else 0 for i in range(classes)], np.int64)),
        # Which of them are kept is only known by computing it, if the file is to leave open how many there are.
        tensor("flags", np.ones(classes, np.float32))
        if not says_classes
        else tensor("kept", np.arange(classes, dtype=np.int64)),
        tensor("flat", np.array([0, 0, -1], np.int64)),
        tensor("white", np.array(255, kind)),
        tensor("zero", np.array(0, kind)),
        tensor("cells", cells),
    ]
    outputs = [
        value_info(scores, element, [batch, rows * columns, classes if says_classes else "classes"]),
        value_info(boxes, element, [batch, rows * columns, 4]),
    ]
    given = value_info("images", element, [batch, 3, *size])
    return model(nodes, constants, [given], outputs[::-1] if boxes_first else outputs)


def classifier() -> bytes:
    """Something else entirely: one output of ten numbers."""
    nodes = [node("GlobalAveragePool", ["x"], "mean"), node("Mul", ["mean", "one"], "logits")]
    return model(
        nodes,
        [tensor("one", np.array(1, np.float32))],
        [value_info("x", FLOAT, [1, 3, 224, 224])],
        [value_info("logits", FLOAT, [1, 3, 1, 1])],
    )

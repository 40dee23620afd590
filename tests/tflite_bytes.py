"""TFLite files made by hand, for tests: the flatbuffer layout, nothing of TensorFlow."""

import struct
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

ELEMENTS = {np.dtype(np.float32): 0, np.dtype(np.float16): 1, np.dtype(np.int32): 2}


class Flat:
    """Writes a flatbuffer front to back: offsets are patched once their target is known."""

    def __init__(self) -> None:
        self.data = bytearray(8)

    def table(self, fields: dict[int, tuple[str, Any]]) -> int:
        """A table with a vtable before it; returns its place. Offsets ("o") are filled in later by ``point``."""
        last = max(fields, default=-1)
        self._align(4)
        at, offsets, size = {}, [0] * (last + 1), 4
        for number, (kind, _) in sorted(fields.items()):
            size += -size % 4
            offsets[number], at[number] = size, size
            size += struct.calcsize("<I" if kind == "o" else f"<{kind}")
        vtable = struct.pack(f"<HH{len(offsets)}H", 4 + 2 * len(offsets), size + -size % 4, *offsets)
        vtable += bytes(-len(vtable) % 4)
        start = len(self.data)
        self.data += vtable
        place = len(self.data)
        self.data += bytes(size + -size % 4)
        struct.pack_into("<i", self.data, place, place - start)
        for number, (kind, value) in fields.items():
            if kind != "o":
                struct.pack_into(f"<{kind}", self.data, place + at[number], value)
        for number, (kind, value) in fields.items():
            if kind == "o":
                self.point(place + at[number], value())
        return place

    def point(self, slot: int, target: int) -> None:
        struct.pack_into("<I", self.data, slot, target - slot)

    def vector(self, kind: str, values: Sequence[Any]) -> int:
        self._align(8)
        self.data += bytes(4)
        place = len(self.data)
        self.data += struct.pack("<I", len(values)) + struct.pack(f"<{len(values)}{kind}", *values)
        return place

    def tables(self, makers: Sequence[Any]) -> int:
        self._align(4)
        place = len(self.data)
        self.data += struct.pack("<I", len(makers)) + bytes(4 * len(makers))
        for index, make in enumerate(makers):
            target = make()
            self.point(place + 4 + 4 * index, target)
        return place

    def _align(self, size: int) -> None:
        self.data += bytes(-len(self.data) % size)


@dataclass
class Network:
    """Tensors and operations as they are added; tensor 0 onwards by number."""

    shapes: list[tuple[int, ...]] = field(default_factory=list)
    values: list[np.ndarray | None] = field(default_factory=list)
    types: list[int] = field(default_factory=list)
    operations: list[tuple[int, tuple[int, ...], tuple[int, ...], dict[int, tuple[str, int]]]] = field(
        default_factory=list
    )

    def tensor(self, shape: Sequence[int], value: np.ndarray | None = None) -> int:
        self.shapes.append(tuple(shape))
        self.values.append(value)
        self.types.append(0 if value is None else ELEMENTS[value.dtype])
        return len(self.shapes) - 1

    def constant(self, value: np.ndarray) -> int:
        return self.tensor(value.shape, value)

    def half(self, value: np.ndarray) -> int:
        """A constant stored in fp16 and widened by an operation of its own, as the published files do."""
        stored, wide = self.constant(value.astype(np.float16)), self.tensor(value.shape)
        self.operations.append((6, (stored,), (wide,), {}))
        return wide

    def operation(self, kind: int, inputs: Sequence[int], shape: Sequence[int], **options: tuple[str, int]) -> int:
        output = self.tensor(shape)
        self.operations.append((kind, tuple(inputs), (output,), {int(k[1:]): v for k, v in options.items()}))
        return output

    def file(self, inputs: Sequence[int], outputs: Sequence[int]) -> bytes:
        flat, kinds = Flat(), sorted({kind for kind, *_ in self.operations})
        buffers = [b""] + [b"" if value is None else np.ascontiguousarray(value).tobytes() for value in self.values]

        def tensor(index: int) -> int:
            fields = {0: ("o", lambda: flat.vector("i", self.shapes[index])), 1: ("b", self.types[index])}
            return flat.table(fields | {2: ("I", index + 1 if self.values[index] is not None else 0)})

        def operation(index: int) -> int:
            kind, given, made, options = self.operations[index]
            fields: dict[int, tuple[str, Any]] = {
                0: ("I", kinds.index(kind)),
                1: ("o", lambda: flat.vector("i", given)),
                2: ("o", lambda: flat.vector("i", made)),
            }
            if options:
                fields[4] = ("o", lambda: flat.table(dict(options)))
            return flat.table(fields)

        def graph() -> int:
            return flat.table(
                {
                    0: ("o", lambda: flat.tables([lambda i=i: tensor(i) for i in range(len(self.shapes))])),
                    1: ("o", lambda: flat.vector("i", inputs)),
                    2: ("o", lambda: flat.vector("i", outputs)),
                    3: ("o", lambda: flat.tables([lambda i=i: operation(i) for i in range(len(self.operations))])),
                }
            )

        def buffer(octets: bytes) -> int:
            return flat.table({0: ("o", lambda: flat.vector("B", octets))} if octets else {})

        def code(kind: int) -> int:
            return flat.table({0: ("b", min(kind, 127)), 3: ("i", kind)})

        model = flat.table(
            {
                0: ("I", 3),
                1: ("o", lambda: flat.tables([lambda k=k: code(k) for k in kinds])),
                2: ("o", lambda: flat.tables([graph])),
                4: ("o", lambda: flat.tables([lambda b=b: buffer(b) for b in buffers])),
            }
        )
        flat.data[:8] = struct.pack("<I4s", model, b"TFL3")
        return bytes(flat.data)

"""A user's own detector as an ``.onnx`` file, run by onnxruntime in the place of the network.

What is expected is what the published exporter writes (``tools/converter.py`` of github.com/tinyvision/DAMO-YOLO at
319572e without its ``--benchmark`` and ``--end2end``): one input, images [B, 3, H, W], RGB in 0..255, and two outputs,
scores [B, N, C] in 0..1 and boxes [B, N, 4] xyxy in network pixels, neither suppressed.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from loader.errors import InputError, WeightsCorruptError, WeightsError
from loader.spec import Size

SUFFIX = ".onnx"
EXPECTED = "one input [B, 3, H, W] and the outputs scores [B, N, C] and boxes [B, N, 4], before suppression"
INPUT_TYPES = {"tensor(float)": np.float32, "tensor(float16)": np.float16}
QUIET = 3  # onnxruntime's log level "error": its warnings speak of graph details nobody can act on

Shape = tuple[int | None, ...]


class OnnxDetector(nn.Module):
    """Takes images and gives (scores, boxes) like ``networks.Detector``; computes on the CPU in the file's dtype.

    Without parameters or buffers, so merging, casting and moving find nothing to do.

    Attributes:
        size: (height, width) the file is bound to, None for sides that may vary.
        batch: pictures the file takes at once, None for any number.
        classes: columns of its scores, None where only a run will tell.

    Args:
        path: the file.
        size: (height, width) it will be asked for, None while that is open.
        threads: of onnxruntime.

    Raises:
        InputError: it is bound to another size; the message names the one to choose.
        WeightsError: no ONNX file, or one of something else than this detector; with what was expected and found.
    """

    def __init__(self, path: Path, size: Size | None, *, threads: int) -> None:
        super().__init__()
        self.name = path.name
        self._session = _session(path, threads)
        inputs, outputs = self._session.get_inputs(), self._session.get_outputs()
        shape = _shape(inputs[0]) if inputs else ()
        if (
            len(inputs) != 1
            or inputs[0].type not in INPUT_TYPES
            or len(shape) != 4
            or shape[1] not in (3, None)
            or len(outputs) != 2
        ):
            raise self._refused()
        self._input, self._dtype = inputs[0].name, INPUT_TYPES[inputs[0].type]
        self.batch, self.size = shape[0], (shape[2], shape[3])
        order = _roles([_shape(o) for o in outputs], [o.name for o in outputs])
        if order is None:
            raise self._refused()
        self._scores, self._boxes = (outputs[i].name for i in order)
        scores = _shape(outputs[order[0]])
        self.classes = scores[2] if scores else None
        if size is not None:
            self._check(size)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Images [B,3,H,W] RGB 0..255 -> scores [B,N,C] in 0..1, boxes [B,N,4] xyxy in network pixels, fp32, CPU.

        Raises:
            InputError: another size than the file is bound to.
            WeightsError: what comes out is not what a detector gives.
        """
        self._check((images.shape[2], images.shape[3]))
        # Whole values 0..255 survive fp16 and bf16, so nothing was lost on the way here.
        pixels = images.detach().float().cpu().numpy().astype(self._dtype)
        step = self.batch or len(pixels)
        parts = [self._run(pixels[start : start + step]) for start in range(0, len(pixels), step)]
        scores = torch.from_numpy(np.concatenate([p[0] for p in parts]))
        boxes = torch.from_numpy(np.concatenate([p[1] for p in parts]))
        return scores, boxes

    def compile(self, *_: Any, **__: Any) -> None:
        """Nothing: onnxruntime has optimised the graph already, and torch cannot look into it."""

    def _run(self, pixels: NDArray[Any]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """One call; a last incomplete batch of a file with a fixed one is filled up with its last picture."""
        count = len(pixels)
        if self.batch and count < self.batch:
            pixels = np.concatenate([pixels, np.repeat(pixels[-1:], self.batch - count, axis=0)])
        try:
            scores, boxes = self._session.run([self._scores, self._boxes], {self._input: pixels})
        except Exception as error:  # onnxruntime's exceptions have no common base of their own
            raise WeightsError(f"{self.name}: onnxruntime could not run it: {_first_line(error)}") from error
        if scores.ndim != 3 or boxes.ndim != 3 or boxes.shape != (*scores.shape[:2], 4):
            raise WeightsError(
                f"{self.name} gave arrays of {list(scores.shape)} and {list(boxes.shape)}; expected {EXPECTED}"
            )
        return scores[:count].astype(np.float32), boxes[:count].astype(np.float32)

    def _check(self, size: Size) -> None:
        if any(own not in (None, asked) for own, asked in zip(self.size, size, strict=True)):
            height, width = (own or asked for own, asked in zip(self.size, size, strict=True))
            raise InputError(
                f"{self.name} takes pictures of {height}×{width} only, not {size[0]}×{size[1]}: "
                f"choose size {height}x{width}"
            )

    def _refused(self) -> WeightsError:
        found = " and ".join(
            "; ".join(f"{v.name} {v.type} {_words(_shape(v))}" for v in values) or "nothing"
            for values in (self._session.get_inputs(), self._session.get_outputs())
        )
        return WeightsError(
            f"{self.name} is not a detector this program runs: expected {EXPECTED}; found the inputs and outputs "
            f"{found}. Export it with its decoding and without suppression"
        )


def _session(path: Path, threads: int) -> Any:
    # Imported at use: most runs never need it.
    import onnxruntime

    try:
        size = path.stat().st_size
    except OSError as error:
        raise WeightsError(f"{path} cannot be read ({error.strerror}): check the path and its permissions") from error
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = QUIET
    try:
        return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # as above: damaged files and unknown operators come as different classes
        raise WeightsCorruptError(
            f"{path} ({size:,} bytes) cannot be opened as an ONNX model ({_first_line(error)}): "
            "export it again, or send another copy"
        ) from error


def _shape(value: Any) -> Shape:
    """Sides of an input or output; None for those that are not fixed."""
    return tuple(side if isinstance(side, int) and side > 0 else None for side in value.shape or ())


def _words(shape: Shape) -> str:
    return "[" + ", ".join("?" if side is None else str(side) for side in shape) + "]"


def _roles(shapes: Sequence[Shape], names: Sequence[str]) -> tuple[int, int] | None:
    """Which of two outputs is the scores and which the boxes: by shape, then by name, then in the published order."""
    # Exporters leave out shapes they cannot infer; those are judged by what comes out.
    possible = [len(shape) in (0, 3) for shape in shapes]
    boxes = [ok and (not shape or shape[2] in (4, None)) for ok, shape in zip(possible, shapes, strict=True)]
    orders = [(s, b) for s, b in ((0, 1), (1, 0)) if possible[s] and boxes[b] and _agree(shapes[s], shapes[b])]
    if len(orders) < 2:
        return orders[0] if orders else None
    sure = [order for order in orders if shapes[order[1]][2:] == (4,) and shapes[order[0]][2:] != (4,)]
    named = [order for order in orders if "box" in names[order[1]].lower()]
    return (sure or named or orders)[0]


def _agree(scores: Shape, boxes: Shape) -> bool:
    """Whether both speak of the same number of predictions, as far as that is known."""
    if not scores or not boxes or scores[1] is None or boxes[1] is None:
        return True
    return scores[1] == boxes[1]


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]

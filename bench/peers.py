"""Other runtimes on the same network and pictures, timed in turn with ours: ONNX Runtime and OpenVINO, on the CPU.

They are there to compare with and for nothing else: ``requirements-bench.txt`` installs them.
"""

import importlib
import io
import logging
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from loader.errors import InputError

REQUIREMENTS = "requirements-bench.txt"
OPSET = 17
Call = Callable[[], tuple[Tensor, ...]]


@dataclass(frozen=True)
class Peer:
    """A runtime in one precision.

    Attributes:
        name: as rows call it.
        packages: modules it needs.
        make: from a network in fp32, ``[B, 3, H, W]`` pictures and a number of threads to what is timed.
    """

    name: str
    packages: tuple[str, ...]
    make: Callable[[nn.Module, Tensor, int], Call]

    def call(self, network: nn.Module, images: Tensor, threads: int) -> Call:
        """What is timed: pictures in, tensors out.

        Raises:
            InputError: a package is not installed; the message says how to have it.
        """
        missing = [name for name in self.packages if find_spec(name) is None]
        if missing:
            raise InputError(f"{', '.join(missing)} is not installed: pip install -r {REQUIREMENTS}")
        with _quiet_tracing():
            return self.make(network, images, threads)


def _onnxruntime(network: nn.Module, images: Tensor, threads: int) -> Call:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = threads, 3
    session = onnxruntime.InferenceSession(_onnx(network, images), options, providers=["CPUExecutionProvider"])
    name, array = session.get_inputs()[0].name, images.numpy()
    return lambda: tuple(torch.from_numpy(given) for given in session.run(None, {name: array}))


def _onnx(network: nn.Module, images: Tensor) -> bytes:
    buffer: Any = io.BytesIO()  # taken, though not declared
    exporter: Any = torch.onnx
    exporter.register_custom_op_symbolic("aten::linspace", _linspace, OPSET)
    torch.onnx.export(network, (images,), buffer, opset_version=OPSET, dynamo=False)
    content: bytes = buffer.getvalue()
    return content


def _linspace(graph: Any, start: Any, end: Any, steps: Any, *rest: Any) -> Any:
    """Even steps between constants as one constant in fp32: the exporter would write them in double precision."""
    del rest
    first, last, count = (float(value.node().t("value")) for value in (start, end, steps))
    return graph.op("Constant", value_t=torch.linspace(first, last, int(count)))


def _openvino(precision: str) -> Callable[[nn.Module, Tensor, int], Call]:
    def make(network: nn.Module, images: Tensor, threads: int) -> Call:
        openvino: Any = importlib.import_module("openvino")
        model = openvino.convert_model(network, example_input=images, input=[tuple(images.shape)])
        settings = {
            "INFERENCE_PRECISION_HINT": precision,
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_NUM_THREADS": threads,
        }
        request = openvino.compile_model(model, "CPU", settings).create_infer_request()
        array = images.numpy()

        def call() -> tuple[Tensor, ...]:
            given: Mapping[Any, np.ndarray[Any, Any]] = request.infer([array])
            return tuple(torch.from_numpy(given[index]) for index in range(len(given)))

        return call

    return make


PEERS: Mapping[str, Peer] = {
    peer.name: peer
    for peer in (
        Peer("ONNX Runtime fp32", ("onnxruntime", "onnx"), _onnxruntime),
        Peer("OpenVINO fp32", ("openvino",), _openvino("f32")),
        Peer("OpenVINO bf16", ("openvino",), _openvino("bf16")),
    )
}


def peers_on(device: str) -> tuple[Peer, ...]:
    """Those that can be compared with on a device: all of them on the CPU, none elsewhere."""
    return tuple(PEERS.values()) if device == "cpu" else ()


@contextmanager
def _quiet_tracing() -> Iterator[None]:
    """Without what a tracer says of shapes it takes for constant: here they are."""
    log = logging.getLogger("torch.onnx")
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), torch.inference_mode():
            warnings.simplefilter("ignore")
            yield
    finally:
        log.setLevel(level)

"""A model of one small network whose calls are batches of items, for tests of compiling: seeded, no files."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from loader.outcome import Step, Unit
from loader.spec import Activation, AdapterSpec, Component, CpuOnly, Licence, Variant, Work

WIDTH = 16
LICENCE = Licence("Apache-2.0", "https://www.apache.org/licenses/LICENSE-2.0")


class TestLayer(nn.Module):
    __test__ = False

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        return x + torch.tanh(self.linear(x))


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(TestLayer() for _ in range(3))
        self.register_buffer("scale", torch.ones(WIDTH))

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = layer(x)
        return x * self.scale


COMPONENT = Component(
    name="net",
    stage="run",
    n_params=3 * (WIDTH * WIDTH + WIDTH),
    dtypes=("fp32",),
    activation=Activation(fixed=0, per_pixel=4.0 * WIDTH),
    work=Work(0.01, 0.0, per="item"),
    repeated_block="TestLayer",
    block_count=3,
    compile="whole",
)
VARIANT = Variant(
    name="small",
    title="Small",
    components=(COMPONENT,),
    weights=(),
    sizes=((8, 8),),
    size_multiple=1,
    provenance="miniature",
    input_range=(1, 64),
)
SPEC = AdapterSpec(
    name="compiled",
    title="Compiled",
    task="test",
    variants=(VARIANT,),
    default="small",
    cpu_only=CpuOnly("small", (8, 8), 1),
    smaller=("small",),
    code_licence=LICENCE,
    upstream="none",
    endpoint="/none",
    max_drift=1.0,
    drift_metric="none",
    max_batch=16,
    pipeline="tests.compiled_adapter:build_pipeline",
)
BLOCKS = replace(SPEC, variants=(replace(VARIANT, components=(replace(COMPONENT, compile="blocks"),)),))


@dataclass(frozen=True)
class Asked:
    """``items`` rows of random numbers, in batches of ``batch``, so often."""

    seed: int = 0
    items: int = 1
    batch: int = 1
    times: int = 1


def network() -> Net:
    """The same weights every time, from a generator of their own: several threads ask at once."""
    generator = torch.Generator().manual_seed(5)
    net = Net()
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) / 4)
    return net


class Rows:
    """See ``loader.pipeline.Pipeline``."""

    own_edges: Mapping[str, tuple[str, ...]] = {}

    def load(self, component: str, plan: Any, files: Mapping[str, Path], checkpoint: Path | None) -> nn.Module:
        return network()

    def run(self, parts: Any, request: Asked) -> Iterator[Any]:
        rows = rows_of(request)
        answers = []
        for _ in range(request.times):
            for start in range(0, request.items, request.batch):
                chunk = rows[start : start + request.batch]
                answers.append((yield Unit("rows", "net", lambda plan, c=chunk: parts.call("net", c))))
            yield Step("detecting", len(answers), request.times)
        return tuple(answers)

    def sample(self, plan: Any) -> Any:
        return None

    def drift(self, reference: tuple[Any, ...], outputs: tuple[Any, ...]) -> float:
        return 0.0


def rows_of(request: Asked) -> Tensor:
    return torch.randn(request.items, WIDTH, generator=torch.Generator().manual_seed(request.seed))


def expected(request: Asked) -> list[Tensor]:
    """What eager gives, computed without any engine."""
    with torch.inference_mode():
        whole = network().eval()(rows_of(request))
    return [
        whole[start : start + request.batch]
        for _ in range(request.times)
        for start in range(0, request.items, request.batch)
    ]


def build_pipeline() -> Rows:
    return Rows()

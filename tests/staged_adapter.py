"""A model of three stages and an optional part, for tests of what moves when: small, seeded, no files.

A request is a list of stages to go through. Every component counts where, in what and in which state it computes.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from loader.errors import InputError
from loader.outcome import Kept, Step, Unit
from loader.spec import Activation, AdapterSpec, Component, CpuOnly, Licence, Variant, Work

WIDTH, BLOCKS = 128, 6
LICENCE = Licence("Apache-2.0", "https://www.apache.org/licenses/LICENSE-2.0")
BLOCK_PARAMS = WIDTH * WIDTH + WIDTH
SMALL = 2 * BLOCK_PARAMS
LARGE = (BLOCKS + 1) * BLOCK_PARAMS


class TestBlock(nn.Module):
    __test__ = False

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        return x + torch.tanh(self.linear(x))


class Net(nn.Module):
    """An outer layer and ``blocks`` repeated ones. What comes out is compared bit for bit: it stays as it is."""

    packs = False

    def __init__(self, blocks: int) -> None:
        super().__init__()
        self.first = nn.Linear(WIDTH, WIDTH)
        self.blocks = nn.ModuleList(TestBlock() for _ in range(blocks))

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        for block in self.blocks:
            x = block(x)
        return x

    def doubled(self, x: Tensor) -> Tensor:
        return self.first(x) * 2


def _component(name: str, stage: str, blocks: int, *, optional: bool = False) -> Component:
    return Component(
        name=name,
        stage=stage,
        n_params=(blocks + 1) * BLOCK_PARAMS,
        dtypes=("fp16", "bf16", "fp32"),
        activation=Activation(fixed=0, per_pixel=4.0 * WIDTH * 4),
        work=Work(0.01, 0.0, per="run"),
        repeated_block="TestBlock",
        block_count=blocks,
        optional=optional,
    )


VARIANT = Variant(
    name="small",
    title="Small",
    components=(
        _component("text", "encode", 1),
        _component("audio", "encode", 1, optional=True),
        _component("unet", "denoise", BLOCKS),
        _component("control", "denoise", BLOCKS),
        _component("decoder", "decode", 1),
    ),
    weights=(),
    sizes=((8, 8),),
    size_multiple=1,
    provenance="miniature",
    input_range=(1, 64),
)


def spec_named(name: str = "staged", *, only_fp32: bool = False) -> AdapterSpec:
    """``only_fp32`` leaves the ladder no halved storage."""
    variant = VARIANT
    if only_fp32:
        variant = replace(VARIANT, components=tuple(replace(c, dtypes=("fp32",)) for c in VARIANT.components))
    return AdapterSpec(
        name=name,
        title="Staged",
        task="test",
        variants=(variant,),
        default="small",
        cpu_only=CpuOnly("small", (8, 8), 1),
        smaller=("small",),
        code_licence=LICENCE,
        upstream="none",
        endpoint="/none",
        max_drift=1.0,
        drift_metric="none",
        pipeline="tests.staged_adapter:build_pipeline",
    )


@dataclass(frozen=True)
class Asked:
    """``stages`` are component names to call in order; ``fail_at`` raises in that one's unit."""

    stages: tuple[str, ...] = ("text", "unet", "control", "unet", "control", "decoder")
    seed: int = 0
    fail_at: str = ""
    tell: bool = True
    items: int = 1
    seconds: float = 0.0


@dataclass
class Staged:
    """See ``loader.pipeline.Pipeline``. ``loads`` counts what was loaded."""

    own_edges: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    loads: list[str] = field(default_factory=list)
    shared_networks: Mapping[str, str] = field(default_factory=dict)

    def load(self, component: str, plan: Any, files: Mapping[str, Path], checkpoint: Path | None) -> nn.Module:
        LOADS.append(component)
        torch.manual_seed(sum(component.encode()))
        return Net(plan.situation.spec.variant(plan.variant).component(component).block_count)

    def uses(self, request: Asked, plan: Any) -> tuple[str, ...]:
        return tuple(dict.fromkeys(request.stages))

    def run(self, parts: Any, request: Asked) -> Any:
        if not request.stages:
            raise InputError("no stage was asked for")
        x = torch.randn((4, WIDTH), generator=parts.seeded(request.seed))
        for index, name in enumerate(request.stages):
            x = yield Unit(f"{name} {index + 1}", name, partial(_compute, parts, name, x, request))
            yield Kept(name, x)
            if request.tell:
                yield Step("denoising", index + 1, len(request.stages))
        return (x,)

    def sample(self, plan: Any) -> None:
        return None

    def drift(self, reference: Any, outputs: Any) -> float:
        return 0.0


LOADS: list[str] = []


def _compute(parts: Any, name: str, x: Tensor, request: Asked, plan: Any) -> Tensor:
    if name == request.fail_at:
        raise KeyError(f"provoked in {name}")
    out = parts.call(name, x)
    assert out.device == parts.device(name)
    assert out.dtype == parts.dtype(name)
    return out.float().cpu()


def build_pipeline() -> Staged:
    return Staged()


def expected(request: Asked) -> Tensor:
    """What the request gives in fp32, computed plainly."""
    x = torch.randn((4, WIDTH), generator=torch.Generator().manual_seed(request.seed))
    with torch.inference_mode():
        for name in request.stages:
            torch.manual_seed(sum(name.encode()))
            x = Net(VARIANT.component(name).block_count)(x)
    return x

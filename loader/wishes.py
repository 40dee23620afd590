"""What the user asks for: one dataclass and one set of names for page, command line, ``run`` and ``bench``."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from loader.host import Dtype
from loader.spec import Size

ResidencyName = Literal["resident", "offload", "blocks", "dropped"]
CompileMode = Literal["none", "default", "reduce-overhead", "max-autotune", "aot"]
RESIDENCIES: tuple[ResidencyName, ...] = ("resident", "offload", "blocks", "dropped")
COMPILE_MODES: tuple[CompileMode, ...] = ("none", "default", "reduce-overhead", "max-autotune", "aot")
DTYPES: tuple[Dtype, ...] = ("fp32", "fp16", "bf16", "int8")


@dataclass(frozen=True)
class Wishes:
    """None or an empty mapping means: decide for me.

    Attributes:
        device: "cpu", "cuda:0", "mps", "xpu:0", …
        dtype: compute dtype of every component; ``component_dtype`` overrides it for named ones.
        size: network input, height and width in pixels.
        residency: "save memory": the highest residency the plan may use.
        compile: a torch.compile mode, or "none" to forbid it.
        precision_first: fp32 wherever it fits, even where a lower precision is faster.
        max_drift: largest distance from fp32 output, in the adapter's metric; None takes the adapter's own.
        allow_smaller: a smaller variant or size may be used when this one does not fit.
        unguided: steps are made without guidance; a request that knows says so itself.
        force: try what the plan would refuse, and say so.
    """

    device: str | None = None
    dtype: Dtype | None = None
    component_dtype: Mapping[str, Dtype] = field(default_factory=dict)
    variant: str | None = None
    size: Size | None = None
    batch: int | None = None
    steps: int | None = None
    frames: int | None = None
    residency: ResidencyName | None = None
    compile: CompileMode | None = None
    precision_first: bool = False
    max_drift: float | None = None
    allow_smaller: bool = False
    force: bool = False
    unguided: bool = False

"""Why a plan is what it is: values that the page and the command line render in their language."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from loader.host import Dtype, Host
from loader.knowledge import Knowledge
from loader.spec import AdapterSpec, Size
from loader.wishes import Wishes

Param = str | int | float
FailureKind = Literal[
    "out_of_memory",
    "not_implemented",
    "not_finite",
    "compile_failed",
    "compile_slower",
    "packing_failed",
    "no_kernel_image",
    "drift",
]


@dataclass(frozen=True)
class Rejected:
    """An alternative that was not taken, and the figure that spoke against it."""

    what: str
    number: float
    unit: str


@dataclass(frozen=True)
class Decision:
    """One rule applied to one subject.

    Attributes:
        rule: id of the rule; prose is ``texts[language]["rule.<rule>"]`` filled from ``params``.
        subject: component name, or "device", "size", "batch", … for the whole plan.
        flips: id of the sentence that says what would change the answer, "" when nothing would.
    """

    rule: str
    subject: str
    wanted: str
    got: str
    params: Mapping[str, Param] = field(default_factory=dict)
    rejected: tuple[Rejected, ...] = ()
    flips: str = ""


@dataclass(frozen=True)
class Failure:
    """What went wrong while running, as ``relax`` needs it."""

    kind: FailureKind
    component: str = ""
    submodule: str = ""
    detail: str = ""


@dataclass(frozen=True)
class Limits:
    """What running has ruled out; grows with every ``relax`` and never shrinks.

    Attributes:
        min_rung: candidates of the memory ladder before this one are not tried again.
        variant, size: pinned once a run has begun and no smaller one is allowed.
        excluded: (variant, size) pairs that did not fit.
        dtype_floor: lowest precision still allowed, by component.
        fp32_modules: submodules to keep in fp32 beyond the declared ones, by component.
    """

    min_rung: int = 0
    variant: str = ""
    size: Size | None = None
    excluded: tuple[tuple[str, int, int], ...] = ()
    no_device: tuple[str, ...] = ()
    dtype_floor: Mapping[str, Dtype] = field(default_factory=dict)
    fp32_modules: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    no_compile: tuple[str, ...] = ()
    no_packing: tuple[str, ...] = ()
    failures: tuple[Failure, ...] = ()


@dataclass(frozen=True)
class Situation:
    """Everything a plan is made from."""

    spec: AdapterSpec
    host: Host
    wishes: Wishes
    knowledge: Knowledge
    limits: Limits = field(default_factory=Limits)

"""How many replicas, and what each gets of its node. Pure; needs no Ray."""

import math
from collections.abc import Iterable
from dataclasses import dataclass

from adapters import ADAPTERS
from loader.errors import InputError
from loader.host import Host
from loader.plan import Plan, plan

GPU_STEP = 0.05


@dataclass(frozen=True)
class Scale:
    """How many replicas and what each gets.

    Attributes:
        least: replicas that are always up.
        most: replicas at the busiest; more than ``least`` lets Ray add and remove them by how many requests wait.
        cores: processor cores of each.
        gpus: share of a card each gets, 0 for none.
        as_hosts: named hosts that replicas plan as, in turn; for rehearsals.
    """

    least: int = 1
    most: int = 1
    cores: int = 1
    gpus: float = 0.0
    as_hosts: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not 1 <= self.least <= self.most:
            raise InputError(
                f"replicas {self.least} to {self.most}: give at least 1, and no fewer at most than at least"
            )
        if self.cores < 1:
            raise InputError(f"{self.cores} cores: a replica needs at least 1")


def gpu_share(plans: Iterable[Plan]) -> float:
    """The share of a card that the largest of ``plans`` needs at its peak, in twentieths; 0 if none has one."""
    shares = [0.0]
    for made in plans:
        card = made.situation.host.accelerator(made.device)
        if made.fits and card is not None:
            shares.append(made.peak_bytes["device"] / card.memory_bytes)
    return min(1.0, math.ceil(max(shares) / GPU_STEP) * GPU_STEP)


def scale_for(host: Host, *, least: int, most: int, cores: int | None = None) -> Scale:
    """Replicas for nodes like ``host``: the share of a card that the models' plans there need."""
    share = gpu_share(plan(spec, host) for spec in ADAPTERS if spec.pipeline)
    return Scale(least, most, cores or max(1, host.cpu.cores // max(1, most)), share)

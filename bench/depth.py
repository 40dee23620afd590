"""What is timed for Metric3D: the network as published, and what each adaptation makes of it."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from adapters.metric3d.geometry import prepare
from adapters.metric3d.networks import Prediction, build, load_published, use_attention
from adapters.metric3d.pipeline import SAMPLE, Metric3D, network_of
from kit.images import open_picture
from loader.attention_names import SDPA
from loader.folders import Folders, find
from loader.place import call_guard, place
from loader.plan import Placement, Plan
from loader.spec import Variant
from loader.weights import load_component, open_state

Call = Callable[[], Any]
EAGER = "eager"
SEED = 7


def eager_attention(query: Tensor, key: Tensor, value: Tensor, bias: Tensor | None = None) -> Tensor:
    """Attention as the authors compute it: the whole matrix of weights, then its softmax, then the sum.

    ``[B, heads, tokens, width]`` each, and so is the result; ``bias`` is added to the matrix.
    """
    weights = (query * query.shape[-1] ** -0.5) @ key.transpose(-2, -1)
    return (weights if bias is None else weights + bias).softmax(dim=-1) @ value


class Depth:
    """Configurations of one variant, all with the same weights: the published ones if they are here, else seeded."""

    component = "depth_model"

    def __init__(self, plan: Plan, folders: Folders) -> None:
        self._plan = plan
        self._variant: Variant = plan.situation.spec.variant(plan.variant)
        found = [find(w, folders) for w in self._variant.weights]
        self._file: Path | None = found[0].path if found[0] else None
        self.weights = self._variant.provenance if self._file else "seeded weights"
        self._picture = open_picture(SAMPLE)

    def placements(self, *, compiled: bool) -> dict[str, Placement]:
        """What is compared, by name; the first is the network as its authors run it."""
        planned = self._plan.component(self.component)
        plain = replace(
            planned,
            storage_dtype="fp32",
            compute_dtype="fp32",
            memory_format="contiguous",
            attention=EAGER,
            compile="none",
            keep_fp32=(),
            packed=False,
        )
        rows = {"as published": plain}
        if planned.memory_format == "contiguous":
            rows["SDPA fp32"] = replace(plain, attention=planned.attention)
        else:
            rows["channels last fp32"] = replace(
                plain, attention=planned.attention, memory_format=planned.memory_format
            )
        if planned.compute_dtype != "fp32":
            rows[planned.compute_dtype] = replace(planned, compile="none", packed=False)
        if compiled:
            rows |= {f"{name}, compiled": replace(p, compile="default") for name, p in tuple(rows.items())[1:]}
        rows["planned"] = planned
        return rows

    def call(self, placement: Placement, batch: int) -> Call:
        """One forward of the placed network on ``batch`` copies of the sample picture."""
        return partial(call_guard(self._module(placement), placement), self.images(batch))

    def images(self, batch: int) -> Tensor:
        """The sample picture ``batch`` times, ``[batch, 3, H, W]``."""
        images, _ = prepare(self._picture.rgb, self._plan.size)
        return images.repeat(batch, 1, 1, 1)

    def plain(self) -> nn.Module:
        """The network in fp32 with fused attention: what other runtimes are given."""
        return Flat(self._loaded().eval().requires_grad_(requires_grad=False))

    def drift(self, reference: Any, other: Any) -> float | None:
        """Mean relative difference of the canonical depths; None for seeded weights, which see nothing."""
        if self._file is None:
            return None
        first, second = (given[0][:1].float().cpu() for given in (reference, other))
        return float(((second - first).abs() / first.abs().clamp(min=1e-3)).mean())

    def _module(self, placement: Placement) -> nn.Module:
        module = self._loaded()
        if placement.attention == EAGER:
            use_attention(module, eager_attention)
            placement = replace(placement, attention=SDPA)  # what the loader knows; it leaves the layers as they are
        return place(module, placement, Metric3D.own_edges[self.component])

    def _loaded(self) -> nn.Module:
        name = str(self._variant.config.get("variant", self._variant.name))
        if self._file is not None:
            name, config = network_of(self._file, name)
            state = open_state(self._file, key=self._variant.weights[0].key)
            return load_component(partial(build, self.component, name, **config), load_published, self.component, state)
        torch.manual_seed(SEED)
        return build(self.component, name)


class Flat(nn.Module):
    """A network whose prediction is a plain tuple of the tensors it has: other runtimes know no other."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """``[B, 3, H, W]`` to depth, confidence and, where there are, normals."""
        prediction: Prediction = self.network(images)
        return tuple(part for part in prediction if part is not None)

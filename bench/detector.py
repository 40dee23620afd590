"""What is timed for DAMO-YOLO: the network as published, and what each adaptation makes of it."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from adapters.damo_yolo.networks import Detector as Network
from adapters.damo_yolo.networks import build, load_published
from adapters.damo_yolo.pipeline import SAMPLE, DamoYolo, Seen, labels_of_variant
from adapters.damo_yolo.postprocess import Suppression, detections
from adapters.damo_yolo.preprocess import preprocess
from kit.images import open_picture
from loader.folders import Folders, find
from loader.place import call_guard, place
from loader.plan import Placement, Plan, plan_situation
from loader.spec import Variant
from loader.weights import load_component, open_state

Call = Callable[[], Any]
SEED = 7


class Detector:
    """Configurations of one variant, all with the same weights: the published ones if they are here, else seeded."""

    def __init__(self, plan: Plan, folders: Folders) -> None:
        self._plan = plan
        self._variant: Variant = plan.situation.spec.variant(plan.variant)
        found = [find(w, folders) for w in self._variant.weights]
        self._file: Path | None = found[0].path if found[0] else None
        self.weights = self._variant.provenance if self._file else "seeded weights"
        self._picture = open_picture(SAMPLE)

    def placements(self, *, compiled: bool) -> dict[str, Placement]:
        """What is compared, by name; the first is the network as its authors run it."""
        planned = self._plan.component("detector")
        plain = replace(
            planned,
            storage_dtype="fp32",
            compute_dtype="fp32",
            memory_format="contiguous",
            compile="none",
            fuse=False,
            keep_fp32=(),
            packed=False,
        )
        merged = replace(plain, fuse=True, memory_format="channels_last")
        rows = {"as published": plain, "merged fp32": merged}
        if planned.compute_dtype != "fp32":
            rows[f"merged {planned.compute_dtype}"] = replace(planned, compile="none", packed=False)
        if compiled:
            rows |= {f"{name}, compiled": replace(p, compile="default") for name, p in tuple(rows.items())[1:]}
        if (in_bytes := self._in_bytes()) is not None:
            rows["merged int8"] = in_bytes
        rows["planned"] = planned
        return rows

    def _in_bytes(self) -> Placement | None:
        """How it is computed in int8; None where this machine does not."""
        situation = self._plan.situation
        made = plan_situation(replace(situation, wishes=replace(situation.wishes, dtype="int8", compile="none")))
        placed = made.component("detector") if made.fits else None
        return placed if placed is not None and placed.compute_dtype == "int8" else None

    def call(self, placement: Placement, batch: int) -> Call:
        """One forward of the placed network on ``batch`` copies of the sample picture."""
        guard = call_guard(self._module(placement), placement)
        images = self.images(batch)
        return lambda: guard(images)

    def images(self, batch: int) -> Tensor:
        """The sample picture ``batch`` times, ``[batch, 3, H, W]``."""
        return preprocess(self._picture.rgb, self._plan.size).repeat(batch, 1, 1, 1)

    def plain(self) -> nn.Module:
        """The network with its branches merged, in fp32: what other runtimes are given."""
        module = self._loaded()
        assert isinstance(module, Network), "what was built is what was loaded"
        module.merge()
        return module.eval().requires_grad_(requires_grad=False)

    def drift(self, reference: Any, other: Any) -> float | None:
        """How far detections move; None for seeded weights, which detect nothing."""
        if self._file is None:
            return None
        return DamoYolo().drift((self._seen(reference),), (self._seen(other),))

    def _seen(self, given: tuple[Tensor, Tensor]) -> Seen:
        scores, boxes = given[:2]
        labels = labels_of_variant(self._variant)
        found = detections(
            scores[0].float().cpu(),
            boxes[0].float().cpu(),
            network_size=self._plan.size,
            picture_size=self._picture.size,
            labels=labels,
            settings=Suppression(),
        )
        return Seen("sample", self._picture.size, found, labels)

    def _module(self, placement: Placement) -> nn.Module:
        pipeline = DamoYolo()
        edges, calls = pipeline.own_edges["detector"], pipeline.calibration("detector", self._plan)
        return place(self._loaded(), placement, edges, calls)

    def _loaded(self) -> nn.Module:
        network = str(self._variant.config.get("variant", self._variant.name))
        classes = len(labels_of_variant(self._variant))

        def make() -> nn.Module:
            return build("detector", network, num_classes=classes)

        if self._file is not None:
            state: Mapping[str, torch.Tensor] = open_state(self._file, key=self._variant.weights[0].key)
            return load_component(make, load_published, "detector", state)
        torch.manual_seed(SEED)
        return make()

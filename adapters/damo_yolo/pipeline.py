"""From pictures to detections on loaded components."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from adapters.damo_yolo.labels import COCO_LABELS, PREVIEW_LABELS
from adapters.damo_yolo.networks import VARIANTS, build, load_published
from adapters.damo_yolo.postprocess import Detection, Suppression, detections
from adapters.damo_yolo.preprocess import preprocess
from kit.images import Picture, open_picture
from loader.errors import CheckpointMismatchError, InputError, WeightsCorruptError, WeightsError
from loader.outcome import Step, Unit
from loader.pipeline import Parts, Work
from loader.plan import Plan
from loader.spec import Variant
from loader.weights import load_component, metadata, open_state

CLASS_BIAS = "head.gfl_cls.0.bias"
SAMPLE = Path(__file__).parents[2] / "assets" / "examples" / "coins.png"
OWN_KEYS = ("", "model", "state_dict")  # where trainers put the state dict
JUDGED_ABOVE = 0.3  # objects a user would see; what lies below moves in and out of the list by rounding


@dataclass(frozen=True)
class DetectRequest:
    """Pictures and what to keep of what is seen in them."""

    pictures: tuple[Picture, ...]
    settings: Suppression = field(default_factory=Suppression)

    @property
    def items(self) -> int:
        """How many pictures, for predictions."""
        return len(self.pictures)


@dataclass(frozen=True)
class Seen:
    """The objects of one picture, best first; ``labels`` are all the network can name."""

    name: str
    size: tuple[int, int]
    detections: tuple[Detection, ...]
    labels: tuple[str, ...]


class DamoYolo:
    """See ``loader.pipeline.Pipeline``."""

    own_edges: Mapping[str, tuple[str, ...]] = {"detector": ("head.integral", "head.scales")}

    def load(self, component: str, plan: Plan, files: Mapping[str, Path], checkpoint: Path | None) -> nn.Module:
        """The detector from the plan's file, or from the user's own with as many classes as it has."""
        variant = plan.situation.spec.variant(plan.variant)
        network = str(variant.config.get("variant", variant.name))
        path = checkpoint or next(iter(files.values()))
        state = _own_state(path) if checkpoint else open_state(path, key=variant.weights[0].key)
        classes = _class_count(state, path)
        try:
            return load_component(
                partial(build, component, network, num_classes=classes), load_published, component, state
            )
        except CheckpointMismatchError as error:
            other = _which_variant(state, classes) if checkpoint else None
            if other is None:
                raise
            raise InputError(f"{path.name} is DAMO-YOLO {other}, not {network}: choose variant {other}") from error

    def run(self, parts: Parts, request: DetectRequest) -> Work:
        """Detect in batches of the plan's size."""
        pictures, labels = request.pictures, labels_of(parts)
        if not pictures:
            raise InputError("no picture was given: choose one, or one of the examples")
        seen: list[Seen] = []
        while len(seen) < len(pictures):
            chunk = pictures[len(seen) : len(seen) + parts.plan.batch]
            name = f"pictures {len(seen) + 1} to {len(seen) + len(chunk)} of {len(pictures)}"
            answers = yield Unit(name, "detector", partial(_detect, parts, chunk))
            for picture, (scores, boxes) in zip(chunk, answers, strict=True):
                found = detections(
                    scores,
                    boxes,
                    network_size=parts.plan.size,
                    picture_size=picture.size,
                    labels=labels,
                    settings=request.settings,
                )
                seen.append(Seen(picture.name, picture.size, found, labels))
            yield Step("detecting", len(seen), len(pictures))
        return tuple(seen)

    def sample(self, plan: Plan) -> DetectRequest:
        """A photograph of coins that ships with the project."""
        del plan
        return DetectRequest((open_picture(SAMPLE),))

    def drift(self, reference: tuple[Any, ...], outputs: tuple[Any, ...]) -> float:
        """1 less the mean overlap (IoU) of each fp32 detection with its best match of the same class."""
        overlaps = [
            max((_iou(a.box, b.box) for b in there.detections if b.class_id == a.class_id), default=0.0)
            for here, there in zip(reference, outputs, strict=True)
            for a in here.detections
            if a.score >= JUDGED_ABOVE
        ]
        return 1 - sum(overlaps) / len(overlaps) if overlaps else 0.0


def build_pipeline() -> DamoYolo:
    """The adapter's pipeline, as its spec names it."""
    return DamoYolo()


def labels_of(parts: Parts) -> tuple[str, ...]:
    """What the loaded network calls its classes."""
    variant = parts.plan.situation.spec.variant(parts.plan.variant)
    if parts.checkpoint is None:
        return labels_of_variant(variant)
    named = json.loads(metadata(parts.checkpoint).get("labels", "[]"))
    count = _class_count(_own_state(parts.checkpoint), parts.checkpoint)
    if len(named) == count:
        return tuple(str(label) for label in named)
    return COCO_LABELS if count == len(COCO_LABELS) else tuple(f"class {i}" for i in range(count))


def labels_of_variant(variant: Variant) -> tuple[str, ...]:
    """The class names of a published or preview variant."""
    return PREVIEW_LABELS if variant.labels == "preview" else COCO_LABELS


def _detect(parts: Parts, pictures: Sequence[Picture], plan: Plan) -> list[tuple[Tensor, Tensor]]:
    """Scores and boxes of each picture, in batches no larger than the plan in force allows."""
    answers: list[tuple[Tensor, Tensor]] = []
    for start in range(0, len(pictures), plan.batch):
        images = torch.cat([preprocess(p.rgb, plan.size) for p in pictures[start : start + plan.batch]])
        scores, boxes = parts.call("detector", images)
        answers += zip(scores.cpu(), boxes.cpu(), strict=True)
    return answers


def _own_state(path: Path) -> Mapping[str, Tensor]:
    """A user's checkpoint: a bare state dict, or one under a usual key.

    Raises:
        WeightsError: neither; says what the file holds.
    """
    problem: WeightsError | None = None
    for key in OWN_KEYS:
        try:
            return open_state(path, key=key)
        except WeightsCorruptError:
            raise
        except WeightsError as error:
            problem = problem or error
    assert problem is not None
    raise problem


def _class_count(state: Mapping[str, Tensor], path: Path) -> int:
    if CLASS_BIAS not in state:
        raise CheckpointMismatchError(f"{path.name} as a DAMO-YOLO detector", missing=(CLASS_BIAS,))
    return int(state[CLASS_BIAS].shape[0])


def _which_variant(state: Mapping[str, Tensor], classes: int) -> str | None:
    """The variant whose names and shapes are those of ``state``."""
    shapes = {name: tuple(tensor.shape) for name, tensor in state.items()}
    for name in VARIANTS:
        with torch.device("meta"):
            own = build("detector", name, num_classes=classes).state_dict()
        if {key: tuple(tensor.shape) for key, tensor in own.items()} == shapes:
            return name
    return None


def _iou(first: Sequence[float], second: Sequence[float]) -> float:
    width = min(first[2], second[2]) - max(first[0], second[0])
    height = min(first[3], second[3]) - max(first[1], second[1])
    if width <= 0 or height <= 0:
        return 0.0
    shared = width * height
    areas = [(box[2] - box[0]) * (box[3] - box[1]) for box in (first, second)]
    return shared / (sum(areas) - shared)

"""From pictures to detections on loaded components."""

import json
from collections.abc import Generator, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from adapters.damo_yolo import calibration
from adapters.damo_yolo.checkpoint import class_count, own_state, weights_file, which_variant
from adapters.damo_yolo.labels import COCO_LABELS, PREVIEW_LABELS
from adapters.damo_yolo.networks import build, load_published
from adapters.damo_yolo.onnx_file import SUFFIX as ONNX_SUFFIX
from adapters.damo_yolo.onnx_file import OnnxDetector
from adapters.damo_yolo.postprocess import Candidates, Detection, Suppression, candidates, suppressed
from adapters.damo_yolo.preprocess import preprocess
from kit.images import Picture, open_picture
from loader.errors import CheckpointMismatchError, InputError
from loader.outcome import Kept, Step, Unit
from loader.pipeline import Parts, Work
from loader.plan import Plan
from loader.spec import Variant
from loader.weights import load_component, metadata, open_state

SAMPLE = Path(__file__).parents[2] / "assets" / "examples" / "coins.png"
OWN_KEYS = ("", "model", "state_dict")  # where trainers put the state dict
JUDGED_ABOVE = 0.3  # objects a user would see; what lies below moves in and out of the list by rounding


@dataclass(frozen=True)
class DetectRequest:
    """Pictures and what to keep of what is seen in them.

    Attributes:
        pictures: at least one.
        settings: thresholds and limits.
        classes: the only ones wanted, all if empty.
        names: what an own checkpoint's classes are called, in order; empty for what the file says.
        keep_candidates: whether each ``Seen`` keeps what was there before suppression.
    """

    pictures: tuple[Picture, ...]
    settings: Suppression = field(default_factory=Suppression)
    classes: tuple[str, ...] = ()
    names: tuple[str, ...] = ()
    keep_candidates: bool = False

    @property
    def items(self) -> int:
        """How many pictures, for predictions."""
        return len(self.pictures)


@dataclass(frozen=True)
class Seen:
    """The objects of one picture, best first; ``labels`` are all the network can name.

    ``candidates`` are those the detections were chosen from, where a request keeps them.
    """

    name: str
    size: tuple[int, int]
    detections: tuple[Detection, ...]
    labels: tuple[str, ...]
    candidates: Candidates | None = field(default=None, compare=False, repr=False)


class OwnWork(Protocol):
    """A request that works through itself, batch by batch: a video."""

    def work(self, parts: Parts) -> Work: ...


class DamoYolo:
    """See ``loader.pipeline.Pipeline``."""

    own_edges: Mapping[str, tuple[str, ...]] = {"detector": ("head.integral", "head.scales")}

    def load(self, component: str, plan: Plan, files: Mapping[str, Path], checkpoint: Path | None) -> nn.Module:
        """The detector from the plan's file, or from the user's own with as many classes as it has.

        The user's may be an ``.onnx`` file, or a folder with a checkpoint in it.
        """
        variant = plan.situation.spec.variant(plan.variant)
        network = str(variant.config.get("variant", variant.name))
        path = weights_file(checkpoint) if checkpoint else next(iter(files.values()))
        if checkpoint and path.suffix.lower() == ONNX_SUFFIX:
            return OnnxDetector(path, plan.size, threads=torch.get_num_threads())
        state = own_state(path) if checkpoint else open_state(path, key=variant.weights[0].key)
        classes = class_count(state, path)
        try:
            return load_component(
                partial(build, component, network, num_classes=classes), load_published, component, state
            )
        except CheckpointMismatchError as error:
            other = which_variant(state, classes) if checkpoint else None
            if other is None:
                raise
            raise InputError(f"{path.name} is DAMO-YOLO {other}, not {network}: choose variant {other}") from error

    def run(self, parts: Parts, request: DetectRequest | OwnWork) -> Work:
        """Detect in batches of the plan's size."""
        if not isinstance(request, DetectRequest):
            return (yield from request.work(parts))
        pictures = request.pictures
        if not pictures:
            raise InputError("no picture was given: choose one, or one of the examples")
        detecting = Detecting(
            parts, request.settings, request.classes, names=request.names, keep=request.keep_candidates
        )
        seen: list[Seen] = []
        while len(seen) < len(pictures):
            chunk = pictures[len(seen) : len(seen) + parts.plan.batch]
            name = f"pictures {len(seen) + 1} to {len(seen) + len(chunk)} of {len(pictures)}"
            seen += yield from detecting.see(chunk, name)
            yield Kept("detecting", tuple(seen))
            yield Step("detecting", len(seen), len(pictures))
        return tuple(seen)

    def calibration(self, component: str, plan: Plan) -> Iterable[Sequence[Any]]:
        """Pictures at the variant's own size, whatever the size in hand: a network once loaded serves any."""
        del component
        return calibration.calls(plan.situation.spec.variant(plan.variant).sizes[0])

    def sample(self, plan: Plan) -> DetectRequest:
        """A photograph of coins that ships with the project, once for each picture of a batch."""
        return DetectRequest((open_picture(SAMPLE),) * plan.batch)

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


class Detecting:
    """Batch after batch of one request. The class names are known from the first answer on.

    Args:
        parts: the loaded detector.
        settings: thresholds and limits.
        classes: the only ones wanted, all if empty; upper and lower case are the same.
        names: what an own checkpoint's classes are called; empty for what the file says.
        keep: whether what was there before suppression stays with what is seen.
    """

    def __init__(
        self,
        parts: Parts,
        settings: Suppression,
        classes: Sequence[str] = (),
        *,
        names: Sequence[str] = (),
        keep: bool = False,
    ) -> None:
        self._parts, self._settings, self._classes = parts, settings, classes
        self._names, self._keep = names, keep
        self.labels: tuple[str, ...] = ()
        self._unwanted = torch.zeros(0, dtype=torch.long)

    def see(self, pictures: Sequence[Picture], name: str) -> Generator[Unit, Any, tuple[Seen, ...]]:
        """One unit called ``name``; what is in each picture.

        Raises:
            InputError: a class is wanted that the network does not know, or the names are not as many as its classes.
        """
        answers = yield Unit(name, "detector", partial(_detect, self._parts, pictures))
        if not self.labels:
            self.labels = labels_of(self._parts, answers[0][0].shape[1], self._names)
            wanted = chosen(self._classes, self.labels)
            self._unwanted = torch.tensor([i for i in range(len(self.labels)) if i not in wanted], dtype=torch.long)
        return tuple(
            self._seen(picture, scores, boxes) for picture, (scores, boxes) in zip(pictures, answers, strict=True)
        )

    def _seen(self, picture: Picture, scores: Tensor, boxes: Tensor) -> Seen:
        proposed = candidates(
            # Before suppression, whose limits are for what is wanted.
            scores[:, : len(self.labels)].index_fill(1, self._unwanted, 0.0),
            boxes,
            network_size=self._parts.plan.size,
            picture_size=picture.size,
            settings=self._settings,
        )
        found = suppressed(proposed, labels=self.labels, settings=self._settings)
        return Seen(picture.name, picture.size, found, self.labels, proposed if self._keep else None)


def chosen(classes: Sequence[str], labels: Sequence[str]) -> frozenset[int]:
    """Indices of the wanted classes; all for none named.

    Raises:
        InputError: one the network does not know.
    """
    if not classes:
        return frozenset(range(len(labels)))
    wanted = {name.strip().casefold() for name in classes}
    unknown = wanted - {label.casefold() for label in labels}
    if unknown:
        raise InputError(f"no class {', '.join(sorted(unknown))} here: choose from {', '.join(labels)}")
    return frozenset(i for i, label in enumerate(labels) if label.casefold() in wanted)


def labels_of(parts: Parts, count: int, names: Sequence[str] = ()) -> tuple[str, ...]:
    """What the loaded network calls its classes, given how many columns its scores have.

    A published head of before 2023 has a last column that is never used; it gets no label.

    Raises:
        InputError: ``names`` of an own checkpoint are not as many as it has classes.
    """
    if names and parts.checkpoint is not None:
        if len(names) not in (count, count - 1):
            raise InputError(
                f"{len(names)} class names were given and {parts.checkpoint.name} has {count} classes: "
                "give one name a class, in the order of training"
            )
        return tuple(names)
    if parts.checkpoint is None:
        return labels_of_variant(parts.plan.situation.spec.variant(parts.plan.variant))
    path = weights_file(parts.checkpoint)
    named = [] if path.suffix.lower() == ONNX_SUFFIX else json.loads(metadata(path).get("labels", "[]"))
    if len(named) == count:
        return tuple(str(label) for label in named)
    if count in (len(COCO_LABELS), len(COCO_LABELS) + 1):
        return COCO_LABELS
    return tuple(f"class {i}" for i in range(count))


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


def _iou(first: Sequence[float], second: Sequence[float]) -> float:
    width = min(first[2], second[2]) - max(first[0], second[0])
    height = min(first[3], second[3]) - max(first[1], second[1])
    if width <= 0 or height <= 0:
        return 0.0
    shared = width * height
    areas = [(box[2] - box[0]) * (box[3] - box[1]) for box in (first, second)]
    return shared / (sum(areas) - shared)

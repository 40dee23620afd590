"""From scores and boxes to detections: thresholds, class-aware suppression, coordinates of the original picture."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from loader.errors import InputError

# Rows of one block of the suppression: large enough to keep the tensor operations few, small enough to keep the square
# overlap matrices of a block in a core's cache.
_BLOCK = 256


@dataclass(frozen=True)
class Detection:
    """One object found.

    Attributes:
        label: name of the class.
        class_id: index of the class, from 0.
        score: 0..1.
        box: left, top, right, bottom in pixels of the original picture, within it.
    """

    label: str
    class_id: int
    score: float
    box: tuple[float, float, float, float]


@dataclass(frozen=True)
class Suppression:
    """What is kept of the network's predictions. The defaults are those of the published T, S, M and L.

    Attributes:
        score_threshold: a (box, class) pair is a candidate above this score, 0..1.
        iou_threshold: of two candidates of one class overlapping by more than this, the lower-scored goes, 0..1.
        max_detections: detections kept, by score.
        max_candidates: pairs considered, by score. A low threshold makes candidates of most of the 80 × 8,400 pairs of
            a picture; those beyond this many could only fill places among the last of ``max_detections``.

    Raises:
        InputError: a value out of its range.
    """

    score_threshold: float = 0.05
    iou_threshold: float = 0.7
    max_detections: int = 500
    max_candidates: int = 4_000

    def __post_init__(self) -> None:
        for name, threshold in (("score", self.score_threshold), ("overlap (IoU)", self.iou_threshold)):
            if not 0.0 <= threshold <= 1.0:
                raise InputError(f"the {name} threshold must lie in 0..1, got {threshold}")
        for name, limit in (("max_detections", self.max_detections), ("max_candidates", self.max_candidates)):
            if limit < 1:
                raise InputError(f"{name} must be at least 1, got {limit}")


NANO_SUPPRESSION = Suppression(score_threshold=0.03, iou_threshold=0.65)


def _overlapping(first: Tensor, second: Tensor, iou_threshold: float) -> Tensor:
    """Which of the boxes [m,5] overlap which of [n,5] (xyxy and class) by more than the threshold: [m,n] bool."""
    top_left = torch.maximum(first[:, None, :2], second[None, :, :2])
    bottom_right = torch.minimum(first[:, None, 2:4], second[None, :, 2:4])
    width, height = (bottom_right - top_left).clamp_(min=0).unbind(-1)
    shared = width * height
    area_first = (first[:, 2] - first[:, 0]) * (first[:, 3] - first[:, 1])
    area_second = (second[:, 2] - second[:, 0]) * (second[:, 3] - second[:, 1])
    iou = shared / (area_first[:, None] + area_second[None, :] - shared)
    return (iou > iou_threshold) & (first[:, None, 4] == second[None, :, 4])


def _greedy(suppresses: Tensor) -> Tensor:
    """Greedy selection: row i, if kept, removes every later j with ``suppresses[i, j]``. [n,n] bool -> [n] bool."""
    # A row as one integer makes each step of this necessarily sequential loop a single operation, whatever the boxes.
    rows = np.packbits(suppresses.cpu().numpy(), axis=1, bitorder="little")
    removed, kept = 0, []
    for index, row in enumerate(rows):
        keep = not removed >> index & 1
        kept.append(keep)
        if keep:
            removed |= int.from_bytes(row.tobytes(), "little")
    return torch.tensor(kept, dtype=torch.bool, device=suppresses.device)


def class_aware_nms(boxes: Tensor, scores: Tensor, classes: Tensor, iou_threshold: float, limit: int = 500) -> Tensor:
    """Greedy non-maximum suppression among boxes of the same class.

    The result equals that of the sequential algorithm (take the best, drop what overlaps it, repeat), then its first
    ``limit``; of equal scores the one given first is the better.

    Args:
        boxes: [K, 4] xyxy fp32.
        scores: [K].
        classes: [K] class indices.
        iou_threshold: of two boxes overlapping by more than this the worse goes.
        limit: most boxes kept.

    Returns:
        Indices of the boxes kept, best first, at most ``limit``.
    """
    order = scores.argsort(descending=True, stable=True)
    # As fp32 a class index is exact up to 2^24.
    candidates = torch.cat([boxes, classes[:, None].to(boxes.dtype)], dim=1)[order]
    kept = order[:0]
    for start in range(0, len(order), _BLOCK):
        block = torch.arange(start, min(start + _BLOCK, len(order)), device=order.device)
        if len(kept):
            block = block[~_overlapping(candidates[kept], candidates[block], iou_threshold).any(dim=0)]
        block = block[_greedy(_overlapping(candidates[block], candidates[block], iou_threshold))]
        kept = torch.cat([kept, block])
        if len(kept) >= limit:
            break
    return order[kept[:limit]]


def _best(scores: Tensor, count: int) -> Tensor:
    """Indices of the ``count`` highest of [K] scores, best first; of equal ones the first."""
    if len(scores) > count:
        # Selecting first leaves few to sort; by value, because which of equal scores topk takes is not defined.
        eligible = (scores >= scores.topk(count).values[-1]).nonzero().squeeze(1)
    else:
        eligible = torch.arange(len(scores), device=scores.device)
    return eligible[scores[eligible].argsort(descending=True, stable=True)[:count]]


@dataclass(frozen=True)
class Candidates:
    """What the network proposed for one picture, before suppression, best first: what filters work on without it.

    At the default limit of 4,000 pairs that is 96 kB a picture.

    Attributes:
        boxes: [K, 4] fp32, xyxy in network pixels.
        scores: [K] fp32.
        classes: [K] int32 class indices.
        network_size: (height, width) the network saw.
        picture_size: (height, width) of the original picture.
    """

    boxes: Tensor
    scores: Tensor
    classes: Tensor
    network_size: tuple[int, int]
    picture_size: tuple[int, int]

    @property
    def bytes(self) -> int:
        """What they hold in memory."""
        return sum(t.untyped_storage().nbytes() for t in (self.boxes, self.scores, self.classes))


def candidates(
    scores: Tensor,
    boxes: Tensor,
    *,
    network_size: tuple[int, int],
    picture_size: tuple[int, int],
    settings: Suppression,
) -> Candidates:
    """The (box, class) pairs of one picture above the score threshold, at most ``max_candidates``, on the CPU.

    Args:
        scores: [N, C] in 0..1.
        boxes: [N, 4] xyxy in network pixels.
        network_size: (height, width) the network saw.
        picture_size: (height, width) of the original picture.
        settings: thresholds and limits.
    """
    rows, classes = (scores > settings.score_threshold).nonzero(as_tuple=True)
    # The candidates move to the CPU: every step of the suppression would otherwise wait for the accelerator.
    pair_scores, rows, classes = scores[rows, classes].float().cpu(), rows.cpu(), classes.cpu()
    best = _best(pair_scores, settings.max_candidates)
    return Candidates(
        boxes.float().cpu()[rows[best]], pair_scores[best], classes[best].int(), network_size, picture_size
    )


def kept(proposed: Candidates, settings: Suppression, wanted: Iterable[int] | None = None) -> Tensor:
    """Indices of the candidates that suppression leaves, best first.

    For thresholds at or above the one the candidates were taken at, this is what a run at ``settings`` would keep.

    Args:
        proposed: the candidates.
        settings: thresholds and limits.
        wanted: class indices that may be among them; all if None.
    """
    passing = proposed.scores > settings.score_threshold
    if wanted is not None:
        passing &= torch.isin(proposed.classes, torch.tensor(sorted(wanted), dtype=torch.int32))
    rows = passing.nonzero().squeeze(1)[: settings.max_candidates]
    left = class_aware_nms(
        proposed.boxes[rows],
        proposed.scores[rows],
        proposed.classes[rows],
        settings.iou_threshold,
        settings.max_detections,
    )
    return rows[left]


def select(scores: Tensor, boxes: Tensor, settings: Suppression) -> tuple[Tensor, Tensor, Tensor]:
    """What suppression leaves of one picture's predictions, best first.

    Args:
        scores: [N, C].
        boxes: [N, 4] xyxy.
        settings: thresholds and limits.

    Returns:
        boxes [K, 4] and scores [K], fp32, and class indices [K], on the CPU.
    """
    proposed = candidates(scores, boxes, network_size=(1, 1), picture_size=(1, 1), settings=settings)
    left = kept(proposed, settings)
    return proposed.boxes[left], proposed.scores[left], proposed.classes[left].long()


def to_picture(boxes: Tensor, network_size: tuple[int, int], picture_size: tuple[int, int]) -> Tensor:
    """Boxes [K,4] xyxy from network pixels to the picture's, each axis by its own factor, clipped to the picture.

    Both sizes are (height, width).
    """
    (network_height, network_width), (height, width) = network_size, picture_size
    scale_x, scale_y = width / network_width, height / network_height
    limits = boxes.new_tensor([width, height, width, height])
    return (boxes * boxes.new_tensor([scale_x, scale_y, scale_x, scale_y])).clamp(min=0).minimum(limits)


def detections(
    scores: Tensor,
    boxes: Tensor,
    *,
    network_size: tuple[int, int],
    picture_size: tuple[int, int],
    labels: Sequence[str],
    settings: Suppression,
) -> tuple[Detection, ...]:
    """The objects of one picture, best first.

    Boxes that lie wholly outside the picture are dropped, after suppression, so there may be fewer than the limit.

    Args:
        scores: [N, C] in 0..1, one picture's part of the network's output.
        boxes: [N, 4] xyxy in network pixels.
        network_size: (height, width) the network saw.
        picture_size: (height, width) of the original picture.
        labels: the C class names.
        settings: thresholds and limits.

    Raises:
        InputError: labels and scores differ in number of classes.
    """
    if scores.ndim != 2 or scores.shape[1] != len(labels):
        raise InputError(f"scores of shape {list(scores.shape)} do not go with {len(labels)} labels; expected [N, C]")
    sizes = {"network_size": network_size, "picture_size": picture_size}
    return suppressed(candidates(scores, boxes, settings=settings, **sizes), labels=labels, settings=settings)


def suppressed(
    proposed: Candidates, *, labels: Sequence[str], settings: Suppression, wanted: Iterable[int] | None = None
) -> tuple[Detection, ...]:
    """The objects among the candidates of one picture, best first, as ``detections``.

    Args:
        proposed: the candidates.
        labels: the class names.
        settings: thresholds and limits.
        wanted: class indices that may be among them; all if None.
    """
    left = kept(proposed, settings, wanted)
    placed = to_picture(proposed.boxes[left], proposed.network_size, proposed.picture_size)
    return tuple(
        Detection(labels[class_id], class_id, score, (x0, y0, x1, y1))
        for class_id, score, (x0, y0, x1, y1) in zip(
            proposed.classes[left].tolist(), proposed.scores[left].tolist(), placed.tolist(), strict=True
        )
        if x1 > x0 and y1 > y0
    )

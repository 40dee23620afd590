"""From scores and boxes to detections: thresholds, class-aware suppression, coordinates of the original picture."""

from collections.abc import Sequence
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


def select(scores: Tensor, boxes: Tensor, settings: Suppression) -> tuple[Tensor, Tensor, Tensor]:
    """What suppression leaves of one picture's predictions, best first.

    Args:
        scores: [N, C].
        boxes: [N, 4] xyxy.
        settings: thresholds and limits.

    Returns:
        boxes [K, 4] and scores [K], fp32, and class indices [K], on the CPU.
    """
    rows, classes = (scores > settings.score_threshold).nonzero(as_tuple=True)
    # The candidates move to the CPU: every step of the suppression would otherwise wait for the accelerator.
    pair_scores, rows, classes = scores[rows, classes].float().cpu(), rows.cpu(), classes.cpu()
    best = _best(pair_scores, settings.max_candidates)
    pair_scores, pair_boxes, classes = pair_scores[best], boxes.float().cpu()[rows[best]], classes[best]
    kept = class_aware_nms(pair_boxes, pair_scores, classes, settings.iou_threshold, settings.max_detections)
    return pair_boxes[kept], pair_scores[kept], classes[kept]


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
    kept_boxes, kept_scores, classes = select(scores, boxes, settings)
    placed = to_picture(kept_boxes, network_size, picture_size)
    return tuple(
        Detection(labels[class_id], class_id, score, (left, top, right, bottom))
        for class_id, score, (left, top, right, bottom) in zip(
            classes.tolist(), kept_scores.tolist(), placed.tolist(), strict=True
        )
        if right > left and bottom > top
    )

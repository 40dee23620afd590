"""Which point of the feature maps answers for which object: task-aligned assignment (TOOD, arXiv 2108.07755)."""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Assignment:
    """What each of the N points of each of the B images should say.

    ``positive`` bool [B, N]; ``labels`` int64 [B, N] (0 where not positive); ``boxes`` [B, N, 4] xyxy px;
    ``quality`` [B, N], 0..1, the class score wanted (0 where not positive).
    """

    positive: Tensor
    labels: Tensor
    boxes: Tensor
    quality: Tensor


def pairwise_iou(first: Tensor, second: Tensor) -> Tensor:
    """IoU [B, G, N] of boxes [B, G, 4] and [B, N, 4], xyxy."""
    a, b = first[:, :, None], second[:, None]
    low, high = torch.maximum(a[..., :2], b[..., :2]), torch.minimum(a[..., 2:], b[..., 2:])
    overlap = (high - low).clamp_(min=0).prod(-1)
    area_a, area_b = (a[..., 2:] - a[..., :2]).prod(-1), (b[..., 2:] - b[..., :2]).prod(-1)
    return overlap / (area_a + area_b - overlap).clamp_(min=1e-6)


@torch.no_grad()
def assign(
    scores: Tensor, predicted: Tensor, points: Tensor, boxes: Tensor, labels: Tensor, *, top: int = 10
) -> Assignment:
    """Gives every object its ``top`` best points among those inside its box.

    A point's worth to an object is score^0.5 x IoU^4 of what it predicts now. A point wanted by several objects goes
    to the one it overlaps best. The score wanted of a point is its worth, scaled so that the best point of an object
    is asked for the object's best IoU.

    Args:
        scores: class scores [B, N, C], 0..1.
        predicted: boxes [B, N, 4], xyxy px.
        points: [N, 2], px.
        boxes: objects [B, G, 4], xyxy px, padded with empty boxes.
        labels: [B, G], -1 where padded.
        top: points per object.
    """
    real = labels >= 0
    index = labels.clamp(min=0)
    iou = pairwise_iou(boxes, predicted)
    wanted = scores.transpose(1, 2).gather(1, index[..., None].expand(-1, -1, scores.shape[1]))
    inside = (points >= boxes[:, :, None, :2]).all(-1) & (points < boxes[:, :, None, 2:]).all(-1) & real[..., None]
    worth = wanted.sqrt() * iou**4 * inside
    best, where = worth.topk(min(top, worth.shape[-1]), dim=-1)
    chosen = torch.zeros_like(inside).scatter_(-1, where, best > 1e-9)
    overlap, owner = torch.where(chosen, iou, -1.0).max(1)
    positive = overlap >= 0
    mine = torch.nn.functional.one_hot(owner, boxes.shape[1]).transpose(1, 2).bool() & chosen
    worth, kept_iou = worth * mine, iou * mine
    scale = kept_iou.amax(-1, keepdim=True) / worth.amax(-1, keepdim=True).clamp(min=1e-9)
    return Assignment(
        positive=positive,
        labels=index.gather(1, owner) * positive,
        boxes=boxes.gather(1, owner[..., None].expand(-1, -1, 4)),
        quality=(worth * scale).amax(1),
    )

"""The detector's loss: quality focal, GIoU, distribution focal (arXiv 2006.04388, 1902.09630) and cross-entropy."""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from training.assign import assign


@dataclass(frozen=True)
class Weights:
    """Weight of each part of the loss."""

    score: float = 1.0
    overlap: float = 2.0
    bins: float = 0.5
    kind: float = 1.0


@dataclass(frozen=True)
class Predictions:
    """Raw output at N points: ``logits`` [B, N, C], ``bins`` [B, N, 4, R], ``points`` [N, 2] px, ``strides`` [N] px."""

    logits: Tensor
    bins: Tensor
    points: Tensor
    strides: Tensor

    def boxes(self) -> Tensor:
        """Decoded boxes [B, N, 4], xyxy px: the point minus and plus the expected distances."""
        steps = torch.arange(self.bins.shape[-1], dtype=self.bins.dtype, device=self.bins.device)
        distance = (self.bins.softmax(-1) @ steps) * self.strides[:, None]
        return torch.cat([self.points - distance[..., :2], self.points + distance[..., 2:]], -1)


def quality_focal(logits: Tensor, target: Tensor) -> Tensor:
    """Binary cross-entropy to a soft target, weighted by the squared miss; summed."""
    miss = (target - logits.sigmoid()).square()
    return (F.binary_cross_entropy_with_logits(logits, target, reduction="none") * miss).sum()


def generalised_iou(first: Tensor, second: Tensor) -> Tensor:
    """GIoU [n] of paired boxes [n, 4], xyxy: IoU minus the share of the hull that neither covers."""
    low, high = torch.maximum(first[:, :2], second[:, :2]), torch.minimum(first[:, 2:], second[:, 2:])
    overlap = (high - low).clamp(min=0).prod(-1)
    union = (first[:, 2:] - first[:, :2]).prod(-1) + (second[:, 2:] - second[:, :2]).prod(-1) - overlap
    hull = torch.maximum(first[:, 2:], second[:, 2:]) - torch.minimum(first[:, :2], second[:, :2])
    area = hull.prod(-1).clamp(min=1e-6)
    return overlap / union.clamp(min=1e-6) - (area - union) / area


def distribution_focal(bins: Tensor, distance: Tensor) -> Tensor:
    """Cross-entropy [n, 4] of the two bins around each distance, weighted by nearness.

    Args:
        bins: logits [n, 4, R].
        distance: [n, 4] in bins; values outside 0..R-1 are clamped.
    """
    distance = distance.clamp(0, bins.shape[-1] - 1.01)
    left = distance.long()
    weight = distance - left
    log = bins.log_softmax(-1)
    lower = log.gather(-1, left[..., None])[..., 0]
    upper = log.gather(-1, left[..., None] + 1)[..., 0]
    return -(lower * (1 - weight) + upper * weight)


def detection_loss(out: Predictions, boxes: Tensor, labels: Tensor, weights: Weights) -> dict[str, Tensor]:
    """The parts of the loss, weighted, by name; their sum is what to minimise.

    Args:
        out: raw predictions, float32.
        boxes: objects [B, G, 4], xyxy px, padded with empty boxes.
        labels: [B, G], -1 where padded.
        weights: of the parts.
    """
    decoded = out.boxes()
    found = assign(out.logits.detach().sigmoid(), decoded.detach(), out.points, boxes, labels)
    norm = found.quality.sum().clamp(min=1.0)
    target = F.one_hot(found.labels, out.logits.shape[-1]) * found.quality[..., None]
    parts = {"score": weights.score * quality_focal(out.logits, target.to(out.logits.dtype)) / norm}
    image, point = found.positive.nonzero(as_tuple=True)
    quality, wanted = found.quality[image, point], found.boxes[image, point]
    overlap = 1 - generalised_iou(decoded[image, point], wanted)
    here, stride = out.points[point], out.strides[point, None]
    distance = torch.cat([here - wanted[:, :2], wanted[:, 2:] - here], -1) / stride
    bins = distribution_focal(out.bins[image, point], distance).mean(-1)
    kind = F.cross_entropy(out.logits[image, point], found.labels[image, point], reduction="none")
    parts["overlap"] = weights.overlap * (overlap * quality).sum() / norm
    parts["bins"] = weights.bins * (bins * quality).sum() / norm
    parts["kind"] = weights.kind * (kind * quality).sum() / norm
    return parts

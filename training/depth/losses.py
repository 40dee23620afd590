"""What training minimises, from canonical depth and unit normals known at every pixel but the border's."""

import math

import torch
from torch import Tensor
from torch.nn import functional as F

FAR = 200.0
GRADIENT_STRIDES = (1, 4, 12)


def mean_of(values: Tensor, known: Tensor) -> Tensor:
    """Mean of ``values`` ``[B, 1, H, W]`` where ``known``."""
    return (values * known).sum() / known.sum().clamp_min(1)


def log_error(depth: Tensor, truth: Tensor) -> Tensor:
    """``[B, 1, H, W]`` log of predicted over true depth; 0 where the truth is 0."""
    known = truth > 0
    return torch.where(known, depth.clamp_min(1e-3).log() - truth.clamp(1e-3, FAR).log(), 0.0)


def spread(error: Tensor, known: Tensor) -> Tensor:
    """Root of each picture's variance of ``error``: what remains when its scale is forgiven; a mean over pictures."""
    count = known.sum((1, 2, 3)).clamp_min(1)
    mean = (error * known).sum((1, 2, 3)) / count
    square = (error.square() * known).sum((1, 2, 3)) / count
    return (square - mean.square()).clamp_min(1e-6).sqrt().mean()


def gradients(error: Tensor, known: Tensor) -> Tensor:
    """Mean absolute difference of ``error`` between pixels a few strides apart: edges and slopes in log depth."""
    parts = []
    for stride in GRADIENT_STRIDES:
        for axis in (2, 3):
            length = error.shape[axis] - stride
            a, b = error.narrow(axis, stride, length), error.narrow(axis, 0, length)
            both = known.narrow(axis, stride, length) & known.narrow(axis, 0, length)
            parts.append(mean_of((a - b).abs(), both))
    return torch.stack(parts).mean()


def normal_terms(predicted: Tensor, truth: Tensor, known: Tensor) -> dict[str, Tensor]:
    """One minus the cosine, and for kappa the angular von Mises-Fisher likelihood (arXiv 2109.09881).

    Args:
        predicted: ``[B, 4, H, W]``: unit x, y, z and kappa.
        truth: ``[B, 3, H, W]`` unit.
        known: ``[B, 1, H, W]``.
    """
    cosine = (predicted[:, :3] * truth).sum(1, keepdim=True)
    kappa = predicted[:, 3:]
    # The angle is held fixed here: an arc cosine's slope has no limit at 1.
    angle = cosine.detach().clamp(-0.9999, 0.9999).arccos()
    likelihood = kappa * angle - (kappa.square() + 1).log() + F.softplus(-kappa * math.pi)
    return {"normal": mean_of(1 - cosine, known), "kappa": 0.05 * mean_of(likelihood, known)}


def depth_terms(depth: Tensor, confidence: Tensor, truth: Tensor) -> dict[str, Tensor]:
    """Terms of depth and confidence, all ``[B, 1, H, W]``; the confidence's target is 1 less the relative error."""
    known = truth > 0
    error = log_error(depth, truth)
    sure = 1 - error.detach().abs().clamp_max(1)
    return {
        "log": mean_of(error.abs(), known),
        "spread": 0.5 * spread(error, known),
        "gradient": gradients(error, known),
        "confidence": 0.05 * mean_of((confidence - sure).abs(), known),
    }


def coarse_terms(depth: Tensor, normals: Tensor, truth: Tensor, true_normals: Tensor) -> dict[str, Tensor]:
    """Terms of the first guess at its own resolution.

    Args:
        depth: ``[B, 1, h, w]`` canonical metres.
        normals: ``[B, 3, h, w]`` unit.
        truth: ``[B, 1, H, W]``.
        true_normals: ``[B, 3, H, W]``.
    """
    size = (depth.shape[-2], depth.shape[-1])
    truth, true_normals = (F.interpolate(x, size, mode="nearest-exact") for x in (truth, true_normals))
    known = truth > 0
    cosine = (normals * true_normals).sum(1, keepdim=True)
    return {
        "first_log": 0.5 * mean_of(log_error(depth, truth).abs(), known),
        "first_normal": 0.5 * mean_of(1 - cosine, known),
    }

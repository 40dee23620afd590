"""Depth as an expectation over logarithmic bins, its soft limits, and unit normals: all fp32, none with weights.

Sources: "Metric3D", arXiv 2307.10984; "Metric3D v2", arXiv 2404.15506; the normals' distribution from "Estimating and
Exploiting the Aleatoric Uncertainty in Surface Normal Estimation", arXiv 2109.09881.
"""

import math

import torch
from torch import Tensor
from torch.nn import functional as F

KAPPA_MIN = 0.01


def depth_bins(nearest: float, farthest: float, count: int, device: torch.device) -> Tensor:
    """``[count]`` fp32 depths in metres, evenly spaced in their logarithm, both ends included."""
    return torch.linspace(math.log(nearest), math.log(farthest), count, device=device, dtype=torch.float32).exp()


def expected_depth(logits: Tensor, limits: tuple[float, float]) -> Tensor:
    """The mean of the distribution that ``logits`` span over logarithmic depth bins.

    Args:
        logits: ``[B, bins, H, W]`` of any floating dtype.
        limits: nearest and farthest bin in metres.

    Returns:
        ``[B, 1, H, W]`` fp32 in metres, within ``limits``.
    """
    bins = depth_bins(*limits, logits.shape[1], logits.device)
    return torch.einsum("bkhw,k->bhw", logits.float().softmax(dim=1), bins).unsqueeze(1)


def limit_depth(depth: Tensor, limits: tuple[float, float]) -> Tensor:
    """``depth`` clamped to ``limits`` by two rectifiers, as published.

    Counting down from the far end rounds the near one: below 0.1 the result is 0.100006 with limits 0.1 and 200.
    """
    nearest, farthest = limits
    return farthest - F.relu(farthest - (F.relu(depth - nearest) + nearest))


def unit_normals(raw: Tensor) -> Tensor:
    """Directions of unit length and their concentration.

    Args:
        raw: ``[B, 4, H, W]``: x, y, z of any length and an unbounded number.

    Returns:
        ``[B, 4, H, W]``: unit x, y, z in the camera's frame and kappa > 0.01, higher where surer.
    """
    direction, kappa = raw[:, :3], raw[:, 3:]
    length = direction.square().sum(dim=1, keepdim=True).sqrt() + 1e-10
    return torch.cat([direction / length, F.elu(kappa) + 1.0 + KAPPA_MIN], dim=1)

"""Layers the networks share. Clips run through 2D layers with their frames in the batch: ``[B*F, C, h, w]``."""

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class EntryConv1d(nn.Conv1d):
    """First layer of a network: takes its input in any dtype and continues in that of its weight.

    Everything after it follows its output. The weight is read inside the layer's own ``forward`` because only there is
    it sure to be in compute precision: weights may be stored lower and raised layer by layer.
    """

    def forward(self, x: Tensor) -> Tensor:
        """As ``nn.Conv1d``."""
        return super().forward(x.to(self.weight.dtype))


class EntryConv2d(nn.Conv2d):
    """First layer of a network, as ``EntryConv1d``."""

    def forward(self, x: Tensor) -> Tensor:
        """As ``nn.Conv2d``."""
        return super().forward(x.to(self.weight.dtype))


class EntryLinear(nn.Linear):
    """First layer of a network, as ``EntryConv1d``."""

    def forward(self, x: Tensor) -> Tensor:
        """As ``nn.Linear``."""
        return super().forward(x.to(self.weight.dtype))


_ENTRIES: Mapping[type[nn.Module], type[nn.Module]] = {
    nn.Conv1d: EntryConv1d,
    nn.Conv2d: EntryConv2d,
    nn.Linear: EntryLinear,
}


def make_entry(layer: nn.Module) -> None:
    """Turn the first layer of a library's network into an entry layer, its weights untouched."""
    layer.__class__ = _ENTRIES[type(layer)]


def frames_to_batch(clip: Tensor) -> Tensor:
    """``[B, C, F, h, w]`` to ``[B*F, C, h, w]``, sample by sample."""
    return clip.transpose(1, 2).flatten(0, 1)


def batch_to_frames(pictures: Tensor, frames: int) -> Tensor:
    """``[B*F, C, h, w]`` to ``[B, C, F, h, w]``."""
    return pictures.unflatten(0, (-1, frames)).transpose(1, 2)


def sinusoids(length: int, width: int) -> Tensor:
    """Position codes ``[1, length, width]``: sine in even columns, cosine in odd ones (Vaswani, arXiv 1706.03762)."""
    rates = torch.exp(torch.arange(0, width, 2) * (-math.log(10000.0) / width))
    angles = torch.arange(length)[:, None] * rates
    return torch.stack((angles.sin(), angles.cos()), dim=-1).flatten(1)[None]


class PositionCode(nn.Module):
    """Adds a stored code to each position; the published files carry the codes as a buffer."""

    pe: Tensor

    def __init__(self, length: int, width: int) -> None:
        super().__init__()
        self.register_buffer("pe", sinusoids(length, width))

    def forward(self, x: Tensor) -> Tensor:
        """``[B, N, width]`` with N at most ``length``, to the same."""
        return x + self.pe[:, : x.shape[1]].to(x.dtype)


class TimestepEmbedding(nn.Module):
    """Diffusion time to a vector: sinusoids, then two linear layers.

    The sinusoids are fp32 and the first layer takes any dtype, so this part may stay fp32 in a network cast lower.
    """

    def __init__(self, channels: int, width: int, *, cosine_first: bool, shift: int) -> None:
        super().__init__()
        self.channels, self.cosine_first, self.shift = channels, cosine_first, shift
        self.linear_1 = EntryLinear(channels, width)
        self.linear_2 = nn.Linear(width, width)

    def forward(self, timesteps: Tensor) -> Tensor:
        """``timesteps [B]`` to ``[B, width]``."""
        half = self.channels // 2
        places = torch.arange(half, dtype=torch.float32, device=timesteps.device)
        angles = timesteps.float()[:, None] * torch.exp(places * (-math.log(10000.0) / (half - self.shift)))
        parts = (angles.cos(), angles.sin()) if self.cosine_first else (angles.sin(), angles.cos())
        return self.linear_2(F.silu(self.linear_1(torch.cat(parts, dim=-1))))


class ClipGroupNorm(nn.GroupNorm):
    """Group norm of ``[B*F, C, h, w]`` whose statistics are taken per frame, or jointly over a sample's frames."""

    def __init__(self, groups: int, channels: int, eps: float, *, joint: bool) -> None:
        super().__init__(groups, channels, eps=eps)
        self.joint = joint

    def forward(self, x: Tensor, frames: int) -> Tensor:  # type: ignore[override]
        """``[B*F, C, h, w]`` to the same."""
        if not self.joint:
            return super().forward(x)
        return frames_to_batch(super().forward(batch_to_frames(x, frames)))


class ResnetBlock(nn.Module):
    """Two 3x3 convolutions with the diffusion time added between them."""

    def __init__(
        self, in_channels: int, out_channels: int, time_width: int, *, groups: int, eps: float, joint: bool
    ) -> None:
        super().__init__()
        self.norm1 = ClipGroupNorm(groups, in_channels, eps, joint=joint)
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, padding=1)
        self.time_emb_proj = nn.Linear(time_width, out_channels)
        self.norm2 = ClipGroupNorm(groups, out_channels, eps, joint=joint)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1)
        self.conv_shortcut = nn.Conv2d(in_channels, out_channels, 1) if in_channels != out_channels else nn.Identity()

    def forward(self, x: Tensor, time: Tensor, frames: int) -> Tensor:
        """``x [B*F, in, h, w]`` and ``time [B, time_width]`` to ``[B*F, out, h, w]``."""
        h = self.conv1(F.silu(self.norm1(x, frames)))
        shift = self.time_emb_proj(F.silu(time.to(h.dtype))).repeat_interleave(frames, dim=0)
        h = self.conv2(F.silu(self.norm2(h + shift[:, :, None, None], frames)))
        return self.conv_shortcut(x) + h


class Downsample(nn.Module):
    """Halves height and width, rounding up."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, stride=2, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """``[B*F, C, h, w]`` to ``[B*F, C, ceil(h/2), ceil(w/2)]``."""
        return self.conv(x)


class Upsample(nn.Module):
    """Nearest-neighbour enlargement to a given size, then a convolution."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor, size: tuple[int, int]) -> Tensor:
        """``[B*F, C, h, w]`` to ``[B*F, C, *size]``."""
        return self.conv(F.interpolate(x, size=size, mode="nearest"))

"""The decoder of the second generation: a first guess of depth and normals, refined by recurrent updates.

Sources: "Metric3D v2", arXiv 2404.15506; "RAFT-Stereo", arXiv 2109.07547 (slow-fast recurrent units, convex
upsampling); github.com/YvanYin/Metric3D at eb5b6fa, ``mono/model/decode_heads/RAFTDepthNormalDPTDecoder5.py``.

The *state* that is refined has six channels at a quarter of the picture's resolution, fp32 throughout: depth as
(metres - farthest) / 100, its confidence, the normal's x, y, z and its concentration.
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from adapters.metric3d.networks.config import RaftConfig
from adapters.metric3d.networks.depth import expected_depth, limit_depth, unit_normals
from adapters.metric3d.networks.dpt import Fusion, Maps, TokensToMaps
from adapters.metric3d.networks.layers import ChannelLayerNorm
from adapters.metric3d.networks.precision import Head, resize_to, working_dtype_cast
from adapters.metric3d.networks.vit import Tokens

DEPTH_BINS = 256
STATE_CHANNELS = 6
STATE_SCALE_M = 100.0
MASK_SCALE = 0.25


class Gates(NamedTuple):
    """What the picture contributes to a recurrent unit's three gates, each ``[B, C, H, W]``."""

    update: Tensor
    reset: Tensor
    candidate: Tensor


class ResidualBlock(nn.Module):
    """Two normalised convolutions beside a shortcut; the shortcut is a convolution where channels change."""

    def __init__(self, channels: int, out: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, out, 3, padding=1)
        self.conv2 = nn.Conv2d(out, out, 3, padding=1)
        self.norm1 = ChannelLayerNorm(out)
        self.norm2 = ChannelLayerNorm(out)
        self.downsample: nn.Module
        if channels == out:
            self.downsample = nn.Identity()
        else:
            # Published files name this norm twice. Registered in this order, the second name is loaded last and wins.
            self.norm3 = ChannelLayerNorm(out)
            self.downsample = nn.Sequential(nn.Conv2d(channels, out, 1), self.norm3)

    def forward(self, image: Tensor) -> Tensor:
        """``[B, C, H, W]`` to ``[B, D, H, W]``."""
        refined = F.relu(self.norm1(self.conv1(image)))
        refined = F.relu(self.norm2(self.conv2(refined)))
        return F.relu(self.downsample(image) + refined)


def _context_heads(channels: int, out: int) -> nn.ModuleList:
    return nn.ModuleList(
        [nn.Sequential(ResidualBlock(channels, out), nn.Conv2d(out, out, 3, padding=1)) for _ in range(2)]
    )


class ContextEncoder(nn.Module):
    """First hidden state and context of the recurrent units at each of the three finer maps."""

    def __init__(self, config: RaftConfig) -> None:
        super().__init__()
        features, hidden = config.feature_channels, config.hidden_channels
        self.outputs04 = _context_heads(features[0], hidden[0])
        self.outputs08 = _context_heads(features[1], hidden[1])
        self.outputs16 = _context_heads(features[2], hidden[2])

    def forward(self, maps: Maps) -> tuple[list[Tensor], list[Tensor]]:
        """Hidden states in -1..1 and contexts not below 0, each three of ``[B, C, H, W]``, finest first."""
        levels = list(zip((self.outputs04, self.outputs08, self.outputs16), maps[:3], strict=True))
        hidden = [torch.tanh(heads[0](image)) for heads, image in levels]
        context = [F.relu(heads[1](image)) for heads, image in levels]
        return hidden, context


class ConvGru(nn.Module):
    """A gated recurrent unit of 3×3 convolutions."""

    def __init__(self, hidden: int, inputs: int) -> None:
        super().__init__()
        self.convz = nn.Conv2d(hidden + inputs, hidden, 3, padding=1)
        self.convr = nn.Conv2d(hidden + inputs, hidden, 3, padding=1)
        self.convq = nn.Conv2d(hidden + inputs, hidden, 3, padding=1)

    def forward(self, hidden: Tensor, gates: Gates, *inputs: Tensor) -> Tensor:
        """Next hidden state ``[B, C, H, W]`` from the last, the picture's share and inputs of the same size."""
        both = torch.cat([hidden, *inputs], dim=1)
        update = torch.sigmoid(self.convz(both) + gates.update)
        reset = torch.sigmoid(self.convr(both) + gates.reset)
        candidate = torch.tanh(self.convq(torch.cat([reset * hidden, *inputs], dim=1)) + gates.candidate)
        return (1 - update) * hidden + update * candidate


class StateHead(nn.Module):
    """The change of the state: two channels of depth, four of the normal; answers in fp32 like ``Head``."""

    def __init__(self, hidden: int) -> None:
        super().__init__()
        self.conv1d = nn.Conv2d(hidden, hidden, 3, padding=1)
        self.conv2d = nn.Conv2d(hidden, 2, 3, padding=1)
        self.conv1n = nn.Conv2d(hidden, hidden, 3, padding=1)
        self.conv2n = nn.Conv2d(hidden, 4, 3, padding=1)

    def forward(self, hidden: Tensor) -> Tensor:
        """``[B, C, H, W]`` to fp32 ``[B, 6, H, W]``."""
        hidden = working_dtype_cast(hidden, self)
        depth = self.conv2d(F.relu(self.conv1d(hidden)))
        normal = self.conv2n(F.relu(self.conv1n(hidden)))
        return torch.cat([depth, normal], dim=1).float()


def _halved(image: Tensor) -> Tensor:
    return F.avg_pool2d(image, 3, stride=2, padding=1)


def _like(image: Tensor, target: Tensor) -> Tensor:
    return resize_to(image, (target.shape[-2], target.shape[-1]), align_corners=True)


class UpdateBlock(nn.Module):
    """Three recurrent units of which the coarser run more often, and the heads that read the finest."""

    def __init__(self, config: RaftConfig) -> None:
        super().__init__()
        fine, middle, coarse = config.hidden_channels[:3]
        self.gru08 = ConvGru(fine, STATE_CHANNELS + middle)
        self.gru16 = ConvGru(middle, fine + coarse)
        self.gru32 = ConvGru(coarse, middle)
        self.flow_head = StateHead(fine)
        weights = 9 * 4**config.n_downsample
        self.mask = Head(nn.Conv2d(fine, fine, 3, padding=1), nn.ReLU(), nn.Conv2d(fine, weights, 1))

    def forward(self, hidden: list[Tensor], gates: list[Gates], state: Tensor) -> tuple[list[Tensor], Tensor]:
        """One refinement.

        Args:
            hidden: states of the units ``[B, C, H, W]``, finest first, each level half the size of the one before.
            gates: the picture's share, per level.
            state: ``[B, 6, H, W]`` fp32 at the finest level's size.

        Returns:
            the units' next states, and the change of ``state``.
        """
        fine, middle, coarse = (working_dtype_cast(level, self) for level in hidden)
        gates = [Gates(*(working_dtype_cast(share, self) for share in level)) for level in gates]
        from_fine, from_middle = _like(_halved(fine), middle), _halved(middle)
        coarse = self.gru32(coarse, gates[2], from_middle)
        coarse = self.gru32(coarse, gates[2], from_middle)
        middle = self.gru16(middle, gates[1], from_fine, _like(coarse, middle))
        coarse = self.gru32(coarse, gates[2], _halved(middle))
        middle = self.gru16(middle, gates[1], from_fine, _like(coarse, middle))
        fine = self.gru08(fine, gates[0], state.to(fine.dtype), _like(middle, fine))
        return [fine, middle, coarse], self.flow_head(fine)

    def upsampling_logits(self, fine: Tensor) -> Tensor:
        """``[B, C, H, W]`` to fp32 ``[B, 9 * factor², H, W]`` for ``convex_upsample``."""
        return MASK_SCALE * self.mask(fine)


def convex_upsample(state: Tensor, logits: Tensor, factor: int) -> Tensor:
    """Upsample, every new value a convex combination of the 3×3 old ones around it.

    Args:
        state: ``[B, D, H, W]``.
        logits: ``[B, 9 * factor², H, W]`` in the dtype of ``state``; softmax over the nine gives the weights.
        factor: how many times larger the result is.

    Returns:
        ``[B, D, factor * H, factor * W]``.
    """
    channels, height, width = state.shape[1:]
    weights = logits.unflatten(1, (9, factor * factor)).softmax(dim=1)
    neighbours = F.unfold(state, 3, padding=1).unflatten(1, (channels, 9)).unflatten(-1, (height, width))
    upsampled = weights[:, None, 0] * neighbours[:, :, 0, None]
    # Neighbour by neighbour: all products at once would take nine times the memory of the result.
    for k in range(1, 9):
        upsampled = torch.addcmul(upsampled, weights[:, None, k], neighbours[:, :, k, None])
    return F.pixel_shuffle(upsampled.flatten(1, 2), factor)


class RaftDecoder(nn.Module):
    """Tokens to depth, its confidence, and normals."""

    def __init__(self, config: RaftConfig) -> None:
        super().__init__()
        self.limits = config.depth_normalize
        self.iters = config.iters
        self.factor = 2**config.n_downsample
        fine, hidden = config.decoder_channels[1], config.hidden_channels[:3]
        self.token2feature = TokensToMaps(config)
        self.decoder_mono = Fusion(config)
        self.depth_regressor = Head(
            nn.Conv2d(fine, DEPTH_BINS, 3, padding=1), nn.ReLU(), nn.Conv2d(DEPTH_BINS, DEPTH_BINS, 1)
        )
        self.normal_predictor = Head(
            nn.Conv2d(fine, 128, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(128, 128, 1),
            nn.ReLU(),
            nn.Conv2d(128, 128, 1),
            nn.ReLU(),
            nn.Conv2d(128, 3, 1),
        )
        self.context_feature_encoder = ContextEncoder(config)
        self.context_zqr_convs = nn.ModuleList([nn.Conv2d(width, 3 * width, 3, padding=1) for width in hidden])
        self.update_block = UpdateBlock(config)

    def forward(self, tokens: Tokens) -> tuple[Tensor, Tensor, Tensor]:
        """Decode.

        Args:
            tokens: the encoder's, on a grid of h × w patches.

        Returns:
            fp32 depth ``[B, 1, H, W]`` in canonical metres within the limits, confidence ``[B, 1, H, W]`` (unbounded,
            higher where surer) and normals ``[B, 4, H, W]`` (unit x, y, z, kappa), where H = 4 * floor(3.5 h).
        """
        levels = [working_dtype_cast(level, self) for level in tokens.levels]
        maps = self.token2feature(Tokens(levels, tokens.grid))
        # Upstream's fusion rectifies in place the maps it reads, so the context sees them rectified, all but the
        # finest, which fusion does not read.
        maps = maps._replace(x1=F.relu(maps.x1), x2=F.relu(maps.x2))
        state = self._first_guess(maps)
        hidden, context = self.context_feature_encoder(maps)
        gates = [Gates(*conv(c).chunk(3, dim=1)) for conv, c in zip(self.context_zqr_convs, context, strict=True)]
        for _ in range(self.iters):
            hidden, change = self.update_block(hidden, gates, state)
            state = state + change
        state = convex_upsample(state, self.update_block.upsampling_logits(hidden[0]), self.factor)
        depth = limit_depth(STATE_SCALE_M * state[:, :1] + self.limits[1], self.limits)
        return depth, state[:, 1:2], unit_normals(state[:, 2:])

    def _first_guess(self, maps: Maps) -> Tensor:
        features, depth_confidence, normal_confidence = self.decoder_mono(maps)
        depth = limit_depth(expected_depth(self.depth_regressor(features), self.limits), self.limits)
        normals = unit_normals(torch.cat([self.normal_predictor(features), normal_confidence.float()], dim=1))
        return torch.cat([(depth - self.limits[1]) / STATE_SCALE_M, depth_confidence.float(), normals], dim=1)

"""Sound to the motion of the head, frame after frame.

Implements ``src/audio_models/pose_model.py`` of Zejun-Yang/AniPortrait (commit 7f6593f), whose decoder follows
FaceFormer (Fan et al., arXiv 2112.05329): a causal transformer with a distance penalty (ALiBi, Press et al., arXiv
2108.12409) in which frame i hears only the sound of frame i.

Upstream runs the whole decoder again for every frame. Here each layer keeps its keys and values: a causal layer's
earlier outputs do not change when a frame is added, so the result is the same at a cost linear in the frames.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import Wav2Vec2Model

from adapters.aniportrait.networks.audio import FIXED, SETTINGS, SpeechEncoder, build_encoder
from adapters.aniportrait.networks.config import check_settings
from adapters.aniportrait.networks.layers import PositionCode
from kit.attention import Attend, attend, merge_heads, split_heads

HEADS, LAYERS, STYLES, LONGEST = 8, 8, 100, 600


def distance_penalty(length: int, *, device: torch.device | None = None) -> Tensor:
    """ALiBi of the last of ``length`` frames towards each of them: ``[8, length]``, 0 at the end, negative before.

    Frame i's penalty towards frames 0..i is the last i + 1 columns.
    """
    slopes = 0.5 ** torch.arange(1, HEADS + 1, dtype=torch.float32, device=device)
    distance = torch.arange(length - 1, -1, -1, dtype=torch.float32, device=device)
    return -slopes[:, None] * distance


class Memory(NamedTuple):
    """What one layer remembers of a sequence.

    Attributes:
        keys: ``[B, heads, frames, width]``, filled up to the current frame.
        values: as ``keys``.
        heard: ``[B, frames, width]``, what the layer's cross-attention returns for each frame.
    """

    keys: Tensor
    values: Tensor
    heard: Tensor


class PackedAttention(nn.Module):
    """The tensors of ``nn.MultiheadAttention``, which packs the three projections into one matrix."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.in_proj_weight = nn.Parameter(torch.empty(3 * width, width))
        self.in_proj_bias = nn.Parameter(torch.zeros(3 * width))
        self.out_proj = nn.Linear(width, width)
        self.attend: Attend = attend
        nn.init.xavier_uniform_(self.in_proj_weight)

    def alone(self, memory: Tensor) -> Tensor:
        """Attention in which each place sees its own entry of ``memory [B, N, width]`` only, whatever it asks."""
        width = memory.shape[-1]
        weight, bias = self.in_proj_weight[2 * width :], self.in_proj_bias[2 * width :]
        return self.out_proj(F.linear(memory, weight.to(memory.dtype), bias.to(memory.dtype)))

    def forward(self, x: Tensor, memory: Memory, index: int, penalty: Tensor) -> Tensor:
        """Self-attention of frame ``index`` (``x [B, 1, width]``) over itself and the frames before it."""
        packed = F.linear(x, self.in_proj_weight.to(x.dtype), self.in_proj_bias.to(x.dtype))
        query, key, value = (split_heads(part, HEADS) for part in packed.chunk(3, dim=-1))
        memory.keys[:, :, index : index + 1] = key
        memory.values[:, :, index : index + 1] = value
        seen = slice(0, index + 1)
        return self.out_proj(
            merge_heads(self.attend(query, memory.keys[:, :, seen], memory.values[:, :, seen], penalty))
        )


class PoseDecoderLayer(nn.Module):
    """``nn.TransformerDecoderLayer`` with norms after the residuals, one frame at a time."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.self_attn = PackedAttention(width)
        self.multihead_attn = PackedAttention(width)
        self.linear1 = nn.Linear(width, 2 * width)
        self.linear2 = nn.Linear(2 * width, width)
        self.norm1, self.norm2, self.norm3 = (nn.LayerNorm(width) for _ in range(3))

    def remember(self, sound: Tensor) -> Memory:
        """An empty memory for ``sound [B, frames, width]``."""
        heard = self.multihead_attn.alone(sound)
        empty = split_heads(torch.zeros_like(heard), HEADS)
        return Memory(empty, empty.clone(), heard)

    def forward(self, x: Tensor, memory: Memory, index: int, penalty: Tensor) -> Tensor:
        """``x [B, 1, width]`` of frame ``index`` to the same; adds the frame to ``memory``."""
        x = self.norm1(x + self.self_attn(x, memory, index, penalty))
        x = self.norm2(x + memory.heard[:, index : index + 1])
        return self.norm3(x + self.linear2(F.relu(self.linear1(x))))


class PoseDecoder(nn.Module):
    """The stack of layers under its published name."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList([PoseDecoderLayer(width) for _ in range(LAYERS)])


class Audio2Pose(SpeechEncoder):
    """Rotation and translation of the head for each video frame."""

    def __init__(self, encoder: Wav2Vec2Model, *, out_dim: int, latent_dim: int, last_only: bool) -> None:
        super().__init__(encoder, last_only=last_only)
        self.pose_map = nn.Linear(out_dim, latent_dim)
        self.in_fn = nn.Linear(encoder.config.hidden_size, latent_dim)
        self.PPE = PositionCode(LONGEST, latent_dim)
        self.transformer_decoder = PoseDecoder(latent_dim)
        self.pose_map_r = nn.Linear(latent_dim, out_dim)
        self.id_embed = nn.Embedding(STYLES, latent_dim)

    def forward(self, waveform: Tensor, frames: int, style: int = 0) -> Tensor:
        """Head poses, before upstream halves the angles and smooths them.

        Args:
            waveform: ``[B, T]``, 16 kHz mono, normalised to mean 0 and variance 1 over the clip.
            frames: of video, 1..600.
            style: 0..99, whose way of moving the head; upstream draws it at random.

        Returns:
            ``[B, frames, 6]``: Euler angles x, y, z in degrees, translation in the mesh's unit.

        Raises:
            ValueError: no such tensor, a sound that is too short, or frames or style out of range.
        """
        if not 1 <= frames <= LONGEST:
            raise ValueError(f"audio2pose takes 1 to {LONGEST} frames at once, got {frames}: cut the sound into pieces")
        if not 0 <= style < STYLES:
            raise ValueError(f"style must be 0 to {STYLES - 1}, got {style}")
        return self.decode(self.in_fn(self.encode(waveform, frames)), style)

    def decode(self, sound: Tensor, style: int) -> Tensor:
        """``sound [B, frames, latent_dim]`` to poses ``[B, frames, out_dim]``."""
        frames = sound.shape[1]
        layers = self.transformer_decoder.layers
        memories = [cast(PoseDecoderLayer, layer).remember(sound) for layer in layers]
        penalty = distance_penalty(frames, device=sound.device).to(sound.dtype)[:, None]
        # Places are added to nothing first, so that one call gives the codes of all frames.
        places = self.PPE(torch.zeros_like(sound[:1])) + self.id_embed(torch.tensor([style], device=sound.device))
        pose = sound.new_zeros(sound.shape[0], 1, self.pose_map.in_features)
        poses = []
        for index in range(frames):
            x = self.pose_map(pose) + places[:, index : index + 1]
            for layer, memory in zip(layers, memories, strict=True):
                x = layer(x, memory, index, penalty[..., frames - 1 - index :])
            pose = self.pose_map_r(x)
            poses.append(pose)
        return torch.cat(poses, dim=1)


def build_audio2pose(overrides: Mapping[str, Any]) -> Audio2Pose:
    """The published network with some settings changed.

    Raises:
        ValueError: a setting that does not exist, or a value that is not supported.
    """
    check_settings(overrides, known=SETTINGS, fixed=FIXED, what="audio2pose")
    return Audio2Pose(
        build_encoder(overrides.get("wav2vec2", {})),
        out_dim=overrides.get("out_dim", 6),
        latent_dim=overrides.get("latent_dim", 512),
        last_only=overrides.get("only_last_fetures", True),
    )

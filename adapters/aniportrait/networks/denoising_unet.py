"""The denoising UNet: Stable Diffusion 1.5's, with motion modules, pose features and a reference picture's tokens.

Implements ``src/models/unet_3d.py`` and the reading half of ``src/models/mutual_self_attention.py`` of
Zejun-Yang/AniPortrait (commit 7f6593f), arXiv 2403.17694. Tensor names are those of the published checkpoints.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from adapters.aniportrait.networks.config import UNet3DConfig
from adapters.aniportrait.networks.layers import (
    ClipGroupNorm,
    Downsample,
    EntryConv2d,
    ResnetBlock,
    TimestepEmbedding,
    Upsample,
    batch_to_frames,
    frames_to_batch,
)
from adapters.aniportrait.networks.motion import MotionModule
from adapters.aniportrait.networks.spatial import SpatialTransformer

Banks = Mapping[str, Tensor]
"""Reference tokens ``[R, N, C]`` by the path of the transformer block that reads them."""


class Level(NamedTuple):
    """What the blocks of one level are made of."""

    channels: int
    heads: int
    attention: bool
    motion: bool


class Condition(NamedTuple):
    """What every block of one call is given.

    Attributes:
        time: ``[B, 4*C0]``.
        context: ``[B, T, cross_attention_dim]``.
        frames: F.
        guided: the first half of the batch does not read the banks.
    """

    time: Tensor
    context: Tensor
    frames: int
    guided: bool


class Stage(nn.Module):
    """Layers of one level: each a resnet, then a spatial transformer and a motion module where the level has them."""

    def __init__(self, inputs: Sequence[int], level: Level, config: UNet3DConfig) -> None:
        super().__init__()
        self.resnets = nn.ModuleList([_resnet(width, level.channels, config) for width in inputs])
        if level.attention:
            self.attentions = nn.ModuleList([_attention(level, config) for _ in inputs])
        if level.motion:
            self.motion_modules = nn.ModuleList(
                [MotionModule(level.channels, config.motion_module_kwargs) for _ in inputs]
            )
        self.level = level

    def layer(self, index: int, x: Tensor, condition: Condition, bank: Tensor | None) -> Tensor:
        """``x [B*F, in, h, w]`` to ``[B*F, C, h, w]``."""
        x = self.resnets[index](x, condition.time, condition.frames)
        if self.level.attention:
            x = self.attentions[index](x, condition.context, condition.frames, bank, condition.guided)
        if self.level.motion:
            x = self.motion_modules[index](x, condition.frames)
        return x


def _resnet(inputs: int, outputs: int, config: UNet3DConfig) -> ResnetBlock:
    time_width = 4 * config.block_out_channels[0]
    joint = not config.use_inflated_groupnorm
    return ResnetBlock(inputs, outputs, time_width, groups=config.norm_num_groups, eps=config.norm_eps, joint=joint)


def _attention(level: Level, config: UNet3DConfig) -> SpatialTransformer:
    return SpatialTransformer(
        level.channels,
        level.heads,
        level.channels // level.heads,
        context_width=config.cross_attention_dim,
        groups=config.norm_num_groups,
    )


class DownStage(Stage):
    """Layers, then (except at the last level) a halving of height and width."""

    def __init__(self, inputs: Sequence[int], level: Level, config: UNet3DConfig, *, halve: bool) -> None:
        super().__init__(inputs, level, config)
        self.downsamplers = nn.ModuleList([Downsample(level.channels)] if halve else [])

    def forward(self, x: Tensor, condition: Condition, banks: Sequence[Tensor | None]) -> tuple[Tensor, list[Tensor]]:
        """The level's output, and what its layers leave for the way up."""
        skips = []
        for index, bank in enumerate(banks):
            x = self.layer(index, x, condition, bank)
            skips.append(x)
        for downsampler in self.downsamplers:
            x = downsampler(x)
            skips.append(x)
        return x, skips


class MiddleStage(nn.Module):
    """Resnet, spatial transformer, motion module (if configured), resnet."""

    def __init__(self, level: Level, config: UNet3DConfig) -> None:
        super().__init__()
        self.resnets = nn.ModuleList([_resnet(level.channels, level.channels, config) for _ in range(2)])
        self.attentions = nn.ModuleList([_attention(level, config)])
        self.motion_modules = nn.ModuleList(
            [MotionModule(level.channels, config.motion_module_kwargs)] if level.motion else []
        )

    def forward(self, x: Tensor, condition: Condition, bank: Tensor | None) -> Tensor:
        """``[B*F, C, h, w]`` to the same."""
        x = self.resnets[0](x, condition.time, condition.frames)
        x = self.attentions[0](x, condition.context, condition.frames, bank, condition.guided)
        for motion_module in self.motion_modules:
            x = motion_module(x, condition.frames)
        return self.resnets[1](x, condition.time, condition.frames)


class UpStage(Stage):
    """Layers that each take one skip tensor, then (except at the last level) an enlargement to the next skip's size."""

    def __init__(self, inputs: Sequence[int], level: Level, config: UNet3DConfig, *, enlarge: bool) -> None:
        super().__init__(inputs, level, config)
        self.upsamplers = nn.ModuleList([Upsample(level.channels)] if enlarge else [])

    def forward(self, x: Tensor, skips: list[Tensor], condition: Condition, banks: Sequence[Tensor | None]) -> Tensor:
        """Consumes its skip tensors from the end of ``skips``."""
        for index, bank in enumerate(banks):
            x = self.layer(index, torch.cat((x, skips.pop()), dim=1), condition, bank)
        for upsampler in self.upsamplers:
            # The next skip's size, not twice this one: latents whose sides 8 does not divide were rounded up.
            height, width = skips[-1].shape[-2:]
            x = upsampler(x, (height, width))
        return x


def _levels(config: UNet3DConfig, types: Sequence[str], *, decoder: bool) -> list[Level]:
    """Levels from full resolution down; ``types`` in the same order."""
    return [
        Level(channels, heads, kind.startswith("CrossAttn"), config.motion_at(depth, decoder=decoder))
        for depth, (channels, heads, kind) in enumerate(
            zip(config.block_out_channels, config.heads, types, strict=True)
        )
    ]


def _down_stages(config: UNet3DConfig) -> list[DownStage]:
    stages, width, count = [], config.block_out_channels[0], config.layers_per_block
    levels = _levels(config, config.down_block_types, decoder=False)
    for level in levels:
        inputs = [width] + [level.channels] * (count - 1)
        stages.append(DownStage(inputs, level, config, halve=level is not levels[-1]))
        width = level.channels
    return stages


def _up_stages(config: UNet3DConfig) -> list[UpStage]:
    levels = _levels(config, config.up_block_types[::-1], decoder=True)[::-1]
    stages, width, count = [], levels[0].channels, config.layers_per_block + 1
    for level, finer in zip(levels, [*levels[1:], levels[-1]], strict=True):
        # The skips of a level are its layers' outputs, the last of them the input that came from the finer level.
        skips = [level.channels] * (count - 1) + [finer.channels]
        carried = [width] + [level.channels] * (count - 1)
        inputs = [own + skip for own, skip in zip(carried, skips, strict=True)]
        stages.append(UpStage(inputs, level, config, enlarge=level is not levels[-1]))
        width = level.channels
    return stages


class DenoisingUNet(nn.Module):
    """Predicts what the diffusion step removes from a clip of latents."""

    def __init__(self, config: UNet3DConfig) -> None:
        super().__init__()
        self.config = config
        first, last = config.block_out_channels[0], config.block_out_channels[-1]
        self.conv_in = EntryConv2d(config.in_channels, first, 3, padding=1)
        self.time_embedding = TimestepEmbedding(
            first, 4 * first, cosine_first=config.flip_sin_to_cos, shift=config.freq_shift
        )
        self.down_blocks = nn.ModuleList(_down_stages(config))
        middle = Level(last, config.heads[-1], True, config.use_motion_module and config.motion_module_mid_block)
        self.mid_block = MiddleStage(middle, config)
        self.up_blocks = nn.ModuleList(_up_stages(config))
        joint = not config.use_inflated_groupnorm
        self.conv_norm_out = ClipGroupNorm(config.norm_num_groups, first, config.norm_eps, joint=joint)
        self.conv_out = nn.Conv2d(first, config.out_channels, 3, padding=1)
        self.readers = tuple(
            name.removesuffix(".norm1")
            for name, _ in self.named_modules()
            if name.endswith("transformer_blocks.0.norm1")
        )

    def forward(
        self,
        latents: Tensor,
        timestep: Tensor | float,
        encoder_hidden_states: Tensor,
        pose_features: Sequence[Tensor] | None = None,
        banks: Banks | None = None,
        guided: bool = False,
    ) -> Tensor:
        """One prediction for a window of frames.

        Args:
            latents: ``[B, 4, F, h, w]``, any dtype and any h and w; F at most what the position codes cover (v2 32).
            timestep: a number, or ``[]`` or ``[B]``, in 0..999.
            encoder_hidden_states: ``[B, T, 768]``; T is 1 for the published weights (the CLIP image embedding).
            pose_features: five maps ``[B or 1, C_i, F, h_i, w_i]`` from the pose guider, or None.
            banks: from the reference UNet, one entry for each path in ``readers``; rows B, or those that read, or 1.
            guided: the batch is [unconditional half, conditional half]; the unconditional half does not read ``banks``.

        Returns:
            ``[B, 4, F, h, w]`` in the network's compute dtype.

        Raises:
            ValueError: tensors that do not fit each other or this network.
        """
        self._check(latents, pose_features, guided)
        batch, _, frames = latents.shape[:3]
        x = self.conv_in(frames_to_batch(2 * latents - 1 if self.config.center_input_sample else latents))
        context = encoder_hidden_states.to(x.dtype)
        condition = Condition(self._time(timestep, latents), context, frames, guided)
        read = self._banks(banks, batch // 2 if guided else batch, batch)
        poses = [None] * self._pose_maps if pose_features is None else list(pose_features)
        x = _add_pose(x, poses[0], batch)
        skips = [x]
        for index, stage in enumerate(self.down_blocks):
            x, more = stage(x, condition, self._bank_list(read, f"down_blocks.{index}", stage))
            skips.extend(more)
            # After the skips were taken: only the first of them carries pose.
            x = _add_pose(x, poses[index + 1], batch)
        x = self.mid_block(x, condition, read.get("mid_block.attentions.0.transformer_blocks.0"))
        for index, stage in enumerate(self.up_blocks):
            x = stage(x, skips, condition, self._bank_list(read, f"up_blocks.{index}", stage))
        x = self.conv_out(F.silu(self.conv_norm_out(x, frames)))
        return batch_to_frames(x, frames)

    @property
    def _pose_maps(self) -> int:
        return len(self.config.block_out_channels) + 1

    def _check(self, latents: Tensor, pose_features: Sequence[Tensor] | None, guided: bool) -> None:
        channels, motion = self.config.in_channels, self.config.motion_module_kwargs
        if latents.ndim != 5 or latents.shape[1] != channels:
            raise ValueError(f"latents must be [B, {channels}, F, h, w], got {list(latents.shape)}")
        limit = motion.temporal_position_encoding_max_len
        if self.config.use_motion_module and motion.temporal_position_encoding and latents.shape[2] > limit:
            raise ValueError(f"a window holds at most {limit} frames, got {latents.shape[2]}: use shorter windows")
        if guided and latents.shape[0] % 2:
            raise ValueError(f"guided needs [unconditional, conditional] halves, got a batch of {latents.shape[0]}")
        if pose_features is not None and len(pose_features) != self._pose_maps:
            raise ValueError(f"this network takes {self._pose_maps} pose feature maps, got {len(pose_features)}")

    def _time(self, timestep: Tensor | float, latents: Tensor) -> Tensor:
        timesteps = torch.as_tensor(timestep, device=latents.device)
        return self.time_embedding(timesteps.expand(latents.shape[0]))

    def _banks(self, banks: Banks | None, reading: int, batch: int) -> dict[str, Tensor]:
        """The banks' rows that are read: those of the conditional part of the batch, or a single one for all."""
        if banks is None:
            return {}
        missing, unknown = sorted(set(self.readers) - banks.keys()), sorted(banks.keys() - set(self.readers))
        if missing or unknown:
            raise ValueError(f"banks of another network: missing {missing[:4]}, unknown {unknown[:4]}")
        rows = {bank.shape[0] for bank in banks.values()}
        if len(rows) != 1 or not rows <= {1, reading, batch}:
            raise ValueError(f"banks must have {reading} or {batch} rows, or 1 for all, got {sorted(rows)}")
        return {name: bank[-reading:] for name, bank in banks.items()}

    @staticmethod
    def _bank_list(read: Mapping[str, Tensor], prefix: str, stage: nn.Module) -> list[Tensor | None]:
        return [
            read.get(f"{prefix}.attentions.{index}.transformer_blocks.0")
            for index in range(len(cast(Stage, stage).resnets))
        ]


def _add_pose(x: Tensor, pose: Tensor | None, batch: int) -> Tensor:
    if pose is None:
        return x
    return x + frames_to_batch(pose.to(x.dtype).expand(batch, -1, -1, -1, -1))

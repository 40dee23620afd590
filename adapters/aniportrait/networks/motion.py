"""Motion modules: attention along the frames, for each pixel by itself (Guo et al., AnimateDiff, arXiv 2307.04725)."""

from torch import Tensor, nn

from adapters.aniportrait.networks.attention import Attention, FeedForward
from adapters.aniportrait.networks.config import MotionConfig
from adapters.aniportrait.networks.layers import PositionCode


class TemporalAttention(Attention):
    """Self-attention over frames that know their place; queries, keys and values all see the position code."""

    def __init__(self, width: int, config: MotionConfig) -> None:
        super().__init__(width, config.num_attention_heads, width // config.num_attention_heads)
        self.pos_encoder = (
            PositionCode(config.temporal_position_encoding_max_len, width)
            if config.temporal_position_encoding
            else nn.Identity()
        )

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        """``[P, F, width]`` to the same, P pixels."""
        return super().forward(self.pos_encoder(x), context)


class TemporalBlock(nn.Module):
    """Self-attentions and a feed-forward layer, each behind a layer norm and beside a residual."""

    def __init__(self, width: int, config: MotionConfig) -> None:
        super().__init__()
        layers = len(config.attention_block_types)
        self.attention_blocks = nn.ModuleList([TemporalAttention(width, config) for _ in range(layers)])
        self.norms = nn.ModuleList([nn.LayerNorm(width) for _ in range(layers)])
        self.ff = FeedForward(width)
        self.ff_norm = nn.LayerNorm(width)

    def forward(self, x: Tensor) -> Tensor:
        """``[P, F, width]`` to the same, P pixels."""
        for attention, norm in zip(self.attention_blocks, self.norms, strict=True):
            x = x + attention(norm(x))
        return x + self.ff(self.ff_norm(x))


class TemporalTransformer(nn.Module):
    """Norm, projection, blocks and projection, with a residual."""

    def __init__(self, channels: int, config: MotionConfig) -> None:
        super().__init__()
        heads = config.num_attention_heads
        inner = channels // heads // config.temporal_attention_dim_div * heads
        self.norm = nn.GroupNorm(32, channels, eps=1e-6)
        self.proj_in = nn.Linear(channels, inner)
        self.transformer_blocks = nn.ModuleList(
            [TemporalBlock(inner, config) for _ in range(config.num_transformer_block)]
        )
        self.proj_out = nn.Linear(inner, channels)

    def forward(self, x: Tensor, frames: int) -> Tensor:
        """``[B*F, C, h, w]`` to the same. The norm takes its statistics frame by frame, in every version."""
        clip = self.norm(x).unflatten(0, (-1, frames)).permute(0, 3, 4, 1, 2)
        tokens = self.proj_in(clip.flatten(0, 2))
        for block in self.transformer_blocks:
            tokens = block(tokens)
        change = self.proj_out(tokens).unflatten(0, clip.shape[:3])
        return x + change.permute(0, 3, 4, 1, 2).flatten(0, 1)


class MotionModule(nn.Module):
    """``TemporalTransformer`` under its published name."""

    def __init__(self, channels: int, config: MotionConfig) -> None:
        super().__init__()
        self.temporal_transformer = TemporalTransformer(channels, config)

    def forward(self, x: Tensor, frames: int) -> Tensor:
        """``[B*F, C, h, w]`` to the same."""
        return self.temporal_transformer(x, frames)

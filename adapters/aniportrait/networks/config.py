"""Settings of the networks: what may be changed, what has one value only, and a refusal for everything else."""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any

Fixed = Mapping[str, tuple[Any, ...]]


def check_settings(overrides: Mapping[str, Any], *, known: tuple[str, ...], fixed: Fixed, what: str) -> None:
    """Refuse settings that do not exist or whose value is not supported.

    Args:
        overrides: settings by name.
        known: names that may take any value.
        fixed: names that exist for the sake of published configuration files, with the values that are supported.
        what: whose settings they are, for the message.

    Raises:
        ValueError: lists the names that exist, or the values that are supported.
    """
    unknown = sorted(overrides.keys() - set(known) - fixed.keys())
    if unknown:
        choices = ", ".join((*known, *fixed))
        raise ValueError(f"aniportrait's {what} has no setting {', '.join(unknown)}; it has: {choices}")
    for name, allowed in fixed.items():
        if name in overrides and overrides[name] not in allowed:
            values = " or ".join(repr(value) for value in allowed)
            raise ValueError(f"aniportrait's {what} supports {name}={values} only, got {overrides[name]!r}")


def tuples(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The same settings with lists, as JSON and YAML have them, turned into tuples."""
    return {name: tuple(value) if isinstance(value, list) else value for name, value in settings.items()}


@dataclass(frozen=True)
class MotionConfig:
    """Shape of a motion module; the defaults are those of the published weights.

    Attributes:
        temporal_position_encoding_max_len: the most frames one call can see.
        temporal_attention_dim_div: by how much the attention is narrower than the channels.
    """

    num_attention_heads: int = 8
    num_transformer_block: int = 1
    attention_block_types: tuple[str, ...] = ("Temporal_Self", "Temporal_Self")
    temporal_position_encoding: bool = True
    temporal_position_encoding_max_len: int = 32
    temporal_attention_dim_div: int = 1

    def __post_init__(self) -> None:
        other = sorted(set(self.attention_block_types) - {"Temporal_Self"})
        if other:
            raise ValueError(f"motion modules have attention_block_types 'Temporal_Self' only, got {', '.join(other)}")


@dataclass(frozen=True)
class UNet3DConfig:
    """Shape of the denoising UNet, under the names of upstream's configuration files.

    Attributes:
        attention_head_dim: NUMBER of heads (an old quirk of diffusers' configurations), one or one per level.
        use_inflated_groupnorm: group norms take their statistics frame by frame instead of over the whole clip.
        motion_module_resolutions: downsampling factors of the levels that have motion modules.
    """

    in_channels: int = 4
    out_channels: int = 4
    center_input_sample: bool = False
    flip_sin_to_cos: bool = True
    freq_shift: int = 0
    layers_per_block: int = 2
    block_out_channels: tuple[int, ...] = (320, 640, 1280, 1280)
    norm_num_groups: int = 32
    norm_eps: float = 1e-5
    cross_attention_dim: int = 768
    attention_head_dim: int | tuple[int, ...] = 8
    down_block_types: tuple[str, ...] = ("CrossAttnDownBlock3D",) * 3 + ("DownBlock3D",)
    up_block_types: tuple[str, ...] = ("UpBlock3D",) + ("CrossAttnUpBlock3D",) * 3
    use_inflated_groupnorm: bool = True
    use_motion_module: bool = True
    motion_module_resolutions: tuple[int, ...] = (1, 2, 4, 8)
    motion_module_mid_block: bool = True
    motion_module_decoder_only: bool = False
    motion_module_kwargs: MotionConfig = field(default_factory=MotionConfig)

    def __post_init__(self) -> None:
        levels = len(self.block_out_channels)
        for name, choices in (
            ("down_block_types", ("CrossAttnDownBlock3D", "DownBlock3D")),
            ("up_block_types", ("UpBlock3D", "CrossAttnUpBlock3D")),
        ):
            types = getattr(self, name)
            if len(types) != levels or not set(types) <= set(choices):
                raise ValueError(f"{name} must be {levels} of {', '.join(choices)}, one per level, got {types}")
        if len(self.heads) != levels:
            raise ValueError(f"attention_head_dim must be one number or {levels}, got {self.attention_head_dim}")

    @property
    def heads(self) -> tuple[int, ...]:
        """Attention heads of each level."""
        if isinstance(self.attention_head_dim, int):
            return (self.attention_head_dim,) * len(self.block_out_channels)
        return self.attention_head_dim

    def motion_at(self, level: int, *, decoder: bool) -> bool:
        """Whether the blocks of a level (0 is full resolution) have motion modules."""
        wanted = self.use_motion_module and 2**level in self.motion_module_resolutions
        return wanted and (decoder or not self.motion_module_decoder_only)


UNET3D: Mapping[str, UNet3DConfig] = {
    "v2": UNet3DConfig(),
    "v1": UNet3DConfig(
        use_inflated_groupnorm=False,
        motion_module_mid_block=False,
        motion_module_kwargs=MotionConfig(temporal_position_encoding_max_len=24),
    ),
}
_UNET3D_FIXED: Fixed = {
    "act_fn": ("silu",),
    "downsample_padding": (1,),
    "mid_block_scale_factor": (1,),
    "mid_block_type": ("UNetMidBlock3DCrossAttn",),
    "motion_module_type": ("Vanilla",),
    "unet_use_cross_frame_attention": (False, None),
    "unet_use_temporal_attention": (False, None),
}
# The size of the training pictures, in configuration files only: the network does not depend on it.
_IDLE = ("sample_size",)


def _names(config: type) -> tuple[str, ...]:
    return tuple(entry.name for entry in fields(config))


def unet3d_config(variant: str, overrides: Mapping[str, Any]) -> UNet3DConfig:
    """A variant's configuration with some settings changed.

    Raises:
        ValueError: a setting that does not exist, or a value that is not supported.
    """
    check_settings(overrides, known=_names(UNet3DConfig) + _IDLE, fixed=_UNET3D_FIXED, what="denoising_unet")
    base = UNET3D[variant]
    changes = {name: value for name, value in tuples(overrides).items() if name in _names(UNet3DConfig)}
    motion = changes.pop("motion_module_kwargs", {})
    check_settings(motion, known=_names(MotionConfig), fixed={}, what="motion_module_kwargs")
    return replace(base, motion_module_kwargs=replace(base.motion_module_kwargs, **tuples(motion)), **changes)

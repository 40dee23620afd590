"""The five published variants as data, and how settings of a smaller or other network are read.

Source: github.com/YvanYin/Metric3D at eb5b6fa, ``mono/configs/HourglassDecoder`` and ``mono/configs/_base_/models``.
Names of settings are upstream's.
"""

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from types import MappingProxyType
from typing import Any, TypeVar

Range = tuple[float, float]
FFN_LAYERS = ("mlp", "swiglu", "swiglufused")
# Settings upstream's files carry and whose other values no published network uses.
FIXED_ENCODER: Mapping[str, object] = MappingProxyType({"patch_size": 14})
FIXED_DECODER: Mapping[str, object] = MappingProxyType(
    {"use_cls_token": True, "n_gru_layers": 3, "up_scale": 7, "slow_fast_gru": True}
)


@dataclass(frozen=True)
class VitConfig:
    """A DINOv2 encoder with registers.

    Attributes:
        embed_dim: width of a token, a multiple of ``num_heads``.
        depth: number of blocks.
        num_heads: attention heads.
        mlp_ratio: hidden width of a block's MLP in token widths.
        ffn_layer: "mlp" or "swiglu" ("swiglufused" is another name of it).
        multi_output: hand on raw tokens from four depths instead of the normalised last ones.
        img_size: side in pixels of the pictures the position embedding was learned on, a multiple of 14.
        num_register_tokens: tokens beside the class token that stand for no patch.
    """

    embed_dim: int
    depth: int
    num_heads: int
    mlp_ratio: float = 4.0
    ffn_layer: str = "mlp"
    multi_output: bool = False
    img_size: int = 518
    num_register_tokens: int = 4


@dataclass(frozen=True)
class RaftConfig:
    """A dense-prediction decoder with recurrent refinement.

    Attributes:
        in_channels: width of the encoder's tokens at each of the four levels.
        feature_channels: channels of the maps read from the tokens, finest first.
        decoder_channels: channels of the fused maps, finest first; the first is not used.
        hidden_channels: channels of the recurrent states, finest first; the first and third are equal.
        iters: refinement steps.
        n_downsample: log2 of the upsampling from the refined state to the result.
        depth_normalize: nearest and farthest canonical depth in metres.
        num_register_tokens: register tokens among the encoder's.
    """

    in_channels: tuple[int, ...]
    feature_channels: tuple[int, ...]
    decoder_channels: tuple[int, ...]
    hidden_channels: tuple[int, ...]
    iters: int
    n_downsample: int = 2
    depth_normalize: Range = (0.1, 200.0)
    num_register_tokens: int = 4


@dataclass(frozen=True)
class VitVariant:
    """A network of the second generation: depth and surface normals."""

    encoder: VitConfig
    decoder: RaftConfig


@dataclass(frozen=True)
class ConvNextVariant:
    """A network of the first generation: depth only.

    Attributes:
        depths: blocks in each of the four stages.
        dims: channels of each stage.
        decoder_channel: channels of the hourglass, finest first; the first is not used.
        depth_normalize: nearest and farthest depth bin, in canonical metres.
    """

    depths: tuple[int, ...]
    dims: tuple[int, ...]
    decoder_channel: tuple[int, ...]
    depth_normalize: Range = (0.3, 150.0)


AnyVariant = VitVariant | ConvNextVariant
VARIANTS: Mapping[str, AnyVariant] = MappingProxyType(
    {
        "vit_small": VitVariant(
            VitConfig(384, 12, 6),
            RaftConfig((384,) * 4, (96, 192, 384, 768), (48, 96, 192, 384, 384), (48,) * 4, iters=4),
        ),
        "vit_large": VitVariant(
            VitConfig(1024, 24, 16),
            RaftConfig((1024,) * 4, (256, 512, 1024, 1024), (128, 256, 512, 1024, 1024), (128,) * 4, iters=8),
        ),
        "vit_giant2": VitVariant(
            VitConfig(1536, 40, 24, ffn_layer="swiglu", multi_output=True),
            RaftConfig((1536,) * 4, (384, 768, 1536, 1536), (192, 384, 768, 1536, 1536), (192,) * 4, iters=8),
        ),
        "convnext_tiny": ConvNextVariant((3, 3, 9, 3), (96, 192, 384, 768), (64, 64, 128, 256)),
        "convnext_large": ConvNextVariant((3, 3, 27, 3), (192, 384, 768, 1536), (128, 128, 256, 512)),
    }
)

Config = TypeVar("Config", VitConfig, RaftConfig, ConvNextVariant)


def configure(variant: str, overrides: Mapping[str, Any]) -> AnyVariant:
    """The configuration of ``variant`` with some settings replaced.

    Args:
        variant: a key of ``VARIANTS``.
        overrides: for a ViT ``encoder`` and ``decoder``, each a mapping of settings; for a ConvNeXt its settings.

    Raises:
        ValueError: a variant or setting that does not exist, or settings that do not fit together.
    """
    if variant not in VARIANTS:
        raise ValueError(f"metric3d has no variant {variant!r}; choose from {', '.join(VARIANTS)}")
    base = VARIANTS[variant]
    if isinstance(base, ConvNextVariant):
        config = _replaced(base, overrides, {}, variant)
        _require_lengths(variant, depths=(config.depths, 4), dims=(config.dims, 4))
        _require_lengths(
            variant, decoder_channel=(config.decoder_channel, 4), depth_normalize=(config.depth_normalize, 2)
        )
        return config
    _refuse_unknown(overrides, ("encoder", "decoder"), variant)
    encoder = _replaced(base.encoder, overrides.get("encoder", {}), FIXED_ENCODER, f"{variant}'s encoder")
    follow = {"in_channels": (encoder.embed_dim,) * 4, "num_register_tokens": encoder.num_register_tokens}
    decoder = _replaced(base.decoder, {**follow, **overrides.get("decoder", {})}, FIXED_DECODER, f"{variant}'s decoder")
    _check_encoder(encoder, variant)
    _check_decoder(encoder, decoder, variant)
    return VitVariant(encoder, decoder)


def _refuse_unknown(given: Mapping[str, Any], known: tuple[str, ...], where: str) -> None:
    if unknown := sorted(set(given) - set(known)):
        raise ValueError(f"{where} has no setting {', '.join(unknown)}; choose from {', '.join(known)}")


def _replaced(base: Config, given: Mapping[str, Any], fixed: Mapping[str, object], where: str) -> Config:
    names = tuple(field.name for field in fields(base))
    _refuse_unknown(given, names + tuple(fixed), where)
    for name, value in fixed.items():
        if name in given and given[name] != value:
            raise ValueError(f"{where} is implemented for {name}={value}, got {given[name]}")
    settings: dict[str, Any] = {n: tuple(v) if isinstance(v, list) else v for n, v in given.items() if n not in fixed}
    return replace(base, **settings)


def _require_lengths(where: str, **settings: tuple[tuple[float, ...], int]) -> None:
    for name, (values, length) in settings.items():
        if len(values) != length:
            raise ValueError(f"{where}: {name} takes {length} numbers, got {len(values)}: {values}")


def _check_encoder(encoder: VitConfig, where: str) -> None:
    if encoder.ffn_layer not in FFN_LAYERS:
        raise ValueError(f"{where} has no ffn_layer {encoder.ffn_layer!r}; choose from {', '.join(FFN_LAYERS)}")
    if encoder.embed_dim % encoder.num_heads:
        raise ValueError(f"{where}: embed_dim {encoder.embed_dim} is no multiple of num_heads {encoder.num_heads}")
    if encoder.img_size % 14:
        raise ValueError(f"{where}: img_size {encoder.img_size} is no multiple of 14")
    if encoder.multi_output and encoder.depth % 4:
        raise ValueError(f"{where}: multi_output takes four depths of the encoder; depth {encoder.depth} is not 4n")


def _check_decoder(encoder: VitConfig, decoder: RaftConfig, where: str) -> None:
    features, channels, hidden = decoder.feature_channels, decoder.decoder_channels, decoder.hidden_channels
    _require_lengths(where, in_channels=(decoder.in_channels, 4), feature_channels=(features, 4))
    _require_lengths(where, decoder_channels=(channels, 5), hidden_channels=(hidden, 4))
    _require_lengths(where, depth_normalize=(decoder.depth_normalize, 2))
    width = encoder.embed_dim
    for name, got, needed in (
        ("in_channels", decoder.in_channels, (width,) * 4),
        ("num_register_tokens", decoder.num_register_tokens, encoder.num_register_tokens),
        ("feature_channels[2]", features[2], width),
        ("decoder_channels[3:]", channels[3:], (width, width)),
        ("decoder_channels[2]", channels[2], features[1]),
        ("hidden_channels[2]", hidden[2], hidden[0]),
    ):
        if got != needed:
            raise ValueError(f"{where}: {name} must be {needed} to fit its neighbours, got {got}")

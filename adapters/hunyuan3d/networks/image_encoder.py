"""Image encoder: a DINOv2 ViT-B/14 whose every norm is modulated by the camera of the view.

Implements ``svrm/ldm/modules/encoders/dinov2`` of Tencent/Hunyuan3D-1 (commit af913e6) after Oquab et al.,
"DINOv2: Learning Robust Visual Features without Supervision" (2023), and Peebles and Xie, "Scalable Diffusion Models
with Transformers" (2023), for the adaptive norm. Tensor names are those of the published file.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from kit.attention import Attend, attend, merge_heads, split_heads

NORM_EPS = 1e-6


@dataclass(frozen=True)
class ImageEncoderConfig:
    """Settings of the encoder; the defaults are those of the published file.

    Attributes:
        img_size: side in pixels of the square the position table was made for.
        init_values: start value of the layer scales.
        interpolate_offset: added to the patch counts when the position table is resized.
        pos_emb_dim: width of the camera embedding; the adaptive norms need it equal to ``embed_dim``.
        ffn_layer: only "mlp" is published, as only ``block_chunks=0`` and ``num_register_tokens=0`` are.
    """

    img_size: int = 518
    patch_size: int = 14
    embed_dim: int = 768
    depth: int = 12
    num_heads: int = 12
    mlp_ratio: float = 4.0
    init_values: float = 1.0
    ffn_layer: str = "mlp"
    block_chunks: int = 0
    num_register_tokens: int = 0
    interpolate_antialias: bool = False
    interpolate_offset: float = 0.1
    pos_emb_dim: int = 768
    cam_cond_dim: int = 20

    def __post_init__(self) -> None:
        if (self.ffn_layer, self.block_chunks, self.num_register_tokens) != ("mlp", 0, 0) or not self.init_values:
            raise ValueError(
                "image_encoder is built with ffn_layer='mlp', block_chunks=0, num_register_tokens=0 and non-zero "
                f"init_values; got {self.ffn_layer!r}, {self.block_chunks}, {self.num_register_tokens}, "
                f"{self.init_values}"
            )
        if self.pos_emb_dim != self.embed_dim:
            raise ValueError(f"pos_emb_dim {self.pos_emb_dim} must equal embed_dim {self.embed_dim}")


class AdaptiveNorm(nn.Module):
    """LayerNorm without weights, shifted and scaled by a linear map of the camera embedding."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.width = width
        self.adaLN_modulation = nn.Sequential(nn.SiLU(), nn.Linear(width, 2 * width))

    def forward(self, tokens: Tensor, camera: Tensor) -> Tensor:
        """``tokens [V, N, C]`` and ``camera [V, C]`` to ``[V, N, C]``."""
        shift, scale = self.adaLN_modulation(camera).unsqueeze(1).chunk(2, dim=-1)
        return F.layer_norm(tokens, (self.width,), eps=NORM_EPS) * (1 + scale) + shift


class SelfAttention(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)
        self.attend: Attend = attend

    def forward(self, tokens: Tensor) -> Tensor:
        query, key, value = (split_heads(part, self.heads) for part in self.qkv(tokens).chunk(3, dim=-1))
        return self.proj(merge_heads(self.attend(query, key, value)))


class Mlp(nn.Module):
    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, hidden)
        self.fc2 = nn.Linear(hidden, width)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(tokens)))


class LayerScale(nn.Module):
    def __init__(self, width: int, start: float) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.full((width,), start))

    def forward(self, tokens: Tensor) -> Tensor:
        return tokens * self.gamma


class CameraBlock(nn.Module):
    """Pre-norm transformer block with adaptive norms and layer scales."""

    def __init__(self, config: ImageEncoderConfig) -> None:
        super().__init__()
        width = config.embed_dim
        self.norm1 = AdaptiveNorm(width)
        self.attn = SelfAttention(width, config.num_heads)
        self.ls1 = LayerScale(width, config.init_values)
        self.norm2 = AdaptiveNorm(width)
        self.mlp = Mlp(width, int(width * config.mlp_ratio))
        self.ls2 = LayerScale(width, config.init_values)

    def forward(self, tokens: Tensor, camera: Tensor) -> Tensor:
        tokens = tokens + self.ls1(self.attn(self.norm1(tokens, camera)))
        return tokens + self.ls2(self.mlp(self.norm2(tokens, camera)))


class PatchEmbed(nn.Module):
    def __init__(self, patch: int, width: int) -> None:
        super().__init__()
        self.patch = patch
        self.proj = nn.Conv2d(3, width, patch, stride=patch)

    def forward(self, images: Tensor) -> Tensor:
        """``[V, 3, H, W]`` to ``[V, rows * columns, C]``, row by row."""
        height, width = images.shape[-2:]
        if height % self.patch or width % self.patch:
            raise ValueError(f"image of {height}×{width} px: both sides must be multiples of {self.patch} px")
        return self.proj(images).flatten(2).transpose(1, 2)


class CameraVisionTransformer(nn.Module):
    def __init__(self, config: ImageEncoderConfig) -> None:
        super().__init__()
        self.config = config
        width, side = config.embed_dim, config.img_size // config.patch_size
        self.cls_token = nn.Parameter(torch.zeros(1, 1, width))
        self.pos_embed = nn.Parameter(torch.zeros(1, 1 + side * side, width))
        # Published, though nothing here is masked.
        self.mask_token = nn.Parameter(torch.zeros(1, width))
        self.cam_embed = nn.Sequential(
            nn.Linear(config.cam_cond_dim, width), nn.SiLU(), nn.Linear(width, config.pos_emb_dim)
        )
        self.patch_embed = PatchEmbed(config.patch_size, width)
        self.blocks = nn.ModuleList(CameraBlock(config) for _ in range(config.depth))
        self.norm = AdaptiveNorm(width)

    def positions(self, rows: int, columns: int) -> Tensor:
        """Position table ``[1, 1 + rows * columns, C]``, class token first, in the table's own dtype.

        A grid of another size is resized bicubically in fp32. Upstream passes the factor ``(rows + 0.1) / side``, and
        sampling coordinates follow that factor rather than the ratio of the sizes.
        """
        side = math.isqrt(self.pos_embed.shape[1] - 1)
        if rows == columns == side:
            return self.pos_embed
        offset = self.config.interpolate_offset
        table = self.pos_embed[:, 1:].float().unflatten(1, (side, side)).permute(0, 3, 1, 2)
        resized = F.interpolate(
            table,
            scale_factor=((rows + offset) / side, (columns + offset) / side),
            mode="bicubic",
            antialias=self.config.interpolate_antialias,
        )
        patches = resized.flatten(2).transpose(1, 2).to(self.pos_embed.dtype)
        return torch.cat((self.pos_embed[:, :1], patches), dim=1)

    def forward(self, images: Tensor, cameras: Tensor) -> Tensor:
        camera = self.cam_embed(cameras)
        rows, columns = (side // self.config.patch_size for side in images.shape[-2:])
        patches = self.patch_embed(images)
        tokens = torch.cat((self.cls_token.expand(len(patches), -1, -1), patches), dim=1)
        tokens = tokens + self.positions(rows, columns)
        for block in self.blocks:
            tokens = block(tokens, camera)
        return self.norm(tokens, camera)


class ImageEncoder(nn.Module):
    """Views and their cameras to tokens.

    ``module(images [V, 3, H, W], cameras [V, 20]) -> [V, 1 + H/14 * W/14, 768]``, class token first. Images are
    normalised with the ImageNet mean and deviation; a camera is a row-major camera-to-world matrix followed by
    ``fx, fy, cx, cy`` in units of the image side, or all zeros for the input view.

    Raises:
        ValueError: an image side is not a multiple of the patch.
    """

    published_name = "img_encoder"
    component = "image_encoder"

    def __init__(self, config: ImageEncoderConfig) -> None:
        super().__init__()
        self.model = CameraVisionTransformer(config)

    def forward(self, images: Tensor, cameras: Tensor) -> Tensor:
        return self.model(images, cameras)

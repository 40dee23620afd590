"""Sound to one vector per video frame, and from there to the face mesh.

Implements ``src/audio_models/{wav2vec2,model}.py`` of Zejun-Yang/AniPortrait (commit 7f6593f) on transformers' wav2vec
2.0 (Baevski et al., arXiv 2006.11477).
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import Wav2Vec2Config, Wav2Vec2Model

from adapters.aniportrait.networks.config import Fixed, check_settings, tuples
from adapters.aniportrait.networks.layers import make_entry

_ENCODER = (
    "hidden_size",
    "num_hidden_layers",
    "num_attention_heads",
    "intermediate_size",
    "conv_dim",
    "conv_kernel",
    "conv_stride",
    "num_conv_pos_embeddings",
    "num_conv_pos_embedding_groups",
)
# The checkpoints hold the whole encoder, so that there is nothing to take from a pretrained one.
FIXED: Fixed = {"model_path": (None,), "from_pretrained": (False,)}
SETTINGS = ("out_dim", "latent_dim", "only_last_fetures", "wav2vec2")


class WeightNormConv1d(nn.Module):
    """Grouped convolution whose kernel is stored as direction ``weight_v`` and length ``weight_g`` per position.

    The names are those of ``torch.nn.utils.weight_norm``, under which the checkpoints were saved and which torch now
    deprecates (Salimans and Kingma, arXiv 1602.07868).
    """

    def __init__(self, conv: nn.Conv1d) -> None:
        super().__init__()
        kernel, length = conv.weight.detach().clone(), conv.kernel_size[0]
        self.padding, self.groups = conv.padding, conv.groups
        self.weight_g = nn.Parameter(torch.linalg.vector_norm(kernel, dim=(0, 1)).view(1, 1, length))
        self.weight_v = nn.Parameter(kernel)
        self.bias = nn.Parameter(torch.zeros(conv.out_channels))

    def forward(self, x: Tensor) -> Tensor:
        """``[B, C, N]`` to ``[B, C, N + 2*padding - kernel + 1]``."""
        length = torch.linalg.vector_norm(self.weight_v, dim=(0, 1), keepdim=True)
        weight = self.weight_v * (self.weight_g / length)
        return F.conv1d(x, weight.to(x.dtype), self.bias.to(x.dtype), padding=self.padding, groups=self.groups)


def build_encoder(overrides: Mapping[str, Any]) -> Wav2Vec2Model:
    """wav2vec 2.0 base with some settings changed, its weight norm under the published names.

    Raises:
        ValueError: a setting that does not exist.
    """
    check_settings(overrides, known=_ENCODER, fixed={}, what="wav2vec2")
    encoder = Wav2Vec2Model(Wav2Vec2Config(**tuples(overrides)))
    positions = encoder.encoder.pos_conv_embed
    positions.set_submodule("conv", WeightNormConv1d(positions.conv))
    make_entry(encoder.feature_extractor.get_submodule("conv_layers.0.conv"))
    return encoder


class SpeechEncoder(nn.Module):
    """Base of the networks that start from sound; holds the encoder and the choice of its output.

    Attributes:
        last_only: the encoder's last layer is its output, as published; False for the mean over all layers.
    """

    def __init__(self, encoder: Wav2Vec2Model, *, last_only: bool) -> None:
        super().__init__()
        self.audio_encoder = encoder
        self.last_only = last_only

    @property
    def shortest(self) -> int:
        """The least number of samples the encoder's convolutions can take."""
        config, need = self.audio_encoder.config, 1
        for kernel, stride in zip(config.conv_kernel[::-1], config.conv_stride[::-1], strict=True):
            need = (need - 1) * stride + kernel
        return need

    def sound_features(self, waveform: Tensor, frames: int) -> Tensor:
        """What the convolutions hear, resampled to video frames: ``[B, frames, conv_dim]``.

        Raises:
            ValueError: no such tensor, a sound that is too short, or no frames.
        """
        if waveform.ndim != 2 or waveform.shape[1] < self.shortest:
            raise ValueError(
                f"waveform must be [B, T] with at least {self.shortest} samples, got {list(waveform.shape)}"
            )
        if frames < 1:
            raise ValueError(f"at least 1 frame is needed, got {frames}")
        features = self.audio_encoder.feature_extractor(waveform)
        return F.interpolate(features, size=frames, mode="linear", align_corners=True).transpose(1, 2)

    def encode(self, waveform: Tensor, frames: int) -> Tensor:
        """Sound to ``[B, frames, hidden_size]``; see ``sound_features``."""
        x, _ = self.audio_encoder.feature_projection(self.sound_features(waveform, frames))
        encoder = self.audio_encoder.encoder
        # The layers are called here one by one because transformers hands out all of their outputs only through its
        # whole model, which has no place for the resampling.
        x = encoder.layer_norm(x + encoder.pos_conv_embed(x))
        states = [x]
        for layer in encoder.layers:
            states.append(layer(states[-1]))
        return states[-1] if self.last_only else torch.stack(states).mean(dim=0)


class Audio2Mesh(SpeechEncoder):
    """Offsets of the face mesh's vertices for each video frame."""

    def __init__(self, encoder: Wav2Vec2Model, *, out_dim: int, latent_dim: int, last_only: bool) -> None:
        super().__init__(encoder, last_only=last_only)
        self.in_fn = nn.Linear(encoder.config.hidden_size, latent_dim)
        self.out_fn = nn.Linear(latent_dim, out_dim)

    def forward(self, waveform: Tensor, frames: int) -> Tensor:
        """Mesh offsets, to be added to the mesh of the portrait.

        Args:
            waveform: ``[B, T]``, 16 kHz mono, normalised to mean 0 and variance 1 over the clip.
            frames: of video; upstream's rate is 30 a second, ``ceil(T / 16000 * 30)``.

        Returns:
            ``[B, frames, 468, 3]`` in the mesh's own unit (centimetres).

        Raises:
            ValueError: no such tensor, a sound that is too short, or no frames.
        """
        return self.out_fn(self.in_fn(self.encode(waveform, frames))).unflatten(-1, (-1, 3))


def build_audio2mesh(overrides: Mapping[str, Any]) -> Audio2Mesh:
    """The published network with some settings changed.

    Raises:
        ValueError: a setting that does not exist, or a value that is not supported.
    """
    check_settings(overrides, known=SETTINGS, fixed=FIXED, what="audio2mesh")
    out_dim = overrides.get("out_dim", 1404)
    if out_dim % 3:
        raise ValueError(f"audio2mesh gives x, y and z: out_dim must be a multiple of 3, got {out_dim}")
    return Audio2Mesh(
        build_encoder(overrides.get("wav2vec2", {})),
        out_dim=out_dim,
        latent_dim=overrides.get("latent_dim", 512),
        last_only=overrides.get("only_last_fetures", True),
    )

"""An encoder and its decoder as one network, under the names of the published files."""

from typing import NamedTuple

from torch import Tensor, nn

from adapters.metric3d.networks.config import AnyVariant, VitVariant
from adapters.metric3d.networks.convnext import ConvNext
from adapters.metric3d.networks.hourglass import HourglassDecoder
from adapters.metric3d.networks.raft import RaftDecoder
from adapters.metric3d.networks.vit import VisionTransformer
from loader.errors import InputError

CONVNEXT_MULTIPLE = 32


class Prediction(NamedTuple):
    """What a network sees in pictures; fp32 whatever it computed in.

    Attributes:
        depth: ``[B, 1, h, w]`` along the optical axis in metres of the canonical camera (focal length 1000 pixels).
        confidence: ``[B, 1, h, w]``, unbounded, higher where surer.
        normals: ``[B, 4, h, w]``, unit x, y, z in the camera's frame and kappa > 0, higher where surer; None from the
            first generation.
    """

    depth: Tensor
    confidence: Tensor
    normals: Tensor | None


class EncoderDecoder(nn.Module):
    """The pair, under the names published files have below ``depth_model``."""

    def __init__(self, config: AnyVariant) -> None:
        super().__init__()
        self.encoder: nn.Module
        self.decoder: nn.Module
        if isinstance(config, VitVariant):
            self.encoder, self.decoder = VisionTransformer(config.encoder), RaftDecoder(config.decoder)
        else:
            self.encoder, self.decoder = ConvNext(config), HourglassDecoder(config)

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """``[B, 3, H, W]`` to what the decoder gives."""
        return self.decoder(self.encoder(images))


class DepthModel(nn.Module):
    """Depth, confidence and, from the second generation, normals of single pictures.

    Attributes:
        config: what it was built from.
    """

    def __init__(self, config: AnyVariant) -> None:
        super().__init__()
        self.config = config
        self.depth_model = EncoderDecoder(config)

    def forward(self, images: Tensor) -> Prediction:
        """Predict.

        Args:
            images: ``[B, 3, H, W]`` RGB, normalised as ``geometry.prepare`` does, of any floating dtype. A ViT takes
                any sides; with multiples of 28 the result has the input's size, otherwise
                4 * floor(3.5 * ceil(side / 14)). A ConvNeXt takes sides of 32 k to 32 k + 3, and gives 32 k.

        Raises:
            InputError: not pictures, or sides a ConvNeXt cannot take.
        """
        if images.ndim != 4 or images.shape[1] != 3 or 0 in images.shape:
            raise InputError(f"pictures must be [batch, 3, height, width], got {list(images.shape)}")
        if not isinstance(self.config, VitVariant):
            _check_convnext_size(images.shape[-2], images.shape[-1])
        depth, confidence, *normals = self.depth_model(images)
        return Prediction(depth, confidence, normals[0] if normals else None)


def _check_convnext_size(height: int, width: int) -> None:
    multiple = CONVNEXT_MULTIPLE
    if min(height, width) < multiple or height % multiple > 3 or width % multiple > 3:
        nearest = [max(multiple, round(side / multiple) * multiple) for side in (height, width)]
        raise InputError(
            f"a ConvNeXt takes sides in multiples of {multiple}, got {height}×{width}; the nearest is "
            f"{nearest[0]}×{nearest[1]}"
        )

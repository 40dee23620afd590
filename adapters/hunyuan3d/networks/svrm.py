"""The three parts that one published file, ``svrm/svrm.safetensors``, fills."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from adapters.hunyuan3d.networks.config import check_names, read
from adapters.hunyuan3d.networks.image_encoder import ImageEncoder, ImageEncoderConfig
from adapters.hunyuan3d.networks.triplane_decoder import TriplaneDecoder, TriplaneDecoderConfig
from adapters.hunyuan3d.networks.triplane_transformer import TriplaneTransformer, TriplaneTransformerConfig


def join_views(tokens: Tensor) -> Tensor:
    """Tokens of the views of one object, ``[V, n, C]``, as one sequence ``[1, n * V, C]``.

    All views of the first token come first, as upstream joins them; the attention that reads them does not care.
    """
    return tokens.transpose(0, 1).flatten(0, 1).unsqueeze(0)


class Svrm(nn.Module):
    """The sparse-view reconstruction model, whole.

    ``module(images [V, 3, H, W], cameras [V, 20]) -> planes [1, 3, C, R, R]``; ``module.render`` decodes their points.
    """

    def __init__(
        self, encoder: ImageEncoderConfig, triplane: TriplaneTransformerConfig, render: TriplaneDecoderConfig
    ) -> None:
        super().__init__()
        self.img_encoder = ImageEncoder(encoder)
        self.img_to_triplane_decoder = TriplaneTransformer(triplane)
        self.render = TriplaneDecoder(render)

    def forward(self, images: Tensor, cameras: Tensor) -> Tensor:
        return self.img_to_triplane_decoder(join_views(self.img_encoder(images, cameras)))


def build_svrm(**config: Mapping[str, Any]) -> Svrm:
    """The whole model from ``encoder``, ``triplane`` and ``render`` settings; what is not given is as published."""
    check_names("svrm", config, ["encoder", "triplane", "render"])
    return Svrm(
        read(ImageEncoderConfig, "svrm encoder", config.get("encoder", {})),
        read(TriplaneTransformerConfig, "svrm triplane", config.get("triplane", {})),
        read(TriplaneDecoderConfig, "svrm render", config.get("render", {})),
    )

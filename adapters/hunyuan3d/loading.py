"""Components with their weights: which files fill which network, and the call it is put behind."""

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import cast

import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffusers.models.transformers.hunyuan_transformer_2d import HunyuanDiT2DModel
from torch import Tensor, nn

from adapters.hunyuan3d.miniature import miniature
from adapters.hunyuan3d.modules import BorderSaliency, FieldDecoder, LatentCodec, Painter, Saliency, ViewDenoiser
from adapters.hunyuan3d.networks import TriplaneDecoder, ViewUNet, build, load_published
from adapters.hunyuan3d.networks.painter import PAINTER
from adapters.hunyuan3d.products import CutBy
from kit.sessions import OnnxSession
from loader.spec import Variant
from loader.weights import load_component, open_state

SVRM = ("image_encoder", "triplane_transformer", "triplane_decoder")
TENSORS = (".safetensors", ".bin")
U2NET_OUTPUTS = (1, 7)


def load_component_of(component: str, variant: Variant, files: Mapping[str, Path]) -> nn.Module:
    """The component called ``component`` of ``variant``, on the CPU, in its files' precision.

    Raises:
        CheckpointMismatchError: names or shapes differ from the network's.
        WeightsError: a file cannot be read.
    """
    if component == "cut_out":
        return _saliency(variant, files)
    if variant.provenance == "miniature":
        return _behind_a_call(miniature(component, network_variant(component, variant)))
    make = partial(build, component, network_variant(component, variant))
    return _behind_a_call(load_component(make, load_published, component, _state(component, variant, files)))


def network_variant(component: str, variant: Variant) -> str:
    """What ``networks.build`` calls the variant of a component."""
    if component in SVRM:
        return "svrm"
    return "text" if component in PAINTER else str(variant.config["base"])


def cut_by(variant: Variant) -> CutBy:
    """How ``variant`` cuts out: by U²-Net, or by the border's colours where there are no weights."""
    return "border" if variant.provenance == "miniature" else "u2net"


def _state(component: str, variant: Variant, files: Mapping[str, Path]) -> dict[str, Tensor]:
    state: dict[str, Tensor] = {}
    for weights in variant.weights:
        if component in weights.fills and weights.file.endswith(TENSORS):
            state |= open_state(files[weights.file])
    return state


def _saliency(variant: Variant, files: Mapping[str, Path]) -> nn.Module:
    if variant.provenance == "miniature":
        return BorderSaliency()
    session = OnnxSession(
        files["u2net.onnx"], threads=torch.get_num_threads(), what="U²-Net (u2net.onnx)", expects=U2NET_OUTPUTS
    )
    return Saliency(session)


def _behind_a_call(module: nn.Module) -> nn.Module:
    if isinstance(module, ViewUNet):
        return ViewDenoiser(module)
    if isinstance(module, AutoencoderKL):
        return LatentCodec(module)
    if isinstance(module, HunyuanDiT2DModel):
        return Painter(cast(HunyuanDiT2DModel, module))
    return FieldDecoder(module) if isinstance(module, TriplaneDecoder) else module

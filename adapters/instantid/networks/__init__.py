"""The networks of InstantID: ``build`` makes one, ``load_published`` fills it from a published checkpoint."""

import inspect
from collections.abc import Callable, Iterable, Mapping
from types import MappingProxyType
from typing import Any

import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffusers.models.controlnets.controlnet import ControlNetModel
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection
from transformers.models.clip.modeling_clip import CLIPTextEmbeddings

from adapters.instantid.networks import configs
from adapters.instantid.networks.attention import (
    DEFAULT_FACE_SCALE,
    FACE_TOKENS,
    FaceAttention,
    FaceMasks,
    add_face_attention,
    face_layers,
    use_plain_attention,
)
from adapters.instantid.networks.region import attention_masks, confine
from adapters.instantid.networks.resampler import Resampler
from loader.strict import load_strict

__all__ = [
    "COMPONENTS",
    "DEFAULT_FACE_SCALE",
    "FACE_TOKENS",
    "VARIANTS",
    "FaceAttention",
    "FaceMasks",
    "Resampler",
    "attention_masks",
    "build",
    "confine",
    "load_published",
]

VARIANTS = ("sdxl",)


def _face_projection(**config: Any) -> Resampler:
    return Resampler(**config)


def _unet(*, num_tokens: int, **config: Any) -> UNet2DConditionModel:
    unet = UNet2DConditionModel(**config)
    add_face_attention(unet, num_tokens)
    return unet


def _identity_net(**config: Any) -> ControlNetModel:
    net = ControlNetModel(**config)
    use_plain_attention(net)
    return net


def _text_encoder(**config: Any) -> CLIPTextModel:
    return CLIPTextModel(CLIPTextConfig(**config))


def _text_encoder_2(**config: Any) -> CLIPTextModelWithProjection:
    return CLIPTextModelWithProjection(CLIPTextConfig(**config))


def _arguments(cls: type) -> frozenset[str]:
    return frozenset(inspect.signature(cls).parameters)


# Component -> what makes it, its published configuration, and the settings it knows beyond those.
_BUILDERS: Mapping[str, tuple[Callable[..., nn.Module], configs.Config, frozenset[str]]] = MappingProxyType(
    {
        "face_projection": (_face_projection, configs.FACE_PROJECTION, frozenset()),
        "unet": (_unet, {**configs.UNET, "num_tokens": FACE_TOKENS}, _arguments(UNet2DConditionModel)),
        "identity_net": (_identity_net, configs.IDENTITY_NET, _arguments(ControlNetModel)),
        "text_encoder": (_text_encoder, configs.TEXT_ENCODER, frozenset()),
        "text_encoder_2": (_text_encoder_2, configs.TEXT_ENCODER_2, frozenset()),
        "vae": (AutoencoderKL, configs.VAE, _arguments(AutoencoderKL)),
    }
)
COMPONENTS = tuple(_BUILDERS)


def _check(kind: str, name: str, choices: Iterable[str]) -> None:
    if name not in choices:
        raise ValueError(f"instantid has no {kind} {name!r}; it has: {', '.join(choices)}")


def build(component: str, variant: str, **config: Any) -> nn.Module:
    """A network in eval mode, fp32, with freshly initialised weights, on the default device (``meta`` included).

    Args:
        component: "face_projection" (``Resampler``), "unet" (diffusers' UNet with ``FaceAttention``),
            "identity_net" (diffusers' ControlNet, fed with face tokens instead of text), "text_encoder",
            "text_encoder_2", "vae" (their library classes).
        variant: "sdxl".
        **config: settings that differ from the published configuration, under the library classes' own names; for
            the UNet also ``num_tokens``, the number of face tokens at the end of its context.

    Raises:
        ValueError: a component, variant or setting that does not exist; the message lists those that do.
    """
    _check("component", component, COMPONENTS)
    _check("variant", variant, VARIANTS)
    make, published, known = _BUILDERS[component]
    choices = sorted({*published, *known})
    for name in config:
        _check(f"{component} setting", name, choices)
    return make(**{**published, **config}).eval()


def load_published(module: nn.Module, component: str, state_dict: Mapping[str, Tensor]) -> None:
    """Fill a network, or the UNet's face branches, from a checkpoint under its published names.

    Args:
        module: from ``build``; on ``meta`` it takes the tensors themselves.
        component: one of ``COMPONENTS``, or "ip_adapter" for the face branches of a UNet. "unet" fills all but those.
        state_dict: every tensor of the component, no other. For the face projection and the face branches these are
            the entries "image_proj" and "ip_adapter" of ``ip-adapter.bin``.

    Raises:
        CheckpointMismatchError: names or shapes differ; the module is unchanged.
        ValueError: an unknown component, or a module without face branches.
    """
    _check("component", component, (*COMPONENTS, "ip_adapter"))
    what = f"instantid {component}"
    if component == "ip_adapter":
        load_strict(_face_layers(module), state_dict, what=what)
    elif component == "unet":
        branches = [name for name in module.state_dict() if ".attn2.processor." in name]
        load_strict(module, state_dict, what=what, allow_missing=branches)
    elif component.startswith("text_encoder"):
        _load_text_encoder(module, state_dict, what)
    else:
        load_strict(module, state_dict, what=what)


def _face_layers(module: nn.Module) -> nn.ModuleDict:
    layers = face_layers(module) if isinstance(module, UNet2DConditionModel) else nn.ModuleDict()
    if not layers:
        raise ValueError('only a UNet made by build("unet", ...) has the face branches that "ip_adapter" fills')
    return layers


def _load_text_encoder(module: nn.Module, state_dict: Mapping[str, Tensor], what: str) -> None:
    # transformers 5 took the level "text_model" out of the class without a projection; the published files have it.
    prefixed = any(name.startswith("text_model.") for name in module.state_dict())
    published = module if prefixed else nn.ModuleDict({"text_model": module})
    # A table of 0 to 76 that some files carry; the class makes its own.
    load_strict(published, state_dict, what=what, allow_unexpected=("text_model.embeddings.position_ids",))
    for part in module.modules():
        if isinstance(part, CLIPTextEmbeddings) and part.position_ids.is_meta:
            weight = part.position_embedding.weight
            table = torch.arange(len(weight), device=weight.device).expand(1, -1)
            part.register_buffer("position_ids", table, persistent=False)

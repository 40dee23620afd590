"""The networks of AniPortrait: ``build`` makes one, ``load_published`` fills it from a published checkpoint."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from loader.strict import load_strict

__all__ = ["COMPONENTS", "build", "load_published"]

COMPONENTS: Mapping[str, tuple[str, ...]] = {
    "reference_unet": ("sd15",),
    "denoising_unet": ("v2", "v1"),
    "pose_guider": ("320",),
    "audio2mesh": ("base",),
    "audio2pose": ("base",),
    "image_encoder": ("vit_l",),
    "vae": ("sd15",),
}
# Newer torch saves a weight-normed kernel under the names of its parametrization.
_RENAMED = {
    "pos_conv_embed.conv.parametrizations.weight.original0": "pos_conv_embed.conv.weight_g",
    "pos_conv_embed.conv.parametrizations.weight.original1": "pos_conv_embed.conv.weight_v",
}


def _check(component: str, variant: str | None = None) -> None:
    if component not in COMPONENTS:
        raise ValueError(f"aniportrait has no component {component!r}; it has: {', '.join(COMPONENTS)}")
    if variant is not None and variant not in COMPONENTS[component]:
        choices = ", ".join(COMPONENTS[component])
        raise ValueError(f"aniportrait's {component} has no variant {variant!r}; it has: {choices}")


def _make(component: str, variant: str, config: Mapping[str, Any]) -> nn.Module:
    # Imported one by one because diffusers and transformers take seconds to import.
    if component == "denoising_unet":
        from adapters.aniportrait.networks.config import unet3d_config
        from adapters.aniportrait.networks.denoising_unet import DenoisingUNet

        return DenoisingUNet(unet3d_config(variant, config))
    if component == "reference_unet":
        from adapters.aniportrait.networks.reference_unet import build_reference_unet

        return build_reference_unet(config)
    if component == "pose_guider":
        from adapters.aniportrait.networks.pose_guider import build_pose_guider

        return build_pose_guider(config)
    if component == "audio2mesh":
        from adapters.aniportrait.networks.audio import build_audio2mesh

        return build_audio2mesh(config)
    if component in ("image_encoder", "vae"):
        from adapters.aniportrait.networks.companions import build_image_encoder, build_vae

        return build_vae(config) if component == "vae" else build_image_encoder(config)
    from adapters.aniportrait.networks.audio2pose import build_audio2pose

    return build_audio2pose(config)


def build(component: str, variant: str, **config: Any) -> nn.Module:
    """A network in eval mode, fp32, freshly initialised, on the default device (``meta`` included).

    Args:
        component: a key of ``COMPONENTS``.
        variant: one of the component's entries there.
        **config: settings that differ from the published network's, under upstream's names.

    Raises:
        ValueError: a component, variant or setting that does not exist, with the list of those that do.
    """
    _check(component, variant)
    return _make(component, variant, config).eval()


def load_published(module: nn.Module, component: str, state_dict: Mapping[str, Tensor]) -> None:
    """Fill a network from a checkpoint under its published names.

    Args:
        module: from ``build``.
        component: a key of ``COMPONENTS``.
        state_dict: every tensor of the network, no other. The denoising UNet is published in two files, its spatial
            layers (``denoising_unet.pth``) and its motion modules (``motion_module.pth``): pass their union.

    Raises:
        CheckpointMismatchError: names or shapes differ; the module is unchanged.
        ValueError: an unknown component.
    """
    _check(component)
    if component.startswith("audio2"):
        state_dict = {_published_name(name): tensor for name, tensor in state_dict.items()}
    if component in ("image_encoder", "vae"):
        _load_companion(module, component, state_dict)
        return
    load_strict(module, state_dict, what=f"aniportrait {component}")


def _load_companion(module: nn.Module, component: str, state_dict: Mapping[str, Tensor]) -> None:
    from adapters.aniportrait.networks.companions import POSITIONS, current_names, fill_positions

    what = f"aniportrait {component}"
    if component == "vae":
        load_strict(module, current_names(state_dict), what=what)
        return
    load_strict(module, state_dict, what=what, allow_unexpected=(POSITIONS,))
    fill_positions(module)


def _published_name(name: str) -> str:
    for newer, published in _RENAMED.items():
        if name.endswith(newer):
            return name.removesuffix(newer) + published
    return name

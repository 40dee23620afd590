"""Networks of Hunyuan3D-1 under upstream's tensor names: ``build`` makes one, ``load_published`` fills it.

Components: ``image_encoder``, ``triplane_transformer``, ``triplane_decoder`` (and ``svrm``, these three as the one
module its one published file fills), all of variant "svrm"; ``view_unet``, ``vae`` and ``vision_encoder`` of variant
"lite" or "std"; ``text_encoder`` of "lite" and ``vision_encoder_2`` of "std" alone; ``prompt_encoder``,
``prompt_encoder_t5``, ``painter`` and ``painter_vae`` of variant "text", text to image.
"""

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from adapters.hunyuan3d.networks.companions import COMPANIONS, build_companion, companion_class, load_companion
from adapters.hunyuan3d.networks.config import read
from adapters.hunyuan3d.networks.image_encoder import ImageEncoder, ImageEncoderConfig
from adapters.hunyuan3d.networks.painter import PAINTER, build_painter, load_painter, painter_class, perturb
from adapters.hunyuan3d.networks.svrm import Svrm, build_svrm, join_views
from adapters.hunyuan3d.networks.triplane_decoder import Field, TriplaneDecoder, TriplaneDecoderConfig
from adapters.hunyuan3d.networks.triplane_transformer import TriplaneTransformer, TriplaneTransformerConfig
from adapters.hunyuan3d.networks.view_unet import Bank, ViewUNet, build_view_unet
from loader.strict import load_strict

__all__ = [
    "VARIANTS",
    "Bank",
    "Field",
    "ImageEncoder",
    "Svrm",
    "TriplaneDecoder",
    "TriplaneTransformer",
    "ViewUNet",
    "build",
    "join_views",
    "load_published",
    "perturb",
]

VARIANTS: Mapping[str, tuple[str, ...]] = {
    "image_encoder": ("svrm",),
    "triplane_transformer": ("svrm",),
    "triplane_decoder": ("svrm",),
    "svrm": ("svrm",),
    "view_unet": ("lite", "std"),
    **{component: tuple(variants) for component, variants in COMPANIONS.items()},
    **dict.fromkeys(PAINTER, ("text",)),
}
SVRM_PARTS = (ImageEncoder, TriplaneTransformer, TriplaneDecoder)


def build(component: str, variant: str, **config: Any) -> nn.Module:
    """A network in eval mode and fp32, on the default device (``meta`` included), with untrained weights.

    Args:
        component: a key of ``VARIANTS``.
        variant: "svrm" for the reconstruction parts, "lite" or "std" for those of multi-view diffusion,
            "text" for those of text to image.
        config: settings that differ from the published ones, under upstream's names (for ``svrm``: ``encoder``,
            ``triplane`` and ``render``, each a mapping).

    Raises:
        ValueError: an unknown component, variant or setting; the message lists the choices.
    """
    if component not in VARIANTS:
        raise ValueError(f"hunyuan3d has no component {component!r}; choose from {', '.join(VARIANTS)}")
    if variant not in VARIANTS[component]:
        choices = ", ".join(VARIANTS[component])
        raise ValueError(f"hunyuan3d {component} has no variant {variant!r}; choose from {choices}")
    return _make(component, variant, config).eval()


def _make(component: str, variant: str, config: Mapping[str, Any]) -> nn.Module:
    match component:
        case "image_encoder":
            return ImageEncoder(read(ImageEncoderConfig, component, config))
        case "triplane_transformer":
            return TriplaneTransformer(read(TriplaneTransformerConfig, component, config))
        case "triplane_decoder":
            return TriplaneDecoder(read(TriplaneDecoderConfig, component, config))
        case "svrm":
            return build_svrm(**config)
        case "view_unet":
            return build_view_unet(variant, **config)
        case _ if component in PAINTER:
            return build_painter(component, config)
        case _:
            return build_companion(component, variant, config)


def load_published(module: nn.Module, component: str, state_dict: Mapping[str, Tensor]) -> None:
    """Fill ``module`` from tensors under the names of the published file; every name and shape must agree.

    A part of the reconstruction model takes the whole file or its own share of it: tensors of the other two parts are
    passed over, by their prefixes, and nothing else is. ``component`` may then be the part's own name or "svrm".
    A state dict with exactly the names of ``module`` itself, as a saved part has, is taken too.

    Raises:
        ValueError: ``component`` is not what ``module`` is.
        CheckpointMismatchError: names or shapes differ; the message lists them.
    """
    if isinstance(module, SVRM_PARTS):
        if component not in (module.component, "svrm"):
            raise ValueError(f"this module is the {module.component}; load it as that or as 'svrm', not {component!r}")
        _load_part(module, state_dict)
    elif isinstance(module, Svrm if component == "svrm" else ViewUNet) and component in ("svrm", "view_unet"):
        load_strict(module, state_dict, what=f"hunyuan3d {component}")
    elif component in COMPANIONS and isinstance(module, companion_class(component)):
        load_companion(module, component, state_dict)
    elif component in PAINTER and isinstance(module, painter_class(component)):
        load_painter(module, component, state_dict)
    else:
        raise ValueError(f"{type(module).__name__} is no component {component!r}; choose from {', '.join(VARIANTS)}")


def _load_part(module: ImageEncoder | TriplaneTransformer | TriplaneDecoder, state_dict: Mapping[str, Tensor]) -> None:
    what = f"hunyuan3d {module.component}"
    if state_dict.keys() == module.state_dict().keys():
        load_strict(module, state_dict, what=what)
        return
    others = tuple(f"{part.published_name}." for part in SVRM_PARTS if not isinstance(module, part))
    share = {name: tensor for name, tensor in state_dict.items() if not name.startswith(others)}
    # Under its published name, so that a mismatch is reported by names the file really has.
    load_strict(nn.ModuleDict({module.published_name: module}), share, what=what)

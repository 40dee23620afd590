"""The networks of Metric3D: ``build`` makes one, ``load_published`` fills it from a published checkpoint."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from adapters.metric3d.networks.config import VARIANTS, configure
from adapters.metric3d.networks.model import DepthModel, Prediction
from kit.attention import attend, use_attention
from loader.strict import load_strict

__all__ = ["COMPONENTS", "VARIANTS", "DepthModel", "Prediction", "attend", "build", "load_published", "use_attention"]

COMPONENTS = ("depth_model",)
MASK_TOKEN = "depth_model.encoder.mask_token"


def _check_component(component: str) -> None:
    if component not in COMPONENTS:
        raise ValueError(f"metric3d has no component {component!r}; choose from {', '.join(COMPONENTS)}")


def build(component: str, variant: str, **config: Any) -> DepthModel:
    """A network in eval mode and fp32, on the default device (``meta`` included), with untrained weights.

    ```python
    build("depth_model", "vit_small")
    build("depth_model", "vit_small", decoder={"iters": 2})
    build("depth_model", "convnext_tiny", depths=[1, 1, 2, 1])
    ```

    Args:
        component: "depth_model".
        variant: vit_small, vit_large, vit_giant2, convnext_tiny or convnext_large.
        config: settings that differ from the published ones, under upstream's names: for a ViT ``encoder`` and
            ``decoder``, each a mapping, for a ConvNeXt those of ``ConvNextVariant``.

    Raises:
        ValueError: an unknown component, variant or setting (the message lists the choices), or settings that do not
            fit together.
    """
    _check_component(component)
    return DepthModel(configure(variant, config)).eval()


def load_published(module: nn.Module, component: str, state_dict: Mapping[str, Tensor]) -> None:
    """Fill a network from a published checkpoint (the dict under the pickle's key ``model_state_dict``).

    Args:
        module: from ``build``.
        component: "depth_model".
        state_dict: every tensor of the network and no other, except that the ViT encoder's ``mask_token``, which no
            prediction reads, may be missing.

    Raises:
        CheckpointMismatchError: names or shapes differ; the module is unchanged.
        ValueError: an unknown component.
    """
    _check_component(component)
    own = dict(module.named_parameters())
    if MASK_TOKEN in own and MASK_TOKEN not in state_dict and state_dict:
        # Given here rather than excused: a network built on meta must not be left with a tensor that has no values.
        like = next(iter(state_dict.values()))
        zeros = torch.zeros(own[MASK_TOKEN].shape, dtype=like.dtype, device=like.device)
        state_dict = {**state_dict, MASK_TOKEN: zeros}
    load_strict(module, state_dict, what="metric3d depth_model")

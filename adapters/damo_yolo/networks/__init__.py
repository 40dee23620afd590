"""The networks of DAMO-YOLO: ``build`` makes one, ``load_published`` fills it from a published checkpoint."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from adapters.damo_yolo.networks.detector import Detector
from adapters.damo_yolo.networks.head import LevelLogits, Priors, distances_to_boxes, make_priors
from adapters.damo_yolo.networks.variants import VARIANTS, VariantConfig
from loader.strict import load_strict

__all__ = [
    "COMPONENTS",
    "VARIANTS",
    "Detector",
    "LevelLogits",
    "Priors",
    "VariantConfig",
    "build",
    "distances_to_boxes",
    "load_published",
    "make_priors",
]

COMPONENTS = ("detector",)


def _check_component(component: str) -> None:
    if component not in COMPONENTS:
        raise ValueError(f"damo_yolo has no component {component!r}; it has: {', '.join(COMPONENTS)}")


def build(component: str, variant: str, *, num_classes: int = 80, **unknown: Any) -> Detector:
    """A detector in eval mode, fp32, with freshly initialised weights, on the default device (``meta`` included).

    Args:
        component: ``"detector"``.
        variant: one of T, S, M, L, N, Ns, Nm, Nl.
        num_classes: columns of the scores, at least 1; the published checkpoints have 80.
        **unknown: refused, with the list of what may be set.

    Raises:
        ValueError: a component, variant, setting or number of classes that does not exist.
    """
    _check_component(component)
    if unknown:
        raise ValueError(f"damo_yolo's detector has no setting {', '.join(sorted(unknown))}; it has: num_classes")
    if variant not in VARIANTS:
        raise ValueError(f"damo_yolo has no variant {variant!r}; it has: {', '.join(VARIANTS)}")
    if num_classes < 1:
        raise ValueError(f"a detector needs at least 1 class, got num_classes={num_classes}")
    return Detector(VARIANTS[variant], num_classes).eval()


def load_published(module: nn.Module, component: str, state_dict: Mapping[str, Tensor]) -> None:
    """Fill a detector from a checkpoint under its published names (the dict under the pickle's key ``model``).

    Args:
        module: from ``build``, not merged yet: published checkpoints hold the branches separately.
        component: ``"detector"``.
        state_dict: every tensor of the network, no other.

    Raises:
        CheckpointMismatchError: names or shapes differ; the module is unchanged.
        ValueError: an unknown component, or a module that was merged.
    """
    _check_component(component)
    if isinstance(module, Detector) and module.merged:
        raise ValueError("this detector was merged and has lost the published branches; load into a freshly built one")
    load_strict(module, state_dict, what="damo_yolo detector")

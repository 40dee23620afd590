"""Low-rank changes added to a network's weights for good: no wrapper stays behind and nothing is computed twice.

Formats: kohya's ("lora_unet_<layer with underscores>.lora_down.weight", "….alpha"), in which LCM-LoRA for SDXL is
published, and diffusers' ("unet.<layer>.lora_A.weight" or "….lora.down.weight"). arXiv 2106.09685, arXiv 2311.05556.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from loader.errors import CheckpointMismatchError

ENDINGS = {
    "lora_down.weight": "down",
    "lora_up.weight": "up",
    "lora_A.weight": "down",
    "lora_B.weight": "up",
    "lora.down.weight": "down",
    "lora.up.weight": "up",
    "alpha": "alpha",
}
KOHYA, DIFFUSERS = "lora_unet_", "unet."


@dataclass
class _Change:
    parts: dict[str, Tensor] = field(default_factory=dict)


@torch.no_grad()
def merge_lora(network: nn.Module, state: Mapping[str, Tensor], *, what: str, scale: float = 1.0) -> int:
    """Add every change of ``state`` to ``network``, computed in fp32; returns how many layers changed.

    Raises:
        CheckpointMismatchError: a name belongs to no layer, a layer lacks a half, or shapes differ; nothing is changed.
    """
    layers = {name: module for name, module in network.named_modules() if isinstance(module, (nn.Linear, nn.Conv2d))}
    flat = {name.replace(".", "_"): name for name in layers}
    changes: dict[str, _Change] = {}
    unknown = []
    for key, tensor in state.items():
        found = _place_of(key, flat, layers)
        if found is None:
            unknown.append(key)
        else:
            changes.setdefault(found[0], _Change()).parts[found[1]] = tensor
    halves = [name for name, change in changes.items() if not {"down", "up"} <= change.parts.keys()]
    if unknown or halves or not changes:
        raise CheckpointMismatchError(what, missing=halves or ([] if changes else ["any layer"]), unexpected=unknown)
    wrong = [
        f"{name}: {_shape(change.parts)}, {[*layers[name].weight.shape]}"
        for name, change in changes.items()
        if _shape(change.parts) != [*layers[name].weight.shape]
    ]
    if wrong:
        raise CheckpointMismatchError(what, wrong_shape=wrong)
    for name, change in changes.items():
        # One at a time: together they are as large as the network in fp32.
        weight = layers[name].weight
        weight.data = (weight.data.float() + _delta(change.parts, scale)).to(weight.dtype)
    return len(changes)


def _place_of(key: str, flat: Mapping[str, str], layers: Mapping[str, nn.Module]) -> tuple[str, str] | None:
    for ending, part in ENDINGS.items():
        if key.endswith(f".{ending}"):
            name = key.removesuffix(f".{ending}")
            layer = flat.get(name.removeprefix(KOHYA), "") if name.startswith(KOHYA) else name.removeprefix(DIFFUSERS)
            return (layer, part) if layer in layers else None
    return None


def _shape(parts: Mapping[str, Tensor]) -> list[int]:
    """Of the weight that two halves make; empty where they do not belong together."""
    down, up = parts["down"], parts["up"]
    return [up.shape[0], *down.shape[1:]] if up.ndim > 1 and up.shape[1] == down.shape[0] else []


def _delta(parts: Mapping[str, Tensor], scale: float) -> Tensor:
    """``up · down``, scaled by alpha over the rank."""
    down, up = parts["down"].float(), parts["up"].float()
    rank = down.shape[0]
    factor = scale * (float(parts["alpha"]) / rank if "alpha" in parts else 1.0)
    product = up.flatten(1) @ down.flatten(1)
    if down.ndim == 4:
        # A convolution of the whole kernel, then one of 1×1.
        return factor * product.reshape(up.shape[0], *down.shape[1:])
    return factor * product

"""The preview network: the published ViT-Small design at a fraction of its widths."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from adapters.metric3d.geometry import CANONICAL_FOCAL_PX
from adapters.metric3d.networks import DepthModel, build, load_published
from adapters.metric3d.networks.vit import PATCH

VARIANT = "vit_small"
SIZE = (112, 140)
"""Height and width of the network's input in training, and best used at."""

CONFIG: Mapping[str, Mapping[str, Any]] = MappingProxyType(
    {
        "encoder": {"embed_dim": 160, "depth": 6, "num_heads": 5, "img_size": 224},
        "decoder": {
            "feature_channels": [24, 48, 160, 160],
            "decoder_channels": [24, 24, 48, 160, 160],
            "hidden_channels": [24, 24, 24, 24],
            "iters": 2,
        },
    }
)
ENCODER = "depth_model.encoder"
PROVENANCE = "trained on ray-cast scenes by training/depth"


def fresh(seed: int) -> DepthModel:
    """An untrained network with channels-last weights, that learns from the first step.

    Its patches begin as whitened cosine transforms of brightness and colour, its positions as waves: from random ones
    a transformer takes longer than this training has to see more than where a patch is.
    """
    torch.manual_seed(seed)
    model = build("depth_model", VARIANT, **CONFIG)
    with torch.no_grad():
        settings = CONFIG["encoder"]
        model.get_parameter(f"{ENCODER}.patch_embed.proj.weight").copy_(cosine_patches(settings["embed_dim"]))
        model.get_parameter(f"{ENCODER}.patch_embed.proj.bias").zero_()
        side = settings["img_size"] // PATCH
        model.get_parameter(f"{ENCODER}.pos_embed").copy_(wave_positions(side, settings["embed_dim"]))
        for name, parameter in model.named_parameters():
            # Published blocks begin almost silent, for long trainings.
            if name.endswith(".gamma"):
                parameter.fill_(1.0)
    silence_refinement(model)
    return last_channels(model)


@torch.no_grad()
def silence_refinement(model: DepthModel) -> None:
    """Let refinement begin by changing nothing, whatever it was before."""
    for name, parameter in model.named_parameters():
        if "flow_head.conv2" in name:
            parameter.zero_()


def cosine_patches(count: int) -> Tensor:
    """``[count, 3, 14, 14]`` kernels: the lowest frequencies of brightness, and a sixth of ``count`` of two colours.

    Gains undo the fall of the scenes' spectrum with frequency (measured: as the power 1.3), so that all answers vary
    alike.
    """
    cells = torch.arange(PATCH)
    waves = torch.cos(torch.pi * (cells + 0.5) * cells[:, None] / PATCH)
    waves /= waves.norm(dim=1, keepdim=True)
    order = torch.argsort((cells[:, None] + cells + 0.01 * (cells[:, None] - cells).abs()).flatten())
    colours = count // 12
    kernels = []
    for mix, frequencies, gain in (
        ((1.0, 1.0, 1.0), order[: count - 2 * colours], 0.06),
        ((1.0, -1.0, 0.0), order[:colours], 0.3),
        ((-1.0, -1.0, 2.0), order[:colours], 0.3),
    ):
        channels = nn.functional.normalize(torch.tensor(mix), dim=0)
        for at in frequencies.tolist():
            down, across = divmod(at, PATCH)
            pattern = waves[down][:, None] * waves[across] * gain * (1 + 4.4 * (down + across) ** 1.3)
            kernels.append(channels[:, None, None] * pattern)
    return torch.stack(kernels)


def wave_positions(side: int, width: int) -> Tensor:
    """``[1, 1 + side², width]``: sines and cosines of row and column of a square grid; zero for the class token."""
    # Up to four waves a picture: finer ones would alias on the coarsest grid that training uses.
    turns = torch.logspace(-1, 2, width // 4, base=2.0)
    phase = 2 * torch.pi * torch.arange(side)[:, None] / side * turns
    waves = torch.cat([phase.sin(), phase.cos()], dim=1) * 0.7
    grid = torch.cat([waves[:, None].expand(side, side, width // 2), waves[None].expand(side, side, width // 2)], dim=2)
    return torch.cat([torch.zeros(1, width), grid.flatten(0, 1)])[None]


def last_channels(model: DepthModel) -> DepthModel:
    """``model`` with channels-last weights: measured a third faster on a CPU."""
    # nn.Module.to takes a memory format; its stub does not know.
    model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return model


def save(model: DepthModel, path: Path, stages: Sequence[Mapping[str, object]]) -> None:
    """Write fp16 weights under upstream's names, with how to build and use them in the header.

    Args:
        model: the network, with as many refinements as it is to be used with.
        path: of the safetensors file; its folder is made.
        stages: the settings of every run that led here, first to last; the size of the last is the one to use.
    """
    last = stages[-1]
    config = {part: dict(values) for part, values in CONFIG.items()}
    config["decoder"]["iters"] = model.depth_model.decoder.iters
    metadata = {
        "format": "pt",
        "architecture": "metric3d",
        "variant": VARIANT,
        "config": json.dumps(config),
        "provenance": PROVENANCE,
        "canonical_focal": f"{CANONICAL_FOCAL_PX:g}",
        "size": json.dumps([last["height"], last["width"]]),
        "seed": str(last["seed"]),
        "stages": json.dumps([dict(stage) for stage in stages], sort_keys=True),
        "license": "Apache-2.0",
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    # A reader, or a kill, in the middle of a write must not meet half a file.
    partial = path.with_suffix(".partial")
    # Clones, since norms that have two names share memory, which the format refuses.
    save_file(
        {name: value.half().contiguous().clone() for name, value in model.state_dict().items()}, partial, metadata
    )
    partial.replace(path)


def load(path: Path) -> DepthModel:
    """The network of ``path`` in fp32 and eval mode, built as its header says."""
    with safe_open(path, "pt") as file:
        metadata = file.metadata()
        weights = {name: file.get_tensor(name).float() for name in file.keys()}  # noqa: SIM118 - not a mapping
    model = build("depth_model", metadata["variant"], **json.loads(metadata["config"]))
    load_published(model, "depth_model", weights)
    return last_channels(model)


def size_of(path: Path) -> tuple[int, int]:
    """Height and width of the input that the weights of ``path`` were last trained at."""
    with safe_open(path, "pt") as file:
        height, width = json.loads(file.metadata()["size"])
        return height, width


def stages_of(path: Path) -> list[dict[str, object]]:
    """The settings of the runs that led to the weights of ``path``."""
    with safe_open(path, "pt") as file:
        stages: list[dict[str, object]] = json.loads(file.metadata()["stages"])
        return stages

"""A tiny Metric3D file as the preview weights are one, and engines that find it."""

import asyncio
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors.torch import save_file

from adapters import adapter
from adapters.metric3d.networks import build
from loader.engine import Engine
from loader.folders import Folders
from loader.host import Host
from loader.measure import Store
from loader.runlog import RunLog
from loader.spec import AdapterSpec
from tests.machines import ROOT
from tests.parity.rule import rule_tensor

T = TypeVar("T")
FILE = "metric3d_preview_vit.safetensors"
TINY: dict[str, Any] = {
    "encoder": {"embed_dim": 32, "depth": 4, "num_heads": 2, "img_size": 56},
    "decoder": {
        "feature_channels": [8, 16, 32, 32],
        "decoder_channels": [8, 8, 16, 32, 32],
        "hidden_channels": [8, 8, 8, 8],
        "iters": 2,
    },
}
TINY_CONVNEXT: dict[str, Any] = {"depths": [1, 1, 1, 1], "dims": [8, 16, 24, 32], "decoder_channel": [8, 8, 16, 16]}


def write_tiny(path: Path, variant: str = "vit_small", config: dict[str, Any] | None = None, **header: str) -> Path:
    """Weights of a small network that sees different depths in different places; its header says how to build it."""
    config = config if config is not None else TINY
    with torch.device("meta"):
        own = build("depth_model", variant, **config).state_dict()
    # Sixteen times as steep as the rule: what is near and far differs by more than rounding.
    state = {
        name: rule_tensor(name, torch.zeros(like.shape, dtype=like.dtype)) * (16 if "depth_regressor" in name else 1)
        for name, like in own.items()
    }
    state = {name: value.half() if value.is_floating_point() else value for name, value in state.items()}
    save_file(state, path, {"variant": variant, "config": json.dumps(config), **header})
    return path


def tiny_spec(weights: Path) -> AdapterSpec:
    """The adapter as announced, but for the size and checksum of the preview's file."""
    spec = adapter("metric3d")
    preview = spec.variant("preview")
    file = replace(preview.weights[0], bytes=weights.stat().st_size, bytes_exact=False, sha256="")
    smaller = replace(preview, weights=(file,))
    return replace(spec, variants=tuple(smaller if v.name == "preview" else v for v in spec.variants))


def in_loop(make: Callable[[], T]) -> T:
    """Build Gradio blocks inside a running event loop: without one they open some and never close them."""

    async def made() -> T:
        return make()

    return asyncio.run(made())


def engine_with(host: Host, folder: Path, weights: Path) -> Engine:
    """An engine whose cache lies in ``folder`` and which looks for weights beside ``weights``."""
    folders = Folders(cache=folder / "cache", own=(weights.parent,), assets=ROOT)
    return Engine(host, folders, Store(folder / "learned.json", host), RunLog(folder / "runs.log"))

"""Reading a parity case: configuration and sampled outputs of the upstream network with rule-filled weights."""

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

HERE = Path(__file__).parent


def manifest(project: str, name: str) -> dict[str, list[int]]:
    """Tensor names and shapes of a published checkpoint."""
    return json.loads((HERE / project / f"manifest_{name}.json").read_text())


def case(project: str, name: str) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    """The description and the tensors of a golden case."""
    path = HERE / project / f"golden_{name}"
    tensors = load_file(path.with_suffix(".safetensors")) if path.with_suffix(".safetensors").exists() else {}
    return json.loads(path.with_suffix(".json").read_text()), tensors


def sampled(output: torch.Tensor, count: int) -> torch.Tensor:
    """`count` values evenly spread over the flattened output, as the cases store long outputs."""
    flat = output.detach().flatten()
    return flat[torch.linspace(0, flat.numel() - 1, count).long()]

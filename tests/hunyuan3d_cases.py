"""Inputs of the Hunyuan3D-1 parity cases, which their descriptions give in words, and how outputs are compared."""

from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from adapters.hunyuan3d.networks import build, load_published
from tests.parity.case import case
from tests.parity.rule import fill, rule_tensor

PREFIX = {
    "image_encoder": "img_encoder.",
    "triplane_transformer": "img_to_triplane_decoder.",
    "triplane_decoder": "render.",
}


def normal(*shape: int, seed: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def assert_case(actual: Any, tensors: dict[str, Tensor], name: str, *, atol: float, rtol: float = 0.0) -> None:
    """Compare with the stored tensor, whole or the 4096 values evenly spread over it."""
    actual = torch.as_tensor(actual)
    if name in tensors:
        expected = tensors[name]
        assert actual.shape == expected.shape, name
    else:
        expected = tensors[f"{name}.sub"]
        spread = torch.linspace(0, actual.numel() - 1, len(expected), dtype=torch.float64)
        actual = actual.flatten()[spread.round().long()]
    torch.testing.assert_close(
        actual.to(expected.dtype), expected, atol=atol, rtol=rtol, msg=lambda text: f"{name}: {text}"
    )


def network(component: str, variant: str, **config: Any) -> nn.Module:
    """The network filled by the rule on its own names."""
    return fill(build(component, variant, **config))


def big_network(component: str, variant: str, **config: Any) -> nn.Module:
    """As ``network`` through the loading of a checkpoint, so that nothing is initialised or held twice."""
    with torch.device("meta"):
        module = build(component, variant, **config)
    prefix = PREFIX.get(component, "")
    published = {
        f"{prefix}{name}": rule_tensor(name, torch.empty(tensor.shape, device="meta"))
        for name, tensor in module.state_dict().items()
    }
    load_published(module, component, published)
    return module


def rgba(step: int = 3) -> Image.Image:
    """The cut-out picture of the view cases; ``step`` 3, or 5 for "seed 2"."""
    y, x = np.mgrid[0:300, 0:300]
    rgb = np.stack([(x * step + y * (c + 2) + (x * y) // (37 + c)) % 256 for c in range(3)], axis=-1)
    rgb[(x // 10 + y // 10) % 7 == 0] = 250
    alpha = np.where((x > 40) & (x < 230) & (y > 25) & (y < 270) & ~((x > 150) & (y > 200)), 255, 0)
    alpha = np.where((x + y) % 53 == 0, np.minimum(alpha, 100), alpha)
    return Image.fromarray(np.concatenate((rgb, alpha[..., None]), axis=-1).astype(np.uint8))


def seven_views(side: int = 512) -> list[Image.Image]:
    y, x = np.mgrid[0:side, 0:side]
    return [
        Image.fromarray(
            np.stack(
                [(x * (3 + v) + y * (c + 2) + (x * y) // (37 + c) + 17 * v) % 256 for c in range(3)], axis=-1
            ).astype(np.uint8)
        )
        for v in range(7)
    ]


def analytic_sdf(shape: str, size: int) -> np.ndarray:
    """The sphere and the torus of the mesh cases on their grid, positive outside."""
    ticks = torch.linspace(-0.6, 0.6, size)
    x, y, z = torch.meshgrid(ticks, ticks, ticks, indexing="ij")
    if shape == "sphere":
        return (((x - 0.05) ** 2 + (y + 0.03) ** 2 + (z - 0.02) ** 2).sqrt() - 0.4).numpy()
    return ((((x * x + y * y).sqrt() - 0.35) ** 2 + z * z).sqrt() - 0.13).numpy()


def svrm_tiny() -> nn.Module:
    return network("svrm", "svrm", **case("hunyuan3d", "svrm_e2e_tiny")[0]["config"])

"""What the tests of AniPortrait's networks share: tiny networks filled by the rule, and the cases' inputs."""

from copy import deepcopy
from functools import cache

import torch
from torch import nn

from adapters.aniportrait.networks import build
from tests.parity.case import case
from tests.parity.rule import fill

TINY = {
    "reference_unet": ("sd15", "reference_unet_tinyA", "reference_unet_tinyA"),
    "denoising_unet": ("v2", "unet3d_tinyA", "denoising_unet3d_tinyA"),
    "pose_guider": ("320", "pose_guider_tiny", "pose_guider_tiny"),
    "audio2mesh": ("base", "audio2mesh_tiny", "audio2mesh_tiny"),
    "audio2pose": ("base", "audio2pose_tiny", "audio2pose_tiny"),
}


def tiny(component: str, **changes: object) -> nn.Module:
    variant, name, _ = TINY[component]
    return build(component, variant, **{**case("aniportrait", name)[0]["config"], **changes})


def on_meta(component: str) -> nn.Module:
    with torch.device("meta"):
        return tiny(component)


@cache
def filled(component: str) -> nn.Module:
    """Shared between tests: they must leave it as it is (the pose guider is large at any width)."""
    return fill(tiny(component))


def copied(component: str) -> nn.Module:
    return deepcopy(filled(component))


def noise(*shape: int, seed: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def call(module: nn.Module, *arguments: object) -> torch.Tensor:
    with torch.inference_mode():
        return module(*arguments)


def check(name: str, output: torch.Tensor, expected: torch.Tensor) -> None:
    """Inside the case's stated tolerance; outputs that were stored in part are compared in part."""
    words = case("aniportrait", name)[0]["tolerance"].split()
    atol, rtol = float(words[1]), float(words[3])
    if output.shape != expected.shape:
        places = torch.linspace(0, output.numel() - 1, expected.numel(), dtype=torch.float64).round().long()
        output = output.flatten()[places]
    torch.testing.assert_close(output, expected, atol=atol, rtol=rtol)


def reference_inputs() -> tuple[torch.Tensor, int, torch.Tensor]:
    token = noise(1, 1, 16, seed=12)
    return noise(2, 4, 16, 16, seed=11)[:1].repeat(2, 1, 1, 1), 0, torch.cat((torch.zeros_like(token), token))


def denoising_inputs() -> dict[str, object]:
    sizes = [(32, 16), (32, 8), (64, 4), (128, 2), (128, 2)]
    return {
        "latents": noise(1, 4, 5, 16, 16, seed=21).repeat(2, 1, 1, 1, 1),
        "context": reference_inputs()[2],
        "poses": [
            0.5 * noise(1, width, 5, side, side, seed=30 + index).repeat(2, 1, 1, 1, 1)
            for index, (width, side) in enumerate(sizes)
        ],
        "banks": {
            name.removeprefix("bank."): tensor
            for name, tensor in case("aniportrait", "reference_unet_tinyA")[1].items()
            if name != "sample"
        },
    }


def pose_bytes() -> torch.Tensor:
    generator = torch.Generator().manual_seed(51)
    values = torch.randint(0, 256, (1, 3, 3, 128, 128), generator=generator)
    mask = torch.rand(1, 1, 3, 128, 128, generator=torch.Generator().manual_seed(52)) < 0.08
    return (values * mask).to(torch.uint8).float()


def waveform() -> torch.Tensor:
    t = torch.arange(20000) / 16000
    x = 0.1 * noise(20000, seed=101) + 0.5 * torch.sin(2 * torch.pi * 220 * t) * torch.sin(2 * torch.pi * 3 * t)
    return ((x - x.mean()) / torch.sqrt(x.var(correction=0) + 1e-7))[None]


def arguments_of(component: str) -> tuple[object, ...]:
    given = denoising_inputs()
    return {
        "reference_unet": reference_inputs(),
        "denoising_unet": (given["latents"], 601, given["context"], given["poses"], given["banks"], True),
        "pose_guider": (2 * pose_bytes() / 255 - 1,),
        "audio2mesh": (waveform(), 9),
        "audio2pose": (waveform(), 9, 7),
    }[component]


def tensors(output: object) -> list[torch.Tensor]:
    if isinstance(output, torch.Tensor):
        return [output]
    return list(output.values()) if isinstance(output, dict) else list(output)

"""The autoencoder as one callable component: pictures to latents, latents to pictures, whole or in tiles."""

from typing import Literal

import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from torch import Tensor, nn

from loader.errors import InputError

Task = Literal["decode", "encode"]


class LatentCodec(nn.Module):
    """Diffusers' ``AutoencoderKL`` behind one call, so that planning, moving and casting see a component like others.

    Args:
        vae: the "vae" network.
    """

    def __init__(self, vae: AutoencoderKL) -> None:
        super().__init__()
        self.vae = vae

    def forward(self, value: Tensor, task: Task = "decode", *, tiled: bool = False) -> Tensor:
        """Latents ``[N, 4, h, w]``, scaled, to RGB ``[N, 3, 8 h, 8 w]`` of 0 to 1, or back.

        ``tiled`` works on overlapping tiles one after the other: less memory, faint seams at most.

        Raises:
            InputError: another task.
        """
        # Set at every call, never left behind for the next one.
        self.vae.use_tiling = tiled
        scale = self.vae.config["scaling_factor"]
        if task == "decode":
            pictures = self.vae.decode(value / scale, return_dict=False)[0]
            return (pictures / 2 + 0.5).clamp(0, 1)
        if task == "encode":
            # The middle of the distribution: the same picture gives the same latents every time.
            return self.vae.encode(value * 2 - 1, return_dict=False)[0].mode() * scale
        raise InputError(f"the autoencoder can decode and encode, not {task!r}")


def to_rgb(pictures: Tensor) -> Tensor:
    """``[N, 3, H, W]`` of 0 to 1 as uint8 ``[N, H, W, 3]`` on the CPU."""
    return (pictures.float().cpu() * 255).round().to(torch.uint8).permute(0, 2, 3, 1).contiguous()

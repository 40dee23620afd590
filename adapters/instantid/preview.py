"""Latents as a small picture without the decoder: one matrix from four channels to three colours."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

# A linear approximation of SDXL's decoder, as published by T. A. Vass, "Explaining the SDXL latent space"
# (huggingface.co/blog/TimothyAlexisVass/explaining-the-sdxl-latent-space): levels of red, green and blue for a unit of
# each channel, and those of no signal.
WEIGHTS = ((60.0, -60.0, 25.0, -70.0), (60.0, -5.0, 15.0, -50.0), (60.0, 10.0, -5.0, -35.0))
LEVELS = (150.0, 140.0, 130.0)
MAX_SHOWN = 4


def latent_picture(latents: Tensor) -> NDArray[np.uint8]:
    """``[n, 4, h, w]`` scaled latents as one RGB picture ``[h, n w, 3]``, side by side, at most four."""
    shown = latents[:MAX_SHOWN].float()
    colours = torch.einsum("rc,nchw->nhwr", torch.tensor(WEIGHTS), shown) + torch.tensor(LEVELS)
    row = torch.cat(list(colours), dim=1).clamp(0, 255)
    return np.asarray(row.round().to(torch.uint8).numpy())

"""Euler sampling with ancestral noise, on the schedules of the two published view models.

The method is that of Karras et al., "Elucidating the Design Space of Diffusion-Based Generative Models" (2022), with
the ancestral step of k-diffusion; schedules and constants as diffusers' ``EulerAncestralDiscreteScheduler`` makes them
from the published scheduler files. A schedule is a value: a run keeps the index of its step itself.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from diffusers.utils.torch_utils import randn_tensor
from torch import Generator, Tensor

TRAIN_STEPS = 1000
BETA_START, BETA_END = 0.00085, 0.012

Prediction = Literal["epsilon", "v_prediction"]
Spacing = Literal["linspace", "trailing"]


def draw(shape: Sequence[int], device: torch.device, generator: Generator) -> Tensor:
    """Normal noise in fp32, drawn on the generator's device: a CPU generator gives every device the same."""
    return randn_tensor(tuple(shape), generator=generator, device=device, dtype=torch.float32)


@dataclass(frozen=True)
class EulerAncestral:
    """A noise schedule and its step.

    Attributes:
        timesteps: for each step, the training step the network is told, 999 .. 0.
        sigmas: for each step, the noise level in units of the signal's deviation; one more, zero, at the end.
        prediction: what the network predicts: the noise, or the velocity (Salimans and Ho, 2022).
    """

    timesteps: tuple[float, ...]
    sigmas: tuple[float, ...]
    prediction: Prediction

    @property
    def first_sigma(self) -> float:
        """Deviation of the initial latents."""
        return self.sigmas[0]

    def noised(self, clean: Tensor, noise: Tensor, index: int) -> Tensor:
        """``clean`` at the noise level of step ``index``."""
        return clean + noise * self.sigmas[index]

    def scaled(self, sample: Tensor, index: int) -> Tensor:
        """What the network is shown of a sample at the noise level of step ``index``: about unit deviation."""
        return sample / (self.sigmas[index] ** 2 + 1) ** 0.5

    def step(self, prediction: Tensor, sample: Tensor, index: int, generator: Generator) -> Tensor:
        """The sample at the next noise level.

        Noise is drawn on the last step too, where none is added: what follows in the generator stays as upstream's.
        """
        sigma, target = self.sigmas[index], self.sigmas[index + 1]
        if self.prediction == "epsilon":
            clean = sample - sigma * prediction
        else:
            clean = sample / (sigma**2 + 1) - prediction * (sigma / (sigma**2 + 1) ** 0.5)
        up = (target**2 * (sigma**2 - target**2) / sigma**2) ** 0.5
        down = (target**2 - up**2) ** 0.5
        moved = sample + (sample - clean) / sigma * (down - sigma)
        return moved + draw(sample.shape, sample.device, generator) * up


def schedule(steps: int, prediction: Prediction, spacing: Spacing) -> EulerAncestral:
    """The schedule of ``steps`` steps over linear betas.

    Raises:
        ValueError: fewer than 1 or more than 1000 steps.
    """
    if not 1 <= steps <= TRAIN_STEPS:
        raise ValueError(f"{steps} steps: choose 1 to {TRAIN_STEPS}")
    if spacing == "linspace":
        timesteps = np.linspace(0, TRAIN_STEPS - 1, steps, dtype=np.float32)[::-1]
    else:
        timesteps = np.arange(TRAIN_STEPS, 0, -TRAIN_STEPS / steps).round().astype(np.float32)[:steps] - 1
    kept = torch.cumprod(1 - torch.linspace(BETA_START, BETA_END, TRAIN_STEPS), dim=0).numpy()
    sigmas = np.interp(timesteps, np.arange(TRAIN_STEPS), ((1 - kept) / kept) ** 0.5)
    return EulerAncestral(tuple(timesteps.tolist()), (*sigmas.tolist(), 0.0), prediction)

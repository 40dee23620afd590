"""The diffusion schedule and its deterministic step.

DDIM (Song et al., arXiv 2010.02502) without added noise, on a linear schedule rescaled so that the last timestep is
pure noise, predicting velocity, with timesteps counted from the end (Lin et al., arXiv 2305.08891): the settings of
``configs/inference/inference_v2.yaml`` of Zejun-Yang/AniPortrait (commit 7f6593f). All arithmetic is fp32.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

TRAINED_STEPS, FIRST_BETA, LAST_BETA = 1000, 0.00085, 0.012


def _signal_shares() -> Tensor:
    """Share of the signal's variance at each timestep, ``[1000]``, falling to exactly 0."""
    betas = torch.linspace(FIRST_BETA, LAST_BETA, TRAINED_STEPS, dtype=torch.float32, device=torch.device("cpu"))
    roots = (1.0 - betas).cumprod(0).sqrt()
    first, last = roots[0].clone(), roots[-1].clone()
    shares = ((roots - last) * (first / (first - last))) ** 2
    # Through the betas and back, as upstream's library does: the rounding of that is part of the published numbers.
    alphas = torch.cat((shares[:1], shares[1:] / shares[:-1]))
    return (1.0 - (1.0 - alphas)).cumprod(0)


@dataclass(frozen=True)
class Schedule:
    """Timesteps of one run, and the step from each to the next.

    Attributes:
        steps: how many, 1 to 1000.
        signal: share of the signal's variance at each of the 1000 timesteps, ``[1000]`` fp32 on the CPU.
    """

    steps: int
    signal: Tensor

    @classmethod
    def of(cls, steps: int) -> "Schedule":
        """The published schedule cut into ``steps``.

        Raises:
            ValueError: steps out of range.
        """
        if not 1 <= steps <= TRAINED_STEPS:
            raise ValueError(f"steps must be 1 to {TRAINED_STEPS}, got {steps}")
        return cls(steps, _signal_shares())

    @property
    def timesteps(self) -> list[int]:
        """From the noisiest, 999, down."""
        return [int(t) - 1 for t in np.round(np.arange(TRAINED_STEPS, 0, -TRAINED_STEPS / self.steps))][: self.steps]

    def step(self, velocity: Tensor, timestep: int, sample: Tensor) -> Tensor:
        """From ``timestep`` to the next.

        Args:
            velocity: the network's prediction, any shape and dtype.
            timestep: one of ``timesteps``.
            sample: latents at ``timestep``, shaped as ``velocity``.

        Returns:
            fp32 latents at the next timestep; after the last one, clean latents.
        """
        velocity, sample = velocity.float(), sample.float()
        later = timestep - TRAINED_STEPS // self.steps
        there = self.signal[later] if later >= 0 else torch.ones_like(self.signal[timestep])
        here = self.signal[timestep]
        noise = here.sqrt() * velocity + (1 - here).sqrt() * sample
        return there.sqrt() * self.clean(velocity, timestep, sample) + (1 - there).sqrt() * noise

    def clean(self, velocity: Tensor, timestep: int, sample: Tensor) -> Tensor:
        """What a prediction takes the clip to be in the end; arguments and result as of ``step``."""
        here = self.signal[timestep]
        return here.sqrt() * sample.float() - (1 - here).sqrt() * velocity.float()

"""How the noise is taken away: the solvers the demos offer, on SDXL's noise schedule.

Settings are those of ``scheduler/scheduler_config.json`` of stabilityai/stable-diffusion-xl-base-1.0.
"""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

from loader.errors import InputError

SDXL: Mapping[str, Any] = MappingProxyType(
    {
        "num_train_timesteps": 1000,
        "beta_start": 0.00085,
        "beta_end": 0.012,
        "beta_schedule": "scaled_linear",
        "prediction_type": "epsilon",
        "timestep_spacing": "leading",
        "steps_offset": 1,
    }
)
# LCM was distilled on 50 of the 1000 steps and counts among those.
LCM: Mapping[str, Any] = MappingProxyType(
    {name: value for name, value in SDXL.items() if name != "steps_offset"} | {"original_inference_steps": 50}
)


def _euler() -> Any:
    from diffusers.schedulers.scheduling_euler_discrete import EulerDiscreteScheduler

    return EulerDiscreteScheduler(**SDXL)


def _heun() -> Any:
    from diffusers.schedulers.scheduling_heun_discrete import HeunDiscreteScheduler

    return HeunDiscreteScheduler(**SDXL)


def _deis() -> Any:
    from diffusers.schedulers.scheduling_deis_multistep import DEISMultistepScheduler

    return DEISMultistepScheduler(**SDXL)


def _dpm(**settings: Any) -> Any:
    from diffusers.schedulers.scheduling_dpmsolver_multistep import DPMSolverMultistepScheduler

    return DPMSolverMultistepScheduler(**SDXL, **settings)


def _dpm_karras() -> Any:
    return _dpm(use_karras_sigmas=True)


def _dpm_karras_sde() -> Any:
    return _dpm(use_karras_sigmas=True, algorithm_type="sde-dpmsolver++")


def _lcm() -> Any:
    from diffusers.schedulers.scheduling_lcm import LCMScheduler

    return LCMScheduler(**LCM)


_MAKERS: Mapping[str, Callable[[], Any]] = MappingProxyType(
    {
        "euler": _euler,
        "dpm": _dpm,
        "dpm_karras": _dpm_karras,
        "dpm_karras_sde": _dpm_karras_sde,
        "heun": _heun,
        "deis": _deis,
        "lcm": _lcm,
    }
)
SCHEDULERS = tuple(_MAKERS)
# Calls of the networks in one step; Heun corrects each step but the last by a second look.
SECOND_LOOK = frozenset({"heun"})


def scheduler_for(name: str) -> Any:
    """A fresh scheduler.

    Raises:
        InputError: no such; the message lists those there are.
    """
    if name not in _MAKERS:
        raise InputError(f"no scheduler {name!r}: choose from {', '.join(SCHEDULERS)}")
    return _MAKERS[name]()

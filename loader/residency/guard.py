"""Nothing asleep ever computes: a check in front of every component, and what diffusers expects to find there."""

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from loader.errors import AsleepError


class Guard:
    """Stands as ``_hf_hook`` on a component, where diffusers looks for ``pre_forward`` and ``execution_device``.

    Methods that diffusers decorates (``AutoencoderKL.decode``) call ``pre_forward`` themselves; ``forward`` does by the
    hook that ``stand`` registers. This guard wakes nobody: who is awake is decided before the call.
    """

    def __init__(self, name: str, device: str, awake: Callable[[], bool]) -> None:
        self.name, self.execution_device = name, torch.device(device)
        self._awake = awake

    def pre_forward(self, module: nn.Module, *args: Any, **kwargs: Any) -> tuple[Any, Any]:
        """The inputs, unchanged.

        Raises:
            AsleepError: the component is asleep or dropped.
        """
        del module
        if not self._awake():
            raise AsleepError(
                f"{self.name} was called while it is asleep: parked copies do not compute; call it through parts.call"
            )
        return args, kwargs

    def post_forward(self, module: nn.Module, output: Any) -> Any:
        """The output, unchanged."""
        del module
        return output

    def detach_hook(self, module: nn.Module) -> nn.Module:
        """The module; nothing was wrapped."""
        return module

    def stand(self, module: nn.Module) -> None:
        """Take the place in front of ``module``."""
        module._hf_hook = self  # type: ignore[assignment]
        compiled = module._compiled_call_impl
        if compiled is None:
            module.register_forward_pre_hook(self._hook, prepend=True)
            return

        # A hook would be compiled with the network, and once for each state.
        def checked(*args: Any, **kwargs: Any) -> Any:
            self._check(module)
            return compiled(*args, **kwargs)

        module._compiled_call_impl = checked

    def _hook(self, module: nn.Module, args: tuple[Any, ...]) -> None:
        del args
        self._check(module)

    def _check(self, module: nn.Module) -> None:
        self.pre_forward(module)

"""Torch on machines that only exist as answers: cards seen, memory free, kernels missing."""

from types import SimpleNamespace

import pytest
import torch

from loader.host import GIB

CURRENT_WHEEL = ["sm_75", "sm_80", "sm_86", "sm_90", "sm_100", "sm_120"]


class FakeTorch:
    """The real torch on the CPU, that says of itself and its devices what a test wants."""

    def __init__(self, *, no_kernel: bool = False, **modules: object) -> None:
        self._no_kernel, self._modules = no_kernel, modules
        self.__version__ = "2.13.0+cu130"
        self.version = SimpleNamespace(hip=None)

    def __getattr__(self, name: str):
        if name in self._modules:
            return self._modules[name]
        real = getattr(torch, name)
        if name in ("ones", "full", "empty", "empty_like"):
            return lambda *args, device=None, **kwargs: self._make(real, device, *args, **kwargs)
        return real

    def _make(self, real, device, *args, **kwargs):
        if self._no_kernel and device not in (None, "cpu"):
            raise torch.AcceleratorError("CUDA error: no kernel image is available for execution on the device")
        return real(*args, **kwargs)


class FakeCuda:
    """``torch.cuda`` of a machine with one card."""

    def __init__(self, name: str, capability: tuple[int, int], *, total: int = 16 * GIB, **figures: object) -> None:
        figures = {"multi_processor_count": 40, "is_integrated": False, "gcnArchName": ""} | figures
        self.props = SimpleNamespace(name=name, major=capability[0], minor=capability[1], **figures)
        self.total, self.free, self.reserved, self.allocated, self.fraction = total, total, 0, 0, 1.0
        self.archs, self.waits, self.emptied = list(CURRENT_WHEEL), 0, 0

    def is_available(self) -> bool:
        return True

    def device_count(self) -> int:
        return 1

    def is_bf16_supported(self, *_: object) -> bool:
        pytest.fail("the bare query counts emulation and must not be asked")

    def get_device_properties(self, _: int) -> SimpleNamespace:
        return self.props

    def mem_get_info(self, _: int) -> tuple[int, int]:
        return self.free, self.total

    def memory_reserved(self, _: int) -> int:
        return self.reserved

    def memory_allocated(self, _: int) -> int:
        return self.allocated

    def get_per_process_memory_fraction(self, _: int) -> float:
        return self.fraction

    def get_arch_list(self) -> list[str]:
        return self.archs

    def synchronize(self, _: int) -> None:
        self.waits += 1

    def empty_cache(self) -> None:
        self.emptied += 1

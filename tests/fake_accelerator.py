"""An accelerator made of CPU memory: device "fake:0", a byte limit, real out-of-memory errors, no mixed devices.

It is torch's PrivateUse1 device driven from Python. A tensor on it wraps a CPU tensor that holds its values. Bytes are
counted per storage and given back when the last tensor on it dies, so offloading really frees memory, and a tensor kept
alive by an exception really costs some. Operators can be declared missing for a dtype, as real devices lack them.
"""

import weakref
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.utils import _pytree as pytree
from torch.utils.backend_registration import _setup_privateuseone_for_python_backend

from loader.host import Accelerator, Rate

NAME = "fake"
TRANSFERS = ("aten::copy_", "aten::_to_copy")


class Memory:
    """The device's allocator, and the module ``torch.fake`` with the counters a real one has."""

    def __init__(self) -> None:
        self.limit = 2**40
        self.used = self.peak = 0
        self.missing: set[tuple[str, torch.dtype]] = set()
        self.computed: Counter[torch.dtype] = Counter()
        self._tensors: Counter[int] = Counter()

    def hold(self, tensor: "FakeTensor") -> None:
        storage = tensor.raw.untyped_storage()
        key, count = storage.data_ptr() or id(storage), storage.nbytes()
        if not self._tensors[key]:
            if self.used + count > self.limit:
                raise torch.OutOfMemoryError(
                    f"fake out of memory. Tried to allocate {count / 2**20:.2f} MiB; "
                    f"{self.used / 2**20:.2f} of {self.limit / 2**20:.2f} MiB are in use"
                )
            self.used += count
            self.peak = max(self.peak, self.used)
        self._tensors[key] += 1
        weakref.finalize(tensor, self._release, key, count)

    def _release(self, key: int, count: int) -> None:
        self._tensors[key] -= 1
        if not self._tensors[key]:
            del self._tensors[key]
            self.used -= count

    # What a torch device module offers.
    def _is_in_bad_fork(self) -> bool:
        return False

    def manual_seed_all(self, seed: int) -> None:
        """Nothing of its own to seed: its numbers are drawn on the CPU."""

    def is_available(self) -> bool:
        return True

    def device_count(self) -> int:
        return 1

    def current_device(self) -> int:
        return 0

    def empty_cache(self) -> None:
        return

    def max_memory_reserved(self, device: int = 0) -> int:
        return self.peak

    def reset_peak_memory_stats(self, device: int = 0) -> None:
        self.peak = self.used


MEMORY = Memory()


class FakeTensor(torch.Tensor):
    """A tensor on the fake device; ``raw`` is the CPU tensor that holds its values."""

    raw: torch.Tensor

    @staticmethod
    def __new__(cls, raw: torch.Tensor) -> "FakeTensor":
        made = torch.Tensor._make_wrapper_subclass(
            cls,
            raw.shape,
            strides=raw.stride(),
            storage_offset=raw.storage_offset(),
            dtype=raw.dtype,
            device=torch.device(NAME, 0),
        )
        made.raw = raw.detach()
        MEMORY.hold(made)
        return made

    def __repr__(self, *, tensor_contents: Any = None) -> str:
        return f"FakeTensor({self.raw!r})"

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        # A wrapper made in inference mode could not be a view of one made outside.
        with torch.inference_mode(mode=False), torch.no_grad():
            return _run(func, args, kwargs or {})


def _run(func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    """Run an operator on what is wrapped, with a real device's refusals."""
    name = func._schema.name
    tensors = [t for t in pytree.tree_leaves((args, kwargs)) if isinstance(t, torch.Tensor)]
    if name not in TRANSFERS:
        if any(not isinstance(t, FakeTensor) and t.dim() for t in tensors):
            raise RuntimeError(
                "Expected all tensors to be on the same device, but found at least two devices, fake:0 and cpu!"
            )
        for tensor in tensors:
            if (name, tensor.dtype) in MEMORY.missing:
                label = {torch.float16: "Half", torch.bfloat16: "BFloat16"}.get(tensor.dtype, str(tensor.dtype))
                raise RuntimeError(f"\"{name.removeprefix('aten::')}\" not implemented for '{label}'")
        for dtype in {t.dtype for t in tensors if t.is_floating_point()}:
            MEMORY.computed[dtype] += 1
    # "aten::to" names its device by position where it is not taken apart first, as in inference mode.
    named = next((a for a in (kwargs.get("device"), *args) if isinstance(a, torch.device)), None)
    wanted = torch.device(kwargs.get("device") or named or NAME).type
    args = tuple(torch.device("cpu") if isinstance(a, torch.device) else a for a in args)
    if "device" in kwargs:
        kwargs = {**kwargs, "device": torch.device("cpu")}
    owners = {id(t.raw): t for t in tensors if isinstance(t, FakeTensor)}
    raw_args, raw_kwargs = pytree.tree_map(lambda x: x.raw if isinstance(x, FakeTensor) else x, (args, kwargs))
    result = func(*raw_args, **raw_kwargs)
    if name == "aten::copy_" and not isinstance(args[0], FakeTensor):
        return args[0]
    if wanted == "cpu":
        return result

    def wrap(x: Any) -> Any:
        if not isinstance(x, torch.Tensor):
            return x
        owner = owners.get(id(x))
        return FakeTensor(x) if owner is None else owner

    return pytree.tree_map(wrap, result)


def _make(func: Any, *args: Any, **kwargs: Any) -> Any:
    """Factories and whatever else reaches the device without a tensor of it."""
    with torch.inference_mode(mode=False), torch.no_grad():
        return _run(func, args, kwargs)


def register() -> None:
    """Make "fake:0" a device of this process. Can be called more than once."""
    if torch._C._get_privateuse1_backend_name() == NAME:
        return
    _setup_privateuseone_for_python_backend(NAME, backend_module=MEMORY)
    library = torch.library.Library("_", "IMPL")
    library.fallback(_make, "PrivateUse1")
    register.library = library  # type: ignore[attr-defined]


@contextmanager
def fake_accelerator(limit: int, *, missing: set[tuple[str, torch.dtype]] | None = None) -> Iterator[Memory]:
    """The device with ``limit`` bytes, lacking ``missing`` operators, empty of earlier peaks."""
    register()
    MEMORY.limit, MEMORY.missing = limit, missing or set()
    MEMORY.peak = MEMORY.used
    MEMORY.computed.clear()
    try:
        yield MEMORY
    finally:
        MEMORY.limit, MEMORY.missing = 2**40, set()


def fake_card(memory: int, native: tuple[str, ...] = ("fp32", "fp16", "bf16")) -> Accelerator:
    """The device's facts for a host."""
    return Accelerator(
        device="fake:0",
        kind="fake",
        name="Fake accelerator",
        arch="fake",
        memory_bytes=memory,
        free_bytes=memory,
        native=native,  # type: ignore[arg-type]
        rates={"fp32": Rate(1e3), "fp16": Rate(4e3), "bf16": Rate(4e3)},
        bandwidth_gbs=100.0,
        runs_code=True,
    )

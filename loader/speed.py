"""How fast, and how finite, matrix products and convolutions of each dtype really are on a device.

The figures of ``Host.cpu.rates`` and ``Accelerator.rates`` when they say "measured". A few small products, chosen so
that each takes milliseconds; what would take longer than its share of the budget is left to the estimate.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from loader.host import Dtype, Rate
from loader.measure import MAX_WALL_OVER_CPU, Timing, timed

CPU_BUDGET_S = 0.8
CARD_BUDGET_S = 3.0
_REPEATS = 7
_ROWS = 4
_ATTEMPTS = 4
_TORCH_NAMES: Mapping[str, str] = {"fp32": "float32", "bf16": "bfloat16", "fp16": "float16", "int8": "int8"}
# Channels, height and width, and kernel of the timed convolution: an inner block of a detector.
_CHANNELS, _SIDE, _KERNEL = 64, 40, 3


@dataclass(frozen=True)
class Speeds:
    """What was measured on one device.

    Attributes:
        rates: GFLOP/s (GOP/s for int8) of matrix products; a dtype that was disturbed or too slow to time is absent.
        convolution: fp32 time over bf16 time of a convolution in channels_last, 0 when either was not timed.
        bandwidth_gbs: of copies within the device's memory, 0 when not timed.
        link_gbs: of copies from host memory, 0 when not timed.
        not_finite: dtypes whose products or convolutions gave NaN or Inf for harmless inputs.
        note: how it went, for ``Host.sources``.
    """

    rates: Mapping[str, Rate] = field(default_factory=dict)
    convolution: float = 0.0
    bandwidth_gbs: float = 0.0
    link_gbs: float = 0.0
    not_finite: tuple[Dtype, ...] = ()
    note: str = ""


class _Clock:
    """Measures on one device until its budget of seconds is spent, and remembers what it could not, and why."""

    def __init__(self, torch: Any, device: str, threads: int, budget: float) -> None:
        self.torch, self.device, self.threads = torch, device, threads
        self.start = time.perf_counter()
        self.deadline = self.start + budget
        self.missing: list[str] = []

    @property
    def left(self) -> float:
        return self.deadline - time.perf_counter()

    @property
    def spent(self) -> float:
        return time.perf_counter() - self.start

    def seconds(self, what: str, call: Callable[[], object]) -> float:
        """The fastest of several calls, 0 when the machine never was quiet."""
        once = self._once(call)
        reason = "no time left"
        for _ in range(_ATTEMPTS):
            if self.left < once * _REPEATS:
                break
            timing = timed(self._waiting(call), _REPEATS, threads=self.threads, waits=self.device != "cpu")
            if timing.quiet:
                return timing.min
            reason = f"disturbed: {_disturbance(timing)}"
        self.missing.append(f"{what} ({reason})")
        return 0.0

    def _once(self, call: Callable[[], object]) -> float:
        before = time.perf_counter()
        self._waiting(call)()
        return time.perf_counter() - before

    def _waiting(self, call: Callable[[], object]) -> Callable[[], object]:
        if self.device == "cpu":
            return call
        kind, _, index = self.device.partition(":")
        module, which = getattr(self.torch, kind), (int(index),) if index else ()

        def complete() -> None:
            call()
            module.synchronize(*which)

        return complete

    def large_enough(self, dtype: str, sides: Sequence[int], target: float, most: float) -> int:
        """The first side whose product takes ``target`` seconds, never one that is expected to take over ``most``."""
        chosen = sides[0]
        for side in sides:
            call = self.product(dtype, side)
            self._once(call)
            took = self._once(call)
            chosen = side
            if took >= target or took * 8 > most or took * 16 > self.left:
                break
        return chosen

    def product(self, dtype: str, side: int) -> Callable[[], Any]:
        """A linear layer of ``side`` channels on four times as many rows; an integer product for int8.

        oneDNN leaves all but one thread idle on some square products (1,024 in bf16, on two cores), not on these.
        """
        torch = self.torch
        kind = getattr(torch, _TORCH_NAMES[dtype])
        # Entries of a thousandth keep every sum far inside fp16's range.
        value = 1 if dtype == "int8" else 1e-3
        rows, weight = (torch.full((n, side), value, dtype=kind, device=self.device) for n in (_ROWS * side, side))
        if dtype == "int8":
            return lambda: torch._int_mm(rows, weight)
        return lambda: torch.nn.functional.linear(rows, weight)

    def convolution(self, dtype: str) -> Callable[[], Any]:
        torch = self.torch
        kind = getattr(torch, _TORCH_NAMES[dtype])
        picture = torch.full((1, _CHANNELS, _SIDE, _SIDE), 0.01, dtype=kind, device=self.device)
        kernel = torch.full((_CHANNELS, _CHANNELS, _KERNEL, _KERNEL), 0.01, dtype=kind, device=self.device)
        picture, kernel = (t.to(memory_format=torch.channels_last) for t in (picture, kernel))
        return lambda: torch.nn.functional.conv2d(picture, kernel, padding=_KERNEL // 2)


def measure_cpu(torch: Any, cores: int, budget: float = CPU_BUDGET_S) -> Speeds:
    """Rates of fp32, bf16, fp16 and int8 products on the CPU, on as many of ``cores`` as torch uses.

    When the fp32 product was disturbed nothing is reported but the note: a ratio with a wrong base is worth nothing.

    Args:
        torch: the module to measure with.
        cores: usable cores.
        budget: seconds it may take at most, about.
    """
    threads = torch.get_num_threads()
    used = min(threads, cores)
    torch.set_num_threads(used)  # more threads than the quota pays for only wait for each other
    try:
        with torch.inference_mode():
            return _measure_cpu(_Clock(torch, "cpu", used, budget))
    finally:
        torch.set_num_threads(threads)


def _measure_cpu(clock: _Clock) -> Speeds:
    side = clock.large_enough("fp32", (128, 256, 512, 1024), target=0.003, most=0.04)
    rates = _rates(clock, ("fp32", "bf16"), side)
    convolution = _convolution_ratio(clock)
    rates |= _rates(clock, ("fp16", "int8"), side)
    bandwidth = _copies(clock, clock.torch.empty(16 * 2**20, dtype=clock.torch.float32), 2)
    if "fp32" not in rates:
        return Speeds(note=f"estimated by instruction set; not measured: {', '.join(clock.missing)}")
    return Speeds(rates, convolution, bandwidth, note=_note(clock))


def measure_card(torch: Any, device: str, native: Sequence[Dtype], free_bytes: int, *, unified: bool) -> Speeds:
    """Rates of the floating-point dtypes an accelerator has in hardware, its bandwidths, and which are not finite.

    Never raises: a card that fails while it is measured keeps its estimates, and the note says so.
    """
    try:
        with torch.inference_mode():
            return _measure_card(_Clock(torch, device, 1, CARD_BUDGET_S), native, free_bytes, unified=unified)
    except RuntimeError as error:  # out of memory and device errors included
        return Speeds(
            note=f"not measured: {str(error).strip().splitlines()[0][:120] if str(error).strip() else 'error'}"
        )


def _measure_card(clock: _Clock, native: Sequence[Dtype], free_bytes: int, *, unified: bool) -> Speeds:
    # The fp32 matrices of the largest product may take a twentieth of what is free.
    sides = [side for side in (512, 1024, 2048, 4096) if 4 * 9 * side * side <= free_bytes // 20] or [128]
    rates: dict[str, Rate] = {}
    broken: list[Dtype] = []
    for dtype in (d for d in native if d != "int8"):
        side = clock.large_enough(dtype, sides, target=0.002, most=0.2)
        rates |= _rates(clock, (dtype,), side)
        results = (clock.product(dtype, side)(), clock.convolution(dtype)())
        if not all(bool(clock.torch.isfinite(result).all().item()) for result in results):
            broken.append(dtype)
    convolution = _convolution_ratio(clock) if "bf16" in native else 0.0
    block = clock.torch.empty(16 * 2**20, dtype=clock.torch.float32)
    on_card = clock.torch.empty_like(block, device=clock.device)
    bandwidth = _copies(clock, on_card, 2)
    link = 0.0 if unified else _rate_gbs(block, clock.seconds("link", lambda: on_card.copy_(block)), 1)
    if "fp32" not in rates:
        return Speeds(not_finite=tuple(broken), note=f"estimated; not measured: {', '.join(clock.missing)}")
    return Speeds(rates, convolution, bandwidth, link, tuple(broken), _note(clock))


def _rates(clock: _Clock, dtypes: Sequence[str], side: int) -> dict[str, Rate]:
    rates = {}
    for dtype in dtypes:
        smaller = side
        try:
            if dtype != "fp32" and clock.device == "cpu":
                smaller = clock.large_enough(dtype, (side // 4, side // 2, side), target=0.003, most=0.04)
            seconds = clock.seconds(dtype, clock.product(dtype, smaller))
        except (RuntimeError, AttributeError):  # this torch has no such product here
            clock.missing.append(f"{dtype} (not supported)")
            continue
        if seconds > 0:
            rates[dtype] = Rate(round(2 * _ROWS * smaller**3 / seconds / 1e9, 1), "measured")
    return rates


def _convolution_ratio(clock: _Clock) -> float:
    try:
        full = clock.seconds("fp32 convolution", clock.convolution("fp32"))
        short = clock.seconds("bf16 convolution", clock.convolution("bf16"))
    except RuntimeError:
        clock.missing.append("bf16 convolution (not supported)")
        return 0.0
    return round(full / short, 2) if full > 0 and short > 0 else 0.0


def _copies(clock: _Clock, block: Any, passes: int) -> float:
    target = clock.torch.empty_like(block)
    return _rate_gbs(block, clock.seconds("copies", lambda: target.copy_(block)), passes)


def _rate_gbs(block: Any, seconds: float, passes: int) -> float:
    return round(passes * block.numel() * block.element_size() / seconds / 1e9, 1) if seconds > 0 else 0.0


def _note(clock: _Clock) -> str:
    threads = f" on {clock.threads} thread{'s' * (clock.threads > 1)}" if clock.device == "cpu" else ""
    took = f"measured here{threads} in {clock.spent:.1f} s"
    return f"{took}, except {', '.join(clock.missing)}" if clock.missing else took


def _disturbance(timing: Timing) -> str:
    if timing.wall_over_cpu > MAX_WALL_OVER_CPU:
        return f"wall time {timing.wall_over_cpu:.1f} times processor time"
    return "repeats disagree"

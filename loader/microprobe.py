"""Times the operations networks are made of, on each device, in each dtype and layout: the ``micro`` figures of a host.

Small cases, chosen to take milliseconds: a convolution of a detector's inner block, a linear layer of a transformer,
attention by two products at three lengths, a normalisation, an interpolation. Under three seconds in all, kept in a
file by processor, limits, driver and torch, so that a second start measures only what was disturbed in the first.
"""

import hashlib
import json
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from loader import micro
from loader.codec import from_plain, to_plain
from loader.host import Accelerator, Dtype, Host, Operation, OpTime
from loader.measure import timed
from loader.quiet import Quiet

BUDGET_VARIABLE = "ANYHOST_PROBE_SECONDS"
BUDGET_S = 3.0
FILE = "micro.json"
_DTYPES: tuple[Dtype, ...] = ("fp32", "bf16", "fp16")
_NAMES: Mapping[str, str] = {"fp32": "float32", "bf16": "bfloat16", "fp16": "float16"}
_REPEATS, _ATTEMPTS = 5, 3
# A call this slow is worth no repeats; a neighbour may be what makes it slow all the same.
_SLOW_S = 0.12
_LENGTHS = (1024, 2048, 4096)
_HEADS, _WIDTH = 2, 64
_CHANNELS, _SIDE = 64, 48
_FEATURES, _ROWS = 512, 1024


@dataclass(frozen=True)
class Case:
    """One operation to time: ``make`` gives a function of no arguments that computes it and returns its result."""

    operation: Operation
    dtype: Dtype
    make: Callable[[], Callable[[], Any]]
    layout: str = ""
    kernel: str = ""
    length: int = 0

    def result(self, seconds: float, *, finite: bool) -> OpTime:
        return OpTime(self.operation, self.dtype, seconds, self.layout, self.kernel, self.length, finite)


def budget_from(environ: Mapping[str, str]) -> float:
    """Seconds a device's operations may take in all, by ``ANYHOST_PROBE_SECONDS``; 0 leaves the rules without them."""
    try:
        return max(0.0, float(environ.get(BUDGET_VARIABLE, BUDGET_S)))
    except ValueError:
        return BUDGET_S


def with_micro(host: Host, cache: Path, environ: Mapping[str, str] | None = None, torch: Any = None) -> Host:
    """``host`` with the operations of its devices timed, or read from what was timed before.

    Never raises: what cannot be timed or kept is left out, and the rules then decide without it.

    Args:
        host: as probed; on ZeroGPU only its CPU is timed.
        cache: folder of the file figures are kept in.
        environ: environment variables, by default the process's own.
        torch: the module to measure with, by default the installed one.
    """
    budget = budget_from(os.environ if environ is None else environ)
    if torch is None:
        import torch
    kept = Kept(cache / FILE)
    sources = dict(host.sources)
    figures, sources["cpu.micro"] = _figures(torch, kept, host, None, budget)
    processor = replace(host.cpu, micro=figures)
    cards = []
    for card in host.accelerators:
        if host.platform == "zerogpu" or not card.runs_code:
            cards.append(card)
            continue
        figures, sources[f"{card.device}.micro"] = _figures(torch, kept, host, card, budget)
        cards.append(replace(card, micro=figures))
    return replace(host, cpu=processor, accelerators=tuple(cards), sources=sources)


def _figures(
    torch: Any, kept: "Kept", host: Host, card: Accelerator | None, budget: float
) -> tuple[tuple[OpTime, ...], str]:
    """Figures of the CPU or of ``card``, and where they come from."""
    key = identity(torch, host, card)
    known = kept.read(key)
    device, native = ("cpu", _DTYPES) if card is None else (card.device, card.native)
    todo = [case for case in cases(torch, device, native) if not any(_same(case, op) for op in known)]
    if not todo or budget <= 0:
        return known, f"{len(known)} operations, timed before" if known else "not timed"
    started = time.perf_counter()
    threads = torch.get_num_threads()
    try:
        if card is None:
            torch.set_num_threads(min(threads, host.cpu.cores))
        new = tuple(_timed(torch, device, todo, started + budget))
    finally:
        torch.set_num_threads(threads)
    figures = (*known, *new)
    kept.write(key, figures)
    missing = len(todo) - len(new)
    left = f", {missing} left for the next start: disturbed or out of time" if missing else ""
    return figures, f"{len(figures)} operations, timed in {time.perf_counter() - started:.1f} s{left}"


def identity(torch: Any, host: Host, card: Accelerator | None) -> str:
    """What must be the same for figures to hold: processor and its limits, or card and driver; and torch."""
    facts = (
        (host.cpu.name, host.cpu.cores, host.cpu.effective_isa, host.cpu.limits)
        if card is None
        else (card.name, card.arch, card.memory_bytes, driver_version())
    )
    text = json.dumps([str(torch.__version__), host.python, host.system, facts])
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def driver_version(root: Path = Path("/")) -> str:
    """The first line the kernel shows of NVIDIA's driver, or of AMD's; "" where there is none."""
    for path in ("proc/driver/nvidia/version", "sys/module/amdgpu/version"):
        try:
            return (root / path).read_text(encoding="utf-8", errors="replace").splitlines()[0].strip()
        except (OSError, IndexError):
            continue
    return ""


class Kept:
    """Figures in a file, by identity. Another machine on the same disk has another identity and keeps its own."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def read(self, key: str) -> tuple[OpTime, ...]:
        """Figures under ``key``; none when there are none or the file cannot be read."""
        plain = self._all().get(key, [])
        try:
            return tuple(from_plain(OpTime, op) for op in plain)
        except (ValueError, TypeError):
            return ()

    def write(self, key: str, figures: Sequence[OpTime]) -> None:
        """Keep ``figures``; a disk that cannot be written costs the next start three seconds, nothing else."""
        everything = self._all() | {key: [to_plain(op) for op in figures]}
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            partial = self.path.with_suffix(f".{os.getpid()}")
            partial.write_text(json.dumps(everything), encoding="utf-8")
            partial.replace(self.path)
        except OSError:
            return

    def _all(self) -> dict[str, Any]:
        try:
            found = json.loads(self.path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}
        return found if isinstance(found, dict) else {}


def _same(case: Case, op: OpTime) -> bool:
    return (case.operation, case.dtype, case.layout, case.kernel, case.length) == (
        op.operation,
        op.dtype,
        op.layout,
        op.kernel,
        op.length,
    )


# --- what is timed ----------------------------------------------------------------------------------------------


def cases(torch: Any, device: str, native: Sequence[Dtype]) -> list[Case]:
    """Every operation worth timing on ``device``, what decides most first."""
    from loader import packing

    dtypes: list[Dtype] = [dtype for dtype in _DTYPES if dtype in native]
    found: list[Case] = []
    packs = device == "cpu" and packing.available()
    for dtype in dtypes:
        for layout in ("contiguous", "channels_last"):
            found.append(Case("convolution", dtype, _convolution(torch, device, dtype, layout), layout))
        found.append(Case("linear", dtype, _linear(torch, device, dtype)))
        if packs and dtype != "fp16":
            make = _convolution(torch, device, dtype, micro.LAST, packed=True)
            found.append(Case("convolution", dtype, make, micro.LAST, kernel=micro.PACKED))
            make = _linear(torch, device, dtype, packed=True)
            found.append(Case("linear", dtype, make, kernel=micro.PACKED))
    for dtype in dtypes:
        # fp16 attention on a CPU is never chosen: its products are not.
        kernels = ("sdpa", "blocks") if device == "cpu" and dtype != "fp16" else ("sdpa",)
        for length in _LENGTHS:
            for kernel in kernels:
                make = _attention(torch, device, dtype, kernel, length)
                found.append(Case("attention", dtype, make, kernel=kernel, length=length))
    for dtype in dtypes:
        found.append(Case("normalisation", dtype, _normalisation(torch, device, dtype)))
        found.append(Case("interpolation", dtype, _interpolation(torch, device, dtype)))
    return found


def _tensor(torch: Any, device: str, dtype: str, *shape: int) -> Any:
    # Harmless values of either sign; sums of a thousand stay far inside fp16's range.
    count = 1
    for side in shape:
        count *= side
    values = torch.linspace(-0.1, 0.1, count).reshape(shape)
    return values.to(device=device, dtype=getattr(torch, _NAMES[dtype]))


def _convolution(
    torch: Any, device: str, dtype: str, layout: str, *, packed: bool = False
) -> Callable[[], Callable[[], Any]]:
    def make() -> Callable[[], Any]:
        picture = _tensor(torch, device, dtype, 1, _CHANNELS, _SIDE, _SIDE)
        kernel = _tensor(torch, device, dtype, _CHANNELS, _CHANNELS, 3, 3)
        if layout == "channels_last":
            picture, kernel = (t.to(memory_format=torch.channels_last) for t in (picture, kernel))
        if packed:
            layer = torch.nn.Conv2d(_CHANNELS, _CHANNELS, 3, padding=1, bias=False)
            return _packed(torch, layer, kernel, picture)
        return lambda: torch.nn.functional.conv2d(picture, kernel, padding=1)

    return make


def _linear(torch: Any, device: str, dtype: str, *, packed: bool = False) -> Callable[[], Callable[[], Any]]:
    def make() -> Callable[[], Any]:
        rows, weight = (_tensor(torch, device, dtype, n, _FEATURES) for n in (_ROWS, _FEATURES))
        if packed:
            layer = torch.nn.Linear(_FEATURES, _FEATURES, bias=False)
            return _packed(torch, layer, weight, rows)
        return lambda: torch.nn.functional.linear(rows, weight)

    return make


def _packed(torch: Any, layer: Any, weight: Any, input: Any) -> Callable[[], Any]:
    """``layer`` with ``weight``, packed as ``loader.place`` packs it, on ``input``."""
    from loader.packing import pack

    with torch.inference_mode(mode=False):
        layer.weight = torch.nn.Parameter(weight, requires_grad=False)
        layers = torch.nn.Sequential(layer)
        pack(layers)
    return lambda: layers(input)


def _attention(torch: Any, device: str, dtype: str, kernel: str, length: int) -> Callable[[], Callable[[], Any]]:
    def make() -> Callable[[], Any]:
        from loader.attention import attend, attend_blocks

        shape = (1, _HEADS, length, _WIDTH)
        query, key, value = (_tensor(torch, device, dtype, *shape) for _ in range(3))
        function = attend if kernel == "sdpa" else attend_blocks
        return lambda: function(query, key, value)

    return make


def _normalisation(torch: Any, device: str, dtype: str) -> Callable[[], Callable[[], Any]]:
    def make() -> Callable[[], Any]:
        rows = _tensor(torch, device, dtype, 4 * _ROWS, _FEATURES)
        return lambda: torch.nn.functional.layer_norm(rows, (_FEATURES,))

    return make


def _interpolation(torch: Any, device: str, dtype: str) -> Callable[[], Callable[[], Any]]:
    def make() -> Callable[[], Any]:
        picture = _tensor(torch, device, dtype, 1, _CHANNELS, _SIDE, _SIDE)
        return lambda: torch.nn.functional.interpolate(picture, scale_factor=2.0, mode="bilinear", align_corners=False)

    return make


# --- timing -----------------------------------------------------------------------------------------------------


def _timed(torch: Any, device: str, todo: Sequence[Case], deadline: float) -> Iterator[OpTime]:
    """Figures of those cases that could be timed in quiet before ``deadline``."""
    wait = _waiter(torch, device)
    with torch.inference_mode():
        for case in todo:
            if time.perf_counter() >= deadline:
                return
            try:
                figure = _one(torch, case, wait, deadline)
            except (RuntimeError, NotImplementedError):  # this device has no such operation in this dtype
                continue
            if figure is not None:
                yield figure


def _one(torch: Any, case: Case, wait: Callable[[], None], deadline: float) -> OpTime | None:
    call = case.make()

    def complete() -> Any:
        result = call()
        wait()
        return result

    complete()  # the first call also chooses kernels and lays weights out
    before = time.perf_counter()
    finite = bool(torch.isfinite(complete()).all().item())
    once = time.perf_counter() - before
    repeats = 1 if once > _SLOW_S else _REPEATS
    for _ in range(_ATTEMPTS):
        if time.perf_counter() + once * repeats > deadline:
            return None
        with Quiet() as undisturbed:
            timing = timed(complete, repeats, threads=torch.get_num_threads(), waits=case_waits(wait))
        # A thread that spins while it waits for a disturbed one uses up processor time as if it computed.
        if timing.quiet and undisturbed.held:
            return case.result(timing.min, finite=finite)
    return None


def _nothing() -> None:
    """Nothing to wait for: a CPU has computed when a call returns."""


def case_waits(wait: Callable[[], None]) -> bool:
    """Whether calls wait for an accelerator, so that processor time says nothing."""
    return wait is not _nothing


def _waiter(torch: Any, device: str) -> Callable[[], None]:
    kind, _, index = device.partition(":")
    if kind == "cpu":
        return _nothing
    module, which = getattr(torch, kind), (int(index),) if index else ()
    return lambda: module.synchronize(*which)

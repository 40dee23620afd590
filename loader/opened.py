"""One adapter by one plan: its components, loaded when they are called, and the figures of its runs."""

import os
import queue
import threading
from collections import Counter
from collections.abc import Generator, Mapping
from dataclasses import replace
from functools import partial
from operator import attrgetter
from pathlib import Path
from typing import Any

import torch
from torch import nn

from loader.compiling import Desk, Overlay, Standing
from loader.errors import Cancelled
from loader.fetch import Progress, fetch_all
from loader.folders import Folders, Found
from loader.memory import block_bytes
from loader.outcome import Cancel, Drift, Step, TraceEntry
from loader.packages import note_of
from loader.pipeline import Pipeline, announced, calibration, pipeline_of
from loader.place import TORCH_DTYPES, call_guard, place
from loader.plan import Placement, Plan
from loader.process import return_freed_memory
from loader.ranges import ranges_file
from loader.residency import Residency, Source, Tenant, key_of


class Opened:
    """The components of a plan; what a pipeline calls. Each is loaded at its first call.

    Attributes:
        plan: the plan in force; a failure may put a lower one in its place.
        checkpoint: the user's own file, if one is loaded.
        announced: components the request in hand will call, in order.
        calls: how often each component was called by this run.
        drift: how far its output was found to be from fp32's on the sample.
        weights_note: what the weights are, for every output ("published", "preview weights, …", "own file x.pth").
    """

    def __init__(  # noqa: PLR0913 - what one run is made of
        self,
        plan: Plan,
        pipeline: Pipeline,
        files: Mapping[str, Path],
        checkpoint: Path | None,
        residency: Residency,
        desk: Desk | None = None,
        cache: Path | None = None,
    ) -> None:
        self._cache = cache or Folders.from_environ(os.environ).cache
        self.plan, self.pipeline, self.files, self.checkpoint = plan, pipeline, files, checkpoint
        self.drift: Drift | None = None
        self._grown: dict[tuple[object, ...], int] = {}
        self._before: dict[str, int] = {}
        self.announced: tuple[str, ...] = ()
        self._used: dict[str, int] = {}
        self.weights_note = f"own file {checkpoint.name}" if checkpoint else plan.provenance
        self._residency, self._desk = residency, desk
        self._overlays: dict[str, Overlay] = {}
        self.calls: Counter[str] = Counter()
        self._tenant = Tenant(residency, plan, self._entries(plan))

    def _entries(self, plan: Plan) -> dict[str, tuple[str, Source]]:
        """Each component of ``plan`` with its key and its way into memory."""
        shared: Mapping[str, str] = getattr(self.pipeline, "shared_networks", {})
        variant = plan.situation.spec.variant(plan.variant)
        entries = {}
        for placement in plan.components:
            placement = self._held(placement)
            name, component = placement.name, variant.component(placement.name)
            accelerator = plan.situation.host.accelerator(placement.device)
            source = Source(
                placement,
                partial(self._load, name),
                component.repeated_block,
                block_bytes(component, placement.storage_dtype),
                unified=accelerator is not None and accelerator.unified,
                dropped=partial(self._uncover, name),
            )
            entries[name] = (key_of(plan, placement, self.files, self.checkpoint, shared.get(name, "")), source)
        return entries

    def _load(self, component: str) -> nn.Module:
        plan = self.plan
        module = self.pipeline.load(component, plan, self.files, self.checkpoint)
        # Only residency moves components to a device, after it has made room there.
        parked = replace(self._held(plan.component(component)), residency="offload")
        edges = self.pipeline.own_edges.get(component, ())
        return place(module, parked, edges, calibration(self.pipeline, component, plan), self._ranges(parked))

    def _ranges(self, placement: Placement) -> Path | None:
        """The file that keeps the ranges of a component's values, for int8."""
        if placement.compute_dtype != "int8":
            return None
        key = key_of(self.plan, placement, self.files, self.checkpoint)
        return ranges_file(self._cache, key)

    # --- what a pipeline calls

    def call(self, component: str, *args: Any, **kwargs: Any) -> Any:
        """Run a component, or "component.method", where and in what the plan says, without gradients."""
        name, _, method = component.partition(".")
        module = self._tenant.awake(name)
        if name not in self._used:
            self._used[name] = self._tenant.bytes()[name]
        self.calls[name] += 1
        placed = self.plan.component(name)
        if method:
            return call_guard(attrgetter(method)(module), placed)(*args, **kwargs)
        overlay = self._overlay(placed, module)
        target = module if overlay is None else partial(overlay.answer, module)
        return call_guard(target, placed)(*args, **kwargs)

    # --- compiled beside the requests

    def _held(self, placement: Placement) -> Placement:
        """What is held of a component: what is compiled beside its requests is loaded as it is."""
        if self._desk is None or not self._desk.takes(placement):
            return placement
        return replace(placement, compile="none", compile_blocks="")

    def _overlay(self, placement: Placement, module: nn.Module) -> Overlay | None:
        """What stands before a component that is compiled beside its requests."""
        if self._desk is None or not self._desk.takes(placement):
            return None
        overlay = self._overlays.get(placement.name)
        if overlay is None or not overlay.is_for(module, placement):
            self._uncover(placement.name)
            overlay = self._desk.overlay(self.plan, placement, module, self._taken, self.checkpoint)
            self._overlays[placement.name] = overlay
        return overlay

    def _uncover(self, name: str) -> None:
        overlay = self._overlays.pop(name, None)
        if overlay is not None:
            overlay.drop()

    def _taken(self) -> int:
        """Bytes of host memory taken by all that is loaded."""
        return self._residency.held_bytes("", others=True).get("host", 0)

    def standings(self) -> tuple[Standing, ...]:
        """Where compiling stands, by component; nothing of those that are not compiled."""
        return tuple(overlay.standing for overlay in list(self._overlays.values()))

    def last_news(self) -> list[TraceEntry]:
        """What was decided of compiling since the last run, for the one that takes this one's place."""
        decided = (overlay for overlay in list(self._overlays.values()) if not overlay.standing.going_on)
        return [entry for overlay in decided if (entry := overlay.news()) is not None]

    def news(self) -> list[TraceEntry]:
        """What the run that ends says of compiling."""
        told = (overlay.news() for overlay in list(self._overlays.values()))
        return [entry for entry in told if entry is not None] + self._without_package()

    def _without_package(self) -> list[TraceEntry]:
        notes = {name: note_of(module) for name, module in self.modules().items()}
        return [TraceEntry(name, "package_missing", note, "eager") for name, note in notes.items() if note]

    def device(self, component: str) -> torch.device:
        """Where the component computes."""
        return torch.device(self.plan.component(component).device)

    def dtype(self, component: str) -> torch.dtype:
        """What the component computes in."""
        return TORCH_DTYPES[self.plan.component(component).compute_dtype]

    def seeded(self, seed: int) -> torch.Generator:
        """Randomness of one request, drawn on the CPU: the same numbers on every device."""
        return torch.Generator("cpu").manual_seed(seed)

    # --- plans

    def serves(self, wanted: Plan, checkpoint: Path | None) -> bool:
        """Whether what is held is what ``wanted`` would hold."""
        mine, theirs = (
            (made.variant, made.device, tuple(map(self._held, made.components))) for made in (self.plan, wanted)
        )
        return self.checkpoint == checkpoint and mine == theirs

    def renew(self, wanted: Plan) -> None:
        """Take another request's size and batch; the components stay as they are."""
        self.plan = wanted
        self._tenant.renew(wanted)

    def adopt(self, lower: Plan, files: Mapping[str, Path]) -> None:
        """Put a relaxed plan in force while a run goes on. What it places otherwise is loaded at its next call."""
        before = self.plan.variant
        self.plan, self.files = lower, files
        self._used = {}  # of what was loaded by the plan that failed nothing is held any more
        self._tenant.take(lower, self._entries(lower))
        if lower.variant != before:
            self.announced = tuple(p.name for p in lower.components)
        self._tenant.begin(self.announced)

    def begin(self, request: Any) -> None:
        """A run begins: others make room for what the plan was predicted to need."""
        self._used = {}
        self.calls.clear()
        self.announced = announced(self.pipeline, request, self.plan)
        self._tenant.begin(self.announced)

    def wake(self) -> None:
        """Load what every request uses, before the first comes."""
        variant = self.plan.situation.spec.variant(self.plan.variant)
        names = tuple(component.name for component in variant.components if not component.optional)
        self._tenant.begin(names)
        for name in names:
            self._tenant.awake(name)

    def rest(self) -> None:
        """After a run: everything that need not be awake goes to sleep."""
        self._tenant.rest()

    # --- figures

    def modules(self) -> dict[str, nn.Module]:
        """Components in memory, by name."""
        return self._tenant.modules()

    def has(self, component: str) -> bool:
        """Whether the plan has a component of this name."""
        return any(p.name == component for p in self.plan.components)

    def is_loaded(self, component: str) -> bool:
        """Whether the component is in memory, awake or asleep."""
        return self._tenant.is_loaded(component)

    def component_bytes(self) -> dict[str, int]:
        """Bytes of weights of each component in memory, as counted."""
        return self._tenant.bytes()

    def used_bytes(self) -> dict[str, int]:
        """Bytes of weights of each component this run has called, also of those dropped since."""
        return dict(self._used)

    @property
    def load_seconds(self) -> float:
        """Seconds spent so far on loading what stays loaded."""
        return self._tenant.load_seconds

    def held_bytes(self) -> dict[str, int]:
        """Bytes of weights held, by pool: "host" or a device name."""
        return self._tenant.held_bytes()

    def prepare(self) -> None:
        """Before a run: give freed memory back if its size and batch are new, so that its growth can be seen."""
        if self._shape() not in self._grown:
            return_freed_memory()
        self._before = {"host": self.held_bytes().get("host", 0), "loaded": self._tenant.loaded_bytes}

    def peak(self, grown: Mapping[str, int]) -> dict[str, int]:
        """Peak of a run by pool: on a CPU, what is held plus what the run added.

        The C library keeps freed blocks for the next run, which then grows by nothing; the largest growth seen for
        this size and batch is what the run needs. What the run itself loaded has grown too and is held now: it counts
        once.
        """
        loaded = self._tenant.loaded_bytes - self._before.get("loaded", 0)
        added = max(0, grown["host"] - loaded)
        largest = self._grown[self._shape()] = max(added, self._grown.get(self._shape(), 0))
        stayed = self.held_bytes().get("host", 0) + largest
        return {"device": grown["device"], "host": max(stayed, self._before.get("host", 0) + grown["host"])}

    def _shape(self) -> tuple[object, ...]:
        return (self.plan.size, self.plan.batch, self.plan.frames, self.plan.components)

    # --- failures

    def failing_submodule(self, component: str, error: BaseException) -> str:
        """Path of the innermost submodule whose forward raised ``error``, "" if none can be told."""
        module = self.modules().get(component)
        if module is None:
            return ""
        names = {id(m): path for path, m in module.named_modules()}
        found, trace = "", error.__traceback__
        while trace is not None:
            owner = trace.tb_frame.f_locals.get("self")
            found = names.get(id(owner), found) if isinstance(owner, nn.Module) else found
            trace = trace.tb_next
        return found

    def free_caches(self) -> None:
        """Give back what others hold without using it, and what the device's allocator keeps for later."""
        self._residency.evict(keep=(self._tenant.owner,))
        self._empty()

    def _empty(self) -> None:
        kind = self.plan.device.partition(":")[0]
        empty = getattr(getattr(torch, kind, None), "empty_cache", None)
        if empty is not None:
            empty()

    def close(self) -> None:
        """Let go of every component."""
        for name in list(self._overlays):
            self._uncover(name)
        self._tenant.close()
        self._empty()


def open_plan(
    plan: Plan,
    files: Mapping[str, Path],
    checkpoint: Path | None,
    residency: Residency | None = None,
    desk: Desk | None = None,
    cache: Path | None = None,
) -> Opened:
    """Be ready for what ``plan`` says, in the memory that ``residency`` manages, or in one of its own.

    With a ``desk`` components are compiled beside their requests, without one at their first call. What is found once
    for a file of weights is kept in ``cache``, by default that of the environment.
    """
    residency = residency or Residency(plan.situation.host)
    return Opened(plan, pipeline_of(plan.situation.spec), files, checkpoint, residency, desk, cache)


def fetched(plan: Plan, folders: Folders, cancel: Cancel) -> Generator[Step, None, dict[str, Path]]:
    """Have the plan's files of weights on this disk, telling how the download goes; returns them by announced name.

    The download runs in a thread of its own so that this generator can be closed at any moment.
    """
    wanted = plan.situation.spec.variant(plan.variant).weights
    told: queue.Queue[Progress | BaseException | tuple[Found, ...]] = queue.Queue()
    left = threading.Event()

    def work() -> None:
        try:
            told.put(
                fetch_all(wanted, folders, on_progress=told.put, cancelled=lambda: cancel.requested or left.is_set())
            )
        except BaseException as error:  # noqa: BLE001 - raised again in the caller's thread
            told.put(error)

    threading.Thread(target=work, name="weights", daemon=True).start()
    try:
        while True:
            item = told.get()
            if isinstance(item, Cancelled):
                raise Cancelled("stopped while fetching weights; what has come is kept")
            if isinstance(item, BaseException):
                raise item
            if isinstance(item, Progress):
                total = item.total or 0
                yield Step(item.stage, item.done, total, detail={"file": item.file, "source": item.source})
            else:
                return {w.file: f.path for w, f in zip(wanted, item, strict=True)}
    finally:
        left.set()

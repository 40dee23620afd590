"""One adapter loaded by one plan: its components in memory, ready to be called."""

import queue
import threading
from collections.abc import Generator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from loader.errors import Cancelled
from loader.fetch import Progress, fetch_all
from loader.folders import Folders, Found
from loader.outcome import Cancel, Step
from loader.pipeline import Pipeline, pipeline_of
from loader.place import call_guard, place
from loader.plan import Plan
from loader.process import return_freed_memory
from loader.residency import Residency


class Opened:
    """The loaded components of a plan; what a pipeline calls.

    Attributes:
        plan: the plan in force; a failure may put a lower one in its place.
        checkpoint: the user's own file, if one is loaded.
        weights_note: what the weights are, for every output ("published", "preview weights, …", "own file x.pth").
    """

    def __init__(self, plan: Plan, pipeline: Pipeline, files: Mapping[str, Path], checkpoint: Path | None) -> None:
        self.plan, self.pipeline, self.files, self.checkpoint = plan, pipeline, files, checkpoint
        self._grown: dict[tuple[object, ...], int] = {}
        self.weights_note = f"own file {checkpoint.name}" if checkpoint else plan.provenance
        # Loaded one by one: the peak is one component in the checkpoint's precision, not all of them.
        modules = {p.name: self._load(p.name) for p in plan.components}
        self._residency = Residency(plan, modules, self._load)

    def _load(self, component: str) -> nn.Module:
        module = self.pipeline.load(component, self.plan, self.files, self.checkpoint)
        return place(module, self.plan.component(component), self.pipeline.own_edges.get(component, ()))

    def call(self, component: str, *args: Any, **kwargs: Any) -> Any:
        """Run a component where and in what the plan says, without gradients."""
        module = self._residency.awake(component)
        return call_guard(module, self.plan.component(component))(*args, **kwargs)

    def serves(self, wanted: Plan, checkpoint: Path | None) -> bool:
        """Whether what is loaded is what ``wanted`` would load."""
        mine = self.plan
        return (
            self.checkpoint == checkpoint
            and (mine.variant, mine.device, mine.components) == (wanted.variant, wanted.device, wanted.components)
            and mine.situation.limits == wanted.situation.limits
        )

    def renew(self, wanted: Plan) -> None:
        """Take another request's size and batch; the components stay as they are."""
        self.plan = wanted

    def adopt(self, lower: Plan, files: Mapping[str, Path]) -> None:
        """Put a relaxed plan in force: components whose placement changed are loaded anew from their files."""
        before = {p.name: p for p in self.plan.components}
        same_variant = lower.variant == self.plan.variant
        self.plan, self.files = lower, files
        if not same_variant:
            self._residency = Residency(lower, {}, self._load)
            before = {}
        for name in [p.name for p in lower.components if before.get(p.name) != p]:
            self._residency.replace(lower, {name: self._load(name)})

    def modules(self) -> dict[str, nn.Module]:
        """Components in memory, by name."""
        return self._residency.modules()

    def rest(self) -> None:
        """After a run: everything that need not be awake goes to sleep."""
        self._residency.sleep()

    def held_bytes(self) -> dict[str, int]:
        """Bytes of weights held, by pool: "host" or a device name."""
        held: dict[str, int] = {}
        for module in self.modules().values():
            for tensor in (*module.parameters(), *module.buffers()):
                pool = "host" if tensor.device.type == "cpu" else str(tensor.device)
                held[pool] = held.get(pool, 0) + tensor.numel() * tensor.element_size()
        return held

    def prepare(self) -> None:
        """Before the first run of a size and batch: give freed memory back, so that its growth can be seen."""
        if self._shape() not in self._grown:
            return_freed_memory()

    def peak(self, grown: Mapping[str, int]) -> dict[str, int]:
        """Peak of a run by pool: on a CPU, what is held plus what the run added.

        The C library keeps freed blocks for the next run, which then grows by nothing; the largest growth seen for
        this size and batch is what the run needs.
        """
        largest = self._grown[self._shape()] = max(grown["host"], self._grown.get(self._shape(), 0))
        return {"device": grown["device"], "host": self.held_bytes().get("host", 0) + largest}

    def _shape(self) -> tuple[object, ...]:
        return (self.plan.size, self.plan.batch, self.plan.frames, self.plan.components)

    def failing_submodule(self, component: str, error: BaseException) -> str:
        """Path of the innermost submodule whose forward raised ``error``, "" if none can be told."""
        module = self._residency.modules().get(component)
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
        """Give back what the device's allocator keeps for later."""
        kind = self.plan.device.partition(":")[0]
        empty = getattr(getattr(torch, kind, None), "empty_cache", None)
        if empty is not None:
            empty()

    def close(self) -> None:
        """Let go of every component."""
        self._residency = Residency(self.plan, {}, self._load)
        self.free_caches()


def open_plan(plan: Plan, files: Mapping[str, Path], checkpoint: Path | None) -> Opened:
    """Load what ``plan`` says."""
    return Opened(plan, pipeline_of(plan.situation.spec), files, checkpoint)


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

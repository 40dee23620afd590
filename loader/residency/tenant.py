"""One loaded plan's view of what is in memory: its components by name, in the order of its stages."""

import time
from collections.abc import Iterable, Mapping

from torch import nn

from loader.measure import anonymous_bytes
from loader.memory import Precision, stage_activation_bytes, workspace_bytes
from loader.plan import Placement, Plan
from loader.residency.holding import Source
from loader.residency.manager import Residency

Entries = Mapping[str, tuple[str, Source]]
"""By component: the key it is held under and how to have it."""


class Tenant:
    """What a plan permits, carried out.

    From its first call in a stage on, a component is locked: until the stage is over, a resident one until the run is.

    Attributes:
        load_seconds: spent on loading what will stay loaded; a plan's prediction does not contain it.
        loaded_bytes: growth of anonymous memory while loading.
    """

    def __init__(self, residency: Residency, plan: Plan, entries: Entries) -> None:
        self._residency = residency
        self.owner = residency.new_owner(plan.adapter)
        self._keys: dict[str, str] = {}
        self._locked: set[str] = set()
        self._stage = ""
        self._order: tuple[str, ...] = ()
        self.load_seconds, self.loaded_bytes = 0.0, 0
        self.take(plan, entries)

    def take(self, plan: Plan, entries: Entries) -> None:
        """Be a tenant by another plan: components it has in common with the one before stay as they are."""
        self._unlock_all()
        for key, source in entries.values():
            self._residency.hold(key, self.owner, source)
        for key in set(self._keys.values()) - {key for key, _ in entries.values()}:
            self._residency.let_go(key, self.owner)
        self._keys = {name: key for name, (key, _) in entries.items()}
        self.renew(plan)
        self._put_away(self._keys)

    def renew(self, plan: Plan) -> None:
        """Another size or batch, the same components."""
        self.plan = plan
        self._placements: Mapping[str, Placement] = {p.name: p for p in plan.components}
        self._variant = plan.situation.spec.variant(plan.variant)
        self._order = tuple(self._placements)

    def begin(self, order: Iterable[str] = ()) -> None:
        """A run begins, that calls components in ``order``: others make room for what was predicted."""
        self._order = tuple(order) or tuple(self._placements)
        peak = self.plan.peak_bytes
        places = {"host": peak["host"]}
        if self.plan.device != "cpu":
            places[self.plan.device] = peak["device"]
        self._residency.begin(self.owner, places)

    def rest(self) -> None:
        """A run ends: nothing is in use, and what need not be awake is put away."""
        self._unlock_all()
        self._put_away(self._keys)
        self._stage = ""
        self._residency.end(self.owner)

    def close(self) -> None:
        """Hold nothing any more."""
        self._unlock_all()
        self._residency.end(self.owner)
        for key in set(self._keys.values()):
            self._residency.let_go(key, self.owner)
        self._keys = {}

    def awake(self, name: str) -> nn.Module:
        """The component, awake on its device; those of other stages that must not stay awake are put away first.

        Raises:
            NoRoomError: what is in use leaves no room for it.
        """
        stage = self._variant.component(name).stage
        if stage != self._stage:
            self._leave(stage)
        key = self._keys[name]
        if name not in self._locked:
            self._wake(name, key)
        module = self._residency.holding(key).module
        assert module is not None, f"{name} is awake"
        self._bring_next()
        return module

    def _wake(self, name: str, key: str) -> None:
        fresh = self._residency.holding(key).module is None
        started, before = time.perf_counter(), anonymous_bytes() if fresh else 0
        mode = self._placements[name].residency
        self._residency.wake(key, mode, force=self.plan.situation.wishes.force)
        self._locked.add(name)
        if fresh:
            self.loaded_bytes += max(0, anonymous_bytes() - before)
            if mode != "dropped":
                self.load_seconds += time.perf_counter() - started

    # --- what is here

    def is_loaded(self, name: str) -> bool:
        return self._residency.holding(self._keys[name]).module is not None

    def modules(self) -> dict[str, nn.Module]:
        """Components in memory, awake or asleep."""
        found = {name: self._residency.holding(key).module for name, key in self._keys.items()}
        return {name: module for name, module in found.items() if module is not None}

    def bytes(self) -> dict[str, int]:
        """Bytes of weights of each component in memory."""
        return {name: self._residency.holding(self._keys[name]).bytes for name in self.modules()}

    def held_bytes(self) -> dict[str, int]:
        """Bytes of weights held, by pool: "host" or a device name."""
        return self._residency.held_by(self.owner)

    # --- inside

    def _leave(self, stage: str) -> None:
        ahead = {n for n in self._locked if self._placements[n].residency != "resident"}
        over = [n for n in ahead if self._variant.component(n).stage != stage]
        for name in over:
            self._residency.unlock(self._keys[name])
            self._locked.discard(name)
        self._put_away(over)
        self._stage = stage

    def _put_away(self, names: Iterable[str]) -> None:
        for name in names:
            self._residency.put_away(self._keys[name], self._placements[name].residency)

    def _unlock_all(self) -> None:
        for name in self._locked:
            self._residency.unlock(self._keys[name])
        self._locked.clear()

    def _bring_next(self) -> None:
        """Bring the next stage's first component while this one computes, if that stays within what was predicted."""
        name = self._next()
        if name is None or self._placements[name].residency != "offload" or self._placements[name].device == "cpu":
            return
        key, device = self._keys[name], self.plan.device
        here = self.held_bytes().get(device, 0) + self._residency.holding(key).bytes
        if here + self._activation() <= self.plan.peak_bytes["device"]:
            self._residency.wake_ahead(key, "offload")

    def _next(self) -> str | None:
        stages = self._variant.stages
        now = stages.index(self._stage)
        later = (n for n in self._order if stages.index(self._variant.component(n).stage) > now)
        return next(later, None)

    def _activation(self) -> int:
        made = self.plan
        precisions = {p.name: Precision(p.storage_dtype, p.compute_dtype) for p in made.components}
        act = stage_activation_bytes(self._variant, self._stage, precisions, made.shape, made.savers)
        return act + workspace_bytes(on_accelerator=True)

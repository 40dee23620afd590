"""What an engine hands to what it opens, so that components can be compiled: thread, cache, and what was learned."""

import time
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path

from torch import nn

from loader import compile_rules, tuned
from loader.compiling.background import Background
from loader.compiling.cache import CacheKey, CompileCache
from loader.compiling.calls import Signature
from loader.compiling.overlay import Overlay, Subject, Timer, timed
from loader.compiling.standing import REVERTED, Standing
from loader.compiling.twin import Compile, compiled
from loader.host import Host
from loader.knowledge import Compiled, Quarantine
from loader.measure import Store
from loader.memory import host_budget
from loader.plan import Placement, Plan

COMPILER_BYTES = 700 * 2**20  # the inductor in this process and one C++ compiler beside it
WRITE_S = 10.0  # counts of calls are written at most so often: a camera asks several times a second


class Desk:
    """See the module.

    Args:
        host: the machine.
        store: verdicts and counts of calls are kept there.
        root: folder of compiled code.
        compile: gives the compiled function of a twin.
        background: where it is compiled.
        timer: times calls on trial.
    """

    def __init__(
        self,
        host: Host,
        store: Store,
        root: Path,
        *,
        compile: Compile = compiled,
        background: Background | None = None,
        timer: Timer = timed,
    ) -> None:
        self._host, self._store = host, store
        self.cache, self.background = CompileCache(root), background or Background()
        self._compile, self._timer = compile, timer
        self._counted: Counter[str] = Counter()
        self._written = 0.0

    def takes(self, placement: Placement) -> bool:
        """Whether the component is compiled beside its requests; else where it is placed, at its first call.

        What comes and goes on a device cannot be compiled while it is not there.
        """
        stays = placement.residency == "resident" or (placement.device == "cpu" and placement.residency == "offload")
        return stays and placement.compile not in ("none", "aot")

    def overlay(
        self,
        plan: Plan,
        placement: Placement,
        module: nn.Module,
        held: Callable[[], int],
        own: Path | None = None,
    ) -> Overlay:
        """What stands before ``module``; ``held`` says how many bytes of host memory are taken.

        What comes of the user's ``own`` weights says nothing about others.
        """
        component = plan.situation.spec.variant(plan.variant).component(placement.name)
        subject = Subject(
            placement.name,
            placement,
            batched=component.work.per == "item" and component.compile == "whole",
            key=lambda signature: key_of(self._host, plan, placement, signature, own),
            proven=self._proven,
            room=lambda: host_budget(self._host, held()) >= COMPILER_BYTES,
            verdict=lambda standing, key, keep: self._verdict(standing, key, placement, keep=keep and own is None),
        )
        return Overlay(subject, module, self.background, self.cache, compile=self._compile, timer=self._timer)

    def _proven(self, key: CacheKey) -> Standing | None:
        """What an earlier start found, if it was faster."""
        for entry in self._store.load().compiled:
            if entry.key == key.digest and entry.faster:
                return Standing(
                    entry.component, eager_seconds=entry.eager_seconds, compiled_seconds=entry.compiled_seconds
                )
        return None

    def _verdict(self, standing: Standing, key: CacheKey, placement: Placement, *, keep: bool) -> None:
        if not keep:
            return
        if standing.times:
            self._store.record_compiled(
                Compiled(
                    key.digest,
                    key.adapter,
                    key.variant,
                    key.component,
                    key.device,
                    placement.compute_dtype,
                    placement.compile,
                    key.torch,
                    standing.eager_seconds,
                    standing.compiled_seconds,
                    standing.seconds,
                    warm=standing.warm,
                )
            )
        if standing.state == "reverted" and standing.cause in ("failed", "slower", "differs"):
            event = REVERTED[standing.cause].replace("_", " ")
            self._store.add_quarantine(
                Quarantine(
                    adapter=key.adapter,
                    variant=key.variant,
                    component=key.component,
                    dtype=placement.compute_dtype,
                    compile=placement.compile,
                    torch=key.torch,
                    device=key.device,
                    reason=f"{event}: {standing.figures() or standing.detail}",
                )
            )

    # --- how often components are called

    def used(self, plan: Plan, calls: Mapping[str, int]) -> None:
        """Count calls of a run, by component: the rule asks how many are to be expected."""
        for name, count in calls.items():
            self._counted[compile_rules.calls_key(plan.adapter, plan.variant, name)] += count
        if time.monotonic() - self._written >= WRITE_S:
            self.write()

    def write(self) -> None:
        """Keep what was counted."""
        if self._counted:
            counted, self._counted = dict(self._counted), Counter()
            self._store.record_calls(counted, time.time())
        self._written = time.monotonic()

    def close(self) -> None:
        """Give up what is being compiled, and keep what was counted."""
        self.background.close()
        self.write()


def key_of(host: Host, plan: Plan, placement: Placement, signature: Signature, own: Path | None = None) -> CacheKey:
    """What code for one signature of one component depends on."""
    way = (
        placement.memory_format,
        placement.attention,
        placement.fuse,
        placement.keep_fp32,
        placement.compile,
        placement.compile_blocks,
        placement.storage_dtype,
        own and own.name,
    )
    return CacheKey(
        host=tuned.machine_of(host, placement.device),
        torch=host.torch,
        adapter=plan.adapter,
        variant=plan.variant,
        component=placement.name,
        device=placement.device,
        dtype=placement.compute_dtype,
        size=f"{plan.size[0]}x{plan.size[1]}",
        plan=repr(way),
        shapes=repr(signature),
    )

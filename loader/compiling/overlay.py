"""What stands before one loaded component: eager answers at once, and compiled ones take over where they are better.

A graph is compiled beside the requests, for the signature of a call that came. It has to agree with eager on made-up
input of that signature first. Then both take turns at the real calls, in pairs, and are timed: whoever asks pays
nothing for the trial but the difference. Only what is faster stays. Whatever a compiled graph raises is answered
eagerly, in the same call.
"""

import statistics
import threading
import time
import weakref
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import nn

from loader.compiling.background import Background
from loader.compiling.cache import CacheKey, CompileCache
from loader.compiling.calls import TOLERANCE, Call, Signature, bucket, distance, like, padded, unpadded
from loader.compiling.standing import Cause, Standing
from loader.compiling.twin import Compile, compiled, twin_of
from loader.outcome import TraceEntry
from loader.plan import Placement
from loader.quiet import Quiet

PAIRS = 5  # undisturbed pairs of calls that decide
TIRED = 3  # times as many pairs, quiet or not, then all of them decide
HOPELESS = 3.0  # two pairs in which compiled took so many times as long are enough
MIN_GAIN = 1.02  # less is within what repeats differ by
MOST_GRAPHS = 8  # signatures of one component; each holds code, and frozen weights on a CPU
MAX_WORDS = 300


@dataclass(frozen=True)
class Lap:
    """One timed call."""

    value: Any
    seconds: float
    quiet: bool


Timer = Callable[[Callable[[], Any], str], Lap]
"""Times a call that computes on the named device."""


def timed(call: Callable[[], Any], device: str) -> Lap:
    """By the clock, until the device is done."""
    with Quiet() as quiet:
        value = call()
        if device != "cpu":
            getattr(torch, device.partition(":")[0]).synchronize()
    return Lap(value, quiet.seconds, quiet.held)


@dataclass(frozen=True)
class Subject:
    """What is compiled, and whom it concerns.

    Attributes:
        batched: the first dimension of its tensors is a batch that may be padded.
        key: what code for a signature is kept under.
        proven: it was faster here at an earlier start, for this signature.
        room: whether there is memory for a compiler now.
        verdict: is told when a trial ends or is lost; with whether the figures are worth keeping.
    """

    component: str
    placement: Placement
    batched: bool
    key: Callable[[Signature], CacheKey]
    proven: Callable[[CacheKey], Standing | None] = lambda _: None
    room: Callable[[], bool] = lambda: True
    verdict: Callable[[Standing, CacheKey, bool], None] = lambda *_: None


@dataclass
class _Graph:
    """Compiled code for one signature."""

    signature: Signature
    standing: Standing
    function: Callable[..., Any] | None = None
    pairs: list[tuple[float, float, bool]] = field(default_factory=list)
    eager: Lap | None = None


class Overlay:
    """See the module.

    Args:
        subject: what it is about.
        module: the loaded component; the overlay does not keep it alive.
        background: where it is compiled.
        cache: where code is kept for the next start.
        compile: gives the compiled function.
        timer: times calls on trial.
    """

    def __init__(
        self,
        subject: Subject,
        module: nn.Module,
        background: Background,
        cache: CompileCache,
        *,
        compile: Compile = compiled,
        timer: Timer = timed,
    ) -> None:
        self.subject, self._background, self._cache = subject, background, cache
        self._compile, self._timer = compile, timer
        self._module = weakref.ref(module)
        self._graphs: dict[Signature, _Graph] = {}
        self._lock = threading.Lock()
        self._latest = Standing(subject.component)
        self._told: Standing | None = None
        self._gone = False

    # --- for whoever looks

    @property
    def standing(self) -> Standing:
        """Where it stands: of several signatures the one that changed last."""
        return self._latest

    def news(self) -> TraceEntry | None:
        """What a run that ends now says of it: what goes on is said each time, what is decided once."""
        now = self._latest
        if now.state == "eager" or (not now.going_on and now == self._told):
            return None
        self._told = now
        return now.entry()

    def is_for(self, module: nn.Module, placement: Placement) -> bool:
        return self._module() is module and self.subject.placement == placement

    def drop(self) -> None:
        """The component leaves memory: nothing of it is held, and what is being compiled will not be used."""
        with self._lock:
            self._gone = True
            self._graphs = {}

    # --- calls

    def answer(self, module: nn.Module, *args: Any, **kwargs: Any) -> Any:
        """What ``module`` gives, from whichever of the two it is the turn of."""
        call = Call(args, kwargs)
        size = call.batch if self.subject.batched else 0
        whole = bucket(size) if size else 0
        form = padded(call, whole) if whole else call
        graph = self._graph(form.signature)
        if graph is None or graph.standing.state == "reverted":
            return call.of(module)
        if graph.standing.state == "eager":
            self._begin(graph, module, form, size, whole)
            return call.of(module)
        if graph.standing.state == "compiled":
            return self._compiled(graph, module, call, form, size, whole)[0]
        if graph.standing.state == "trial":
            return self._on_trial(graph, module, call, form, size, whole)
        return call.of(module)

    def _graph(self, signature: Signature) -> _Graph | None:
        with self._lock:
            if self._gone:
                return None
            if signature not in self._graphs and len(self._graphs) < MOST_GRAPHS:
                self._graphs[signature] = _Graph(signature, Standing(self.subject.component))
            return self._graphs.get(signature)

    def _compiled(
        self, graph: _Graph, module: nn.Module, call: Call, form: Call, size: int, whole: int
    ) -> tuple[Any, bool]:
        """The compiled answer, or eager's after it failed; and whether it was compiled."""
        function = graph.function
        if function is None:
            return call.of(module), False
        problem = ""
        try:
            return unpadded(form.of(function), whole, size), True
        except Exception as error:  # noqa: BLE001 - whatever it is, eager answers
            problem = _words(error)
        # Outside of the except block: a traceback keeps every tensor of the failed call alive.
        if self._background.busy:
            # The compiler marks the whole process while it traces, and compiled code refuses to run under that mark.
            return call.of(module), False
        self._revert(graph, "failed", problem, keep=True)
        return call.of(module), False

    def _on_trial(self, graph: _Graph, module: nn.Module, call: Call, form: Call, size: int, whole: int) -> Any:
        device = self.subject.placement.device
        if graph.eager is None:
            graph.eager = lap = self._timer(lambda: call.of(module), device)
            return lap.value
        lap = self._timer(lambda: self._compiled(graph, module, call, form, size, whole), device)
        value, worked = lap.value
        eager, graph.eager = graph.eager, None
        if worked:
            graph.pairs.append((eager.seconds, lap.seconds, eager.quiet and lap.quiet))
            self._judge(graph)
        return value

    def _judge(self, graph: _Graph) -> None:
        """Decide, once there are pairs enough. The first one warms up."""
        pairs = graph.pairs[1:]
        quiet = [pair for pair in pairs if pair[2]]
        hopeless = len(pairs) >= 2 and all(pair[1] > HOPELESS * pair[0] for pair in pairs)
        tired = len(pairs) >= TIRED * PAIRS
        if len(quiet) < PAIRS and not hopeless and not tired:
            return
        counted = quiet if len(quiet) >= PAIRS else pairs
        eager, compiled_ = (statistics.median(pair[i] for pair in counted) for i in (0, 1))
        keep = len(quiet) >= PAIRS or (hopeless and len(quiet) >= 2)
        found = replace(graph.standing, eager_seconds=eager, compiled_seconds=compiled_)
        if found.times >= MIN_GAIN:
            self._stand(graph, replace(found, state="compiled"))
            self.subject.verdict(graph.standing, self.subject.key(graph.signature), keep)
        else:
            graph.standing = found
            self._revert(graph, "slower", "", keep=keep)

    # --- beside the calls

    def _begin(self, graph: _Graph, module: nn.Module, form: Call, size: int, whole: int) -> None:
        if self._background.busy:
            return
        if not self.subject.room():
            self._revert(graph, "no_room", "not enough free memory for a compiler", keep=False)
            return
        sample = like(form)
        self._stand(graph, replace(graph.standing, state="compiling"))
        if not self._background.offer(lambda: self._work(graph, module, sample, size, whole)):
            self._stand(graph, replace(graph.standing, state="eager"))

    def _work(self, graph: _Graph, module: nn.Module, sample: Call, size: int, whole: int) -> None:
        """Compile and compare; in the background."""
        key, started = self.subject.key(graph.signature), time.perf_counter()
        warm = self._cache.check(key)
        problem = ""
        try:
            with self._cache.used(key), torch.inference_mode():
                function = self._compile(twin_of(module), self.subject.placement)
                got = unpadded(sample.of(function), whole, size)
                seconds = time.perf_counter() - started
                first = sample.map(lambda t: t[:size]) if whole > size else sample
                apart = distance(first.of(module), got)
        except Exception as error:  # noqa: BLE001 - it is the compiler's, and eager goes on
            problem = _words(error)
        if self._gone or self._module() is None:
            return
        if problem:
            self._cache.forget(key)
            self._revert(graph, "failed", problem, keep=True)
            return
        allowed = TOLERANCE.get(self.subject.placement.compute_dtype, TOLERANCE["fp32"])
        if not apart <= allowed:
            self._cache.forget(key)
            self._revert(graph, "differs", f"{apart:.2g} from eager, {allowed:g} allowed", keep=True)
            return
        self._cache.seal(key)
        proven = self.subject.proven(key)
        graph.function = function
        ready = replace(graph.standing, seconds=seconds, warm=warm)
        if proven is None:
            self._stand(graph, replace(ready, state="trial"))
            return
        eager, faster = proven.eager_seconds, proven.compiled_seconds
        self._stand(graph, replace(ready, state="compiled", eager_seconds=eager, compiled_seconds=faster))
        self.subject.verdict(graph.standing, key, True)

    # --- changes

    def _stand(self, graph: _Graph, standing: Standing) -> None:
        with self._lock:
            graph.standing = self._latest = standing

    def _revert(self, graph: _Graph, cause: Cause, detail: str, *, keep: bool) -> None:
        """Back to eager: all signatures where it is wrong, this one where it is only slow."""
        lost = replace(graph.standing, state="reverted", cause=cause, detail=detail)
        with self._lock:
            affected = list(self._graphs.values()) if cause in ("failed", "differs") else [graph]
            for each in affected:
                each.function, each.pairs, each.eager = None, [], None
                each.standing = replace(each.standing, state="reverted", cause=cause, detail=detail)
            graph.standing = self._latest = lost
            others = any(each.standing.state == "compiled" for each in self._graphs.values())
        # Faster at another size, it stays planned.
        self.subject.verdict(lost, self.subject.key(graph.signature), keep and not others)


def _words(error: BaseException) -> str:
    words = " ".join(f"{type(error).__name__}: {error}".split())
    return words if len(words) <= MAX_WORDS else words[:MAX_WORDS] + " …"

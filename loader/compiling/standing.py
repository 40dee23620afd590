"""Where the compiling of a component stands, as the page and a trace tell it."""

from dataclasses import dataclass
from typing import Literal

from loader.outcome import TraceEntry

State = Literal["eager", "compiling", "trial", "compiled", "reverted"]
Cause = Literal["", "failed", "slower", "differs", "no_room"]
EVENTS = {"compiling": "compile_background", "trial": "compile_trial", "compiled": "compile_swapped"}
REVERTED = {
    "failed": "compile_failed",
    "slower": "compile_slower",
    "differs": "compile_differs",
    "no_room": "compile_no_room",
}


@dataclass(frozen=True)
class Standing:
    """One component's.

    Attributes:
        state: eager (nothing begun), compiling beside the requests, on trial by turns with eager, compiled, or
            reverted to eager.
        cause: why it was reverted.
        eager_seconds, compiled_seconds: medians of a call, 0 before they were timed.
        seconds: from begin to ready, 0 before that.
        warm: what was compiled at an earlier start was used.
        detail: the error's own words, or by how much results differed.
    """

    component: str
    state: State = "eager"
    cause: Cause = ""
    eager_seconds: float = 0.0
    compiled_seconds: float = 0.0
    seconds: float = 0.0
    warm: bool = False
    detail: str = ""

    @property
    def times(self) -> float:
        """How many times as fast as eager, 0 before both were timed."""
        return self.eager_seconds / self.compiled_seconds if self.compiled_seconds > 0 else 0.0

    @property
    def going_on(self) -> bool:
        """Whether nothing was decided yet of what was begun."""
        return self.state in ("compiling", "trial")

    def entry(self) -> TraceEntry | None:
        """What a trace says of it; None while there is nothing to say."""
        event = REVERTED[self.cause] if self.state == "reverted" else EVENTS.get(self.state)
        if event is None:
            return None
        change = {"compiled": f"{self.component} compiled", "reverted": f"{self.component} eager"}.get(self.state, "")
        return TraceEntry(self.component, event, self.figures() or self.detail or "torch.compile", change)

    def figures(self) -> str:
        """Both medians ("1.80× (26.1 ms, eager 47.0 ms)"), nothing before both were timed."""
        if not self.times:
            return ""
        return f"{self.times:.2f}× ({self.compiled_seconds * 1000:.1f} ms, eager {self.eager_seconds * 1000:.1f} ms)"

"""What can go wrong, as a tree a caller can catch at the height it wants.

AnyhostError
├── InputError               the user's picture, clip or number cannot be used
├── DoesNotFitError          no permitted plan fits, or a wish is refused: by how much, and what would work
├── LicenceNotAcceptedError  terms of the weights have to be accepted first (refused, nothing was fetched)
├── WeightsError
│   ├── WeightsUnavailableError   no source could be reached
│   ├── WeightsCorruptError       size or checksum differs from what was announced
│   └── CheckpointMismatchError   tensor names or shapes are not this network's
├── RunError                 a run failed on every rung of the ladder
│   └── NoRoomError          what is locked in memory alone exceeds a budget (the ladder takes the next plan down)
├── AsleepError              a component was called while it was put away: a fault of the caller
├── QueueFullError           as many requests wait as may
└── Cancelled                the user pressed Stop (not a failure)

Every message gives the number, the limit and the remedy.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from loader.decision import Decision
    from loader.outcome import Kept, Result
    from loader.spec import Licence


class AnyhostError(Exception):
    """Base of everything raised on purpose.

    Attributes:
        kept: what stages of the run had finished before it ended, one value a stage.
        ended: the run as far as it came, without outputs: the plan in force at the end and the trace; None where
            nothing had been opened yet.
    """

    kept: "tuple[Kept, ...]" = ()
    ended: "Result | None" = None


class InputError(AnyhostError):
    """The input cannot be used; the message says why and what would do."""


class DoesNotFitError(AnyhostError):
    """No permitted plan: it does not fit, or a wish is refused.

    Attributes:
        decision: the refusal with its figures; page and command line render it in the user's language.
    """

    def __init__(self, decision: "Decision | None") -> None:
        self.decision = decision
        if decision is None:
            super().__init__("no plan fits")
        else:
            figures = ", ".join(f"{name} {value}" for name, value in decision.params.items())
            super().__init__(f"{decision.rule}: {decision.subject} {decision.wanted} is refused ({figures})")

    def __reduce__(self) -> tuple[object, ...]:
        """Errors travel between processes by what they were made from, not by their message."""
        return (type(self), (self.decision,))


class LicenceNotAcceptedError(AnyhostError):
    """Weights are neither fetched nor used before their terms are accepted.

    Attributes:
        licences: those still open; page and command line render them in the user's language.
    """

    def __init__(self, licences: "Sequence[Licence]") -> None:
        self.licences = tuple(licences)
        terms = "; ".join(f"{licence.name} ({licence.url})" for licence in self.licences)
        super().__init__(
            f"{terms}: read and accept {'this licence' if len(self.licences) == 1 else 'these licences'} first: "
            "tick it on the page, name it with --accept-licence on the command line, or in ANYHOST_ACCEPT for everybody"
        )

    def __reduce__(self) -> tuple[object, ...]:
        return (type(self), (self.licences,))


class WeightsError(AnyhostError):
    """Base of everything about checkpoints."""


class WeightsUnavailableError(WeightsError):
    """No source of the weights could be reached."""


class WeightsCorruptError(WeightsError):
    """A file differs in size or checksum from what was announced or first seen."""


class CheckpointMismatchError(WeightsError):
    """A checkpoint's tensors are not those of the network.

    Attributes:
        missing: names the network has and the checkpoint lacks.
        unexpected: names the checkpoint has and the network lacks.
        wrong_shape: "name: checkpoint shape, network shape".
    """

    def __init__(
        self, what: str, missing: Sequence[str] = (), unexpected: Sequence[str] = (), wrong_shape: Sequence[str] = ()
    ) -> None:
        self.what = what
        self.missing, self.unexpected, self.wrong_shape = tuple(missing), tuple(unexpected), tuple(wrong_shape)
        parts = [
            f"{len(names)} {label}: {', '.join(names[:8])}{' …' if len(names) > 8 else ''}"
            for label, names in (
                ("missing", self.missing),
                ("unexpected", self.unexpected),
                ("of another shape", self.wrong_shape),
            )
            if names
        ]
        super().__init__(f"{what}: the checkpoint is not this network's ({'; '.join(parts)})")

    def __reduce__(self) -> tuple[object, ...]:
        return (type(self), (self.what, self.missing, self.unexpected, self.wrong_shape))


class RunError(AnyhostError):
    """A run failed and no rung of the ladder was left."""


class NoRoomError(RunError):
    """What is locked in memory, and the component to be woken beside it, exceed a budget."""


class AsleepError(AnyhostError):
    """A component was called while it was asleep: parked copies never compute."""


class QueueFullError(AnyhostError):
    """As many requests wait as may.

    Attributes:
        waiting, limit: how many wait and how many may.
        seconds: after which a place is expected to be free.
    """

    def __init__(self, waiting: int, limit: int, seconds: float) -> None:
        self.waiting, self.limit, self.seconds = waiting, limit, seconds
        super().__init__(
            f"{waiting} requests are waiting and {limit} may: try again in about {max(1, round(seconds))} s"
        )


class Cancelled(AnyhostError):  # noqa: N818 - not an error: the user asked for it
    """The user pressed Stop."""

"""What can go wrong, as a tree a caller can catch at the height it wants.

AnyhostError
├── InputError               the user's picture, clip or number cannot be used
├── DoesNotFitError          no permitted plan fits, or a wish is refused: by how much, and what would work
├── WeightsError
│   ├── WeightsUnavailableError   no source could be reached
│   ├── WeightsCorruptError       size or checksum differs from what was announced
│   └── CheckpointMismatchError   tensor names or shapes are not this network's
├── RunError                 a run failed on every rung of the ladder
└── Cancelled                the user pressed Stop (not a failure)

Every message gives the number, the limit and the remedy.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from loader.decision import Decision


class AnyhostError(Exception):
    """Base of everything raised on purpose."""


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


class RunError(AnyhostError):
    """A run failed and no rung of the ladder was left."""


class Cancelled(AnyhostError):  # noqa: N818 - not an error: the user asked for it
    """The user pressed Stop."""

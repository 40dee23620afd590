"""Random numbers as a value: a failed piece of work that runs again draws the very same ones."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from torch import Generator, Tensor

Value = TypeVar("Value")


@dataclass(frozen=True, eq=False)
class Dice:
    """State of a generator on the CPU, whose numbers are the same on every device."""

    state: Tensor

    @classmethod
    def thrown(cls, seed: int) -> "Dice":
        """Dice that give what ``seed`` gives."""
        return cls(Generator().manual_seed(seed).get_state())

    def use(self, work: Callable[[Generator], Value]) -> tuple[Value, "Dice"]:
        """What ``work`` makes with a generator in this state, and the dice after it; these stay as they are."""
        generator = Generator()
        generator.set_state(self.state.clone())
        made = work(generator)
        return made, Dice(generator.get_state())

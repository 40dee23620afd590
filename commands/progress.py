"""A progress line on a terminal; silent where there is none."""

import sys

from kit.texts import stage
from loader.outcome import Step

WIDTH = 24


class Bar:
    """One line on stderr, rewritten as steps come."""

    def __init__(self, *, quiet: bool) -> None:
        self._on = not quiet and sys.stderr.isatty()
        self._written = False

    def show(self, step: Step) -> None:
        """Show a step, or print nothing where nobody looks."""
        if not self._on:
            return
        share = step.index / step.total if step.total else 0.0
        filled = "█" * round(share * WIDTH)
        sys.stderr.write(f"\r\x1b[K{filled:░<{WIDTH}} {stage(step.stage, step.detail)} {step.index}/{step.total}")
        sys.stderr.flush()
        self._written = True

    def close(self) -> None:
        """Leave the line clean."""
        if self._written:
            sys.stderr.write("\r\x1b[K")
            sys.stderr.flush()

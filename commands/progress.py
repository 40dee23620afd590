"""A progress line on a terminal; silent where there is none."""

import sys

from kit.texts import stage
from loader.folders import size_text
from loader.outcome import Step

BYTE_STAGES = ("downloading", "extracting", "checking")  # their steps are bytes

WIDTH = 24


class Bar:
    """One line on stderr, rewritten as steps come."""

    def __init__(self, *, quiet: bool, language: str = "en") -> None:
        self._language = language
        self._on = not quiet and sys.stderr.isatty()
        self._written = False

    def show(self, step: Step, pace: str = "") -> None:
        """Show a step, or print nothing where nobody looks; ``pace`` is what there is to add."""
        if not self._on:
            return
        share = step.index / step.total if step.total else 0.0
        filled = "█" * round(share * WIDTH)
        done, total = str(step.index), str(step.total)
        if step.stage in BYTE_STAGES:
            done, total = size_text(step.index), size_text(step.total)
        words = f"{stage(step.stage, step.detail, self._language)} {done}/{total} {pace}".rstrip()
        sys.stderr.write(f"\r\x1b[K{filled:░<{WIDTH}} {words}")
        sys.stderr.flush()
        self._written = True

    def close(self) -> None:
        """Leave the line clean."""
        if self._written:
            sys.stderr.write("\r\x1b[K")
            sys.stderr.flush()

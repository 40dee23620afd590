"""What a tab is given to build itself with."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from loader.engine import Engine
from loader.host import Host


@dataclass(frozen=True)
class PageContext:
    """The machine and the language of one page.

    Attributes:
        engine: plans and runs; one for all tabs, so that one request computes at a time.
        language: key of ``kit.texts.LANGUAGES``.
    """

    engine: Engine
    language: str = "en"

    @property
    def host(self) -> Host:
        return self.engine.host


# Events that plan, filter or draw: at once, without a place in the queue, and not for programs.
QUIET: Mapping[str, Any] = {"queue": False, "show_progress": "hidden", "api_visibility": "private"}
# All runs of all tabs queue in one lane: one accelerator computes one request at a time.
LANE = "accelerator"
MAX_WAITING = 16

"""What a tab is given to build itself with."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import gradio as gr

from loader.engine import Engine
from loader.host import Host
from loader.lanes import MAX_WAITING

# Who may delete fetched weights and see where files lie: nobody, whoever sits at this machine, or everybody.
Admin = Literal["nobody", "local", "everybody"]
LOOPBACK = ("127.0.0.1", "::1", "localhost")
FORWARDED = ("forwarded", "x-forwarded-for", "x-real-ip")


@dataclass(frozen=True)
class PageContext:
    """The machine and the language of one page.

    Attributes:
        engine: plans and runs; one for all tabs, so that one request computes at a time.
        language: key of ``kit.texts.LANGUAGES``.
        admin: who may administer the weights of this machine from the page.
        endpoints: programs are served from here; of a page in several languages only the first one offers them.
    """

    engine: Engine
    language: str = "en"
    admin: Admin = "nobody"
    endpoints: bool = True

    @property
    def host(self) -> Host:
        return self.engine.host

    def administers(self, request: gr.Request | None) -> bool:
        """Whether whoever sends ``request`` may administer. Through a proxy, somebody local looks like anybody."""
        if self.admin == "local" and request is not None and request.client is not None:
            proxied = any(request.headers.get(name) for name in FORWARDED)
            return request.client.host in LOOPBACK and not proxied
        return self.admin == "everybody"


# Events that plan, filter or draw: at once, without a place in the queue, and not for programs.
QUIET: Mapping[str, Any] = {"queue": False, "show_progress": "hidden", "api_visibility": "private"}
# Requests wait in the engine's lanes (``loader.lanes``), where the order is fair, the place is told and the bound is
# refused in words. Gradio lets through what two full lanes take, and room for those who are refused.
LANE = "accelerator"
AT_ONCE = 2 * MAX_WAITING + 8
RUNS: Mapping[str, Any] = {"concurrency_id": LANE, "concurrency_limit": AT_ONCE, "show_progress": "hidden"}
# A request holds a thread while it waits or computes; the others are for planning, filtering and drawing meanwhile.
THREADS = AT_ONCE + 32
# Gradio keeps a copy of the page's description for each visitor, 2 MB of it, until so many others have come.
SESSIONS = 128

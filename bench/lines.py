"""A bench that is listened to by another process: a JSON line before each piece of work, and an answer waited for.

Whoever listens answers with a line when the next piece may begin, so that others can be served in between, and ends
the bench by closing the pipe.
"""

import json
import os
import queue
import signal
import sys
import threading
from collections.abc import Callable
from typing import Any, TextIO

from bench.rows import Progress, Report, Tell
from kit.texts import error_text
from loader.codec import to_plain
from loader.errors import AnyhostError

FAILED = 1


def speaking(work: Callable[[Tell], Report], listener: TextIO | None = None, speaker: TextIO | None = None) -> int:
    """Do ``work`` and say how it goes: lines ``{"progress"}``, and ``{"report"}`` or ``{"error"}`` at the end.

    Returns:
        The exit code.
    """
    out = speaker or sys.stdout
    answers = _answers(listener or sys.stdin)

    def say(kind: str, value: Any) -> None:
        out.write(json.dumps({kind: value}, ensure_ascii=False) + "\n")
        out.flush()

    def tell(progress: Progress) -> None:
        say("progress", to_plain(progress))
        answers.get()

    try:
        say("report", to_plain(work(tell)))
    except AnyhostError as error:
        say("error", error_text(error))
        return FAILED
    return 0


def _answers(listener: TextIO) -> "queue.Queue[str]":
    """Lines as they come. When nobody is there any more, this process ends and those that it started."""
    lines: queue.Queue[str] = queue.Queue()

    def listen() -> None:
        for line in listener:
            lines.put(line)
        end_group()

    threading.Thread(target=listen, name="bench-answers", daemon=True).start()
    return lines


def end_group() -> None:
    """End this process at once, with its children where it leads a group of its own."""
    if hasattr(os, "killpg") and os.getpgrp() == os.getpid():
        os.killpg(os.getpid(), signal.SIGKILL)
    os._exit(FAILED)

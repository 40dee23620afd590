"""The real page in a process of its own, without a network or a card, on a free port and an empty cache."""

import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
START_LIMIT = 90.0
NOWHERE = "http://127.0.0.1:9"  # the discard port: whatever wants the network is refused at once


@dataclass(frozen=True)
class Served:
    url: str
    cache: Path

    def runs(self) -> int:
        """How many runs the engine has finished."""
        log = self.cache / "runs.log"
        return log.read_text(encoding="utf-8").count(" damo_yolo ") if log.is_file() else 0


@contextmanager
def served(folder: Path, command: Sequence[str] = ("app.py",), **variables: str) -> Iterator[Served]:
    """Start ``app.py`` or what stands in for it, wait for its first answer, and end it."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environ = {
        **os.environ,
        "ANYHOST_CACHE": str(folder / "cache"),
        "CUDA_VISIBLE_DEVICES": "",
        "HF_HUB_OFFLINE": "1",
        "HTTP_PROXY": NOWHERE,
        "HTTPS_PROXY": NOWHERE,
        "NO_PROXY": "127.0.0.1,localhost",
        **variables,
    }
    log = folder / "server.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, *command, "--port", str(port)], cwd=ROOT, env=environ, stdout=output, stderr=output
        )
    try:
        url = f"http://127.0.0.1:{port}/"
        wait_for(process, url, log)
        yield Served(url, folder / "cache")
    finally:
        process.terminate()
        process.wait(30)


def wait_for(process: subprocess.Popen[bytes], url: str, log: Path) -> None:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    end = time.monotonic() + START_LIMIT
    while time.monotonic() < end:
        if process.poll() is not None:
            break
        try:
            with opener.open(url, timeout=5) as answer:
                answer.read(1)
            return
        except OSError:
            time.sleep(0.2)
    raise AssertionError(f"the page did not answer within {START_LIMIT} s:\n{log.read_text(errors='replace')}")

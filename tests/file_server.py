"""A server of files on this machine that misbehaves as told."""

import threading
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@dataclass
class Served:
    """One file and how it is given.

    ``cuts``: after how many bytes the connection ends, one entry a request, then no more cuts.
    ``stalls``: the same, but the connection stays open and silent. ``gate``: nothing is sent before it opens.
    """

    content: bytes
    etag: str = '"v1"'
    modified: str = ""
    ranges: bool = True
    if_range: bool = True
    length: bool = True
    status: int = 200
    kind: str = "application/octet-stream"
    location: str = ""
    pace_s: float = 0.0
    chunk: int = 65536
    cuts: deque[int] = field(default_factory=deque)
    stalls: deque[int] = field(default_factory=deque)
    headers: dict[str, str] = field(default_factory=dict)
    gate: threading.Event | None = None


class FileServer(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.files: dict[str, Served] = {}
        self.seen: list[tuple[str, str, str | None]] = []
        self.sent = 0
        self.closing = threading.Event()

    def url(self, path: str) -> str:
        return f"http://127.0.0.1:{self.server_port}{path}"

    def handle_error(self, request, client_address) -> None:
        """A client that hangs up is part of the tests."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: FileServer

    def log_message(self, *arguments: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def do_GET(self) -> None:
        self._answer(body=True)

    def _answer(self, *, body: bool) -> None:
        path = self.path.partition("?")[0]
        self.server.seen.append((self.command, path, self.headers.get("Range")))
        served = self.server.files.get(path)
        if served is None or served.status not in (200, 301, 302):
            self.send_response(404 if served is None else served.status)
            for name, value in (served.headers if served else {}).items():
                self.send_header(name, value)
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        start = self._start(served)
        whole = len(served.content)
        if start is not None and start >= whole:
            self.send_response(416)
            self.send_header("Content-Range", f"bytes */{whole}")
            self.send_header("ETag", served.etag)
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        self.send_response(served.status if start is None else 206)
        if served.location:
            self.send_header("Location", served.location)
        if start is not None:
            self.send_header("Content-Range", f"bytes {start}-{whole - 1}/{whole}")
        if served.etag:
            self.send_header("ETag", served.etag)
        if served.modified:
            self.send_header("Last-Modified", served.modified)
        self.send_header("Content-Type", served.kind)
        for name, value in served.headers.items():
            self.send_header(name, value)
        if served.length:
            self.send_header("Content-Length", str(whole - (start or 0)))
        self.send_header("Connection", "close")
        self.end_headers()
        if body:
            self._send(served, served.content[start or 0 :])
        self.close_connection = True

    def _start(self, served: Served) -> int | None:
        wanted = self.headers.get("Range")
        if not wanted or not served.ranges:
            return None
        validator = self.headers.get("If-Range")
        if served.if_range and validator and validator not in (served.etag, served.modified):
            return None
        return int(wanted.removeprefix("bytes=").split("-")[0])

    def _send(self, served: Served, content: bytes) -> None:
        if served.gate is not None:
            served.gate.wait(20)
        cut = served.cuts.popleft() if served.cuts else len(content)
        stall = served.stalls.popleft() if served.stalls else len(content)
        end = min(cut, stall, len(content))
        for begin in range(0, end, served.chunk):
            piece = content[begin : min(begin + served.chunk, end)]
            self.wfile.write(piece)
            self.server.sent += len(piece)
            time.sleep(served.pace_s)
        if stall < len(content):
            self.wfile.flush()
            self.server.closing.wait(20)


@contextmanager
def serving() -> Iterator[FileServer]:
    server = FileServer()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.closing.set()
        server.shutdown()
        server.server_close()
        thread.join()

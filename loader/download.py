"""One file over HTTPS: resumed where it stopped, checked, and under its final name only when whole.

Built on ``urllib`` so that system certificates and the proxy variables (HTTPS_PROXY, NO_PROXY) hold without a further
dependency.
"""

import errno
import functools
import http.client
import json
import os
import shutil
import ssl
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from email.message import Message
from pathlib import Path
from typing import IO, BinaryIO
from urllib.parse import urlsplit

from loader.checksums import CHUNK_BYTES
from loader.errors import Cancelled, WeightsCorruptError, WeightsError, WeightsUnavailableError
from loader.folders import digest, size_text

LOCAL = ("localhost", "127.0.0.1", "::1")
TRANSIENT_STATUS = (408, 425, 429, 500, 502, 503, 504)
FULL = (errno.ENOSPC, errno.EDQUOT)


@dataclass(frozen=True)
class Patience:
    """How long a download waits.

    Attributes:
        stall_s: seconds a connection may take to open or to bring the next bytes.
        attempts: tries in a row that bring nothing new before the source is given up; two before its first answer.
        pause_s: seconds before the second try, doubled for each further one.
    """

    stall_s: float = 15.0
    attempts: int = 5
    pause_s: float = 1.0


@dataclass(frozen=True)
class Order:
    """What to download.

    Attributes:
        url: https, or http to this machine.
        target: final path; the partial file lies beside it.
        exact: size in bytes the file must have, None when not known to the byte.
        reserve: bytes that must be free beyond the file itself (what will be extracted from it).
    """

    url: str
    target: Path
    exact: int | None = None
    reserve: int = 0


class _Retry(Exception):  # noqa: N818 - a request, not an error
    """The connection broke in a way that another try may mend."""


class Part:
    """The partial file of one source beside its target, and what identifies the version it is a part of."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._note = self.path.with_name(f"{self.path.name}.json")

    @classmethod
    def of(cls, url: str, target: Path) -> "Part":
        """Mirrors keep apart: half a file of one is not continued with another's."""
        return cls(target.with_name(f"{target.name}.{digest(url)}.part"))

    @property
    def size(self) -> int:
        try:
            return self.path.stat().st_size
        except OSError:
            return 0

    @property
    def validator(self) -> str:
        """Strong ETag or date the server gave; "" when none, and then the part cannot be continued safely."""
        try:
            return str(json.loads(self._note.read_text(encoding="utf-8"))["validator"])
        except (OSError, ValueError, KeyError, TypeError):
            return ""

    def begin(self, validator: str) -> None:
        self.discard()
        if validator:
            self._note.write_text(json.dumps({"validator": validator}), encoding="utf-8")

    def discard(self) -> None:
        self.path.unlink(missing_ok=True)
        self._note.unlink(missing_ok=True)

    def finish(self, target: Path) -> None:
        self.path.replace(target)
        self._note.unlink(missing_ok=True)


def download(
    order: Order,
    *,
    check: Callable[[Path], None],
    tell: Callable[[int, int | None], None],
    cancelled: Callable[[], bool],
    patience: Patience,
) -> None:
    """Brings ``order.url`` to ``order.target``. The caller holds the target's lock.

    Args:
        order: what and whereto.
        check: looks at the whole file before it gets its name; raises WeightsCorruptError.
        tell: hears bytes done and bytes in all (None when the server does not say).
        cancelled: asked at every chunk and in every pause; the partial file stays.
        patience: time limits.

    Raises:
        WeightsUnavailableError: the source does not give the file; the message is the reason alone.
        WeightsCorruptError: what it gave is not the file.
        WeightsError: no room on the disk, or it cannot be written.
        Cancelled: the user pressed Stop.
    """
    part = Part.of(order.url, order.target)
    try:
        order.target.parent.mkdir(parents=True, exist_ok=True)
        resumed = part.size > 0
        _transfer(order, part, tell=tell, cancelled=cancelled, patience=patience)
        try:
            check(part.path)
        except WeightsCorruptError:
            part.discard()
            if not resumed:
                raise
            # The older half may be what is wrong: once more from the first byte.
            _transfer(order, part, tell=tell, cancelled=cancelled, patience=patience)
            try:
                check(part.path)
            except WeightsCorruptError:
                part.discard()
                raise
        part.finish(order.target)
    except OSError as error:
        raise disk_error(error, part.path, part.size) from error


def disk_error(error: OSError, path: Path, kept: int) -> WeightsError:
    """What to tell about a disk that refused to take a file."""
    if error.errno in FULL:
        resume = f" {size_text(kept)} are kept in {path.name}: start again and it goes on from there." if kept else ""
        return WeightsError(
            f"the disk of {path.parent} ran full ({size_text(free_bytes(path.parent))} free).{resume} "
            "Free space, or set ANYHOST_CACHE to a folder on a larger disk."
        )
    return WeightsError(
        f"{path.parent} cannot be written to ({error.strerror or error}): "
        "correct its permissions or set ANYHOST_CACHE to another folder."
    )


def need_room(folder: Path, needed: int, what: str, *, variable: str = "ANYHOST_CACHE") -> None:
    """Refuses early when ``needed`` bytes do not fit on the disk of ``folder``, which need not exist yet.

    Raises:
        WeightsError: with needed, free, and the remedy.
    """
    free = free_bytes(folder)
    if needed > free:
        raise WeightsError(
            f"{what} needs {size_text(needed)} on the disk of {folder}, {size_text(free)} are free: "
            f"free {size_text(needed - free)} or set {variable} to a folder on a larger disk."
        )


def free_bytes(folder: Path) -> int:
    """Bytes free on the disk of a folder, which need not exist yet."""
    for place in (folder, *folder.parents):
        if place.exists():
            return shutil.disk_usage(place).free
    return 0


def _transfer(
    order: Order,
    part: Part,
    *,
    tell: Callable[[int, int | None], None],
    cancelled: Callable[[], bool],
    patience: Patience,
) -> None:
    """Connects as often as it takes until the partial file is whole."""
    failures, answered = 0, False
    while True:
        before = part.size
        try:
            response = _connect(order, part, patience)
            if response is not None:
                answered = True
                with response:
                    total = _begin(response, order, part)
                    _receive(response, part, total, tell=tell, cancelled=cancelled)
            return
        except _Retry as error:
            answered = answered or part.size > 0
            failures = 1 if part.size > before else failures + 1
            if failures >= (patience.attempts if answered else min(2, patience.attempts)):
                kept = f"; {size_text(part.size)} are kept to go on from" if part.size else ""
                raise WeightsUnavailableError(f"{error} ({failures} tries in a row{kept})") from error
            _pause(patience.pause_s * 2 ** (failures - 1), part, cancelled)


def _connect(order: Order, part: Part, patience: Patience) -> http.client.HTTPResponse | None:
    """The server's answer, or None when it says that the partial file is whole already."""
    headers = {"User-Agent": "anyhost", "Accept-Encoding": "identity"}
    if part.size and part.validator:
        headers |= {"Range": f"bytes={part.size}-", "If-Range": part.validator}
    else:
        part.discard()
    _require_https(order.url)
    request = urllib.request.Request(order.url, headers=headers)
    try:
        return _opener().open(request, timeout=patience.stall_s)  # type: ignore[no-any-return]
    except urllib.error.HTTPError as error:
        error.close()
        if error.code == 416:
            same = _validator(error.headers) in ("", part.validator)
            if part.size and same and _content_range(error.headers)[1] == part.size:
                return None
            part.discard()
            raise _Retry("the server no longer has the rest of the file") from None
        reason = f"HTTP {error.code} {error.reason}"
        if error.code in TRANSIENT_STATUS:
            raise _Retry(reason) from None
        raise WeightsUnavailableError(reason) from None
    except urllib.error.URLError as error:
        if isinstance(error.reason, ssl.SSLCertVerificationError):
            raise WeightsUnavailableError(
                f"its certificate was not accepted ({error.reason.verify_message}): "
                "behind a proxy that signs anew, set SSL_CERT_FILE to its certificate"
            ) from None
        raise _Retry(f"no connection ({error.reason})") from error
    except (OSError, http.client.HTTPException) as error:
        raise _Retry(f"no answer ({error or type(error).__name__}, waited {patience.stall_s:g} s)") from error


def _begin(response: http.client.HTTPResponse, order: Order, part: Part) -> int | None:
    """Judges the answer's head, starts the partial file over unless it continues it, and returns the whole size."""
    kind = response.headers.get_content_type()
    if kind == "text/html":
        raise WeightsUnavailableError("it answers with a web page instead of the file (a login, or a dead link)")
    if response.headers.get("Content-Encoding", "identity") != "identity":
        raise WeightsUnavailableError("it sends the file re-compressed, which cannot be checked")
    length = response.headers.get("Content-Length")
    total = int(length) if length is not None and length.isdigit() else None
    if response.status == 206:
        start, total = _content_range(response.headers)
        # If-Range asks the server for this; not every server listens.
        if start != part.size or _validator(response.headers) not in ("", part.validator):
            part.discard()
            raise _Retry("the server continued another version of the file")
    else:
        part.begin(_validator(response.headers))
    if order.exact is not None and total is not None and total != order.exact:
        part.discard()
        raise WeightsCorruptError(f"it announces {total:,} bytes, {order.exact:,} were expected")
    if total is not None:
        need_room(order.target.parent, total - part.size + order.reserve, order.target.name)
    return total


def _receive(
    response: http.client.HTTPResponse,
    part: Part,
    total: int | None,
    *,
    tell: Callable[[int, int | None], None],
    cancelled: Callable[[], bool],
) -> None:
    done = part.size
    with part.path.open("ab") as file:
        while True:
            if cancelled():
                raise _stopped(part, done)
            try:
                # read1 hands over what has arrived; read would wait for a full chunk and sit on it.
                chunk = response.read1(CHUNK_BYTES)
            except (OSError, http.client.HTTPException) as error:
                raise _Retry(
                    f"the connection broke off at {size_text(done)} ({error or type(error).__name__})"
                ) from error
            if not chunk:
                break
            write(file, chunk)
            done += len(chunk)
            tell(done, total)
        flush(file)
    if total is not None and done < total:
        raise _Retry(f"the server closed the connection at {done:,} of {total:,} bytes")


def write(file: BinaryIO, chunk: bytes) -> None:
    """The one place where downloaded bytes meet the disk."""
    file.write(chunk)


def flush(file: BinaryIO) -> None:
    """Makes sure that the bytes are on the disk before the file gets its name."""
    file.flush()
    os.fsync(file.fileno())


def _stopped(part: Part, done: int) -> Cancelled:
    return Cancelled(f"download stopped at {size_text(done)}; they are kept in {part.path} to go on from")


def _pause(seconds: float, part: Part, cancelled: Callable[[], bool]) -> None:
    end = time.monotonic() + seconds
    while (left := end - time.monotonic()) > 0:
        if cancelled():
            raise _stopped(part, part.size)
        time.sleep(min(0.1, left))


def _validator(headers: Message) -> str:
    etag = headers.get("ETag", "")
    if etag and not etag.startswith("W/"):
        return etag
    return headers.get("Last-Modified", "")


def _content_range(headers: Message) -> tuple[int, int | None]:
    """First byte and whole size from "bytes 100-199/200"."""
    span, _, whole = headers.get("Content-Range", "").removeprefix("bytes ").partition("/")
    start = span.partition("-")[0]
    return (int(start) if start.isdigit() else -1), (int(whole) if whole.isdigit() else None)


def _require_https(url: str, *, local: bool = True) -> None:
    parts = urlsplit(url)
    if parts.scheme == "https" or (local and parts.scheme == "http" and parts.hostname in LOCAL):
        return
    raise WeightsUnavailableError(f"{url} is not https, and weights are not fetched over anything else")


class _HttpsOnly(urllib.request.HTTPRedirectHandler):
    def redirect_request(
        self,
        req: urllib.request.Request,
        fp: IO[bytes],
        code: int,
        msg: str,
        headers: http.client.HTTPMessage,
        newurl: str,
    ) -> urllib.request.Request | None:
        # A server elsewhere must not send us to what listens on this machine.
        try:
            _require_https(newurl, local=urlsplit(req.full_url).hostname in LOCAL)
        except WeightsUnavailableError:
            fp.close()
            raise
        return super().redirect_request(req, fp, code, msg, headers, newurl)


@functools.cache
def _tls() -> ssl.SSLContext:
    """The system's certificates, read once: that takes longer than a small download."""
    context = ssl.create_default_context()
    paths = ssl.get_default_verify_paths()
    if not paths.cafile and not (paths.capath and any(Path(paths.capath).iterdir())):
        # Some Python builds (python.org's on macOS) bring no certificates of their own.
        with suppress(ImportError):
            import certifi

            context.load_verify_locations(certifi.where())
    return context


def _opener() -> urllib.request.OpenerDirector:
    return urllib.request.build_opener(urllib.request.HTTPSHandler(context=_tls()), _HttpsOnly())

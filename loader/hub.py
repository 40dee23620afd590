"""The Hugging Face Hub as a source of weights, through its own library and its own cache.

``huggingface_hub`` reads HF_HOME, HF_ENDPOINT, HF_HUB_OFFLINE, HF_TOKEN and the like when it is imported, so it is
imported at first use.
"""

import contextlib
import errno
import socket
import threading
import urllib.parse
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from loader.errors import Cancelled, WeightsError, WeightsUnavailableError
from loader.spec import Source

POLL_S = 0.1


def hub_cache() -> Path:
    """Folder of the Hub library's own cache."""
    from huggingface_hub import constants

    return Path(constants.HF_HUB_CACHE)


def offline() -> bool:
    """Whether HF_HUB_OFFLINE forbids the library to use the network."""
    from huggingface_hub import constants

    return bool(constants.HF_HUB_OFFLINE)


def cached(source: Source, cache: Path | None = None) -> Path | None:
    """The file as the Hub's cache layout keeps it below ``cache`` (default: the library's own), or None."""
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    try:
        path = try_to_load_from_cache(source.location, source.file, cache_dir=cache, revision=source.revision)
    except (HFValidationError, OSError):
        return None
    return Path(path) if isinstance(path, str) else None  # a file known not to exist answers with a marker object


def announced_sha256(path: Path) -> str:
    """The sum the Hub announced for a file in its cache, "" when it announced none.

    The library names the content of large files by their SHA-256, and links to it from the snapshot.
    """
    try:
        name = path.readlink().name if path.is_symlink() else ""
    except OSError:
        return ""
    return name if len(name) == 64 and all(digit in "0123456789abcdef" for digit in name) else ""


@dataclass
class _Meter:
    """What the worker thread has got so far, and whether it should stop."""

    bars: dict[int, int] = field(default_factory=dict)
    total: int | None = None
    stop: threading.Event = field(default_factory=threading.Event)
    worker: int = 0

    @property
    def done(self) -> int:
        # Xet shows two bars, bytes received and bytes written; the larger one is how far it is.
        return max(list(self.bars.values()), default=0)


def download(source: Source, *, tell: Callable[[int, int | None], None], cancelled: Callable[[], bool]) -> Path:
    """Fetches a file into the Hub's cache and returns its path there; at once if it is there already.

    The library downloads in a thread of its own, so that Stop answers even while a connection stalls. It keeps no
    partial file: a cancelled download starts anew.

    Args:
        source: repository, file and revision.
        tell: hears bytes done and bytes in all (None while unknown), in the caller's thread.
        cancelled: asked ten times a second.

    Raises:
        WeightsUnavailableError: the reason, in one line.
        WeightsError: the disk is full.
        Cancelled: the user pressed Stop.
    """
    _require_network(source)
    meter = _Meter()
    outcome: list[Path | BaseException] = []

    def work() -> None:
        meter.worker = threading.get_ident()
        try:
            outcome.append(_hf_hub_download(source, meter))
        except BaseException as error:  # noqa: BLE001 - handed to the caller's thread, which raises it
            outcome.append(error)

    worker = threading.Thread(target=work, name=f"hub {source.file}", daemon=True)
    worker.start()
    while worker.is_alive():
        worker.join(POLL_S)
        tell(meter.done, meter.total)
        if cancelled():
            _stop(worker, meter)
            raise Cancelled(f"{source.location}/{source.file}: stopped at {meter.done:,} bytes")
    match outcome[0]:
        case Path() as path:
            return path
        case OSError(errno=errno.ENOSPC | errno.EDQUOT) as error:
            raise WeightsError(
                f"{hub_cache()}: the disk ran full {meter.done:,} bytes into {source.file}; nothing of it was kept. "
                "Free space there, or set HF_HOME to a folder on a larger disk."
            ) from error
        case Exception() as error:
            raise WeightsUnavailableError(_reason(source, error)) from error
        case error:
            raise error


def _require_network(source: Source) -> None:
    """Fail at once where the Hub's name means nothing: the library would try for half a minute.

    Raises:
        WeightsUnavailableError: the name cannot be resolved and no proxy would do it for us.
    """
    from huggingface_hub import constants

    host = urllib.parse.urlsplit(constants.ENDPOINT).hostname or ""
    if offline() or urllib.request.getproxies():
        return
    try:
        socket.getaddrinfo(host, None)
    except OSError as error:
        raise WeightsUnavailableError(f"{source.location}: {host} cannot be resolved ({error}); no network?") from error


def _hf_hub_download(source: Source, meter: _Meter) -> Path:
    from huggingface_hub import hf_hub_download

    return Path(hf_hub_download(source.location, source.file, revision=source.revision, tqdm_class=_bar_class(meter)))


def _bar_class(meter: _Meter) -> Any:
    from tqdm.std import tqdm

    class Bar(tqdm):  # type: ignore[type-arg]
        """Counts instead of drawing."""

        def __init__(self, *args: Any, **options: Any) -> None:
            super().__init__(*args, **{**options, "disable": True})
            # A disabled bar forgets where it starts and where it ends.
            self.total = options.get("total")
            meter.bars[id(self)] = int(options.get("initial") or 0)
            meter.total = meter.total or self.total

        def update(self, n: float | None = 1) -> bool | None:
            meter.bars[id(self)] += int(n or 0)
            # Raising ends a plain HTTP download. Xet calls back from a thread of its own, where an exception is
            # printed and dropped: its session is aborted instead (see ``_stop``).
            if meter.stop.is_set() and threading.get_ident() == meter.worker:
                raise Cancelled("stopped")
            return None

    return Bar


def _stop(worker: threading.Thread, meter: _Meter) -> None:
    meter.stop.set()
    worker.join(10 * POLL_S)
    if worker.is_alive():
        # What the library itself does on Ctrl-C. Not part of its stable interface, so its absence is no failure:
        # the thread then ends with its download, and the file is there next time.
        with contextlib.suppress(ImportError, AttributeError):
            from huggingface_hub.utils._xet import abort_xet_session

            abort_xet_session()
        worker.join(10 * POLL_S)


def _reason(source: Source, error: Exception) -> str:
    from huggingface_hub.errors import EntryNotFoundError, GatedRepoError, LocalEntryNotFoundError

    if isinstance(error, GatedRepoError):
        return (
            f"its owner asks for consent: accept the terms at https://huggingface.co/{source.location} and set HF_TOKEN"
        )
    if isinstance(error, LocalEntryNotFoundError):
        if offline():
            return "HF_HUB_OFFLINE is set and the file is not in the Hub's cache"
        root = error.__cause__ or error
        return f"the Hub could not be reached ({type(root).__name__}: {_line(root)})"
    if isinstance(error, EntryNotFoundError):
        return f"{source.location} has no file {source.file} at revision {source.revision}"
    return f"{type(error).__name__}: {_line(error)}"


def _line(error: BaseException) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), "no further word")

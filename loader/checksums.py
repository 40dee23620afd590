"""SHA-256 of files of weights: announced by their publisher, or recorded at first use and held to ever after.

A gigabyte takes a second or more to sum, so a file whose size and times are those of its last check is not read again.
"""

import hashlib
import json
import logging
import os
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

from loader.errors import Cancelled, WeightsCorruptError

CHUNK_BYTES = 1 << 20

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Record:
    """What was seen of one file.

    Attributes:
        key: path, or repository and file, it is known by.
        seen: size in bytes, modification and change time in ns at the last check.
    """

    key: str
    sha256: str
    seen: tuple[int, int, int]


def sha256_of(path: Path, *, tell: Callable[[int], None], cancelled: Callable[[], bool]) -> str:
    """Hexadecimal SHA-256 of a file; ``tell`` hears the bytes read so far.

    Raises:
        Cancelled: ``cancelled()`` answered True between two chunks.
    """
    digest, done = hashlib.sha256(), 0
    with path.open("rb") as file:
        while chunk := file.read(CHUNK_BYTES):
            if cancelled():
                raise Cancelled(f"{path.name}: stopped while its checksum was computed")
            digest.update(chunk)
            done += len(chunk)
            tell(done)
    return digest.hexdigest()


def record_path(records: Path, key: str) -> Path:
    """Where the record of ``key`` is kept below the folder ``records``."""
    name = key.replace("\\", "/").rsplit("/", 1)[-1]
    return records / f"{name}.{hashlib.sha256(key.encode()).hexdigest()[:12]}.json"


def known(path: Path, *, key: str, records: Path) -> str | None:
    """The sum on record, if the file has not been touched since it was checked; reads no content."""
    record = _read(record_path(records, key))
    try:
        return record.sha256 if record is not None and record.seen == _state(path) else None
    except OSError:
        return None


def settle(  # noqa: PLR0913 - one file's identity, and two callbacks
    path: Path,
    *,
    key: str,
    announced: str,
    records: Path,
    tell: Callable[[int], None],
    cancelled: Callable[[], bool],
    computed: str | None = None,
) -> str:
    """The file's SHA-256, held against the announced sum, or else against the one recorded at first use.

    Args:
        path: the file.
        key: what it is known by across paths (see ``Record``).
        announced: the publisher's sum, "" when not known.
        records: folder of the records.
        tell: hears the bytes read so far; not called when the file was left untouched since its last check.
        cancelled: asked between chunks.
        computed: the sum, where it has just been computed.

    Raises:
        WeightsCorruptError: the sums differ; the message has both.
        Cancelled: the user pressed Stop.
    """
    place = record_path(records, key)
    record = _read(place)
    before = _state(path)
    if record is not None and record.seen == before and announced.lower() in ("", record.sha256):
        return record.sha256
    actual = computed or sha256_of(path, tell=tell, cancelled=cancelled)
    if announced and actual != announced.lower():
        raise WeightsCorruptError(
            f"{path}: SHA-256 is {actual}, its publisher announces {announced.lower()} ({before[0]:,} bytes). "
            "Delete the file and fetch it again, or replace it by an intact copy."
        )
    if not announced and record is not None and actual != record.sha256:
        raise WeightsCorruptError(
            f"{path}: SHA-256 is {actual}, at first use it was {record.sha256} ({before[0]:,} bytes now, "
            f"{record.seen[0]:,} then). Restore the file or delete it and fetch it again; "
            f"if the change is meant, delete {place} and the file is taken as it is."
        )
    _write(place, Record(key=key, sha256=actual, seen=before))
    return actual


def forget(*, key: str, records: Path) -> None:
    """Drops the record of ``key``; the next use is again a first one."""
    record_path(records, key).unlink(missing_ok=True)


def _state(path: Path) -> tuple[int, int, int]:
    stat = path.stat()
    return stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns


def _read(place: Path) -> Record | None:
    try:
        data = json.loads(place.read_text(encoding="utf-8"))
        size, modified, changed = (int(number) for number in data["seen"])
        return Record(key=str(data["key"]), sha256=str(data["sha256"]), seen=(size, modified, changed))
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _write(place: Path, record: Record) -> None:
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        handle, unique = tempfile.mkstemp(dir=place.parent, suffix=".new")
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            json.dump(asdict(record), file)
        Path(unique).replace(place)
    except OSError as error:  # a cache on a read-only disk still serves; the sum is then computed at every start
        logger.warning("checksum of %s not recorded: %s", record.key, error)

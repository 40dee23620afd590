"""Getting weights: what is on this disk, else the sources in their order, each checked before it is used."""

import time
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import filelock

from loader import checksums, hub
from loader.download import Order, Part, Patience, disk_error, download, flush, need_room, write
from loader.errors import Cancelled, WeightsCorruptError, WeightsError, WeightsUnavailableError
from loader.folders import Folders, Found, digest, find, own_archive, record_key, size_text, survey, unfinished, unfit
from loader.spec import Source, Weights

REPORT_S = 0.1
LOCK_POLL_S = 0.1


@dataclass(frozen=True)
class Progress:
    """How far one file is.

    Attributes:
        stage: "elsewhere" (another process or thread fetches it), "downloading", "extracting" or "checking".
        done: bytes of this stage.
        total: bytes in all, None while unknown.
        source: where it comes from.
    """

    file: str
    stage: str
    done: int
    total: int | None
    source: str = ""


@dataclass
class _Job:
    """What every step needs, and when it last spoke."""

    folders: Folders
    on_progress: Callable[[Progress], None] | None
    cancelled: Callable[[], bool]
    patience: Patience
    last: tuple[str, str, float] = ("", "", 0.0)

    def tell(self, file: str, stage: str, source: str, done: int, total: int | None) -> None:
        """Passes progress on, at most ten times a second but never without a stage's first and last word."""
        now = time.monotonic()
        if self.on_progress is None or (
            self.last[:2] == (file, stage) and now - self.last[2] < REPORT_S and done != total
        ):
            return
        self.last = (file, stage, now)
        self.on_progress(Progress(file, stage, done, total, source))


def _never() -> bool:
    return False


def fetch(
    weights: Weights,
    folders: Folders,
    *,
    on_progress: Callable[[Progress], None] | None = None,
    cancelled: Callable[[], bool] = _never,
    patience: Patience = Patience(),  # noqa: B008 - frozen
) -> Found:
    """The file of weights, from this disk or from the first source that has it, its checksum settled.

    Args:
        weights: what is wanted and where it can be had.
        folders: where to look and where to keep.
        on_progress: hears about the download, in the caller's thread.
        cancelled: asked all along; True ends it.
        patience: time limits of plain downloads; the Hub's library has its own (HF_HUB_DOWNLOAD_TIMEOUT).

    Returns:
        The file, with its SHA-256.

    Raises:
        WeightsUnavailableError: no source gave it; lists each with its reason.
        WeightsCorruptError: what is there, or all that could be had, is not what was announced or first seen.
        WeightsError: no room on the disk, or it cannot be written.
        Cancelled: ``cancelled()`` answered True; what has come of a plain download is kept to go on from.
    """
    return fetch_all((weights,), folders, on_progress=on_progress, cancelled=cancelled, patience=patience)[0]


def fetch_all(
    wanted: Sequence[Weights],
    folders: Folders,
    *,
    on_progress: Callable[[Progress], None] | None = None,
    cancelled: Callable[[], bool] = _never,
    patience: Patience = Patience(),  # noqa: B008 - frozen
) -> tuple[Found, ...]:
    """``fetch`` for several files: room for all is asked for first, and a zip that holds several is fetched once.

    Raises:
        As ``fetch``.
    """
    job = _Job(folders, on_progress, cancelled, patience)
    missing = [weights for weights in wanted if find(weights, folders) is None]
    _need_room_for(missing, folders)
    found = tuple(_fetch_one(weights, job) for weights in wanted)
    for weights in missing:
        for source in weights.sources:
            if source.kind == "url" and source.member:
                folders.archive(source).unlink(missing_ok=True)
    return found


def _need_room_for(missing: Sequence[Weights], folders: Folders) -> None:
    plain = on_hub = 0
    for weights in missing:
        first = next((source for source in weights.sources if source.kind != "asset"), None)
        if first is not None and first.kind == "hub":
            on_hub += weights.bytes
        elif first is not None:
            plain += weights.bytes - sum(part.stat().st_size for part in unfinished(folders.kept(weights)))
    names = ", ".join(weights.file for weights in missing)
    need_room(folders.cache, plain, names)
    need_room(hub.hub_cache(), on_hub, names, variable="HF_HOME")


def _fetch_one(weights: Weights, job: _Job) -> Found:
    found, passed_over = survey(weights, job.folders)
    if found is not None:
        return _settled(replace(found, sha256=None), weights, job)
    reasons: list[tuple[str, WeightsError]] = []
    for source in weights.sources:
        try:
            return _settled(_from_source(weights, source, job), weights, job)
        except (WeightsUnavailableError, WeightsCorruptError) as error:
            reasons.append((_label(source), error))
    raise _refusal(weights, job.folders, reasons, passed_over)


def _settled(found: Found, weights: Weights, job: _Job) -> Found:
    """``found`` with its checksum; a sum it comes with has just been computed."""
    if reason := unfit(found.bytes, weights):
        raise WeightsCorruptError(f"{found.path} has {reason}")
    announced = weights.sha256 or (hub.announced_sha256(found.path) if found.origin == "hub" else "")
    sha256 = checksums.settle(
        found.path,
        key=record_key(found, weights),
        announced=announced,
        records=job.folders.records,
        tell=lambda done: job.tell(weights.file, "checking", str(found.path), done, found.bytes),
        cancelled=job.cancelled,
        computed=found.sha256,
    )
    return replace(found, sha256=sha256)


def _from_source(weights: Weights, source: Source, job: _Job) -> Found:
    if source.kind == "asset":
        raise WeightsUnavailableError(f"{job.folders.assets / source.location} is not in this copy of the program")
    if source.kind == "hub" and not source.member:
        tell = partial(job.tell, weights.file, "downloading", _label(source))
        path = hub.download(source, tell=tell, cancelled=job.cancelled)
        return Found(path, "hub", path.stat().st_size)
    kept = job.folders.kept(weights)
    sha256 = None
    with _alone(kept, weights.file, job):
        # Another process may have brought it while this one waited.
        if not kept.is_file() or unfit(kept.stat().st_size, weights):
            sha256 = (_from_zip if source.member else _from_url)(weights, source, kept, job)
            for left in unfinished(kept):
                Part(left).discard()
    return Found(kept, "cache", kept.stat().st_size, sha256)


def _from_url(weights: Weights, source: Source, kept: Path, job: _Job) -> str | None:
    """Downloads to ``kept``; returns the SHA-256 if one was announced and therefore computed."""
    computed: list[str] = []

    def check(path: Path) -> None:
        if reason := unfit(path.stat().st_size, weights):
            raise WeightsCorruptError(f"it sent {reason}")
        if weights.sha256:
            computed.append(_check_sum(path, weights, job))

    order = Order(source.location, kept, exact=weights.bytes if weights.bytes_exact else None)
    tell = partial(job.tell, weights.file, "downloading", _label(source))
    download(order, check=check, tell=tell, cancelled=job.cancelled, patience=job.patience)
    return computed[-1] if computed else None


def _check_sum(path: Path, weights: Weights, job: _Job) -> str:
    total = path.stat().st_size
    actual = checksums.sha256_of(
        path, tell=lambda done: job.tell(weights.file, "checking", "", done, total), cancelled=job.cancelled
    )
    if actual != weights.sha256.lower():
        raise WeightsCorruptError(
            f"what came has SHA-256 {actual}, announced is {weights.sha256.lower()} ({total:,} bytes); it was not kept"
        )
    return actual


def _from_zip(weights: Weights, source: Source, kept: Path, job: _Job) -> str | None:
    """Takes one member out of a zip. Its name inside never becomes a path: it is kept under the announced one."""
    archive = _archive(weights, source, job)
    half = kept.with_name(f"{kept.name}.extract")
    try:
        kept.parent.mkdir(parents=True, exist_ok=True)
        with zipfile.ZipFile(archive) as opened:
            member = _member(opened, archive, weights, source)
            need_room(kept.parent, member.file_size, weights.file)
            tell = partial(job.tell, weights.file, "extracting", archive.name)
            _copy_member(opened, member, half, tell=tell, cancelled=job.cancelled)
        sha256 = _check_sum(half, weights, job) if weights.sha256 else None
        half.replace(kept)
    except (zipfile.BadZipFile, EOFError, zlib.error, NotImplementedError) as error:
        size = archive.stat().st_size
        if archive == job.folders.archive(source):
            archive.unlink(missing_ok=True)
        raise WeightsCorruptError(f"{archive.name} is a damaged zip of {size:,} bytes ({error})") from error
    except OSError as error:
        raise disk_error(error, half, 0) from error
    finally:
        half.unlink(missing_ok=True)
    return sha256


def _archive(weights: Weights, source: Source, job: _Job) -> Path:
    """The zip a member is taken from: the user's own, the Hub's, or downloaded and kept until all is out."""
    own = own_archive(source, job.folders)
    if own is not None:
        return own
    tell = partial(job.tell, weights.file, "downloading", _label(source))
    if source.kind == "hub":
        return hub.download(source, tell=tell, cancelled=job.cancelled)
    target = job.folders.archive(source)
    with _alone(target, weights.file, job):
        if not target.is_file():
            order = Order(source.location, target, reserve=weights.bytes)
            download(order, check=_check_zip, tell=tell, cancelled=job.cancelled, patience=job.patience)
    return target


def _check_zip(path: Path) -> None:
    if not zipfile.is_zipfile(path):
        raise WeightsCorruptError(f"it sent {path.stat().st_size:,} bytes that are no zip, or only a part of one")


def _member(opened: zipfile.ZipFile, archive: Path, weights: Weights, source: Source) -> zipfile.ZipInfo:
    try:
        member = opened.getinfo(source.member)
    except KeyError:
        names = opened.namelist()
        listed = ", ".join(names[:8]) + (" …" if len(names) > 8 else "")
        raise WeightsCorruptError(f"{archive.name} has no member {source.member!r}; it has {listed}") from None
    if member.flag_bits & 1:
        raise WeightsCorruptError(f"{archive.name}: {source.member} is encrypted")
    if weights.bytes_exact and member.file_size != weights.bytes:
        raise WeightsCorruptError(
            f"{archive.name}: {source.member} has {member.file_size:,} bytes, {weights.bytes:,} were announced"
        )
    return member


def _copy_member(
    opened: zipfile.ZipFile,
    member: zipfile.ZipInfo,
    path: Path,
    *,
    tell: Callable[[int, int | None], None],
    cancelled: Callable[[], bool],
) -> None:
    done = 0
    with opened.open(member) as inside, path.open("wb") as file:
        while chunk := inside.read(checksums.CHUNK_BYTES):
            if cancelled():
                raise Cancelled(f"stopped while {member.filename} was extracted")
            write(file, chunk)
            done += len(chunk)
            tell(done, member.file_size)
        flush(file)
    if done != member.file_size:
        raise zipfile.BadZipFile(f"{member.filename} ends at {done:,} of {member.file_size:,} bytes")


@contextmanager
def _alone(target: Path, file: str, job: _Job) -> Iterator[None]:
    """Only one process and thread at a time works on ``target``; waiting can be cancelled."""
    place = job.folders.cache / "locks" / f"{digest(str(target))}-{target.name}.lock"
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        lock = filelock.FileLock(place)
        while True:
            try:
                lock.acquire(timeout=LOCK_POLL_S)
                break
            except filelock.Timeout:
                if job.cancelled():
                    raise Cancelled(f"{file}: stopped while another process was fetching it") from None
                job.tell(file, "elsewhere", "another process", 0, None)
    except OSError as error:
        raise disk_error(error, place, 0) from error
    try:
        yield
    finally:
        lock.release()


def _label(source: Source) -> str:
    match source.kind:
        case "hub":
            text = f"Hub {source.location} {source.file}"
        case "asset":
            text = f"asset {source.location}"
        case _:
            text = source.location
    return f"{text} ({source.member})" if source.member else text


def _refusal(
    weights: Weights, folders: Folders, reasons: Sequence[tuple[str, WeightsError]], passed_over: Sequence[str]
) -> WeightsError:
    lines = [f"  - {label}: {error}" for label, error in reasons]
    lines += [f"  - passed over {line}" for line in passed_over]
    if reasons and all(isinstance(error, WeightsCorruptError) for _, error in reasons):
        head = f"{weights.file} ({size_text(weights.bytes)}): no source gave the announced file"
        remedy = f"  Try again later, or put an intact {weights.file} into a folder named in ANYHOST_WEIGHTS."
        return WeightsCorruptError("\n".join((f"{head}:", *lines, remedy)))
    own = ", ".join(str(folder) for folder in folders.own) or "not set"
    unset = " HF_HUB_OFFLINE is set: unset it to let the Hub be asked." if hub.offline() else ""
    return WeightsUnavailableError(
        "\n".join(
            (
                f"{weights.file} ({size_text(weights.bytes)}) could not be had from any of {len(reasons)} source(s):",
                *lines,
                f"  Check the network, or a proxy (HTTPS_PROXY) or mirror (HF_ENDPOINT).{unset} Or get the file "
                f"elsewhere and put it, named {weights.file}, into a folder named in ANYHOST_WEIGHTS (now: {own}).",
            )
        )
    )

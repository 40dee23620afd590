"""Where files of weights lie: the user's own folders, the cache, the Hub's cache, the files of this repository.

Nothing here uses the network or reads a file's content.
"""

import hashlib
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from os import pathsep
from pathlib import Path, PurePosixPath
from urllib.parse import unquote, urlsplit

from loader import checksums, hub
from loader.errors import WeightsError
from loader.spec import Licence, Source, Weights

# A file under the announced name may be another precision of the same tensors, but not a stub (a git-lfs pointer).
STUB_RATIO = 10
# A generic name ("diffusion_pytorch_model.safetensors") says little; then the size has to agree.
GUESS_TOLERANCE = 0.05


@dataclass(frozen=True)
class Folders:
    """Where to look and where to keep.

    Attributes:
        cache: what this program downloads and records; the only place it deletes from.
        own: the user's folders, looked through first, never written to.
        assets: root that paths of sources of kind "asset" are below.
    """

    cache: Path
    own: tuple[Path, ...]
    assets: Path

    @classmethod
    def from_environ(cls, environ: Mapping[str, str]) -> "Folders":
        """From ANYHOST_CACHE (default ``~/.cache/anyhost``) and ANYHOST_WEIGHTS (folders joined by ``os.pathsep``)."""
        cache = environ.get("ANYHOST_CACHE", "").strip()
        own = [entry.strip() for entry in environ.get("ANYHOST_WEIGHTS", "").split(pathsep)]
        return cls(
            cache=_absolute(cache) if cache else Path.home() / ".cache" / "anyhost",
            own=tuple(_absolute(entry) for entry in own if entry),
            assets=Path(__file__).resolve().parents[1],
        )

    @property
    def records(self) -> Path:
        """Folder of the checksums recorded at first use."""
        return self.cache / "checksums"

    def kept(self, weights: Weights) -> Path:
        """Where a download of ``weights`` is kept.

        Raises:
            WeightsError: its name leads out of the cache.
        """
        name = PurePosixPath(weights.file)
        if name.is_absolute() or ".." in name.parts or not name.parts:
            raise WeightsError(f"{weights.file!r} is no name for a file of weights: it has to lie below the cache")
        return self.cache / "weights" / name

    def archive(self, source: Source) -> Path:
        """Where the zip of a source with a member is kept until its members are out."""
        name = _basename(source.file or source.location)
        return self.cache / "archives" / f"{digest(source.location)}-{name}"


@dataclass(frozen=True)
class Found:
    """A file of weights on this disk.

    Attributes:
        origin: "own" (the user's folder or file), "cache", "hub" (the Hub's own cache), "asset" (of this repository).
        bytes: its size.
        sha256: None while it has not been checked.
    """

    path: Path
    origin: str
    bytes: int
    sha256: str | None = None


@dataclass(frozen=True)
class OnDisk:
    """One row of the page of weights.

    Attributes:
        origin: as in ``Found``, or "unfinished" for a download that can go on.
        deletable: whether ``delete`` accepts it.
    """

    file: str
    bytes: int
    path: Path
    licence: Licence
    origin: str
    deletable: bool


def find(weights: Weights, folders: Folders) -> Found | None:
    """The file, if it is on this disk already: own folders, then cache, then the Hub's cache, then assets.

    Own folders are searched for the announced name, the name at its source, and the folder layouts of the Hugging
    Face cache, ModelScope and a cloned repository, themselves and one level down. A file of another size than
    announced to the byte, or a stub, is passed over (``survey`` says so).
    """
    return survey(weights, folders)[0]


def survey(weights: Weights, folders: Folders) -> tuple[Found | None, tuple[str, ...]]:
    """``find``, with the files that bear the name and were passed over: path and reason."""
    passed = []
    seen: set[Path] = set()
    for path, origin, named in _candidates(weights, folders):
        size = _size(path)
        if size is None or path in seen:
            continue
        seen.add(path)
        if reason := unfit(size, weights, named=named):
            if named:
                passed.append(f"{path}: {reason}")
            continue
        found = Found(path, origin, size)
        sha256 = checksums.known(path, key=record_key(found, weights), records=folders.records)
        return Found(path, origin, size, sha256), tuple(passed)
    return None, tuple(passed)


def own_file(path: Path) -> Found:
    """A checkpoint the user names: taken as it is, its content is judged when it is opened.

    Raises:
        WeightsError: there is no such file, or it is empty.
    """
    path = _absolute(str(path))
    size = _size(path)
    if size is None:
        kind = "a folder" if path.is_dir() else "not there"
        raise WeightsError(f"{path} is {kind}: name a checkpoint file (.safetensors, .pth, .pt, .bin, .ckpt)")
    if size == 0:
        raise WeightsError(f"{path} is empty (0 bytes): copy or export the checkpoint again")
    return Found(path, "own", size)


def own_archive(source: Source, folders: Folders) -> Path | None:
    """The zip a source names, if the user put it into one of the own folders."""
    name = _basename(source.file or source.location)
    places = (place for folder in folders.own for place in (folder, *_subfolders(folder)))
    return next((place / name for place in places if _size(place / name)), None)


def record_key(found: Found, weights: Weights) -> str:
    """What a file's checksum is recorded under: its path, or on the Hub repository, revision and file.

    A Hub file's path changes with every commit of the repository, whether the file changed or not.
    """
    if found.origin == "hub":
        for source in weights.sources:
            if source.kind == "hub" and found.path.parts[-len(PurePosixPath(source.file).parts) :] == tuple(
                PurePosixPath(source.file).parts
            ):
                return f"hub:{source.location}@{source.revision}/{source.file}"
    return str(found.path)


def on_disk(weights: Iterable[Weights], folders: Folders) -> tuple[OnDisk, ...]:
    """Rows for those of ``weights`` that are here, whole or unfinished, each file once."""
    rows: dict[Path, OnDisk] = {}
    for entry in weights:
        found = find(entry, folders)
        if found is not None:
            inside = found.origin == "cache"
            rows[found.path] = OnDisk(entry.file, found.bytes, found.path, entry.licence, found.origin, inside)
        archives = [folders.archive(source) for source in entry.sources if source.member]
        parts = [part for kept in (folders.kept(entry), *archives) for part in unfinished(kept)]
        for left in (*parts, *archives):
            if size := _size(left):
                rows[left] = OnDisk(entry.file, size, left, entry.licence, "unfinished", True)
    return tuple(rows.values())


def unfinished(kept: Path) -> tuple[Path, ...]:
    """Partial downloads of the file that is to lie at ``kept``, one a source."""
    try:
        return tuple(
            sorted(
                p for p in kept.parent.iterdir() if re.fullmatch(re.escape(kept.name) + r"\.[0-9a-f]{8}\.part", p.name)
            )
        )
    except OSError:
        return ()


def delete(found: Found | OnDisk, folders: Folders) -> None:
    """Removes a downloaded file and what is recorded of it; refuses anything outside the cache.

    Raises:
        WeightsError: the file is not this program's to delete, or the system does not let it go.
    """
    shelves = [(folders.cache / name).resolve() for name in ("weights", "archives")]
    # The parent is resolved, not the file: a link is removed, never what it leads to.
    path = found.path.parent.resolve() / found.path.name
    if not any(path.is_relative_to(shelf) for shelf in shelves) or found.path.name in ("", ".."):
        hint = "`hf cache rm` frees the Hub's cache" if found.origin == "hub" else "delete it yourself if it is yours"
        raise WeightsError(f"{found.path} is not in {shelves[0]}, and nothing else is deleted from here: {hint}")
    try:
        path.unlink(missing_ok=True)
        if path.suffix == ".part":
            path.with_name(f"{path.name}.json").unlink(missing_ok=True)
    except OSError as error:
        raise WeightsError(f"{path} could not be deleted ({error.strerror}): close what uses it and retry") from error
    checksums.forget(key=str(found.path), records=folders.records)


def digest(location: str) -> str:
    """Eight hexadecimal digits that tell sources of one file apart in file names."""
    return hashlib.sha256(location.encode()).hexdigest()[:8]


def size_text(count: float) -> str:
    """Bytes as the Hub writes them, in powers of 1000: "1.69 GB"."""
    for unit in ("bytes", "kB", "MB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "bytes" else f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:.2f} GB"


def _candidates(weights: Weights, folders: Folders) -> Iterator[tuple[Path, str, bool]]:
    """Path, origin, and whether the place itself says that it is this file."""
    for folder in folders.own:
        for path, named in _own_candidates(weights, folder):
            yield path, "own", named
    yield folders.kept(weights), "cache", True
    for source in weights.sources:
        if source.kind == "hub" and not source.member:
            path_or_none = hub.cached(source)
            if path_or_none is not None:
                yield path_or_none, "hub", True
    for source in weights.sources:
        if source.kind == "asset" and not source.member:
            yield folders.assets / source.location, "asset", True


def _own_candidates(weights: Weights, folder: Path) -> Iterator[tuple[Path, bool]]:
    subfolders = _subfolders(folder)
    name = _basename(weights.file)
    for place in (folder, *subfolders):
        yield place / weights.file, True
        yield place / name, name == weights.file
    for source in weights.sources:
        if source.kind == "hub" and not source.member:
            yield from ((path, True) for path in _repository_layouts(folder, source))
    for source in weights.sources:
        inner = source.member or (source.file if source.kind == "hub" else _basename(source.location))
        for place in (folder, *subfolders):
            yield place / inner, False
            yield place / _basename(inner), False


def _repository_layouts(folder: Path, source: Source) -> Iterator[Path]:
    """Where a tool that mirrors repositories would have put the file below ``folder``."""
    for cache in (folder, folder / "hub"):
        path = hub.cached(source, cache)
        if path is not None:
            yield path
    owner, _, name = source.location.rpartition("/")
    # ModelScope keeps repositories below hub/ or hub/models/, a dot in their name as three underscores.
    for base in ("", "hub", "models", "hub/models"):
        for spelling in dict.fromkeys((name, name.replace(".", "___"))):
            yield folder / base / owner / spelling / source.file
    yield folder / name / source.file


def unfit(size: int, weights: Weights, *, named: bool = True) -> str:
    """Why a file of ``size`` bytes cannot be ``weights``, "" if it may be.

    Args:
        size: bytes on disk or delivered.
        weights: what is wanted.
        named: the place itself says what the file is; else its size has to agree more closely.
    """
    announced = f"{weights.bytes:,} are announced"
    if size == 0 or (weights.bytes_exact and size != weights.bytes) or size * STUB_RATIO < weights.bytes:
        return f"{size:,} bytes, {announced}"
    if not named and abs(size - weights.bytes) > GUESS_TOLERANCE * weights.bytes:
        return f"{size:,} bytes, about {announced}"
    return ""


def _size(path: Path) -> int | None:
    try:
        return path.stat().st_size if path.is_file() else None
    except OSError:
        return None


def _subfolders(folder: Path) -> list[Path]:
    try:
        return sorted(entry for entry in folder.iterdir() if entry.is_dir())
    except OSError:
        return []


def _basename(location: str) -> str:
    path = urlsplit(location).path if "://" in location else location
    return PurePosixPath(unquote(path)).name


def _absolute(path: str) -> Path:
    return Path(path).expanduser().absolute()

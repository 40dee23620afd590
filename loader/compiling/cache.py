"""What was compiled, kept for the next start: one folder for each thing that compiled code depends on.

The inductor finds its files by their content in whatever folder it is given. Giving each key a folder of its own makes
two things simple: a folder can be checked as a whole before anything in it is loaded, and thrown away as a whole.
"""

import hashlib
import json
import logging
import os
import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

_log = logging.getLogger(__name__)
VARIABLE = "TORCHINDUCTOR_CACHE_DIR"
MANIFEST = "anyhost.json"
FORMAT = "anyhost-compiled-1"
LIMIT_BYTES = 2 * 2**30
_DIGITS = 20


@dataclass(frozen=True)
class CacheKey:
    """Everything compiled code depends on.

    Attributes:
        host: processor with its instruction sets and cores, or card.
        plan: memory format, attention, merging, islands of fp32, compile mode and blocks.
        shapes: signature of the call, batch included.
    """

    host: str
    torch: str
    adapter: str
    variant: str
    component: str
    device: str
    dtype: str
    size: str
    plan: str
    shapes: str

    @property
    def digest(self) -> str:
        """Name of its folder."""
        text = json.dumps(asdict(self), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:_DIGITS]


class CompileCache:
    """Folders below ``root``. A cache that cannot be written costs a compile at the next start and nothing else.

    Attributes:
        thrown: folders found broken or foreign and thrown away, with the reason; each is said once.
    """

    def __init__(self, root: Path, limit_bytes: int = LIMIT_BYTES) -> None:
        self.root, self._limit = root, limit_bytes
        self.thrown: dict[Path, str] = {}

    def folder(self, key: CacheKey) -> Path:
        return self.root / key.digest

    def check(self, key: CacheKey) -> bool:
        """Whether an earlier start has left code for ``key``. What is there and is not that is thrown away."""
        folder = self.folder(key)
        if not folder.exists():
            return False
        reason = _fault(folder, key)
        if not reason:
            os.utime(folder / MANIFEST)
            return True
        if folder not in self.thrown:
            _log.warning("%s is thrown away and compiled anew: %s", folder, reason)
        self.thrown[folder] = reason
        shutil.rmtree(folder, ignore_errors=True)
        return False

    @contextmanager
    def used(self, key: CacheKey) -> Iterator[None]:
        """The inductor's files go to the folder of ``key``, and come from it."""
        before = os.environ.get(VARIABLE)
        os.environ[VARIABLE] = str(self.folder(key))
        try:
            yield
        finally:
            if before is None:
                os.environ.pop(VARIABLE, None)
            else:
                os.environ[VARIABLE] = before

    def seal(self, key: CacheKey) -> None:
        """Say that the folder is whole, with a digest of every file in it; then keep the whole cache in bounds."""
        folder = self.folder(key)
        try:
            files = _files(folder)
            if not files:
                return
            content = {"format": FORMAT, "key": asdict(key), "files": files}
            temporary = folder / f"{MANIFEST}.tmp"
            temporary.write_text(json.dumps(content), encoding="utf-8")
            temporary.replace(folder / MANIFEST)
            self._bound()
        except OSError as error:
            _log.warning("what was compiled could not be kept in %s: %s", folder, error)

    def forget(self, key: CacheKey) -> None:
        """Throw away what was compiled for ``key``: it was of no use."""
        shutil.rmtree(self.folder(key), ignore_errors=True)

    def _bound(self) -> None:
        """Let the folders longest not used go while all together are too large."""
        sealed = [f for f in self.root.iterdir() if (f / MANIFEST).exists()]
        newest = sorted(sealed, key=lambda f: (f / MANIFEST).stat().st_mtime, reverse=True)
        total = 0
        for index, folder in enumerate(newest):
            total += sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
            if index and total > self._limit and time.time() - (folder / MANIFEST).stat().st_mtime > 1:
                shutil.rmtree(folder, ignore_errors=True)


def _files(folder: Path) -> dict[str, str]:
    """Digest of every file by its path below ``folder``; locks are no content."""
    found = {}
    for path in sorted(folder.rglob("*")):
        if path.is_file() and path.name not in (MANIFEST, f"{MANIFEST}.tmp") and path.suffix != ".lock":
            found[path.relative_to(folder).as_posix()] = hashlib.sha256(path.read_bytes()).hexdigest()
    return found


def _fault(folder: Path, key: CacheKey) -> str:
    """Why a folder cannot be used, "" if it can."""
    try:
        content = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return "it was never finished"
    except (OSError, ValueError) as error:
        return f"its list of files cannot be read ({error})"
    if not isinstance(content, Mapping) or content.get("format") != FORMAT:
        return "it is of another format"
    if content.get("key") != asdict(key):
        return "it was compiled for something else"
    try:
        there = _files(folder)
    except OSError as error:
        return f"its files cannot be read ({error})"
    listed = content.get("files")
    if not isinstance(listed, dict):
        return "it lists no files"
    # Files beside those listed are harmless: the inductor finds by content what it looks for.
    changed = [name for name, digest in listed.items() if there.get(name) != digest]
    return f"{len(changed)} of its {len(listed)} files are missing or changed" if changed else ""

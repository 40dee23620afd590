"""Terms of weights that have to be accepted before these are fetched or used, and who has accepted what.

Nothing here is global. What a visitor ticks travels with the request; what a deployer accepts for everybody is in the
environment (ANYHOST_ACCEPT) and given to the engine when it is made; what was accepted on the command line is on record
in the cache folder of that user.
"""

import json
import os
import re
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from loader.errors import AnyhostError, LicenceNotAcceptedError
from loader.spec import Licence, Variant, Weights

VARIABLE = "ANYHOST_ACCEPT"


@dataclass(frozen=True)
class Terms:
    """One licence that has to be accepted, and the files of weights it covers."""

    licence: Licence
    weights: tuple[Weights, ...]

    @property
    def bytes(self) -> int:
        return sum(weights.bytes for weights in self.weights)


def terms_of(weights: Iterable[Weights]) -> tuple[Terms, ...]:
    """Licences among ``weights`` that have to be accepted, in the order of the first file of each."""
    files: dict[Licence, list[Weights]] = {}
    for entry in weights:
        if entry.licence.accept:
            files.setdefault(entry.licence, []).append(entry)
    return tuple(Terms(licence, tuple(covered)) for licence, covered in files.items())


def open_terms(weights: Iterable[Weights], accepted: Iterable[str]) -> tuple[Terms, ...]:
    """Those of ``terms_of`` that nobody has accepted; names are compared without regard to case and spacing."""
    given = {_plain(name) for name in accepted}
    return tuple(terms for terms in terms_of(weights) if _plain(terms.licence.name) not in given)


def require(weights: Iterable[Weights], accepted: Iterable[str]) -> None:
    """Refuses weights whose terms are not accepted, whether they are on this disk already or not.

    Raises:
        LicenceNotAcceptedError: with the licences that are still open.
    """
    missing = open_terms(weights, accepted)
    if missing:
        raise LicenceNotAcceptedError(tuple(terms.licence for terms in missing))


def covers(before: Variant, after: Variant) -> bool:
    """Whether whoever accepted the terms of ``before`` has accepted those of ``after``."""
    return not open_terms(after.weights, (terms.licence.name for terms in terms_of(before.weights)))


def by_deployer(environ: Mapping[str, str]) -> frozenset[str]:
    """Names in ANYHOST_ACCEPT: accepted for everybody this process serves."""
    return names_in(environ.get(VARIABLE, ""))


def names_in(text: str) -> frozenset[str]:
    """Names of licences in one text, separated by commas or semicolons; no licence's name has either."""
    return frozenset(name for entry in re.split("[,;]", text) if (name := " ".join(entry.split())))


def named(names: Iterable[str], licences: Iterable[Licence]) -> tuple[Licence, ...]:
    """The licences called ``names``.

    Raises:
        KeyError: one of them is not among ``licences`` that have to be accepted; the message lists those there are.
    """
    known = {_plain(licence.name): licence for licence in licences if licence.accept}
    for name in names:
        if _plain(name) not in known:
            raise KeyError(f"{name!r} is none of {'; '.join(licence.name for licence in known.values()) or 'none'}")
    return tuple(dict.fromkeys(known[_plain(name)] for name in names))


class Record:
    """What was accepted on the command line, with the day, in a file of the cache folder."""

    def __init__(self, cache: Path) -> None:
        self.path = cache / "accepted.json"

    def names(self) -> frozenset[str]:
        """Names on record; none where the file is missing or cannot be read."""
        return frozenset(self._read())

    def accept(self, licences: Iterable[Licence]) -> None:
        """Puts licences on record.

        Raises:
            AnyhostError: the file cannot be written.
        """
        today = datetime.now(UTC).date().isoformat()
        added = {licence.name: {"url": licence.url, "date": today} for licence in licences}
        self._write(added | self._read())

    def withdraw(self, licences: Iterable[Licence]) -> None:
        """Takes licences off the record.

        Raises:
            AnyhostError: the file cannot be written.
        """
        gone = {licence.name for licence in licences}
        self._write({name: entry for name, entry in self._read().items() if name not in gone})

    def _read(self) -> dict[str, dict[str, str]]:
        try:
            data = json.loads(self.path.read_text(encoding="utf-8"))
            return {str(name): {"url": str(entry["url"]), "date": str(entry["date"])} for name, entry in data.items()}
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return {}

    def _write(self, entries: Mapping[str, Mapping[str, str]]) -> None:
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            handle, unique = tempfile.mkstemp(dir=self.path.parent, suffix=".new")
            with os.fdopen(handle, "w", encoding="utf-8") as file:
                json.dump(entries, file, indent=1, ensure_ascii=False)
            Path(unique).replace(self.path)
        except OSError as error:
            raise AnyhostError(
                f"{self.path} cannot be written ({error.strerror or error}): correct its permissions, set "
                f"ANYHOST_CACHE to another folder, or name the licences in {VARIABLE}"
            ) from error


def _plain(name: str) -> str:
    return " ".join(name.split()).casefold()

"""What of each variant's weights is on this disk, how it is known to be right, and what could be deleted.

Reads names, sizes and records only: no network, no file's content.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from loader import hub
from loader.download import free_bytes
from loader.folders import Folders, Found, OnDisk, on_disk, survey
from loader.spec import AdapterSpec, Licence, Variant, Weights

Checksum = Literal["announced", "recorded", "unchecked"]


@dataclass(frozen=True)
class FileState:
    """One file of weights.

    Attributes:
        found: where it lies, None if it does not.
        partial: bytes of an interrupted download that can go on.
        passed_over: files that bear its name and cannot be it, with the reason.
        checksum: what its SHA-256 is held to: "announced" by the publisher, "recorded" here at first use, or
            "unchecked", as neither is known yet.
        sha256: that sum, "" while it is not known.
        verified: whether the file as it lies there has been summed.
    """

    weights: Weights
    found: Found | None
    partial: int
    passed_over: tuple[str, ...]
    checksum: Checksum
    sha256: str
    verified: bool

    @property
    def missing_bytes(self) -> int:
        """Announced bytes still to come."""
        return 0 if self.found else max(0, self.weights.bytes - self.partial)


@dataclass(frozen=True)
class VariantState:
    """All files of one variant, in the order of its spec."""

    spec: AdapterSpec
    variant: Variant
    files: tuple[FileState, ...]
    deletable: tuple[OnDisk, ...]

    @property
    def missing(self) -> tuple[FileState, ...]:
        return tuple(state for state in self.files if state.found is None)

    @property
    def missing_bytes(self) -> int:
        return sum(state.missing_bytes for state in self.files)

    @property
    def partial_bytes(self) -> int:
        return sum(state.partial for state in self.files)

    @property
    def deletable_bytes(self) -> int:
        return sum(row.bytes for row in self.deletable)

    @property
    def bytes(self) -> int:
        """Bytes of the files that are here as they are, of the others as announced."""
        return sum(state.found.bytes if state.found else state.weights.bytes for state in self.files)

    @property
    def licences(self) -> tuple[Licence, ...]:
        return tuple(dict.fromkeys(state.weights.licence for state in self.files))


@dataclass(frozen=True)
class Totals:
    """Disk taken by all weights, each file counted once, and disk left.

    Attributes:
        by_origin: bytes by "cache", "hub", "own", "asset", "unfinished".
        files: how many files that are.
        free: bytes free where this program keeps what it fetches.
        free_hub: bytes free where the Hub's library does.
    """

    by_origin: Mapping[str, int]
    files: int
    free: int
    free_hub: int


def file_state(weights: Weights, folders: Folders, partial: int = 0) -> FileState:
    """The state of one file; ``partial`` is what has come of it."""
    found, passed_over = survey(weights, folders)
    announced = weights.sha256.lower()
    if found is not None and not announced and found.origin == "hub":
        announced = hub.announced_sha256(found.path)
    recorded = (found.sha256 or "") if found is not None else ""
    kind: Checksum = "announced" if announced else "recorded" if recorded else "unchecked"
    return FileState(weights, found, partial, passed_over, kind, announced or recorded, verified=bool(recorded))


def variant_state(spec: AdapterSpec, variant: Variant, folders: Folders) -> VariantState:
    """The state of a variant's files."""
    rows = {weights.file: on_disk((weights,), folders) for weights in variant.weights}
    files = []
    for weights in variant.weights:
        partial = sum(row.bytes for row in rows[weights.file] if row.origin == "unfinished")
        files.append(file_state(weights, folders, min(partial, weights.bytes)))
    unique = {row.path: row for row in (row for found in rows.values() for row in found) if row.deletable}
    return VariantState(spec, variant, tuple(files), tuple(unique.values()))


def inventory(specs: Iterable[AdapterSpec], folders: Folders) -> tuple[VariantState, ...]:
    """Every variant that has weights, in the order of specs and variants."""
    return tuple(variant_state(spec, v, folders) for spec in specs for v in spec.variants if v.weights)


def shared(state: VariantState, states: Iterable[VariantState]) -> tuple[str, ...]:
    """Other variants that would lose a file if what is deletable of ``state`` were deleted."""
    mine = {row.path for row in state.deletable}
    return tuple(
        f"{other.spec.title} {other.variant.name}"
        for other in states
        if other.variant is not state.variant and any(row.path in mine for row in other.deletable)
    )


def totals(states: Iterable[VariantState], folders: Folders) -> Totals:
    """Bytes of all files of ``states`` by where they lie, and what is free."""
    seen: dict[Path, tuple[str, int]] = {}
    for state in states:
        seen |= {f.found.path: (f.found.origin, f.found.bytes) for f in state.files if f.found}
        seen |= {row.path: (row.origin, row.bytes) for row in state.deletable}
    by_origin: dict[str, int] = {}
    for origin, count in seen.values():
        by_origin[origin] = by_origin.get(origin, 0) + count
    return Totals(by_origin, len(seen), free_bytes(folders.cache), free_bytes(hub.hub_cache()))

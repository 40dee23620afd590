"""Words by subject, English and Chinese side by side: what a tab or a page says of its own.

A module of this package holds tables named as in ``kit.texts.en`` (``PAGE``, ``STAGES``, ``RULES``, ``FLIPS``,
``EVENTS``, ``REPORT``, ``PROVENANCE``); each entry is (English, Simplified Chinese).
"""

from collections.abc import Mapping
from types import ModuleType

from kit.texts.words import (
    access,
    animate,
    bench,
    cluster,
    compiling,
    depth,
    detect,
    identity,
    kernels,
    mesh,
    precision,
    queue,
    settings,
    tuning,
    weights,
    what_if,
)

Pair = tuple[str, str]
SUBJECTS: tuple[ModuleType, ...] = (
    access,
    animate,
    bench,
    cluster,
    compiling,
    depth,
    detect,
    identity,
    kernels,
    mesh,
    precision,
    queue,
    settings,
    tuning,
    weights,
    what_if,
)
LANGUAGE_ORDER = ("en", "zh")


def words_of(table: str, language: str) -> dict[str, str]:
    """Entries of ``table`` of all subjects in ``language``.

    Raises:
        ValueError: two subjects say the same key.
    """
    position = LANGUAGE_ORDER.index(language)
    said: dict[str, str] = {}
    for subject in SUBJECTS:
        entries: Mapping[str, Pair] = getattr(subject, table, {})
        if twice := sorted(said.keys() & entries.keys()):
            raise ValueError(f"{subject.__name__} says again: {', '.join(twice)}")
        said |= {key: pair[position] for key, pair in entries.items()}
    return said

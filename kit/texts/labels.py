"""The page's own words, by key, in the reader's language."""

import string
from collections.abc import Mapping

from kit.texts import LANGUAGES


def label(key: str, language: str = "en", /, **figures: object) -> str:
    """The words for ``key`` with its figures filled in.

    Raises:
        KeyError: the language lacks the key, or a figure is missing.
    """
    words: Mapping[str, str] = LANGUAGES[language].PAGE
    return string.Formatter().vformat(words[key], (), figures)


def name_of(kind: str, value: str, language: str = "en") -> str:
    """The word for a contract word ("residency", "offload"), or the contract word itself where there is none."""
    words: Mapping[str, str] = LANGUAGES[language].PAGE
    return words.get(f"{kind}.{value}", value)

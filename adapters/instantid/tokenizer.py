"""CLIP's tokenizer from its two published files, and one without files for a dry run."""

import json
import re
import zlib
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from adapters.instantid.prompts import BOS, EOS, Tokenizer
from loader.errors import WeightsError

VOCABULARY, MERGES = "vocab.json", "merges.txt"


def clip_tokenizer(files: Mapping[str, Path]) -> Tokenizer:
    """The tokenizer whose "vocab.json" and "merges.txt" are among ``files``.

    Raises:
        WeightsError: they cannot be read, or do not hold CLIP's marks.
    """
    # Imported at use: it costs a second.
    from transformers import CLIPTokenizer

    vocabulary, merges = (_named(end, files) for end in (VOCABULARY, MERGES))
    try:
        words: dict[str, int] = json.loads(vocabulary.read_text(encoding="utf-8"))
        lines = merges.read_text(encoding="utf-8").splitlines()
        pairs: Any = [tuple(line.split()) for line in lines if line.strip() and not line.startswith("#version")]
        tokenizer: Any = CLIPTokenizer(vocab=words, merges=pairs)
        marks = list(tokenizer("", truncation=False).input_ids)
    except Exception as error:  # tokenizers raises classes of its own
        raise WeightsError(
            f"{vocabulary} and {merges.name} are no CLIP vocabulary ({str(error)[:200]}): fetch them again"
        ) from error
    if marks != [BOS, EOS]:
        raise WeightsError(f"{vocabulary} marks begin and end by {marks}, CLIP by {[BOS, EOS]}: fetch it again")
    return tokenizer


def _named(end: str, files: Mapping[str, Path]) -> Path:
    return next(path for name, path in files.items() if name.endswith(end))


class WordTokenizer:
    """Every word has a number of its own, made from its letters; for networks that have learned none."""

    def __call__(self, text: str, *, truncation: bool) -> SimpleNamespace:
        """An object with ``input_ids`` between CLIP's marks of begin and end."""
        del truncation  # the length is never limited here
        words = re.findall(r"\w+|[^\w\s]", text.lower())
        return SimpleNamespace(
            input_ids=[BOS, *(zlib.crc32(word.encode("utf-8", "replace")) % BOS for word in words), EOS]
        )

"""Drawn pictures as files: labelled as AI-generated on them and in them, with the settings that give them again."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from adapters.instantid.drawn import Drawn, Rgb
from adapters.instantid.options import options_of
from kit import ai_label
from kit.exports import free_path, safe_stem, write_bytes, write_json
from kit.settings import settings_record
from loader.outcome import Result

MINIATURE_NOTE = "untrained miniature: a dry run, nothing in it was learned"
FORMATS = ("png", "jpg", "webp")


def weights_words(result: Result) -> str:
    """What the weights are, in the words that every output carries."""
    return MINIATURE_NOTE if result.weights == "miniature" else result.weights


def record_of(drawn: Drawn, result: Result) -> dict[str, Any]:
    """The settings that give this one picture again, and what it was made by."""
    alone = replace(drawn.settings, prompts=(drawn.prompt,), seed=drawn.seed, pictures=1)
    made = settings_record(result.plan, weights_words(result), options_of(alone))
    used = {"steps": drawn.steps, "guidance": drawn.guidance, "scheduler": drawn.scheduler, "size": list(drawn.size)}
    return made | {"used": used}


def shown_rgb(rgb: Rgb, language: str = "en", environ: Mapping[str, str] | None = None) -> NDArray[np.uint8]:
    """A picture as it is shown and saved: with the visible label, unless the host has switched it off."""
    return ai_label.mark(rgb, language) if ai_label.enabled(os.environ if environ is None else environ) else rgb


def encoded(drawn: Drawn, result: Result, kind: str = "png", language: str = "en") -> bytes:
    """One picture file.

    Raises:
        InputError: another kind of file.
    """
    labelled = ai_label.enabled(os.environ)
    rgb = shown_rgb(drawn.rgb, language)
    return ai_label.encode_picture(rgb, f".{kind}", record_of(drawn, result), labelled=labelled)


def stem_of(drawn: Drawn) -> str:
    """The first photo's name with the seed."""
    return f"{safe_stem(drawn.faces.name)}-identity-{drawn.seed}"


def save(
    drawn: Sequence[Drawn], result: Result, folder: Path, *, kind: str = "png", language: str = "en"
) -> list[list[Path]]:
    """Each picture and its settings as JSON beside it.

    Raises:
        InputError: another kind of file.
        OutputError: the disk is full or the folder cannot be written.
    """
    saved = []
    for one in drawn:
        path = free_path(folder, stem_of(one), f".{kind}")
        write_bytes(path, encoded(one, result, kind, language))
        labelled = ai_label.enabled(os.environ)
        settings = ai_label.declared(record_of(one, result), labelled=labelled)
        saved.append([path, write_json(path.with_suffix(".json"), {"settings": settings, **output_of(one)})])
    return saved


def output_of(drawn: Drawn) -> dict[str, Any]:
    """``{seed, size, frames, prompt, face}`` of a picture."""
    box = [round(float(side), 1) for side in drawn.faces.box]
    return {
        "seed": drawn.seed,
        "size": list(drawn.size),
        "frames": 1,
        "prompt": drawn.prompt,
        "face": {"box": box, "of": len(drawn.faces.faces), "stand_in": drawn.faces.stand_in},
    }

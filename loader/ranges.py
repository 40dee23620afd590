"""Scales of quantised layers in a file: found once for a file of weights, where finding them took long."""

import hashlib
import json
import logging
import os
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from torch import nn

from loader.calibrating import LayerScales
from loader.codec import from_plain, to_plain

_log = logging.getLogger(__name__)
FOLDER = "ranges"
WORTH_S = 1.0  # what was found faster is found again


@dataclass(frozen=True)
class _Kept:
    """What a file holds. ``code`` tells the network's code: in another version values may go other ways."""

    code: str
    layers: Mapping[str, LayerScales]


def ranges_file(cache: Path, key: str) -> Path:
    """Where the scales of what is loaded under ``key`` are kept (``loader.residency.key_of``)."""
    return cache / FOLDER / f"{key.replace('/', '.').replace(' ', '-')}.json"


def read(file: Path, module: nn.Module, layers: Iterable[str]) -> Mapping[str, LayerScales] | None:
    """What is kept for just these layers of ``module``; None if nothing is, or something else."""
    try:
        kept = from_plain(_Kept, json.loads(file.read_text(encoding="utf-8")))
    except (OSError, ValueError):
        return None
    return kept.layers if kept.code == code_of(module) and kept.layers.keys() == set(layers) else None


def write(file: Path, module: nn.Module, scales: Mapping[str, LayerScales]) -> None:
    """Keep ``scales``; where nothing can be written they are found again next time."""
    partial = file.with_suffix(f".{os.getpid()}")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        partial.write_text(json.dumps(to_plain(_Kept(code_of(module), scales))), encoding="utf-8")
        partial.replace(file)
    except OSError as error:
        _log.info("%s could not be written: %s", file, error)


def code_of(module: nn.Module) -> str:
    """A digest of the source files of all classes ``module`` is made of."""
    names = {base.__module__ for layer in module.modules() for base in type(layer).__mro__}
    files = {getattr(sys.modules.get(name), "__file__", None) for name in names}
    digest = hashlib.sha256()
    for path in sorted(path for path in files if path):
        digest.update(Path(path).read_bytes())
    return digest.hexdigest()[:16]

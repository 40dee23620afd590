"""A stopped clip as a file: its latents, how far they are, and whose they are, so that a later run can go on.

A safetensors file, which cannot run anything, in the folder the clip would have been written to.
"""

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, float32
from torch import isfinite as is_finite

from adapters.aniportrait.requests import AnimateRequest, Unfinished
from kit.exports import write_bytes
from loader.errors import InputError, WeightsError
from loader.weights import metadata, open_state

NAME = "unfinished.safetensors"
FORMAT = "aniportrait-unfinished-1"
LATENTS, CLEAN, CHANNELS = "latents", "clean", 4
# What the rest of the clip has to be made with, by the words of the options.
OWN = ("seed", "guidance", "pose_guider")
MOST_BYTES = 600 * 2**20  # of such a file: hours of speech at 512 × 512


def write_held(unfinished: Unfinished, request: AnimateRequest, folder: Path) -> Path:
    """The file that ``read_held`` takes; one of an earlier stop in this folder is replaced.

    Raises:
        OutputError: the disk is full or the folder cannot be written.
    """
    from safetensors.torch import save

    tensors = {LATENTS: unfinished.latents.contiguous(), CLEAN: unfinished.clean.contiguous()}
    told = {"format": FORMAT, "step": str(unfinished.step), "steps": str(unfinished.steps), **_own(request)}
    return write_bytes(folder / NAME, save(tensors, told))


def read_held(path: Path, request: AnimateRequest) -> Unfinished:
    """What a stopped run left in a file, or in a folder under its usual name.

    Args:
        path: the file or the folder.
        request: that is to go on with it.

    Raises:
        InputError: there is none, it is something else or damaged, or it belongs to another clip.
    """
    file = path / NAME if path.is_dir() else path
    if not file.is_file():
        raise InputError(f"{path}: no stopped clip lies there; a stopped run leaves {NAME} in its folder of results")
    if file.stat().st_size > MOST_BYTES:
        size, most = file.stat().st_size / 2**20, MOST_BYTES / 2**20
        raise InputError(f"{file.name} has {size:.0f} MB, a stopped clip has {most:.0f} MB at most: give the file")
    try:
        told = metadata(file)
        # Said before the rest is opened: a pickle says nothing of itself, and is not opened here.
        tensors = open_state(file) if told.get("format") == FORMAT else {}
    except WeightsError as error:
        raise InputError(f"{file.name} cannot be read as a stopped clip: {error}") from error
    if {LATENTS, CLEAN} != tensors.keys():
        raise InputError(f"{file.name} holds no stopped clip: give {NAME} of a stopped run")
    _check_own(file, told, request)
    return _unfinished(file, told, tensors)


def _own(request: AnimateRequest) -> dict[str, str]:
    return {
        "seed": str(request.seed),
        "guidance": f"{request.guidance:g}",
        "pose_guider": "faithful" if request.faithful else "clean",
        "portrait": hashlib.sha256(request.portrait.rgb.tobytes()).hexdigest(),
    }


def _check_own(file: Path, told: Mapping[str, str], request: AnimateRequest) -> None:
    now = _own(request)
    other = [f"{name} {told.get(name)}, not {now[name]}" for name in OWN if told.get(name) != now[name]]
    if told.get("portrait") != now["portrait"]:
        other.insert(0, f"another portrait than {request.portrait.name}")
    if other:
        raise InputError(
            f"{file.name} is of another clip: {'; '.join(other)}: take what it was begun with, or begin anew"
        )


def _unfinished(file: Path, told: Mapping[str, str], tensors: Mapping[str, Tensor]) -> Unfinished:
    latents, clean = tensors[LATENTS], tensors[CLEAN]
    counts: list[Any] = [told.get(name, "") for name in ("step", "steps")]
    sound = latents.ndim == 5 and latents.shape[:2] == (1, CHANNELS) and latents.shape == clean.shape
    sound = sound and latents.dtype == clean.dtype == float32 and all(word.isdecimal() for word in counts)
    step, steps = (int(word) for word in counts) if sound else (0, 0)
    if not (sound and 0 < step <= steps and bool(is_finite(latents).all())):
        raise InputError(f"{file.name} is damaged: begin anew")
    # Read into memory: the file may be replaced while the clip goes on.
    return Unfinished(latents.clone(), clean.clone(), step, steps)

"""An animation from files to files: what the command line uses."""

import math
import os
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from adapters.aniportrait.held import read_held, write_held
from adapters.aniportrait.motion import read_track
from adapters.aniportrait.requests import (
    GUIDANCE,
    HEADS,
    SEED,
    AnimateRequest,
    Animation,
    Driving,
    HeadWord,
    PoseClip,
    Source,
    Speech,
    Still,
)
from adapters.aniportrait.running import Closeness, kept_of
from adapters.aniportrait.running import compare as closeness_of
from kit.ai_label import enabled
from kit.audio import read_sound
from kit.consent import read_consent, require_consent
from kit.images import open_picture
from kit.running import Asked
from kit.texts import language_from
from kit.video import probe_clip
from loader.engine import Engine
from loader.errors import InputError
from loader.outcome import Result, Step

PICTURES = frozenset((".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff", ".gif"))
CLIPS = frozenset((".mp4", ".mov", ".m4v", ".webm", ".mkv", ".avi", ".ts", ".mpg", ".mpeg"))
SOUNDS = frozenset((".wav", ".mp3", ".flac", ".ogg", ".oga", ".opus", ".m4a", ".aac", ".wma", ".aif", ".aiff"))
GUIDERS = ("faithful", "clean")


def yes_no(word: str) -> bool:
    """Whether a word means yes.

    Raises:
        ValueError: neither yes nor no.
    """
    answers = {"yes": True, "true": True, "on": True, "1": True, "no": False, "false": False, "off": False, "0": False}
    if word.lower() not in answers:
        raise ValueError(f"{word!r} is neither yes nor no")
    return answers[word.lower()]


OPTIONS: Mapping[str, tuple[Callable[[str], Any], Any, str]] = {
    "consent": (yes_no, False, "whether you may use this person's picture: yes or no"),
    "poses": (yes_no, False, "the second file shows ready pose pictures: yes or no"),
    "head": (str, "sound", "with a sound: what moves the head: sound, still, or a video or .npy file"),
    "style": (int, -1, "with a sound: whose way of moving the head, 0 to 99; -1 draws one by the seed"),
    "guidance": (float, GUIDANCE, "how far past the prediction without the portrait; 1 is none and halves the time"),
    "seed": (int, SEED, "of the noise"),
    "pose_guider": (str, "faithful", "faithful (as published) or clean (a frame does not depend on its neighbours)"),
    "crop": (yes_no, True, "cut the portrait to the face first: yes or no"),
    "compare": (yes_no, False, "write a second clip with the others beside it: yes or no"),
    "resume": (str, "", "folder or file in which a stopped run left its clip: go on from there"),
    "as_it_is": (yes_no, False, "with resume: take the stopped clip as it is: yes or no"),
}


def source_of(path: Path, *, poses: bool = False, head: str = "sound", style: int | None = None) -> Source:
    """What moves the portrait, by the kind of file.

    Raises:
        InputError: a kind that cannot, or a file that cannot be read.
    """
    ending = path.suffix.lower()
    if ending in SOUNDS:
        return speech_of(path, head, style)
    if ending in CLIPS:
        clip = probe_clip(path)
        return PoseClip(path, clip) if poses else Driving(path, clip)
    if ending in PICTURES:
        return Still(open_picture(path), drawn=poses)
    raise InputError(
        f"{path.name}: a portrait is moved by a sound (WAV, MP3, FLAC, OGG, M4A), a video (MP4, MOV, WebM, MKV, AVI) "
        "or another picture; this ending is none of them"
    )


def speech_of(path: Path, head: str = "sound", style: int | None = None) -> Speech:
    """A sound, with what moves the head: "sound", "still", or a file.

    Raises:
        InputError: a file that cannot be used.
    """
    sound = read_sound(path)
    if head in HEADS and head != "video":
        word: HeadWord = "still" if head == "still" else "sound"
        return Speech(sound, word, style)
    file = Path(head)
    if not file.is_file():
        raise InputError(f"head={head}: choose sound or still, or name a video or a .npy file that is there")
    if file.suffix.lower() == ".npy":
        return Speech(sound, "video", style, head_track=_track(file))
    probe_clip(file)
    return Speech(sound, "video", style, head_video=file)


def _track(path: Path) -> Any:
    try:
        values = np.load(path, allow_pickle=False)
    except (OSError, ValueError) as error:
        raise InputError(f"{path.name} cannot be read as an array of numbers: {error}") from error
    return read_track(values, path.name)


def request(inputs: Sequence[Path], options: Mapping[str, Any]) -> AnimateRequest:
    """A request for a portrait and a second file that moves it.

    Raises:
        InputError: other files, no consent, or an option out of range.
    """
    require_consent(read_consent(options["consent"]))
    if len(inputs) != 2:
        raise InputError(
            f"two files are needed, a portrait and what moves it (a sound, a video or a picture); got {len(inputs)}"
        )
    if options["pose_guider"] not in GUIDERS:
        raise InputError(f"pose_guider={options['pose_guider']}: choose {' or '.join(GUIDERS)}")
    portrait, moving = inputs
    style = None if options["style"] == -1 else options["style"]
    asked = AnimateRequest(
        portrait=open_picture(portrait),
        source=source_of(moving, poses=options["poses"], head=options["head"], style=style),
        folder=Path(options.get("out", "out")),
        guidance=options["guidance"],
        seed=options["seed"],
        faithful=options["pose_guider"] == "faithful",
        crop=options["crop"],
        compare=options["compare"],
        labelled=enabled(os.environ),
        language=language_from(os.environ),
    )
    return going_on(asked, options["resume"], as_it_is=options["as_it_is"])


def going_on(asked: AnimateRequest, held: str, *, as_it_is: bool = False) -> AnimateRequest:
    """The request from where a stopped run left it; ``asked`` itself where ``held`` is "".

    Raises:
        InputError: nothing usable lies there, or it is of another clip.
    """
    if held:
        return replace(asked, resume=read_held(Path(held), asked), decode_now=as_it_is)
    if as_it_is:
        raise InputError("as_it_is=yes takes a stopped clip as it is: name its folder as resume")
    return asked


def keep(error: BaseException, asked: AnimateRequest, folder: Path) -> list[str]:
    """Write what a run that ended early had come to; one line for people a file, none where nothing was finished.

    Raises:
        OutputError: the disk is full or the folder cannot be written.
    """
    unfinished = kept_of(error)
    if unfinished is None:
        return []
    path = write_held(unfinished, asked, folder)
    done = f"{unfinished.step} of {unfinished.steps} steps are kept in {path}"
    return [f"{done}: go on with --resume {folder}, or take it as it is with --set as_it_is=yes beside that"]


def compare(engine: Engine, request: AnimateRequest, asked: Asked) -> Generator[Step | dict[str, Any], None, None]:
    """The first window as planned and in fp32: steps, and then how near they are as data.

    Raises:
        AnyhostError: as ``Engine.run``.
    """
    for item in closeness_of(engine, request, asked):
        yield item if isinstance(item, Step) else nearness(item)


def nearness(near: Closeness) -> dict[str, Any]:
    """How near a precision is, as data; ``psnr_db`` is None for equal frames."""
    low, exact = near.bytes_low / 2**20, near.bytes_fp32 / 2**20
    psnr = None if math.isinf(near.psnr) else round(near.psnr, 2)
    decibels = "" if psnr is None else f", PSNR {psnr:.1f} dB"
    return {
        "frames": near.frames,
        "ssim": round(near.ssim, 5),
        "psnr_db": psnr,
        "difference": round(near.difference, 6),
        "peak_bytes": {"planned": near.bytes_low, "fp32": near.bytes_fp32},
        "dtype": dict(near.dtypes),
        "summary": [
            f"{near.frames} frames against fp32: SSIM {near.ssim:.4f}{decibels}, mean difference {near.difference:.4f} "
            f"of 1; memory {low:.0f} MiB instead of {exact:.0f}"
        ],
    }


def write(result: Result, asked: AnimateRequest, folder: Path) -> list[dict[str, Any]]:
    """The record of what was written while the clip was made."""
    del folder  # the request names it: frames are written as they come
    (made,) = result.outputs
    return [{"input": asked.portrait.name, "files": files_of(made), **record(made), "summary": [summary(made, asked)]}]


def files_of(made: Animation) -> list[str]:
    """What was written."""
    return [str(path) for path in (made.path, made.compare) if path is not None]


def record(made: Animation) -> dict[str, Any]:
    """An animation as data."""
    return {
        "seed": made.seed,
        "style": made.style,
        "size": list(made.size),
        "frames": made.frames,
        "made": made.made,
        "fps": round(made.fps, 3),
        "held": list(made.held),
        "notes": list(made.notes),
    }


def summary(made: Animation, asked: AnimateRequest) -> str:
    """One line for people."""
    if not made.fps:
        return f"{asked.portrait.name}: one picture of {made.size[1]}×{made.size[0]}, seed {made.seed}"
    between = f", {made.made} of them made, the others put between" if made.made < made.frames else ""
    held = f"; {len(made.held)} without a face, held" if made.held else ""
    return (
        f"{asked.portrait.name}: {made.frames} frames of {made.size[1]}×{made.size[0]} at {made.fps:g} a second"
        f"{between}{held}, seed {made.seed}"
    )

"""A depth job from files to files: what the command line and folder runs use."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from adapters.metric3d.camera import CameraWish, read_intrinsics
from adapters.metric3d.pipeline import ClipRequest, DepthRequest, MeasuredClip, clip_of, shot_of
from adapters.metric3d.saving import KINDS, Scaled, clip_record, place_for, record, save_clip, save_picture
from loader.errors import InputError
from loader.outcome import Result

CLIP_ENDINGS = frozenset((".mp4", ".mov", ".m4v", ".webm", ".mkv", ".avi", ".ts", ".mpg", ".mpeg"))
CLIP_FPS, CLIP_FRAMES = 10.0, 150


def yes_no(word: str) -> bool:
    """Whether a word means yes.

    Raises:
        ValueError: neither yes nor no.
    """
    answers = {"yes": True, "true": True, "1": True, "no": False, "false": False, "0": False}
    if word.lower() not in answers:
        raise ValueError(f"{word!r} is neither yes nor no")
    return answers[word.lower()]


OPTIONS: Mapping[str, tuple[Callable[[str], Any], Any, str]] = {
    "focal_px": (float, None, "focal length in pixels of the picture"),
    "fy": (float, None, "the one down, where it differs"),
    "cx": (float, None, "column of the principal point, else the middle"),
    "cy": (float, None, "row of the principal point, else the middle"),
    "fov": (float, None, "field of view along the longer side, degrees"),
    "f35mm": (float, None, "35 mm equivalent of the focal length, mm"),
    "intrinsics": (str, "", 'JSON file with {"fx", "fy", "cx", "cy"} or a matrix "K"'),
    "cloud": (yes_no, False, "write the point cloud too, as .ply and .glb: yes or no"),
    "fps": (float, CLIP_FPS, "of a video: at most so many frames a second"),
    "frames": (int, CLIP_FRAMES, "of a video: at most so many frames"),
}


def wish_of(options: Mapping[str, Any]) -> CameraWish:
    """What the options say of the camera.

    Raises:
        InputError: numbers that contradict each other or that no camera has.
    """
    names = {"focal_px": "fx", "fy": "fy", "cx": "cx", "cy": "cy", "fov": "fov", "f35mm": "film_mm"}
    given = {name: options[option] for option, name in names.items() if options.get(option) is not None}
    if options.get("intrinsics"):
        if given:
            raise InputError(f"intrinsics and {', '.join(given)} say the same thing: give one of them")
        return read_intrinsics(Path(options["intrinsics"]))
    return CameraWish(**given)


def request(inputs: Sequence[Path], options: Mapping[str, Any]) -> DepthRequest | ClipRequest:
    """A request for picture files, or for one video.

    Raises:
        InputError: a file that is neither, a video among others, or a camera that cannot be.
    """
    wish = wish_of(options)
    clips = [path for path in inputs if path.suffix.lower() in CLIP_ENDINGS]
    if not clips:
        return DepthRequest(tuple(shot_of(path, wish) for path in inputs), cloud=options["cloud"])
    if len(inputs) > 1:
        raise InputError(f"{clips[0].name} is a video: send one at a time, without the {len(inputs) - 1} other files")
    return clip_of(clips[0], wish, fps=options["fps"], max_frames=options["frames"])


def write(result: Result, asked: DepthRequest | ClipRequest, folder: Path) -> list[dict[str, Any]]:
    """The files of each picture or of the clip; returns the output records.

    Raises:
        OutputError: the disk is full or the folder cannot be written.
    """
    if isinstance(asked, ClipRequest):
        (clip,) = result.outputs
        assert isinstance(clip, MeasuredClip), "a clip is measured as one"
        files = save_clip(clip, result, folder)
        return [_output(clip.name, files, clip_record(clip))]
    records = []
    kinds = [kind for kind in KINDS if asked.cloud or kind != "cloud"]
    for measured, shot in zip(result.outputs, asked.shots, strict=True):
        scaled = Scaled(measured)
        place = place_for(folder, measured.name)
        files = save_picture(scaled, shot.picture.rgb, result, place, kinds)
        records.append(_output(measured.name, files, record(scaled)))
    return records


def _output(name: str, files: Sequence[Path], found: Mapping[str, Any]) -> dict[str, Any]:
    """What was found as data, and as a line for people."""
    reach, camera = found["depth_m"], found["camera"]
    line = (
        f"{name}: {reach['min']:.3g} to {reach['max']:.3g} m, middle {reach['median']:.3g} m; "
        f"focal length {found['focal_px']:.0f} px, {camera['why']}"
    )
    return {"input": name, "files": [str(file) for file in files], **found, "summary": [line]}

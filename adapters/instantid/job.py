"""A drawing from files to files: what the command line uses."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from adapters.instantid.drawn import Drawn
from adapters.instantid.options import SETTING_OPTIONS, Option, settings_of, yes_no
from adapters.instantid.requests import CONTROLS, DrawRequest
from adapters.instantid.saving import FORMATS, output_of, save, weights_words
from kit.images import Picture, open_picture
from kit.uploads import check_picture
from loader.outcome import Result


def picture_kind(word: str) -> str:
    """A kind of picture file.

    Raises:
        ValueError: none that is written.
    """
    if word.lower() not in FORMATS:
        raise ValueError(f"{word!r} is none of {', '.join(FORMATS)}")
    return word.lower()


FILE_OPTIONS: Mapping[str, Option] = {
    "consent": (yes_no, False, "you may use this person's picture: yes; without it nothing is drawn"),
    "pose_picture": (str, "", "a picture whose face gives place and pose"),
    "base": (str, "", "a picture to draw over"),
    "mask": (str, "", "a picture, white where the face may act; for region mask"),
    "skeleton": (str, "", "a skeleton picture for the pose ControlNet"),
    "pose_network": (str, "", "an ONNX file that finds a body's joints, to draw the skeleton"),
    "edges_of": (str, "", "a picture whose edges the edge ControlNet follows; else the pose picture or the photo"),
    "depth_map": (str, "", "a depth map, near is bright, for the depth ControlNet"),
    "kind": (picture_kind, "png", "of the files: png, jpg or webp"),
}
OPTIONS: Mapping[str, Option] = {**FILE_OPTIONS, **SETTING_OPTIONS}
CONTROL_FILES = dict(zip(CONTROLS, ("skeleton", "edges_of", "depth_map"), strict=True))


def request(inputs: Sequence[Path], options: Mapping[str, Any]) -> DrawRequest:
    """A request for photos of one person.

    Raises:
        InputError: a file that is no picture, an option out of its limits, or something that is lacking.
    """
    settings = settings_of({name: options[name] for name in SETTING_OPTIONS if name in options})
    given = {kind: opened(options.get(file, "")) for kind, file in CONTROL_FILES.items()}
    network = options.get("pose_network", "")
    return DrawRequest(
        photos=tuple(_photo(path) for path in inputs),
        consent=options.get("consent", False),
        settings=settings,
        pose=opened(options.get("pose_picture", "")),
        base=opened(options.get("base", "")),
        mask=opened(options.get("mask", "")),
        control_pictures={kind: picture for kind, picture in given.items() if picture is not None},
        pose_network=Path(network) if network else None,
        file_kind=options.get("kind", "png"),
    )


def opened(path: str | None) -> Picture | None:
    """The picture at a path, None for no path.

    Raises:
        InputError: no picture, or too large a file.
    """
    return _photo(Path(path)) if path else None


def _photo(path: Path) -> Picture:
    check_picture(path)
    return open_picture(path)


def write(result: Result, asked: DrawRequest, folder: Path) -> list[dict[str, Any]]:
    """The files of each picture; returns the output records.

    Raises:
        OutputError: the disk is full or the folder cannot be written.
    """
    drawn: list[Drawn] = list(result.outputs)
    return [
        {
            "input": one.faces.name,
            "files": [str(file) for file in files],
            **output_of(one),
            "weights": weights_words(result),
            "summary": [
                f"{one.faces.name}: {one.size[1]}×{one.size[0]}, seed {one.seed}, {one.steps} steps ({one.scheduler}, "
                f"guidance {one.guidance:g})"
            ],
        }
        for one, files in zip(drawn, save(drawn, result, folder, kind=asked.file_kind), strict=True)
    ]

"""One depth request from files to a result: shared by the tab and the endpoint."""

from collections.abc import Generator, Sequence
from pathlib import Path

from adapters.metric3d.camera import CameraWish
from adapters.metric3d.pipeline import ClipRequest, DepthRequest, Shot, shot_of
from adapters.metric3d.spec import SPEC
from kit.running import Asked, told
from kit.uploads import check_picture
from loader.engine import Engine
from loader.errors import InputError
from loader.outcome import Result, Step

MAX_PICTURES = 32
MAX_MEGAPIXELS = 300  # of all pictures of one request together: 0.9 GB as RGB

Opened = tuple[Path, Shot]


def measure(engine: Engine, request: DepthRequest | ClipRequest, asked: Asked) -> Generator[Step | Result, None, None]:
    """Steps as it goes, then the result. Closing it ends the run at the next unit.

    Raises:
        AnyhostError: as ``Engine.run``.
    """
    return told(engine, SPEC, request, asked)


def open_shots(paths: Sequence[Path], wish: CameraWish) -> tuple[tuple[Opened, ...], tuple[InputError, ...]]:
    """The files that can be measured, with their cameras, and why the others cannot.

    Raises:
        InputError: none can, there are none, or more than fit into one request.
    """
    if not paths:
        raise InputError("no picture was given: choose one, or one of the examples")
    if len(paths) > MAX_PICTURES:
        raise InputError(
            f"{len(paths)} pictures are more than the {MAX_PICTURES} of one request: send fewer, "
            "or give them to `python app.py run metric3d`"
        )
    opened: list[Opened] = []
    problems: list[InputError] = []
    pixels = 0
    for path in paths:
        try:
            check_picture(path)
            shot = shot_of(path, wish)
        except InputError as error:
            problems.append(error)
            continue
        pixels += shot.picture.size[0] * shot.picture.size[1]
        if pixels > MAX_MEGAPIXELS * 1e6:
            raise InputError(
                f"the pictures have more than {MAX_MEGAPIXELS} megapixels together: send fewer at a time, or smaller"
            )
        opened.append((path, shot))
    if not opened:
        raise InputError("\n".join(map(str, problems)))
    return tuple(opened), tuple(problems)

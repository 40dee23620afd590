"""One detection request from files to what a page or a program is shown: shared by the tab and the endpoint."""

import time
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from adapters.damo_yolo.pipeline import DetectRequest
from adapters.damo_yolo.postprocess import Suppression
from adapters.damo_yolo.spec import SPEC
from adapters.damo_yolo.view import Shown, shown
from kit.images import Picture, open_picture
from kit.pace import Pace
from loader.engine import Engine
from loader.errors import InputError
from loader.outcome import Cancel, Result, Step
from loader.wishes import Wishes

TELL_EVERY = 0.15  # seconds between two steps told: nobody reads faster, and each costs a message to the browser
MAX_PICTURES = 64
MAX_MEGAPIXELS = 400  # of all pictures of one request together: 1.2 GB as RGB


@dataclass(frozen=True)
class Detected:
    """A finished request, and why some of its files could not be used."""

    shown: Shown
    problems: tuple[InputError, ...]


def detect(
    engine: Engine, paths: Sequence[Path], wishes: Wishes, settings: Suppression, cancel: Cancel
) -> Iterator[Step | Detected]:
    """Steps as it goes, then what was seen. Closing the iterator ends the run at the next unit.

    Raises:
        InputError: no file can be used, or they are too many or too large for one request.
        AnyhostError: as ``Engine.run``.
    """
    opened, problems = open_pictures(paths)
    request = DetectRequest(tuple(picture for _, picture in opened), settings)
    result: Result | None = None
    told, pace = 0.0, Pace()
    with closing(engine.run(SPEC, request, wishes, cancel=cancel)) as items:
        for item in items:
            if isinstance(item, Result):
                result = item
            elif time.monotonic() - told > TELL_EVERY:
                told = time.monotonic()
                yield pace.of(item)
    assert result is not None, "a run ends with a result or an error"
    yield Detected(shown(result, opened), problems)


def open_pictures(paths: Sequence[Path]) -> tuple[tuple[tuple[Path, Picture], ...], tuple[InputError, ...]]:
    """The files that are pictures, with their pictures, and why the others are not.

    Raises:
        InputError: none can be opened, there are none, or more than fit into one request.
    """
    if not paths:
        raise InputError("no picture was given: choose one, or one of the examples")
    if len(paths) > MAX_PICTURES:
        raise InputError(
            f"{len(paths)} pictures are more than the {MAX_PICTURES} of one request: send fewer, "
            "or give the folder to `python app.py run damo_yolo`"
        )
    opened: list[tuple[Path, Picture]] = []
    problems: list[InputError] = []
    pixels = 0
    for path in paths:
        try:
            picture = open_picture(path)
        except InputError as error:
            problems.append(error)
            continue
        pixels += picture.size[0] * picture.size[1]
        if pixels > MAX_MEGAPIXELS * 1e6:
            raise InputError(
                f"the pictures have more than {MAX_MEGAPIXELS} megapixels together: send fewer at a time, or smaller"
            )
        opened.append((path, picture))
    if not opened:
        raise InputError("\n".join(map(str, problems)))
    return tuple(opened), tuple(problems)

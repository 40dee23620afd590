"""One detection request from files to what a page or a program is shown: shared by the tab and the endpoint."""

from collections.abc import Generator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path

from adapters.damo_yolo.pipeline import DetectRequest
from adapters.damo_yolo.postprocess import Suppression
from adapters.damo_yolo.spec import SPEC
from adapters.damo_yolo.view import Shown, shown
from kit.images import Picture, open_picture
from kit.running import Asked, told
from kit.uploads import check_picture
from loader.engine import Engine
from loader.errors import InputError
from loader.outcome import Result, Step
from loader.wishes import Wishes

MAX_PICTURES = 64
MAX_MEGAPIXELS = 400  # of all pictures of one request together: 1.2 GB as RGB


@dataclass(frozen=True)
class Detected:
    """A finished request, and why some of its files could not be used."""

    shown: Shown
    problems: tuple[InputError, ...]


def detect(
    engine: Engine,
    paths: Sequence[Path],
    settings: Suppression,
    asked: Asked,
    *,
    names: Sequence[str] = (),
    keep_candidates: bool = False,
) -> Generator[Step | Detected, None, None]:
    """Steps as it goes, then what was seen. Closing it ends the run at the next unit.

    ``names`` are what an own checkpoint's classes are called; ``keep_candidates`` for filters that need no second run.

    Raises:
        InputError: no file can be used, or they are too many or too large for one request.
        AnyhostError: as ``Engine.run``.
    """
    opened, problems = open_pictures(paths)
    request = DetectRequest(
        tuple(picture for _, picture in opened), settings, names=tuple(names), keep_candidates=keep_candidates
    )
    batched = replace(asked, wishes=for_waiting(engine, asked.wishes, request.items))
    with closing(told(engine, SPEC, request, batched)) as items:
        for item in items:
            yield Detected(shown(item, opened), problems) if isinstance(item, Result) else item


def for_waiting(engine: Engine, wishes: Wishes, waiting: int) -> Wishes:
    """``wishes`` with as many pictures at once as wait, unless the user said how many; the plan fits them to memory.

    A CPU sees four pictures at once no faster than one by one (docs/benchmarks/detector.md), and one by one there is
    a Stop after each.
    """
    if wishes.batch is not None or waiting < 2 or engine.plan(SPEC, wishes).device == "cpu":
        return wishes
    return replace(wishes, batch=min(waiting, SPEC.max_batch))


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
            check_picture(path)
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

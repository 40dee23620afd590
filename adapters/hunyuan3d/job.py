"""A mesh job from files to files: what the command line uses."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from adapters.hunyuan3d.products import DRAW_STEPS, WRITTEN, Made, MeshRequest, open_rgba
from adapters.hunyuan3d.saving import KINDS, figures_of, notes_of, save_all
from loader.errors import InputError
from loader.outcome import Result

WORDS_ENDING = ".txt"


def yes_no(word: str) -> bool:
    """Whether a word means yes.

    Raises:
        ValueError: neither yes nor no.
    """
    answers = {"yes": True, "true": True, "1": True, "no": False, "false": False, "0": False}
    if word.lower() not in answers:
        raise ValueError(f"{word!r} is neither yes nor no")
    return answers[word.lower()]


def kinds(words: str) -> tuple[str, ...]:
    """Kinds of files, as "glb,stl".

    Raises:
        ValueError: there is no such kind.
    """
    named = tuple(word.strip().lower() for word in words.split(",") if word.strip())
    if unknown := sorted(set(named) - set(KINDS)):
        raise ValueError(f"no such kinds: {', '.join(unknown)}")
    return named


OPTIONS: Mapping[str, tuple[Callable[[str], Any], Any, str]] = {
    "seed": (int, 0, "of the views: another seed gives other views and another mesh"),
    "keep_alpha": (yes_no, False, "use the picture's own transparency instead of cutting it out: yes or no"),
    "draw_seed": (int, 0, "of the picture drawn from words"),
    "draw_steps": (int, DRAW_STEPS, "denoising steps of that picture; --steps are those of the views"),
    "grid": (int, 0, "points along an axis of the grid that is searched for the surface; 0: 384, miniature 96"),
    "faces": (int, 0, "at most so many; 0: 40,000, miniature 4,000"),
    "texture": (yes_no, True, "make a texture besides vertex colours: yes or no"),
    "kinds": (kinds, WRITTEN, f"files to write, of {','.join(KINDS)}"),
}


def request(inputs: Sequence[Path], options: Mapping[str, Any]) -> MeshRequest:
    """A request for one picture, or for the words in a text file.

    Raises:
        InputError: more than one input, no picture, or a number out of its limits.
    """
    if len(inputs) != 1:
        raise InputError(f"a mesh is made of 1 picture or 1 text file, {len(inputs)} were given: run them one by one")
    path = inputs[0]
    words = path.suffix.lower() == WORDS_ENDING
    return MeshRequest(
        picture=None if words else open_rgba(path),
        words=_words_in(path) if words else "",
        name=path.name,
        keep_alpha=options["keep_alpha"],
        seed=options["seed"],
        draw_seed=options["draw_seed"],
        draw_steps=options["draw_steps"],
        grid=options["grid"],
        faces=options["faces"],
        texture=options["texture"],
        kinds=options["kinds"],
    )


def _words_in(path: Path) -> str:
    try:
        words = path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path.name} cannot be read as text in UTF-8 ({error}): save it again") from error
    if not words:
        raise InputError(f"{path.name} is empty: write what to draw")
    return words


def write(result: Result, asked: MeshRequest, folder: Path) -> list[dict[str, Any]]:
    """The mesh, its pictures and its record below ``folder``; returns the output record.

    Raises:
        OutputError: the disk is full or the folder cannot be written.
    """
    (made,) = result.outputs
    assert isinstance(made, Made), "a run makes one mesh"
    files = save_all(result, made, folder, asked.kinds)
    found = figures_of(made.products)
    closed = "watertight" if found.watertight else "not watertight"
    line = f"{asked.name}: {found.faces:,} faces, {found.vertices:,} vertices, {closed}; grid {found.grid}"
    return [
        {
            "input": asked.name,
            "files": [str(file) for file in files],
            **found.record(),
            "seed": made.request.seed,
            "cut_out_by": made.products.cut_by,
            "summary": [line, *(f"  {note}" for note in notes_of(made))],
        }
    ]

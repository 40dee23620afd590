"""What programs ask of the page's endpoints under load, and what of an answer comes again when it is asked again."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from gradio_client import handle_file
from PIL import Image

from kit.video import read_frames
from tests.mixed import COINS, PORTRAIT, ROOMS, SCENES, SPEECH, THINGS

# What a run took differs from one to the next; so do folders and the names of files in them.
TOLD = {"seconds", "load_seconds", "predicted_seconds", "peak_bytes", "predicted_peak_bytes", "trace", "files"}


@dataclass(frozen=True)
class Call:
    """One request to an endpoint; paths and lists of them in ``arguments`` are uploaded."""

    name: str
    api: str
    arguments: Mapping[str, Any]

    def typed(self) -> dict[str, Any]:
        """Arguments as the client wants them."""
        return {name: _uploaded(value) for name, value in self.arguments.items()}


def _uploaded(value: Any) -> Any:
    if isinstance(value, Path):
        return handle_file(str(value))
    if isinstance(value, list):
        return [_uploaded(one) for one in value]
    return value


def calls() -> list[Call]:
    """All five endpoints, by preview weights or in miniature: other pictures, seeds and sizes each."""
    return [*_perceiving(), *_generating()]


def quick() -> Call:
    """The least there is to ask for."""
    return _perceiving()[0]


def _perceiving() -> list[Call]:
    detected = [([COINS], 0.5, "320"), ([COINS], 0.2, "416"), ([*SCENES[:2]], 0.3, "320"), ([*SCENES], 0.6, "320")]
    found = [
        Call(
            f"detect {len(pictures)} from {pictures[0].stem} at {threshold}",
            "/detect",
            {"pictures": pictures, "threshold": threshold, "variant": "preview", "size": size}
            | {"dtype": "bf16" if len(pictures) > 1 else "fp32"},
        )
        for pictures, threshold, size in detected
    ]
    measured = [([ROOMS[0]], "112x140"), ([ROOMS[1]], "112x140"), ([ROOMS[1], ROOMS[2]], "168x224")]
    found += [
        Call(
            f"depth of {len(pictures)} from {pictures[0].stem}",
            "/depth",
            {"pictures": pictures, "variant": "preview", "size": size, "dtype": "fp32"},
        )
        for pictures, size in measured
    ]
    return found


def _generating() -> list[Call]:
    person = {"photos": [PORTRAIT], "consent": True, "variant": "miniature", "size": "128x128", "dtype": "fp32"}
    drawn = [
        Call(
            f"identity seed {seed}",
            "/identity",
            {**person, "prompt": f"a man, {seed}", "settings": {"seed": seed}, "steps": 2},
        )
        for seed in (3, 4, 5)
    ]
    least = {"steps": 2, "grid": 32, "faces": 400, "texture": False, "kinds": "stl"}
    least |= {"variant": "miniature", "dtype": "fp32"}
    meshed = [
        Call(f"mesh of {thing.stem} seed {seed}", "/mesh", {**least, "picture": thing, "seed": seed})
        for thing, seed in ((THINGS[0], 1), (THINGS[0], 2), (THINGS[1], 1))
    ]
    said = {"portrait": PORTRAIT, "moving": SPEECH, "consent": True, "frames": 2, "steps": 1}
    said |= {"size": "64x64", "variant": "miniature", "dtype": "fp32"}
    moved = [Call(f"animate seed {seed}", "/animate", {**said, "seed": seed}) for seed in (5, 6)]
    return [*drawn, *meshed, *moved]


# --- answers --------------------------------------------------------------------------------------------------------


def digest(answer: Any) -> str:
    """The same for the same report and files, whatever they took and wherever they lie."""
    report, files = answer
    made = hashlib.sha256(json.dumps(_lasting(report), sort_keys=True).encode())
    for file in files:
        made.update(_content(Path(file)))
    return made.hexdigest()[:16]


def _lasting(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: _lasting(one) for name, one in value.items() if name not in TOLD}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [_lasting(one) for one in value]
    return value


def _content(path: Path) -> bytes:
    """What is seen in a file; who wrote it and when may differ."""
    if path.suffix in (".png", ".jpg", ".webp"):
        with Image.open(path) as opened:
            return np.asarray(opened).tobytes()
    if path.suffix == ".mp4":
        return b"".join(frame.rgb.tobytes() for frame in read_frames(path))
    if path.suffix == ".stl":
        return path.read_bytes()[80:]
    return path.suffix.encode()

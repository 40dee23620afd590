"""Small requests of every model, made of what ships with the project, and what two equal answers have in common."""

import hashlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from adapters import adapter
from adapters.aniportrait.job import source_of
from adapters.aniportrait.requests import AnimateRequest
from adapters.damo_yolo.pipeline import DetectRequest
from adapters.hunyuan3d.products import MeshRequest, open_rgba
from adapters.instantid.requests import DrawRequest, Settings
from adapters.metric3d.camera import CameraWish
from adapters.metric3d.pipeline import DepthRequest, shot_of
from kit.images import open_picture
from kit.video import read_frames
from loader.spec import AdapterSpec
from loader.wishes import Wishes
from tests.machines import ROOT
from tests.staged_adapter import Asked, spec_named

EXAMPLES = ROOT / "assets" / "examples"
SCENES = tuple(EXAMPLES / f"scene_{name}.jpg" for name in ("plain", "wood", "cloth", "tiles"))
ROOMS = tuple(EXAMPLES / f"depth_{name}.jpg" for name in ("yard", "hall", "room"))
THINGS = tuple(EXAMPLES / f"mesh_{name}.png" for name in ("mug", "rocket", "stool"))
PORTRAIT, SPEECH = EXAMPLES / "portrait_rendered.png", EXAMPLES / "speech_synthesised.wav"
COINS = EXAMPLES / "coins.png"


@dataclass(frozen=True)
class Kind:
    """One model: its small requests, the wishes they can be run with, and what of an answer must come again.

    Attributes:
        requests: each makes a request; what it writes goes into the folder it is given.
        look: arrays and plain values that tell one answer from another.
    """

    spec: AdapterSpec
    requests: tuple[Callable[[Path], Any], ...]
    wishes: tuple[Wishes, ...]
    look: Callable[[Sequence[Any]], Iterable[Any]]

    @property
    def name(self) -> str:
        return self.spec.name

    def digest(self, outputs: Sequence[Any]) -> str:
        """The same for the same answer."""
        made = hashlib.sha256()
        for value in self.look(outputs):
            made.update(value.tobytes() if isinstance(value, np.ndarray) else repr(value).encode())
        return made.hexdigest()[:16]


def real() -> list[Kind]:
    """All five models, by preview weights or in miniature."""
    return [detecting(), measuring(), drawing(), meshing(), animating()]


def detecting() -> Kind:
    groups = ((COINS,), SCENES[:2], SCENES)

    def request(paths: Sequence[Path], _: Path) -> DetectRequest:
        return DetectRequest(tuple(open_picture(path) for path in paths))

    return Kind(
        adapter("damo_yolo"),
        tuple(_with(request, group) for group in groups),
        _in_precisions(Wishes(variant="preview"), Wishes(variant="preview", size=(320, 320))),
        lambda outputs: [(seen.name, seen.detections) for seen in outputs],
    )


def measuring() -> Kind:
    def request(paths: Sequence[Path], _: Path) -> DepthRequest:
        return DepthRequest(tuple(shot_of(path, CameraWish()) for path in paths))

    return Kind(
        adapter("metric3d"),
        tuple(_with(request, group) for group in (ROOMS[:1], ROOMS[1:])),
        _in_precisions(Wishes(variant="preview", size=(112, 140)), Wishes(variant="preview", size=(168, 224))),
        lambda outputs: [part for one in outputs for part in (one.name, one.canonical.numpy())],
    )


def drawing() -> Kind:
    def request(settings: Settings, _: Path) -> DrawRequest:
        return DrawRequest((open_picture(PORTRAIT),), consent=True, settings=settings)

    wishes = Wishes(variant="miniature", size=(128, 128), steps=2)
    asked = (Settings(prompts=("a man",)), Settings(prompts=("a red coat", "the sea"), seed=7))
    return Kind(
        adapter("instantid"),
        tuple(_with(request, settings) for settings in asked),
        (wishes, replace(wishes, steps=3)),
        lambda outputs: [part for one in outputs for part in (one.seed, one.prompt, one.rgb)],
    )


def meshing() -> Kind:
    def request(thing: int, _: Path) -> MeshRequest:
        picture = open_rgba(THINGS[thing])
        return MeshRequest(picture=picture, seed=thing, grid=32, faces=400, texture=thing == 0)

    return Kind(
        adapter("hunyuan3d"),
        tuple(_with(request, thing) for thing in range(len(THINGS))),
        _in_precisions(Wishes(variant="miniature", steps=2)),
        _look_of_mesh,
    )


def _look_of_mesh(outputs: Sequence[Any]) -> Iterable[Any]:
    for made in outputs:
        yield made.products.shape.vertices
        yield made.products.shape.faces
        yield from (np.asarray(view) for view in made.products.views)


def animating() -> Kind:
    def request(seed: int, folder: Path) -> AnimateRequest:
        source = source_of(SPEECH, poses=False, head="sound")
        return AnimateRequest(open_picture(PORTRAIT), source, folder, seed=seed)

    wishes = Wishes(variant="miniature", size=(64, 64), steps=2, frames=4)
    return Kind(
        adapter("aniportrait"),
        (_with(request, 42), _with(request, 43)),
        (wishes, replace(wishes, steps=1)),
        lambda outputs: [frame.rgb for one in outputs for frame in read_frames(one.path)],
    )


def synthetic() -> list[Kind]:
    """Two models of three stages; one drops its components between stages."""
    stages = ("text", "unet", "control", "decoder")
    plain = tuple(Wishes(dtype=d) for d in ("fp32", "bf16"))
    dropping = tuple(replace(w, residency="dropped") for w in plain)

    def request(seed: int, _: Path) -> Asked:
        return Asked(stages, seed=seed)

    return [
        Kind(
            spec_named(name),
            tuple(_with(request, seed) for seed in range(3)),
            wishes,
            lambda outputs: [one.numpy() for one in outputs],
        )
        for name, wishes in (("staged_one", plain), ("staged_two", dropping))
    ]


def _with(make: Callable[[Any, Path], Any], what: Any) -> Callable[[Path], Any]:
    return lambda folder: make(what, folder)


def _in_precisions(*wishes: Wishes) -> tuple[Wishes, ...]:
    return (*wishes, *(replace(w, dtype=d) for w in wishes[:1] for d in ("fp32", "bf16")))  # type: ignore[arg-type]

"""From a portrait and what moves it to a clip, on loaded components: pose, encode, denoise, decode."""

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor, nn

from adapters.aniportrait.face_geometry import VERTICES
from adapters.aniportrait.loading import load_component_of
from adapters.aniportrait.painting import (
    Floats,
    between,
    check_resumable,
    decode_frame,
    encode_portrait,
    paint,
    to_bytes,
)
from adapters.aniportrait.posing import Drawn, Extent, Motion, Posed, Size, Stage, move, pose_portrait
from adapters.aniportrait.requests import (
    HOP,
    AnimateRequest,
    Animation,
    Speech,
    Still,
    Trial,
)
from adapters.aniportrait.windows import context_windows
from adapters.aniportrait.writing import Sink, beside_of, settings_of, write_picture
from kit.images import open_picture
from loader.errors import InputError
from loader.outcome import Step, Unit
from loader.pipeline import Parts, Work
from loader.plan import Plan

SAMPLE = Path(__file__).parents[2] / "assets" / "examples" / "portrait_rendered.png"
TRIAL = Trial(frames=2, steps=1, side=256, faceless=True)
INTERPOLATOR = "interpolator"


class AniPortrait:
    """See ``loader.pipeline.Pipeline``."""

    own_edges: Mapping[str, tuple[str, ...]] = {}
    shared_networks: Mapping[str, str] = {"vae": "diffusers.AutoencoderKL"}

    def load(self, component: str, plan: Plan, files: Mapping[str, Path], checkpoint: Path | None) -> nn.Module:
        """A component from the plan's files.

        Raises:
            InputError: an own checkpoint was given; the model is nine files.
        """
        if checkpoint is not None:
            raise InputError(
                f"AniPortrait is not one file of weights: put your own under the published names into ANYHOST_WEIGHTS "
                f"instead of giving {checkpoint.name}"
            )
        return load_component_of(component, plan.situation.spec.variant(plan.variant), files)

    def uses(self, request: AnimateRequest, plan: Plan) -> tuple[str, ...]:
        """The components a request calls, in order of their first call."""
        if request.decode_now:
            names = ["face_mesh", "vae"]
        else:
            names = ["face_mesh", *_motion_components(request), "vae", "image_encoder"]
            names += ["reference_unet", "pose_guider", "denoising_unet"]
        if not isinstance(request.source, Still) and request.trial is None:
            names.append(INTERPOLATOR)
        there = {placement.name for placement in plan.components}
        return tuple(name for name in names if name in there)

    def run(self, parts: Parts, request: AnimateRequest) -> Work:
        """Animate; returns one ``Animation``."""
        size = _size(parts, request)
        frames = min(parts.plan.frames, request.trial.frames) if request.trial else parts.plan.frames
        posed: Posed = yield from pose_portrait(parts, request, size)
        moved: Motion = yield from _motion(parts, request, posed, Extent(size, _hop(parts, request), frames))
        if request.decode_now and request.resume is not None:
            check_resumable(request.resume, len(moved.track), size, request.resume.steps)
            latents: Tensor = request.resume.clean
        else:
            portrait = yield from encode_portrait(parts, posed.portrait)
            latents = yield from paint(parts, request, portrait, moved.track, size)
        done = yield from _decode(parts, request, posed, moved, latents)
        return (done,)

    def sample(self, plan: Plan) -> AnimateRequest:
        """Two frames in one step, of a made-up pose: no face has to be found in it."""
        del plan
        picture = open_picture(SAMPLE)
        return AnimateRequest(picture, Still(picture), SAMPLE.parent, trial=TRIAL)

    def drift(self, reference: tuple[Any, ...], outputs: tuple[Any, ...]) -> float:
        """Mean absolute difference of the decoded frames, 0..1."""
        there, here = (next(iter(value)).pixels for value in (reference, outputs))
        return float(np.abs(there - here).mean())


def build_pipeline() -> AniPortrait:
    """The adapter's pipeline, as its spec names it."""
    return AniPortrait()


def _motion_components(request: AnimateRequest) -> list[str]:
    source = request.source
    if not isinstance(source, Speech):
        return []
    return ["audio2mesh", "audio2pose"] if source.head == "sound" else ["audio2mesh"]


def _size(parts: Parts, request: AnimateRequest) -> Size:
    if request.trial is not None and request.trial.side is not None:
        side = min(request.trial.side, *parts.plan.size)
        return side, side
    return parts.plan.size


def _hop(parts: Parts, request: AnimateRequest) -> int:
    """Of how many frames one is made; the others are put between."""
    there = any(placement.name == INTERPOLATOR for placement in parts.plan.components)
    return HOP if there and request.trial is None and not isinstance(request.source, Still) else 1


def _motion(parts: Parts, request: AnimateRequest, posed: Posed, extent: Extent) -> Stage:
    if request.trial is not None and request.trial.faceless:
        return _made_up(posed, extent.made)
    return (yield from move(parts, request, posed, extent))


def _made_up(posed: Posed, frames: int) -> Motion:
    points = np.stack([posed.face.points[:VERTICES, :2]] * frames)
    return Motion(Drawn(points), 0.0)


# --- the end ----------------------------------------------------------------------------------------------------


def _decode(parts: Parts, request: AnimateRequest, posed: Posed, moved: Motion, latents: Tensor) -> Stage:
    hop, made = _hop(parts, request), latents.shape[2]
    told = Animation(
        path=None,
        compare=None,
        frames=(made - 1) * hop + 1,
        made=made,
        fps=moved.fps,
        size=(posed.portrait.shape[0], posed.portrait.shape[1]),
        seed=request.seed,
        style=moved.style,
        held=moved.held,
        notes=_notes(parts, request, posed, moved),
        look=posed.look,
        windows=len(context_windows(made)),
    )
    if request.trial is not None:
        pixels = []
        for index in range(made):
            pixels.append((yield _frame_unit(parts, latents, index)))
        return replace(told, pixels=np.stack(pixels))
    if isinstance(request.source, Still):
        picture = yield _frame_unit(parts, latents, 0)
        yield Step("decoding_clip", 1, 1)
        settings = settings_of(request, parts.plan, moved, 1)
        return replace(told, path=write_picture(request, to_bytes(picture), settings))
    settings = settings_of(request, parts.plan, moved, told.frames)
    with Sink(request, moved, told.size, settings, beside_of(request, posed, moved, hop)) as sink:
        yield from _frames(parts, latents, hop, sink)
    return replace(told, path=sink.path, compare=sink.compare)


def _frames(parts: Parts, latents: Tensor, hop: int, sink: Sink) -> Stage:
    """Decode frame by frame, straight into the files."""
    last: Floats | None = None
    made = latents.shape[2]
    for index in range(made):
        frame: Floats = yield _frame_unit(parts, latents, index)
        if last is not None and hop > 1:
            name = f"frames between {index} and {index + 1}"
            for put in (yield Unit(name, INTERPOLATOR, partial(between, parts, last, frame, hop - 1))):
                sink.add(to_bytes(put))
        sink.add(to_bytes(frame))
        last = frame
        yield Step("decoding_clip", index + 1, made, preview=to_bytes(frame))


def _frame_unit(parts: Parts, latents: Tensor, index: int) -> Unit:
    name = f"frame {index + 1} of {latents.shape[2]}"
    return Unit(name, "vae", partial(decode_frame, parts, latents[0, :, index]))


def _notes(parts: Parts, request: AnimateRequest, posed: Posed, moved: Motion) -> tuple[str, ...]:
    variant = parts.plan.situation.spec.variant(parts.plan.variant)
    said = {
        "faces": posed.look.faces > 1,
        "held": bool(moved.held),
        "stand_in": variant.provenance == "miniature",
        "unfinished": request.decode_now,
    }
    return (*moved.notes, *(note for note, true in said.items() if true and note not in moved.notes))

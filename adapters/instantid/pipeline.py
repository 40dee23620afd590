"""InstantID on loaded components: find the face, read the words, denoise step by step, decode picture by picture."""

from collections.abc import Generator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from adapters.instantid import controls as pictures
from adapters.instantid import denoise, loading
from adapters.instantid.analysis import Found
from adapters.instantid.codec import to_rgb
from adapters.instantid.controls import NETS, analysed, as_tensor, box_region, drawing_size, fitted, mask_region
from adapters.instantid.denoise import Control, Drawing, FaceTokens
from adapters.instantid.drawn import Drawn, FoundFaces, Rgb, guidance_of, scheduler_of, variant_of
from adapters.instantid.face import Faces
from adapters.instantid.painting import denoise_all
from adapters.instantid.posing import skeleton_picture
from adapters.instantid.prompts import TextEmbeds, encode, text_embeds, token_sides
from adapters.instantid.requests import DrawRequest, FacesRequest, Settings
from adapters.instantid.styles import styled
from adapters.instantid.tokenizer import WordTokenizer, clip_tokenizer
from kit.consent import require_consent
from kit.images import Picture
from loader.errors import InputError
from loader.outcome import Kept, Step, Unit
from loader.pipeline import Parts, Work
from loader.plan import Plan
from loader.spec import Size

TILING = "vae_tiling"


class InstantId:
    """See ``loader.pipeline.Pipeline``."""

    own_edges: Mapping[str, tuple[str, ...]] = {}

    def load(self, component: str, plan: Plan, files: Mapping[str, Path], checkpoint: Path | None) -> nn.Module:
        """See ``loading.load``."""
        return loading.load(component, plan, files, checkpoint)

    def uses(self, request: DrawRequest | FacesRequest, plan: Plan) -> tuple[str, ...]:
        """Components the request calls, in order."""
        if isinstance(request, FacesRequest):
            return ("face_analysis",)
        variant = variant_of(plan)
        names = [c.name for c in variant.components]
        unused = {net for kind, net in NETS.items() if kind not in request.settings.controls}
        first = ["face_analysis", "face_projection", "text_encoder", "text_encoder_2"]
        rest = [name for name in names if name not in first and name not in unused]
        return (*first, *(["vae"] if request.base else []), *(n for n in rest if n != "vae"), "vae")

    def run(self, parts: Parts, request: DrawRequest | FacesRequest) -> Work:
        """Draw, or only find the faces of a photo."""
        require_consent(request.consent)
        if isinstance(request, FacesRequest):
            found = yield from _faces_in(parts, request.photo, None)
            return (found,)
        return (yield from _draw(parts, request))

    def sample(self, plan: Plan) -> None:
        """None: a warm-up would take as long as a drawing, and its fp32 reference many times that."""
        del plan

    def drift(self, reference: tuple[Any, ...], outputs: tuple[Any, ...]) -> float:
        """Mean absolute difference of the pictures, 0 to 1."""
        differences = [
            float(np.abs(here.rgb.astype(np.float32) - there.rgb.astype(np.float32)).mean() / 255)
            for here, there in zip(reference, outputs, strict=True)
        ]
        return sum(differences) / len(differences) if differences else 0.0


def build_pipeline() -> InstantId:
    """The adapter's pipeline, as its spec names it."""
    return InstantId()


# --- a drawing, stage by stage ----------------------------------------------------------------------------------


Stage = Generator[Step | Unit | Kept, Any, Any]


def _draw(parts: Parts, request: DrawRequest) -> Work:
    _check_variant(parts.plan, request.settings)
    found, target, shape = yield from _faces(parts, request)
    yield Kept("finding_faces", found[0])
    tokens = yield from _project(parts, request.settings, found)
    texts = yield from _read(parts, request.settings)
    size = drawing_size(
        shape.size,
        parts.plan.size,
        variant_of(parts.plan).size_multiple,
        # A size that was asked for is asked for.
        enlarge=request.settings.enlarge or parts.plan.situation.wishes.size is not None,
    )
    controls = yield from _controls(request, target, shape, size)
    base = yield from _encode(parts, request, size)
    plain = Drawing(
        texts[0],
        tokens,
        controls,
        guidance=guidance_of(parts.plan, request.settings),
        face_scale=request.settings.likeness,
        region=_region(request, target, shape, size),
        guess_mode=request.settings.guess_mode,
    )
    latents = yield from denoise_all(parts, request, plain, texts, base)
    shown = fitted(shape, size)
    drawn: list[Drawn] = []
    for index, latent in enumerate(latents):
        picture = yield Unit(f"decode picture {index + 1} of {len(latents)}", "vae", partial(_decode, parts, latent))
        drawn.append(_drawn(parts.plan, request, index, to_rgb(picture)[0].numpy(), found[0], shown))
        yield Kept("decoding_pictures", tuple(drawn))
        yield Step("decoding_pictures", index + 1, len(latents), preview=drawn[-1])
    return tuple(drawn)


def _drawn(plan: Plan, request: DrawRequest, index: int, rgb: Rgb, face: FoundFaces, shown: Rgb) -> Drawn:
    settings = request.settings
    return Drawn(
        rgb=rgb,
        seed=settings.seed + index,
        prompt=settings.prompts[index // settings.pictures],
        settings=settings,
        steps=plan.steps,
        guidance=guidance_of(plan, settings),
        scheduler=scheduler_of(plan, settings),
        faces=face,
        shape=shown,
    )


def _check_variant(plan: Plan, settings: Settings) -> None:
    variant = variant_of(plan)
    there = {component.name for component in variant.components}
    lacking = [kind for kind in settings.controls if NETS[kind] not in there]
    if lacking:
        needed = {NETS[kind] for kind in settings.controls}
        able = [v.name for v in plan.situation.spec.variants if needed <= {c.name for c in v.components}]
        raise InputError(
            f"variant {variant.name} has no ControlNet for {', '.join(lacking)}: choose variant {' or '.join(able)}, "
            "or untick it"
        )


# --- face -------------------------------------------------------------------------------------------------------


def _faces(
    parts: Parts, request: DrawRequest
) -> Generator[Unit | Step, Any, tuple[list[FoundFaces], FoundFaces, Picture]]:
    """The person in every photo; the face that gives the pose, and the picture it is in."""
    settings, found = request.settings, []
    shape = request.pose or request.photos[0]
    total = len(request.photos) + (request.pose is not None)
    for index, photo in enumerate(request.photos):
        seen = yield from _faces_in(parts, photo, settings.face if index == 0 else None)
        found.append(seen)
        yield Step("finding_faces", index + 1, total)
    target = found[0]
    if request.pose is not None:
        target = yield from _faces_in(parts, request.pose, None)
        yield Step("finding_faces", total, total)
    return found, target, shape


def _faces_in(parts: Parts, photo: Picture, choose: int | None) -> Generator[Unit, Any, FoundFaces]:
    bgr, scale = analysed(photo)

    def look(plan: Plan) -> Found:
        del plan
        return parts.call("face_analysis", bgr, photo.name, choose)

    seen: Found = yield Unit(f"find faces in {photo.name}", "face_analysis", look)
    faces = Faces(seen.faces.boxes / scale, seen.faces.scores, seen.faces.keypoints / scale)
    stand_in = variant_of(parts.plan).provenance == "miniature"
    return FoundFaces(photo.name, faces, seen.chosen, seen.embedding, stand_in)


def _project(parts: Parts, settings: Settings, found: Sequence[FoundFaces]) -> Generator[Unit | Step, Any, FaceTokens]:
    """Face tokens, once for the whole run."""
    embeddings = torch.from_numpy(np.stack([face.embedding for face in found]))
    if settings.blend == "mean":
        embeddings = embeddings.mean(dim=0, keepdim=True)

    def project(plan: Plan) -> FaceTokens:
        del plan
        return denoise.project_face(partial(parts.call, "face_projection"), embeddings)

    tokens: FaceTokens = yield Unit("project the face", "face_projection", project)
    return tokens


# --- words ------------------------------------------------------------------------------------------------------


def _read(parts: Parts, settings: Settings) -> Generator[Unit | Step, Any, list[TextEmbeds]]:
    """Every prompt through both encoders."""
    miniature = variant_of(parts.plan).provenance == "miniature"
    tokenizer = WordTokenizer() if miniature else clip_tokenizer(parts.files)
    sides = [token_sides(*styled(settings.style, prompt, settings.negative), tokenizer) for prompt in settings.prompts]

    def through(component: str, *, pooled: bool) -> Any:
        def work(plan: Plan) -> Any:
            del plan
            return [encode(partial(parts.call, component), side, pooled=pooled) for side in sides]

        return Unit(f"read the prompt: {component}", component, work)

    first = yield through("text_encoder", pooled=False)
    yield Step("reading_prompt", 1, 2)
    second = yield through("text_encoder_2", pooled=True)
    yield Step("reading_prompt", 2, 2)
    return [text_embeds(*three) for three in zip(sides, first, second, strict=True)]


# --- pictures the ControlNets read ------------------------------------------------------------------------------


def _controls(
    request: DrawRequest, target: FoundFaces, shape: Picture, size: Size
) -> Generator[Unit | Step, Any, tuple[Control, ...]]:
    settings = request.settings
    points = pictures.keypoint_picture(target.keypoints, shape.size, size)
    controls = [Control("identity_net", as_tensor(points), sees_face=True, strength=settings.identity)]
    for kind, strength in settings.controls.items():
        rgb = yield from _control_picture(request, kind, shape, size)
        controls.append(Control(NETS[kind], as_tensor(rgb), strength=strength))
    return tuple(controls)


def _control_picture(request: DrawRequest, kind: str, shape: Picture, size: Size) -> Generator[Unit, Any, Rgb]:
    given = request.control_pictures.get(kind)
    if kind == "pose" and given is None:
        network = request.pose_network
        assert network is not None, "a request without a skeleton has a network that finds one"
        rgb: Rgb = yield Unit(
            "draw the skeleton", "face_analysis", lambda _: skeleton_picture(shape.rgb, network, size)
        )
        return rgb
    rgb = fitted(given or shape, size)
    if kind == "canny":
        return pictures.edges(rgb)
    return pictures.depth_picture(rgb) if kind == "depth" else rgb


def _region(request: DrawRequest, target: FoundFaces, shape: Picture, size: Size) -> Tensor | None:
    if request.settings.region == "face":
        return box_region(target.box, shape.size, size)
    if request.settings.region == "mask":
        assert request.mask is not None, "a request for a mask has one"
        return mask_region(request.mask, size)
    return None


def _encode(parts: Parts, request: DrawRequest, size: Size) -> Generator[Unit | Step, Any, Tensor | None]:
    """Latents ``[1, 4, h, w]`` of the picture to draw over."""
    if request.base is None:
        return None
    picture = as_tensor(fitted(request.base, size))

    def work(plan: Plan) -> Tensor:
        return _host(parts.call("vae", picture, "encode", tiled=TILING in plan.savers))

    latents: Tensor = yield Unit(f"encode {request.base.name}", "vae", work)
    yield Step("encoding_base", 1, 1)
    return latents


# --- decoding ---------------------------------------------------------------------------------------------------


def _decode(parts: Parts, latents: Tensor, plan: Plan) -> Tensor:
    return _host(parts.call("vae", latents, "decode", tiled=TILING in plan.savers))


def _host(tensor: Tensor) -> Tensor:
    return tensor.float().cpu().clone()

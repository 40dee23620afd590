"""From a picture to the triplane: cut-out, six views, reconstruction. Each stage is a row of units for the engine."""

import json
from collections.abc import Generator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from adapters.hunyuan3d import prepare, views
from adapters.hunyuan3d.cameras import camera_vectors
from adapters.hunyuan3d.dice import Dice
from adapters.hunyuan3d.modules import exact
from adapters.hunyuan3d.networks import join_views
from adapters.hunyuan3d.products import CutBy, MeshRequest, has_alpha
from adapters.hunyuan3d.views import VIEW_MODELS, Conditions, Course
from loader.errors import InputError
from loader.outcome import Step, Unit
from loader.pipeline import Parts
from loader.plan import Plan
from loader.weights import LONE_TENSOR, open_state

Stage = Generator[Step | Unit, Any, Any]
TILE = 512
LEAST_SPREAD = 0.05
"""Of the saliency, 0 .. 1: below it the network sees nothing that stands out."""
MOST_OPAQUE = 0.995
"""Share of pixels on the subject from which no background is left."""
RAMP_STEPS = 77


def base_of(plan: Plan) -> str:
    """Which view model the plan's variant is built on: "lite" or "std"."""
    return str(plan.situation.spec.variant(plan.variant).config["base"])


# --- cut-out ------------------------------------------------------------------------------------------------------


def cut_out(parts: Parts, picture: Image.Image, request: MeshRequest, cut_by: CutBy) -> Stage:
    """The object alone, RGBA 512 × 512, and how it was cut out.

    Raises:
        InputError: no background was found, or nothing that stands out from it.
    """
    if request.keep_alpha and has_alpha(picture):
        yield Step("mesh_cut_out", 1, 1)
        return prepare.frame(_with_background(picture)), "alpha"
    saliency = yield Unit("cut-out", "cut_out", partial(_saliency, parts, picture))
    cut = prepare.cut_out(picture, _standing_out(saliency))
    yield Step("mesh_cut_out", 1, 1)
    return prepare.frame(_with_background(cut)), cut_by


def _saliency(parts: Parts, picture: Image.Image, plan: Plan) -> np.ndarray[Any, np.dtype[np.float32]]:
    del plan
    found: Tensor = parts.call("cut_out", torch.from_numpy(prepare.u2net_input(picture)))
    return np.asarray(found.float().cpu().numpy())


def _standing_out(saliency: np.ndarray[Any, np.dtype[np.float32]]) -> np.ndarray[Any, np.dtype[np.float32]]:
    spread = float(np.ptp(saliency))
    if spread < LEAST_SPREAD:
        raise InputError(
            f"no background was found: nothing in the picture stands out (spread {spread:.3f}, at least "
            f"{LEAST_SPREAD} is needed); choose one object on a plain ground, or cut it out by hand and keep its "
            "transparency"
        )
    return saliency


def _with_background(cut: Image.Image) -> Image.Image:
    opaque = float((np.asarray(cut.getchannel("A")) > 0.9 * 255).mean())
    if opaque > MOST_OPAQUE:
        raise InputError(
            f"no background was found: {opaque:.1%} of the picture would be the object; choose one with room around "
            "the object, or cut it out by hand and keep its transparency"
        )
    return cut


# --- views --------------------------------------------------------------------------------------------------------


def make_views(parts: Parts, cut: Image.Image, seed: int) -> Stage:
    """Six RGB views, azimuth 0° to 300°, then the picture as reconstruction sees it."""
    variant, condition = base_of(parts.plan), prepare.condition_picture(cut)
    prompt, added = yield from _look(parts, condition)
    sampler = views.make_schedule(variant, parts.plan.steps)
    (reference, latents), dice = yield Unit("latents", "vae", partial(_start, parts, condition, Dice.thrown(seed)))
    course = Course(sampler, Conditions(reference, prompt, added), VIEW_MODELS[variant].guidance)
    for index in range(len(sampler.timesteps)):
        name = f"views, step {index + 1}"
        latents, dice = yield Unit(name, "view_unet", partial(_step, parts, course, index, latents, dice))
        yield Step("mesh_views", index + 1, len(sampler.timesteps))
    picture = yield Unit("decoding", "vae", partial(_decode, parts, latents))
    return (*views.split_views(variant, picture), views.handed_on(variant, condition))


def _look(parts: Parts, condition: Image.Image) -> Stage:
    """What the UNet is told of the picture: its prompt and, for "std", its added conditions."""
    pixels = prepare.clip_pixels(condition)
    yield Step("mesh_looking", 0, 2)
    first = yield Unit("vision encoder", "vision_encoder", partial(_embedded, parts, "vision_encoder", pixels))
    yield Step("mesh_looking", 1, 2)
    if base_of(parts.plan) == "lite":
        text = yield Unit("empty prompt", "text_encoder", partial(_empty_prompt, parts))
        return views.lite_prompt(text, first, _ramp(parts, "mvd_lite")), None
    second = yield Unit("vision encoder 2", "vision_encoder_2", partial(_embedded, parts, "vision_encoder_2", pixels))
    empty, pooled = (_stored(parts, name) for name in ("uc_text_emb", "uc_text_emb_2"))
    return views.std_conditions(empty, pooled, (first, second), _ramp(parts, "mvd_std"))


def _embedded(parts: Parts, component: str, pixels: Tensor, plan: Plan) -> Tensor:
    del plan
    embeds: Tensor = parts.call(component, pixels).image_embeds
    return embeds.float().cpu()


def _empty_prompt(parts: Parts, plan: Plan) -> Tensor:
    del plan
    states: Tensor = parts.call("text_encoder", torch.tensor([views.EMPTY_PROMPT_TOKENS])).last_hidden_state
    return states.float().cpu()


def _ramp(parts: Parts, folder: str) -> list[float]:
    path = parts.files.get(f"{folder}/model_index.json")
    if path is None:
        return [index / (RAMP_STEPS - 1) for index in range(RAMP_STEPS)]
    return read_ramp(path)


def read_ramp(path: Path) -> list[float]:
    """The weights of the picture's embedding at each token of the prompt, from ``model_index.json``.

    Raises:
        InputError: the file does not hold 77 of them.
    """
    found = json.loads(path.read_text(encoding="utf-8")).get("ramping_coefficients", [])
    if len(found) != RAMP_STEPS:
        raise InputError(
            f"{path} holds {len(found)} ramping_coefficients, {RAMP_STEPS} are needed: fetch the published file again"
        )
    return [float(value) for value in found]


def _stored(parts: Parts, name: str) -> Tensor:
    return open_state(parts.files[f"mvd_std/{name}.pt"])[LONE_TENSOR].float()


def _start(parts: Parts, condition: Image.Image, dice: Dice, plan: Plan) -> tuple[tuple[Tensor, Tensor], Dice]:
    variant, model = base_of(plan), VIEW_MODELS[base_of(plan)]
    height, width = plan.size
    if height * model.width != width * model.height:
        raise InputError(
            f"views are 3 high and 2 wide, {model.height}×{model.width} or the same shape: not {plan.size}"
        )
    pixels = prepare.vae_pixels(condition, model.vae_edge * width // model.width, model.vae_deviation)
    tile = TILE if "vae_tiling" in plan.savers else 0

    def encode(image: Tensor) -> Tensor:
        moments: Tensor = parts.call("vae", image, "encode", tile)
        return moments.cpu()

    sampler = views.make_schedule(variant, plan.steps)
    return dice.use(lambda generator: views.start(variant, encode, pixels, sampler, generator, plan.size))


def _step(parts: Parts, course: Course, index: int, latents: Tensor, dice: Dice, plan: Plan) -> tuple[Tensor, Dice]:
    del plan

    def denoise(sample: Tensor, reference: Tensor, timestep: float, conditions: Conditions) -> Tensor:
        added = conditions.added or {}
        predicted: Tensor = parts.call("view_unet", sample, reference, exact(timestep), conditions.prompt, **added)
        return predicted.float().cpu()

    return dice.use(lambda generator: views.denoise_step(denoise, course, index, latents, generator))


def _decode(parts: Parts, latents: Tensor, plan: Plan) -> Image.Image:
    tile = TILE if "vae_tiling" in plan.savers else 0
    decoded: Tensor = parts.call("vae", views.unscale(latents), "decode", tile, scaled=True)
    return views.to_picture(views.to_range(decoded.cpu()))


# --- reconstruction -----------------------------------------------------------------------------------------------


def reconstruct(parts: Parts, pictures: tuple[Image.Image, ...]) -> Stage:
    """The triplane ``[1, 3, C, R, R]``, fp32 on the CPU, of the six views and the picture."""
    edge = int(parts.plan.situation.spec.variant(parts.plan.variant).config["svrm_side"])
    yield Step("mesh_reconstruct", 0, 2)
    tokens = yield Unit("image encoder", "image_encoder", partial(_tokens, parts, pictures, edge))
    yield Step("mesh_reconstruct", 1, 2)
    planes = yield Unit("triplane", "triplane_transformer", partial(_planes, parts, tokens))
    yield Step("mesh_reconstruct", 2, 2)
    return planes


def _tokens(parts: Parts, pictures: tuple[Image.Image, ...], edge: int, plan: Plan) -> Tensor:
    del plan
    seen: Tensor = parts.call("image_encoder", prepare.svrm_pixels(pictures, edge), camera_vectors())
    return join_views(seen).cpu()


def _planes(parts: Parts, tokens: Tensor, plan: Plan) -> Tensor:
    del plan
    planes: Tensor = parts.call("triplane_transformer", tokens)
    return planes.float().cpu()

"""InstantID's denoising as values: what is drawn, how far it is, and one step from there to the next.

A step gives a new state and leaves the old one as it was, scheduler and randomness included, so a step that failed can
be taken again under another plan. The networks are reached through one function, ``Call``; between steps everything
lies on the CPU in fp32. Each picture has its own randomness: what is drawn beside it does not change it.

Sources: InstantID/InstantID @ 2145b67 (the plain and the "full" pipeline), on the SDXL ControlNet loop of diffusers
0.42.1, whose results this reproduces.
"""

import copy
import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
from torch import Generator, Tensor

from adapters.instantid.networks import DEFAULT_FACE_SCALE, attention_masks, confine
from adapters.instantid.prompts import TextEmbeds
from loader.errors import InputError

SIZE_MULTIPLE = 8  # pixels of a latent's side
CHANNELS = 4

# Runs a component: ``call("unet", latents, timestep, ...)``; ``Parts.call`` of a loaded plan.
Call = Callable[..., Any]
Residuals = tuple[Tensor, ...]  # of all levels, the middle last


class FaceTokens(NamedTuple):
    """What the denoiser and IdentityNet read of a face.

    Attributes:
        face: ``[1, 16, D]``.
        nobody: ``[1, 16, D]``, for the unconditional half of guidance.
    """

    face: Tensor
    nobody: Tensor


def project_face(projection: Callable[[Tensor], Tensor], embeddings: Tensor) -> FaceTokens:
    """Project recognition embeddings, in fp32.

    Args:
        projection: the "face_projection" network, or what calls it.
        embeddings: ``[512]``, or ``[N, 512]`` of several photographs read one after the other; not normalised.
    """
    embeddings = embeddings.reshape(1, -1, embeddings.shape[-1]).float()
    with torch.no_grad():
        # "Nobody" is the projection of zeros, which is not zero.
        tokens = projection(torch.cat((torch.zeros_like(embeddings), embeddings)))
    nobody, face = tokens.float().cpu().chunk(2)
    return FaceTokens(face.clone(), nobody.clone())


@dataclass(frozen=True)
class Control:
    """A ControlNet, its picture, and how much and how long it counts.

    Attributes:
        net: the component: "identity_net", or any ControlNet for SDXL.
        picture: ``[1, 3, H, W]``, RGB 0 to 1.
        sees_face: it attends to the face tokens (IdentityNet) instead of the text.
        strength: factor on its residuals.
        start, end: share of the steps it acts in.
    """

    net: str
    picture: Tensor
    sees_face: bool = False
    strength: float = 1.0
    start: float = 0.0
    end: float = 1.0


@dataclass(frozen=True)
class Drawing:
    """What is drawn, the same in all steps.

    Attributes:
        text: prompt and what to avoid, for each picture ``[n, T, D]``.
        face: face tokens.
        controls: IdentityNet first, then others; at least one; pictures of one size.
        guidance: classifier-free guidance; at most 1 is none and halves the work.
        face_scale: strength of the face in the denoiser's attention.
        region: ``[H, W]`` of 0 to 1 in pixels of the picture; IdentityNet and the face tokens act in it alone.
        guess_mode: ControlNets see the conditional half alone.
    """

    text: TextEmbeds
    face: FaceTokens
    controls: tuple[Control, ...]
    guidance: float = 5.0
    face_scale: float = DEFAULT_FACE_SCALE
    region: Tensor | None = None
    guess_mode: bool = False

    def __post_init__(self) -> None:
        if not self.controls:
            raise InputError("a drawing needs at least one ControlNet: IdentityNet with the keypoints")
        sizes = {tuple(control.picture.shape[-2:]) for control in self.controls}
        if self.region is not None:
            sizes.add(tuple(self.region.shape[-2:]))
        if len(sizes) > 1:
            raise InputError(f"control pictures and region must be of one size, got {sorted(sizes)} (height, width)")
        if any(side % SIZE_MULTIPLE for side in sizes.pop()):
            raise InputError(f"the sides of the control picture must be multiples of {SIZE_MULTIPLE} pixels")

    @property
    def size(self) -> tuple[int, int]:
        """Height and width in pixels."""
        height, width = self.controls[0].picture.shape[-2:]
        return height, width

    @property
    def pictures(self) -> int:
        return len(self.text.prompt)

    @property
    def guided(self) -> bool:
        return self.guidance > 1


class State(NamedTuple):
    """How far a drawing is.

    Attributes:
        latents: ``[n, 4, H / 8, W / 8]`` fp32 on the CPU.
        timesteps: those to take, in order.
        step: the next of them.
        scheduler: after ``step`` steps; belongs to this state.
        generators: one for each picture, after ``step`` steps.
    """

    latents: Tensor
    timesteps: Tensor
    step: int
    scheduler: Any
    generators: tuple[Generator, ...]

    @property
    def done(self) -> bool:
        return self.step >= len(self.timesteps)


class Ahead(NamedTuple):
    """What all networks are given in one step: the timestep, and the latents as the scheduler scales them."""

    timestep: float
    sample: Tensor
    share: tuple[float, float]  # of all steps: where this one begins and ends


# --- beginning --------------------------------------------------------------------------------------------------


def seeded(seeds: Sequence[int]) -> tuple[Generator, ...]:
    """A source of randomness for each picture."""
    return tuple(Generator().manual_seed(seed) for seed in seeds)


def noise(size: tuple[int, int], generators: Sequence[Generator]) -> Tensor:
    """Unit normal latents ``[n, 4, H / 8, W / 8]`` for pictures of ``size`` (height, width)."""
    shape = (1, CHANNELS, size[0] // SIZE_MULTIPLE, size[1] // SIZE_MULTIPLE)
    return torch.cat([torch.randn(shape, generator=generator) for generator in generators])


def begin(scheduler: Any, steps: int, latents: Tensor, generators: Sequence[Generator]) -> State:
    """A drawing from nothing but ``latents``, unit normal."""
    scheduler = copy.deepcopy(scheduler)
    scheduler.set_timesteps(steps)
    return State(latents * scheduler.init_noise_sigma, scheduler.timesteps, 0, scheduler, tuple(generators))


def begin_from(
    scheduler: Any, steps: int, picture: Tensor, latents: Tensor, generators: Sequence[Generator], strength: float
) -> State:
    """A drawing over a picture: of ``steps``, only the last ``strength`` of them are taken.

    Args:
        scheduler: a diffusers scheduler.
        steps: of a whole drawing.
        picture: ``[n or 1, 4, H / 8, W / 8]``, the picture's latents, scaled.
        latents: unit normal, of the pictures to draw.
        generators: one for each.
        strength: 0 to 1, how much of the picture is given up.

    Raises:
        InputError: too little of it for a single step.
    """
    taken = min(int(steps * strength), steps)
    if taken < 1:
        raise InputError(
            f"a change of {strength:g} over {steps} steps leaves no step to take; raise it to {1 / steps:.2g} or more"
        )
    scheduler = copy.deepcopy(scheduler)
    scheduler.set_timesteps(steps)
    first = (steps - taken) * scheduler.order
    timesteps = scheduler.timesteps[first:]
    scheduler.set_begin_index(first)
    noised = scheduler.add_noise(picture.expand_as(latents), latents, timesteps[:1].repeat(len(latents)))
    return State(noised, timesteps, 0, scheduler, tuple(generators))


# --- a step -----------------------------------------------------------------------------------------------------


def ahead(state: State) -> Ahead:
    """What the networks are given next. The scheduler of ``state`` is left alone."""
    timestep, count = state.timesteps[state.step], len(state.timesteps)
    sample = copy.deepcopy(state.scheduler).scale_model_input(state.latents, timestep)
    return Ahead(float(timestep), sample, (state.step / count, (state.step + 1) / count))


def acts(control: Control, step: Ahead) -> bool:
    """Whether a ControlNet says anything in this step."""
    begins, ends = step.share
    return control.strength != 0 and begins >= control.start and ends <= control.end


def control_residuals(call: Call, drawing: Drawing, control: Control, step: Ahead, rows: slice) -> Residuals:
    """What a ControlNet adds to the denoiser's levels for the pictures in ``rows``, where and in what it computes."""
    halved = drawing.guess_mode and drawing.guided
    sample = step.sample[rows]
    both = drawing.guided and not halved
    context, pooled = _context(drawing, rows, both=both, text=not control.sees_face, face=control.sees_face)
    sample = torch.cat([sample] * 2) if both else sample
    down, middle = call(
        control.net,
        sample,
        # A number, not a tensor: those are cast to the network's precision, and bf16 holds 965.6 as 964.
        step.timestep,
        encoder_hidden_states=context,
        controlnet_cond=control.picture.expand(len(sample), -1, -1, -1),
        conditioning_scale=control.strength,
        added_cond_kwargs=_added(drawing, pooled),
        guess_mode=drawing.guess_mode,
        return_dict=False,
    )
    residuals = (*down, middle)
    if control.sees_face and drawing.region is not None:
        region = drawing.region.to(middle.device)
        residuals = tuple(confine(residual, region) for residual in residuals)
    if halved:
        residuals = tuple(torch.cat((torch.zeros_like(residual), residual)) for residual in residuals)
    return residuals


def summed(parts: Sequence[Residuals]) -> Residuals | None:
    """The residuals of several ControlNets together, in the precision of the first; None for none."""
    if not parts:
        return None
    total = parts[0]
    for more in parts[1:]:
        total = tuple(a + b.to(a) for a, b in zip(total, more, strict=True))
    return total


def predicted(call: Call, drawing: Drawing, step: Ahead, rows: slice, residuals: Residuals | None) -> Tensor:
    """The noise the denoiser sees in the pictures of ``rows``, guided: fp32 on the CPU."""
    context, pooled = _context(drawing, rows, both=drawing.guided, text=True, face=True)
    sample = step.sample[rows]
    added: dict[str, Any] = {}
    if residuals is not None:
        *down, middle = residuals
        added = {"down_block_additional_residuals": tuple(down), "mid_block_additional_residual": middle}
    masks = None if drawing.region is None else attention_masks(drawing.region)
    output = call(
        "unet",
        torch.cat([sample] * 2) if drawing.guided else sample,
        step.timestep,
        encoder_hidden_states=context,
        added_cond_kwargs=_added(drawing, pooled),
        cross_attention_kwargs={"face_scale": drawing.face_scale, "face_masks": masks},
        return_dict=False,
        **added,
    )[0]
    seen = output.float().cpu()
    if not drawing.guided:
        return seen.clone()
    without, with_prompt = seen.chunk(2)
    return without + drawing.guidance * (with_prompt - without)


def advance(state: State, seen: Tensor) -> State:
    """The state after the step whose noise is ``seen``, ``[n, 4, h, w]``."""
    scheduler = copy.deepcopy(state.scheduler)
    generators = tuple(_copied(generator) for generator in state.generators)
    given: dict[str, Any] = {}
    if "generator" in inspect.signature(scheduler.step).parameters:
        given["generator"] = list(generators)
    timestep = state.timesteps[state.step]
    # Some schedulers look up where they are while scaling, and warn when nobody has asked them to.
    scheduler.scale_model_input(state.latents, timestep)
    latents = scheduler.step(seen, timestep, state.latents, return_dict=False, **given)[0]
    return State(latents, state.timesteps, state.step + 1, scheduler, generators)


def step_once(call: Call, drawing: Drawing, state: State, batch: int = 0) -> State:
    """One whole step, at most ``batch`` pictures through the networks at a time (0: all)."""
    step, parts = ahead(state), []
    for rows in row_slices(drawing.pictures, batch):
        residuals = [
            control_residuals(call, drawing, control, step, rows) for control in drawing.controls if acts(control, step)
        ]
        parts.append(predicted(call, drawing, step, rows, summed(residuals)))
    return advance(state, torch.cat(parts))


def row_slices(count: int, batch: int) -> list[slice]:
    """``count`` pictures in groups of at most ``batch`` (0: all)."""
    size = batch or count
    return [slice(start, min(start + size, count)) for start in range(0, count, size)]


def some_rows(residuals: Residuals | None, rows: slice, some: slice, *, guided: bool) -> Residuals | None:
    """Those of ``residuals``, made for ``rows``, that belong to ``some`` of them; guidance has two halves."""
    if residuals is None or rows == some:
        return residuals
    first, last = some.start - rows.start, some.stop - rows.start
    halves = 2 if guided else 1
    return tuple(torch.cat([half[first:last] for half in residual.chunk(halves)]) for residual in residuals)


def joined_rows(pieces: Sequence[Residuals], *, guided: bool) -> Residuals:
    """Residuals made piece by piece as if made together."""
    if len(pieces) == 1:
        return pieces[0]
    halves = 2 if guided else 1
    levels = zip(*pieces, strict=True)
    return tuple(
        torch.cat([half for group in zip(*(r.chunk(halves) for r in level), strict=True) for half in group])
        for level in levels
    )


def _copied(generator: Generator) -> Generator:
    twin = Generator(generator.device)
    twin.set_state(generator.get_state())
    return twin


def _context(drawing: Drawing, rows: slice, *, both: bool, text: bool, face: bool) -> tuple[Tensor, Tensor]:
    """What cross attention reads, and the pooled text; the unconditional half first where ``both`` are wanted."""
    words, tokens = drawing.text, drawing.face
    halves = [(words.prompt[rows], tokens.face, words.pooled[rows])]
    if both:
        halves.insert(0, (words.negative[rows], tokens.nobody, words.negative_pooled[rows]))
    contexts = []
    for said, seen, _ in halves:
        parts = [said] * text + [seen.to(said).expand(len(said), -1, -1)] * face
        contexts.append(torch.cat(parts, dim=1))
    return torch.cat(contexts), torch.cat([pooled for _, _, pooled in halves])


def _added(drawing: Drawing, pooled: Tensor) -> dict[str, Tensor]:
    """Pooled text, and the size it is drawn at: original size, corner of the crop, target size."""
    height, width = drawing.size
    sizes = torch.tensor([[height, width, 0, 0, height, width]], dtype=torch.float32)
    return {"text_embeds": pooled, "time_ids": sizes.expand(len(pooled), -1)}


def with_text(drawing: Drawing, text: TextEmbeds) -> Drawing:
    """The same drawing of other prompts."""
    return replace(drawing, text=text)

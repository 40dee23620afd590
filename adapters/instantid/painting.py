"""The denoising of a request on loaded components: groups of pictures, step by step, one unit for each network."""

from collections.abc import Generator, Iterator, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from adapters.instantid import denoise
from adapters.instantid.denoise import Ahead, Control, Drawing, Residuals, State
from adapters.instantid.drawn import scheduler_of
from adapters.instantid.preview import latent_picture
from adapters.instantid.prompts import TextEmbeds, stacked
from adapters.instantid.requests import DrawRequest
from adapters.instantid.schedulers import scheduler_for
from loader.outcome import Step, Unit
from loader.pipeline import Parts
from loader.plan import Plan


def denoise_all(
    parts: Parts, request: DrawRequest, plain: Drawing, texts: Sequence[TextEmbeds], base: Tensor | None
) -> Generator[Unit | Step, Any, list[Tensor]]:
    """Latents ``[1, 4, h, w]`` of every picture, in groups of the plan's batch."""
    settings, latents = request.settings, list[Tensor]()
    while len(latents) < request.items:
        chunk = _chunk(len(latents), request.items, parts.plan.batch, texts, settings.pictures)
        drawing = denoise.with_text(plain, stacked([texts[index // settings.pictures] for index in chunk]))
        state = _begin(parts.plan, request, drawing, chunk, base)
        state = yield from _denoise(parts, drawing, state, (len(latents), request.items))
        latents += [latent[None] for latent in state.latents]
    return latents


def _chunk(first: int, count: int, batch: int, texts: Sequence[TextEmbeds], pictures: int) -> range:
    """Pictures that go through the networks together: prompts of different lengths cannot."""
    end = first + 1
    length = texts[first // pictures].prompt.shape[1]
    while end < min(count, first + max(1, batch)) and texts[end // pictures].prompt.shape[1] == length:
        end += 1
    return range(first, end)


def _begin(plan: Plan, request: DrawRequest, drawing: Drawing, chunk: range, base: Tensor | None) -> State:
    settings = request.settings
    generators = denoise.seeded([settings.seed + index for index in chunk])
    latents = denoise.noise(drawing.size, generators)
    scheduler = scheduler_for(scheduler_of(plan, settings))
    if base is None:
        return denoise.begin(scheduler, plan.steps, latents, generators)
    return denoise.begin_from(scheduler, plan.steps, base, latents, generators, settings.change)


def _denoise(parts: Parts, drawing: Drawing, state: State, done: tuple[int, int]) -> Generator[Unit | Step, Any, State]:
    """All steps of one group of pictures; ``done`` of how many are finished already."""
    each, (before, count) = len(state.timesteps), done
    while not state.done:
        step, seen = denoise.ahead(state), list[Tensor]()
        while len(seen) < drawing.pictures:
            rows = slice(len(seen), min(len(seen) + max(1, parts.plan.batch), drawing.pictures))
            seen += yield from _look(parts, drawing, step, rows, f"step {state.step + 1} of {each}")
        state = denoise.advance(state, torch.stack(seen))
        yield Step(
            "drawing_steps",
            before * each + state.step * drawing.pictures,
            count * each,
            preview=latent_picture(state.latents),
            detail={"step": state.step, "steps": each},
        )
    return state


def _look(parts: Parts, drawing: Drawing, step: Ahead, rows: slice, name: str) -> Generator[Unit, Any, list[Tensor]]:
    """The noise seen in some of the pictures, one unit for each network that is asked."""
    added: list[Residuals] = []
    for control in drawing.controls:
        if denoise.acts(control, step):
            added.append((yield Unit(name, control.net, partial(_residuals, parts, drawing, control, step, rows))))
    seen: Tensor = yield Unit(name, "unet", partial(_noise, parts, drawing, step, rows, denoise.summed(added)))
    return list(seen)


def _residuals(parts: Parts, drawing: Drawing, control: Control, step: Ahead, rows: slice, plan: Plan) -> Residuals:
    """A ControlNet's residuals for ``rows``, in pieces where the plan has become smaller meanwhile."""
    pieces = [denoise.control_residuals(parts.call, drawing, control, step, some) for some in _within(rows, plan.batch)]
    return denoise.joined_rows(pieces, guided=drawing.guided)


def _noise(parts: Parts, drawing: Drawing, step: Ahead, rows: slice, residuals: Residuals | None, plan: Plan) -> Tensor:
    pieces = [
        denoise.predicted(
            parts.call, drawing, step, some, denoise.some_rows(residuals, rows, some, guided=drawing.guided)
        )
        for some in _within(rows, plan.batch)
    ]
    return torch.cat(pieces)


def _within(rows: slice, batch: int) -> Iterator[slice]:
    for piece in denoise.row_slices(rows.stop - rows.start, max(1, batch)):
        yield slice(rows.start + piece.start, rows.start + piece.stop)

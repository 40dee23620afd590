"""Between two latents, and between two pictures.

Implements ``src/pipelines/utils.py`` and the order of ``src/utils/frame_interpolation.py`` of Zejun-Yang/AniPortrait
(commit 7f6593f). The network that makes a picture between two others (FILM, Reda et al., arXiv 2202.04901) is given.
"""

from bisect import bisect_left
from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor

Between = Callable[[Tensor, Tensor, Tensor], Tensor]
"""``(before [B, 3, H, W], after [B, 3, H, W], time [1, 1] in 0..1) -> picture [B, 3, H, W]``, values 0..1."""

NEARLY_PARALLEL = 0.9995


def linear(first: Tensor, second: Tensor, t: float) -> Tensor:
    """The point at ``t`` (0..1) of the straight line between two tensors of one shape."""
    return (1.0 - t) * first + t * second


def slerp(first: Tensor, second: Tensor, t: float) -> Tensor:
    """The point at ``t`` (0..1) of the arc between two tensors of one shape; of the line if nearly parallel."""
    cosine = ((first / first.norm()) * (second / second.norm())).sum()
    if cosine.abs() > NEARLY_PARALLEL:
        return linear(first, second, t)
    angle = cosine.acos()
    return (((1.0 - t) * angle).sin() * first + (t * angle).sin() * second) / angle.sin()


class Insertion(NamedTuple):
    """One picture to be made.

    Attributes:
        place: where it goes: 1..count, between 0 (first picture) and count + 1 (second).
        before: place of the picture it follows.
        after: place of the picture it precedes.
        passed: time from ``before`` to it, as a share of the time between the two originals.
        span: time from ``before`` to ``after``, as such a share.
    """

    place: int
    before: int
    after: int
    passed: float
    span: float


def insertion_order(count: int) -> list[Insertion]:
    """In which order ``count`` pictures are made between two: always next the one nearest the middle of its gap.

    Times are fp32, because ties (2 pictures: 1/3 and 2/3 are equally near the middle) are broken by their rounding.
    """
    times = torch.linspace(0, 1, count + 2, device=torch.device("cpu"))
    known, missing, order = [0, count + 1], list(range(1, count + 1)), []
    while missing:
        starts, ends = times[known[:-1]][:, None], times[known[1:]][:, None]
        off_centre = ((times[missing][None] - starts) / (ends - starts) - 0.5).abs()
        gap, choice = divmod(int(off_centre.argmin()), len(missing))
        before, after, place = known[gap], known[gap + 1], missing.pop(choice)
        passed, span = float(times[place] - times[before]), float(times[after] - times[before])
        order.append(Insertion(place, before, after, passed, span))
        known.insert(bisect_left(known, place), place)
    return order


@torch.inference_mode()
def interpolate_frames(
    video: Tensor, between: Between, count: int, *, dtype: torch.dtype, device: torch.device | None = None
) -> Iterator[Tensor]:
    """A clip with ``count`` pictures put between each two of it, one picture at a time.

    Args:
        video: ``[B, 3, F, H, W]``, 0..1.
        between: the network; gets its pictures in ``dtype`` on ``device``.
        count: 0 or more.
        dtype: upstream's is fp16.
        device: where ``between`` computes; None for where the video is.

    Yields:
        ``[B, 3, H, W]`` as the video's dtype and device, ``(F - 1) * (count + 1) + 1`` of them; originals untouched.
    """
    order, pictures = insertion_order(count), video.unbind(2)
    target = video.device if device is None else device
    for first, second in pairwise(pictures):
        made = {0: first, count + 1: second}
        for insertion in order:
            time = torch.full((1, 1), insertion.passed, dtype=dtype, device=target) / insertion.span
            before, after = made[insertion.before].to(target, dtype), made[insertion.after].to(target, dtype)
            picture = between(before, after, time)
            made[insertion.place] = picture.clamp(0, 1).to(device=video.device, dtype=video.dtype)
        yield from (made[place] for place in range(count + 1))
    yield pictures[-1]

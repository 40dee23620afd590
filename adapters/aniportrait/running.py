"""One animation from a request to what came of it, also when it was stopped; and one precision against fp32."""

from collections.abc import Generator
from contextlib import closing
from dataclasses import dataclass, replace
from typing import cast

import numpy as np
from numpy.typing import NDArray

from adapters.aniportrait.requests import AnimateRequest, Animation, Trial, Unfinished
from adapters.aniportrait.spec import SPEC, WINDOW
from kit.running import Asked, told
from loader.engine import Engine
from loader.errors import AnyhostError, Cancelled
from loader.outcome import Kept, Result, Step

Pixels = NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Made:
    """A finished run."""

    result: Result
    request: AnimateRequest

    @property
    def animation(self) -> Animation:
        return cast(Animation, self.result.outputs[0])


@dataclass(frozen=True, eq=False)
class Stopped:
    """A run that ended before its last step, by Stop or by a failure (``error``).

    Attributes:
        unfinished: what can be gone on with, or taken as it is.
        request: it belongs to.
        asked: wishes it was run with.
        error: what ended it.
    """

    unfinished: Unfinished
    request: AnimateRequest
    asked: Asked
    error: AnyhostError

    @property
    def again(self) -> AnimateRequest:
        """The request that goes on from there."""
        return replace(self.request, resume=self.unfinished, decode_now=False)

    @property
    def as_it_is(self) -> AnimateRequest:
        """The request that decodes what is there."""
        return replace(self.request, resume=self.unfinished, decode_now=True)


@dataclass(frozen=True)
class Closeness:
    """Frames of a lower precision against the same ones in fp32.

    Attributes:
        dtypes: compute dtype by component of the lower one.
        difference: mean absolute, 0..1.
        psnr: decibels; infinite for equal frames.
        ssim: structural similarity, 1 for equal frames.
        bytes_low: peak of its run.
        bytes_fp32: peak of the fp32 run.
        frames: compared.
    """

    dtypes: dict[str, str]
    difference: float
    psnr: float
    ssim: float
    bytes_low: int
    bytes_fp32: int
    frames: int


def animate(engine: Engine, request: AnimateRequest, asked: Asked) -> Generator[Step | Made | Stopped, None, None]:
    """Steps as it goes, then what came of it.

    Raises:
        AnyhostError: as ``Engine.run``, where no step was finished.
    """
    try:
        with closing(told(engine, SPEC, request, asked)) as items:
            for item in items:
                yield Made(item, request) if isinstance(item, Result) else item
    except AnyhostError as error:
        kept = kept_of(error)
        if kept is None:
            raise
        yield Stopped(kept, request, asked, error)


def kept_of(error: BaseException) -> Unfinished | None:
    """What the denoising had come to when a run ended."""
    found: tuple[Kept, ...] = getattr(error, "kept", ())
    values = [kept.value for kept in found if isinstance(kept.value, Unfinished)]
    return values[-1] if values else None


# --- how near a precision is ------------------------------------------------------------------------------------


def compare(engine: Engine, request: AnimateRequest, asked: Asked) -> Generator[Step | Closeness, None, None]:
    """Make the first window twice, as planned and in fp32, and tell how near they are.

    Raises:
        AnyhostError: as ``Engine.run``.
    """
    trial = replace(request, trial=Trial(frames=WINDOW), resume=None, decode_now=False)
    exact = replace(asked.wishes, dtype="fp32", component_dtype={})
    made: list[Result] = []
    for wishes in (asked.wishes, exact):
        for item in told(engine, SPEC, trial, replace(asked, wishes=wishes)):
            if isinstance(item, Result):
                made.append(item)
            else:
                yield item
        if asked.cancel.requested:
            raise Cancelled("stopped")
    yield closeness(*made)


def closeness(low: Result, exact: Result) -> Closeness:
    """Two runs of the same trial."""
    first, second = (cast(Pixels, result.outputs[0].pixels) for result in (low, exact))
    pool = "host" if low.plan.device == "cpu" else "device"
    return Closeness(
        {placement.name: placement.compute_dtype for placement in low.plan.components},
        float(np.abs(first - second).mean()),
        psnr(first, second),
        ssim(first, second),
        int(low.peak_bytes.get(pool, 0)),
        int(exact.peak_bytes.get(pool, 0)),
        len(first),
    )


def psnr(first: Pixels, second: Pixels) -> float:
    """Peak signal-to-noise ratio in decibels of values 0..1; infinite for equal ones."""
    error = float(np.square(first.astype(np.float64) - second).mean())
    return float("inf") if error == 0 else -10 * float(np.log10(error))


def ssim(first: Pixels, second: Pixels) -> float:
    """Mean structural similarity of frames ``[F, H, W, 3]`` (Wang et al., 2004): Gaussian windows, each channel."""
    from skimage.metrics import structural_similarity

    values = [
        structural_similarity(
            a, b, channel_axis=2, data_range=1.0, gaussian_weights=True, sigma=1.5, use_sample_covariance=False
        )
        for a, b in zip(first, second, strict=True)
    ]
    return float(np.mean(values))

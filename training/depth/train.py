"""Trains the preview depth network: ``python -m training.depth.train --scenes FOLDER --out FILE``.

Scenes come from ``python -m training.depth.data``. A first stage of small views and a second, started from its weights,
of the final size make better use of the time than the final size alone. CPU only, multiplying in bf16 where a matrix
unit makes that several times faster; weights and their averages are fp32.
"""

import argparse
import logging
import math
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import cv2
import torch
from torch import Tensor, distributed, nn
from torch.multiprocessing.spawn import spawn

from adapters.metric3d.networks import DepthModel, load_published, use_attention
from adapters.metric3d.networks.raft import STATE_SCALE_M, Gates, RaftDecoder
from training.depth.data import Batch, Pool, batches
from training.depth.losses import coarse_terms, depth_terms, normal_terms
from training.depth.network import CONFIG, SIZE, fresh, load, save, silence_refinement, stages_of
from training.detector import keep_freed_memory

log = logging.getLogger(__name__)

COUNTS = ("height", "width", "seed", "batch", "processes", "steps", "warmup", "refinements")
RATES = ("zoom", "minutes", "lr", "ema")
"""Whole and broken numbers among the settings that the command line offers."""

Share = Callable[[nn.Module], None]


@dataclass(frozen=True)
class Settings:
    """Everything that decides the result, besides the scenes.

    Attributes:
        height: of a view, a multiple of 28.
        width: of a view, a multiple of 28.
        zoom: how much larger than the whole picture a view may show a part of it.
        seed: of weights, order and augmentation.
        batch: pictures a step, divided among the processes.
        processes: each with one thread, its own share of the scenes and the same weights.
        steps: optimiser steps of the schedule, at whose end the rate is zero.
        refinements: the decoder's iterations; 0 trains its first guess alone, at twice the speed.
        minutes: the schedule ends here if its steps have not; a run so cut is not repeatable to the bit.
        lr: peak learning rate.
        warmup: steps over which it rises from zero.
        decay: weight decay of matrices and kernels.
        clip: largest norm of the gradient.
        ema: share of the averaged weights kept each step, once past the start.
        bf16: multiply in bf16.
    """

    height: int = SIZE[0]
    width: int = SIZE[1]
    zoom: float = 1.35
    seed: int = 0
    batch: int = 16
    processes: int = 2
    steps: int = 4000
    refinements: int = CONFIG["decoder"]["iters"]
    minutes: float = 40.0
    lr: float = 1e-3
    warmup: int = 150
    decay: float = 0.03
    clip: float = 1.0
    ema: float = 0.997
    bf16: bool = True


@dataclass(frozen=True)
class Progress:
    """State after ``step`` steps: mean loss terms since the last report, the averaged network, and whether it ended."""

    step: int
    losses: dict[str, float]
    averaged: DepthModel
    ended: bool


def decoder_of(model: DepthModel) -> RaftDecoder:
    """The part of ``model`` that turns tokens to depth."""
    decoder = model.depth_model.decoder
    assert isinstance(decoder, RaftDecoder)
    return decoder


class FirstGuess:
    """Keeps the state with which refinement began, so that training can judge that too."""

    def __init__(self, model: DepthModel) -> None:
        decoder = decoder_of(model)
        self.farthest = decoder.limits[1]
        self._state: Tensor | None = None
        decoder.update_block.register_forward_pre_hook(self._keep)

    def _keep(self, _module: nn.Module, inputs: tuple[list[Tensor], list[Gates], Tensor]) -> None:
        # Of the first refinement: later ones find a state there.
        if self._state is None:
            self._state = inputs[2]

    def terms(self, batch: Batch) -> dict[str, Tensor]:
        """Loss terms of the last forward, whose state is forgotten."""
        if self._state is None:
            raise ValueError("the network has not run yet")
        state, self._state = self._state, None
        depth = state[:, :1] * STATE_SCALE_M + self.farthest
        return coarse_terms(depth, state[:, 2:5], batch.depth, batch.normals)


def product_attention(query: Tensor, key: Tensor, value: Tensor, bias: Tensor | None = None) -> Tensor:
    """Attention written out: of so few tokens the fused kernel's backward takes longer on a CPU."""
    weights = (query * query.shape[-1] ** -0.5) @ key.transpose(-2, -1)
    if bias is not None:
        weights = weights + bias
    return weights.softmax(dim=-1) @ value


def rate(done: float, step: int, settings: Settings) -> float:
    """The learning rate when the share ``done`` of the schedule is over."""
    rise = min(1.0, (step + 1) / max(settings.warmup, 1))
    return settings.lr * rise * (0.5 + 0.5 * math.cos(math.pi * min(done, 1.0)))


def loss_terms(model: DepthModel, first: FirstGuess, batch: Batch, *, bf16: bool) -> dict[str, Tensor]:
    """All terms; their sum is the loss."""
    images = batch.images.contiguous(memory_format=torch.channels_last)
    # Inference never runs so: only training multiplies in a lower precision than its weights have, 4 times as fast.
    with torch.autocast("cpu", torch.bfloat16, enabled=bf16):  # noqa: TID251 - training alone, on a CPU
        prediction = model(images)
    assert prediction.normals is not None
    return {
        **depth_terms(prediction.depth, prediction.confidence, batch.depth),
        **normal_terms(prediction.normals, batch.normals, batch.known),
        **(first.terms(batch) if decoder_of(model).iters else {}),
    }


def _optimiser(model: nn.Module, settings: Settings) -> torch.optim.AdamW:
    kernels = [p for p in model.parameters() if p.ndim > 1]
    others = [p for p in model.parameters() if p.ndim <= 1]
    groups = [{"params": kernels, "weight_decay": settings.decay}, {"params": others, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=settings.lr, betas=(0.9, 0.98), fused=True)


@dataclass(frozen=True)
class Learner:
    """The network being trained and what goes with it."""

    model: DepthModel
    first: FirstGuess
    optimiser: torch.optim.AdamW


@torch.no_grad()
def _average(averaged: nn.Module, model: nn.Module, keep: float) -> None:
    torch._foreach_lerp_(list(averaged.parameters()), list(model.parameters()), 1 - keep)


def _step(learner: Learner, batch: Batch, settings: Settings, share: Share | None) -> dict[str, float]:
    model, optimiser = learner.model, learner.optimiser
    parts = loss_terms(model, learner.first, batch, bf16=settings.bf16)
    loss = torch.stack(list(parts.values())).sum()
    if not torch.isfinite(loss):
        raise FloatingPointError(f"the loss is {float(loss.detach())}; lower the learning rate ({settings.lr})")
    optimiser.zero_grad(set_to_none=True)
    loss.backward()
    if share is not None:
        share(model)
    nn.utils.clip_grad_norm_(model.parameters(), settings.clip)
    optimiser.step()
    return {name: float(part.detach()) for name, part in parts.items()}


def train(
    source: Iterator[Batch],
    settings: Settings,
    *,
    report_every: int = 100,
    start: Mapping[str, Tensor] | None = None,
    share: Share | None = None,
    agree: Callable[[float], float] = lambda done: done,
) -> Iterator[Progress]:
    """Trains on ``source`` and reports as it goes; the last report is the result.

    Args:
        source: this process's batches.
        settings: see there.
        report_every: steps between reports.
        start: weights to begin with instead of random ones.
        share: replaces the gradients by their mean over all processes.
        agree: makes the share of the schedule that is over the same in all processes.

    Raises:
        FloatingPointError: the loss is no longer a number.
    """
    model, averaged = fresh(settings.seed).train(), fresh(settings.seed)
    use_attention(model, product_attention)
    decoder_of(model).iters = decoder_of(averaged).iters = settings.refinements
    if start is not None:
        load_published(model, "depth_model", start)
        averaged.load_state_dict(model.state_dict())
    learner = Learner(model, FirstGuess(model), _optimiser(model, settings))
    sums: dict[str, float] = {}
    since, begun = 0, time.monotonic()
    for step, batch in enumerate(source):
        done = agree(max(step / settings.steps, (time.monotonic() - begun) / 60 / settings.minutes))
        for group in learner.optimiser.param_groups:
            group["lr"] = rate(done, step, settings)
        for name, value in _step(learner, batch, settings, share).items():
            sums[name] = sums.get(name, 0.0) + value
        # A young average follows the weights closely: its first values are the random ones.
        _average(averaged, model, min(settings.ema, (1 + step) / (10 + step)))
        since += 1
        ended = done >= 1 or step + 1 == settings.steps
        if (step + 1) % report_every == 0 or ended:
            yield Progress(step + 1, {k: v / since for k, v in sums.items()}, averaged, ended)
            sums, since = {}, 0
        if ended:
            return


def _mean_gradients(model: nn.Module) -> None:
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    flat = torch.cat([g.flatten() for g in gradients])
    distributed.all_reduce(flat)
    flat /= distributed.get_world_size()
    for gradient, mean in zip(gradients, flat.split([g.numel() for g in gradients]), strict=True):
        gradient.copy_(mean.view(gradient.shape))


def _first_process(done: float) -> float:
    clock = torch.tensor([done])
    distributed.broadcast(clock, 0)
    return float(clock)


def _resumed(path: Path | None) -> tuple[dict[str, Tensor] | None, list[dict[str, object]]]:
    """Weights and stages of an earlier run, or nothing."""
    if path is None:
        return None, []
    model, stages = load(path), stages_of(path)
    if stages[-1]["refinements"] == 0:
        silence_refinement(model)
    return model.state_dict(), stages


def _work(rank: int, settings: Settings, arguments: argparse.Namespace, meeting: str) -> None:
    """One of the training processes; the first reports and saves."""
    logging.basicConfig(level=logging.INFO if rank == 0 else logging.WARNING, format="%(message)s")
    # One thread in each of several processes: they meet once a step, where threads would meet at every layer.
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    keep_freed_memory()
    distributed.init_process_group("gloo", init_method=f"file://{meeting}", rank=rank, world_size=settings.processes)
    pool = Pool(arguments.scenes, rank=rank, of=settings.processes)
    share = settings.batch // settings.processes
    size = (settings.height, settings.width)
    source = batches(pool, batch=share, size=size, seed=settings.seed * 1000 + rank, zoom=settings.zoom)
    start, stages = _resumed(arguments.start)
    stages.append(asdict(settings))
    begun = time.monotonic()
    for progress in train(source, settings, start=start, share=_mean_gradients, agree=_first_process):
        parts = " ".join(f"{name} {value:.3f}" for name, value in progress.losses.items())
        log.info("step %d, %.0f s, %d scenes: %s", progress.step, time.monotonic() - begun, len(pool.scenes), parts)
        if rank == 0 and (progress.step % arguments.save_every == 0 or progress.ended):
            save(progress.averaged, arguments.out, stages)
    distributed.destroy_process_group()


def main() -> None:
    default = Settings()
    parser = argparse.ArgumentParser(description=(__doc__ or "").split(":")[0])
    parser.add_argument("--scenes", type=Path, required=True, help="folder of rendered scenes")
    parser.add_argument("--out", type=Path, required=True, help="safetensors file to write")
    parser.add_argument("--save-every", type=int, default=500, help="steps between writes of --out")
    parser.add_argument("--start", type=Path, help="weights of an earlier stage to continue from")
    for name in COUNTS:
        parser.add_argument(f"--{name}", type=int, default=getattr(default, name))
    for name in RATES:
        parser.add_argument(f"--{name}", type=float, default=getattr(default, name))
    arguments = parser.parse_args()
    chosen = {name: getattr(arguments, name) for name in (*COUNTS, *RATES)}
    settings = Settings(**chosen)
    with tempfile.TemporaryDirectory() as folder:
        spawn(_work, (settings, arguments, f"{folder}/meeting"), nprocs=settings.processes)


if __name__ == "__main__":
    main()

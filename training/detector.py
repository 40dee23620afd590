"""Trains the preview detector on rendered scenes: ``python -m training.detector --out FILE``.

The same settings and seed give the same weights on the same machine with the same versions of the libraries.
"""

import argparse
import ctypes
import json
import logging
import math
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import cv2
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, distributed, nn
from torch.multiprocessing.spawn import spawn

from adapters.damo_yolo.networks import Detector, build, make_priors
from loader.strict import load_strict
from training.data import HELD_OUT_SEED, Augmentation, Batch, batches, render_many
from training.losses import Predictions, Weights, detection_loss
from training.scenes import LABELS, Scene

log = logging.getLogger(__name__)

COUNTS = ("processes", "seed", "scenes", "steps", "until", "warmup", "size", "batch")
"""Settings that the command line offers besides the learning rate."""

Share = Callable[[nn.Module], None]

VARIANT = "Ns"
PROVENANCE = "trained on rendered scenes by training/detector.py"


@dataclass(frozen=True)
class Settings:
    """Everything that decides the result.

    Attributes:
        seed: of weights, order and augmentation.
        scenes: how many are rendered; their seeds are 0, 1, 2 and so on.
        render_size: side of a scene, px.
        size: side of a training crop, px.
        batch: crops a step, divided among the processes.
        processes: each with one thread, its own share of the scenes and the same weights.
        steps: optimiser steps of the schedule, at whose end the rate is zero.
        until: stop after this many of them; None is all.
        lr: peak learning rate.
        warmup: steps over which it rises from zero.
        decay: weight decay of the convolutions' weights.
        clip: largest norm of the gradient.
        ema: share of the averaged weights kept each step, once past the start.
    """

    seed: int = 0
    scenes: int = 8000
    render_size: int = 320
    size: int = 224
    batch: int = 16
    processes: int = 2
    steps: int = 1600
    until: int | None = None
    lr: float = 2e-3
    warmup: int = 150
    decay: float = 0.02
    clip: float = 10.0
    ema: float = 0.998
    augmentation: Augmentation = field(default_factory=Augmentation)
    weights: Weights = field(default_factory=Weights)

    @property
    def last(self) -> int:
        """Steps that are made."""
        return self.steps if self.until is None else min(self.until, self.steps)


@dataclass(frozen=True)
class Progress:
    """State after ``step`` steps: mean loss parts since the last report, and the averaged network in eval mode."""

    step: int
    losses: dict[str, float]
    averaged: Detector


def predictions(model: Detector, images: Tensor) -> Predictions:
    """Raw output of ``model`` for images [B, 3, H, W], reshaped for the loss."""
    levels = model.raw(images)
    priors = make_priors([(x.classes.shape[-2], x.classes.shape[-1]) for x in levels], device=images.device)
    logits = torch.cat([x.classes.flatten(2).transpose(1, 2) for x in levels], 1)
    bins = torch.cat([x.bins.flatten(2).transpose(1, 2) for x in levels], 1)
    batch, count, _ = bins.shape
    return Predictions(logits, bins.reshape(batch, count, 4, -1), priors.points, priors.strides[:, 0])


def keep_freed_memory() -> None:
    """Tells glibc to keep large freed blocks; else every step gives them back and faults them in again."""
    trim_threshold, top_pad, mmap_max = -1, -2, -4
    try:
        mallopt = ctypes.CDLL("libc.so.6").mallopt
    except (OSError, AttributeError):
        return
    for option, value in ((mmap_max, 0), (trim_threshold, 2**31 - 1), (top_pad, 2**28)):
        mallopt(option, value)


def _optimiser(model: nn.Module, settings: Settings) -> torch.optim.AdamW:
    kernels = [p for p in model.parameters() if p.ndim > 1]
    others = [p for p in model.parameters() if p.ndim <= 1]
    groups = [{"params": kernels, "weight_decay": settings.decay}, {"params": others, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=settings.lr)


def _rate(step: int, settings: Settings) -> float:
    rise = min(1.0, (step + 1) / max(settings.warmup, 1))
    return settings.lr * rise * (0.5 + 0.5 * math.cos(math.pi * step / settings.steps))


@torch.no_grad()
def _average(averaged: nn.Module, model: nn.Module, keep: float) -> None:
    pairs = zip(averaged.state_dict().values(), model.state_dict().values(), strict=True)
    kept, new = zip(*[(a, b) for a, b in pairs if a.is_floating_point()], strict=True)
    torch._foreach_lerp_(list(kept), list(new), 1 - keep)


def _built() -> Detector:
    model = build("detector", VARIANT, num_classes=len(LABELS))
    # nn.Module.to takes a memory format; its stub does not know.
    model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return model


def train(
    scenes: list[Scene],
    settings: Settings,
    *,
    report_every: int = 100,
    start: Mapping[str, Tensor] | None = None,
    rank: int = 0,
    share: Share | None = None,
) -> Iterator[Progress]:
    """Trains on ``scenes`` and reports as it goes; the last report is the result.

    Args:
        scenes: this process's share, all of one size.
        settings: see there.
        report_every: steps between reports.
        start: weights to begin with instead of random ones.
        rank: number of this process; its order and augmentation follow from it.
        share: replaces the gradients by their mean over all processes.

    Raises:
        FloatingPointError: the loss is no longer a number.
    """
    torch.manual_seed(settings.seed)
    model = _built().train()
    if start is not None:
        load_strict(model, start, what="weights to continue from")
    averaged = _built()
    averaged.load_state_dict(model.state_dict())
    optimiser = _optimiser(model, settings)
    sums: dict[str, float] = {}
    since = 0
    source = batches(
        scenes,
        steps=settings.last,
        batch=settings.batch // settings.processes,
        size=settings.size,
        seed=settings.seed * 1000 + rank,
        how=settings.augmentation,
    )
    for step, batch in enumerate(source):
        for group in optimiser.param_groups:
            group["lr"] = _rate(step, settings)
        for name, value in _step(model, optimiser, batch, settings, share).items():
            sums[name] = sums.get(name, 0.0) + value
        # A young average follows the weights closely: its first values are the random ones.
        _average(averaged, model, min(settings.ema, (1 + step) / (10 + step)))
        since += 1
        if (step + 1) % report_every == 0 or step + 1 == settings.last:
            yield Progress(step + 1, {k: v / since for k, v in sums.items()}, averaged.eval())
            sums, since = {}, 0


def _step(
    model: Detector, optimiser: torch.optim.Optimizer, batch: Batch, settings: Settings, share: Share | None
) -> dict[str, float]:
    images = batch.images.contiguous(memory_format=torch.channels_last)
    parts = detection_loss(predictions(model, images), batch.boxes, batch.labels, settings.weights)
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


def save(model: Detector, path: Path, stages: Sequence[Mapping[str, object]]) -> None:
    """Writes the unmerged float32 weights under upstream's names, with labels and provenance in the header.

    Args:
        model: the network.
        path: of the safetensors file; its folder is made.
        stages: the settings of every run that led here, first to last.
    """
    metadata = {
        "format": "pt",
        "architecture": "damo_yolo",
        "variant": VARIANT,
        "labels": json.dumps(list(LABELS)),
        "provenance": PROVENANCE,
        "seed": str(stages[-1]["seed"]),
        "size": str(stages[-1]["size"]),
        "stages": json.dumps(list(stages), sort_keys=True),
        "license": "Apache-2.0",
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    # A reader, or a kill, in the middle of a write must not meet half a file.
    partial = path.with_suffix(".partial")
    save_file({name: tensor.contiguous() for name, tensor in model.state_dict().items()}, partial, metadata)
    partial.replace(path)


def _resumed(path: Path | None) -> tuple[dict[str, Tensor] | None, list[dict[str, object]]]:
    """Weights and stages of an earlier run, or nothing."""
    if path is None:
        return None, []
    with safe_open(path, "pt") as kept:
        names = list(kept.keys())
        return {name: kept.get_tensor(name) for name in names}, json.loads(kept.metadata()["stages"])


def _mean_gradients(model: nn.Module) -> None:
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    flat = torch.cat([g.flatten() for g in gradients])
    distributed.all_reduce(flat)
    flat /= distributed.get_world_size()
    for gradient, mean in zip(gradients, flat.split([g.numel() for g in gradients]), strict=True):
        gradient.copy_(mean.view(gradient.shape))


def _work(rank: int, settings: Settings, arguments: argparse.Namespace, meeting: str) -> None:
    """One of the training processes; the first reports and saves."""
    logging.basicConfig(level=logging.INFO if rank == 0 else logging.WARNING, format="%(message)s")
    # One thread in each of several processes: they meet once a step, where threads would meet at every layer and
    # stand still whenever another program has one of the cores.
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    keep_freed_memory()
    distributed.init_process_group("gloo", init_method=f"file://{meeting}", rank=rank, world_size=settings.processes)
    seeds = range(rank, settings.scenes, settings.processes)
    name = f"scenes_{settings.render_size}_{seeds.start}_{seeds.stop}_{seeds.step}.npz"
    scenes = render_many(seeds, settings.render_size, cache=arguments.cache and arguments.cache / name)
    weights, stages = _resumed(arguments.start)
    stages.append(asdict(settings))
    begun = time.perf_counter()
    for progress in train(scenes, settings, start=weights, rank=rank, share=_mean_gradients):
        parts = " ".join(f"{name} {value:.3f}" for name, value in progress.losses.items())
        log.info("step %d, %.0f s: %s", progress.step, time.perf_counter() - begun, parts)
        if rank == 0 and (progress.step % arguments.save_every == 0 or progress.step == settings.last):
            save(progress.averaged, arguments.out, stages)
    distributed.destroy_process_group()


def _arguments() -> argparse.Namespace:
    default = Settings()
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="safetensors file to write")
    parser.add_argument("--cache", type=Path, help="folder that keeps the rendered scenes")
    parser.add_argument("--save-every", type=int, default=500, help="steps between writes of --out")
    parser.add_argument("--start", type=Path, help="weights of an earlier run to continue from")
    for name in COUNTS:
        parser.add_argument(f"--{name}", type=int, default=getattr(default, name))
    parser.add_argument("--lr", type=float, default=default.lr)
    return parser.parse_args()


def main() -> None:
    arguments = _arguments()
    settings = Settings(lr=arguments.lr, **{name: getattr(arguments, name) for name in COUNTS})
    if settings.scenes > HELD_OUT_SEED:
        raise SystemExit(f"--scenes {settings.scenes} would reach the held-out seeds; at most {HELD_OUT_SEED}")
    with tempfile.TemporaryDirectory() as folder:
        spawn(_work, (settings, arguments, f"{folder}/meeting"), nprocs=settings.processes)


if __name__ == "__main__":
    main()

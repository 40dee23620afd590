"""Judges the preview depth network: ``python -m training.depth.evaluate``."""

import argparse
import sys
from collections.abc import Iterable
from dataclasses import astuple, dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from adapters.metric3d.geometry import metric_depth, picture_normals, prepare
from adapters.metric3d.networks import DepthModel
from training.depth.data import HELD_OUT_SEED
from training.depth.network import SIZE, load, size_of
from training.depth.scene import Scene, render
from training.depth.solids import Array
from training.depth.stereo import StereoPair, motorcycle

WEIGHTS = Path("assets/weights/metric3d_preview_vit.safetensors")
PRECISIONS = ("fp32", "bf16", "bf16, decoder fp32")


@dataclass(frozen=True)
class DepthScore:
    """Of one picture or the mean of many.

    Attributes:
        abs_rel: mean over pixels of the difference as a share of the truth.
        delta1: share of pixels within a factor of 1.25.
        rmse: metres.
        scaled_abs_rel: ``abs_rel`` after the medians were made equal: what remains when scale is forgiven.
        rank: Spearman's correlation of predicted and true depth over the picture.
    """

    abs_rel: float
    delta1: float
    rmse: float
    scaled_abs_rel: float
    rank: float


@dataclass(frozen=True)
class NormalScore:
    """Angles between predicted and true normals: ``mean`` and ``median`` in degrees, ``within`` 11.25° a share."""

    mean: float
    median: float
    within: float


def spearman(a: NDArray[np.floating], b: NDArray[np.floating]) -> float:
    """Rank correlation of two arrays of one length; equal values share their mean rank."""
    ranks = []
    for values in (a.ravel(), b.ravel()):
        _, place, count = np.unique(values, return_inverse=True, return_counts=True)
        ranks.append((np.cumsum(count) - (count - 1) / 2)[place])
    return float(np.corrcoef(*ranks)[0, 1])


def depth_score(predicted: Array, truth: Array) -> DepthScore:
    """Scores of depths ``[N]`` in metres, both greater than 0."""
    relative = np.abs(predicted - truth) / truth
    ratio = np.maximum(predicted / truth, truth / predicted)
    scaled = predicted * (np.median(truth) / np.median(predicted))
    return DepthScore(
        float(relative.mean()),
        float((ratio < 1.25).mean()),
        float(np.sqrt(np.square(predicted - truth).mean())),
        float((np.abs(scaled - truth) / truth).mean()),
        spearman(predicted, truth),
    )


def normal_score(predicted: Array, truth: Array) -> NormalScore:
    """Scores of normals ``[N, 3]`` of any length."""
    lengths = np.linalg.norm(predicted, axis=1) * np.linalg.norm(truth, axis=1)
    cosine = (predicted * truth).sum(1) / np.maximum(lengths, 1e-6)
    angle = np.degrees(np.arccos(np.clip(cosine, -1, 1)))
    return NormalScore(float(angle.mean()), float(np.median(angle)), float((angle < 11.25).mean()))


def in_precision(model: DepthModel, precision: str) -> DepthModel:
    """``model`` cast to one of ``PRECISIONS``, in place."""
    if precision not in PRECISIONS:
        raise ValueError(f"no precision {precision!r}; choose from {', '.join(PRECISIONS)}")
    if precision.startswith("bf16"):
        model.to(torch.bfloat16)
    if precision.endswith("fp32"):
        model.depth_model.decoder.float()
    return model


@torch.inference_mode()
def predict(
    model: DepthModel, image: NDArray[np.uint8], focal_px: float, size: tuple[int, int] = SIZE
) -> tuple[Array, Array]:
    """Metres ``[H, W]`` and normals ``[H, W, 3]`` of a picture, by way of the adapter."""
    images, framing = prepare(image, size)
    prediction = model(images.to(memory_format=torch.channels_last))
    depth = metric_depth(prediction.depth, framing, focal_px)[0, 0].numpy()
    return depth, picture_normals(prediction.normals, framing)[0].permute(1, 2, 0).numpy()


def judge(model: DepthModel, scenes: Iterable[Scene], size: tuple[int, int] = SIZE) -> tuple[DepthScore, NormalScore]:
    """Means over ``scenes``, each counting alike."""
    depths, normals = [], []
    for scene in scenes:
        depth, normal = predict(model, scene.image, scene.focal_px, size)
        depths.append(astuple(depth_score(depth.ravel(), scene.depth.ravel())))
        normals.append(astuple(normal_score(normal.reshape(-1, 3), scene.normal.reshape(-1, 3))))
    return DepthScore(*np.mean(depths, axis=0)), NormalScore(*np.mean(normals, axis=0))


def judge_stereo(model: DepthModel, pair: StereoPair, size: tuple[int, int] = SIZE) -> DepthScore:
    """The left photograph of ``pair`` where its depth is known."""
    depth, _ = predict(model, pair.image, pair.camera.fx, size)
    known = np.isfinite(pair.depth)
    return depth_score(depth[known], pair.depth[known])


def report(path: Path, count: int) -> str:
    """Markdown tables of every precision: ``count`` held-out scenes, then the stereo photograph."""
    scenes = [render(HELD_OUT_SEED + i) for i in range(count)]
    pair, size = motorcycle(), size_of(path)
    lines = [
        f"| {count} held-out scenes | AbsRel | delta1 | RMSE, m | AbsRel, scale forgiven | rank | normals: mean, median"
        " | within 11.25° |",
        "|---|---|---|---|---|---|---|---|",
    ]
    photo = ["| motorcycle | AbsRel | delta1 | RMSE, m | AbsRel, scale forgiven | rank |", "|---|---|---|---|---|---|"]
    for precision in PRECISIONS:
        model = in_precision(load(path), precision)
        depth, normal = judge(model, scenes, size)
        lines.append(
            f"| {precision} | {depth.abs_rel:.4f} | {depth.delta1:.4f} | {depth.rmse:.3f} | {depth.scaled_abs_rel:.4f}"
            f" | {depth.rank:.4f} | {normal.mean:.2f}°, {normal.median:.2f}° | {normal.within:.4f} |"
        )
        found = judge_stereo(model, pair, size)
        photo.append(
            f"| {precision} | {found.abs_rel:.4f} | {found.delta1:.4f} | {found.rmse:.3f} | {found.scaled_abs_rel:.4f}"
            f" | {found.rank:.4f} |"
        )
    return "\n".join([*lines, "", *photo])


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split(":")[0])
    parser.add_argument("--weights", type=Path, default=WEIGHTS)
    parser.add_argument("--scenes", type=int, default=250)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    sys.stdout.write(report(arguments.weights, arguments.scenes) + "\n")


if __name__ == "__main__":
    main()

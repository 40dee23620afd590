"""Judges the preview detector and prints a Markdown table: ``python -m training.evaluate_detector``."""

import argparse
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
import torch
from safetensors.torch import load_file

from adapters.damo_yolo.calibration import calls
from adapters.damo_yolo.networks import Detector, build, load_published
from adapters.damo_yolo.postprocess import Suppression, detections
from adapters.damo_yolo.preprocess import preprocess
from adapters.damo_yolo.spec import PREVIEW_NS
from loader.quantised import quantise
from training.coins import photograph, true_boxes
from training.data import HELD_OUT_SEED
from training.evaluate import Found, Metrics, matched, metrics
from training.scenes import LABELS, Scene, render

WEIGHTS = Path("assets/weights/damo_yolo_preview_ns.safetensors")
DISPLAY_SCORE = 0.5
"""Default score from which the page shows a detection of the preview weights."""

COIN_SIZES = {
    "0.75x": (224, 288),
    "1x": (288, 384),
    "1.5x": (448, 576),
    "320 square": (320, 320),
    "416 square": (416, 416),
}
"""Network sizes (height, width) for the 303x384 photograph: the scales, and the two sizes of the application."""


@dataclass(frozen=True)
class CoinCount:
    """Of the 24 coins: how many are hit, and how many boxes (of any class) hit nothing."""

    hits: int
    false: int


def load(path: Path, dtype: torch.dtype = torch.float32) -> Detector:
    """The detector of ``path``, merged, channels last, computing in ``dtype``."""
    model = build("detector", "Ns", num_classes=len(LABELS))
    load_published(model, "detector", {name: tensor.float() for name, tensor in load_file(path).items()})
    model.merge().to(dtype)
    # nn.Module.to takes a memory format; its stub does not know.
    model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return model


def load_int8(path: Path) -> Detector:
    """The detector of ``path`` in int8, calibrated as the application does it."""
    model = load(path).requires_grad_(requires_grad=False)
    quantise(model, calls(PREVIEW_NS.sizes[0]))
    return model


@torch.inference_mode()
def detect(model: Detector, image: npt.NDArray[np.uint8], size: tuple[int, int], score: float) -> Found:
    """What ``model`` finds in ``image`` [H, W, 3] resized to ``size`` (height, width), as the application does it."""
    images = preprocess(image, size).to(memory_format=torch.channels_last)
    scores, boxes = model(images)
    kept = detections(
        scores[0],
        boxes[0],
        network_size=size,
        picture_size=(image.shape[0], image.shape[1]),
        labels=LABELS,
        settings=Suppression(score_threshold=score, iou_threshold=0.65),
    )
    return Found(
        np.array([d.box for d in kept], np.float64).reshape(-1, 4),
        np.array([d.class_id for d in kept], np.int64),
        np.array([d.score for d in kept], np.float64),
    )


def truth_of(scene: Scene) -> Found:
    return Found(scene.boxes.astype(np.float64), scene.labels, np.ones(len(scene.labels)))


def held_out(model: Detector, scenes: Iterable[Scene], size: int) -> Metrics:
    """Average precisions over ``scenes``, each resized to ``size`` px square."""
    pairs = [(detect(model, s.image, (size, size), 0.01), truth_of(s)) for s in scenes]
    return metrics([f for f, _ in pairs], [t for _, t in pairs], len(LABELS))


def count_coins(model: Detector, size: tuple[int, int], scores: Sequence[float]) -> dict[float, CoinCount]:
    """Hits (a box labelled coin at IoU 0.5 or more) and false boxes on the photograph, per score threshold."""
    everything = detect(model, photograph(), size, min(scores))
    boxes = true_boxes()
    truth = Found(boxes, np.zeros(len(boxes), np.int64), np.ones(len(boxes)))
    counts = {}
    for score in scores:
        mine = everything.scores > score
        found = Found(everything.boxes[mine], everything.labels[mine], everything.scores[mine])
        coins = found.labels == LABELS.index("coin")
        hits = int(matched(Found(found.boxes[coins], found.labels[coins], found.scores[coins]), truth, 0.5).sum())
        counts[score] = CoinCount(hits, len(found.labels) - hits)
    return counts


def table(model: Detector, dtype: str, scenes: Sequence[Scene]) -> list[str]:
    """Lines of Markdown for one dtype."""
    lines = [f"### {dtype}", "", f"| network size | mAP50 | mAP50-95 | any class AP50 | {' | '.join(LABELS)} |"]
    lines.append("|---" * (4 + len(LABELS)) + "|")
    for size in (320, 416):
        m = held_out(model, scenes, size)
        values = (m.map50, m.map50_95, m.agnostic_ap50, *m.ap50)
        lines.append(f"| {size} | " + " | ".join(f"{v:.3f}" for v in values) + " |")
    thresholds = (0.3, 0.4, 0.5, 0.6)
    lines += ["", "| coins, network size | " + " | ".join(f"score {t}: hits / false" for t in thresholds) + " |"]
    lines.append("|---" * (1 + len(thresholds)) + "|")
    for name, shape in COIN_SIZES.items():
        counts = count_coins(model, shape, thresholds)
        cells = " | ".join(f"{counts[t].hits} / {counts[t].false}" for t in thresholds)
        lines.append(f"| {name} ({shape[0]}×{shape[1]}) | {cells} |")
    return [*lines, ""]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--weights", type=Path, default=WEIGHTS)
    parser.add_argument("--scenes", type=int, default=400, help="held-out scenes, rendered at 320 px")
    parser.add_argument("--dtypes", nargs="+", default=["fp32", "bf16"], choices=["fp32", "bf16", "fp16", "int8"])
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    cv2.setNumThreads(arguments.threads)
    scenes = [render(HELD_OUT_SEED + i, 320) for i in range(arguments.scenes)]
    kinds = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
    for dtype in arguments.dtypes:
        model = load_int8(arguments.weights) if dtype == "int8" else load(arguments.weights, kinds[dtype])
        sys.stdout.write("\n".join(table(model, dtype, scenes)) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()

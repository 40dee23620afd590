"""Average precision of detections against the truth, and hits and false alarms on one picture."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]

COCO_THRESHOLDS = tuple(float(t) for t in np.arange(0.5, 0.96, 0.05).round(2))


@dataclass(frozen=True)
class Found:
    """Objects of one picture: ``boxes`` [n, 4] xyxy px, ``labels`` [n]; ``scores`` [n] (ones for the truth)."""

    boxes: Floats
    labels: npt.NDArray[np.int64]
    scores: Floats


@dataclass(frozen=True)
class Metrics:
    """Average precisions, 0..1: over classes at IoU 0.5 and at 0.5:0.95, for any class at 0.5, and by class at 0.5."""

    map50: float
    map50_95: float
    agnostic_ap50: float
    ap50: tuple[float, ...]


def iou_matrix(first: Floats, second: Floats) -> Floats:
    """IoU [n, m] of boxes [n, 4] and [m, 4], xyxy."""
    low = np.maximum(first[:, None, :2], second[None, :, :2])
    high = np.minimum(first[:, None, 2:], second[None, :, 2:])
    shared = np.prod(np.clip(high - low, 0, None), -1)
    areas = np.prod(first[:, 2:] - first[:, :2], -1)[:, None] + np.prod(second[:, 2:] - second[:, :2], -1)[None]
    out: Floats = shared / np.maximum(areas - shared, 1e-9)
    return out


def matched(found: Found, truth: Found, threshold: float) -> npt.NDArray[np.bool_]:
    """Which detections hit [n]: best score first, each takes the free true object it overlaps most, if enough."""
    hits = np.zeros(len(found.scores), bool)
    if len(truth.labels) == 0:
        return hits
    iou = iou_matrix(found.boxes, truth.boxes)
    for row in np.argsort(-found.scores, kind="stable"):
        best = int(iou[row].argmax())
        if iou[row, best] >= threshold:
            hits[row] = True
            iou[:, best] = -1
    return hits


def average_precision(scores: Floats, hits: npt.NDArray[np.bool_], objects: int) -> float:
    """Area under precision over recall, all-point interpolation: precision is the best at this recall or beyond."""
    if objects == 0:
        return float("nan")
    order = np.argsort(-scores, kind="stable")
    true = np.cumsum(hits[order])
    precision = true / np.arange(1, len(true) + 1)
    best_beyond = np.maximum.accumulate(precision[::-1])[::-1]
    return float(np.sum(best_beyond[hits[order]]) / objects)


def _of_class(found: Found, label: int | None) -> Found:
    if label is None:
        return found
    mine = found.labels == label
    return Found(found.boxes[mine], found.labels[mine], found.scores[mine])


def _precision(found: Sequence[Found], truth: Sequence[Found], label: int | None, threshold: float) -> float:
    pairs = [(_of_class(f, label), _of_class(t, label)) for f, t in zip(found, truth, strict=True)]
    scores = np.concatenate([f.scores for f, _ in pairs])
    hits = np.concatenate([matched(f, t, threshold) for f, t in pairs])
    return average_precision(scores, hits, sum(len(t.labels) for _, t in pairs))


def metrics(found: Sequence[Found], truth: Sequence[Found], classes: int) -> Metrics:
    """Judges the detections of several pictures; a class that never occurs in the truth does not count."""
    table = np.array([[_precision(found, truth, c, t) for t in COCO_THRESHOLDS] for c in range(classes)])
    return Metrics(
        map50=float(np.nanmean(table[:, 0])),
        map50_95=float(np.nanmean(table)),
        agnostic_ap50=_precision(found, truth, None, 0.5),
        ap50=tuple(float(v) for v in table[:, 0]),
    )
